"""Components that a class relies on but no concept of a set describes (paper, 4.1.2, Fig. 2d)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.text_table import rich_table
from semlens.figures import FigureSpec, PictureRow, Pictures
from semlens.lens import lens
from semlens.lenses.arguments import Class, LabelConcepts
from semlens.lenses.class_relevance import MINIMUM, Minimum, relevant_rows
from semlens.lenses.classes import class_name
from semlens.lenses.describe.classes_and_samples import (
    clarity_of_rows,
    example_files,
    relevance_by_class,
    share_among_classes,
    summarize_examples,
)
from semlens.lenses.labelling.chosen_method import PAPER_METHOD, choose_method
from semlens.lenses.labelling.label import VOCABULARY, LabelThreshold
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.ranking import rank_words
from semlens.lenses.query_embedding import embed_concepts
from semlens.lenses.result import Result, Section, check_suffix
from semlens.settings import setting
from semlens.store.atomic_files import save_csv
from semlens.store.reader import Database
from semlens.types import Components, Layers

if TYPE_CHECKING:
    pass

UnexpectedMethod = Annotated[str | Labeller, setting("Labelling method.")]
DRAWN, CROPS, BARS = 6, 6, 5
"""Components, examples and classes in the figure."""


@dataclass(frozen=True, repr=False, eq=False)
class Unexpected(Result):
    """Components that are relevant for a class but described by no concept, most relevant first.

    Parameters
    ----------
    target, name
        The class: its logit and its name.
    concepts
        Name of the concept set.
    method
        The labelling method.
    threshold
        Components whose best score does not exceed it have no label; None if it was
        calibrated, or if components were given.
    minimum
        Components whose largest share of relevance reaches it are relevant.
    frame
        One row per component: relevance (mean, max), nearest concepts and their scores, the
        threshold (NaN if components were given), clarity, the class's share and rank among the
        classes, and the classes of its examples.
    classes
        One row per component and class: mean and max of its share, largest mean first.
    files
        One row per component and concept example: rank, path, class, logit, activation (or
        relevance, if that ranks the examples), sample.
    layers
        One row per layer: relevant and unexpected components, and the unexpected ones' share
        of the relevant components' relevance.
    """

    target: int
    name: str
    concepts: str
    method: str
    threshold: float | None
    minimum: float
    frame: pd.DataFrame
    classes: pd.DataFrame
    files: pd.DataFrame
    layers: pd.DataFrame
    database: Database

    def __len__(self) -> int:
        """Return the number of unexpected components."""
        return len(self.frame)

    @property
    def relevant(self) -> int:
        """Number of components with a vector that are relevant for the class."""
        return sum(self.layers["relevant"])

    @property
    def total(self) -> int:
        """Number of these that no concept describes, including those beyond ``top``."""
        return sum(self.layers["unexpected"])

    @property
    def components(self) -> list[str]:
        """Names of the components, most relevant first."""
        return self.frame["component"].tolist()

    def summary(self) -> str:
        """Return the result in a sentence."""
        if not self.relevant:
            return f"No component has {self.minimum:.1%} of the relevance for '{self.name}'."
        if not self.total:
            return (
                f"All {self.relevant} components that matter for '{self.name}' are described by "
                f"concepts of '{self.concepts}'."
            )
        layers = ", ".join(
            f"{row['layer']} {row['unexpected']} of {row['relevant']} "
            f"({row['relevance_share']:.0%} of their relevance)"
            for row in self.layers.to_dict("records")
            if row["relevant"]
        )
        return (
            f"No concept of '{self.concepts}' describes {self.total} of the {self.relevant} "
            f"components that matter for '{self.name}': {layers}."
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component."""
        return self.frame.copy()

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        classes_of = dict(iter(self.classes.groupby("component")))
        files_of = dict(iter(self.files.groupby("component")))
        return {
            "target": {"logit": self.target, "name": self.name},
            "concepts": self.concepts,
            "method": self.method,
            "threshold": self.threshold,
            "minimum": self.minimum,
            "relevant": self.relevant,
            "layers": self.layers.to_dict("records"),
            "components": [
                {
                    **row,
                    "classes": _records(classes_of.get(row["component"])),
                    "files": _records(files_of.get(row["component"])),
                }
                for row in self.frame.to_dict("records")
            ],
        }

    def save_files(self, path: str | Path) -> None:
        """Write the samples of the components' examples as CSV.

        Raises
        ------
        StoreError
            If the path does not end in .csv, or cannot be written.
        """
        save_csv(check_suffix(path, (".csv",)), self.files)

    def figure(self) -> FigureSpec:
        """Return the most relevant components with their examples and classes, as in Fig. 2d."""
        rows = [self._row(row) for row in self.frame.head(DRAWN).to_dict("records")]
        title = f"What '{self.name}' relies on and no concept of '{self.concepts}' describes"
        if self.total > len(rows):
            title += f" ({self.total - len(rows)} more)"
        note = "" if rows else "Every relevant component is described by a concept."
        if rows and not any(row.pictures for row in rows):
            note = "The database has no thumbnails."
        return FigureSpec(title, [Pictures(note, rows)])

    def _row(self, row: dict[str, Any]) -> PictureRow:
        from semlens.draw.example_sheet import example_pictures

        classes: Any = self.classes[self.classes["component"] == row["component"]]
        others = classes[(classes["mean"] > 0) & (classes["logit"] != self.target)].head(BARS - 1)
        shares = [f"{one['class']} {one['mean']:.1%}" for one in others.to_dict("records")]
        text = f"{row['mean']:.1%}, nearest: {row['nearest'][0]} ({row['scores'][0]:+.3f})."
        text += f" Also for {', '.join(shares)}." if shares else ""
        number = self.database.rows_of(row["component"])[0]
        pictures = example_pictures(self.database, number, CROPS)
        files: Any = self.files[self.files["component"] == row["component"]]
        names = [PurePosixPath(path).name for path in files["path"].head(len(pictures))]
        return PictureRow(pictures, row["component"], text, names)

    def section(self, target: str | None = None) -> Section:
        """Return the summary, with the figure and the table."""
        limits = "A concept may be missing in the set although it has a word."
        return Section([self.summary()], self.figure(), self.to_pandas(), limits)

    def __rich__(self) -> RenderableType:
        """Return the table and the summary for a terminal."""
        if not len(self):
            return Text(self.summary())
        others = self.classes[(self.classes["mean"] > 0) & (self.classes["logit"] != self.target)]
        other_classes = others.groupby("component")["class"].agg(lambda names: ", ".join(names[:2]))
        frame: Any = self.frame
        table = pd.DataFrame(
            {
                "component": frame["component"],
                "mean": [f"{value:.1%}" for value in frame["mean"]],
                "max": [f"{value:.1%}" for value in frame["max"]],
                "nearest": frame["nearest"].str[0],
                "score": frame["scores"].str[0],
                "threshold": frame["threshold"],
                "clarity": frame["clarity"],
                "examples": frame["examples_show"],
                "also drives": [other_classes.get(name, "") for name in frame["component"]],
            }
        )
        return Group(rich_table(table), Text(self.summary()))


