"""One prediction: which components it rests on, their labels, and where in the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32
from PIL import Image
from rich.console import Group
from rich.text import Text
from torch import Tensor

from semlens.analysis.classes import class_name, find_class
from semlens.analysis.database_engine import RulesLike, engine_of, group_masks, per_component
from semlens.analysis.label import VOCABULARY, Labels, LabelSource, Named, as_labels, label_of
from semlens.analysis.query_embedding import ImageLike, open_image
from semlens.analysis.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result
from semlens.draw.explanation_picture import ExplanationCard, ExplanationPage, draw_page, page_html
from semlens.draw.heatmap_mask import masked, onto, overlay
from semlens.draw.text_table import rich_table
from semlens.models.geometry import Geometry
from semlens.relevance.class_relevance import class_seed, shares
from semlens.relevance.conditional_heatmaps import pairs_per_pass
from semlens.relevance.heatmap_boxes import bounding_boxes, upsample_and_blur
from semlens.relevance.protocols import OUTPUT, ForwardTrace, RelevanceEngine
from semlens.relevance.relevance_signal import RelevanceSignal
from semlens.settings import question, setting
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.types import Box, Component, Layers

SIDE = 448
"""Longest side of the pictures that are made, in pixels."""


@dataclass(frozen=True)
class ClassScore:
    """One class of the model, and what the model says of it."""

    target: int
    name: str
    logit: float
    probability: float
    """By softmax over the logits."""


@dataclass(frozen=True)
class ExplainedComponent:
    """One component's part in a prediction.

    Parameters
    ----------
    relevance
        In units of the logit.
    share
        Relevance divided by the layer's total of absolute values, in [-1, 1].
    label, alignment
        Label of the concept set, or None; alignment is that of the best concept either way.
    box
        Where in the image, in original pixels.
    heat
        float32[h w], relevance by input pixel, of the share that passes through it.
    """

    component: Component
    relevance: float
    share: float
    label: str | None
    alignment: float | None
    box: Box
    heat: Float32[np.ndarray, "h w"]


@dataclass(frozen=True, repr=False)
class Explanation(Result):
    """What one prediction rests on.

    Parameters
    ----------
    name
        Of the image.
    image
        Upright RGB.
    target
        The class that is explained.
    scores
        The classes with the largest logits, the prediction first.
    rules
        Name of the relevance rules.
    heat
        float32[h w], relevance of the class by input pixel.
    layers
        The most relevant components of each layer; the deepest layer first.
    blur
        Width of the heatmaps' blur for boxes and masks, as a share of the input.
    geometry
        From input pixels to original ones.
    """

    suffixes = (".html", *IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    name: str
    image: Image.Image
    target: ClassScore
    scores: tuple[ClassScore, ...]
    rules: str
    heat: Float32[np.ndarray, "h w"]
    layers: dict[str, tuple[ExplainedComponent, ...]]
    blur: float
    geometry: Geometry
    database: Database

    @property
    def predicted(self) -> ClassScore:
        """The class with the largest logit."""
        return self.scores[0]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component."""
        return pd.DataFrame(
            [
                (
                    layer, rank, str(part.component), part.component.index, part.component.sign,
                    part.relevance, part.share, part.label, part.alignment, *part.box.as_tuple(),
                )
                for layer, parts in self.layers.items()
                for rank, part in enumerate(parts, start=1)
            ],
            columns=[
                "layer", "rank", "component", "index", "sign", "relevance", "share", "label",
                "alignment", "left", "top", "right", "bottom",
            ],
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; heatmaps are left out."""
        return {
            "image": self.name,
            "size": list(self.image.size),
            "predicted": vars(self.predicted),
            "target": vars(self.target),
            "scores": [vars(score) for score in self.scores],
            "rules": self.rules,
            "layers": {
                layer: [
                    {
                        "component": str(part.component),
                        "relevance": part.relevance,
                        "share": part.share,
                        "label": part.label,
                        "alignment": part.alignment,
                        "box": list(part.box.as_tuple()),
                    }
                    for part in parts
                ]
                for layer, parts in self.layers.items()
            },
        }

    def plot(self) -> Image.Image:
        """Draw the image, its heatmap and the components with their concept examples."""
        return draw_page(self._page)

    def _file_text(self, suffix: str) -> str | None:
        return page_html(self._page) if suffix == ".html" else None

    @property
    def headline(self) -> str:
        """The class that is explained, and the prediction if it is another one."""
        asked, best = self.target, self.predicted
        text = f"logit {asked.logit:.2f}, probability {100 * asked.probability:.1f} %"
        if asked.target == best.target:
            return f"predicted, {text}"
        return f"{text}; predicted: {best.name}, {100 * best.probability:.1f} %"

    @cached_property
    def _page(self) -> ExplanationPage:
        whole = Box(0, 0, *self.image.size)
        picture = _cut(self.image, whole)
        heat = [self._onto(part, whole, 0.25 * self.blur) for part in (self.heat, -self.heat)]
        return ExplanationPage(
            f"Why “{self.target.name}”?",
            [
                self.name,
                f"{self.target.name}: {self.headline}",
                "Largest: "
                + ", ".join(f"{s.name} {100 * s.probability:.1f} %" for s in self.scores),
                "",
                f"Model: {self.database.manifest.model.spec}",
                f"Relevance: rules '{self.rules}', in units of the logit.",
                "Each component: where it counts in this image, beside the",
                "examples that it reacts to most, and its share of the layer.",
            ],
            picture,
            overlay(picture, heat[0] - heat[1]),
            [
                (layer, self._note(parts), [self._card(part) for part in parts])
                for layer, parts in self.layers.items()
            ],
        )

    def _note(self, parts: Sequence[ExplainedComponent]) -> str:
        share = sum(abs(part.share) for part in parts)
        return f"{len(parts)} components with {100 * share:.0f} % of the layer's relevance"

    def _card(self, part: ExplainedComponent) -> ExplanationCard:
        heat = part.heat if part.relevance >= 0 else -part.heat
        examples = self.database.examples_of(self.database.row(part.component), 4)
        pictures = [self.database.thumbnail(example.crop) for example in examples]
        whole = self._onto(heat, Box(0, 0, *self.image.size)).max()
        cut = self._onto(heat, part.box)
        # the mask's 2 % are of the whole heatmap's maximum, not of the part's
        threshold = 0.02 * float(whole / cut.max()) if cut.max() > 0 else 0.02
        return ExplanationCard(
            str(part.component),
            part.label or "",
            part.relevance,
            part.share,
            masked(_cut(self.image, part.box), cut, threshold),
            [webp for webp in pictures if webp is not None],
        )

    def _onto(
        self, heat: Float32[np.ndarray, "h w"], box: Box, blur: float | None = None
    ) -> Float32[np.ndarray, "height width"]:
        """Blur the positive part of a heatmap and read it over a part of the image."""
        share = self.blur if blur is None else blur
        height, width = heat.shape
        smooth = upsample_and_blur(torch.from_numpy(heat)[None], height, width, share)[0].numpy()
        return onto(smooth, self.geometry, box, _size(box))

    def _repr_html_(self) -> str:
        """Return the page's content for notebooks."""
        return page_html(self._page, whole=False)

    def __rich__(self) -> Group:
        """Return a table per layer for a terminal."""
        title = f"{self.name}: why '{self.target.name}'? ({self.headline})"
        frame = self.to_pandas()
        frame["box"] = frame[["left", "top", "right", "bottom"]].values.tolist()
        frame["share"] = [f"{100 * share:+.1f} %" for share in frame["share"]]
        columns = ["component", "label", "alignment", "relevance", "share", "box"]
        tables = [
            rich_table(part, str(layer), columns)
            for layer, part in frame.groupby("layer", sort=False)
        ]
        return Group(Text(title, no_wrap=True, overflow="ignore"), *tables)


def _size(box: Box) -> tuple[int, int]:
    """Return the size at which a part of the image is shown: at most ``SIDE`` pixels."""
    width, height = box.right - box.left, box.bottom - box.top
    scale = min(1.0, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _cut(image: Image.Image, box: Box) -> Image.Image:
    return image.crop(box.as_tuple()).resize(_size(box), Image.Resampling.LANCZOS)


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
    names, picture = database.layer_names(layers), open_image(image)
    wanted = None if target is None else find_class(database, target)
    model = database.model
    inputs = model.batch([model.preprocess(picture)])
    engine = engine_of(database, inputs, names, rules)
    labels = as_labels(database, concepts, names)
    trace = engine.trace(inputs)
    logits = trace.values[OUTPUT][0].detach().double().cpu()
    ranked = torch.argsort(-logits, stable=True).tolist()
    asked = ranked[0] if wanted is None else wanted
    start = class_seed(trace, torch.tensor([[asked]]))
    pulled = trace.backward({OUTPUT: start}, names)
    geometry = model.geometry()(*picture.size)
    blur = database.manifest.recipe.crop_blur
    found: dict[str, tuple[ExplainedComponent, ...]] = dict.fromkeys(
        reversed(engine.sort_layers(names)), ()
    )
    for layer, flow in pulled.layers.items():  # of the others, nothing of the class comes by
        entry = database.layer(layer)
        relevance = per_component(entry, trace, flow)[0, 0].double().cpu()
        order = np.argsort(-relevance.abs().numpy(), kind="stable")[:top].tolist()
        chosen = [place for place in order if relevance[place] != 0]
        heat = _conditional(engine, trace, entry, flow, chosen)
        side = relevance[chosen].sign().float()[:, None, None]
        smooth = upsample_and_blur(
            torch.from_numpy(heat) * side, heat.shape[1], heat.shape[2], blur
        )
        components = [database.component(entry.first + place) for place in chosen]
        found[layer] = tuple(
            ExplainedComponent(
                component,
                float(relevance[place]),
                float(shares(relevance)[place]),
                label_of(labels, component),
                _alignment(labels, component),
                geometry.to_original(*(float(edge) for edge in box)),
                part,
            )
            for place, component, part, box in zip(
                chosen, components, heat, bounding_boxes(smooth, THRESHOLD).tolist(), strict=True
            )
        )
    if name is None:
        name = "image" if isinstance(image, Image.Image) else "/".join(Path(image).parts[-2:])
    probability = logits.softmax(0).tolist()
    score, *best = (
        ClassScore(place, class_name(database, place), float(logits[place]), probability[place])
        for place in (asked, *ranked[:BEST])
    )
    return Explanation(
        name, picture, score, tuple(best), engine.rules.name, _heat(pulled.heatmaps, inputs)[0],
        found, blur, geometry, database,
    )  # fmt: skip


def _conditional(
    engine: RelevanceEngine,
    trace: ForwardTrace,
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
        heat = trace.backward({entry.name: RelevanceSignal(flow * masks)}).heatmaps
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
