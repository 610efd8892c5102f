"""The evidence about components that an opened database holds."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Int64

from semlens.errors import ConceptError
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.noise import SEED, random_crops
from semlens.lenses.query_embedding import QueryEmbedding, unit
from semlens.store.examples import Reference
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database


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
        The concepts, as :func:`semlens.lenses.query_embedding.embed_concepts` gives them.
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
    direction = database.direction(rows)
    places = rows - entry.first
    crops, samples, strengths = (values[places] for values in _examples(database, layer))
    used = crops >= 0
    distinct, position = np.unique(crops[used], return_inverse=True)
    examples = np.full(used.shape, -1)
    examples[used] = position
    reference = database.reference
    whole = reference if entry.crop == "none" else None
    return Evidence(
        words=unit(embedding.vectors),
        images=database.crop_vectors[distinct],
        examples=examples,
        readouts=strengths,
        counts=used.sum(1),
        null=None if embedding.null is None else unit(embedding.null[None])[0],
        background=whole.vectors if whole else _crops(database, layer),
        reference=reference.vectors if reference else None,
        reference_readouts=reference.readouts(layer)[:, places] * direction if reference else None,
        in_reference=_in_reference(database, reference, samples) if reference else None,
        population=_population(database, entry) if reference else None,
        annotations=annotations,
    )


def _examples(
    database: Database, layer: str
) -> tuple[Int64[np.ndarray, "c m"], Int64[np.ndarray, "c m"], Float32[np.ndarray, "c m"]]:
    """Return crop, sample and strength of each example of a layer's components; -1, -1, 0 for none.

    Examples come first: a sample that was skipped leaves a gap in the ranks.
    """
    entry = database.layer(layer)
    component, crop, strength = database.example_crops(layer)
    row = component - entry.first
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    shape = entry.rows, database.manifest.recipe.examples
    crops, samples = np.full(shape, -1), np.full(shape, -1)
    strengths = np.zeros(shape, np.float32)
    crops[row, rank], strengths[row, rank] = crop, strength
    samples[row, rank] = database.example_samples(layer)
    return crops, samples, strengths


def _crops(database: Database, layer: str) -> Float32[np.ndarray, "u d"]:
    return random_crops(database, layer, np.random.default_rng(SEED))


def _in_reference(
    database: Database, reference: Reference, samples: Int64[np.ndarray, "n m"]
) -> Int64[np.ndarray, "n m"]:
    """Return the row of each sample in the reference sample; -1 if it is not in it."""
    row = np.full(database.manifest.samples + 1, -1)  # the last one is for no sample
    row[reference.samples] = np.arange(len(reference))
    return row[samples]


def _population(database: Database, entry: LayerEntry) -> int:
    """Return the number of images on which a layer has readouts."""
    manifest = database.manifest
    return manifest.samples - manifest.unreadable - entry.not_finite
