"""``semlens explain`` and ``semlens effect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from semlens.analysis.effect import Effects
from semlens.analysis.effect import effect as ask_effect
from semlens.analysis.explain import Explanation
from semlens.analysis.explain import explain as ask_explain
from semlens.cli.command import Ask, command
from semlens.cli.options import Picture
from semlens.cli.output import err


@command(ask_explain)
def explain(
    ask: Ask, image: Annotated[Path, typer.Argument(help="The picture to explain.")]
) -> Explanation:
    """Explain one prediction: which components, their labels, and where in the image.

    Relevance is in units of the class's logit; the share is that of the layer's total.

    Examples:

    semlens explain r18.semlens dog.jpg --save dog.html

    semlens explain r18.semlens dog.jpg --target "tabby cat" --layer layer4 --top 4 --json
    """
    found: Explanation = ask(image)
    if not (ask.save or ask.as_json):
        err.print("See it: add --save FILE.html", highlight=False)
    return found


@command(ask_effect)
def effect(
    ask: Ask,
    image: Picture = None,
    replace: Annotated[
        Literal["zero", "mean"], typer.Option("--with", help="What an ablated component becomes.")
    ] = "zero",
) -> Effects:
    """Ablate components and set the change of a class's logit beside their relevance.

    The effect is the logit with the component less the logit without it, averaged over
    images of the class. A channel is taken out whole, whichever the sign of the component.

    Examples:

    semlens effect r18.semlens --target "tabby cat"

    semlens effect r18.semlens --target 281 --components layer4:17,layer4:230 --with mean
    """
    return ask(images=image, replace=replace)
