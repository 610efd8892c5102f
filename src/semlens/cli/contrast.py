"""``semlens contrast`` and ``border-swap``."""

from __future__ import annotations

from typing import Annotated

import typer

from semlens.analysis.border_swap import BorderSwap
from semlens.analysis.border_swap import border_swap as ask_border_swap
from semlens.analysis.contrast.contrast import Contrast
from semlens.analysis.contrast.contrast import contrast as ask_contrast
from semlens.cli.command import QuestionContext, command


@command(ask_contrast)
def contrast(ask: QuestionContext) -> Contrast:
    """Find the components and logits that tell two groups of images apart.

    For example images with and without a defect, from two hospitals, or of one class: those
    that the model gets wrong and those that it gets right. P-values are family-wise, by
    permutation; images of equal name in both groups are compared as pairs.

    Examples:

    semlens contrast r18.semlens --a marked/ --b plain/ --save contrast.png

    semlens contrast r18.semlens --errors "tabby cat" --json

    semlens contrast r18.semlens --metadata scans.csv --column hospital --a north --b south
    """
    return ask()


@command(ask_border_swap)
def border_swap(
    ask: QuestionContext,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Class to test, by name or number; may be given again [all]."),
    ] = None,
    widths: Annotated[
        list[float] | None,
        typer.Option(
            "--width", help="Width of the border, as a share of the sides; may be given again."
        ),
    ] = None,
) -> BorderSwap:
    """Test whether classes rest on what surrounds their objects.

    The border of images of a class is pasted onto images of other classes. If that raises the
    class's logit more than it does for other classes, the class rests on its surroundings: a
    background, a frame, a mark near the edge. No words and no embedder are needed.

    Examples:

    semlens border-swap r18.semlens --save border-swap.png

    semlens border-swap r18.semlens --target "tabby cat" --width 0.1 --json
    """
    given = {"widths": widths} if widths else {}
    return ask(target=target or None, **given)
