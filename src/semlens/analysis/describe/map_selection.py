"""Some components of a map: what they are about, and in which layers they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.describe.concept_map import ConceptMap
from semlens.analysis.result import Result
from semlens.analysis.saved_labels import PREFIX, label_tables, saved_labels
from semlens.draw.map_plot import Groups, MapLabel
from semlens.draw.text_table import rich_table
from semlens.errors import LayerError, RecipeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLUSTERS = "clusters"
"""Where labels come from while the database keeps none."""
_ROWS = 20


@dataclass(frozen=True, repr=False, eq=False)
class Selection(Result):
    """Some components of a map, in its order.

    Parameters
    ----------
    frame
        One row per component: row, component, layer, index, sign, x, y, cluster, label
        (None: no label).
    labels
        One row per label, most frequent first: label, count, share (of the selection),
        total (number of components on the map with it).
    layers
        One row per layer that is selected from: layer, count, share, total.
    source
        Where labels come from: ``labels-NAME``, kept in the database, or ``clusters``.
    """

    frame: pd.DataFrame
    labels: pd.DataFrame
    layers: pd.DataFrame
    source: str
    found: ConceptMap

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.frame)

    @property
    def unlabelled(self) -> int:
        """How many of the components have no label."""
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
        """Draw the map with the selected components in colour."""
        from semlens.draw.map_plot import draw_map

        where = self.found.frame[["x", "y"]].to_numpy(np.float32)
        group = np.where(self.found.frame["component"].isin(self.frame["component"]), 0, -1)
        x, y = np.median(self.frame[["x", "y"]].to_numpy(float), axis=0)
        text = ", ".join(self.labels["label"].head(2))
        labels = [MapLabel(text, float(x), float(y), len(self))] if text else []
        title = f"{len(self)} of {len(where)} components"
        return draw_map(where, Groups("selection", ("selected",), group), labels, title)

    def __rich__(self) -> RenderableType:
        """Return the labels and the layers for a terminal."""
        return Group(
            Text(f"{len(self)} components, {self.unlabelled} without a label ({self.source})."),
            rich_table(self.labels.head(_ROWS)),
            rich_table(self.layers),
        )


def select(found: ConceptMap, rows: Sequence[int]) -> Selection:
    """Describe some components of a map of one database by their labels and layers.

    Parameters
    ----------
    rows
        Rows of ``components.parquet``; what stands twice counts once.

    Raises
    ------
    RecipeError
        If the map is of several databases: their rows do not tell components apart.
    LayerError
        If no row is given, or one is not on the map.
    """
    if len(found.sets) != 1:
        raise RecipeError(
            f"The map is of {len(found.sets)} databases.",
            "Expected one: rows do not tell components of several apart.",
            "Select on the map of each.",
        )
    places = _places(found.sets[0].rows, rows)
    names, source = component_labels(found)
    frame = found.frame[["component", "layer", "index", "sign", "x", "y", "cluster"]]
    frame = frame.assign(label=pd.Series(names, dtype=object))
    frame.insert(0, "row", found.sets[0].rows)
    mine = frame.iloc[places].reset_index(drop=True)
    layers = _counted(mine, frame, "layer").set_index("layer")
    layers = layers.reindex([name for name in found.sets[0].layers if name in layers.index])
    return Selection(mine, _counted(mine, frame, "label"), layers.reset_index(), source, found)


def component_labels(found: ConceptMap) -> tuple[list[str | None], str]:
    """Return the label of each component of a map of one database, and where labels come from.

    They are those that were kept last (``semlens label --save NAME``); while there are none,
    those of the clusters.
    """
    one = found.sets[0]
    kept = saved_labels(one.database)
    if kept is None:
        labels, source = found.frame["cluster_label"], CLUSTERS
    else:
        labels = kept["label"].iloc[one.rows]
        source = PREFIX + label_tables(one.database)[0].name
    return [text if isinstance(text, str) else None for text in labels], source


def _places(known: Int64[np.ndarray, " n"], rows: Sequence[int]) -> Int64[np.ndarray, " m"]:
    """Return where rows are among those of the map, in its order."""
    wanted = np.unique(np.asarray(rows, np.int64))
    if not len(wanted):
        raise LayerError(
            "No component is selected.", "Expected one row or more.", "Select some on the map."
        )
    strange = wanted[~np.isin(wanted, known)]
    if len(strange):
        raise LayerError(
            f"Row {strange[0]} is not on the map.",
            f"Expected rows from {known.min()} to {known.max()}, of components with examples.",
            "Select among those that the map shows.",
        )
    return np.flatnonzero(np.isin(known, wanted))


def _counted(mine: pd.DataFrame, everyone: pd.DataFrame, by: str) -> pd.DataFrame:
    """Count a column's values, most frequent first, equal counts by name."""
    counts = mine[by].value_counts().rename_axis(by).reset_index(name="count")
    counts = counts.sort_values(["count", by], ascending=[False, True], ignore_index=True)
    total = everyone[by].value_counts().reindex(counts[by]).to_numpy(np.int64)
    return counts.assign(share=counts["count"] / len(mine), total=total)
