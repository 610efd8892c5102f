"""The columns of a build's tables."""

from __future__ import annotations

import pyarrow as pa

from semlens.relevance.heatmap_boxes import MASK_CELLS

MASK_BYTES = MASK_CELLS**2 // 8

COMPONENTS = pa.schema(
    [
        ("layer", pa.string()),
        ("index", pa.int32()),
        ("sign", pa.int8()),
        ("kind", pa.string()),
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
THUMBNAILS = pa.schema(
    [("key", pa.string()), ("webp", pa.binary()), ("box", pa.list_(pa.int32(), 4))]
)
RELEVANCE = pa.schema(
    [
        ("component", pa.int32()),
        ("class", pa.int32()),
        ("mean", pa.float32()),
        ("max", pa.float32()),
    ]
)
RELEVANCE_CLASSES = pa.schema([("class", pa.int64()), ("samples", pa.int64())])
