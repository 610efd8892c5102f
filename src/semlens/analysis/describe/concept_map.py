"""The map of what a model knows: theta in the plane, with labelled clusters (paper, Fig. 2b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from rich.console import Group
from rich.text import Text

from semlens.analysis.compare.compare import LabelThreshold
from semlens.analysis.compare.component_sets import ComponentSet, as_databases, component_sets
from semlens.analysis.compare.summary import OptionalConcepts, embed_labels
from semlens.analysis.concepts import Concepts
from semlens.analysis.describe.clusters import (
    MIN_DIST,
    NEIGHBOURS,
    Method,
    check_clusters,
    describe_clusters,
    find_clusters,
    lay_out,
    place,
    vote,
)
from semlens.analysis.describe.map_cache import LayoutCache
from semlens.analysis.describe.map_colouring import colour, colour_columns
from semlens.analysis.label import THRESHOLD, VOCABULARY
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
    sets
        The components, a set per database.
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
        return replace(self, colouring=colour(self.frame, self.sets, by, values))

    def labelled(
        self,
        concepts: Concepts | None = VOCABULARY,
        threshold: float = THRESHOLD,
        top_labels: int = 2,
    ) -> ConceptMap:
        """Return the same map with its clusters labelled from another concept set.

        Settings are those of :func:`semlens.concept_map`.
        """
        known = embed_labels(self.sets[0].database, concepts)
        where = self.frame[["x", "y"]].to_numpy(np.float32)
        cluster = self.frame["cluster"].to_numpy(np.int64)
        found = describe_clusters(
            np.concatenate([one.theta for one in self.sets]),
            where,
            cluster,
            known and known[1],
            threshold,
            top_labels,
        )
        names = {row["cluster"]: ", ".join(row["labels"]) for row in found.to_dict("records")}
        # as objects, else pandas would make NaN of None
        labels = pd.Series([names.get(c) or None for c in cluster.tolist()], dtype=object)
        return replace(self, frame=self.frame.assign(cluster_label=labels), clusters=found)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per component, with the values of the colours where they are new."""
        return self.frame.assign(**colour_columns(self.colouring))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "models": [one.name for one in self.sets],
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
        models = ", ".join(one.name for one in self.sets)
        way = "UMAP" if len(self) - self.placed >= NEIGHBOURS else "Principal axes"
        title = f"{way} of {len(self)} components of {models}"
        return draw_map(
            self.frame[["x", "y"]].to_numpy(np.float32), self.colouring, labels, title,
            [self._placing] if self.placed else [],
        )  # fmt: skip

    @property
    def _placing(self) -> str:
        return f"{self.placed} components were placed among {len(self) - self.placed} older ones."

    def __rich__(self) -> Group:
        """Return the table of clusters for a terminal."""
        way = "k-means" if self.method == "kmeans" else "HDBSCAN"
        title = f"{len(self)} components in {len(self.clusters)} clusters ({way})"
        lines = [f"{len(self.clusters) - _ROWS} more clusters."] * (len(self.clusters) > _ROWS)
        alone = int((self.frame["cluster"].to_numpy() < 0).sum())
        if alone:
            lines.append(f"{alone} components are in no cluster.")
        if self.reused:
            lines.append("Positions: those of before.")
        if self.placed:
            lines.append(f"{self._placing} Lay all out anew: again=True.")
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
    method: Annotated[Method, setting("How clusters are found.")] = "kmeans",
    threshold: LabelThreshold = THRESHOLD,
    top_labels: Annotated[int, setting("Labels per cluster at most.", ge=1)] = 2,
    seed: Annotated[int, setting("Of UMAP and of k-means.", ge=0, le=2**32 - 1)] = 0,
    again: Annotated[bool, setting("Lay all out anew, also what was laid out before.")] = False,
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
    seed
        Of UMAP and k-means. Another seed is another map, kept beside this one.
    again
        Whether to lay all out anew, and forget the kept map of these settings.

    Raises
    ------
    StaleError
        If the databases are of different embedders.
    LayerError
        If a layer is unknown.
    RecipeError
        If the clusters cannot be made as asked for, or a database has no component with a
        vector.

    Examples
    --------
    >>> import semlens as sl
    >>> found = sl.concept_map(sl.open("demo.semlens"))                  # doctest: +SKIP
    >>> found.coloured("query", "animal", "transport").save("map.png")   # doctest: +SKIP
    """
    sets = component_sets(as_databases(databases, others), layers=layers)
    check_clusters(method, clusters, sum(map(len, sets)))
    theta = np.concatenate([one.theta for one in sets])
    positions, reused = layout_cache(sets, layers, seed).complete(
        theta, lambda units: pd.DataFrame(lay_out(units, seed), columns=["x", "y"]), place,
        again=again,
    )  # fmt: skip
    found, _ = cluster_cache(sets, layers, method, clusters, seed).complete(
        theta,
        lambda units: pd.DataFrame({"cluster": find_clusters(units, method, clusters, seed)}),
        lambda old, *near: vote(old[:, 0].astype(np.int64), *near)[:, None],
        again=again,
    )
    frame = pd.concat([_components(one) for one in sets], ignore_index=True).assign(
        x=positions["x"].to_numpy(np.float32),
        y=positions["y"].to_numpy(np.float32),
        cluster=found["cluster"].to_numpy(np.int64),
        cluster_label=None,
        placed=positions["placed"].to_numpy(bool),
    )
    by = "model" if len(sets) > 1 else "layer" if len(sets[0].layers) > 1 else "cluster"
    made = ConceptMap(
        frame, pd.DataFrame(), method, seed, reused, colour(frame, sets, by, ()), tuple(sets)
    )
    return made.labelled(concepts, threshold, top_labels)


def laid_out(databases: Database | Sequence[Database], seed: int = 0) -> bool:
    """Whether a layout of all layers is kept, so that the map needs no UMAP."""
    return layout_cache(component_sets(as_databases(databases)), None, seed).load() is not None


def layout_cache(sets: Sequence[ComponentSet], layers: Layers, seed: int) -> LayoutCache:
    """Return where the positions of a map are kept."""
    settings = {"metric": "cosine", "neighbours": NEIGHBOURS, "min_dist": MIN_DIST, "seed": seed}
    return LayoutCache("map", sets, layers, settings)


def cluster_cache(
    sets: Sequence[ComponentSet], layers: Layers, method: Method, clusters: int | None, seed: int
) -> LayoutCache:
    """Return where the clusters of a map are kept."""
    settings = {"clusters": clusters, "seed": seed} if method == "kmeans" else {}
    return LayoutCache("map-clusters", sets, layers, {"method": method, **settings})


def _components(one: ComponentSet) -> pd.DataFrame:
    """Return one row per component: model, component, layer, index, sign."""
    frame = one.database.components.iloc[one.rows][["layer", "index", "sign"]]
    columns = ["model", "component", *frame.columns]
    return frame.assign(model=one.name, component=one.components).reindex(columns=columns)
