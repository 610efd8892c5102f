"""The map of what a model knows: theta in the plane, with labelled clusters (paper, Fig. 2b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Group
from rich.text import Text

from semlens.analysis.concepts import Concepts, as_concepts
from semlens.analysis.describe.clusters import (
    Method,
    check_clusters,
    describe_clusters,
    find_clusters,
)
from semlens.analysis.describe.colouring import colour, colour_columns
from semlens.analysis.describe.kept import keep, recall
from semlens.analysis.describe.placement import (
    NEIGHBOURS,
    lay_out,
    layout_settings,
    nearest_old,
    place,
    vote,
)
from semlens.analysis.describe.scope import Scope, scope_of
from semlens.analysis.label import THRESHOLD
from semlens.analysis.probe import Probe, concept_probe
from semlens.analysis.result import Result
from semlens.draw.map_parts import Colouring, MapLabel
from semlens.draw.table import rich_table
from semlens.errors import RecipeError
from semlens.store.reader import Database

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 60


@dataclass(frozen=True, eq=False, repr=False)
class ConceptMap(Result):
    """Where components lie in the plane, and what their clusters are about.

    Parameters
    ----------
    frame
        One row per component with examples: model, component, layer, index, sign, x, y,
        cluster (-1: none), cluster_label (None: no label), placed (whether it was put among
        components that were laid out before it came).
    clusters
        One row per cluster, largest first: cluster, size, labels, alignments, x, y.
    method, seed
        How the clusters were found, and the seed of layout and clusters.
    reused
        Whether the positions of before were found in the database.
    colouring
        What the plot shows as colour.
    """

    frame: pd.DataFrame
    clusters: pd.DataFrame
    method: Method
    seed: int
    reused: bool
    colouring: Colouring
    scope: Scope

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.frame)

    @property
    def placed(self) -> int:
        """How many components were placed among those laid out before."""
        return int(self.frame["placed"].to_numpy().sum())

    def coloured(self, by: str, *values: str | int) -> ConceptMap:
        """Return the same map with other colours.

        Parameters
        ----------
        by
            ``query`` (values: one text or more, each with a hue), ``layer``, ``model``,
            ``cluster``, ``clarity``, ``redundancy``, ``polysemanticity``, or ``relevance``
            (value: the class).

        Raises
        ------
        ConceptError
            If ``by`` is unknown, or the values do not belong to it.
        RelevanceError
            If a database has no relevance for the class.
        """
        cluster = self.frame["cluster"].to_numpy()
        colours = colour(self.scope, by, values, cluster)
        return replace(self, colouring=colours)

    def labelled(
        self,
        concepts: Concepts | None = "paper-vocabulary",
        threshold: float = THRESHOLD,
        top_labels: int = 2,
    ) -> ConceptMap:
        """Return the same map with its clusters labelled from another concept set.

        Settings are those of :func:`semlens.concept_map`.
        """
        probe = _label_probe(self.scope, concepts)
        where = self.frame[["x", "y"]].to_numpy(np.float32)
        cluster = self.frame["cluster"].to_numpy(np.int64)
        found = describe_clusters(self.scope.theta, where, cluster, probe, threshold, top_labels)
        frame = self.frame.assign(cluster_label=_cluster_labels(found, cluster))
        return replace(self, frame=frame, clusters=found)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component, with the values of the colours where they are new."""
        return self.frame.assign(**colour_columns(self.colouring))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "models": [member.name for member in self.scope.members],
            "method": self.method,
            "seed": self.seed,
            "reused": self.reused,
            "placed": self.placed,
            "clusters": self.clusters.to_dict("records"),
            "components": self.to_pandas().to_dict("records"),
        }

    def plot(self) -> Figure:
        """Draw the points, and labels of as many clusters as there is room for."""
        from semlens.draw.map_plot import draw_map

        labels = [
            MapLabel(", ".join(row["labels"]), row["x"], row["y"], row["size"])
            for row in self.clusters.to_dict("records")
            if row["labels"]
        ]
        models = ", ".join(member.name for member in self.scope.members)
        way = "UMAP" if len(self) - self.placed >= NEIGHBOURS else "Principal axes"
        title = f"{way} of {len(self)} components of {models}"
        notes = [self._placing] if self.placed else []
        return draw_map(
            self.frame[["x", "y"]].to_numpy(np.float32), self.colouring, labels, title, notes
        )

    @property
    def _placing(self) -> str:
        return f"{self.placed} components were placed among {len(self) - self.placed} older ones."

    def __rich__(self) -> Group:
        """Return the table of clusters for a terminal."""
        way = "k-means" if self.method == "kmeans" else "HDBSCAN"
        title = f"{len(self)} components in {len(self.clusters)} clusters ({way})"
        shown = self.clusters.head(_ROWS)
        lines = [f"{len(self.clusters) - _ROWS} more clusters."] * (len(self.clusters) > _ROWS)
        alone = int((self.frame["cluster"].to_numpy() < 0).sum())
        if alone:
            lines.append(f"{alone} components are in no cluster.")
        if self.reused:
            lines.append("Positions: those of before.")
        if self.placed:
            lines.append(f"{self._placing} Lay all out anew: again.")
        table = rich_table(shown, title, ["cluster", "size", "labels", "alignments"])
        return Group(table, *(Text(line) for line in lines))


