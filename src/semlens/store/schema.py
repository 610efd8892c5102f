"""What the files of a build hold: the columns of its tables, the tensors of its vectors."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from semlens.relevance.boxes import MASK_CELLS
from semlens.store import layout
from semlens.store.manifest import Manifest

MASK_BYTES = MASK_CELLS**2 // 8

COMPONENTS = pa.schema(
    [
        ("layer", pa.string()),
        ("index", pa.int32()),
        ("sign", pa.int8()),
        ("samples", pa.int64()),
        ("mean", pa.float64()),
        ("std", pa.float64()),
        ("minimum", pa.float32()),
        ("maximum", pa.float32()),
        ("firing_rate", pa.float64()),
        ("examples", pa.int32()),
    ]
)
SAMPLES = pa.schema(
    [
        ("sample", pa.int64()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("target", pa.string()),
        ("logit", pa.int32()),
        ("error", pa.string()),
    ]
)
EXAMPLES = pa.schema(
    [
        ("component", pa.int32()),
        ("rank", pa.int32()),
        ("sample", pa.int64()),
        ("activation", pa.float32()),
        ("position", pa.int32()),
        ("box", pa.list_(pa.int32(), 4)),
        ("crop", pa.int64()),
        ("mask", pa.binary(MASK_BYTES)),
    ]
)
THUMBNAILS = pa.schema([("key", pa.string()), ("webp", pa.binary())])
RELEVANCE = pa.schema(
    [
        ("component", pa.int32()),
        ("class", pa.int32()),
        ("mean", pa.float32()),
        ("max", pa.float32()),
    ]
)
RELEVANCE_CLASSES = pa.schema([("class", pa.int64()), ("samples", pa.int64())])

Table = tuple[pa.Schema, int | None]
"""Columns, and the number of rows where the manifest knows it."""
Tensors = dict[str, tuple[str, list[int]]]
"""By name, a tensor's type, as safetensors writes it, and its shape."""


def expected_files(manifest: Manifest) -> Mapping[str, Table | Tensors]:
    """Return what each file of a build must hold, by the manifest."""
    dim = manifest.dim
    found: dict[str, Table | Tensors] = {
        layout.COMPONENTS: (COMPONENTS, manifest.rows),
        layout.SAMPLES: (SAMPLES, manifest.samples),
    }
    for layer in manifest.layers:
        found[layout.examples_file(layer.name)] = (EXAMPLES, None)
        found[layout.theta_file(layer.name)] = {"theta": ("F16", [layer.rows, dim])}
        found[layout.relevance_file(layer.name)] = (RELEVANCE, None)
    for number, crops in enumerate(manifest.crops):
        found[layout.crops_file(number)] = {
            "vector": ("F16", [crops, dim]),
            "sample": ("I64", [crops]),
            "box": ("I32", [crops, 4]),
        }
        if manifest.recipe.thumbnails:
            found[layout.thumbnails_file(number)] = (THUMBNAILS, crops)
    found[layout.RELEVANCE_CLASSES] = (RELEVANCE_CLASSES, None)
    optional = layout.RELEVANCE  # computed only if asked for, and void once classes change
    return {
        name: what
        for name, what in found.items()
        if name in manifest.files or not name.startswith(optional)
    }
