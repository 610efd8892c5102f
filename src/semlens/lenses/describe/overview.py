"""Overview of a database: build settings, classes, notable components."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.errors import StoreError
from semlens.lenses.classes import class_name
from semlens.lenses.scores import scores
from semlens.models.forward import predict
from semlens.store import file_names
from semlens.store.manifest import Manifest
from semlens.store.reader import Database

_READOUTS = {
    "mean": "mean over space or tokens",
    "max": "largest value over space or tokens",
    "cls": "value at the class token",
}
_CROPS = {
    "none": "the whole image",
    "activation": "the box of high activation",
    "crp": "the box of conditional relevance (CRP)",
    "boxes": "the smallest box of a file around the strongest activation",
}
_SIGNS = {
    "auto": "negative directions count as components in layers with negative activations",
    "positive": "positive directions only",
    "both": "negative directions count as components",
}
_AGGREGATES = {
    "mean": "mean of the examples' vectors (Eq. 2)",
    "median": "median of the examples' vectors",
    "weighted": "mean of the examples' vectors, weighted by {rank}",
}


def describe_settings(manifest: Manifest) -> list[tuple[str, str]]:
    """Return the build settings as pairs of a title and a description in words."""
    recipe = manifest.recipe
    crops = [
        _CROPS[c] for c in dict.fromkeys(layer.crop for layer in manifest.layers) if c in _CROPS
    ]
    settings = [
        ("Readout", _READOUTS[recipe.readout]),
        ("Examples", _examples(manifest)),
        ("Crop", " or ".join(crops) or recipe.crop),
        ("Signs", _SIGNS[recipe.signs]),
        ("Concept vector", _AGGREGATES[recipe.aggregate].format(rank=recipe.rank)),
    ]
    if manifest.output is not None:
        settings.append(("Output", manifest.output.summary))
    if recipe.embedder_precision != "float32":
        settings.append(("Embedding", f"in {recipe.embedder_precision}"))
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


def _examples(manifest: Manifest) -> str:
    """Return which images are examples of a component."""
    count = manifest.recipe.examples
    rules = [layer.rank_rules for layer in manifest.layers if layer.rank_rules is not None]
    if not rules:
        return f"the {count} strongest images of each component"
    names = " or ".join(f"'{name}'" for name in dict.fromkeys(rules))
    return (
        f"the {count} images on which each component is most relevant for the predicted class "
        f"(rules {names})"
    )


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


TABLE = "predicted-classes"
"""Name of the table in the database: sample, predicted."""
MOST = 5000
"""Images that the model is run on; of more, evenly spaced ones."""


def kept_predictions(database: Database) -> pd.DataFrame | None:
    """Return the predictions that were kept, or None: sample, predicted (logit)."""
    with suppress(StoreError):  # they can be computed again
        return database.load_analysis(TABLE, ["sample", "predicted"])
    return None


def predict_classes(database: Database) -> pd.DataFrame:
    """Run the model on at most ``MOST`` readable images and keep the predicted classes.

    Raises
    ------
    ModelError
        If the model outputs no logits.
    """
    kept = kept_predictions(database)
    if kept is not None:
        return kept
    readable = np.flatnonzero(database.samples["error"].isna().to_numpy())
    spaced = np.linspace(0, len(readable) - 1, min(len(readable), MOST)).round().astype(np.int64)
    samples = readable[spaced]
    predicted = predict(
        database.model, database.images.read, samples.tolist(), stage="predicting the classes"
    )
    known = predicted >= 0
    table = pd.DataFrame({"sample": samples[known], "predicted": predicted[known]})
    if database.is_writable:
        with suppress(StoreError):  # another process may be writing it
            database.save_analysis(TABLE, table)
    return table


def predicted_table(database: Database, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return the predicted classes: target (logit), name, number of images; most images first."""
    targets, samples = np.unique(predictions["predicted"].to_numpy(), return_counts=True)
    counts = pd.DataFrame({"target": targets, "samples": samples})
    counts = counts.sort_values(["samples", "target"], ascending=[False, True], ignore_index=True)
    counts.insert(1, "name", [class_name(database, int(target)) for target in counts["target"]])
    return counts


def predicted_samples(
    predictions: pd.DataFrame, target: int, at_most: int
) -> Int64[np.ndarray, " n"]:
    """Return the images that the model takes for a class, evenly spaced."""
    samples = predictions.loc[predictions["predicted"] == target, "sample"].to_numpy(np.int64)
    count = min(at_most, len(samples))
    return samples[np.linspace(0, len(samples) - 1, count).round().astype(np.int64)]
