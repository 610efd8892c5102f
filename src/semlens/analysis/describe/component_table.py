"""All components in one table: what is known of each; chosen, filtered and sorted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int64
from pydantic import BaseModel, ConfigDict, Field

from semlens.analysis.scores import MEASURES
from semlens.errors import RecipeError, nearest
from semlens.store.reader import Database

COLUMNS = (
    "row", "component", "layer", "label", "label_alignment", "examples", "firing_rate",
    "maximum", *MEASURES, "relevance_mean", "relevance_max",
)  # fmt: skip
"""Columns of the table; it can be sorted by each."""


def component_table(
    database: Database,
    scores: pd.DataFrame | None = None,
    labels: pd.DataFrame | None = None,
    target: int | None = None,
) -> pd.DataFrame:
    """Put what is known of the components into one table; its row numbers are those of theta.

    Parameters
    ----------
    scores
        The measures of all components, in row order (``scores(database).frame``).
    labels
        Their labels (:func:`semlens.analysis.saved_labels.kept_labels`).
    target
        Class whose relevance is wanted. Shares under the database's floor are not kept and
        are NaN here.

    Returns
    -------
    DataFrame
        The columns of :data:`COLUMNS`. What is not known is NaN, or None for a label.

    Raises
    ------
    RelevanceError
        If the database has no relevance for the class.
    """
    known = database.components
    frame = pd.DataFrame(
        {
            "row": np.arange(len(known)),
            "component": database.names(),
            "layer": known["layer"].to_numpy(object),
        }
    )
    texts = [None] * len(known) if labels is None else labels["label"].tolist()
    frame["label"] = pd.Series(texts, dtype=object)  # else pandas makes None a number
    frame["label_alignment"] = np.nan if labels is None else labels["alignment"].to_numpy()
    for column in ("examples", "firing_rate", "maximum"):
        frame[column] = known[column].to_numpy()
    for measure in MEASURES:
        frame[measure] = np.nan if scores is None else scores[measure].to_numpy(np.float64)
    mean, largest = np.full(len(known), np.nan), np.full(len(known), np.nan)
    if target is not None:
        relevance = database.relevance(target)
        mean[relevance["component"]] = relevance["mean"]
        largest[relevance["component"]] = relevance["max"]
    return frame.assign(relevance_mean=mean, relevance_max=largest).loc[:, list(COLUMNS)]


class ComponentFilter(BaseModel):
    """Which components of the table are wanted, and in which order."""

    model_config = ConfigDict(frozen=True)

    sort: str = "row"
    """A column; components that are equal in it are in row order, whatever the direction."""
    descending: bool = False
    layers: list[str] | None = None
    """Only these layers; all by default."""
    text: Annotated[str, Field(max_length=200)] = ""
    """Only components whose name or label contains this, in any case."""
    measure: str | None = None
    low: float = -np.inf
    high: float = np.inf
    """Only components with ``low <= measure < high``."""

    def of(self, table: pd.DataFrame) -> Int64[np.ndarray, " n"]:
        """Return the rows of the chosen components, in order; what is not known comes last.

        Raises
        ------
        RecipeError
            If there is no such column or measure.
        """
        _check(self.sort, COLUMNS, "column")
        rows = np.flatnonzero(self._kept(table))
        return rows[_order(table, rows, self.sort, self.descending)]

    def _kept(self, table: pd.DataFrame) -> Bool[np.ndarray, " n"]:
        kept = np.ones(len(table), bool)
        if self.layers is not None:
            kept &= table["layer"].isin(list(self.layers)).to_numpy()
        if self.text.strip():
            wanted = self.text.strip().casefold()
            texts = zip(table["component"], table["label"], strict=True)
            kept &= [wanted in n.casefold() or wanted in (t or "").casefold() for n, t in texts]
        if self.measure is not None:
            _check(self.measure, MEASURES, "measure")
            value = table[self.measure].to_numpy(np.float64)
            kept &= (value >= self.low) & (value < self.high)  # NaN is in no range
        return kept


def _order(
    table: pd.DataFrame, rows: Int64[np.ndarray, " n"], sort: str, descending: bool
) -> Int64[np.ndarray, " n"]:
    """Return places of ``rows`` in order; stable, so that ties stay in row order."""
    if sort in ("row", "layer", "component"):
        # names in the order of their numbers, layers in the order in which they run
        key = rows.astype(np.float64)
        if sort == "layer":
            key = pd.factorize(table["layer"].to_numpy())[0][rows].astype(np.float64)
    elif sort == "label":
        texts = [text and text.casefold() for text in table["label"].iloc[rows]]
        code = pd.factorize(np.asarray(texts, object), sort=True)[0]
        key = np.where(code < 0, np.nan, code.astype(np.float64))
    else:
        key = table[sort].to_numpy(np.float64)[rows]
    return np.argsort(-key if descending else key, kind="stable")  # NaN is last either way


def _check(name: str, known: Sequence[str], what: str) -> None:
    if name not in known:
        raise RecipeError(
            f"'{name}' is no {what} of the component table.",
            f"Expected one of {', '.join(known)}.",
            f"Choose one of them, such as '{nearest(name, known, 1)}'.",
        )
