"""``semlens compare``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from semlens.cli.options import (
    NO_LABELS,
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
from semlens.errors import RecipeError

if TYPE_CHECKING:
    from semlens.analysis.compare.comparison import Comparison
    from semlens.analysis.concepts import ConceptSet
    from semlens.api import ConceptDatabase

PICTURES = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}
Databases = Annotated[list[Path], typer.Argument(help="Folders of the databases.")]


@reported
def compare(
    databases: Databases,
    layer: Layer = None,
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="Each layer is a set of its own.")
    ] = False,
    concepts: Concepts = None,
    target: Annotated[
        str | None, typer.Option(help="Only components that matter for this class.")
    ] = None,
    minimum: Annotated[
        float, typer.Option(help="Least share of relevance on some sample, with --target.")
    ] = 0.01,
    threshold: Annotated[
        float | None,
        typer.Option(help="Cosine under which a component is unique [from its own set]."),
    ] = None,
    quantile: Annotated[
        float, typer.Option(help="Of the similarities within a set: its threshold.")
    ] = 0.05,
    centred: Annotated[
        bool, typer.Option("--centred", help="Also compare after the mean is subtracted.")
    ] = False,
    measures: Annotated[
        bool, typer.Option("--scores/--no-scores", help="Whether to compare scores, too.")
    ] = True,
    top: Annotated[
        int, typer.Option(min=0, help="Pairs, unique components and labels to show; 0 for all.")
    ] = 5,
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
    save: Save = None,
    embedder: Spec = None,
    as_json: Json = False,
) -> None:
    """Compare what models or layers have learned, or follow it over a training.

    Set similarity is the mean, over the components of one set, of the cosine with the nearest
    component of the other. It has a direction. The databases need one embedder.

    Examples:

    semlens compare r50.semlens r50v2.semlens --layer layer4 --save compare.png --pairs pairs.png

    semlens compare r18.semlens r50.semlens vgg.semlens --by-layer --concepts none --save all.png

    semlens compare --series step1.semlens step2.semlens step3.semlens --save drift.png
    """
    from semlens.analysis.result import check_end

    paths = checked(save)
    if pairs is not None:
        check_end(pairs, PICTURES)
    opened_ones = [opened(path, embedder=embedder) for path in databases]
    labels = _concepts(concepts, opened_ones)
    layers = split(layer)
    if series:
        given: dict[str, object] = {"--by-layer": by_layer, "--centred": centred, "--pairs": pairs}
        given |= {"--target": target, "--threshold": threshold}
        _series(opened_ones, layers, split([steps] if steps else None), labels, measures, given,
                paths, as_json)  # fmt: skip
        return
    if steps is not None:
        raise RecipeError(
            "--steps names the steps of a series.", "Expected --series with it.", "Add --series."
        )
    from semlens.analysis.compare.compare import compare as compare_all

    with _bar("comparing components") as progress:
        found = compare_all(
            opened_ones,
            layers=layers,
            by_layer=by_layer,
            concepts=labels,
            target=target,
            minimum=minimum,
            threshold=threshold,
            quantile=quantile,
            centred=centred,
            measures=measures,
            top=top,
            progress=progress,
        )
    if pairs is not None:
        _write_picture(found, pairs)
    answer(found, as_json, paths)


def _series(
    databases: list[ConceptDatabase],
    layers: list[str] | None,
    steps: list[str] | None,
    concepts: ConceptSet | None,
    measures: bool,
    given: dict[str, object],
    save: list[Path],
    as_json: bool,
) -> None:
    from semlens.analysis.compare.drift import drift

    wrong = [name for name, value in given.items() if value not in (None, False)]
    if wrong:
        raise RecipeError(
            f"{wrong[0]} does not go with --series.",
            "Expected checkpoints, followed as whole sets.",
            f"Leave {wrong[0]} or --series out.",
        )
    with _bar("comparing components") as progress:
        found = drift(
            databases,
            layers=layers,
            steps=steps,
            concepts=concepts,
            measures=measures,
            progress=progress,
        )
    answer(found, as_json, save)


def _concepts(given: list[str] | None, databases: list[ConceptDatabase]) -> ConceptSet | None:
    """Return the concept set for labels; None where they are not wanted or cannot be made."""
    if given == [NO_LABELS]:
        return None
    chosen = concept_set(given or ["paper-vocabulary"])
    from semlens.analysis.together import check_databases

    check_databases(databases)  # before an embedder is loaded for nothing
    if databases[0].embedder.has_text or given is not None:
        return chosen
    err.print("No labels: the databases' embedder reads no texts.")
    return None


def _write_picture(found: Comparison, path: Path) -> None:
    from semlens.store.files import write_atomic

    kind = PICTURES[path.suffix.lower()]
    picture = found.pairs_picture()
    write_atomic(path, lambda part: picture.save(part, kind))
    err.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many pairs of components are done, where there is a terminal."""
    with Progress(console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
