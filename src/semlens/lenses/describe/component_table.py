"""The table of all components, with filters and sorting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64
from pydantic import BaseModel, ConfigDict, Field

from semlens.errors import RecipeError, nearest
from semlens.lenses.scores import MEASURES
from semlens.store.reader import Database

COLUMNS = (
    "row", "component", "layer", "label", "confidence", "examples", "firing_rate",
    "maximum", *MEASURES, "relevance_mean", "relevance_max",
)  # fmt: skip
"""Columns of the table, which can be sorted by any of them."""


def component_table(
    database: Database,
    scores: pd.DataFrame | None = None,
    labels: pd.DataFrame | None = None,
    target: int | None = None,
) -> pd.DataFrame:
    """Combine statistics, measures, labels and relevance of all components, in the order of theta.

    Parameters
    ----------
    scores
        The measures of all components, in row order (``scores(database).frame``).
    labels
        Their labels in row order: label, confidence
        (:func:`semlens.lenses.labelling.component_labels.saved_labels`).
    target
        Class whose relevance is included. Shares below the database's floor are not stored and
        are NaN here.

    Returns
    -------
    DataFrame
        The columns of :data:`COLUMNS`. Missing values are NaN, missing labels None.

    Raises
    ------
    RelevanceError
        If the database has no relevance for the class.
    """
    components = database.components
    frame = pd.DataFrame(
        {
            "row": np.arange(len(components)),
            "component": database.names(),
            "layer": components["layer"].to_numpy(object),
        }
    )
    texts = [None] * len(components) if labels is None else labels["label"].tolist()
    frame["label"] = pd.Series(texts, dtype=object)  # otherwise pandas turns None into NaN
    frame["confidence"] = np.nan if labels is None else labels["confidence"].to_numpy()
    for column in ("examples", "firing_rate", "maximum"):
        frame[column] = components[column].to_numpy()
    for measure in MEASURES:
        frame[measure] = np.nan if scores is None else scores[measure].to_numpy(np.float64)
    mean, largest = np.full(len(components), np.nan), np.full(len(components), np.nan)
    if target is not None:
        relevance = database.relevance(target)
        mean[relevance["component"]] = relevance["mean"]
        largest[relevance["component"]] = relevance["max"]
    return frame.assign(relevance_mean=mean, relevance_max=largest).loc[:, list(COLUMNS)]


class ComponentFilter(BaseModel):
    """Filter and sort order of the component table."""

    model_config = ConfigDict(frozen=True)

    sort: str = "row"
    """A column; ties are in row order, also in descending order."""
    descending: bool = False
    layers: list[str] | None = None
    """Only these layers; all by default."""
    text: Annotated[str, Field(max_length=200)] = ""
    """Only components whose name or label contains this, ignoring case."""
    measure: str | None = None
    low: float = -np.inf
    high: float = np.inf
    """Only components with ``low <= measure < high``."""

    def select(self, table: pd.DataFrame) -> Int64[np.ndarray, " n"]:
        """Return the rows of the matching components, in order; missing values come last.

        Raises
        ------
        RecipeError
            If there is no such column or measure.
        """
        _check(self.sort, COLUMNS, "column")
        rows = np.flatnonzero(self._matches(table))
        return rows[_order(table, rows, self.sort, self.descending)]

    def _matches(self, table: pd.DataFrame) -> Bool[np.ndarray, " n"]:
        mask = np.ones(len(table), bool)
        if self.layers is not None:
            mask &= table["layer"].isin(list(self.layers)).to_numpy()
        if self.text.strip():
            query = self.text.strip().casefold()
            texts = zip(table["component"], table["label"], strict=True)
            mask &= [query in n.casefold() or query in (t or "").casefold() for n, t in texts]
        if self.measure is not None:
            _check(self.measure, MEASURES, "measure")
            value = table[self.measure].to_numpy(np.float64)
            mask &= (value >= self.low) & (value < self.high)  # NaN is in no range
        return mask


def _order(
    table: pd.DataFrame, rows: Int64[np.ndarray, " n"], sort: str, descending: bool
) -> Int64[np.ndarray, " n"]:
    """Return the order of ``rows`` as positions in them; stable, so ties stay in row order."""
    if sort in ("row", "layer", "component"):
        # row order: names sort by number, layers in the order in which the model runs them
        key = rows.astype(np.float64)
        if sort == "layer":
            key = pd.factorize(table["layer"].to_numpy())[0][rows].astype(np.float64)
    elif sort == "label":
        texts = [text and text.casefold() for text in table["label"].iloc[rows]]
        codes = pd.factorize(np.asarray(texts, object), sort=True)[0]
        key = np.where(codes < 0, np.nan, codes.astype(np.float64))
    else:
        key = table[sort].to_numpy(np.float64)[rows]
    return np.argsort(-key if descending else key, kind="stable")  # NaN is last either way


def _check(name: str, choices: Sequence[str], kind: str) -> None:
    if name not in choices:
        raise RecipeError(
            f"Unknown {kind} '{name}' of the component table.",
            f"Expected one of {', '.join(choices)}.",
            f"Choose one of them, such as '{nearest(name, choices, 1)}'.",
        )
