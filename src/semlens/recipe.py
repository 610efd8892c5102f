"""The settings of a build, frozen and fingerprinted."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semlens.errors import RecipeError
from semlens.types import Aggregate, Crop, Readout, Signs

FORMAT = 3
"""Version of the database format; a change of any stage's numbers raises it."""


class RecipeSettings(TypedDict, total=False):
    """The settings of a :class:`Recipe`, for type checkers; what they mean is said there."""

    examples: int
    readout: Readout
    signs: Signs
    crop: Crop
    crop_blur: float
    crop_threshold: float | None
    rules: str
    aggregate: Aggregate
    thumbnails: bool


class Settings(BaseModel):
    """Settings with their defaults, bounds and descriptions, declared once for all who ask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def of(cls, **settings: Any) -> Self:
        """Make it of single settings; a wrong one is a :class:`RecipeError`, no traceback."""
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise RecipeError(
                f"Setting '{name}' is {first.get('input')!r}.",
                f"{first['msg']}.",
                "Run 'semlens build --help' for the settings and their values.",
            ) from error


class Recipe(Settings):
    """What decides the content of a database, besides model, data, embedder and layers.

    Two databases with equal recipes and equal inputs are equal, whatever the batch
    size, shards or workers (up to rounding of the model's forward pass).
    """

    examples: int = Field(
        default=30, ge=1, le=10_000, description="Examples per component (paper, 3.1)."
    )
    readout: Readout = Field(
        default="mean", description="How activations over space or tokens become one number."
    )
    signs: Signs = Field(
        default="auto",
        description="Whether negative activations count as components of their own; auto: in "
        "layers that were seen below zero (paper, B.1).",
    )
    crop: Crop = Field(
        default="auto",
        description="How examples are cut out; auto: by conditional relevance (crp) for channels "
        "and units, by the activation map for token features (paper, H.1).",
    )
    crop_blur: float = Field(
        default=51 / 224,
        ge=0,
        le=1,
        description="Blur kernel as a share of the input (paper, H.1).",
    )
    # The paper's 1 % is for relevance, which is sparse. Up-sampled activation maps are so broad
    # that at 1 % the box is nearly always the whole image.
    crop_threshold: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Values above this share of a heatmap's maximum are boxed; by default 0.01 "
        "for crp (paper, H.1) and 0.5 for activation.",
    )
    rules: str = Field(
        default="auto",
        description="Relevance rules: auto, a preset (docs/relevance.md) or gradient.",
    )
    aggregate: Aggregate = Field(
        default="mean", description="How example vectors become one vector (paper, Eq. 2: mean)."
    )
    thumbnails: bool = Field(default=True, description="Keep a small picture of each crop.")

    def but(self, **settings: Unpack[RecipeSettings]) -> Recipe:
        """Return the recipe with other settings."""
        return self.of(**{**self.model_dump(), **settings})

    def threshold(self, crop: Crop) -> float:
        """Return the share of the maximum that boxes of one kind of heatmap use."""
        if self.crop_threshold is not None:
            return self.crop_threshold
        return 0.01 if crop == "crp" else 0.5

    def differences(self, other: Recipe) -> list[str]:
        """List the settings in which ``other`` differs, as ``name: mine -> theirs``."""
        mine, theirs = self.model_dump(), other.model_dump()
        return [f"{k}: {mine[k]!r} -> {theirs[k]!r}" for k in mine if mine[k] != theirs[k]]


def fingerprint(*parts: object) -> str:
    """SHA-256 of the canonical JSON of ``parts``, as 64 hex digits.

    Raises
    ------
    TypeError
        If a part has no canonical JSON form: nothing is ever hashed by its ``repr``.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
