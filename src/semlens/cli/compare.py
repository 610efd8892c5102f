"""``semlens compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.command import QuestionContext, command
from semlens.cli.output import save_picture
from semlens.lenses.compare.compare import compare as ask_compare
from semlens.lenses.compare.comparison import Comparison
from semlens.lenses.result import IMAGE_SUFFIXES


@command(ask_compare)
def compare(
    ask: QuestionContext,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Write a picture of pairs and unique components with examples."),
    ] = None,
) -> Comparison:
    """Compare what models or layers have learned.

    Set similarity is the mean, over the components of one set, of the cosine similarity to the
    nearest component of the other. It is not symmetric. All databases need the same embedder.

    Examples:

    semlens compare r50.semlens r50v2.semlens --layer layer4 --save compare.png --pairs pairs.png

    semlens compare r18.semlens r50.semlens vgg.semlens --by-layer --concepts none --save all.png
    """
    ask.also_write(
        pairs, IMAGE_SUFFIXES, lambda result, path: save_picture(result.pairs_picture(), path)
    )
    return ask()
