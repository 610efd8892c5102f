"""The concept map: components in the plane, with labelled clusters (paper, Fig. 2b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Group
from rich.text import Text

from semlens.analysis.compare.component_sets import ComponentSet, as_databases, component_sets
from semlens.analysis.compare.labels_and_scores import OptionalConcepts, embed_labels
from semlens.analysis.concepts import Concepts
from semlens.analysis.describe.clusters import (
    MIN_DIST,
    NEIGHBOURS,
    Method,
    check_clusters,
    compute_layout,
    describe_clusters,
    find_clusters,
    interpolate_positions,
    vote_clusters,
)
from semlens.analysis.describe.map_cache import LayoutCache
from semlens.analysis.describe.map_colouring import ColourValue, colour, colour_columns
from semlens.analysis.label import VOCABULARY, LabelThreshold
from semlens.analysis.noise import label_thresholds
from semlens.analysis.result import Result
from semlens.draw.map_plot import Colouring, MapLabel
from semlens.draw.text_table import rich_table
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = 60


@dataclass(frozen=True, eq=False, repr=False)
class ConceptMap(Result):
    """Positions of components in the plane, and their labelled clusters.

    Parameters
    ----------
    frame
        One row per component with examples: model, component, layer, index, sign, x, y,
        cluster (-1: none), cluster_label (None: no label), placed (whether it was added to an
        existing layout).
    clusters
        One row per cluster, largest first: cluster, size, labels, alignments, x, y.
    method, seed
        Clustering method, and the seed of layout and clusters.
    reused
        Whether positions saved in the database were used.
    colouring
        Colours of the plot.
    sets
        The components, one set per database.
    """

    frame: pd.DataFrame
    clusters: pd.DataFrame
    method: Method
    seed: int
    reused: bool
    colouring: Colouring
    sets: tuple[ComponentSet, ...]

    def __len__(self) -> int:
        """Return the number of components."""
        return len(self.frame)

    @property
    def placed(self) -> int:
        """Number of components that were added to an existing layout."""
        return int(self.frame["placed"].to_numpy().sum())

    def coloured(self, by: str, *values: ColourValue) -> ConceptMap:
        """Return the same map with another colouring.

        Parameters
        ----------
        by
            ``query`` (values: one text or more, each with a hue), ``layer``, ``model``,
            ``cluster``, ``clarity``, ``redundancy``, ``polysemanticity``, ``relevance``
            (value: the class), or ``contrast`` (value: a contrast, or its saved .json).

        Raises
        ------
        ConceptError
            If ``by`` is unknown, or the values do not fit it.
        RelevanceError
            If a database has no relevance for the class.
        DataError
            If the file of a contrast cannot be read.
        """
        return replace(self, colouring=colour(self.frame, self.sets, by, values))

    def labelled(
        self,
        concepts: Concepts | None = VOCABULARY,
        threshold: float | None = None,
        top_labels: int = 2,
    ) -> ConceptMap:
        """Return the same map with cluster labels from another concept set.

        The parameters are those of :func:`semlens.concept_map`.
        """
        embedded = embed_labels(self.sets[0].database, concepts)
        thresholds = [
            label_thresholds(s.database, s.rows, embedded[1], threshold)
            for s in self.sets
            if embedded is not None
        ]
        positions = self.frame[["x", "y"]].to_numpy(np.float32)
        cluster_ids = self.frame["cluster"].to_numpy(np.int64)
        clusters = describe_clusters(
            np.concatenate([s.theta for s in self.sets]),
            positions,
            cluster_ids,
            embedded and embedded[1],
            np.concatenate(thresholds) if thresholds else np.zeros(len(self), np.float32),
            top_labels,
        )
        names = {row["cluster"]: ", ".join(row["labels"]) for row in clusters.to_dict("records")}
        # as objects, otherwise pandas turns None into NaN
        labels = pd.Series(
            [names.get(cluster) or None for cluster in cluster_ids.tolist()], dtype=object
        )
        return replace(self, frame=self.frame.assign(cluster_label=labels), clusters=clusters)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component, with columns for the values of the colouring."""
        return self.frame.assign(**colour_columns(self.colouring))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "models": [s.name for s in self.sets],
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
        models = ", ".join(s.name for s in self.sets)
        way = "UMAP" if len(self) - self.placed >= NEIGHBOURS else "Principal axes"
        title = f"{way} of {len(self)} components of {models}"
        return draw_map(
            self.frame[["x", "y"]].to_numpy(np.float32), self.colouring, labels, title,
            [self._placed_note] if self.placed else [],
        )  # fmt: skip

    @property
    def _placed_note(self) -> str:
        existing = len(self) - self.placed
        return f"{self.placed} new components were placed among {existing} existing ones."

    def __rich__(self) -> Group:
        """Return the table of clusters for a terminal."""
        way = "k-means" if self.method == "kmeans" else "HDBSCAN"
        title = f"{len(self)} components in {len(self.clusters)} clusters ({way})"
        lines = [f"{len(self.clusters) - _ROWS} more clusters."] * (len(self.clusters) > _ROWS)
        alone = int((self.frame["cluster"].to_numpy() < 0).sum())
        if alone:
            lines.append(f"{alone} components are in no cluster.")
        if self.reused:
            lines.append("Positions were reused from a previous layout.")
        if self.placed:
            lines.append(f"{self._placed_note} Pass again=True to recompute the layout.")
        columns = ["cluster", "size", "labels", "alignments"]
        table = rich_table(self.clusters.head(_ROWS), title, columns)
        return Group(table, *(Text(line) for line in lines))


