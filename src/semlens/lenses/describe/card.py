"""The card of one component: what it is called, what activates it, how clear it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.example_sheet import sheet
from semlens.draw.text_table import rich_table
from semlens.lens import lens
from semlens.lenses.describe import component_card
from semlens.lenses.labelling.component_labels import saved_names
from semlens.lenses.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result, Section
from semlens.lenses.scores import scores
from semlens.store.reader import Database
from semlens.types import Component


@dataclass(frozen=True, repr=False)
class Card(Result):
    """A component: label, statistics over all images, measures, and classes it is relevant for.

    Parameters
    ----------
    label
        From the newest saved labels; None without a label.
    frame
        One row per statistic and measure: ``name``, ``value`` (NaN: unknown), ``below`` (for
        measures: share of the layer's components with a lower value, else NaN), ``meaning``.
    classes
        One row per class with the largest mean relevance: ``class``, ``mean``, ``max`` (shares of
        the layer's relevance) and ``rank`` in the layer. Empty without class relevance.
    """

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    component: Component
    label: str | None
    frame: pd.DataFrame
    classes: pd.DataFrame
    row: int
    database: Database

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "component": str(self.component),
            "label": self.label,
            "values": self.frame.to_dict("records"),
            "classes": self.classes.to_dict("records"),
        }

    def section(self, target: str | None = None) -> Section:
        """Return the label, and the classes that the component is relevant for."""
        sentences = [f"{self.component} is called '{self.label}'." if self.label else
                     f"{self.component} has no label."]  # fmt: skip
        shares = [f"{row['class']} ({row['mean']:.1%})" for row in self.classes.to_dict("records")]
        sentences += [f"Most relevant for {', '.join(shares)}."] if shares else []
        return Section(sentences, None, self.to_pandas())

    def plot(self, columns: int = 10) -> Image.Image:
        """Draw the examples, strongest first."""
        return sheet(self.database, [self.row], columns, names=[self.label])

    def __rich__(self) -> RenderableType:
        """Return the name, the values and the classes."""
        parts: list[RenderableType] = [Text(f"{self.component}  {self.label or '(no label)'}")]
        parts.append(rich_table(self.frame, columns=["name", "value", "below", "meaning"]))
        if len(self.classes):
            shares = {n: [f"{100 * v:.1f} %" for v in self.classes[n]] for n in ("mean", "max")}
            parts.append(rich_table(self.classes.assign(**shares), "relevant for"))
        return Group(*parts)


@lens(group="Describe", command="")
def card(database: Database, component: Component | str) -> Card:
    """Describe one component: label, statistics, measures, and its classes.

    Parameters
    ----------
    component
        The component, or its name.

    Raises
    ------
    LayerError
        If there is no such component.

    Examples
    --------
    >>> import semlens as sl
    >>> sl.open("demo.semlens").card("layer3:17").label            # doctest: +SKIP
    """
    row = database.row(Component.parse(component) if isinstance(component, str) else component)
    described = component_card.card(database, row)
    entry = database.layer(described.component.layer)
    layer_scores = scores(database, [entry.name]).frame
    measured = component_card.measures(layer_scores, row - entry.first)
    values = [(s.name, s.value, None, s.meaning) for s in described.statistics]
    values += [(m.name, m.value, m.below, m.meaning.definition) for m in measured]
    frame = pd.DataFrame(values, columns=["name", "value", "below", "meaning"])
    known = [] if database.manifest.relevance is None else component_card.class_relevances(
        database, row
    )  # fmt: skip
    classes = [(c.name, c.mean, c.max, c.rank) for c in known]
    names = saved_names(database)
    return Card(
        described.component,
        None if names is None else names.of(described.component),
        frame.astype({"value": float, "below": float}),
        pd.DataFrame(classes, columns=["class", "mean", "max", "rank"]),
        row,
        database,
    )
