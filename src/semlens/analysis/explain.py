"""One prediction: which components it rests on, their labels, and where in the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor

from semlens.analysis.explanation import ClassScore, Explained, Explanation
from semlens.analysis.label import Labels
from semlens.analysis.target import class_name
from semlens.data.pixels import upright_rgb
from semlens.errors import RelevanceError
from semlens.models.subject import SubjectModel
from semlens.relevance.boxes import boxes, heatmaps
from semlens.relevance.choose import make_engine
from semlens.relevance.classes import class_start, component_relevance, shares
from semlens.relevance.conditional import pairs_per_pass
from semlens.relevance.flow import Flow
from semlens.relevance.interface import OUTPUT, Traced, Tracer
from semlens.store.reader import Database
from semlens.types import Component

THRESHOLD = 0.01
"""Share of a blurred heatmap's maximum above which it is boxed (paper, H.1)."""
BEST = 3
"""Classes with the largest logits that an explanation names."""


def explain(
    database: Database,
    model: SubjectModel,
    image: Image.Image,
    target: int | None = None,
    *,
    top: int = 8,
    layers: Sequence[str] | None = None,
    labels: Labels | None = None,
    engine: Tracer | None = None,
    rules: str | None = None,
    name: str = "image",
) -> Explanation:
    """Explain one prediction by the components of a database (paper, 3.3 and H.2).

    One backward pass from the logit finds every component's relevance. From the ``top`` ones
    of each layer, what the class has brought to them goes on down to the pixels (CRP).

    Parameters
    ----------
    target
        The logit; by default the largest.
    layers
        All of the database by default.
    labels
        Labels of the components, from :func:`semlens.analysis.label.label`.
    engine
        Relevance engine over the layers; one with ``rules``, or the
        database's, is made by default.

    Raises
    ------
    StaleError
        If the model is not the one of the database.
    RelevanceError
        If the model has no logits, or not this one.
    LayerError
        If the database does not have a layer.
    """
    database.check_model(model)
    names = [database.layer(layer).name for layer in layers or database.layers]
    picture = upright_rgb(image, name)
    inputs = model.batch([model.preprocess(picture)])
    if engine is None:
        engine = make_engine(model.module, inputs, names, rules or database.manifest.recipe.rules)
    trace = engine.trace(inputs)
    asked, scores = _classes(database, trace, target)
    start = class_start(trace, torch.tensor([[asked.target]]))
    pulled = trace.pull({OUTPUT: start}, names)
    geometry = model.geometry()(*picture.size)
    blur = database.manifest.recipe.crop_blur
    found: dict[str, tuple[Explained, ...]] = {}
    for layer in reversed(engine.order(names)):
        if layer not in pulled.layers:  # nothing of the class comes by
            found[layer] = ()
            continue
        chosen, relevance, share = _strongest(database, layer, trace, pulled.layers[layer], top)
        heat = _conditional(engine, trace, layer, pulled.layers[layer], chosen, database)
        side = np.where(relevance < 0, -1, 1).astype(np.float32)[:, None, None]
        smooth = heatmaps(torch.from_numpy(heat * side), heat.shape[1], heat.shape[2], blur)
        found[layer] = tuple(
            Explained(
                component,
                float(relevance[place]),
                float(share[place]),
                None if labels is None else labels.of(component),
                None if labels is None else _alignment(labels, component),
                geometry.to_original(*(float(edge) for edge in box)),
                heat[place],
            )
            for place, (component, box) in enumerate(
                zip(chosen, boxes(smooth, THRESHOLD).tolist(), strict=True)
            )
        )
    return Explanation(
        name, picture, asked, scores, engine.rules.name, _heat(pulled.heat, inputs)[0], found,
        blur, geometry, database,
    )  # fmt: skip


def _classes(
    database: Database, trace: Traced, target: int | None
) -> tuple[ClassScore, tuple[ClassScore, ...]]:
    """Return the class that is asked for, and the ``BEST`` ones.

    Raises
    ------
    RelevanceError
        If there are no logits, or not this one.
    """
    scores = trace.values.get(OUTPUT)
    if scores is None or scores.ndim != 2:
        raise RelevanceError(
            "The model puts out no logits [b classes].",
            "Expected a classifier.",
            "Use a model with a classification head.",
        )
    logits = scores[0].detach().double().cpu()
    chances = logits.softmax(0)

    def score(place: int) -> ClassScore:
        name = class_name(database, place)
        return ClassScore(place, name, float(logits[place]), float(chances[place]))

    best = tuple(score(int(place)) for place in torch.argsort(-logits, stable=True)[:BEST])
    if target is not None and not 0 <= target < len(logits):
        raise RelevanceError(
            f"The target {target} is not a class of the model.",
            f"Expected a logit from 0 to {len(logits) - 1}.",
            "Choose one of them.",
        )
    return best[0] if target is None else score(target), best


def _strongest(
    database: Database, layer: str, trace: Traced, flow: Tensor, top: int
) -> tuple[list[Component], np.ndarray, np.ndarray]:
    """Return a layer's components of largest absolute relevance, with relevance and share.

    A database of one sign has channels as components; what passes where they are negative is
    theirs too.
    """
    entry = database.layer(layer)
    both = component_relevance(trace, layer, flow)[0, 0].double().cpu()
    relevance = both.flatten() if entry.rows > entry.channels else both.sum(0)
    share = shares(relevance).numpy()
    values = relevance.numpy()
    order = np.argsort(-np.abs(values), kind="stable")[: max(top, 0)]
    order = order[values[order] != 0]
    chosen = [database.component(entry.first + int(place)) for place in order]
    return chosen, values[order], share[order]


def _conditional(
    engine: Tracer,
    trace: Traced,
    layer: str,
    flow: Float[Tensor, "1 1 ..."],
    components: Sequence[Component],
    database: Database,
) -> Float32[np.ndarray, "n h w"]:
    """Return the pixel heat of what passes through each component on its way from the class."""
    value = trace.values[layer].detach()
    axis = 1 if trace.form(layer).form in ("map", "units") else value.ndim - 1
    entry = database.layer(layer)
    step = pairs_per_pass(engine, layer)
    parts: list[np.ndarray] = [np.zeros((0, *trace.inputs.shape[-2:]), np.float32)]
    for first in range(0, len(components), step):
        some = components[first : first + step]
        starts = flow.new_zeros(len(some), *value.shape)
        for place, component in enumerate(some):
            kept = flow[0].select(axis, component.index)
            if entry.rows > entry.channels:
                active = value.select(axis, component.index)
                mine = active >= 0 if component.sign > 0 else active < 0
                kept = torch.where(mine, kept, 0)
            starts[place].select(axis, component.index).copy_(kept)
        heat = trace.pull({layer: Flow(starts)}).heat
        parts.append(_heat(None if heat is None else heat[:, 0], trace.inputs, len(some)))
    return np.concatenate(parts)


def _heat(heat: Tensor | None, inputs: Tensor, count: int = 1) -> Float32[np.ndarray, "n h w"]:
    """Return heatmaps as an array; zeros where no pixel was reached."""
    if heat is None:
        return np.zeros((count, *inputs.shape[-2:]), np.float32)
    return heat.detach().reshape(count, *inputs.shape[-2:]).float().cpu().numpy()


def _alignment(labels: Labels, component: Component) -> float | None:
    place = np.flatnonzero(labels.rows == labels.database.row(component))
    return float(labels.score[place[0], 0]) if len(place) else None