@lens("embedder", group="Describe", command="")
def unexpected(
    database: Database,
    target: Class,
    concepts: LabelConcepts = VOCABULARY,
    *,
    layers: Layers = None,
    method: UnexpectedMethod = PAPER_METHOD,
    threshold: LabelThreshold = None,
    minimum: Minimum = MINIMUM,
    top: Annotated[int | None, setting("Maximum number of components.", ge=1)] = None,
    nearest: Annotated[int, setting("Nearest concepts to report.", ge=1)] = 3,
    components: Components | None = None,
) -> Unexpected:
    """Find components that are relevant for a class but described by no concept.

    Only relevant components with examples are compared with the concepts.

    Parameters
    ----------
    concepts
        Expected or known concepts.
    layers
        Layers to include; all by default.
    method, threshold
        As for ``label``. A component whose best score does not exceed the threshold has no label.
        By default the score is the alignment: unlike a vote, it does not depend on the other
        concepts, so that a short list may describe a component badly. The paper's threshold is 0,
        the alignment of the empty template (4.1.2).
    components
        Describe these, if relevant, instead of those without a label; for example an audit's
        (``audit.unexpected``), which are tested against chance.

    Raises
    ------
    RelevanceError
        If the database has no relevance for this class.
    EmbedderError
        If the embedder reads no texts.
    """
    layer_names = database.layer_names(layers)
    relevant: Any = relevant_rows(database, target, layer_names, minimum, empty_ok=True)
    relevant = relevant[database.has_examples[relevant["component"].to_numpy()]]
    candidates = relevant["component"].to_numpy(np.int64)
    embedding = embed_concepts(database, concepts)
    chosen = choose_method([database], method, len(concepts))
    ranked = rank_words(database, candidates, embedding, chosen, names=nearest, threshold=threshold)
    if components is None:
        thresholds = ranked.thresholds
        is_unexpected = ~(ranked.score[:, 0] > thresholds)
    else:
        thresholds = np.full(len(candidates), np.nan, np.float32)
        is_unexpected = np.isin(candidates, database.rows_of(components))
    selected: Any = (
        relevant[is_unexpected].head(len(relevant) if top is None else top).reset_index(drop=True)
    )
    rows = selected["component"].to_numpy(np.int64)
    nearest_concepts = [
        ranked.best(position, embedding.names, nearest)
        for position in np.flatnonzero(is_unexpected)[: len(rows)].tolist()
    ]
    classes = relevance_by_class(database, rows, layer_names)
    files = example_files(database, rows)
    frame = selected.assign(
        component=database.names(rows),
        nearest=[[embedding.names[i] for i, _ in best] for best in nearest_concepts],
        scores=[[score for _, score in best] for best in nearest_concepts],
        threshold=thresholds[is_unexpected][: len(rows)],
        clarity=clarity_of_rows(database, rows),
    )
    details = [share_among_classes(classes, rows, target), summarize_examples(files, rows, target)]
    frame = pd.concat([frame, *details], axis=1)
    for table in (classes, files):
        table.insert(0, "component", database.names(table.pop("row").to_numpy(np.int64)))
    return Unexpected(
        target, class_name(database, target), concepts.name, str(chosen),
        threshold if components is None else None, minimum,
        frame, classes, files, _layers(layer_names, relevant, is_unexpected), database,
    )  # fmt: skip


def _layers(
    names: Sequence[str], relevant: pd.DataFrame, is_unexpected: np.ndarray
) -> pd.DataFrame:
    """Count by layer; only positive mean relevance counts for the relevance share."""
    weight = relevant["mean"].clip(lower=0).astype(float)
    table: Any = pd.DataFrame(
        {
            "relevant": 1,
            "unexpected": is_unexpected,
            "total": weight,
            "part": weight * is_unexpected,
        }
    )
    table = table.groupby(relevant["layer"]).sum().reindex(list(names), fill_value=0)
    share = table.pop("part") / table.pop("total")
    table = table.astype(np.int64).assign(relevance_share=share.fillna(0.0))
    return table.rename_axis("layer").reset_index()


def _records(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    return [] if frame is None else frame.drop(columns="component").to_dict("records")
