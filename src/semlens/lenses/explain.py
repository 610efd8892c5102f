"""Explanation of one prediction: its components, and the prediction without some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from semlens.data.pictures import ImageLike
from semlens.errors import ModelError, RelevanceError
from semlens.lens import lens
from semlens.lenses.arguments import AnyClass, AnyComponents, AnyTarget, Components
from semlens.lenses.classes import class_name
from semlens.lenses.database_engine import (
    RulesLike,
    engine_of,
    group_masks,
    relevance_per_component,
    trace_without,
)
from semlens.lenses.database_targets import class_target
from semlens.lenses.explanation import ClassScore, ExplainedComponent, Explanation
from semlens.lenses.labelling.component_labels import (
    NAMES,
    ComponentLabels,
    LabelSource,
    as_labels,
    label_of,
)
from semlens.lenses.labelling.labels import Labels
from semlens.lenses.query_embedding import open_image
from semlens.models.forward import compare_ablated
from semlens.models.target import Target
from semlens.progress import report_progress
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.class_relevance import predicted_targets, shares, target_seed
from semlens.relevance.conditional_heatmaps import pairs_per_pass
from semlens.relevance.heatmap_boxes import bounding_boxes, strongest_slices, upsample_and_blur
from semlens.relevance.protocols import OUTPUT, ForwardTrace, RelevanceEngine, check_finite
from semlens.settings import setting
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.types import Component, Layers

THRESHOLD = 0.01
"""Fraction of a blurred heatmap's maximum above which pixels are in the box (paper, H.1)."""
TOP_CLASSES = 5
"""Number of classes with the largest logits in an explanation."""


@lens("model", "embedder", group="Explain", command="")
def explain(
    database: Database,
    image: ImageLike,
    target: Annotated[
        AnyTarget,
        setting("Class by name or number, or another target, such as 'cat - dog' [prediction]."),
    ] = None,
    *,
    top: Annotated[int, setting("Components per layer.", ge=1)] = 8,
    layers: Layers = None,
    concepts: LabelSource = NAMES,
    rules: RulesLike = None,
    name: str | None = None,
    without: AnyComponents = (),
) -> Explanation:
    """Explain one prediction by the components of a database (paper, 3.3 and H.2).

    One backward pass from the logit, or from another target of the output, gives every component's
    relevance. The relevance of the ``top`` components of each layer is then propagated to the
    pixels, component by component (CRP).

    Parameters
    ----------
    image
        Any picture, file, array or tensor (:func:`semlens.as_picture`); it need not be in the
        database.
    concepts
        Source of labels: concepts, labels from ``db.label``, or None.
    name
        Name of the picture; by default the name of its file.
    without
        Components that are set to zero at all positions (paper, 4.3.3): the scores and the
        relevance are those of the model without them. Its weights are not changed.

    Raises
    ------
    ConceptError
        If the file cannot be read.
    RelevanceError
        If there is no such class, or the output has no such target.
    ModelError
        If no target is given and the model outputs no logits.
    LayerError
        If the database does not have a layer, or a component to leave out.
    """
    names, picture = database.layer_names(layers), open_image(image, database.rendering)
    model = database.model
    inputs = model.batch([model.prepare(picture)])
    needed = {*names, *(component.layer for component in without)}
    engine = engine_of(
        database, inputs, [layer for layer in database.layers if layer in needed], rules,
        outputs=target is not None and not target.reads_answer,
    )  # fmt: skip
    labels = as_labels(database, concepts, names)
    trace = trace_without(database, engine, inputs, without, target)
    if target is None:
        target = class_target(database, int(predicted_targets(trace)))
    seed = target_seed(trace, target)
    if not any(signal.values.any() for signal in seed.signals.values()):
        raise RelevanceError(
            f"The target '{target}' is {float(seed.value):g} in this image whatever the output is.",
            "Expected a target that the image has: a class that is predicted somewhere, or a box.",
            "Choose another class or place, such as region:CLASS@x0,y0,x1,y1.",
        )
    backward = trace.backward(seed.signals, names)
    geometry = model.geometry()(*picture.size)
    blur = database.manifest.recipe.crop_blur
    layer_components: dict[str, tuple[ExplainedComponent, ...]] = dict.fromkeys(
        reversed(engine.sort_layers(names)), ()
    )
    # layers without relevance stay empty
    for done, (layer, class_relevance) in enumerate(backward.layers.items(), start=1):
        entry = database.layer(layer)
        relevance = relevance_per_component(entry, trace, class_relevance)[0, 0].cpu().double()
        order = np.argsort(-relevance.abs().numpy(), kind="stable")[:top].tolist()
        indices = [index for index in order if relevance[index] != 0]
        heat = _conditional(engine, trace, entry, class_relevance, indices)
        report_progress("drawing heatmaps", done, len(backward.layers))
        signs = relevance[indices].sign().float()[:, None, None]
        slices = (model.slices, model.slices)
        blurred = upsample_and_blur(
            torch.from_numpy(heat) * signs, heat.shape[1], heat.shape[2], blur, slices
        )
        boxes = bounding_boxes(strongest_slices(blurred, model.slices), THRESHOLD).tolist()
        components = [database.component(entry.first + index) for index in indices]
        layer_components[layer] = tuple(
            ExplainedComponent(
                component,
                float(relevance[index]),
                float(shares(relevance)[index]),
                label_of(labels, component),
                _score(labels, component),
                geometry.to_original(*(float(edge) for edge in box)),
                component_heat,
            )
            for index, component, component_heat, box in zip(
                indices, components, heat, boxes, strict=True
            )
        )
    if name is None:
        named = isinstance(image, str | Path)
        name = "/".join(Path(image).parts[-2:]) if named else "image"
    score, scores = _scores(database, trace, target, float(seed.value))
    return Explanation(
        name, picture, score, scores, engine.rules.name,
        _heat(backward.heatmaps, inputs)[0], layer_components, blur, geometry, database,
        tuple(without),
    )  # fmt: skip


