"""What several commands take, and how they open what is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from semlens.api import ConceptDatabase

Db = Annotated[Path, typer.Argument(help="Folder of the database.")]
Spec = Annotated[
    str | None, typer.Option("--embedder", help="Where to load the embedder from, if moved.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")]
Saved = Annotated[
    int | None,
    typer.Option(min=1, help="A saved audit, by its number: its class, lists and settings."),
]
Picture = Annotated[
    list[Path] | None,
    typer.Option("--image", help="A picture, in place of images of the class; may be given again."),
]
Save = Annotated[
    list[Path] | None,
    typer.Option(
        "--save",
        help="Also write to this file, by its ending a plot (.png, .svg, .pdf), a table (.csv, "
        ".parquet) or all values (.json). May be given again.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

NO_LABELS = "none"
"""Instead of a concept set: components stay without labels."""


def opened(path: Path, **sources: str | None) -> ConceptDatabase:
    """Open a database, with sources from elsewhere where they are named."""
    from semlens.api import open as open_database

    return open_database(path, **{k: v for k, v in sources.items() if v is not None})


_OF_THE_SAVED = {
    "target", "every", "concepts", "layers", "minimum", "level", "threshold", "background", "seed",
}  # fmt: skip


def check_saved(context: typer.Context) -> None:
    """Refuse options that say otherwise than the saved audit which is asked for."""
    from semlens.errors import RecipeError

    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        given = source is not None and source.name == "COMMANDLINE"
        if given and parameter.name in _OF_THE_SAVED:
            raise RecipeError(
                f"--saved and {parameter.opts[0]} were given.",
                "Expected one: a saved audit has its own class, concepts and settings.",
                "Leave one out, or edit the saved audit with 'semlens serve'.",
            )
