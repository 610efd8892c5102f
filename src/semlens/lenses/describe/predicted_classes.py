"""The class that the model predicts for each image, where images have no true class."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.lenses.classes import class_name
from semlens.errors import StoreError
from semlens.models.forward import logits
from semlens.store.reader import Database

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
    scores = logits(
        database.model, database.images.read, samples.tolist(), stage="predicting the classes"
    )
    table = pd.DataFrame({"sample": samples, "predicted": scores.argmax(1).astype(np.int64)})
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
