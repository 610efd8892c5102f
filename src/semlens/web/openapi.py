"""Print the OpenAPI description: ``python -m semlens.web.openapi``; needs no database.

``--schemas`` prints only the schemas of requests and responses, from which the types of the page
are generated.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from semlens.web.app import create_app


def description(schemas: bool = False) -> dict[str, Any]:
    """Return the OpenAPI description, or only its schemas."""
    described = create_app([]).openapi()
    return {**_without_titles(described), "paths": {}} if schemas else described


def _without_titles(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_titles(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        k: _without_titles(v) for k, v in value.items() if k != "title" or not isinstance(v, str)
    }


if __name__ == "__main__":
    json.dump(description("--schemas" in sys.argv), sys.stdout, indent=2)
