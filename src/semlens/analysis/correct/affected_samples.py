"""The samples that carry what some components stand for, to be left out of a training (4.3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64
from PIL import Image
from rich.console import Group, RenderableType

from semlens.analysis.correct.cav import fitted, standardised
from semlens.analysis.correct.component_files import chosen_components
from semlens.analysis.result import Chart, Result
from semlens.data.images import Images
from semlens.draw.text_table import rich_table
from semlens.errors import DataError
from semlens.models.forward import readouts
from semlens.settings import question, setting
from semlens.store.reader import Database
from semlens.types import Component, Components

SEEDS = 30
"""Samples with the strongest components, from which the threshold is learned."""
STRENGTH = 0.001
"""C of the support vector machine, on standardised readouts; chosen on the demo world."""
SHARED = 3
"""Without a model: a flagged sample is a concept example of so many of the components, or of half
of them where that is less; chosen on the demo world."""
SHOWN = 8
"""Samples on each side of the threshold that the plot shows."""
SIDE = 72
"""Pixels of a shown sample."""


@dataclass(frozen=True, repr=False)
class AffectedSamples(Result):
    """Samples with a score for an artefact; those above the threshold are flagged."""

    components: tuple[Component, ...]
    frame: pd.DataFrame
    """Columns ``sample``, ``path``, ``class``, ``score``, ``flagged``, highest score first."""
    threshold: float
    searched: int
    """Number of samples that were looked at: all, or the concept examples only."""
    from_model: bool
    """Whether the model was run; without it there are the concept examples only."""
    near: tuple[Image.Image, ...] = ()
    """Small pictures of the samples around the threshold, highest score first."""

    @property
    def samples(self) -> list[int]:
        """Numbers of the flagged samples."""
        return self.frame.loc[self.frame["flagged"], "sample"].tolist()

    @property
    def paths(self) -> list[str]:
        """Paths of the flagged samples."""
        return self.frame.loc[self.frame["flagged"], "path"].tolist()

    def per_class(self) -> pd.DataFrame:
        """Return how many samples of each class are flagged."""
        named = self.frame.fillna({"class": "(no class)"}).groupby("class", sort=True)["flagged"]
        table = named.agg(flagged="sum", samples="size").reset_index()
        return table.sort_values(["flagged", "class"], ascending=[False, True], ignore_index=True)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; samples that are not flagged are left out."""
        return {
            "components": [str(component) for component in self.components],
            "threshold": self.threshold,
            "searched": self.searched,
            "from_model": self.from_model,
            "flagged": self.frame.query("flagged").drop(columns="flagged").to_dict("records"),
        }

    def plot(self) -> Chart:
        """Draw the scores, and the samples around the threshold."""
        from semlens.draw.correct_plots import affected_plot

        scores, flagged = self.frame["score"].to_numpy(), len(self.samples)
        return affected_plot(scores, self.threshold, self.near, min(flagged, SHOWN), flagged)

    def __rich__(self) -> RenderableType:
        """Return the classes, and the strongest samples."""
        where = "samples" if self.from_model else "concept examples"
        head = f"{len(self.samples)} of {self.searched} {where} are affected"
        return Group(
            head,
            rich_table(self.per_class().query("flagged > 0")),
            "The strongest:",
            rich_table(self.frame.query("flagged").head(5), "", ["path", "class", "score"]),
        )


@question("model", "images")
def affected(
    database: Database,
    components: Components,
    *,
    all_data: Annotated[bool, setting("Score all samples; runs the model.")] = False,
) -> AffectedSamples:
    """Find the samples that carry what some components have in common.

    By default among the concept examples, which the database holds: those that several of the
    components share are flagged. With ``all_data`` all samples are scored: a linear support
    vector machine tells the samples in which the components are strongest from all others, by
    the readouts of the components' layers and of the deepest layer (as a concept activation
    vector, Kim et al. 2018). What lies on their side is flagged.

    Raises
    ------
    LayerError
        If there is no component, or the database lacks one.
    DataError
        If there are too few samples.

    Examples
    --------
    >>> found = affected(db, db.search("watermark", top=8), all_data=True)   # doctest: +SKIP
    >>> found.paths                                                          # doctest: +SKIP
    """
    chosen = chosen_components(components, database)
    if not all_data:
        return _from_examples(database, chosen)
    usable = np.flatnonzero(database.samples["error"].isna().to_numpy())
    if len(usable) < 4:
        raise DataError(
            f"There are {len(usable)} readable samples.", "Expected at least 4.", "Give more."
        )
    score = _scores(database, chosen, usable)
    frame = _table(database, usable, score, score > 0)
    return AffectedSamples(
        tuple(chosen), frame, 0.0, len(usable), True, _near(frame, database.images)
    )


def _from_examples(database: Database, components: Sequence[Component]) -> AffectedSamples:
    rows = database.rows_of(components)
    examples = [{example.sample for example in database.examples_of(row)} for row in rows]
    found = np.array(sorted(set().union(*examples)), np.int64)
    score = np.array([sum(sample in part for part in examples) for sample in found]) / len(rows)
    threshold = min(SHARED, (len(rows) + 1) // 2) / len(rows)
    frame = _table(database, found, score, score >= threshold)
    return AffectedSamples(tuple(components), frame, threshold, len(found), False)


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
    """Return each sample's distance from the plane that the machine has learned."""
    layers = list(dict.fromkeys([*(c.layer for c in components), database.layers[-1]]))
    found = readouts(
        database.model, database.images.read, samples.tolist(), layers,
        database.manifest.recipe.readout,
    )  # fmt: skip
    standard = {name: standardised(values)[0] for name, values in found.items()}
    strength = np.mean([c.sign * standard[c.layer][:, c.index] for c in components], axis=0)
    seeds = np.zeros(len(samples), bool)
    seeds[np.argsort(-strength, kind="stable")[: max(2, min(SEEDS, len(samples) // 4))]] = True
    return separated(np.concatenate([standard[name] for name in layers], axis=1), seeds)


def separated(
    features: Float64[np.ndarray, "n c"], seeds: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return the signed distances to the plane between some samples and the others."""
    normal, intercept = fitted(features, seeds, STRENGTH)
    return (features @ normal + intercept) / np.linalg.norm(normal)


def _near(frame: pd.DataFrame, images: Images) -> tuple[Image.Image, ...]:
    """Return small pictures of the samples on both sides of the threshold."""
    edge = int(np.count_nonzero(frame["flagged"].to_numpy(bool)))
    found: list[Image.Image] = []
    for sample in frame["sample"].iloc[max(0, edge - SHOWN) : edge + SHOWN].tolist():
        found.append(images.read(sample))
        found[-1].thumbnail((SIDE, SIDE))
    return tuple(found)