@question("embedder")
def concept_map(
    databases: Database | Sequence[Database],
    *others: Database,
    layers: Layers = None,
    concepts: OptionalConcepts = VOCABULARY,
    clusters: Annotated[
        int | None, setting("Clusters of k-means [60, or one per 8 components].")
    ] = None,
    method: Annotated[Method, setting("Clustering method.")] = "kmeans",
    threshold: LabelThreshold = None,
    top_labels: Annotated[int, setting("Labels per cluster at most.", ge=1)] = 2,
    seed: Annotated[int, setting("Seed of UMAP and k-means.", ge=0, le=2**32 - 1)] = 0,
    again: Annotated[bool, setting("Recompute the saved layout and clusters.")] = False,
) -> ConceptMap:
    """Lay out components of one or several databases in the plane, and label their clusters.

    Positions come from UMAP with the cosine metric, clusters from unit vectors of semantic
    space, labels from the mean theta of a cluster (paper, Fig. 2b and D.2). Positions and
    clusters are saved per settings in the first database's ``analysis`` folder. When layers
    are added later, existing positions do not change. A new component gets the mean position
    of its five nearest existing components, weighted by inverse squared cosine distance, and
    the cluster with most of that weight.

    Parameters
    ----------
    layers
        Layers to include, from each database that has them; all by default.
    concepts
        For cluster labels; None for no labels. There are no labels either if the embedder
        reads no texts.
    threshold
        By default a label of a cluster must exceed the mean of the thresholds that ``label``
        calibrates for its components.
    clusters
        For k-means; by default 60 as in the paper, but at most one per eight components.
    seed
        Of UMAP and k-means. The map of each seed is saved separately.
    again
        Whether to recompute the layout and replace the saved one of these settings.

    Raises
    ------
    StaleError
        If the databases have different embedders.
    LayerError
        If a layer is unknown.
    RecipeError
        If the number of clusters is invalid, or a database has no component with a vector.

    Examples
    --------
    >>> import semlens as sl
    >>> result = sl.concept_map(sl.open("demo.semlens"))                  # doctest: +SKIP
    >>> result.coloured("query", "animal", "transport").save("map.png")  # doctest: +SKIP
    """
    sets = component_sets(as_databases(databases, others), layers=layers)
    check_clusters(method, clusters, sum(map(len, sets)))
    theta = np.concatenate([s.theta for s in sets])
    positions, reused = layout_cache(sets, layers, seed).complete(
        theta,
        lambda units: pd.DataFrame(compute_layout(units, seed), columns=["x", "y"]),
        interpolate_positions,
        again=again,
    )
    assigned = assign_clusters(sets, layers, method, clusters, seed, again=again)
    frame = pd.concat([_components(s) for s in sets], ignore_index=True).assign(
        x=positions["x"].to_numpy(np.float32),
        y=positions["y"].to_numpy(np.float32),
        cluster=assigned,
        cluster_label=None,
        placed=positions["placed"].to_numpy(bool),
    )
    by = "model" if len(sets) > 1 else "layer" if len(sets[0].layers) > 1 else "cluster"
    result = ConceptMap(
        frame, pd.DataFrame(), method, seed, reused, colour(frame, sets, by, ()), tuple(sets)
    )
    return result.labelled(concepts, threshold, top_labels)


def assign_clusters(
    sets: Sequence[ComponentSet],
    layers: Layers = None,
    method: Method = "kmeans",
    clusters: int | None = None,
    seed: int = 0,
    *,
    again: bool = False,
) -> Int64[np.ndarray, " n"]:
    """Return the cluster of each component on the map, saved or computed; -1 for none."""
    assignments, _ = cluster_cache(sets, layers, method, clusters, seed).complete(
        np.concatenate([s.theta for s in sets]),
        lambda units: pd.DataFrame({"cluster": find_clusters(units, method, clusters, seed)}),
        lambda existing, *nearest: vote_clusters(existing[:, 0].astype(np.int64), *nearest)[
            :, None
        ],
        again=again,
    )
    return assignments["cluster"].to_numpy(np.int64)


def has_layout(databases: Database | Sequence[Database], seed: int = 0) -> bool:
    """Whether a layout of all layers is saved, so that the map needs no UMAP."""
    return layout_cache(component_sets(as_databases(databases)), None, seed).load() is not None


def layout_cache(sets: Sequence[ComponentSet], layers: Layers, seed: int) -> LayoutCache:
    """Return the cache of a map's positions."""
    settings = {"metric": "cosine", "neighbours": NEIGHBOURS, "min_dist": MIN_DIST, "seed": seed}
    return LayoutCache("map", sets, layers, settings)


def cluster_cache(
    sets: Sequence[ComponentSet], layers: Layers, method: Method, clusters: int | None, seed: int
) -> LayoutCache:
    """Return the cache of a map's clusters."""
    settings = {"clusters": clusters, "seed": seed} if method == "kmeans" else {}
    return LayoutCache("map-clusters", sets, layers, {"method": method, **settings})


def _components(component_set: ComponentSet) -> pd.DataFrame:
    """Return one row per component: model, component, layer, index, sign."""
    frame = component_set.database.components.iloc[component_set.rows][["layer", "index", "sign"]]
    columns = ["model", "component", *frame.columns]
    return frame.assign(model=component_set.name, component=component_set.components).reindex(
        columns=columns
    )
