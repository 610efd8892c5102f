"""Labels: the best concept of a set for each component, or none (paper, 4.1.2 and D.3)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.concepts import Concepts, ConceptSet, as_concepts
from semlens.analysis.query_embedding import alignment, embed_concepts
from semlens.analysis.result import PICTURES, TABLES, Result
from semlens.draw.example_sheet import sheet
from semlens.draw.html import cards_html
from semlens.draw.text_table import rich_table
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Layers

VOCABULARY = "paper-vocabulary"
"""The concept set that labels are taken from by default."""
THRESHOLD = 0.025
"""Least alignment of a label (paper, D.3)."""
SHOWN = 40
"""Components that a terminal shows."""
CHUNK = 16384
"""Components that are labelled at a time."""
LabelConcepts = Annotated[
    Concepts,
    setting("File, folder or name of a bundled concept set; given again, sets are joined."),
]


@dataclass(frozen=True, eq=False, repr=False)
class Labels(Result):
    """Candidates for n components, best first.

    Parameters
    ----------
    rows
        int64[n], the components' rows.
    concept
        int64[n k], places in the concept set.
    score
        float32[n k], their alignments.
    margin
        float32[n], best less second best of another name; NaN with one concept.
    """

    ends = (*PICTURES, *TABLES)

    concepts: ConceptSet
    threshold: float
    rows: Int64[np.ndarray, " n"]
    concept: Int64[np.ndarray, "n k"]
    score: Float32[np.ndarray, "n k"]
    margin: Float32[np.ndarray, " n"]
    database: Database
    shown: int = SHOWN
    """Components that a terminal shows; 0 for all."""

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.rows)

    @property
    def labelled(self) -> int:
        """How many components have a label."""
        return int((self.score[:, 0] > self.threshold).sum())

    def label(self, place: int) -> str | None:
        """Return the label of the component at ``place``, or None below the threshold."""
        known = self.score[place, 0] > self.threshold
        return self.concepts.concepts[self.concept[place, 0]].name if known else None

    def of(self, component: Component | str) -> str | None:
        """Return the label of a component, or None."""
        place = np.flatnonzero(self.rows == self.database.rows_of(component)[0])
        return self.label(int(place[0])) if len(place) else None

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component: label or None, alignment, margin, candidates."""
        named = self.concepts.concepts
        best = np.where(self.score[:, 0] > self.threshold, self.concept[:, 0], -1)
        frame = self.database.components.iloc[self.rows][["layer", "index", "sign"]]
        frame = frame.reset_index(drop=True)
        frame.insert(0, "component", self.database.names(self.rows))
        return frame.assign(
            label=[named[i].name if i >= 0 else None for i in best],
            category=[named[i].category if i >= 0 else None for i in best],
            alignment=self.score[:, 0],
            margin=self.margin,
            candidates=[[named[i].name for i in row] for row in self.concept],
            alignments=[[float(v) for v in row] for row in self.score],
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "concepts": self.concepts.name,
            "threshold": self.threshold,
            "labelled": self.labelled,
            "labels": self.to_pandas().to_dict("records"),
        }

    def keep(self, name: str = "default") -> Path:
        """Keep the table as ``analysis/labels-NAME.parquet`` in the database."""
        return self.database.save_analysis(f"labels-{name}", self.to_pandas())

    def plot(self, shown: int = 20) -> Image.Image:
        """Draw the examples of the first components, a row each, with their labels."""
        captions = [self.label(place) or "none" for place in range(min(shown, len(self)))]
        return sheet(self.database, self.rows[:shown].tolist(), captions=captions)

    def __rich__(self) -> RenderableType:
        """Return the table of the first components."""
        frame = self.to_pandas().head(self.shown or len(self))
        title = f"{self.labelled} of {len(self)} labelled from '{self.concepts.name}'"
        columns = ["component", "label", "alignment", "margin", "candidates"]
        table = rich_table(frame.assign(label=frame["label"].fillna("none")), title, columns)
        more = len(self) - len(frame)
        return Group(table, Text(f"{more} more in to_pandas()")) if more else table

    def _repr_html_(self) -> str:
        """Return the first labels with their components' examples for notebooks."""
        return cards_html(
            self.database,
            f"{self.labelled} of {len(self)} labelled from '{self.concepts.name}'",
            [(int(row), self.label(i) or "none") for i, row in enumerate(self.rows[:20])],
        )


