"""Components of known content: those that images of one class activate more than others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64
from scipy.stats import rankdata

from semlens.data.images import Images
from semlens.data.load import as_images
from semlens.errors import DataError
from semlens.store.reader import Database

LEAST = 10
"""Images that each folder must have."""
STRONGEST = 30
"""Strongest images at most, among which the share of a folder is measured."""
_COLUMNS = 1024
"""Components that are ranked in one step."""


@dataclass(frozen=True, eq=False)
class LabelledFolders:
    """n images in k folders, whose names are words."""

    images: Images
    samples: tuple[int, ...]
    targets: Int64[np.ndarray, " n"]
    """Position of each image's folder."""
    names: tuple[str, ...]

    @classmethod
    def of(cls, images: Images | str | Path) -> LabelledFolders:
        """Read the names of folders; an underscore is a space.

        Raises
        ------
        DataError
            If there are fewer than two folders, or one has few images.
        """
        images = as_images(images)
        classes = (
            [str(images.targets[i] or "") for i in range(len(images))] if images.targets else []
        )
        samples = tuple(i for i, name in enumerate(classes) if name)
        words = [" ".join(classes[i].rsplit("/", 1)[-1].replace("_", " ").split()) for i in samples]
        names, targets, counts = np.unique(words, return_inverse=True, return_counts=True)
        few = [f"'{names[i]}' ({counts[i]})" for i in np.flatnonzero(counts < LEAST)]
        if len(names) < 2 or few:
            raise DataError(
                f"'{images.spec}' has {len(names)} folders of images"
                + (f", and few images in {', '.join(few[:5])}." if few else "."),
                f"Expected at least two, with at least {LEAST} images each, named by words.",
                "Add images, or remove these folders.",
            )
        return cls(images, samples, targets, tuple(names.tolist()))


@dataclass(frozen=True, eq=False)
class KnownContent:
    """n components, each with the folder that it responds to."""

    rows: Int64[np.ndarray, " n"]
    columns: Int64[np.ndarray, " n"]
    """Their columns among the readouts that they were found in."""
    folder: Int64[np.ndarray, " n"]
    auroc: Float64[np.ndarray, " n"]
    precision: Float64[np.ndarray, " n"]

    def by_layer(self, database: Database) -> Iterator[tuple[str, Int64[np.ndarray, " p"]]]:
        """Yield each layer that has some, with their positions."""
        for entry in database.manifest.layers:
            inside = (self.rows >= entry.first) & (self.rows < entry.first + entry.rows)
            if inside.any():
                yield entry.name, np.flatnonzero(inside)

    def table(self, database: Database, names: tuple[str, ...]) -> pd.DataFrame:
        """Return a row per component."""
        return pd.DataFrame(
            {
                "component": database.names(self.rows),
                "folder": [names[i] for i in self.folder],
                "auroc": self.auroc,
                "precision": self.precision,
            }
        )


def find_known(
    readouts: Float32[np.ndarray, "n c"],
    folders: LabelledFolders,
    rows: Int64[np.ndarray, " c"],
    least_auroc: float,
    least_precision: float,
) -> KnownContent:
    """Find the components that one folder activates more than the others.

    Parameters
    ----------
    readouts
        Of c components, multiplied by their signs, on the images of the folders.
    rows
        The components.
    least_auroc
        Least probability that an image of the folder has a larger readout than one of another.
    least_precision
        Least share of the folder among as many strongest images as it has, or the 30 strongest.

    Raises
    ------
    DataError
        If components are found for fewer than two folders.
    """
    auroc, precision, folder = folder_responses(readouts, folders.targets)
    columns = np.flatnonzero((auroc >= least_auroc) & (precision >= least_precision))
    if len(np.unique(folder[columns])) < 2:
        best = f"The largest AUROC is {auroc.max():.2f}. " if len(auroc) else ""
        raise DataError(
            f"{len(columns)} components respond to one folder only. {best}".strip(),
            f"Expected components of at least two folders, with an AUROC of {least_auroc:g} and a "
            f"precision of {least_precision:g}.",
            "Choose images that the model tells apart, or other layers, or lower both limits.",
        )
    return KnownContent(rows[columns], columns, folder[columns], auroc[columns], precision[columns])


def folder_responses(
    readouts: Float32[np.ndarray, "n c"], targets: Int64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, " c"], Float64[np.ndarray, " c"], Int64[np.ndarray, " c"]]:
    """Return the largest AUROC of each component for a folder, its precision, and the folder."""
    count = np.bincount(targets)
    member = (targets[:, None] == np.arange(len(count))).astype(np.float64)
    columns = readouts.shape[1]
    auroc, precision = np.zeros(columns), np.zeros(columns)
    folder = np.zeros(columns, np.int64)
    for start in range(0, columns, _COLUMNS):
        part = slice(start, start + _COLUMNS)
        ranks = rankdata(readouts[:, part], axis=0)
        sums = member.T @ ranks  # [folders c]
        values = (sums - (count * (count + 1) / 2)[:, None]) / (count * (len(targets) - count))[
            :, None
        ]
        folder[part], auroc[part] = values.argmax(0), values.max(0)
        # ties behind images of other folders: the precision is rather too small
        other = targets[:, None] != folder[part]
        order = np.lexsort((other, ranks), axis=0)[::-1]
        strongest = np.minimum(count[folder[part]], STRONGEST)
        among = np.arange(len(targets))[:, None] < strongest
        hits = (np.take_along_axis(~other, order, 0) & among).sum(0)
        precision[part] = hits / strongest
    return auroc, precision, folder
