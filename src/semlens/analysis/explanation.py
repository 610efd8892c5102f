"""What an explanation of one prediction holds, and how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from PIL import Image
from rich.console import Group
from rich.text import Text

from semlens.analysis.result import PICTURES, TABLES, Result
from semlens.draw.explain_picture import Card, Page, draw_page, page_html
from semlens.draw.mask import masked, onto, overlay
from semlens.draw.table import rich_table
from semlens.models.geometry import Geometry
from semlens.relevance.boxes import heatmaps
from semlens.store.files import save_text
from semlens.store.reader import Database
from semlens.types import Box, Component

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
class Explained:
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

    ends = (".html", *PICTURES, *TABLES)

    name: str
    image: Image.Image
    target: ClassScore
    scores: tuple[ClassScore, ...]
    rules: str
    heat: Float32[np.ndarray, "h w"]
    layers: dict[str, tuple[Explained, ...]]
    blur: float
    geometry: Geometry
    database: Database

    @property
    def predicted(self) -> ClassScore:
        """The class with the largest logit."""
        return self.scores[0]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component."""
        columns = [
            "layer", "rank", "component", "index", "sign", "relevance", "share", "label",
            "alignment", "left", "top", "right", "bottom",
        ]  # fmt: skip
        return pd.DataFrame(
            [
                (
                    layer, rank, str(part.component), part.component.index, part.component.sign,
                    part.relevance, part.share, part.label, part.alignment, *part.box.as_tuple(),
                )
                for layer, parts in self.layers.items()
                for rank, part in enumerate(parts, start=1)
            ],
            columns=columns,
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

    def _save_picture(self, path: Path) -> None:
        if path.suffix.lower() == ".html":
            save_text(path, page_html(self._page))
        else:
            super()._save_picture(path)

    @property
    def headline(self) -> str:
        """The class that is explained, and the prediction if it is another one."""
        asked, best = self.target, self.predicted
        text = f"logit {asked.logit:.2f}, probability {100 * asked.probability:.1f} %"
        if asked.target == best.target:
            return f"predicted, {text}"
        return f"{text}; predicted: {best.name}, {100 * best.probability:.1f} %"

    @cached_property
    def _page(self) -> Page:
        whole = Box(0, 0, *self.image.size)
        picture = _cut(self.image, whole)
        heat = [self._onto(part, whole, 0.25 * self.blur) for part in (self.heat, -self.heat)]
        return Page(
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

    def _note(self, parts: Sequence[Explained]) -> str:
        share = 100 * sum(abs(part.share) for part in parts)
        return f"{len(parts)} components with {share:.0f} % of the layer's relevance"

    def _card(self, part: Explained) -> Card:
        heat = part.heat if part.relevance >= 0 else -part.heat
        examples = self.database.examples_of(self.database.row(part.component), 4)
        pictures = [self.database.thumbnail(example.crop) for example in examples]
        whole = self._onto(heat, Box(0, 0, *self.image.size)).max()
        cut = self._onto(heat, part.box)
        # the mask's 2 % are of the whole heatmap's maximum, not of the part's
        threshold = 0.02 * float(whole / cut.max()) if cut.max() > 0 else 0.02
        return Card(
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
        smooth = heatmaps(torch.from_numpy(heat)[None], height, width, share)[0].numpy()
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
        parts = frame.groupby("layer", sort=False)
        tables = [rich_table(part, str(layer), columns) for layer, part in parts]
        return Group(Text(title, no_wrap=True, overflow="ignore"), *tables)


def _size(box: Box) -> tuple[int, int]:
    """Return the size at which a part of the image is shown: at most ``SIDE`` pixels."""
    width, height = box.right - box.left, box.bottom - box.top
    scale = min(1.0, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _cut(image: Image.Image, box: Box) -> Image.Image:
    return image.crop(box.as_tuple()).resize(_size(box), Image.Resampling.LANCZOS)
