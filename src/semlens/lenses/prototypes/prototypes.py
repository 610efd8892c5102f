"""Prototypes and outliers of a class (PCX, Dreyer et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from rich.console import Group, RenderableType

from semlens.data.images import Images
from semlens.data.pictures import listed_pictures
from semlens.draw.text_table import titled_table
from semlens.errors import DataError
from semlens.figures import FigureSpec, PictureRow, Pictures
from semlens.lens import lens
from semlens.lenses.arguments import Class, Samples
from semlens.lenses.classes import Pictures as PicturesLike
from semlens.lenses.classes import class_name
from semlens.lenses.database_engine import RulesLike
from semlens.lenses.graph.relevance_trace import component_shares, make_job, reached_layers
from semlens.lenses.labelling.component_labels import (
    NAMES,
    ComponentLabels,
    LabelSource,
    as_labels,
    label_of,
)
from semlens.lenses.prototypes.mixture import (
    OrdinaryVectors,
    RelevanceMixture,
    choose_mixture,
)
from semlens.lenses.result import Result
from semlens.settings import setting
from semlens.store.reader import Database

LISTED = 10
"""Components that are listed for a prototype or an image."""
NAMED = 3
"""Components that are named in a table."""


@dataclass(frozen=True, eq=False)
class LayerComponents:
    """The components of a layer, with their labels."""

    database: Database
    layer: str
    labels: ComponentLabels

    @cached_property
    def _table(self) -> pd.DataFrame:
        rows = self.database.rows(self.layer)
        components = [self.database.component(int(row)) for row in rows]
        labels = [label_of(self.labels, component) for component in components]
        names = [str(component) for component in components]
        return pd.DataFrame(
            {"component": names, "label": pd.Series(labels, dtype=object), "row": rows}
        )

    def differences(
        self,
        values: Float64[np.ndarray, " k"],
        reference: Float64[np.ndarray, " k"],
        names: tuple[str, str],
    ) -> pd.DataFrame:
        """Return the components that differ most, largest difference first.

        Parameters
        ----------
        names
            Columns of the values and of the reference.

        Returns
        -------
        DataFrame
            ``component``, ``label``, the two columns, ``difference`` and ``row``.
        """
        difference = values - reference
        order = np.argsort(-np.abs(difference), kind="stable")[:LISTED]
        table = self._table.iloc[order].reset_index(drop=True)
        columns = {names[0]: values[order], names[1]: reference[order]}
        shares = pd.DataFrame({**columns, "difference": difference[order]})
        return pd.concat([table[["component", "label"]], shares, table[["row"]]], axis=1)


def caption(record: dict[str, Any]) -> str:
    """Return a component with its label and its difference in per cent."""
    label = f" {record['label']}" if record["label"] else ""
    return f"{record['component']}{label} {100 * record['difference']:+.1f} %"


def named(differences: pd.DataFrame) -> list[str]:
    """Return the captions of the components that differ most."""
    return [caption(record) for record in differences.head(NAMED).to_dict("records")]


LEAST, PER_PROTOTYPE = 30, 5
"""Images of a class that a mixture needs, and per prototype."""
SHOWN = 5
"""Images of a prototype, and unusual images, in the plot and in the terminal."""
CROPS = 3
"""Examples of a component in the plot."""


@dataclass(frozen=True, eq=False, repr=False)
class Prototypes(Result):
    """How a model predicts a class: its prototypes, and images that it predicts otherwise.

    Parameters
    ----------
    target, name
        Logit and name of the class.
    layer, rules
        Layer of the components, and name of the relevance rules.
    quantile
        Percentile of the likelihood up to which an image is an outlier.
    frame
        One row per prototype, the most frequent first: ``prototype`` (from 1), ``share`` of the
        class, ``images``, ``sample`` and ``path`` of the prototypical image, and ``components``
        that characterise it.
    samples
        One row per image of the class, the least likely first: ``sample``, ``path``,
        ``prototype``, ``log_likelihood``, ``percentile``, ``outlier``.
    characteristic
        The components of each prototype, those that differ most from the class first:
        ``prototype``, ``component``, ``label``, ``mean`` share of relevance, ``class_mean``,
        ``difference`` and ``row``.
    pictures
        One row per given image: ``image``, ``prototype``, ``percentile``, ``outlier``,
        ``components`` in which it deviates from its prototype.
    deviations
        The same components: ``image``, ``component``, ``label``, ``share``, ``mean`` of the
        prototype, and ``difference``.
    nearest
        Samples of each prototype, nearest to its mean first.
    """

    database: Database
    target: int
    name: str
    layer: str
    rules: str
    quantile: float
    frame: pd.DataFrame
    samples: pd.DataFrame
    characteristic: pd.DataFrame
    pictures: pd.DataFrame
    deviations: pd.DataFrame
    nearest: tuple[Int64[np.ndarray, " _"], ...]

    @property
    def outliers(self) -> pd.DataFrame:
        """The images of the class that are outliers, the least likely first."""
        found: Any = self.samples[self.samples["outlier"]]
        return found

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "target": self.target,
            "class": self.name,
            "layer": self.layer,
            "rules": self.rules,
            "quantile": self.quantile,
            "prototypes": self.frame.to_dict("records"),
            "components": self.characteristic.drop(columns="row").to_dict("records"),
            "samples": self.samples.to_dict("records"),
            "images": self.pictures.to_dict("records"),
            "deviations": self.deviations.to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return a row of images per prototype, and one per component with its examples."""
        from semlens.draw.example_sheet import example_pictures

        read = self.database.images.read
        panels: list[Pictures] = []
        for record, members in zip(self.frame.to_dict("records"), self.nearest, strict=True):
            own: Any = self.characteristic[self.characteristic["prototype"] == record["prototype"]]
            rows = [PictureRow([read(sample) for sample in members[:SHOWN].tolist()], "nearest")]
            rows += [
                PictureRow(
                    example_pictures(self.database, one["row"], CROPS), one["component"],
                    caption(one),
                )
                for one in own.head(NAMED).to_dict("records")
            ]  # fmt: skip
            title = f"{100 * record['share']:.0f} % of the class, {record['images']} images"
            panels.append(Pictures(title, rows))
        unlikely = [read(sample) for sample in self.samples["sample"].head(SHOWN).tolist()]
        panels.append(Pictures("The least likely images", [PictureRow(unlikely)]))
        return FigureSpec(f"Prototypes of '{self.name}' at {self.layer}", panels)

    def __rich__(self) -> RenderableType:
        """Return the prototypes, the least likely images, and the given images."""
        tables = titled_table(
            f"Prototypes of '{self.name}' at {self.layer} ({self.rules})",
            self.frame.drop(columns="sample"),
        )
        tables += titled_table(
            "The least likely images of the class", self.samples.head(SHOWN).drop(columns="outlier")
        )
        if len(self.pictures):
            tables += titled_table("Given images", self.pictures)
        return Group(*tables)


