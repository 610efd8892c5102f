"""``semlens map``, ``dissect``, ``unexpected`` and ``labels stability``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.command import QuestionContext, command
from semlens.cli.output import err, save_picture
from semlens.errors import ConceptError
from semlens.lenses.describe.concept_map import ConceptMap, concept_map
from semlens.lenses.describe.dissect import Dissection
from semlens.lenses.describe.dissect import dissect as ask_dissect
from semlens.lenses.describe.map_colouring import Colour, ColourValue, check_colour
from semlens.lenses.describe.unexpected import Unexpected
from semlens.lenses.describe.unexpected import unexpected as ask_unexpected
from semlens.lenses.result import PLOT_SUFFIXES


def _colours(
    color: Colour | None, query: list[str], target: str | None, contrast: Path | None
) -> tuple[Colour | None, Sequence[ColourValue]]:
    """Return what to colour by, and the texts, the class or the contrast that it needs."""
    given: dict[Colour, tuple[str, Sequence[ColourValue]]] = {
        "query": ("--query", query),
        "relevance": ("--target", [] if target is None else [target]),
        "contrast": ("--contrast", [] if contrast is None else [contrast]),
    }
    first: Colour | None = next((colour for colour, (_, values) in given.items() if values), None)
    by = color or first
    for colour, (option, values) in given.items():
        if values and by != colour:
            raise ConceptError(
                f"{option} cannot be used with --color {by}.",
                f"Expected {option} only with --color {colour}.",
                f"Leave out {option}, or choose --color {colour}.",
            )
    return by, given[by][1] if by in given else ()


@command(concept_map)
def map_components(
    ask: QuestionContext,
    query: Annotated[
        list[str] | None,
        typer.Option(help="Colour by alignment with this text. Repeatable: one hue per text."),
    ] = None,
    color: Annotated[
        Colour | None,
        typer.Option(help="Colour by this value [model if there are several, else place]."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Colour by relevance for this class, by name or logit.")
    ] = None,
    contrast: Annotated[
        Path | None,
        typer.Option(help="Colour by a contrast: .json of 'semlens contrast --save'."),
    ] = None,
) -> ConceptMap:
    """Map components in two dimensions by concept, in named places.

    Positions are saved in the first database. When layers are added, existing components keep
    their positions and new ones are placed among them.

    Examples:

    semlens map r18.semlens --query animal --query transport --save map.png

    semlens map r18.semlens --layer layer4 --target ox --clusters 40 --save map.svg

    semlens map r18.semlens --contrast errors.json --save errors.png

    semlens map r18.semlens r50.semlens --color model --save models.pdf
    """
    by, values = _colours(color, query or [], target, contrast)
    if by is not None:
        check_colour(by, values)
    result: ConceptMap = ask()
    if not ask.save:
        err.print("To see the map, add --save map.png", highlight=False)
    return result if by is None else result.coloured(by, *values)


@command(ask_dissect)
def dissect(
    ask: QuestionContext,
    tree: Annotated[
        Path | None, typer.Option(help="Write a plot of the category tree (.png, .svg, .pdf).")
    ] = None,
) -> Dissection:
    """Count components by label and category, and list concepts without a component.

    Categories come from the concept set and may be nested. The default set is the paper's
    vocabulary.

    Examples:

    semlens concepts dissect r50.semlens --save dissect.png

    semlens concepts dissect r50.semlens vgg.semlens --layer layer4,features.40 --json

    semlens concepts dissect r50.semlens --target ox --concepts ox-tree --depth 3 --tree ox.png
    """
    ask.also_write(tree, PLOT_SUFFIXES, lambda result, path: save_picture(result.plot_tree(), path))
    return ask()


@command(ask_unexpected)
def unexpected(
    ask: QuestionContext,
    files: Annotated[
        Path | None, typer.Option(help="Write the samples behind the components to this .csv file.")
    ] = None,
) -> Unexpected:
    """List components that a class relies on and that no concept of a set describes.

    For each component: the nearest concepts, the other classes that rely on it, and the files
    of its examples.

    Examples:

    semlens classes unexpected r18.semlens --target ox

    semlens classes unexpected r18.semlens --target ox --concepts expected.toml --layer layer4
    --files ox-files.csv --save ox.png
    """
    ask.also_write(files, (".csv",), Unexpected.save_files)
    return ask()
