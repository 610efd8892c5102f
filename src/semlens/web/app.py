"""The application: routes under ``/api/v1``, the built page, and the guard around both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, FastAPI
from starlette.middleware.gzip import GZipMiddleware

from semlens import __version__
from semlens.api import ConceptDatabase
from semlens.api import open as open_database
from semlens.web import errors
from semlens.web.app_state import AppState
from semlens.web.jobs import JobStatus
from semlens.web.page_build import STATIC
from semlens.web.routes import (
    audits,
    card,
    classes,
    compare,
    components,
    graph,
    labels,
    map,
    model_experiments,
    models,
    overview,
    pictures,
    search,
)
from semlens.web.security import LOCAL, Guard
from semlens.web.static_files import PageFiles

ROUTERS: list[APIRouter] = [
    audits.router,
    classes.router,
    compare.router,
    components.router,
    graph.router,
    labels.router,
    map.router,
    models.router,
    overview.router,
    pictures.router,
    search.router,
    model_experiments.router,
    card.router,  # last: its path ends with a name, which may hold anything
]
"""The routers of all pages, one a line."""

API = "/api/v1"
OTHERWISE: dict[int | str, dict[str, Any]] = {
    202: {"model": JobStatus},
    "4XX": {"model": errors.ErrorResponse},
}
"""What every endpoint may answer instead of its own model."""


THREADS = 100
"""Requests that are answered at the same time; some only wait for background work."""


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    yield


def create_app(
    databases: Sequence[ConceptDatabase | str | Path],
    *,
    token: str | None = None,
    hosts: Sequence[str] = LOCAL,
    static: Path = STATIC,
) -> FastAPI:
    """Make the application over some databases.

    In tests: ``TestClient(create_app([db]), base_url="http://localhost")``, for the host has
    to be one of ``hosts``.

    Parameters
    ----------
    databases
        Open databases, or their folders; they count from 0 in this order.
    token
        Without it, everybody who reaches the server may use it.
    hosts
        Names under which the server may be called, without port.
    static
        Folder of the built page.
    """
    opened = [db if isinstance(db, ConceptDatabase) else open_database(db) for db in databases]
    app = FastAPI(
        lifespan=_lifespan,
        title="semlens",
        version=__version__,
        docs_url=None,  # Swagger's page would load from another host
        redoc_url=None,
        openapi_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.serving = AppState.of(opened)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router, prefix=API, responses=OTHERWISE)
    app.mount("/", PageFiles(static))
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    app.add_middleware(Guard, token=token, hosts=hosts)
    return app
