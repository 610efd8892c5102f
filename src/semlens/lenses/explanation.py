"""The result of an explanation: tables, pictures and a page of the relevant components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from PIL import Image
from rich.console import Group
from rich.text import Text

from semlens.data.array_picture import in_slice, slices_of
from semlens.draw.crop_window import cut_window, window_around
from semlens.draw.example_picture import example_webp
from semlens.draw.explanation_picture import (
    ExplanationCard,
    ExplanationPage,
    draw_page,
    page_html,
)
from semlens.draw.heatmap_mask import highlight, overlay, project_heatmap
from semlens.draw.palette import AGAINST, FOR
from semlens.draw.text_table import rich_table
from semlens.lenses.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result
from semlens.models.preprocess_geometry import Geometry
from semlens.relevance.heatmap_boxes import upsample_and_blur
from semlens.store.reader import Database
from semlens.types import Box, Component

SIDE = 448
"""Longest side of the pictures, in pixels."""
HIGH = 0.1
"""Share of a component's largest heat from which on its region is shown."""
PICTURED_CLASSES = 3
"""Number of classes with the largest logits in the picture."""


@dataclass(frozen=True)
class ClassScore:
    """The model's output for one class, one value, or another target."""

    target: int | None
    """Number of the class; None for a target that is not one class."""
    name: str
    logit: float
    probability: float | None
    """By softmax, or by sigmoid for one logit and several labels; None for values."""

    @property
    def text(self) -> str:
        """The probability in per cent, or the value."""
        if self.probability is None:
            return f"{self.logit:.2f}"
        return f"{100 * self.probability:.1f} %"


@dataclass(frozen=True)
class ExplainedComponent:
    """A component's contribution to a prediction.

    Parameters
    ----------
    relevance
        In units of the logit.
    share
        Relevance divided by the sum of absolute relevance in the layer, in [-1, 1].
    label, score
        Label or None, and the score of the best concept, even if it is not the label.
    box
        Region in the image, in original pixels.
    heat
        float32[h w], relevance by input pixel that passes through the component.
    """

    component: Component
    relevance: float
    share: float
    label: str | None
    score: float | None
    box: Box
    heat: Float32[np.ndarray, "h w"]


