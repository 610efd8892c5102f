"""``semlens dissect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.options import (
    Concepts,
    Json,
    Layer,
    Save,
    Spec,
    checked,
    concept_set,
    opened,
    split,
)
from semlens.cli.output import answer, err, reported


@reported
def dissect(
    databases: Annotated[list[Path], typer.Argument(help="Folders of the databases.")],
    concepts: Concepts = None,
    layer: Layer = None,
    target: Annotated[
        str | None, typer.Option(help="Only components that matter for this class.")
    ] = None,
    minimum: Annotated[
        float, typer.Option(help="Least share of relevance on some sample, with --target.")
    ] = 0.01,
    threshold: Annotated[float, typer.Option(help="Least alignment of a label.")] = 0.025,
    depth: Annotated[int, typer.Option(min=1, help="Levels of categories to print.")] = 1,
    top: Annotated[int, typer.Option(min=0, help="Concepts and gaps to show; 0 for all.")] = 10,
    tree: Annotated[
        Path | None, typer.Option(help="Write the tree of categories (.png, .svg, .pdf).")
    ] = None,
    save: Save = None,
    embedder: Spec = None,
    as_json: Json = False,
) -> None:
    """Count components by label and category, and name concepts that no component carries.

    Categories are those of the concept set, as deep as they nest. The default set is the
    paper's vocabulary.

    Examples:

    semlens dissect r50.semlens --save dissect.png

    semlens dissect r50.semlens vgg.semlens --layer layer4,features.40 --json

    semlens dissect r50.semlens --target ox --concepts ox-tree --depth 3 --tree ox.png
    """
    from semlens.analysis.describe.dissect import dissect as dissect_all
    from semlens.analysis.result import PLOTS, check_end
    from semlens.draw.figure import write_figure
    from semlens.store.files import write_atomic

    paths = checked(save)
    if tree is not None:
        check_end(tree, PLOTS)
    chosen = concept_set(concepts or ["paper-vocabulary"])
    several = [opened(path, embedder=embedder) for path in databases]
    with err.status("labelling the components"):
        found = dissect_all(
            several,
            chosen,
            layers=split(layer),
            target=target,
            minimum=minimum,
            threshold=threshold,
            depth=depth,
            top=top,
        )
    if tree is not None:
        figure, kind = found.plot_tree(), tree.suffix.lower()[1:]
        write_atomic(tree, lambda part: write_figure(figure, part, kind))
        err.print(f"Written: {tree}", markup=False, highlight=False, soft_wrap=True)
    answer(found, as_json, paths)
