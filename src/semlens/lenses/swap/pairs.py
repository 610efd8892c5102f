"""Which classes are measured, and which images exchange a region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from semlens.errors import DataError
from semlens.lenses.classes import class_name, known_classes
from semlens.store.reader import Database

REFERENCE, SEED = 30, 0
"""Their usual values; only swaps with the usual settings are kept."""
LEAST_CLASSES = 5
"""Classes that are needed to know what a class usually gains."""
LEAST_IMAGES = 2
"""Images of a class that are needed to know how much its gain varies."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Images of other classes, and for each one a donor of the class and one of a third class.

    Parameters
    ----------
    target
        The class, by its logit.
    receivers, donors, third
        Samples. No donor occurs twice, unless the class has fewer images.
    """

    target: int
    receivers: Int64[np.ndarray, " n"]
    donors: Int64[np.ndarray, " n"]
    third: Int64[np.ndarray, " n"]

    @property
    def different_donors(self) -> int:
        """Number of donors at the beginning that are different images."""
        return len(np.unique(self.donors))


@dataclass(frozen=True, eq=False)
class SwapPlan:
    """The classes of a swap.

    Parameters
    ----------
    tested
        Classes with a p-value.
    pairs
        The images of each measured class: those tested, and those they are compared with.
    classes
        Number of classes that have images.
    """

    tested: list[int]
    pairs: list[Pairs]
    classes: int


def plan_swap(
    database: Database,
    target: Sequence[int] | None,
    count: int,
    reference: int,
    seed: int,
    of_others: int | None = None,
) -> SwapPlan:
    """Choose the classes and draw their images.

    Parameters
    ----------
    of_others
        Images for each class that is only compared with; by default ``count``.
    target
        The classes to test; None for all, or a random ``reference`` of them if there are more.

    Raises
    ------
    DataError
        If too few classes have images, or a tested one has none, or no class is known.
    """
    logit = known_classes(database)
    classes, images = np.unique(logit[~np.isnan(logit)].astype(np.int64), return_counts=True)
    classes = classes[images >= LEAST_IMAGES]
    if len(classes) < LEAST_CLASSES:
        raise DataError(
            f"The database has images of {len(classes)} classes, at least {LEAST_IMAGES} of each.",
            f"Expected at least {LEAST_CLASSES}: a gain is compared with the other classes.",
            "Build it from images of more classes.",
        )
    random = np.random.default_rng(seed)
    if target is None:
        tested = np.sort(random.permutation(classes)[:reference])
        measured = tested
    else:
        tested = np.array(target)
        for one in np.setdiff1d(tested, classes).tolist():
            raise DataError(
                f"The class '{class_name(database, one)}' has fewer than {LEAST_IMAGES} images.",
                "Expected images in the database to take parts from.",
                "Choose another class.",
            )
        others = random.permutation(np.setdiff1d(classes, tested))[:reference]
        measured = np.union1d(tested, others)
    counts = np.where(np.isin(measured, tested), count, of_others or count).tolist()
    pairs = [
        draw_pairs(logit, *of_class, seed)
        for of_class in zip(measured.tolist(), counts, strict=True)
    ]
    return SwapPlan(tested.tolist(), pairs, len(classes))


def draw_pairs(logit: Float64[np.ndarray, " samples"], target: int, count: int, seed: int) -> Pairs:
    """Draw the images of one class's swaps; they depend on the class and the seed only.

    Parameters
    ----------
    logit
        Class of each sample; NaN where it is unknown.
    """
    random = np.random.default_rng([seed, target])
    other = np.flatnonzero(~np.isnan(logit) & (logit != target))
    receivers = np.resize(random.permutation(other), count)
    donors = np.resize(random.permutation(np.flatnonzero(logit == target)), count)
    third = np.array([random.choice(other[logit[other] != logit[r]]) for r in receivers])
    return Pairs(target, receivers, donors, third)
