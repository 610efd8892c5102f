"""Selections of components on a map, summarized by their labels and layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.map_colours import Groups
from semlens.draw.text_table import rich_table
from semlens.errors import LayerError, RecipeError
from semlens.lenses.describe.concept_map import ConceptMap
from semlens.lenses.labelling.component_labels import PREFIX, SAVED, saved_names
from semlens.lenses.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLACES = "places"
"""Source of labels when the database has no saved labels."""
_ROWS = 20


@dataclass(frozen=True, repr=False, eq=False)
class Selection(Result):
    """Selected components of a map, in its order.

    Parameters
    ----------
    frame
        One row per component: row, component, layer, index, sign, place, label (None: no label).
    labels
        One row per label, most frequent first: label, count, share (of the selection),
        total (components on the map with this label).
    layers
        One row per layer of the selection: layer, count, share, total.
    source
        Where labels come from: ``labels-NAME``, saved in the database, or ``places``.
    concept_map
        The map.
    """

    frame: pd.DataFrame
    labels: pd.DataFrame
    layers: pd.DataFrame
    source: str
    concept_map: ConceptMap

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.frame)

    @property
    def unlabelled(self) -> int:
        """Number of selected components without a label."""
        return int(np.count_nonzero(self.frame["label"].isna()))

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component."""
        return self.frame

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "count": len(self),
            "unlabelled": self.unlabelled,
            "source": self.source,
            "labels": self.labels.to_dict("records"),
            "layers": self.layers.to_dict("records"),
            "components": self.frame.to_dict("records"),
        }

    def plot(self) -> Figure:
        """Draw the map with the selected components highlighted."""
        from semlens.draw.map_plot import draw_map

        picture = self.concept_map.picture()
        selected = self.concept_map.frame["component"].isin(self.frame["component"])
        group = np.where(selected, 0, -1)
        title = f"{len(self)} of {len(group)} components"
        return draw_map(picture, Groups("selection", ("selected",), group), title)

    def __rich__(self) -> RenderableType:
        """Return the labels and the layers for a terminal."""
        return Group(
            Text(f"{len(self)} components, {self.unlabelled} without a label ({self.source})."),
            rich_table(self.labels.head(_ROWS)),
            rich_table(self.layers),
        )


def select(concept_map: ConceptMap, rows: Sequence[int]) -> Selection:
    """Select components of a map of one database, and count their labels and layers.

    Parameters
    ----------
    rows
        Rows of ``components.parquet``; duplicates count once.

    Raises
    ------
    RecipeError
        If the map has several databases: rows are ambiguous then.
    LayerError
        If no row is given, or one is not on the map.
    """
    if len(concept_map.sets) != 1:
        raise RecipeError(
            f"The map has {len(concept_map.sets)} databases.",
            "Expected one: rows are ambiguous across databases.",
            "Select on the map of each database.",
        )
    positions = _positions(concept_map.sets[0].rows, rows)
    labels, source = component_labels(concept_map)
    frame = concept_map.frame[["component", "layer", "index", "sign", "place"]]
    frame = frame.assign(label=pd.Series(labels, dtype=object))
    frame.insert(0, "row", concept_map.sets[0].rows)
    selected = frame.iloc[positions].reset_index(drop=True)
    layer_counts = _value_counts(selected, frame, "layer").set_index("layer")
    layer_counts = layer_counts.reindex(
        [name for name in concept_map.sets[0].layers if name in layer_counts.index]
    )
    return Selection(
        selected,
        _value_counts(selected, frame, "label"),
        layer_counts.reset_index(),
        source,
        concept_map,
    )


def component_labels(concept_map: ConceptMap) -> tuple[list[str | None], str]:
    """Return the label of each component of a map of one database, and their source.

    These are the labels saved last (``semlens label --keep NAME``), or else those of the
    places.
    """
    component_set = concept_map.sets[0]
    names = saved_names(component_set.database)
    if names is None:
        labels, source = concept_map.frame["place_label"], PLACES
    else:
        labels = names.frame["label"].iloc[component_set.rows]
        source = PREFIX + names.source.removeprefix(SAVED)
    return [text if isinstance(text, str) else None for text in labels], source


def _positions(map_rows: Int64[np.ndarray, " n"], rows: Sequence[int]) -> Int64[np.ndarray, " m"]:
    """Return the positions of rows on the map, in its order."""
    unique_rows = np.unique(np.asarray(rows, np.int64))
    if not len(unique_rows):
        raise LayerError(
            "No component is selected.", "Expected one or more rows.", "Select some on the map."
        )
    unknown = unique_rows[~np.isin(unique_rows, map_rows)]
    if len(unknown):
        raise LayerError(
            f"Row {unknown[0]} is not on the map.",
            f"Expected components with examples, from {map_rows.min()} to {map_rows.max()}.",
            "Select components that the map shows.",
        )
    return np.flatnonzero(np.isin(map_rows, unique_rows))


def _value_counts(selected: pd.DataFrame, all_components: pd.DataFrame, by: str) -> pd.DataFrame:
    """Count the values of a column, most frequent first, ties by name."""
    counts = selected[by].value_counts().rename_axis(by).reset_index(name="count")
    counts = counts.sort_values(["count", by], ascending=[False, True], ignore_index=True)
    totals = all_components[by].value_counts().reindex(counts[by]).to_numpy(np.int64)
    return counts.assign(share=counts["count"] / len(selected), total=totals)
