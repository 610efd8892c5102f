"""What a class relies on and no concept of a set describes (paper, 4.1.2 and Fig. 2d)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.class_relevance import MINIMUM, Minimum, relevant_rows
from semlens.analysis.classes import class_name, find_class
from semlens.analysis.concepts import as_concepts
from semlens.analysis.describe.clusters import best_concepts
from semlens.analysis.describe.provenance import (
    among_classes,
    clarity_of,
    driven_classes,
    example_files,
    examples_shown,
)
from semlens.analysis.label import VOCABULARY, LabelConcepts
from semlens.analysis.query_embedding import alignment, embed_concepts
from semlens.analysis.result import Result, check_end
from semlens.draw.text_table import rich_table
from semlens.embedders.load import Embedder
from semlens.errors import EmbedderError
from semlens.settings import question, setting
from semlens.store.atomic_files import save_csv
from semlens.store.reader import Database
from semlens.types import Components, Layers, Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN, CROPS, BARS = 6, 6, 5
"""Components, examples and classes in the picture."""


@dataclass(frozen=True, repr=False, eq=False)
class Unexpected(Result):
    """Components that matter for a class and that no concept describes, most relevant first.

    Parameters
    ----------
    target, name
        The class: its logit and its name.
    concepts
        Name of the concept set.
    threshold
        Components whose best alignment is at or below it have no label; NaN where components
        were named.
    minimum
        Components whose largest share reaches it are relevant.
    frame
        One row per component: relevance (mean, max), nearest concepts and alignments, clarity,
        the class's share and rank among the classes, and what its examples show.
    classes
        One row per component and class: mean and max of its share, the largest mean first.
    files
        One row per component and concept example: rank, path, class, logit, activation, sample.
    layers
        One row per layer: relevant and unexpected components, and the part of the relevant
        components' relevance that the unexpected ones carry.
    """

    target: int
    name: str
    concepts: str
    threshold: float
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
        """How many components with a vector are relevant for the class."""
        return sum(self.layers["relevant"])

    @property
    def found(self) -> int:
        """How many of them no concept describes: with ``top``, more than the frame has."""
        return sum(self.layers["unexpected"])

    @property
    def components(self) -> list[str]:
        """Their names, the most relevant first."""
        return self.frame["component"].tolist()

    def summary(self) -> str:
        """Say in words how much was found."""
        if not self.relevant:
            return f"No component has {self.minimum:.1%} of the relevance for '{self.name}'."
        if not self.found:
            return (
                f"Every one of the {self.relevant} components that matter for '{self.name}' has a "
                f"concept of '{self.concepts}'."
            )
        parts = ", ".join(
            f"{row['layer']} {row['unexpected']} of {row['relevant']} "
            f"({row['relevance_share']:.0%} of their relevance)"
            for row in self.layers.to_dict("records")
            if row["relevant"]
        )
        return (
            f"No concept of '{self.concepts}' describes {self.found} of the {self.relevant} "
            f"components that matter for '{self.name}': {parts}."
        )

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component."""
        return self.frame

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        driven = dict(iter(self.classes.groupby("component")))
        behind = dict(iter(self.files.groupby("component")))
        return {
            "target": {"logit": self.target, "name": self.name},
            "concepts": self.concepts,
            "threshold": self.threshold,
            "minimum": self.minimum,
            "relevant": self.relevant,
            "layers": self.layers.to_dict("records"),
            "components": [
                {
                    **row,
                    "classes": _records(driven.get(row["component"])),
                    "files": _records(behind.get(row["component"])),
                }
                for row in self.frame.to_dict("records")
            ],
        }

    def save_files(self, path: str | Path) -> None:
        """Write the samples behind the components as CSV.

        Raises
        ------
        StoreError
            If the path does not end in .csv, or cannot be written.
        """
        save_csv(check_end(path, (".csv",)), self.files)

    def plot(self, shown: int = DRAWN) -> Figure:
        """Draw the strongest ones with their examples and classes, as Fig. 2d does."""
        from semlens.draw.component_plots import draw_unexpected

        return draw_unexpected(
            f"What '{self.name}' relies on and no concept of '{self.concepts}' describes",
            [self._card(row) for row in self.frame.head(shown).to_dict("records")],
            self.found - min(shown, len(self)),
        )

    def _card(self, row: dict[str, Any]) -> Any:
        from semlens.draw.component_plots import UnexpectedCard
        from semlens.draw.example_sheet import example_pictures

        mine: Any = self.classes[self.classes["component"] == row["component"]]
        first = mine[mine["mean"] > 0].head(BARS)
        if self.target not in set(first["logit"]):
            first = pd.concat([first.head(BARS - 1), mine[mine["logit"] == self.target]])
        files: Any = self.files[self.files["component"] == row["component"]]
        return UnexpectedCard(
            row["component"],
            row["mean"],
            row["nearest"][0],
            row["alignments"][0],
            example_pictures(self.database, self.database.rows_of(row["component"])[0], CROPS),
            files["path"].head(CROPS).tolist(),
            list(zip(first["class"], first["mean"], first["logit"] == self.target, strict=True)),
        )

    def __rich__(self) -> RenderableType:
        """Return what a terminal shows."""
        if not len(self):
            return Text(self.summary())
        others = self.classes[(self.classes["mean"] > 0) & (self.classes["logit"] != self.target)]
        also = others.groupby("component")["class"].agg(lambda names: ", ".join(names[:2]))
        frame: Any = self.frame
        shown = pd.DataFrame(
            {
                "component": frame["component"],
                "mean": [f"{value:.1%}" for value in frame["mean"]],
                "max": [f"{value:.1%}" for value in frame["max"]],
                "nearest": frame["nearest"].str[0],
                "alignment": frame["alignments"].str[0],
                "clarity": frame["clarity"],
                "examples": frame["examples_show"],
                "also drives": [also.get(name, "") for name in frame["component"]],
            }
        )
        return Group(rich_table(shown), Text(self.summary()))


