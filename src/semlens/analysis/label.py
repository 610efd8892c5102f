"""Labels: the best concept of a set for each component, if any (paper, 4.1.2 and D.3)."""

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
from semlens.analysis.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result
from semlens.draw.example_sheet import sheet
from semlens.draw.html import cards_html
from semlens.draw.text_table import rich_table
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Layers

VOCABULARY = "paper-vocabulary"
"""Default concept set of labels."""
THRESHOLD = 0.025
"""Minimum alignment of a label (paper, D.3)."""
SHOWN = 40
"""Components shown in a terminal."""
CHUNK = 16384
"""Components that are compared with the concepts in one step."""
LabelConcepts = Annotated[
    Concepts,
    setting("File, folder or name of a bundled concept set; repeat to combine several."),
]


@dataclass(frozen=True, eq=False, repr=False)
class Labels(Result):
    """Label candidates of n components, best first.

    Parameters
    ----------
    rows
        int64[n], the components' rows.
    concept
        int64[n k], indices into the concept set.
    score
        float32[n k], their alignments.
    margin
        float32[n], best alignment minus that of the next other name; NaN with one name.
    """

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    concepts: ConceptSet
    threshold: float
    rows: Int64[np.ndarray, " n"]
    concept: Int64[np.ndarray, "n k"]
    score: Float32[np.ndarray, "n k"]
    margin: Float32[np.ndarray, " n"]
    database: Database
    shown: int = SHOWN
    """Components shown in a terminal; 0 for all."""

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.rows)

    @property
    def labelled(self) -> int:
        """Number of components with a label."""
        return int((self.score[:, 0] > self.threshold).sum())

    def label(self, position: int) -> str | None:
        """Return the label of the component at a position, or None below the threshold."""
        labelled = self.score[position, 0] > self.threshold
        return self.concepts.concepts[self.concept[position, 0]].name if labelled else None

    def of(self, component: Component | str) -> str | None:
        """Return the label of a component, or None."""
        position = np.flatnonzero(self.rows == self.database.rows_of(component)[0])
        return self.label(int(position[0])) if len(position) else None

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component: label or None, alignment, margin, candidates."""
        items = self.concepts.concepts
        best = np.where(self.score[:, 0] > self.threshold, self.concept[:, 0], -1)
        frame = self.database.components.iloc[self.rows][["layer", "index", "sign"]]
        frame = frame.reset_index(drop=True)
        frame.insert(0, "component", self.database.names(self.rows))
        return frame.assign(
            label=[items[i].name if i >= 0 else None for i in best],
            category=[items[i].category if i >= 0 else None for i in best],
            alignment=self.score[:, 0],
            margin=self.margin,
            candidates=[[items[i].name for i in row] for row in self.concept],
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

    def save_to_database(self, name: str = "default") -> Path:
        """Save the table in the database, as ``analysis/labels-NAME.parquet``."""
        return self.database.save_analysis(f"labels-{name}", self.to_pandas())

    def plot(self, shown: int = 20) -> Image.Image:
        """Draw the examples of the first components, one row each, with their labels."""
        captions = [self.label(position) or "none" for position in range(min(shown, len(self)))]
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
    threshold: Annotated[float, setting("Minimum alignment of a label.")] = THRESHOLD,
    candidates: Annotated[int, setting("Candidates per component.", ge=1)] = 3,
    templates: Sequence[str] | None = None,
) -> Labels:
    """Label components with the concepts of a set.

    A label must exceed the alignment of the empty templates by ``threshold``, otherwise the
    component has no label. Components without examples are excluded.

    Raises
    ------
    ConceptError
        If there is no such concept set.
    EmbedderError
        If a concept is a text and the embedder reads no texts.
    """
    concept_set = as_concepts(concepts)
    embedding = embed_concepts(database, concept_set, templates)
    rows = database.rows(layers)
    rows = rows[database.has_examples[rows]]
    name_ids = np.unique([c.name for c in concept_set.concepts], return_inverse=True)[1]
    count = min(candidates, len(concept_set))
    indices = np.zeros((len(rows), count), np.int64)
    scores = np.zeros((len(rows), count), np.float32)
    margin = np.full(len(rows), np.nan, np.float32)
    for start in range(0, len(rows), CHUNK):
        block = slice(start, start + CHUNK)
        values = alignment(database.theta[rows[block]], embedding)
        best = values.argmax(1)
        # a name may occur in two categories: the margin is to the next other name
        same_name = name_ids[None] == name_ids[best][:, None]
        runner_up = np.where(same_name, np.float32(-np.inf), values).max(1)
        margin[block] = np.where(np.isfinite(runner_up), values.max(1) - runner_up, np.nan)
        indices[block], scores[block] = _top_k(values, count)
    return Labels(concept_set, threshold, rows, indices, scores, margin, database)


def _top_k(
    values: Float32[np.ndarray, "n q"], count: int
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Return indices and values of the largest entries of each row; ties by index.

    Overwrites ``values``: for a few entries, repeated maxima are much faster than sorting.
    """
    indices = np.zeros((len(values), count), np.int64)
    largest = np.zeros((len(values), count), np.float32)
    row = np.arange(len(values))
    for rank in range(count):
        indices[:, rank] = values.argmax(1)
        largest[:, rank] = values[row, indices[:, rank]]
        values[row, indices[:, rank]] = -np.inf
    return indices, largest


NO_LABELS = "none"
ComponentLabels = Labels | Mapping[Component, str] | None
"""Labels by component; None for no labels."""
LabelSource = Annotated[
    Concepts | Labels | Mapping[Component, str] | None,
    setting(
        "Concepts that label the components: file, folder or name of a bundled set; repeat to "
        "combine several; 'none' for no labels."
    ),
]
"""Source of the labels that a question shows."""


class UnlabelledWarning(UserWarning):
    """Components have no labels because the database's embedder reads no texts."""


def as_labels(
    database: Database, source: LabelSource, layers: Layers = None, threshold: float = THRESHOLD
) -> ComponentLabels:
    """Return the labels of components of some layers, from any kind of source.

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
        message = "Components have no labels because the database's embedder reads no texts."
        warnings.warn(message, UnlabelledWarning, stacklevel=4)
        return None
    return label(database, cast(Concepts, source), layers=layers, threshold=threshold)


def label_of(labels: ComponentLabels, component: Component) -> str | None:
    """Return the label of a component, or None."""
    if isinstance(labels, Labels):
        return labels.of(component)
    return None if labels is None else labels.get(component)
