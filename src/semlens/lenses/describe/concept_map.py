"""The concept map: components in the plane, with labelled clusters (paper, Fig. 2b)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Group
from rich.text import Text

from semlens.draw.map_colours import Colouring, Groups
from semlens.draw.map_labels import MapPlace
from semlens.draw.text_table import rich_table
from semlens.lens import lens
from semlens.lenses.arguments import OptionalConcepts
from semlens.lenses.compare.component_sets import ComponentSet, as_databases, component_sets
from semlens.lenses.concepts import Concepts, as_concepts
from semlens.lenses.describe.atlas import Atlas, make_atlas
from semlens.lenses.describe.clusters import (
    MIN_DIST,
    NEIGHBOURS,
    Method,
    check_clusters,
    compute_layout,
    describe_groups,
    find_clusters,
    interpolate_positions,
    vote_clusters,
)
from semlens.lenses.describe.label_clusters import merge_clusters, score_clusters
from semlens.lenses.describe.map_cache import LayoutCache
from semlens.lenses.describe.map_colouring import ColourValue, colour, colour_columns
from semlens.lenses.labelling.chosen_method import LabelMethod
from semlens.lenses.labelling.label import VOCABULARY, LabelThreshold
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.result import Result, Section
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

    from semlens.draw.map_plot import MapPicture

_ROWS = 60


@dataclass(frozen=True, eq=False, repr=False)
class ConceptMap(Result):
    """Positions of components in the plane, in clusters and labelled places.

    Parameters
    ----------
    frame
        One row per component with examples: model, component, layer, index, sign, x, y,
        cluster and place (-1: none), place_label (None: no label), placed (whether it was added
        to an existing layout).
    places
        One row per place, largest first: place, size, labels, scores, x, y. A place is a cluster,
        or several that lie side by side and share a label.
    clusters
        One row per cluster, largest first: cluster, size, place.
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
    places: pd.DataFrame
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
            ``query`` (values: one text or more, each with a hue), ``place``, ``layer``,
            ``model``, ``clarity``, ``redundancy``, ``polysemanticity``, ``relevance``
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
        label_method: str | Labeller | None = None,
    ) -> ConceptMap:
        """Return the same map with places and labels from another concept set.

        The parameters are those of ``db.concept_map``.
        """
        positions = self.frame[["x", "y"]].to_numpy(np.float32)
        cluster = self.frame["cluster"].to_numpy(np.int64)
        concept_set = None if concepts is None else as_concepts(concepts)
        scores = score_clusters(self.sets, cluster, concept_set, label_method, threshold)
        place_of, labels = merge_clusters(positions, cluster, scores, top_labels)
        place = np.where(cluster >= 0, np.append(place_of, -1)[cluster], -1)
        names = [", ".join(best) or None for best in labels] + [None]
        # as objects, otherwise pandas turns None into NaN
        texts = pd.Series([names[number] for number in place.tolist()], dtype=object)
        sizes = np.bincount(cluster[cluster >= 0], minlength=len(place_of))
        clusters = {"cluster": np.arange(len(place_of)), "size": sizes, "place": place_of}
        frame = self.frame.assign(place=place, place_label=texts)
        return replace(
            self,
            frame=frame,
            places=describe_groups(positions, place, labels, "place"),
            clusters=pd.DataFrame(clusters),
            colouring=colour(frame, self.sets, "place", ())
            if isinstance(self.colouring, Groups) and self.colouring.title == "place"
            else self.colouring,
        )

    @cached_property
    def atlas(self) -> Atlas:
        """Where components, names and outlines of places are drawn."""
        positions = self.frame[["x", "y"]].to_numpy(np.float32)
        names = [", ".join(labels) for labels in self.places.sort_values("place")["labels"]]
        return make_atlas(positions, self.frame["place"].to_numpy(np.int64), names)

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
            "places": self.places.to_dict("records"),
            "clusters": self.clusters.to_dict("records"),
            "components": self.to_pandas().to_dict("records"),
        }

    def section(self, target: str | None = None) -> Section:
        """Return how many places there are, and the largest ones."""
        largest = [
            f"{', '.join(row['labels']) or 'no label'} ({row['size']})"
            for row in self.places.head(5).to_dict("records")
        ]
        sentences = [f"{len(self)} components in {len(self.places)} places."]
        sentences += [f"The largest: {'; '.join(largest)}."] if largest else []
        limits = "Distances in the plane are not those of semantic space."
        return Section(sentences, None, self.places, limits)

    def plot(self) -> Figure:
        """Draw the components, with crops where there is room, and the names of places."""
        from semlens.draw.map_plot import draw_map

        models = ", ".join(s.name for s in self.sets)
        way = "UMAP" if len(self) - self.placed >= NEIGHBOURS else "Principal axes"
        title = f"{way} of {len(self)} components of {models}"
        notes = [self._placed_note] if self.placed else []
        return draw_map(self.picture(), self.colouring, title, notes)

    def picture(self) -> MapPicture:
        """Return what is drawn of the map, whatever its colours."""
        from semlens.draw.map_plot import MapPicture

        atlas = self.atlas
        places = [
            MapPlace(
                ", ".join(row["labels"]), float(atlas.names[row["place"]][0]),
                float(atlas.names[row["place"]][1]), row["size"],
                atlas.colours[row["place"]].light, atlas.hulls[row["place"]],
            )
            for row in self.places.sort_values("place").to_dict("records")
        ]  # fmt: skip
        has_crops = all(s.database.manifest.recipe.thumbnails for s in self.sets)
        crop = self._crop if has_crops else None
        return MapPicture(atlas.points, places, atlas.medoids, atlas.spread, crop)

    def _crop(self, index: int) -> Image.Image:
        """Return the strongest example of a component."""
        from semlens.draw.example_sheet import example_pictures

        starts = np.cumsum([0, *map(len, self.sets)])
        number = int(np.searchsorted(starts, index, side="right")) - 1
        components = self.sets[number]
        row = int(components.rows[index - starts[number]])
        return example_pictures(components.database, row, 1)[0]

    @property
    def _placed_note(self) -> str:
        existing = len(self) - self.placed
        return f"{self.placed} new components were placed among {existing} existing ones."

    def __rich__(self) -> Group:
        """Return the table of clusters for a terminal."""
        way = "k-means" if self.method == "kmeans" else "HDBSCAN"
        title = (
            f"{len(self)} components in {len(self.places)} places "
            f"({len(self.clusters)} clusters, {way})"
        )
        lines = [f"{len(self.places) - _ROWS} more places."] * (len(self.places) > _ROWS)
        alone = int((self.frame["cluster"].to_numpy() < 0).sum())
        if alone:
            lines.append(f"{alone} components are in no cluster.")
        if self.reused:
            lines.append("Positions were reused from a previous layout.")
        if self.placed:
            lines.append(f"{self._placed_note} Pass again=True to recompute the layout.")
        columns = ["place", "size", "labels", "scores"]
        table = rich_table(self.places.head(_ROWS), title, columns)
        return Group(table, *(Text(line) for line in lines))


