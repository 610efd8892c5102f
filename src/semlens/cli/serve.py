"""``semlens serve`` and ``semlens db export``: the web application, live or as a static site."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semlens.cli.output import (
    DeviceOption,
    EmbedderOption,
    JsonOption,
    ModelsOption,
    SourcesOption,
    err,
    out,
    print_json,
    report_errors,
)

if TYPE_CHECKING:
    from semlens.web.serve import Server


@report_errors
def serve(
    db: Annotated[list[Path], typer.Argument(help="Folders of the databases.")],
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port [8765, or the next free one]; 0 takes any free port."
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. An address that other machines can reach requires a token."
        ),
    ] = "127.0.0.1",
    host_name: Annotated[
        list[str] | None,
        typer.Option(help="Additional host name to accept, such as that of a proxy. Repeatable."),
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Require a token on this machine too.")
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    embedder: EmbedderOption = None,
    model: ModelsOption = None,
    data: SourcesOption = None,
    device: DeviceOption = "cpu",
    log: Annotated[bool, typer.Option("--log", help="Log each request.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Explore models in a browser: search, map, component cards, classes, audits, comparison.

    Stop the server with Ctrl-C. With `--json`, one line with url and models is printed when the
    server is ready.

    Examples:

    semlens serve semlens-demo/demo.semlens

    semlens serve resnet50.semlens vit.semlens --port 9000 --no-browser
    """
    with err.status("opening the databases"):
        from semlens.web.serve import log_requests, make_server, open_databases

        opened = open_databases(db, models=model, data=data, embedder=embedder, device=device)
        server = make_server(opened, port=port, host=host, names=host_name or (), token=token)
    if log:
        log_requests()
    run(server, browser, as_json)


def run(server: Server, browser: bool, as_json: bool = False) -> None:
    """Serve until Ctrl-C, then end the process."""
    from semlens.web.page_build import check_built
    from semlens.web.serve import open_browser

    notice = check_built()
    if notice:
        err.print(f"Notice: {notice}", markup=False, highlight=False, soft_wrap=True)

    def ready() -> None:
        if as_json:
            print_json({"url": server.url, "models": server.models})
            out.file.flush()
        else:
            out.print(
                f"Serving {', '.join(server.models)} at\n\n  {server.url}\n\nPress Ctrl-C to stop.",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if browser:
            open_browser(server.url)

    server.run(ready)
    _end()


def _end() -> None:
    """End the process without waiting for running work.

    Python would wait for threads that answer requests, and torch may crash in a thread that is
    still running while the interpreter shuts down. Files are written atomically, so nothing is
    lost.
    """
    out.file.flush()
    sys.stderr.flush()
    os._exit(0)


@report_errors
def export(
    db: Annotated[list[Path], typer.Argument(help="Folders of the databases.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("site"),
    cards: Annotated[int, typer.Option(min=0, help="Components per model that get a card.")] = 1000,
    component: Annotated[
        list[str] | None,
        typer.Option(help="Further component that gets a card, such as layer4:17. Repeatable."),
    ] = None,
    crops: Annotated[int, typer.Option(min=1, help="Most examples on a card.")] = 12,
    originals: Annotated[
        bool,
        typer.Option("--originals/--crops-only", help="Also add the whole image of each example."),
    ] = False,
    graph: Annotated[
        list[str] | None,
        typer.Option(help="Add the graph of this class, by name or logit. Repeatable."),
    ] = None,
    model: ModelsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export the web application as a static site that opens from disk or any web server.

    It contains the map, the table, cards with examples, classes, saved audits with their reports,
    and comparisons; of several databases, also a page that lists them. Search there uses saved
    labels (`semlens label --keep NAME`).

    Examples:

    semlens db export semlens-demo/demo.semlens --out site --graph vegetable

    semlens db export resnet50.semlens vit.semlens --out site --cards 500
    """
    with err.status("opening the databases"):
        from semlens.web.serve import open_databases
        from semlens.web.static_export import export_site

        opened = open_databases(db, models=model)
    site = export_site(
        opened,
        folder,
        cards=cards,
        components=component or (),
        crops=crops,
        originals=originals,
        graphs=graph or (),
    )
    if as_json:
        print_json(vars(site) | {"folder": str(site.folder.resolve())})
        return
    first = "models.html" if len(db) > 1 else "index.html"
    out.print(
        f"{site.files} files, {site.bytes / 1e6:.1f} MB; {site.cards} of {site.components} "
        f"components have a card.\nOpen {site.folder / first}",
        highlight=False,
        soft_wrap=True,
    )
    for reason in dict.fromkeys(site.left_out.values()):
        err.print(f"Left out: {reason}", markup=False, highlight=False, soft_wrap=True)
