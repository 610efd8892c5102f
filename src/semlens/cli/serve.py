"""``semlens serve`` and ``semlens export``: the web application, live or as a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semlens.cli.output import Device, Json, Spec, err, out, print_json, reported

if TYPE_CHECKING:
    from semlens.web.serve import Server


@reported
def serve(
    db: Annotated[list[Path], typer.Argument(help="Folders of the databases.")],
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="By default 8765 or the next free one; 0: any."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; beyond this machine only with a token.")
    ] = "127.0.0.1",
    host_name: Annotated[
        list[str] | None,
        typer.Option(help="Further name to be called by, such as a proxy's. May be given again."),
    ] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token on this machine too.")
    ] = False,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser.")] = True,
    embedder: Spec = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Where the model is, if moved. Again for the next database."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Where the images are, if moved. Again for the next database."),
    ] = None,
    device: Device = "cpu",
    log: Annotated[bool, typer.Option("--log", help="Write a line per request.")] = False,
    as_json: Json = False,
) -> None:
    """Look at models in a browser: search, map, cards, classes, audits, comparison.

    Ends with Ctrl-C. With --json one line is printed when it answers: url, models.

    Examples:

    semlens serve semlens-demo/demo.semlens

    semlens serve resnet50.semlens vit.semlens --port 9000 --no-browser
    """
    with err.status("opening the databases"):
        from semlens.embedders.load import load_embedder
        from semlens.web.serve import log_requests, make_server, open_databases

        opened = open_databases(
            db,
            models=model or (),
            data=data or (),
            embedder=load_embedder(embedder, device=device) if embedder else None,
            device=device,
        )
        server = make_server(opened, port=port, host=host, names=host_name or (), token=token)
    if log:
        log_requests()
    run(server, browser, as_json)


def run(server: Server, browser: bool, as_json: bool = False) -> None:
    """Serve until Ctrl-C, and end the program."""
    from semlens.web.page_build import check_built
    from semlens.web.serve import open_browser

    notice = check_built()
    if notice:
        err.print(f"Notice: {notice}", markup=False, highlight=False, soft_wrap=True)

    def ready() -> None:
        if as_json:
            print_json({"url": server.url, "models": server.models})
            sys.stdout.flush()
        else:
            out.print(
                f"Serving {', '.join(server.models)} at\n\n  {server.url}\n\nCtrl-C ends it.",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if browser:
            open_browser(server.url)

    server.run(ready)
    _end()


def _end() -> None:
    """End the program without waiting for work under way.

    Python would wait for threads that answer requests, and torch may crash in a thread that
    is still at work while the interpreter is taken down. Files are written whole or not at
    all, so that nothing is lost.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@reported
def export(
    db: Annotated[list[Path], typer.Argument(help="Folders of the databases.")],
    folder: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("site"),
    cards: Annotated[
        int, typer.Option(min=0, help="Components of each model that get a card of their own.")
    ] = 1000,
    originals: Annotated[
        bool,
        typer.Option("--originals/--crops-only", help="Add the whole image of each example too."),
    ] = False,
    graph: Annotated[
        list[str] | None,
        typer.Option(help="Add the graph of this class: name or logit. May be given again."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Where the model is, if moved. Again for the next database."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the web application as a folder that opens from disk, or from any web server.

    It holds the map, the table, cards with examples, classes, saved audits with their reports, and
    comparisons. Searching goes by kept labels there ('semlens label').

    Examples:

    semlens export semlens-demo/demo.semlens --out site --graph vegetable

    semlens export resnet50.semlens vit.semlens --out site --cards 500
    """
    with err.status("opening the databases"):
        from semlens.web.serve import open_databases
        from semlens.web.static_export import export_site

        opened = open_databases(db, models=model or ())
    site = export_site(opened, folder, cards=cards, originals=originals, graphs=graph or ())
    if as_json:
        print_json(vars(site) | {"folder": str(site.folder.resolve())})
        return
    out.print(
        f"{site.files} files, {site.bytes / 1e6:.1f} MB; {site.cards} of {site.components} "
        f"components have a card.\nOpen {site.folder / 'index.html'}",
        highlight=False,
        soft_wrap=True,
    )
    for reason in dict.fromkeys(site.left_out.values()):
        err.print(f"Left out: {reason}", markup=False, highlight=False, soft_wrap=True)
