"""``semlens compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.command import QuestionContext, command, split_commas
from semlens.cli.output import save_picture
from semlens.errors import RecipeError
from semlens.lenses.compare.compare import compare as ask_compare
from semlens.lenses.compare.comparison import Comparison
from semlens.lenses.compare.drift import Drift
from semlens.lenses.compare.drift import drift as ask_drift
from semlens.lenses.result import IMAGE_SUFFIXES
from semlens.settings import settings_of


@command(ask_compare)
def compare(
    ask: QuestionContext,
    series: Annotated[
        bool,
        typer.Option(
            "--series", help="The databases are checkpoints of one training run, in order."
        ),
    ] = False,
    steps: Annotated[
        str | None, typer.Option(help="Names of the checkpoints, separated by commas.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Write a picture of pairs and unique components with examples."),
    ] = None,
) -> Comparison | Drift:
    """Compare what models or layers have learned, or track it over training.

    Set similarity is the mean, over the components of one set, of the cosine similarity to the
    nearest component of the other. It is not symmetric. All databases need the same embedder.

    Examples:

    semlens compare r50.semlens r50v2.semlens --layer layer4 --save compare.png --pairs pairs.png

    semlens compare r18.semlens r50.semlens vgg.semlens --by-layer --concepts none --save all.png

    semlens compare --series step1.semlens step2.semlens step3.semlens --save drift.png
    """
    ask.also_write(
        pairs, IMAGE_SUFFIXES, lambda result, path: save_picture(result.pairs_picture(), path)
    )
    if series:
        return _drift(ask, split_commas([steps]) if steps else None, pairs)
    if steps is not None:
        raise RecipeError(
            "--steps is given without --series.",
            "Expected checkpoints of one run.",
            "Add --series.",
        )
    return ask()


def _drift(ask: QuestionContext, steps: list[str] | None, pairs: Path | None) -> Drift:
    """Compare checkpoints; only settings that drift and compare share are allowed."""
    allowed, settings = settings_of(ask_drift), settings_of(ask_compare)
    refused = [name for name, value in ask.settings.items()
               if name not in allowed and value != settings[name].default]  # fmt: skip
    for name in [*refused, *(["pairs"] if pairs is not None else [])]:
        option = f"--{name.replace('_', '-')}"
        raise RecipeError(
            f"{option} cannot be used with --series.",
            "A series compares whole sets of components.",
            f"Leave out {option} or --series.",
        )
    shared = {name: value for name, value in ask.settings.items() if name in allowed}
    return ask_drift(ask.databases, steps=steps, **shared)
