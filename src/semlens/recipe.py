"""The settings of a build, frozen and fingerprinted."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semlens.errors import RecipeError
from semlens.types import Aggregate, Crop, Layout, Readout, Signs

FORMAT = 2
"""Version of the database format; a change of any stage's numbers raises it."""


class Recipe(BaseModel):
    """What decides the content of a database, besides model, data, embedder and layers.

    Two databases with equal recipes and equal inputs are equal, whatever the batch
    size, shards or workers (up to rounding of the model's forward pass).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int = Field(default=30, ge=1, le=10_000)
    """Examples kept per component, *m* in the paper (3.1)."""
    readout: Readout = "mean"
    """Mean over space or tokens is the paper's default."""
    signs: Signs = "auto"
    """``auto`` doubles the components of layers that were seen to go negative (paper, B.1)."""
    crop: Crop = "auto"
    """How examples are cut out before they are embedded.

    ``auto`` is conditional relevance for channels and units, and the activation map for token
    features, as in the paper (H.1).
    """
    crop_blur: float = Field(default=51 / 224, ge=0, le=1)
    """Width of the Gaussian blur's kernel, as a share of the input (paper, H.1: 51 at 224 px)."""
    crop_threshold: float | None = Field(default=None, ge=0, lt=1)
    """Share of the blurred map's maximum above which values are boxed.

    None means the paper's 1 % (H.1) for relevance heatmaps, which are sparse, and one half for
    activation maps: up-sampled they are so broad that at 1 % the box is nearly always the
    whole image.
    """
    rules: str = "auto"
    """Relevance rules: a preset of :mod:`semlens.relevance.presets`, or ``gradient``."""
    layout: Layout = "auto"
    """Order of the axes of maps, for layers of which it cannot be found out."""
    aggregate: Aggregate = "mean"
    """How example vectors become theta (paper, Eq. 2: mean)."""
    thumbnails: bool = True
    """Whether to keep a small WebP of each crop."""

    @classmethod
    def of(cls, **settings: Any) -> Recipe:
        """Make a recipe; a wrong setting is a :class:`RecipeError`, not a traceback."""
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "recipe"
            raise RecipeError(
                f"Setting '{name}' is {first.get('input')!r}.",
                f"{first['msg']}.",
                "Run 'semlens build --help' for the settings and their values.",
            ) from error

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