@lens("model", "images", "embedder", group="Explain", command="")
def prototypes(
    database: Database,
    target: Class,
    *,
    layer: Annotated[str | None, setting("Layer of the components [the highest].")] = None,
    number: Annotated[int | None, setting("Number of prototypes [by BIC].", ge=1, le=50)] = None,
    most: Annotated[int, setting("Prototypes at most, if BIC decides.", ge=1, le=50)] = 6,
    quantile: Annotated[
        float, setting("Share of ordinary images that are called outliers.", gt=0, lt=1)
    ] = 0.05,
    samples: Samples = 1000,
    images: PicturesLike = None,
    concepts: LabelSource = NAMES,
    rules: RulesLike = None,
) -> Prototypes:
    """Find the typical ways in which a model predicts a class, and images that deviate.

    The relevance of a layer's components for the class, on its images, is described by a mixture
    of Gaussians. The image nearest to the mean of each is a prototype. Outliers are images whose
    relevance is less likely than nearly all of the class.

    Parameters
    ----------
    images
        Pictures, from anywhere, to compare with the prototypes: a path, a picture, an array, or
        several.

    Raises
    ------
    RelevanceError
        If there is no such class, or no relevance reaches the layer.
    DataError
        If the class has too few images.

    Examples
    --------
    >>> result = db.prototypes("ox")                           # doctest: +SKIP
    >>> result.outliers                                        # doctest: +SKIP
    """
    name = reached_layers(database, target)[-1] if layer is None else layer
    job = make_job(database, target, samples, layers=name, rules=rules)
    numbers = np.array(job.images.samples, np.int64)
    _check_enough(class_name(database, target), len(numbers), number or 1)
    vectors = component_shares(job)[name].astype(np.float64)
    mixture = choose_mixture(vectors, number, most)
    groups = _Groups.of(mixture, vectors)
    ordinary = OrdinaryVectors.of(vectors, mixture.gaussians.n_components)
    components = LayerComponents(database, name, as_labels(database, concepts, name))
    nearest = groups.nearest(vectors)
    frame, characteristic = _describe(database, groups, vectors, components, numbers, nearest)
    of_class = pd.DataFrame(
        {
            "sample": numbers,
            "path": database.samples["path"].to_numpy()[numbers],
            "prototype": groups.members + 1,
            "log_likelihood": ordinary.log_likelihood,
            "percentile": ordinary.percentiles,
            "outlier": ordinary.percentiles <= quantile,
        }
    ).sort_values("log_likelihood", kind="stable", ignore_index=True)
    pictures, deviations = pd.DataFrame(), pd.DataFrame()
    if images is not None:
        given = component_shares(make_job(database, target, 1, images, name, rules))[name]
        given = given.astype(np.float64)
        percentiles = ordinary.percentile(given)
        pictures, deviations = _compare(_names(images), groups, given, percentiles, components)
        pictures.insert(3, "outlier", percentiles <= quantile)
    return Prototypes(
        database, target, class_name(database, target), name, job.engine.rules.name, quantile,
        frame, of_class, characteristic, pictures, deviations,
        tuple(numbers[own] for own in nearest),
    )  # fmt: skip


