"""``semlens export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.options import Json
from semlens.cli.output import err, out, print_json, reported


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
        from semlens.web.site import write_site

        opened = open_databases(db, models=model or ())
    site = write_site(opened, folder, cards=cards, originals=originals, graphs=graph or ())
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
