"""Boxes of the user as part of a build: what goes with them, and how many examples lack one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from semlens.data.own_boxes import OwnBoxes
from semlens.errors import RecipeError, StaleError
from semlens.models.activations import LayerLayout
from semlens.recipe import Recipe
from semlens.stages.crop_regions import ExamplePairs
from semlens.store.manifest import Manifest
from semlens.types import Box

_MANY = 0.5
"""Share of a layer's examples without a box above which the file is suspected."""


class BoxesWarning(UserWarning):
    """Most examples have no box where the component reacts most."""


def check_boxes(recipe: Recipe, *, given: bool) -> None:
    """Raise an error if boxes are given and not used, or the other way round.

    Raises
    ------
    RecipeError
        If only one of crop='boxes' and boxes is given.
    """
    if given == (recipe.crop == "boxes"):
        return
    raise RecipeError(
        f"The crop is '{recipe.crop}', and boxes are {'given' if given else 'missing'}.",
        "Expected both crop='boxes' and a file of boxes, or neither.",
        "Pass crop='boxes', boxes=FILE (--crop boxes --boxes FILE).",
    )


def check_same_boxes(manifest: Manifest, boxes: OwnBoxes | None, ids: Sequence[str]) -> None:
    """Raise an error if the images of a database have other boxes than at the time of the build.

    Parameters
    ----------
    ids
        Ids of these images.

    Raises
    ------
    StaleError
        If they have.
    """
    if manifest.boxes is None or boxes is None:  # a difference of the recipe is found elsewhere
        return
    if boxes.fingerprint(ids) != manifest.boxes.fingerprint:
        raise StaleError(
            f"The boxes '{boxes.spec}' are not those of the database: some of its images have "
            "others.",
            f"Expected the boxes of '{manifest.boxes.spec}' at the time of the build.",
            "Restore them, or build a new database.",
        )


def count_without_box(
    boxes: OwnBoxes,
    ids: Sequence[str],
    layout: LayerLayout,
    pairs: ExamplePairs,
    regions: np.ndarray,
) -> int:
    """Return how many examples of a layer are whole images for want of a box.

    Parameters
    ----------
    ids
        Id of each sample.
    pairs
        The pairs of the layer.
    regions
        int32[n 4], the region of each.

    Warns
    -----
    BoxesWarning
        If most examples of a layer with positions have no box.
    """
    count = sum(
        not boxes.has(ids[int(sample)], Box(*region))
        for sample, region in zip(pairs.sample.tolist(), regions.tolist(), strict=True)
    )
    if layout.height and count > _MANY * len(pairs):
        warnings.warn(
            f"{count} of {len(pairs)} examples of layer '{layout.name}' have no box where the "
            "component reacts most, so that they are whole images. Are the boxes of "
            f"'{boxes.spec}' in pixels of the upright originals?",
            BoxesWarning,
            stacklevel=2,
        )
    return count
