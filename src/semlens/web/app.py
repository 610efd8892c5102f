"""FastAPI application: routes under ``/api/v1``, the built page, and the security guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import APIRouter, FastAPI
from starlette.middleware.gzip import GZipMiddleware

from semlens import __version__
from semlens.api import open as open_database
from semlens.concept_database import ConceptDatabase
from semlens.web import errors
from semlens.web.app_state import AppState
from semlens.web.jobs import JobStatus
from semlens.web.page_build import STATIC
from semlens.web.routes import (
    audit_report,
    audits,
    before_after,
    card,
    classes,
    compare,
    components,
    explain,
    graph,
    image_experiments,
    labels,
    lenses,
    map,
    model_test,
    models,
    overview,
    pictures,
    repair_card,
    search,
    unexpected,
    verdicts,
)
from semlens.web.security import LOCAL, Guard, check_token
from semlens.web.static_files import PageFiles

ROUTERS: list[APIRouter] = [
    audit_report.router,
    audits.router,
    before_after.router,
    classes.router,
    compare.router,
    components.router,
    explain.router,
    graph.router,
    image_experiments.router,
    labels.router,
    lenses.router,
    map.router,
    models.router,
    overview.router,
    pictures.router,
    repair_card.router,
    search.router,
    unexpected.router,
    verdicts.router,
    model_test.router,
    card.router,  # last: its path ends with a component name, which may contain anything
]
"""All routers. The order matters only for the last one."""

API = "/api/v1"
SHARED_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: {"model": JobStatus},
    "4XX": {"model": errors.ErrorResponse},
}
"""Responses that every endpoint may give instead of its own model."""


THREADS = 100
"""Requests handled at the same time; some of them only wait for background jobs."""


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
    """Create the application for one or more databases.

    In tests use ``TestClient(create_app([db]), base_url="http://localhost")``: the host must be
    one of ``hosts``.

    Parameters
    ----------
    databases
        Open databases or their folders, numbered from 0 in this order.
    token
        Token that every request must carry. None lets everyone who reaches the server use it.
    hosts
        Host names that requests may use, without port.
    static
        Folder of the built page.

    Raises
    ------
    ServeError
        If the token is too short.
    """
    check_token(token)
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
    app.state.semlens = AppState.of(opened)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router, prefix=API, responses=SHARED_RESPONSES)
    app.mount("/", PageFiles(static))
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    app.add_middleware(Guard, token=token, hosts=hosts)
    return app
