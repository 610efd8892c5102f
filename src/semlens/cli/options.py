"""What several commands take, and how they open what is named."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semlens.cli.output import err

if TYPE_CHECKING:
    from semlens.analysis.concepts import ConceptSet
    from semlens.analysis.label import Labels
    from semlens.api import ConceptDatabase

Db = Annotated[Path, typer.Argument(help="Folder of the database.")]
Layer = Annotated[
    list[str] | None,
    typer.Option(
        "--layer", "--layers", help="Only these layers: given again, or joined by commas."
    ),
]
Spec = Annotated[
    str | None, typer.Option("--embedder", help="Where to load the embedder from, if moved.")
]
Subject = Annotated[
    str | None, typer.Option("--model", help="Where to load the model from, if moved.")
]
Data = Annotated[
    str | None, typer.Option("--data", help="Where to load the images from, if moved.")
]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")]
Minimum = Annotated[
    float, typer.Option(min=0, max=1, help="Least share of relevance, on the best sample.")
]
Level = Annotated[
    float, typer.Option(help="Chance at which as many random concepts would count as aligned.")
]
Threshold = Annotated[
    float | None, typer.Option(help="Fixed least alignment instead (the paper: 0).")
]
Concepts = Annotated[
    list[str] | None,
    typer.Option(
        help="Concept set: a file, or the name of a bundled one. Given again, sets are joined."
    ),
]
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


def split(given: list[str] | None) -> list[str] | None:
    """Split what was joined by commas, as ``build --layers`` takes it."""
    return [name for part in given for name in part.split(",") if name] if given else None


def labelled(
    db: ConceptDatabase, concepts: str, layers: list[str] | None, threshold: float | None = None
) -> Labels | None:
    """Return labels of some layers, or None if they are not wanted or cannot be made."""
    from semlens.analysis.label import THRESHOLD

    if concepts == NO_LABELS:
        return None
    with err.status("labelling the components"):
        if db.embedder.has_text:
            least = THRESHOLD if threshold is None else threshold
            return db.label(concepts, layers=layers, threshold=least)
    err.print("No labels: the database's embedder reads no texts.")
    return None


def concept_set(given: list[str]) -> ConceptSet:
    """Load concept sets and join them."""
    from semlens.analysis.concepts import ConceptSet

    return ConceptSet.join([ConceptSet.load(name) for name in given])


def checked(save: list[Path] | None) -> list[Path]:
    """Refuse paths that no result can be written to, before the work begins."""
    from semlens.analysis.result import check_end

    return [check_end(path) for path in save or ()]


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
