"""``semlens map``, ``dissect`` and ``unexpected``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.analysis.describe.concept_map import ConceptMap, concept_map
from semlens.analysis.describe.dissect import Dissection
from semlens.analysis.describe.dissect import dissect as ask_dissect
from semlens.analysis.describe.map_colouring import Colour, check_colour
from semlens.analysis.describe.unexpected import Unexpected
from semlens.analysis.describe.unexpected import unexpected as ask_unexpected
from semlens.analysis.result import PLOT_SUFFIXES
from semlens.cli.command import QuestionContext, command
from semlens.cli.output import err, save_picture
from semlens.errors import ConceptError


def _colours(
    color: Colour | None, query: list[str], target: str | None
) -> tuple[Colour | None, list[str]]:
    """Return what to colour by, and the texts or the class that belong to it."""
    by = color or ("query" if query else "relevance" if target is not None else None)
    for option, given, own in (
        ("--query", bool(query), "query"),
        ("--target", target is not None, "relevance"),
    ):
        if given and by != own:
            raise ConceptError(
                f"{option} is given, and the map is coloured by {by}.",
                f"Expected {option} with the colour '{own}' only.",
                f"Leave out {option}, or choose --color {own}.",
            )
    return by, query if target is None else [target]


@command(concept_map)
def map_components(
    ask: QuestionContext,
    query: Annotated[
        list[str] | None,
        typer.Option(help="Colour by the alignment with this text; given again, a hue each."),
    ] = None,
    color: Annotated[
        Colour | None,
        typer.Option(help="Colour by this [model, layer or cluster: the first that differs]."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Colour by relevance for this class, name or number.")
    ] = None,
) -> ConceptMap:
    """Map what models know: components in the plane by concept, in labelled clusters.

    Positions are kept in the first database. When layers are added, new components are
    placed among those that are there.

    Examples:

    semlens map r18.semlens --query animal --query transport --save map.png

    semlens map r18.semlens --layer layer4 --target ox --clusters 40 --save map.svg

    semlens map r18.semlens r50.semlens --color model --save models.pdf
    """
    by, values = _colours(color, query or [], target)
    if by is not None:
        check_colour(by, values)
    found: ConceptMap = ask()
    if not ask.save:
        err.print("See the picture: add --save map.png", highlight=False)
    return found if by is None else found.coloured(by, *values)


@command(ask_dissect)
def dissect(
    ask: QuestionContext,
    tree: Annotated[
        Path | None, typer.Option(help="Write the tree of categories (.png, .svg, .pdf).")
    ] = None,
) -> Dissection:
    """Count components by label and category, and name concepts that no component carries.

    Categories are those of the concept set, as deep as they nest. The default set is the
    paper's vocabulary.

    Examples:

    semlens dissect r50.semlens --save dissect.png

    semlens dissect r50.semlens vgg.semlens --layer layer4,features.40 --json

    semlens dissect r50.semlens --target ox --concepts ox-tree --depth 3 --tree ox.png
    """
    ask.also(tree, PLOT_SUFFIXES, lambda found, path: save_picture(found.plot_tree(), path))
    return ask()


@command(ask_unexpected)
def unexpected(
    ask: QuestionContext,
    files: Annotated[
        Path | None, typer.Option(help="Write the samples behind them to this .csv file.")
    ] = None,
) -> Unexpected:
    """Show what a class relies on and no concept of a set describes.

    For each such component: the nearest concepts all the same, the other classes that it
    drives, and the files that it comes from.

    Examples:

    semlens unexpected r18.semlens --target ox

    semlens unexpected r18.semlens --target ox --concepts expected.toml --layer layer4
    --files ox-files.csv --save ox.png
    """
    ask.also(files, (".csv",), Unexpected.save_files)
    return ask()