def _check_enough(name: str, count: int, prototypes: int) -> None:
    if count < max(LEAST, PER_PROTOTYPE * prototypes):
        raise DataError(
            f"There are {count} images of the class '{name}'.",
            f"Expected at least {LEAST}, and {PER_PROTOTYPE} per prototype.",
            "Choose another class, more images or fewer prototypes.",
        )


@dataclass(frozen=True, eq=False)
class _Groups:
    """The vectors of each Gaussian that has some, the most frequent first."""

    mixture: RelevanceMixture
    gaussians: list[int]
    members: Int64[np.ndarray, " n"]
    means: Float64[np.ndarray, "g k"]

    @classmethod
    def of(cls, mixture: RelevanceMixture, vectors: Float64[np.ndarray, "n k"]) -> _Groups:
        likeliest = mixture.posterior(vectors).argmax(1)
        gaussians, counts = np.unique(likeliest, return_counts=True)
        order = gaussians[np.argsort(-counts, kind="stable")].tolist()
        members = np.array([order.index(one) for one in likeliest.tolist()], np.int64)
        means = np.stack([vectors[members == one].mean(0) for one in range(len(order))])
        return cls(mixture, order, members, means)

    def find(self, vectors: Float64[np.ndarray, "m k"]) -> list[int]:
        """Return the group of other vectors."""
        return self.mixture.posterior(vectors)[:, self.gaussians].argmax(1).tolist()

    def nearest(self, vectors: Float64[np.ndarray, "n k"]) -> list[Int64[np.ndarray, " _"]]:
        """Return the places of each group's vectors, the nearest to its mean first."""
        places: list[np.ndarray] = []
        for one, mean in enumerate(self.means):
            own = np.flatnonzero(self.members == one)
            distance = np.linalg.norm(vectors[own] - mean, axis=1)
            places.append(own[np.argsort(distance, kind="stable")])
        return places


def _describe(
    database: Database,
    groups: _Groups,
    vectors: Float64[np.ndarray, "n k"],
    components: LayerComponents,
    numbers: Int64[np.ndarray, " n"],
    nearest: Sequence[Int64[np.ndarray, " _"]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of prototypes, and that of their components."""
    rows: list[dict[str, Any]] = []
    parts: list[pd.DataFrame] = []
    for one, (mean, own) in enumerate(zip(groups.means, nearest, strict=True)):
        part = components.differences(mean, vectors.mean(0), ("mean", "class_mean"))
        part.insert(0, "prototype", one + 1)
        parts.append(part)
        sample = int(numbers[own[0]])
        rows.append(
            {
                "prototype": one + 1,
                "share": len(own) / len(numbers),
                "images": len(own),
                "sample": sample,
                "path": database.samples["path"].iloc[sample],
                "components": named(part) if len(nearest) > 1 else [],
            }
        )
    return pd.DataFrame(rows), pd.concat(parts, ignore_index=True)


def _compare(
    names: Sequence[str],
    groups: _Groups,
    given: Float64[np.ndarray, "m k"],
    percentiles: Float64[np.ndarray, " m"],
    components: LayerComponents,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the table of given images, and that of the components in which they deviate."""
    rows: list[dict[str, Any]] = []
    parts: list[pd.DataFrame] = []
    for name, vector, place, share in zip(
        names, given, groups.find(given), percentiles.tolist(), strict=True
    ):
        part = components.differences(vector, groups.means[place], ("share", "mean"))
        part.insert(0, "image", name)
        parts.append(part.drop(columns="row"))
        rows.append({"image": name, "prototype": place + 1, "percentile": share,
                     "components": named(part)})  # fmt: skip
    return pd.DataFrame(rows), pd.concat(parts, ignore_index=True)


def _names(images: PicturesLike) -> list[str]:
    """Return the names of pictures: their paths, or their numbers."""
    if isinstance(images, Images):
        return list(images.ids)
    items = [] if images is None else listed_pictures(images)
    return [str(one) if isinstance(one, str | Path) else str(i) for i, one in enumerate(items)]
