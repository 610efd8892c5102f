"""One prediction: which components it rests on, their labels, and where in the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from PIL import Image
from torch import Tensor

from semlens.analysis.engine import RulesLike, engine_of, group_masks, per_component
from semlens.analysis.explanation import ClassScore, Explained, Explanation
from semlens.analysis.label import VOCABULARY, Labels
from semlens.analysis.label_source import LabelSource, Named, as_labels, label_of
from semlens.analysis.probe import ImageLike, open_image
from semlens.analysis.target import class_name, find_class
from semlens.relevance.boxes import boxes, heatmaps
from semlens.relevance.classes import class_start, shares
from semlens.relevance.conditional import pairs_per_pass
from semlens.relevance.flow import Flow
from semlens.relevance.interface import OUTPUT, Traced, Tracer
from semlens.settings import question, setting
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.types import Component, Layers

THRESHOLD = 0.01
"""Share of a blurred heatmap's maximum above which it is boxed (paper, H.1)."""
BEST = 3
"""Classes with the largest logits that an explanation names."""


@question("model", "embedder")
def explain(
    database: Database,
    image: ImageLike,
    target: Annotated[
        int | str | None, setting("Class, by name or by the number of its logit [the prediction].")
    ] = None,
    *,
    top: Annotated[int, setting("Components per layer.", ge=1)] = 8,
    layers: Layers = None,
    concepts: LabelSource = VOCABULARY,
    rules: RulesLike = None,
    name: str | None = None,
) -> Explanation:
    """Explain one prediction by the components of a database (paper, 3.3 and H.2).

    One backward pass from the logit finds every component's relevance. From the ``top`` ones
    of each layer, what the class has brought to them goes on down to the pixels (CRP).

    Parameters
    ----------
    image
        Any picture, or its file; it need not be of the database.
    concepts
        What labels are taken from: concepts, labels from :func:`semlens.label`, or None.
    name
        What the picture is called; by default its file's name.

    Raises
    ------
    ConceptError
        If the file cannot be read.
    RelevanceError
        If there is no such class.
    ModelError
        If the model puts out no logits.
    LayerError
        If the database does not have a layer.
    """
    names, picture = database.chosen(layers), open_image(image)
    wanted = None if target is None else find_class(database, target)
    model = database.model
    inputs = model.batch([model.preprocess(picture)])
    engine = engine_of(database, inputs, names, rules)
    labels = as_labels(database, concepts, names)
    trace = engine.trace(inputs)
    logits = trace.values[OUTPUT][0].detach().double().cpu()
    ranked = torch.argsort(-logits, stable=True).tolist()
    asked = ranked[0] if wanted is None else wanted
    start = class_start(trace, torch.tensor([[asked]]))
    pulled = trace.pull({OUTPUT: start}, names)
    geometry = model.geometry()(*picture.size)
    blur = database.manifest.recipe.crop_blur
    found: dict[str, tuple[Explained, ...]] = dict.fromkeys(reversed(engine.order(names)), ())
    for layer in found:
        if layer not in pulled.layers:  # nothing of the class comes by
            continue
        entry, flow = database.layer(layer), pulled.layers[layer]
        relevance = per_component(entry, trace, flow)[0, 0].double().cpu()
        order = np.argsort(-relevance.abs().numpy(), kind="stable")[:top].tolist()
        chosen = [place for place in order if relevance[place] != 0]
        heat = _conditional(engine, trace, entry, flow, chosen)
        side = relevance[chosen].sign().float()[:, None, None]
        smooth = heatmaps(torch.from_numpy(heat) * side, heat.shape[1], heat.shape[2], blur)
        components = [database.component(entry.first + place) for place in chosen]
        found[layer] = tuple(
            Explained(
                component,
                float(relevance[place]),
                float(shares(relevance)[place]),
                label_of(labels, component),
                _alignment(labels, component),
                geometry.to_original(*(float(edge) for edge in box)),
                part,
            )
            for place, component, part, box in zip(
                chosen, components, heat, boxes(smooth, THRESHOLD).tolist(), strict=True
            )
        )
    if name is None:
        name = "image" if isinstance(image, Image.Image) else "/".join(Path(image).parts[-2:])
    score, *best = (_score(database, logits, place) for place in (asked, *ranked[:BEST]))
    return Explanation(
        name, picture, score, tuple(best), engine.rules.name, _heat(pulled.heat, inputs)[0],
        found, blur, geometry, database,
    )  # fmt: skip


def _score(database: Database, logits: Float64[Tensor, " classes"], target: int) -> ClassScore:
    probability = float(logits.softmax(0)[target])
    return ClassScore(target, class_name(database, target), float(logits[target]), probability)


def _conditional(
    engine: Tracer,
    trace: Traced,
    entry: LayerEntry,
    flow: Float[Tensor, "1 1 ..."],
    places: Sequence[int],
) -> Float32[np.ndarray, "n h w"]:
    """Return the pixel heat of what passes through each component on its way from the class."""
    step = pairs_per_pass(engine, entry.name)
    parts: list[np.ndarray] = [np.zeros((0, *trace.inputs.shape[-2:]), np.float32)]
    for first in range(0, len(places), step):
        single = [[place] for place in places[first : first + step]]
        masks = group_masks(entry, trace.values[entry.name].detach(), single)
        heat = trace.pull({entry.name: Flow(flow * masks)}).heat
        parts.append(_heat(heat, trace.inputs, len(single)))
    return np.concatenate(parts)


def _heat(heat: Tensor | None, inputs: Tensor, count: int = 1) -> Float32[np.ndarray, "n h w"]:
    """Return heatmaps as an array; zeros where no pixel was reached."""
    if heat is None:
        return np.zeros((count, *inputs.shape[-2:]), np.float32)
    return heat.detach().reshape(count, *inputs.shape[-2:]).float().cpu().numpy()


def _alignment(labels: Named, component: Component) -> float | None:
    if not isinstance(labels, Labels):
        return None
    place = np.flatnonzero(labels.rows == labels.database.row(component))
    return float(labels.score[place[0], 0]) if len(place) else None