def _scores(
    database: Database, trace: ForwardTrace, target: Target, value: float
) -> tuple[ClassScore, tuple[ClassScore, ...]]:
    """Return the score of the target, and those of the largest classes, if there are classes."""
    answer = trace.answer
    own = ClassScore(target.index, target.name, value, None)
    if isinstance(answer, ModelError) or not answer.has_classes:
        return own, (own,)
    logits = trace.logits.cpu().double()
    probability = answer.probabilities(logits)

    def of_class(index: int) -> ClassScore:
        share = None if probability is None else float(probability[0, index])
        return ClassScore(index, class_name(database, index), float(logits[0, index]), share)

    largest = torch.argsort(-logits[0], stable=True)[:TOP_CLASSES].tolist()
    return own if target.index is None else of_class(target.index), tuple(map(of_class, largest))


def _conditional(
    engine: RelevanceEngine,
    trace: ForwardTrace,
    entry: LayerEntry,
    class_relevance: Float[Tensor, "1 1 ..."],
    indices: Sequence[int],
) -> Float32[np.ndarray, "n h w"]:
    """Return for each component a heatmap of the class's relevance that passes through it."""
    step = pairs_per_pass(engine, entry.name)
    heatmaps_by_chunk: list[np.ndarray] = [np.zeros((0, *trace.inputs.shape[-2:]), np.float32)]
    for start in range(0, len(indices), step):
        groups = [[index] for index in indices[start : start + step]]
        masks = group_masks(entry, trace.values[entry.name].detach(), groups)
        heat = trace.backward({entry.name: BackwardSignal(class_relevance * masks)}).heatmaps
        heatmaps_by_chunk.append(_heat(heat, trace.inputs, len(groups)))
    return np.concatenate(heatmaps_by_chunk)


def _heat(heat: Tensor | None, inputs: Tensor, count: int = 1) -> Float32[np.ndarray, "n h w"]:
    """Return heatmaps as an array; zeros if no pixel was reached."""
    if heat is None:
        return np.zeros((count, *inputs.shape[-2:]), np.float32)
    return heat.detach().reshape(count, *inputs.shape[-2:]).cpu().float().numpy()


def _score(labels: ComponentLabels, component: Component) -> float | None:
    if not isinstance(labels, Labels):
        return None
    index = np.flatnonzero(labels.rows == labels.database.row(component))
    return float(labels.score[index[0], 0]) if len(index) else None


@dataclass(frozen=True)
class ScoreChange:
    """The model's output for one class, with and without the components.

    Parameters
    ----------
    logit_before, logit_after
        Logits.
    before, after
        Probabilities; None if the model answers with values, not with classes.
    """

    target: int
    name: str
    logit_before: float
    logit_after: float
    before: float | None
    after: float | None


@dataclass(frozen=True)
class PredictionWithout:
    """A prediction with and without some components.

    Parameters
    ----------
    predicted_before, predicted_after
        The classes with the largest logits; if the model answers with values, the target.
    changes
        The classes with the largest probability on either side, or the values that change most;
        the largest before first.
    """

    components: tuple[Component, ...]
    predicted_before: ScoreChange
    predicted_after: ScoreChange
    changes: tuple[ScoreChange, ...]


@lens("model")
def explain_without(
    database: Database,
    image: ImageLike,
    components: Components,
    target: AnyClass = None,
    *,
    top: Annotated[int, setting("Number of classes.", ge=1)] = 5,
) -> PredictionWithout:
    """Predict an image with and without components; the model's weights are not changed.

    Without a component means that its channel is zero at all positions (paper, 4.3.3).

    Parameters
    ----------
    image
        Any picture, file, array or tensor.
    target
        A class that is among the changes in any case.

    Raises
    ------
    LayerError
        If no component is given, or one is not in the database.
    RelevanceError
        If there is no such class.
    ModelError
        If the model outputs no logits.
    """
    model = database.model
    inputs = model.batch([model.prepare(open_image(image, database.rendering))])
    both = torch.cat(compare_ablated(model, inputs, components)).cpu().double()
    check_finite({OUTPUT: both})
    probabilities = model.answer.probabilities(both)
    measure = both.diff(dim=0).abs() if probabilities is None else probabilities

    def change(index: int) -> ScoreChange:
        values = [None, None] if probabilities is None else probabilities[:, index].tolist()
        return ScoreChange(index, class_name(database, index), *both[:, index].tolist(), *values)

    ranked = torch.argsort(-measure.amax(0), stable=True).tolist()
    first, last = both.argmax(1).tolist() if model.answer.has_classes else [target or 0] * 2
    needed = {first, last} if target is None else {first, last, target}
    shown = list(dict.fromkeys([*needed, *ranked]))[: max(top, len(needed))]
    shown.sort(key=lambda index: (-float(both[0, index]), index))
    return PredictionWithout(
        tuple(components), change(first), change(last), tuple(map(change, shown))
    )