@lens("embedder", group="Describe", command="")
def concept_map(
    databases: Database | Sequence[Database],
    *others: Database,
    layers: Layers = None,
    concepts: OptionalConcepts = VOCABULARY,
    clusters: Annotated[
        int | None, setting("Clusters of k-means [60, or one per 8 components].")
    ] = None,
    method: Annotated[Method, setting("Clustering method.")] = "kmeans",
    label_method: LabelMethod = None,
    threshold: LabelThreshold = None,
    top_labels: Annotated[int, setting("Labels per place at most.", ge=1)] = 2,
    seed: Annotated[int, setting("Seed of UMAP and k-means.", ge=0, le=2**32 - 1)] = 0,
    again: Annotated[bool, setting("Recompute the saved layout and clusters.")] = False,
) -> ConceptMap:
    """Lay out components of one or several databases in the plane, and label places of it.

    Positions come from UMAP with the cosine metric, clusters from unit vectors of semantic
    space (paper, Fig. 2b and D.2). Clusters that lie side by side and share a label are one place.
    The labels of a place are the concepts with the largest mean score over its components.
    Positions and clusters are saved per settings in the first
    database's ``analysis`` folder. When layers are added later, existing positions do not change.
    A new component gets the mean position of its five nearest existing components, weighted by
    inverse squared cosine distance, and the cluster with most of that weight.

    Parameters
    ----------
    layers
        Layers to include, from each database that has them; all by default.
    concepts
        For labels; None for no labels. There are no labels either if the embedder
        reads no texts.
    label_method, threshold
        As ``method`` and ``threshold`` of ``label``. By default a label of a place must exceed
        the mean of the thresholds that ``label`` calibrates for its components.
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
    >>> result = sl.open("demo.semlens").concept_map()                  # doctest: +SKIP
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
        place=-1,
        place_label=None,
        placed=positions["placed"].to_numpy(bool),
    )
    colouring = colour(frame, sets, "model" if len(sets) > 1 else "place", ())
    result = ConceptMap(
        frame, pd.DataFrame(), pd.DataFrame(), method, seed, reused, colouring, tuple(sets)
    )
    return result.labelled(concepts, threshold, top_labels, label_method)


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
