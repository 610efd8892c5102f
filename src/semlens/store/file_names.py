"""Names of the files of a database."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

COMPONENTS = "components.parquet"
SAMPLES = "samples.parquet"
LOCK = ".lock"
PARTIAL = "partial"
STAGED = "partial/next"
"""Folder of files that replace existing ones once the manifest that names them is written."""
THUMBNAIL_GROUP, EXAMPLE_GROUP, SAMPLE_GROUP = 256, 8192, 4096
"""Rows per row group, about half a megabyte each: the amount read for a single row."""
ANALYSIS = "analysis"
AUDITS = "analysis/audits"
"""Saved audits: ``1.json``, ``2.json``, ...; see :mod:`semlens.store.json_documents`."""


LONGEST_STEM = 200
"""Characters of a layer in the name of a file; file systems allow 255 bytes in all."""


def _stem(layer: str) -> str:
    """Return the percent-encoded name of a layer, with a hash in place of what is too long."""
    stem = quote(layer, safe="")
    if len(stem) <= LONGEST_STEM:
        return stem
    digest = hashlib.sha256(layer.encode()).hexdigest()[:32]
    return f"{stem[: LONGEST_STEM - len(digest) - 1]}-{digest}"


def examples_file(layer: str) -> str:
    """Concept examples of a layer's components."""
    return f"examples/{_stem(layer)}.parquet"


RELEVANCE = "relevance"
RELEVANCE_CLASSES = f"{RELEVANCE}.parquet"
"""Number of samples from which each class's relevance was computed."""


def relevance_file(layer: str) -> str:
    """Class relevance of a layer's components."""
    return f"{RELEVANCE}/{_stem(layer)}.parquet"


REFERENCE = "reference.safetensors"
"""The reference samples: ``sample`` i64[s], ``vector`` f16[s d] of the whole images."""


def reference_file(layer: str) -> str:
    """Readouts of a layer on the reference samples: ``readout`` f16[c s], ``scale`` f32[c]."""
    return f"reference/{_stem(layer)}.safetensors"


def dictionary_file(layer: str) -> str:
    """Directions whose codes are a layer's components, and their description in the header."""
    return f"dictionaries/{_stem(layer)}.safetensors"


def theta_file(layer: str) -> str:
    """Concept vectors of a layer's components, ``theta`` f16[C d]."""
    return f"vectors/{_stem(layer)}.safetensors"


def crops_file(number: int) -> str:
    """Vectors of unique crops: ``vector`` f16[u d], ``sample`` i64[u], ``box`` i32[u 4]."""
    return f"vectors/crops/{number:04d}.safetensors"


def thumbnails_file(number: int) -> str:
    """WebP thumbnails, row by row for the crops file of the same number."""
    return f"thumbnails/{number:04d}.parquet"


STATE = "state"
"""What an extension continues from: the statistics of all batches but an incomplete last one."""
RELEVANCE_STATE = f"{STATE}/relevance.safetensors"
"""Sums of class relevance; see :class:`semlens.run.relevance.ClassRelevanceTotals`."""


def state_file(layer: str) -> str:
    """Statistics of a layer; see :class:`semlens.stages.collect.LayerStatistics`."""
    return f"{STATE}/collect/{_stem(layer)}.safetensors"


BUILD_FOLDERS = (
    "examples", "vectors", "thumbnails", RELEVANCE, "reference", "dictionaries", STATE,
)  # fmt: skip
"""Folders that hold only files of the build."""
