"""The evidence about components that an opened database holds."""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64

from semlens.analysis.labelling.evidence import Evidence
from semlens.analysis.query_embedding import QueryEmbedding, unit
from semlens.errors import ConceptError
from semlens.store.reader import Database

POOL = 8192
"""Largest number of crops of a layer that make its background."""
SEED = 0


@runtime_checkable
class SavedReference(Protocol):
    """The reference sample of a database."""

    @property
    def vectors(self) -> Float32[np.ndarray, "s d"]:
        """Unit vectors of the whole images."""
        ...

    def readouts(self, layer: str) -> Float32[np.ndarray, "s c"]:
        """Return the raw readouts of a layer's components, in the order of their rows."""
        ...


def layer_evidence(
    database: Database,
    layer: str,
    embedding: QueryEmbedding,
    rows: Int64[np.ndarray, " n"] | None = None,
    annotations: Bool[np.ndarray, "s q"] | None = None,
) -> Evidence:
    """Return what a database knows of components of one layer, and the words to label them with.

    The background is the reference sample if examples are whole images, too. Examples that are
    crops are compared with crops: the distinct ones of the layer, or 8,192 of them at random.

    Parameters
    ----------
    embedding
        The concepts, as :func:`semlens.analysis.query_embedding.embed_concepts` gives them.
    rows
        Components of the layer that have examples; by default all of them.
    annotations
        bool[s q], which concepts are true of which images of the reference sample.

    Raises
    ------
    LayerError
        If there is no such layer.
    ConceptError
        If a component is of another layer or has no examples.
    """
    entry = database.layer(layer)
    if rows is None:
        all_rows = np.arange(entry.first, entry.first + entry.rows)
        rows = all_rows[database.has_examples[all_rows]]
    outside = rows[(rows < entry.first) | (rows >= entry.first + entry.rows)]
    outside = outside if len(outside) else rows[~database.has_examples[rows]]
    if len(outside) or not len(rows):
        raise ConceptError(
            f"Row {outside[0]} is of another layer, or has no examples."
            if len(outside)
            else f"No component of the layer '{layer}' has an example.",
            f"Expected components of the layer '{layer}' with examples.",
            "Leave the others out.",
        )
    sign = database.components["sign"].to_numpy()[rows].astype(np.float32)
    crops, used, activations = _examples(database, layer)
    places = rows - entry.first
    used = used[places]
    distinct, position = np.unique(crops[places][used], return_inverse=True)
    examples = np.full(used.shape, -1)
    examples[used] = position
    reference = cast("SavedReference | None", getattr(database, "reference", None))
    whole = reference is not None and entry.crop == "none"
    return Evidence(
        words=unit(embedding.vectors),
        images=database.crop_vectors[distinct],
        examples=examples,
        readouts=activations[places] * sign[:, None],
        counts=used.sum(1),
        null=None if embedding.null is None else unit(embedding.null[None])[0],
        background=reference.vectors if reference and whole else _pool(database, layer),
        reference=reference.vectors if reference else None,
        reference_readouts=_signed(database, reference, layer, rows) if reference else None,
        annotations=annotations,
    )


def _examples(
    database: Database, layer: str
) -> tuple[Int64[np.ndarray, "c m"], Bool[np.ndarray, "c m"], Float32[np.ndarray, "c m"]]:
    """Return crop and readout of each example of a layer's components, and which are used.

    Used examples come first: a sample that was skipped leaves a gap in the ranks.
    """
    entry = database.layer(layer)
    component, crop, activation = database.example_crops(layer)
    row = component - entry.first
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    shape = entry.rows, database.manifest.recipe.examples
    crops, readouts = np.full(shape, -1), np.zeros(shape, np.float32)
    crops[row, rank], readouts[row, rank] = crop, activation
    return crops, crops >= 0, readouts


def _signed(
    database: Database, reference: SavedReference, layer: str, rows: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, "s n"]:
    sign = database.components["sign"].to_numpy(np.float32)[rows]
    return reference.readouts(layer)[:, rows - database.layer(layer).first] * sign


def _pool(database: Database, layer: str) -> Float32[np.ndarray, "b d"]:
    crops = np.unique(database.example_crops(layer)[1])
    if len(crops) > POOL:
        crops = np.sort(np.random.default_rng(SEED).choice(crops, POOL, replace=False))
    return database.crop_vectors[crops].astype(np.float32)
