"""``semlens db push`` and ``semlens db pull``: databases on the Hugging Face Hub."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semlens.cli.output import JsonOption, err, out, print_json, report_errors
from semlens.errors import RecipeError

if TYPE_CHECKING:
    from semlens.concept_database import ConceptDatabase


@report_errors
def push(
    database: Annotated[Path, typer.Argument(help="Folder of the database.")],
    repository: Annotated[str, typer.Argument(help="USER/NAME on the hub, or USER/NAME@BRANCH.")],
    license: Annotated[
        str, typer.Option("--license", help="Licence, as the hub names it: cc-by-4.0, other, ...")
    ],
    crops: Annotated[
        bool | None,
        typer.Option(
            "--crops/--no-crops",
            help="Publish the thumbnails of the examples, which are parts of images [asks].",
        ),
    ] = None,
    public: Annotated[
        bool,
        typer.Option("--public/--private", help="Who sees a new repository; others stay as set."),
    ] = False,
    results: Annotated[
        bool,
        typer.Option("--results/--no-results", help="Publish saved labels and measures."),
    ] = True,
    audits: Annotated[
        bool,
        typer.Option("--audits/--no-audits", help="Publish saved audits with reviewers' notes."),
    ] = False,
    draw_map: Annotated[
        bool, typer.Option("--map/--no-map", help="Draw the map for the card.")
    ] = True,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Publish a database on the Hugging Face Hub, with a card written from its manifest.

    It becomes a data set repository, in one commit; a second push replaces it. Names of image
    files and of classes are always published. Log in first: `hf auth login`, or HF_TOKEN.

    Examples:

    semlens db push r18.semlens ada/resnet18-concepts --license cc-by-4.0 --no-crops

    semlens db push r18.semlens ada/resnet18-concepts --license other --crops --public
    """
    from semlens.api import open as open_database
    from semlens.progress import progress_bars

    db = open_database(database)
    if crops is None:
        crops = _ask_for_crops(db) if db.manifest.recipe.thumbnails else False
    with progress_bars():
        pushed = db.push_to_hub(
            repository,
            license=license,
            crops=crops,
            private=not public,
            results=results,
            audits=audits,
            draw_map=draw_map,
            message=message,
        )
    if as_json:
        print_json(asdict(pushed))
        return
    out.print(
        f"{pushed.files} files, {pushed.bytes / 1e6:.1f} MB, with "
        f"{pushed.crops or 'no'} crops of images, are at\n\n  {pushed.page}\n\n"
        f"Open it with: semlens serve {pushed.url}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _ask_for_crops(db: ConceptDatabase) -> bool:
    """Ask on a terminal whether crops may be published; nobody else can decide that."""
    count = f"{sum(db.manifest.crops):,} crops of {db.manifest.samples:,} images"
    if not sys.stdin.isatty():
        raise RecipeError(
            f"The database has {count}, and it is not said whether to publish them.",
            "Expected --crops, if you have the rights to the images, or --no-crops.",
            "Add one of them.",
        )
    err.print(
        f"The database has {count} as thumbnails. They are parts of these images: publish them "
        "only if you have the right to, and if they show nothing private.",
        highlight=False,
    )
    return typer.confirm("Publish them?", default=False, err=True)


@report_errors
def pull(
    source: Annotated[
        str, typer.Argument(help="USER/NAME[@REVISION] on the hub, URL, or known name.")
    ],
    folder: Annotated[
        Path | None, typer.Option("--out", help="New folder [the database's name].")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy a published database to this machine; every file is verified.

    If it is interrupted, run the same command again: it continues with what is missing.

    Examples:

    semlens db pull ada/resnet18-concepts

    semlens db pull s3://bucket/r18.semlens --out r18.semlens
    """
    from semlens.api import pull as pull_database

    db = pull_database(source, folder)
    manifest = db.manifest
    if as_json:
        print_json(
            {"database": db.location, "fingerprint": db.fingerprint, "files": len(manifest.files)}
        )
        return
    out.print(
        f"{manifest.rows} components of {manifest.model.spec}: {db.path}\n"
        f"Open it with: semlens serve {db.path}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
