"""The question of stable labels: under other images of the same kind, and on other data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from rich.console import Group, RenderableType

from semlens.draw.text_table import rich_table
from semlens.errors import LayerError
from semlens.figures import FigureSpec, histograms
from semlens.lens import lens
from semlens.lenses.arguments import LabelConcepts
from semlens.lenses.compare.component_sets import as_databases
from semlens.lenses.labelling.chosen_method import LabelMethod, choose_method
from semlens.lenses.labelling.label import VOCABULARY, label
from semlens.lenses.labelling.stability import DRAWS
from semlens.lenses.result import Result, Section
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

_COLUMNS = ("component", "label", "confidence", "stability")
SHOWN = 40
"""Components shown in a terminal."""


@dataclass(frozen=True, eq=False, repr=False)
class LabelStability(Result):
    """How stable the labels of components are.

    Parameters
    ----------
    frame
        A row per component with examples: ``component``, ``label``, ``confidence``, ``stability``
        (the share of bootstrap samples with the same best word), and for each other database
        ``elsewhere``, ``elsewhere_2``, ...: its label of the component, None for none.
    others
        Names of the other databases.
    method
        The labelling method.
    draws
        Bootstrap samples.
    """

    frame: pd.DataFrame
    others: tuple[str, ...]
    method: str
    draws: int

    @property
    def agreement(self) -> dict[str, float]:
        """By other database, the share of the components labelled by both with the same label."""
        found: dict[str, float] = {}
        for name, column in zip(self.others, _columns(len(self.others)), strict=True):
            pairs = zip(self.frame["label"], self.frame[column], strict=True)
            same = [a == b for a, b in pairs if isinstance(a, str) and isinstance(b, str)]
            found[name] = float(np.mean(same)) if same else float("nan")
        return found

    @property
    def _shares(self) -> Float64[np.ndarray, " n"]:
        """Stability of the components with a label."""
        labelled = self.frame["label"].notna().to_numpy(bool)
        return self.frame["stability"].to_numpy(np.float64)[labelled]

    @property
    def summary(self) -> str:
        """The figures, in sentences."""
        shares = self._shares
        if not len(shares):
            return "No component has a label."
        text = f"{len(shares)} labels by {self.method}"
        if self.draws:
            text += (
                f": {(shares >= 0.9).mean():.0%} are the same in at least 90 % of {self.draws} "
                f"bootstrap samples of the images, {(shares < 0.5).mean():.0%} in fewer than half"
            )
        return " ".join(
            [f"{text}.", *(f"{name}: {v:.0%} the same." for name, v in self.agreement.items())]
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "method": self.method,
            "draws": self.draws,
            "agreement": self.agreement,
            "labels": self.frame.to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return how many labels are the same in which share of the bootstrap samples."""
        title = f"{len(self._shares)} labels by {self.method}, {self.draws} bootstrap samples"
        axis = "share of bootstrap samples with the same label"
        edges = (np.arange(self.draws + 2) - 0.5) / max(self.draws, 1)  # around each share
        return FigureSpec(title, [histograms("", {"labels": self._shares}, axis, edges.tolist())])

    def section(self, target: str | None = None) -> Section:
        """Return the figures in sentences."""
        limits = "A stable label may still be wrong."
        return Section([self.summary], self.figure(), self.to_pandas(), limits)

    def __rich__(self) -> RenderableType:
        """Return the least stable labels and the summary."""
        order = self.frame.sort_values("stability", kind="stable").head(SHOWN)
        return Group(rich_table(order, "the least stable labels", list(order)), self.summary)


@lens(
    "embedder", group="Search", command="labels stability",
    example="labels stability r18.semlens r18-on-other-data.semlens --save stability.csv",
)  # fmt: skip
def label_stability(
    databases: Database | Sequence[Database],
    *others: Database,
    concepts: LabelConcepts = VOCABULARY,
    layers: Layers = None,
    method: LabelMethod = None,
    draws: Annotated[int, setting("Bootstrap samples of the images.", ge=0)] = DRAWS,
) -> LabelStability:
    """Measure whether labels would be the same with other images.

    A label that other images of the same kind would change says little. A stable one may still be
    wrong.

    Parameters
    ----------
    databases, others
        A database, and others of the same model and embedder on other data.
    draws
        The images are resampled so many times, and all components labelled again
        (:func:`semlens.lenses.labelling.stability.resampled`). 0 for none.

    Raises
    ------
    StaleError
        If the embedders differ.
    LayerError
        If another database has none of the components.
    RecipeError
        If there is no such method.
    """
    first, *rest = as_databases(databases, others)
    chosen = choose_method([first, *rest], method, len(concepts))
    labels = label(first, concepts, layers=layers, method=chosen.labeller, stability=draws)
    every = labels.to_pandas()
    frame = pd.DataFrame({name: every[name] for name in _COLUMNS})
    components: list[str] = frame["component"].tolist()
    for column, database in zip(_columns(len(rest)), rest, strict=True):
        found = label(database, concepts, method=chosen.labeller).to_pandas()
        known = dict(zip(found["component"].tolist(), found["label"].tolist(), strict=True))
        if not known.keys() & set(components):
            raise LayerError(
                f"The database '{database.location}' has none of the {len(components)} components.",
                f"Expected one of the same model, with components such as '{components[0]}'.",
                "Build it from the same model with the same layers.",
            )
        frame[column] = [known.get(component) for component in components]
    return LabelStability(frame, tuple(db.location for db in rest), str(chosen), draws)


def _columns(count: int) -> list[str]:
    return ["elsewhere", *(f"elsewhere_{n}" for n in range(2, count + 1))][:count]
