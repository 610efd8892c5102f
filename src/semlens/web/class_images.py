"""The images that stand for a class: its own, or those that the model takes for it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Int64

from semlens.errors import DataError
from semlens.lenses.classes import class_name, class_samples
from semlens.lenses.describe.overview import class_table, predict_classes, predicted_samples
from semlens.web.app_state import AppState, ModelContext


def predictions(context: ModelContext, state: AppState) -> pd.DataFrame:
    """Return the predicted class of each image, see :func:`predict_classes`.

    Raises
    ------
    JobPending
        While the model runs.
    """

    def compute() -> pd.DataFrame:
        with context.run_model("Predicting the classes"):
            return predict_classes(context.db)

    key = f"predicted-classes/{context.number}"
    return state.jobs.result(key, "Predicting the classes of the images", compute)


def images_of_class(
    context: ModelContext, state: AppState, target: int, count: int
) -> Int64[np.ndarray, " n"]:
    """Return at most ``count`` images of a class, evenly spaced.

    Where no image has a true class, these are images that the model takes for it.

    Raises
    ------
    DataError
        If there are none.
    JobPending
        While the classes of the images are being predicted.
    """
    if not len(class_table(context.db)):
        found = predicted_samples(predictions(context, state), target, count)
        if not len(found):
            raise DataError(
                f"The model takes no image for '{class_name(context.db, target)}'.",
                "Expected a class that it predicts for some image.",
                "Choose another class.",
            )
        return found
    return class_samples(context.db, target, count)
