"""``semlens dissect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.analysis.describe.dissect import Dissection
from semlens.analysis.describe.dissect import dissect as ask_dissect
from semlens.analysis.result import PLOTS, check_end
from semlens.cli.command import Ask, command
from semlens.cli.output import written


@command(ask_dissect)
def dissect(
    ask: Ask,
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
    if tree is not None:
        check_end(tree, PLOTS)
    found: Dissection = ask()
    if tree is not None:
        from semlens.draw.figure import save_picture

        save_picture(found.plot_tree(), tree)
        written(tree)
    return found
