"""Print the API's description: ``python -m semlens.web.openapi``; no database is needed."""

from __future__ import annotations

import json
import sys

from semlens.web.app import create_app

if __name__ == "__main__":
    json.dump(create_app([]).openapi(), sys.stdout, indent=2)