@question("embedder")
def unexpected(
    database: Database,
    target: Target,
    concepts: LabelConcepts = VOCABULARY,
    *,
    layers: Layers = None,
    threshold: Annotated[
        float | None,
        setting("A component without an alignment above this has no label [0]."),
    ] = None,
    minimum: Minimum = MINIMUM,
    top: Annotated[int | None, setting("Components at most.", ge=1)] = None,
    nearest: Annotated[int, setting("Nearest concepts to tell.", ge=1)] = 3,
    components: Components | None = None,
) -> Unexpected:
    """Find the components that matter for a class and that no concept describes.

    Only the relevant components are compared with the concepts; without examples there is no
    vector to compare.

    Parameters
    ----------
    concepts
        What one expects, or knows of.
    layers
        Layers to look at; all by default.
    threshold
        Components whose best alignment is at or below it have no label: 0, the alignment of
        the empty template, unless given (paper, 4.1.2).
    components
        Describe these, if relevant, instead of those at or below a threshold: an audit's
        (``audit.unexpected``) are held against chance.

    Raises
    ------
    RelevanceError
        If the database has no relevance for this class.
    EmbedderError
        If the embedder reads no texts.
    """
    number, known = find_class(database, target), as_concepts(concepts)
    limit = float("nan") if components is not None else _limit(database.embedder, threshold)
    names = database.layer_names(layers)
    mine: Any = relevant_rows(database, number, names, minimum, empty_ok=True)
    mine = mine[database.has_examples[mine["component"].to_numpy()]]
    values = alignment(
        database.theta[mine["component"].to_numpy()], embed_concepts(database, known)
    )
    lacking = ~(values.max(axis=1, initial=-np.inf) > limit)
    if components is not None:
        lacking = mine["component"].isin(database.rows_of(components)).to_numpy()
    chosen: Any = mine[lacking].head(len(mine) if top is None else top).reset_index(drop=True)
    rows = chosen["component"].to_numpy(np.int64)
    every = [concept.name for concept in known.concepts]
    near = [best_concepts(line, every, -np.inf, nearest) for line in values[lacking][: len(rows)]]
    classes = driven_classes(database, rows, names)
    files = example_files(database, rows)
    frame = chosen.assign(
        component=database.names(rows),
        nearest=[list(best) for best in near],
        alignments=[list(best.values()) for best in near],
        clarity=clarity_of(database, rows),
    )
    more = [among_classes(classes, rows, number), examples_shown(files, rows, number)]
    frame = pd.concat([frame, *more], axis=1)
    for table in (classes, files):
        table.insert(0, "component", database.names(table.pop("row").to_numpy(np.int64)))
    return Unexpected(
        number, class_name(database, number), known.name, limit, minimum,
        frame, classes, files, _layers(names, mine, lacking), database,
    )  # fmt: skip


def _limit(embedder: Embedder, threshold: float | None) -> float:
    """Return the threshold; without an empty template zero means nothing."""
    if threshold is not None or embedder.has_text:
        return 0.0 if threshold is None else threshold
    raise EmbedderError(
        f"The embedder '{embedder.spec}' reads images only: it has no empty template to compare "
        "with, so that no component is known to lack a label.",
        "Expected a database whose embedder reads texts, or a threshold of the cosine.",
        "Build a database with such an embedder; or give concepts as images, and a threshold.",
    )


def _layers(names: Sequence[str], mine: pd.DataFrame, lacking: np.ndarray) -> pd.DataFrame:
    """Count by layer; only what speaks for the class on average has a part in its relevance."""
    weight = mine["mean"].clip(lower=0).astype(float)
    table: Any = pd.DataFrame(
        {"relevant": 1, "unexpected": lacking, "total": weight, "part": weight * lacking}
    )
    table = table.groupby(mine["layer"]).sum().reindex(list(names), fill_value=0)
    share = table.pop("part") / table.pop("total")
    table = table.astype(np.int64).assign(relevance_share=share.fillna(0.0))
    return table.rename_axis("layer").reset_index()


def _records(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    return [] if frame is None else frame.drop(columns="component").to_dict("records")