@dataclass(frozen=True, repr=False)
class Explanation(Result):
    """Explanation of one prediction by components.

    Parameters
    ----------
    name
        Name of the image.
    image
        The image, upright and in RGB.
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
        Width of the blur of heatmaps for boxes and masks, as a fraction of the input.
    geometry
        Maps input pixels to original pixels.
    without
        Components that were set to zero: everything else is as without them.
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
    without: tuple[Component, ...] = ()

    @property
    def predicted(self) -> ClassScore:
        """The class with the largest logit."""
        return self.scores[0]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component."""
        return pd.DataFrame(
            [
                (
                    layer, rank, str(item.component), item.component.index, item.component.sign,
                    item.relevance, item.share, item.label, item.score, *item.box.as_tuple(),
                )
                for layer, components in self.layers.items()
                for rank, item in enumerate(components, start=1)
            ],
            columns=[
                "layer", "rank", "component", "index", "sign", "relevance", "share", "label",
                "score", "left", "top", "right", "bottom",
            ],
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; heatmaps are left out."""
        return {
            "image": self.name,
            "size": list(self.image.size),
            "predicted": vars(self.predicted),
            "target": vars(self.target),
            "scores": [vars(score) for score in self.scores],
            "rules": self.rules,
            "without": [str(component) for component in self.without],
            "layers": {
                layer: [
                    {
                        "component": str(item.component),
                        "relevance": item.relevance,
                        "share": item.share,
                        "label": item.label,
                        "score": item.score,
                        "box": list(item.box.as_tuple()),
                    }
                    for item in components
                ]
                for layer, components in self.layers.items()
            },
        }

    def plot(self) -> Image.Image:
        """Draw the image, its heatmap and the components with their concept examples."""
        return draw_page(self._page)

    def _file_text(self, suffix: str) -> str | None:
        return page_html(self._page) if suffix == ".html" else None

    @property
    def headline(self) -> str:
        """Score of the explained class, and the prediction if it is a different class."""
        target, predicted = self.target, self.predicted
        has_classes = target.probability is not None
        text = (
            f"logit {target.logit:.2f}, probability {target.text}" if has_classes else target.text
        )
        if self.without:
            count = len(self.without)
            text += f" without {self.without[0] if count == 1 else f'{count} components'}"
        if target.target == predicted.target:
            return f"predicted, {text}" if has_classes else f"value {text}"
        return f"{text}; predicted: {predicted.name}, {predicted.text}"

    @cached_property
    def _page(self) -> ExplanationPage:
        picture = _cut(self.image, self._pictured)
        return ExplanationPage(
            f"Why “{self.target.name}”?",
            [
                self.name,
                f"{self.target.name}: {self.headline}",
                "Largest: "
                + ", ".join(
                    f"{score.name} {score.text}" for score in self.scores[:PICTURED_CLASSES]
                ),
                "",
                f"Model: {self.database.manifest.model.spec}",
                f"Relevance: rules '{self.rules}', in units of the logit.",
                "Each component: where it is relevant in this image, its strongest",
                "examples, and its share of the layer's relevance.",
            ],
            picture,
            overlay(picture, self._signed(self.heat, self._pictured)),
            [
                (layer, self._note(components), [self._card(item) for item in components])
                for layer, components in self.layers.items()
            ],
        )

    def _note(self, components: Sequence[ExplainedComponent]) -> str:
        share = sum(abs(item.share) for item in components)
        return f"{len(components)} components with {100 * share:.0f} % of the layer's relevance"

    @property
    def _whole(self) -> Box:
        return Box(0, 0, *self.image.size)

    @property
    def _pictured(self) -> Box:
        """The image, or of a volume the slice with the most relevant position."""
        count = slices_of(self.image)
        height = self.image.height // count
        strongest = int(np.abs(self.heat).reshape(count, -1).max(1).argmax()) if count > 1 else 0
        return Box(0, strongest * height, self.image.width, (strongest + 1) * height)

    def heatmap(
        self, explained: ExplainedComponent | None = None, side: int = SIDE
    ) -> Float32[np.ndarray, "height width"]:
        """Return the heatmap over the image: of the class, or of a component.

        Parameters
        ----------
        side
            Longest side, in pixels; at most that of the image.
        """
        heat = self.heat if explained is None else explained.heat
        return self._signed(heat, self._whole, side)

    def _signed(
        self, heat: Float32[np.ndarray, "h w"], box: Box, side: int = SIDE
    ) -> Float32[np.ndarray, "height width"]:
        positive, negative = (
            self._onto(signed, box, 0.25 * self.blur, side) for signed in (heat, -heat)
        )
        return positive - negative

    def crop(self, explained: ExplainedComponent) -> Image.Image:
        """Draw where a component is relevant: a square of the image around it, pale elsewhere."""
        heat = explained.heat if explained.relevance >= 0 else -explained.heat
        maximum = self._onto(heat, self._whole).max()
        image, box = in_slice(self.image, explained.box)
        window = window_around(box, image.size)
        window_heat = self._onto(heat, window.moved(0, explained.box.top - box.top))
        side, _ = _size(window)
        colour = FOR if explained.relevance >= 0 else AGAINST
        # a share of the maximum of the whole heatmap, not of the window
        return highlight(
            cut_window(image, window, side), window_heat, HIGH * float(maximum), colour
        )

    def _card(self, explained: ExplainedComponent) -> ExplanationCard:
        examples = self.database.examples_of(self.database.row(explained.component), 4)
        pictures = [example_webp(self.database, example) for example in examples]
        return ExplanationCard(
            str(explained.component),
            explained.label or "",
            explained.relevance,
            explained.share,
            self.crop(explained),
            [webp for webp in pictures if webp is not None],
        )

    def _onto(
        self,
        heat: Float32[np.ndarray, "h w"],
        box: Box,
        blur: float | None = None,
        side: int = SIDE,
    ) -> Float32[np.ndarray, "height width"]:
        """Blur the positive part of a heatmap and resample it over a box of the image."""
        blur = self.blur if blur is None else blur
        height, width = heat.shape
        slices = slices_of(self.image)
        blurred = upsample_and_blur(
            torch.from_numpy(heat)[None], height, width, blur, (slices, slices)
        )[0].numpy()
        return project_heatmap(blurred, self.geometry, box, _size(box, side))

    def _html(self) -> str:
        """Return the page's content for notebooks."""
        return page_html(self._page, whole=False)

    def __rich__(self) -> Group:
        """Return a table per layer for a terminal."""
        title = f"{self.name}: why '{self.target.name}'? ({self.headline})"
        frame = self.to_pandas()
        frame["box"] = frame[["left", "top", "right", "bottom"]].values.tolist()
        frame["share"] = [f"{100 * share:+.1f} %" for share in frame["share"]]
        columns = ["component", "label", "score", "relevance", "share", "box"]
        tables = [
            rich_table(part, str(layer), columns)
            for layer, part in frame.groupby("layer", sort=False)
        ]
        return Group(Text(title, no_wrap=True, overflow="ignore"), *tables)


def _size(box: Box, side: int = SIDE) -> tuple[int, int]:
    """Return the size at which a box of the image is shown, at most ``side`` pixels."""
    width, height = box.right - box.left, box.bottom - box.top
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _cut(image: Image.Image, box: Box) -> Image.Image:
    return image.crop(box.as_tuple()).resize(_size(box), Image.Resampling.LANCZOS)
