"""Overview of a database: build settings, classes, suggested queries, notable components."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.analysis.classes import class_name
from semlens.analysis.saved_labels import saved_labels
from semlens.analysis.scores import scores
from semlens.store import file_names
from semlens.store.manifest import Manifest
from semlens.store.reader import Database

GENERAL = ("watermark", "written text", "stripes")
"""Queries that suit any model of natural images; artefacts first."""
_QUERIES = 8
_READOUTS = {
    "mean": "mean over space or tokens",
    "max": "largest value over space or tokens",
    "cls": "value at the class token",
}
_CROPS = {
    "none": "the whole image",
    "activation": "the box of high activation",
    "crp": "the box of conditional relevance (CRP)",
}
_SIGNS = {
    "auto": "negative directions count as components in layers with negative activations",
    "positive": "positive directions only",
    "both": "negative directions count as components",
}
_AGGREGATES = {
    "mean": "mean of the examples' vectors (Eq. 2)",
    "median": "median of the examples' vectors",
    "weighted": "mean of the examples' vectors, weighted by activation",
}


def describe_settings(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the build settings as pairs of a title and a description in words."""
    recipe = manifest.recipe
    crops = [
        _CROPS[c] for c in dict.fromkeys(layer.crop for layer in manifest.layers) if c in _CROPS
    ]
    settings = [
        ("Readout", _READOUTS[recipe.readout]),
        ("Examples", f"the {recipe.examples} strongest images of each component"),
        ("Crop", " or ".join(crops) or recipe.crop),
        ("Signs", _SIGNS[recipe.signs]),
        ("Concept vector", _AGGREGATES[recipe.aggregate]),
    ]
    if rows := manifest.reference_rows:
        settings.append(("Reference", f"readouts and vectors of {len(rows)} random images"))
    if manifest.relevance is not None:
        kinds = {"classes": "the sample's own class", "predictions": "the predicted class"}
        settings.append(
            (
                "Relevance",
                f"rules '{manifest.relevance.rules}', for {kinds[manifest.relevance.targets]}",
            )
        )
    return settings


def class_table(database: Database) -> pd.DataFrame:
    """Return the classes with readable samples: target (logit), name, number of samples."""
    table = database.files.table(file_names.SAMPLES, ["logit", "error"])
    targets = table.filter(table["error"].is_null())["logit"].drop_null().to_numpy()
    logits, counts = np.unique(targets.astype(np.int64), return_counts=True)
    return pd.DataFrame(
        {
            "target": logits,
            "name": [class_name(database, int(logit)) for logit in logits],
            "samples": counts,
        }
    )


@dataclass(frozen=True)
class SuggestedQuery:
    """A query that is likely to have matches, and where it comes from."""

    text: str
    origin: Literal["label", "class", "general"]


def sample_queries(database: Database, count: int = _QUERIES) -> list[SuggestedQuery]:
    """Suggest queries: general ones, the most frequent saved labels, and class names."""
    labels = saved_labels(database)
    frequent_labels: list[str] = []
    if labels is not None:
        counts = Counter(labels["label"].dropna())
        frequent_labels = [
            text for text, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        ]
    classes = class_table(database)["name"].tolist()
    # evenly spaced, since neighbouring classes are often alike, as the dog breeds of ImageNet
    spread = np.linspace(0, max(len(classes) - 1, 0), min(count, len(classes))).round().astype(int)
    spread_names = [str(classes[i]) for i in dict.fromkeys(spread.tolist())]
    class_queries = [SuggestedQuery(name, "class") for name in spread_names if not name.isdecimal()]
    label_queries = [SuggestedQuery(text, "label") for text in frequent_labels]
    general_queries = [SuggestedQuery(text, "general") for text in GENERAL]
    half = (count - len(general_queries) + 1) // 2
    suggestions = [*general_queries, *label_queries[:half], *class_queries, *label_queries[half:]]
    unique = {suggestion.text.casefold(): suggestion for suggestion in reversed(suggestions)}
    return [s for s in suggestions if unique[s.text.casefold()] is s][:count]


def notable_rows(database: Database, count: int) -> Int64[np.ndarray, " n"]:
    """Return the rows of the ``count`` most notable components with examples, in row order.

    These are the components with the largest share of relevance for any class. In a database
    without class relevance they are the clearest ones (paper, Eq. 6).
    """
    rows = np.flatnonzero(database.has_examples).astype(np.int64)
    if len(rows) <= count:
        return rows
    weight = np.zeros(database.manifest.rows)
    if database.manifest.relevance is not None:
        relevance = database.relevance()
        np.maximum.at(weight, relevance["component"].to_numpy(), relevance["mean"].abs().to_numpy())
    else:
        weight[:] = np.nan_to_num(scores(database).frame["clarity"].to_numpy(float), nan=-1.0)
    return np.sort(rows[np.lexsort((rows, -weight[rows]))[:count]])
