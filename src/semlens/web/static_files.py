"""Serving of the built page: the files of one folder and nothing else."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from semlens.errors import ServeError
from semlens.web.errors import HttpError, no_page
from semlens.web.page_build import static_folder

INDEX = "index.html"


class PageFiles(StaticFiles):
    """Files of the built page.

    A browser caches them but revalidates each time, so that a new semlens version on the same
    port never runs old code against a new API.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder, check_dir=False)
        self.folder = folder

    async def check_config(self) -> None:
        """Allow a missing folder: the API also works without the page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file; ``index.html`` for the folder itself."""
        if path == ".":
            self._check_page()
            path = INDEX
        # plain names only: no hidden files, and nothing that some system reads as a path
        if any(part.startswith(".") for part in Path(path).parts) or "\\" in path or ":" in path:
            raise no_page(scope["path"])
        response = await super().get_response(path, scope)
        response.headers["cache-control"] = "no-cache"
        return response

    def _check_page(self) -> None:
        try:
            static_folder(self.folder)
        except ServeError as error:
            raise HttpError(404, error.value, error.expected, error.remedy) from error
