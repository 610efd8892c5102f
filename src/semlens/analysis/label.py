"""Labels: the best concept of a set for each component, if any (paper, 4.1.2 and D.3)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Int64
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.concepts import Concepts, ConceptSet, as_concepts
from semlens.analysis.labelling.scored_blocks import DEFAULT_METHOD, scored_blocks
from semlens.analysis.query_embedding import embed_concepts
from semlens.analysis.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result
from semlens.draw.example_sheet import sheet
from semlens.draw.html import cards_html
from semlens.draw.text_table import rich_table
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Layers

VOCABULARY = "paper-vocabulary"
"""Default concept set of labels."""
PAPER_THRESHOLD = 0.025
"""Minimum alignment of a label in the paper (D.3): not calibrated, so that a label is a hint."""
SHOWN = 40
"""Components shown in a terminal."""
LabelConcepts = Annotated[
    Concepts,
    setting("File, folder or name of a bundled concept set; repeat to combine several."),
]


@dataclass(frozen=True, eq=False, repr=False)
class Labels(Result):
    """Label candidates of n components, best first.

    Parameters
    ----------
    threshold
        The fixed minimum alignment of a label; None if it was calibrated.
    rows
        int64[n], the components' rows.
    concept
        int64[n k], indices into the concept set.
    score
        float32[n k], their alignments, or scores of another method.
    margin
        float32[n], best score minus that of the next other name; NaN with one name.
    thresholds
        float32[n], the score that each component's label must exceed; minus infinity if the method
        has no threshold.
    """

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    concepts: ConceptSet
    threshold: float | None
    rows: Int64[np.ndarray, " n"]
    concept: Int64[np.ndarray, "n k"]
    score: Float32[np.ndarray, "n k"]
    margin: Float32[np.ndarray, " n"]
    thresholds: Float32[np.ndarray, " n"]
    database: Database
    shown: int = SHOWN
    """Components shown in a terminal; 0 for all."""
    method: str = DEFAULT_METHOD

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.rows)

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
        labelled = self.is_labelled[position]
        return self.concepts.concepts[self.concept[position, 0]].name if labelled else None

    def of(self, component: Component | str) -> str | None:
        """Return the label of a component, or None."""
        position = np.flatnonzero(self.rows == self.database.rows_of(component)[0])
        return self.label(int(position[0])) if len(position) else None

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component: label or None, alignment, threshold, candidates.

        The alignments are scores of the method, if it is another; a threshold that there is not
        is NaN.
        """
        items = self.concepts.concepts
        best = np.where(self.is_labelled, self.concept[:, 0], -1)
        frame = self.database.components.iloc[self.rows][["layer", "index", "sign"]]
        frame = frame.reset_index(drop=True)
        frame.insert(0, "component", self.database.names(self.rows))
        return frame.assign(
            label=[items[i].name if i >= 0 else None for i in best],
            category=[items[i].category if i >= 0 else None for i in best],
            alignment=self.score[:, 0],
            threshold=np.where(np.isfinite(self.thresholds), self.thresholds, np.nan),
            margin=self.margin,
            candidates=[[items[i].name for i in row] for row in self.concept],
            alignments=[[float(v) for v in row] for row in self.score],
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "concepts": self.concepts.name,
            "method": self.method,
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

    @property
    def _title(self) -> str:
        title = f"{self.labelled} of {len(self)} labelled from '{self.concepts.name}'"
        if self.method != DEFAULT_METHOD:
            title += f" by {self.method}"
        known = not len(self) or np.isfinite(self.thresholds).any()
        return title if known else f"{title}, without a threshold"

    def __rich__(self) -> RenderableType:
        """Return the table of the first components."""
        frame = self.to_pandas().head(self.shown or len(self))
        columns = ["component", "label", "alignment", "threshold", "margin", "candidates"]
        table = rich_table(frame.assign(label=frame["label"].fillna("none")), self._title, columns)
        more = len(self) - len(frame)
        return Group(table, Text(f"{more} more in to_pandas()")) if more else table

    def _repr_html_(self) -> str:
        """Return the first labels with their components' examples for notebooks."""
        return cards_html(
            self.database,
            self._title,
            [(int(row), self.label(i) or "none") for i, row in enumerate(self.rows[:20])],
        )


CALIBRATED = "Minimum alignment of a label [calibrated: above noise]."


@question("embedder")
def label(
    database: Database,
    concepts: LabelConcepts = VOCABULARY,
    *,
    layers: Layers = None,
    threshold: Annotated[float | None, setting(CALIBRATED)] = None,
    centred: Annotated[
        bool, setting("Subtract the mean of the layer's crops from the vectors.")
    ] = False,
    candidates: Annotated[int, setting("Candidates per component.", ge=1)] = 3,
    method: Annotated[
        str, setting("Labelling method, such as vote-examples, clip-dissect or csp.")
    ] = DEFAULT_METHOD,
    templates: Sequence[str] | None = None,
) -> Labels:
    """Label components with the concepts of a set.

    A label must exceed the alignment of the empty templates by a threshold, otherwise the
    component has no label. Components without examples are excluded.

    Parameters
    ----------
    threshold
        By default it is calibrated for each layer: of components whose examples are random
        crops, 5 % get a label (:mod:`semlens.analysis.noise`). The paper has 0.025 (D.3).
    centred
        Compare the concepts with what sets a component apart from its layer's mean
        (:mod:`semlens.analysis.centring`). Alignments are then not comparable with others.
    method
        A method of :mod:`semlens.analysis.labelling` or of a plug-in, with its scores in place of
        alignments. Its threshold is calibrated in the same way, except for methods that score all
        components together (clip-dissect, soft-wpmi, wpmi): they label every component.

    Raises
    ------
    ConceptError
        If there is no such concept set.
    EmbedderError
        If a concept is a text and the embedder reads no texts.
    RecipeError
        If there is no such method.
    """
    concept_set = as_concepts(concepts)
    embedding = embed_concepts(database, concept_set, templates)
    rows = database.rows(layers)
    rows = rows[database.has_examples[rows]]
    count = min(candidates, len(concept_set))
    name_ids = np.unique([c.name for c in concept_set.concepts], return_inverse=True)[1]
    # a name may be in several categories: the margin is to the next other name
    depth = min(max(count, int(np.bincount(name_ids).max()) + 1), len(concept_set))
    indices = np.zeros((len(rows), count), np.int64)
    scores = np.zeros((len(rows), count), np.float32)
    margin = np.full(len(rows), np.nan, np.float32)
    thresholds = np.zeros(len(rows), np.float32)
    for block in scored_blocks(
        database, rows, embedding, method, threshold=threshold, centred=centred
    ):
        best, largest = _top_k(block.scores, depth)
        other = name_ids[best] != name_ids[best[:, :1]]
        runner_up = largest[np.arange(len(best)), other.argmax(1)]
        margin[block.place] = np.where(other.any(1), largest[:, 0] - runner_up, np.nan)
        indices[block.place], scores[block.place] = best[:, :count], largest[:, :count]
        thresholds[block.place] = block.thresholds
    return Labels(
        concept_set, threshold, rows, indices, scores, margin, thresholds, database, method=method
    )


_FEW = 16


def _top_k(
    values: Float32[np.ndarray, "n q"], count: int
) -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """Return indices and values of the largest entries of each row; ties by index.

    Overwrites ``values``: for a few entries, repeated maxima are much faster than sorting.
    """
    if count > _FEW:
        indices = np.argsort(-values, axis=1, kind="stable")[:, :count]
        return indices, np.take_along_axis(values, indices, 1)
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
LabelThreshold = Annotated[float | None, setting(CALIBRATED, ge=-2, le=2)]
"""Minimum alignment, for questions that also label components; None calibrates it."""
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
    database: Database,
    source: LabelSource,
    layers: Layers = None,
    threshold: float | None = PAPER_THRESHOLD,
) -> ComponentLabels:
    """Return the labels of components of some layers, from any kind of source.

    Labels beside other results are hints, for which the paper's threshold is low enough.

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
