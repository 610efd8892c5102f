"""``semlens test``."""

from __future__ import annotations

from semlens.analysis.audit.model_test import model_test
from semlens.analysis.audit.tested import ModelTest
from semlens.cli.command import Ask, command


@command(model_test)
def test(ask: Ask) -> ModelTest:
    """Test whether images that show spurious features only pass for a class.

    AUROC of the class's logit on real images against those: 1 is safe, 0.5 is unsafe. With
    --artefact the same images without it are tested too.

    Examples:

    semlens test r18.semlens --target ox --spurious generated/

    semlens test r18.semlens --target ox --artefact "text:© stock" --artefact hue --save test.png
    """
    return ask()