@question("embedder")
def label(
    database: Database,
    concepts: LabelConcepts = VOCABULARY,
    *,
    layers: Layers = None,
    threshold: Annotated[float, setting("Least alignment of a label.")] = THRESHOLD,
    candidates: Annotated[int, setting("Candidates per component.", ge=1)] = 3,
    templates: Sequence[str] | None = None,
) -> Labels:
    """Label components with the concepts of a set.

    A label must beat the empty templates by ``threshold``; else the component is labelled
    "none". Components without examples are left out.

    Raises
    ------
    ConceptError
        If there is no such concept set.
    EmbedderError
        If there are texts and the embedder reads none.
    """
    chosen = as_concepts(concepts)
    probe = embed_concepts(database, chosen, templates)
    rows = database.rows(layers)
    rows = rows[database.has_examples[rows]]
    names = np.unique([c.name for c in chosen.concepts], return_inverse=True)[1]
    kept = min(candidates, len(chosen))
    places = np.zeros((len(rows), kept), np.int64)
    scores = np.zeros((len(rows), kept), np.float32)
    margin = np.full(len(rows), np.nan, np.float32)
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        values = alignment(database.theta[rows[part]], probe)
        best = values.argmax(1)
        # a concept may stand in two categories: the margin is to the next other name
        same = names[None] == names[best][:, None]
        other = np.where(same, np.float32(-np.inf), values).max(1)
        margin[part] = np.where(np.isfinite(other), values.max(1) - other, np.nan)
        places[part], scores[part] = _first(values, kept)
    return Labels(chosen, threshold, rows, places, scores, margin, database)


def _first(
    values: Float32[np.ndarray, "n q"], count: int
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Return the places of the largest values of each row, and these; the first of equal ones.

    Overwrites ``values``: for a few, taking one maximum after the other is far faster than to sort.
    """
    places = np.zeros((len(values), count), np.int64)
    found = np.zeros((len(values), count), np.float32)
    row = np.arange(len(values))
    for rank in range(count):
        places[:, rank] = values.argmax(1)
        found[:, rank] = values[row, places[:, rank]]
        values[row, places[:, rank]] = -np.inf
    return places, found


NO_LABELS = "none"
Named = Labels | Mapping[Component, str] | None
"""Labels by component; None for no labels."""
LabelSource = Annotated[
    Concepts | Labels | Mapping[Component, str] | None,
    setting(
        "Concepts that label the components: a file, a folder or a bundled set; given again, "
        "sets are joined; 'none' for no labels."
    ),
]
"""What labels are taken from wherever a question shows some."""


class UnlabelledWarning(UserWarning):
    """There are no labels, because the database's embedder reads no texts."""


def as_labels(
    database: Database, source: LabelSource, layers: Layers = None, threshold: float = THRESHOLD
) -> Named:
    """Return labels of some layers' components, however they are asked for.

    Raises
    ------
    ConceptError
        If there is no such concept set.
    """
    if source is None or source == NO_LABELS:
        return None
    if isinstance(source, Labels):
        return source
    if isinstance(source, Mapping) and all(isinstance(key, Component) for key in source):
        return cast(Mapping[Component, str], source)
    if source == VOCABULARY and not database.embedder.has_text:
        said = "Components have no labels: the database's embedder reads no texts."
        warnings.warn(said, UnlabelledWarning, stacklevel=4)
        return None
    return label(database, cast(Concepts, source), layers=layers, threshold=threshold)


def label_of(labels: Named, component: Component) -> str | None:
    """Return the label of a component, or None."""
    if isinstance(labels, Labels):
        return labels.of(component)
    return None if labels is None else labels.get(component)
