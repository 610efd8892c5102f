"""The settings of a build, frozen and fingerprinted."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, TypedDict

from pydantic import ConfigDict

from semlens.settings import Settings, setting
from semlens.types import Aggregate, Crop, Layout, Precision, Rank, Readout, Signs

FORMAT = 7
"""Version of the database format; it increases when any stage's numbers change."""


class RecipeSettings(TypedDict, total=False):
    """The settings of a :class:`Recipe`, for type checkers."""

    examples: int
    rank: Rank
    readout: Readout
    signs: Signs
    crop: Crop
    crop_blur: float
    crop_threshold: float | None
    rules: str
    layout: Layout
    embedder_precision: Precision
    aggregate: Aggregate
    reference: int
    thumbnails: bool


class Recipe(Settings):
    """Settings that determine a database, besides model, data, embedder and layers.

    Databases with equal recipes and inputs are equal for any batch size, number of shards or
    workers (up to rounding in the model's forward pass).
    """

    model_config = ConfigDict(strict=True)  # True is no number

    examples: Annotated[int, setting("Examples per component (paper, 3.1).", ge=1, le=10_000)] = 30
    rank: Annotated[
        Rank,
        setting(
            "What examples are strongest in: activation (paper, 3.1), or relevance for the class "
            "that the model predicts (RelMax; Achtibat et al. 2023)."
        ),
    ] = "activation"
    readout: Annotated[
        Readout, setting("How activations over space or tokens become one number.")
    ] = "mean"
    signs: Annotated[
        Signs,
        setting(
            "Whether negative activations count as separate components; auto: in layers with "
            "negative activations (paper, B.1)."
        ),
    ] = "auto"
    crop: Annotated[
        Crop,
        setting(
            "How examples are cropped; auto: by conditional relevance (crp) for channels and "
            "units, by the activation map for token features (paper, H.1); boxes: to the smallest "
            "box of a file around the component's peak."
        ),
    ] = "auto"
    crop_blur: Annotated[
        float, setting("Blur kernel as a share of the input (paper, H.1).", ge=0, le=1)
    ] = 51 / 224
    # The paper's 1 % is for relevance, which is sparse. Upsampled activation maps are so broad
    # that at 1 % the box is nearly always the whole image.
    crop_threshold: Annotated[
        float | None,
        setting(
            "The box encloses values above this share of the heatmap's maximum; by default 0.01 "
            "for crp (paper, H.1) and 0.5 for activation.",
            ge=0,
            lt=1,
        ),
    ] = None
    rules: Annotated[
        str, setting("Relevance rules: auto, a preset (docs/relevance.md) or gradient.")
    ] = "auto"
    layout: Annotated[
        Layout, setting("Order of a feature map's axes, if it cannot be inferred from the model.")
    ] = "auto"
    embedder_precision: Annotated[
        Precision,
        setting(
            "Precision in which crops are embedded: 16 bits are faster on GPUs and some CPUs. "
            "Collection and crops are always computed in that of the model."
        ),
    ] = "float32"
    aggregate: Annotated[
        Aggregate, setting("How example vectors become one vector (paper, Eq. 2: mean).")
    ] = "mean"
    reference: Annotated[
        int,
        setting(
            "Random images whose readouts and vectors are stored, for labels that compare "
            "examples with other images; 0: none.",
            ge=0,
            le=100_000,
        ),
    ] = 2048
    thumbnails: Annotated[bool, setting("Store a thumbnail of each crop.")] = True

    def threshold(self, crop: Crop) -> float:
        """Return the share of the heatmap's maximum that defines the box, for a kind of crop."""
        if self.crop_threshold is not None:
            return self.crop_threshold
        return 0.01 if crop == "crp" else 0.5

    def differences(self, other: Recipe) -> list[str]:
        """List the settings in which ``other`` differs, as ``name: value -> other value``."""
        a, b = self.model_dump(), other.model_dump()
        return [f"{k}: {a[k]!r} -> {b[k]!r}" for k in a if a[k] != b[k]]


def fingerprint(*parts: object) -> str:
    """SHA-256 of the canonical JSON of ``parts``, as 64 hex digits.

    Raises
    ------
    TypeError
        If a part has no canonical JSON form, since its ``repr`` may not identify it.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
