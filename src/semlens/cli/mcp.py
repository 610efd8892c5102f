"""``semlens mcp``: tools for agents."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.output import (
    DeviceOption,
    EmbedderOption,
    ModelsOption,
    SourcesOption,
    err,
    report_errors,
)
from semlens.errors import ServeError


@report_errors
def mcp(
    db: Annotated[list[Path], typer.Argument(help="Folders of the databases.")],
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder whose images agents may read; without it, only samples of the databases."
        ),
    ] = None,
    embedder: EmbedderOption = None,
    model: ModelsOption = None,
    data: SourcesOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Let an agent ask: serve the questions as tools of the Model Context Protocol.

    The agent's program starts this command and talks to it over standard input and output.

    Examples:

    semlens mcp r18.semlens

    semlens mcp resnet50.semlens vit.semlens --images photos/
    """
    wire = sys.__stdout__ or sys.stdout
    if find_spec("mcp") is None:
        raise ServeError(
            "Tools for agents need the package 'mcp'.",
            "It is not installed.",
            "Run: pip install 'semlens[mcp]'",
        )
    with err.status("opening the databases"):
        from semlens.mcp.image_access import ImageAccess
        from semlens.mcp.server import make_server, serve_stdio
        from semlens.web.serve import open_databases

        opened = open_databases(db, models=model, data=data, embedder=embedder, device=device)
        server = make_server(opened, ImageAccess.of(images))
    names = ", ".join(db.name for db in opened)
    err.print(f"Serving {names} to an agent.", markup=False, highlight=False, soft_wrap=True)
    with redirect_stdout(wire):  # which the server takes over for the protocol
        serve_stdio(server)
