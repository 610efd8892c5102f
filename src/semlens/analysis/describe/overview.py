"""What a database is, in words: its settings, its classes, and what may be asked of it first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from semlens.analysis.classes import class_name
from semlens.analysis.saved_labels import saved_labels
from semlens.store import file_names
from semlens.store.manifest import Manifest
from semlens.store.reader import Database

GENERAL = ("watermark", "written text", "stripes")
"""Queries that make sense for any model of natural images; artefacts first."""
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
    "auto": "negative directions of layers that go below zero count as components",
    "positive": "positive directions only",
    "both": "negative directions count as components",
}
_AGGREGATES = {
    "mean": "mean of the examples' vectors (Eq. 2)",
    "median": "median of the examples' vectors",
    "weighted": "mean of the examples' vectors, weighted by activation",
}


def settings_in_words(made: Manifest) -> list[tuple[str, str]]:
    """Return the settings of the build: what each is about, and how it was chosen."""
    recipe = made.recipe
    crops = [_CROPS[c] for c in dict.fromkeys(layer.crop for layer in made.layers) if c in _CROPS]
    said = [
        ("Readout", _READOUTS[recipe.readout]),
        ("Examples", f"the {recipe.examples} strongest images of each component"),
        ("Crop", " or ".join(crops) or recipe.crop),
        ("Signs", _SIGNS[recipe.signs]),
        ("Concept vector", _AGGREGATES[recipe.aggregate]),
    ]
    if made.relevance is not None:
        of = {"classes": "the sample's own class", "predictions": "the predicted class"}
        said.append(
            ("Relevance", f"rules '{made.relevance.rules}', for {of[made.relevance.targets]}")
        )
    return said


def class_table(database: Database) -> pd.DataFrame:
    """Return the classes that have readable samples: target (logit), name, samples."""
    table = database.files.table(file_names.SAMPLES, ["logit", "error"])
    known = table.filter(table["error"].is_null())["logit"].drop_null().to_numpy()
    logits, counts = np.unique(known.astype(np.int64), return_counts=True)
    return pd.DataFrame(
        {
            "target": logits,
            "name": [class_name(database, int(logit)) for logit in logits],
            "samples": counts,
        }
    )


@dataclass(frozen=True)
class SuggestedQuery:
    """A query that is likely to find something, and where it comes from."""

    text: str
    origin: Literal["label", "class", "general"]


def sample_queries(database: Database, count: int = _QUERIES) -> list[SuggestedQuery]:
    """Suggest queries: general ones, the most frequent kept labels, and names of classes."""
    labels = saved_labels(database)
    often: list[str] = []
    if labels is not None:
        counted = Counter(labels["label"].dropna())
        often = [text for text, _ in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))]
    classes = class_table(database)["name"].tolist()
    # classes spread over all: neighbours in ImageNet's order are fifty kinds of dog
    places = np.linspace(0, max(len(classes) - 1, 0), min(count, len(classes))).round().astype(int)
    spread = [str(classes[i]) for i in dict.fromkeys(places.tolist())]
    named = [SuggestedQuery(name, "class") for name in spread if not name.isdecimal()]
    known = [SuggestedQuery(text, "label") for text in often]
    general = [SuggestedQuery(text, "general") for text in GENERAL]
    half = (count - len(general) + 1) // 2
    wanted = [*general, *known[:half], *named, *known[half:]]
    unique = {suggestion.text.casefold(): suggestion for suggestion in reversed(wanted)}
    return [s for s in wanted if unique[s.text.casefold()] is s][:count]
