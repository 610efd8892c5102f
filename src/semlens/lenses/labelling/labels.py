"""Labels: the best concept of a set for each component, if any (paper, 4.1.2 and D.3)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.example_sheet import sheet
from semlens.draw.html import cards_html
from semlens.draw.text_table import rich_table
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.chosen_method import ChosenMethod
from semlens.lenses.labelling.confidence import as_shown, is_calibrated, rival
from semlens.lenses.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result, Section
from semlens.store.reader import Database
from semlens.types import Component

SHOWN = 40
"""Components shown in a terminal."""


@dataclass(frozen=True, eq=False, repr=False)
class Labels(Result):
    """Label candidates of n components, best first.

    Parameters
    ----------
    threshold
        The fixed minimum score of a label; None if it was calibrated.
    rows
        int64[n], the components' rows.
    concept
        int64[n k], indices into the concept set.
    score
        float32[n k], their scores by the method: alignments, if it is SemanticLens.
    margin
        float32[n], best score minus that of the next other name; NaN with one name.
    thresholds
        float32[n], the score that each component's label must exceed; minus infinity if the method
        has no threshold.
    confidence
        float32[n], the probability that the best word is right
        (:mod:`semlens.lenses.labelling.confidence`); NaN where it is not known.
    stability
        float32[n], the share of bootstrap samples of the images with the same label; NaN if it was
        not asked for.
    names
        The label of each component; None below the threshold.
    share
        float32[n], the share of the examples that show the best word
        (:mod:`semlens.lenses.labelling.mixed`); NaN where that cannot be told.
    """

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    concepts: ConceptSet
    threshold: float | None
    rows: Int64[np.ndarray, " n"]
    concept: Int64[np.ndarray, "n k"]
    score: Float32[np.ndarray, "n k"]
    margin: Float32[np.ndarray, " n"]
    thresholds: Float32[np.ndarray, " n"]
    confidence: Float32[np.ndarray, " n"]
    stability: Float32[np.ndarray, " n"]
    names: list[str | None]
    share: Float32[np.ndarray, " n"]
    database: Database
    chosen: ChosenMethod
    """The method, with its parameters."""
    shown: int = SHOWN
    """Components shown in a terminal; 0 for all."""

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.rows)

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.chosen.name

    @property
    def calibrated(self) -> bool:
        """Whether the confidence was calibrated for the database's embedder."""
        return is_calibrated(self.database.manifest.embedder.fingerprint, self.method)

    @property
    def labelled(self) -> int:
        """Number of components with a label."""
        return int(self.is_labelled.sum())

    @property
    def is_labelled(self) -> Bool[np.ndarray, " n"]:
        """Whether each component has a label."""
        return self.score[:, 0] > self.thresholds

    def label(self, position: int) -> str | None:
        """Return the label of the component at a position, or None below the threshold."""
        return self.names[position]

    def shown_label(self, position: int) -> str | None:
        """Return the label, marked as unsure if it is, or None below the threshold."""
        label, confidence = self.label(position), float(self.confidence[position])
        words = [self.concepts.concepts[i].name for i in self.concept[position]]
        second = rival(label, words, self.score[position].tolist(), confidence)
        return as_shown(label, confidence, second)

    def of(self, component: Component | str) -> str | None:
        """Return the label of a component, or None."""
        position = np.flatnonzero(self.rows == self.database.rows_of(component)[0])
        return self.label(int(position[0])) if len(position) else None

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component: label or None, score, threshold, candidates.

        A threshold that there is not is NaN. ``shown`` is the share of the examples that show the
        first candidate. A mixed label has no category.
        """
        items = self.concepts.concepts
        first = zip(self.concept[:, 0], self.names, strict=True)
        categories = [items[i].category if name == items[i].name else None for i, name in first]
        frame = self.database.components.iloc[self.rows][["layer", "index", "sign"]]
        frame = frame.reset_index(drop=True)
        frame.insert(0, "component", self.database.names(self.rows))
        return frame.assign(
            label=self.names,
            category=categories,
            score=self.score[:, 0],
            threshold=np.where(np.isfinite(self.thresholds), self.thresholds, np.nan),
            margin=self.margin,
            confidence=self.confidence,
            stability=self.stability,
            shown=self.share,
            candidates=[[items[i].name for i in row] for row in self.concept],
            scores=[[float(v) for v in row] for row in self.score],
            method=str(self.chosen),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "concepts": self.concepts.name,
            "method": self.method,
            "parameters": self.chosen.parameters,
            "threshold": self.threshold,
            "labelled": self.labelled,
            "calibrated": self.calibrated,
            "labels": self.to_pandas().drop(columns="method").to_dict("records"),
        }

    def save_to_database(self, name: str = "default") -> Path:
        """Save the table in the database, as ``analysis/labels-NAME.parquet``."""
        return self.database.save_analysis(f"labels-{name}", self.to_pandas())

    def section(self, target: str | None = None) -> Section:
        """Return how many components have a label, and the most frequent ones."""
        frame = self.to_pandas()
        words: Any = frame.loc[frame["category"].notna(), "label"]
        counts: Any = words.value_counts()
        frequent = ", ".join(f"{name} ({count})" for name, count in counts.head(5).items())
        sentences = [f"{self._title}.", *([f"Most frequent: {frequent}."] if frequent else [])]
        limits = "A label is a word above noise; a better one may not be in the set."
        return Section(sentences, None, frame, limits)

    def plot(self, shown: int = 20) -> Image.Image:
        """Draw the examples of the first components, one row each, with their labels."""
        captions = [
            self.shown_label(position) or "none" for position in range(min(shown, len(self)))
        ]
        return sheet(self.database, self.rows[:shown].tolist(), captions=captions)

    @property
    def _title(self) -> str:
        counts = f"{self.labelled} of {len(self)} labelled"
        title = f"{counts} from '{self.concepts.name}' by {self.chosen}"
        known = not len(self) or np.isfinite(self.thresholds).any()
        return title if known else f"{title}, without a threshold"

    def __rich__(self) -> RenderableType:
        """Return the table of the first components."""
        frame = self.to_pandas().head(self.shown or len(self))
        # a score means little beside a confidence: that of a vote depends on the list of words
        known = np.isfinite(self.confidence).any()
        measures = ["confidence"] if known else ["score", "threshold"]
        columns = ["component", "label", *measures, "shown", "candidates"]
        if np.isfinite(self.stability).any():
            columns.insert(-1, "stability")
        names = [self.shown_label(position) or "none" for position in range(len(frame))]
        table = rich_table(frame.assign(label=names), self._title, columns)
        more = len(self) - len(frame)
        return Group(table, Text(f"{more} more in to_pandas()")) if more else table

    def _html(self) -> str:
        """Return the first labels with their components' examples for notebooks."""
        return cards_html(
            self.database,
            self._title,
            [(int(row), self.shown_label(i) or "none") for i, row in enumerate(self.rows[:20])],
        )
