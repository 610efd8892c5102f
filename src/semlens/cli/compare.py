"""``semlens compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.analysis.compare.compare import compare as ask_compare
from semlens.analysis.compare.comparison import Comparison
from semlens.analysis.compare.drift import Drift
from semlens.analysis.compare.drift import drift as ask_drift
from semlens.analysis.result import IMAGE_SUFFIXES
from semlens.cli.command import QuestionContext, command, split_commas
from semlens.cli.output import save_picture
from semlens.errors import RecipeError
from semlens.settings import settings_of


@command(ask_compare)
def compare(
    ask: QuestionContext,
    series: Annotated[
        bool,
        typer.Option("--series", help="The databases are checkpoints of one training, in order."),
    ] = False,
    steps: Annotated[
        str | None, typer.Option(help="Names of the checkpoints, joined by commas.")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Write pairs and unique components with examples.")
    ] = None,
) -> Comparison | Drift:
    """Compare what models or layers have learned, or follow it over a training.

    Set similarity is the mean, over the components of one set, of the cosine with the nearest
    component of the other. It has a direction. The databases need one embedder.

    Examples:

    semlens compare r50.semlens r50v2.semlens --layer layer4 --save compare.png --pairs pairs.png

    semlens compare r18.semlens r50.semlens vgg.semlens --by-layer --concepts none --save all.png

    semlens compare --series step1.semlens step2.semlens step3.semlens --save drift.png
    """
    ask.also(pairs, IMAGE_SUFFIXES, lambda found, path: save_picture(found.pairs_picture(), path))
    if series:
        return _drift(ask, split_commas([steps]) if steps else None, pairs)
    if steps is not None:
        raise RecipeError(
            "--steps names the steps of a series.", "Expected --series with it.", "Add --series."
        )
    return ask()


def _drift(ask: QuestionContext, steps: list[str] | None, pairs: Path | None) -> Drift:
    """Follow a series: with settings that both questions have, and no others."""
    known, settings = settings_of(ask_drift), settings_of(ask_compare)
    wrong = [name for name, value in ask.settings.items()
             if name not in known and value != settings[name].default]  # fmt: skip
    for name in [*wrong, *(["pairs"] if pairs is not None else [])]:
        option = f"--{name.replace('_', '-')}"
        raise RecipeError(
            f"{option} does not go with --series.",
            "Expected checkpoints, followed as whole sets.",
            f"Leave {option} or --series out.",
        )
    given = {name: value for name, value in ask.settings.items() if name in known}
    return ask_drift(ask.databases, steps=steps, **given)
