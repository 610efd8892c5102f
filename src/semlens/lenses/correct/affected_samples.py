"""Samples affected by an artefact, to be left out of a retraining (paper, 4.3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from PIL import Image
from rich.console import Group, RenderableType

from semlens.data.images import Images
from semlens.draw.text_table import rich_table
from semlens.errors import DataError
from semlens.figures import (
    Distribution,
    Distributions,
    FigureSpec,
    Panel,
    PictureRow,
    Pictures,
    Tone,
)
from semlens.lens import lens
from semlens.lenses.arguments import Components
from semlens.lenses.correct.cav import fit_linear_svm, standardise
from semlens.lenses.result import Result
from semlens.models.forward import readouts
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component

SEEDS = 30
"""Samples with the strongest readouts of the components: the positives of the classifier."""
SVM_C = 0.001
"""C of the support vector machine, on standardised readouts; chosen on the demo world."""
SHARED = 3
"""Without a model, a flagged sample is a concept example of at least this many of the components,
or of half of them if that is fewer; chosen on the demo world."""
SHOWN = 8
"""Samples on each side of the threshold that the plot shows."""
BINS = 50
"""Bins of the histogram of scores."""
SIDE = 72
"""Longest side of a sample in the plot, in pixels."""


@dataclass(frozen=True, repr=False)
class AffectedSamples(Result):
    """Samples with a score for an artefact; those above the threshold are flagged.

    Parameters
    ----------
    frame
        Columns ``sample``, ``path``, ``class``, ``score``, ``flagged``, highest score first.
    searched
        Number of samples that have a score: all, or only the concept examples.
    from_model
        Whether the model was run. If not, only concept examples have a score.
    pictures
        Small pictures of the samples around the threshold, highest score first.
    """

    components: tuple[Component, ...]
    frame: pd.DataFrame
    threshold: float
    searched: int
    from_model: bool
    pictures: tuple[Image.Image, ...] = ()

    @property
    def samples(self) -> list[int]:
        """Numbers of the flagged samples."""
        return self.frame.loc[self.frame["flagged"], "sample"].tolist()

    @property
    def paths(self) -> list[str]:
        """Paths of the flagged samples."""
        return self.frame.loc[self.frame["flagged"], "path"].tolist()

    def per_class(self) -> pd.DataFrame:
        """Return the number of flagged samples of each class."""
        flags = self.frame.fillna({"class": "(no class)"}).groupby("class", sort=True)["flagged"]
        table = flags.agg(flagged="sum", samples="size").reset_index()
        return table.sort_values(["flagged", "class"], ascending=[False, True], ignore_index=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; samples that are not flagged are left out."""
        return {
            "components": [str(component) for component in self.components],
            "threshold": self.threshold,
            "searched": self.searched,
            "from_model": self.from_model,
            "flagged": self.frame.query("flagged").drop(columns="flagged").to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return the scores on both sides of the threshold, and the samples around it."""
        scores = self.frame["score"].to_numpy(float)
        edges = np.histogram_bin_edges(np.append(scores, self.threshold), BINS).tolist()
        flagged = self.frame["flagged"].to_numpy(bool)
        kinds: list[tuple[str, Bool[np.ndarray, " n"], Tone]] = [
            ("flagged", flagged, "spurious"), ("not flagged", ~flagged, "neutral"),
        ]  # fmt: skip
        groups = [
            Distribution(name, edges, np.histogram(scores[mask], edges)[0].tolist(), tone=tone)
            for name, mask, tone in kinds
        ]
        panels: list[Panel] = [Distributions("Scores", groups, "score", self.threshold)]
        if self.pictures:
            above = min(len(self.samples), SHOWN)
            rows = [
                PictureRow(self.pictures[:above], "flagged"),
                PictureRow(self.pictures[above:], "not flagged"),
            ]
            panels.append(Pictures("Around the threshold, highest score first", rows))
        return FigureSpec(f"{len(self.samples)} of {len(scores)} samples are affected", panels)

    def __rich__(self) -> RenderableType:
        """Return the counts by class and the samples with the highest scores."""
        source = "samples" if self.from_model else "concept examples"
        summary = f"{len(self.samples)} of {self.searched} {source} are affected"
        return Group(
            summary,
            rich_table(self.per_class().query("flagged > 0")),
            "Highest scores:",
            rich_table(self.frame.query("flagged").head(5), "", ["path", "class", "score"]),
        )


@lens("model", "images", group="Correct", command="")
def affected(
    database: Database,
    components: Components,
    *,
    all_data: Annotated[bool, setting("Score all samples; runs the model.")] = False,
) -> AffectedSamples:
    """Find the samples that show what some components have in common.

    By default, only concept examples in the database are searched: those that several of the
    components share are flagged. With ``all_data``, all samples are scored: a linear support
    vector machine separates the samples with the strongest readouts of the components from all
    others, using the readouts of the components' layers and of the deepest layer (as for a
    concept activation vector, Kim et al. 2018). Samples on the positive side are flagged.

    Raises
    ------
    LayerError
        If no component is given, or one is not in the database.
    DataError
        If there are too few samples.

    Examples
    --------
    >>> result = affected(db, db.search("watermark", top=8), all_data=True)   # doctest: +SKIP
    >>> result.paths                                                          # doctest: +SKIP
    """
    if not all_data:
        return _from_examples(database, components)
    usable = np.flatnonzero(database.samples["error"].isna().to_numpy())
    if len(usable) < 4:
        raise DataError(
            f"There are {len(usable)} readable samples.",
            "Expected at least 4.",
            "Build a database of more images.",
        )
    score = _scores(database, components, usable)
    frame = _table(database, usable, score, score > 0)
    return AffectedSamples(
        tuple(components), frame, 0.0, len(usable), True, _pictures(frame, database.images)
    )


def _from_examples(database: Database, components: Sequence[Component]) -> AffectedSamples:
    """Flag the concept examples that several of the components share."""
    rows = database.rows_of(components)
    examples = [{example.sample for example in database.examples_of(row)} for row in rows]
    samples = np.array(sorted(set().union(*examples)), np.int64)
    count = np.array([sum(sample in members for members in examples) for sample in samples])
    score = count / len(rows)
    threshold = min(SHARED, (len(rows) + 1) // 2) / len(rows)
    frame = _table(database, samples, score, score >= threshold)
    return AffectedSamples(tuple(components), frame, threshold, len(samples), False)


def _table(
    database: Database,
    samples: np.ndarray,
    score: Float64[np.ndarray, " n"],
    flagged: Bool[np.ndarray, " n"],
) -> pd.DataFrame:
    table = database.samples.iloc[samples]
    return pd.DataFrame(
        {
            "sample": samples,
            "path": table["path"].to_numpy(),
            "class": table["target"].to_numpy(),
            "score": score,
            "flagged": flagged,
        }
    ).sort_values(["score", "sample"], ascending=[False, True], ignore_index=True)


def _scores(
    database: Database, components: Sequence[Component], samples: np.ndarray
) -> Float64[np.ndarray, " n"]:
    """Return each sample's signed distance from the plane that separates the seeds."""
    layers = list(dict.fromkeys([*(c.layer for c in components), database.layers[-1]]))
    readings = readouts(
        database.model, database.images.read, samples.tolist(), layers,
        database.manifest.recipe.readout,
    )  # fmt: skip
    standard = {name: standardise(values)[0] for name, values in readings.items()}
    strength = np.mean([c.sign * standard[c.layer][:, c.index] for c in components], axis=0)
    seeds = np.zeros(len(samples), bool)
    seeds[np.argsort(-strength, kind="stable")[: max(2, min(SEEDS, len(samples) // 4))]] = True
    return signed_distances(np.concatenate([standard[name] for name in layers], axis=1), seeds)


def signed_distances(
    features: Float64[np.ndarray, "n c"], seeds: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return signed distances from the plane that separates seed samples from all others."""
    normal, intercept = fit_linear_svm(features, seeds, SVM_C)
    return (features @ normal + intercept) / np.linalg.norm(normal)


def _pictures(frame: pd.DataFrame, images: Images) -> tuple[Image.Image, ...]:
    """Return small pictures of the samples on both sides of the threshold."""
    flagged = int(np.count_nonzero(frame["flagged"].to_numpy(bool)))
    pictures: list[Image.Image] = []
    for sample in frame["sample"].iloc[max(0, flagged - SHOWN) : flagged + SHOWN].tolist():
        pictures.append(images.read(sample))
        pictures[-1].thumbnail((SIDE, SIDE))
    return tuple(pictures)
