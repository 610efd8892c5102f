"""Responses of explanations: the classes, and the components with their pictures and heatmaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int8
from pydantic import BaseModel, Field

from semlens.draw.encode_images import encode_webp
from semlens.draw.html import webp_uri
from semlens.lenses.explain import ScoreChange
from semlens.lenses.explanation import ExplainedComponent, Explanation
from semlens.types import Box, Component
from semlens.web.errors import ErrorResponse
from semlens.web.responses import RequestModel

CROP_SIDE = 192
"""Side of the picture of a component, in pixels."""
MAP_SIDE = 72
"""Longest side of a heatmap. It is smooth: its blur is several of these pixels wide."""


class ExampleImage(BaseModel):
    """An image of the database that can be explained."""

    sample: int
    path: str
    name: str | None
    """Its class, if known."""
    wrong: bool
    """Whether the model is known to predict another class."""


class ExampleImages(BaseModel):
    """Images to begin with."""

    images: list[ExampleImage]
    unavailable: ErrorResponse | None
    """Why the images of the database cannot be read; uploads can still be explained."""


class UploadedImage(BaseModel):
    """An image that the server remembers until it stops."""

    image: str
    """Its id in ``/explanations/{image}``."""


class ExplainedPart(BaseModel):
    """A component that is relevant for the explained class in this image."""

    component: str
    relevance: float
    """In units of the logit."""
    share: float
    """Share of the layer's absolute relevance, in [-1, 1]."""
    box: Box
    """Where it is relevant, in pixels of the image."""
    picture: str
    """That region, as a data URL."""


class ExplainedLayer(BaseModel):
    """The most relevant components of a layer."""

    layer: str
    share: float
    """Share of the layer's absolute relevance that they have together."""
    components: list[ExplainedPart]


class ClassScore(BaseModel):
    """The model's output for one class, or one value."""

    target: int
    name: str
    logit: float
    probability: float | None


class ExplanationResponse(BaseModel):
    """Why the model predicts a class for an image."""

    image: str
    """Number of the sample, or the id of an upload."""
    name: str
    sample: int | None
    true_class: str | None
    width: int
    height: int
    target: ClassScore
    """The explained class."""
    scores: list[ClassScore]
    """The classes with the largest logits, the prediction first."""
    rules: str
    layers: list[ExplainedLayer]
    """The deepest layer first."""


class WithoutRequest(RequestModel):
    """Components to set to zero."""

    components: list[Component] = Field(min_length=1, max_length=5000)
    target: int | None = Field(default=None, ge=0)
    """The explained class, which is part of the response in any case."""


class WithoutResponse(BaseModel):
    """A prediction with and without some components."""

    components: list[str]
    predicted_before: ScoreChange
    predicted_after: ScoreChange
    changes: list[ScoreChange]
    """Probabilities of the largest classes of both, the largest before first."""


@dataclass(frozen=True, eq=False)
class DrawnExplanation:
    """An explanation with everything that the page shows of it.

    Parameters
    ----------
    pictures
        Picture of each component, as a data URL.
    heatmaps
        int8[1 + n h w], of the class and of the components in their order.
    """

    explanation: Explanation
    pictures: Mapping[Component, str]
    heatmaps: Int8[np.ndarray, "m h w"]

    @classmethod
    def of(cls, explanation: Explanation) -> DrawnExplanation:
        """Draw an explanation."""
        parts = [part for layer in explanation.layers.values() for part in layer]
        maps = [explanation.heatmap(part, MAP_SIDE) for part in (None, *parts)]
        return cls(
            explanation,
            {part.component: _picture(explanation, part) for part in parts},
            np.stack([_quantised(heat) for heat in maps]),
        )

    def layers(self) -> list[ExplainedLayer]:
        """Return the layers as a response."""
        return [
            ExplainedLayer(
                layer=layer,
                share=sum(abs(part.share) for part in parts),
                components=[self._part(part) for part in parts],
            )
            for layer, parts in self.explanation.layers.items()
        ]

    def _part(self, part: ExplainedComponent) -> ExplainedPart:
        return ExplainedPart(
            component=str(part.component),
            relevance=part.relevance,
            share=part.share,
            box=part.box,
            picture=self.pictures[part.component],
        )


def _picture(explanation: Explanation, part: ExplainedComponent) -> str:
    picture = explanation.crop(part)
    picture.thumbnail((CROP_SIDE, CROP_SIDE))
    return webp_uri(encode_webp(picture))


def _quantised(heat: Float32[np.ndarray, "h w"]) -> Int8[np.ndarray, "h w"]:
    """Scale a heatmap so that its strongest pixels are 127, as an overlay is scaled."""
    strongest = np.percentile(np.abs(heat), 99.5)  # the maximum may be a single outlier
    if not strongest > 0:
        return np.zeros(heat.shape, np.int8)
    return np.clip(np.round(127 * heat / strongest), -127, 127).astype(np.int8)
