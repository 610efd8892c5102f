"""The built page: three files of one folder, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from semlens.errors import ServeError
from semlens.web.errors import HttpError, not_found
from semlens.web.page_build import static_folder

INDEX = "index.html"


class PageFiles(StaticFiles):
    """Files of the built page.

    A browser keeps them and asks each time whether they have changed: a new semlens on the
    same port must never run old code against a new API.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, check_dir=False)
        self.folder = folder

    async def check_config(self) -> None:
        """Allow a missing folder: the API is served without a page too."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, ``index.html`` for the folder itself."""
        if path == ".":
            self._page_is_there()
            path = INDEX
        # only plain names: no hidden files, nothing that another system reads as a path
        if any(part.startswith(".") for part in Path(path).parts) or "\\" in path or ":" in path:
            address = scope["path"]
            raise not_found(f"There is nothing at '{address}'.", "Expected a known address.")
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response

    def _page_is_there(self) -> None:
        try:
            static_folder(self.folder)
        except ServeError as error:
            raise HttpError(404, error.value, error.expected, error.remedy) from error
