"""Print the API's description: ``python -m semlens.web.openapi``; no database is needed.

With ``--schemas`` only what the page's types are made of: the forms of answers and requests,
without addresses, and without titles that say a field's name again.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from semlens.web.app import create_app


def description(schemas: bool = False) -> dict[str, Any]:
    """Return the API's description, or the schemas in it."""
    described = create_app([]).openapi()
    return {**_untitled(described), "paths": {}} if schemas else described


def _untitled(value: Any) -> Any:
    if isinstance(value, list):
        return [_untitled(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {k: _untitled(v) for k, v in value.items() if k != "title" or not isinstance(v, str)}


if __name__ == "__main__":
    json.dump(description("--schemas" in sys.argv), sys.stdout, indent=2)
