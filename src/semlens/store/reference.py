"""Reading the reference samples of a database."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Int64

from semlens.store import file_names
from semlens.store.examples import Examples
from semlens.store.locked_cached_property import locked_cached_property


class Reference:
    """A random subset of S images: the readouts of all components, and the images' vectors.

    In a database that ranks by relevance, relevance takes the place of readouts.

    Each readable image had the same chance to be chosen. Images on which a readout of some layer
    is not finite are left out. The order is random as well: the first n images are a random subset
    of n. Everything is read on first use; thread-safe.
    """

    def __init__(self, database: Examples, rows: list[int]) -> None:
        self._database = database
        self._rows = torch.tensor(rows)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    @locked_cached_property
    def samples(self) -> Int64[np.ndarray, " s"]:
        """Numbers of the images, as in the database's ``samples``."""
        return self._database.files.tensors(file_names.REFERENCE)["sample"][self._rows].numpy()

    @locked_cached_property
    def ids(self) -> list[str]:
        """Ids of the images; for a folder their relative paths."""
        row_groups, samples = self._database.row_groups, self.samples.tolist()
        return row_groups.take(file_names.SAMPLES, samples, ("path",))["path"].to_pylist()

    @locked_cached_property
    def vectors(self) -> Float32[np.ndarray, "s d"]:
        """Unit vectors of the whole images."""
        vectors = self._database.files.tensors(file_names.REFERENCE)["vector"]
        return vectors[self._rows].float().numpy()

    def readouts(self, layer: str, components: slice = slice(None)) -> Float32[np.ndarray, "s c"]:
        """Return the raw readouts of a layer's components, in the order of their rows.

        The sign is not applied: for a component of sign -1, strong readouts are negative. With the
        readouts ``mean`` and ``cls``, both signs have the same values. Relevance differs by sign,
        and larger is stronger for both.

        Parameters
        ----------
        components
            Components of the layer to read, to save memory; all by default.

        Raises
        ------
        LayerError
            If the database does not have the layer.
        """
        entry = self._database.layer(layer)
        tensors = self._database.files.tensors(file_names.reference_file(entry.name))
        columns = torch.arange(entry.rows)[components] % len(tensors["scale"])
        half = tensors["readout"][columns].index_select(1, self._rows)
        return half.float().mul_(tensors["scale"][columns, None]).numpy().T


class ReferenceReader(Examples):
    """The reference samples of a database."""

    @locked_cached_property
    def reference(self) -> Reference | None:
        """Readouts and vectors of random images; None if the database has none."""
        rows = self.manifest.reference_rows
        return Reference(self, rows) if rows else None
