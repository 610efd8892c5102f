"""``semlens contrast``."""

from __future__ import annotations

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