def concept_map(
    databases: Database | Sequence[Database],
    *,
    layers: Sequence[str] | None = None,
    concepts: Concepts | None = "paper-vocabulary",
    clusters: int | None = None,
    method: Method = "kmeans",
    threshold: float = THRESHOLD,
    top_labels: int = 2,
    seed: int = 0,
    again: bool = False,
) -> ConceptMap:
    """Lay out components of one or several databases by what they encode, and label clusters.

    Positions come from UMAP with the cosine metric, clusters from unit vectors of semantic
    space, labels from the mean theta of a cluster (paper, Fig. 2b and D.2). Both are kept in
    the first database's ``analysis`` folder, by settings. When layers were added since, what
    was laid out stays where it is. A new component gets the mean position of its five
    nearest ones that were laid out, weighted by inverse squared cosine distance, and the
    cluster with most of that weight.

    Parameters
    ----------
    layers
        Of several databases each gives those that it has; by default all layers.
    concepts
        For labels of clusters; None for no labels. There are none either if the embedder
        reads no texts.
    clusters
        For k-means; by default 60 as in the paper, or a cluster per eight components.
    threshold
        Least alignment of a label.
    seed
        Of UMAP and k-means. Another seed is another map, kept beside this one.
    again
        Whether to lay all out anew, and forget the kept map of these settings.

    Raises
    ------
    StaleError
        If the databases are of different embedders.
    LayerError
        If a layer is unknown, or no component has examples.
    RecipeError
        If the clusters cannot be made as asked for.

    Examples
    --------
    >>> import semlens as sl
    >>> found = sl.concept_map(sl.open("demo.semlens"))                  # doctest: +SKIP
    >>> found.coloured("query", "animal", "transport").save("map.png")   # doctest: +SKIP
    """
    given = [databases] if isinstance(databases, Database) else list(databases)
    scope = scope_of(given, layers)
    check_clusters(method, clusters, len(scope))
    if seed < 0 or seed >= 2**32:
        raise RecipeError(f"The seed is {seed}.", "Expected 0 to 4294967295.", "Choose another.")
    probe = _label_probe(scope, concepts)
    positions, reused = _positions(scope, seed, again)
    cluster = _clusters(scope, method, clusters, seed, again)
    where = positions[["x", "y"]].to_numpy(np.float32)
    described = describe_clusters(scope.theta, where, cluster, probe, threshold, top_labels)
    frame = scope.frame.assign(
        x=where[:, 0],
        y=where[:, 1],
        cluster=cluster,
        cluster_label=_cluster_labels(described, cluster),
        placed=positions["placed"].to_numpy(),
    )
    by = "model" if len(given) > 1 else "layer" if len(scope.members[0].layers) > 1 else "cluster"
    colours = colour(scope, by, (), cluster)
    return ConceptMap(frame, described, method, seed, reused, colours, scope)


def laid_out(databases: Sequence[Database], seed: int = 0) -> bool:
    """Whether a layout of all layers is kept, so that the map needs no UMAP."""
    return recall(scope_of(databases), "map", layout_settings(seed)) is not None


def _label_probe(scope: Scope, concepts: Concepts | None) -> Probe | None:
    if concepts is None:
        return None
    chosen, database = as_concepts(concepts), scope.members[0].database
    readable = database.embedder.has_text or all(concept.images for concept in chosen.concepts)
    return concept_probe(database, chosen) if readable else None


def _positions(scope: Scope, seed: int, again: bool) -> tuple[pd.DataFrame, bool]:
    """Return x, y and placed of all components, and whether some were kept."""
    settings = layout_settings(seed)
    kept = None if again else recall(scope, "map", settings)
    if kept is None:
        where = lay_out(scope.units, seed)
        made = pd.DataFrame({"x": where[:, 0], "y": where[:, 1], "placed": False})
        keep(scope, "map", settings, made)
        return made, False
    new = kept["x"].isna().to_numpy()
    if new.any():
        laid_out = (kept["placed"] == False).to_numpy()  # noqa: E712  (missing for new ones)
        old = kept.loc[laid_out, ["x", "y"]].to_numpy(np.float32)
        places, weight = nearest_old(scope.units[laid_out], scope.units[new])
        kept.loc[new, ["x", "y"]] = place(old, places, weight)
        kept["placed"] = kept["placed"].where(~new, True).astype(bool)
        keep(scope, "map", settings, kept)
    return kept.astype({"x": np.float32, "y": np.float32, "placed": bool}), True


def _clusters(
    scope: Scope, method: Method, count: int | None, seed: int, again: bool
) -> Int64[np.ndarray, " n"]:
    """Return the cluster of each component; new ones join those of their nearest."""
    settings: dict[str, Any] = {"method": method}
    if method == "kmeans":
        settings |= {"clusters": count, "seed": seed}
    kept = None if again else recall(scope, "map-clusters", settings)
    if kept is None:
        cluster = find_clusters(scope.units, method, count, seed)
        keep(scope, "map-clusters", settings, pd.DataFrame({"cluster": cluster, "joined": False}))
        return cluster
    new = kept["cluster"].isna().to_numpy()
    if new.any():
        found = (kept["joined"] == False).to_numpy()  # noqa: E712  (missing for new ones)
        old = kept.loc[found, "cluster"].to_numpy(np.int64)
        kept.loc[new, "cluster"] = vote(old, *nearest_old(scope.units[found], scope.units[new]))
        kept["joined"] = kept["joined"].where(~new, True).astype(bool)
        kept["cluster"] = kept["cluster"].astype(np.int64)
        keep(scope, "map-clusters", settings, kept)
    return cast(np.ndarray, kept["cluster"].to_numpy(np.int64))


def _cluster_labels(described: pd.DataFrame, cluster: Int64[np.ndarray, " n"]) -> pd.Series:
    table = np.full(int(cluster.max(initial=-1)) + 2, None, dtype=object)  # the last is for -1
    for row in described.to_dict("records"):
        table[row["cluster"]] = ", ".join(row["labels"]) or None
    return pd.Series(table[cluster], dtype=object)  # as text, pandas would make NaN of None
