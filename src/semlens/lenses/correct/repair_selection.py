"""Which components a repair removes: what the audit found, and what a person says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from semlens.data.artefact import WithArtefact
from semlens.data.pieces import Pieces
from semlens.errors import DataError, RelevanceError
from semlens.lenses.audit.audit_records import Review
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.class_relevance import mean_shares
from semlens.lenses.correct.ablation_preview import (
    AblationPreview,
    RateChange,
    ablation_preview,
)
from semlens.lenses.graph.relevance_trace import component_shares, make_job
from semlens.store.reader import Database
from semlens.types import Component


def components_to_remove(
    database: Database, audit: Audit, reviews: Mapping[str, Review]
) -> list[Component]:
    """Return the components that a repair of a class removes, the most relevant first.

    These are the spurious ones if the audit raises the alarm or a suspicion, and those that a
    person has marked as spurious; without those that a person has dismissed.

    Raises
    ------
    DataError
        If there are none.
    """
    found = [str(component) for component in audit.spurious] if audit.standing.flagged else []
    marked = [name for name, review in reviews.items() if review.status == "spurious"]
    dismissed = {name for name, review in reviews.items() if review.status == "dismissed"}
    names = [name for name in dict.fromkeys([*found, *marked]) if name not in dismissed]
    if not names:
        raise DataError(
            f"There is nothing to repair: '{audit.name}' raises no alarm and no suspicion, and no "
            "component is marked as spurious.",
            "Expected spurious components behind either, or components that you marked.",
            "Mark components as spurious on their card, on the map or among the unexpected ones.",
        )
    return by_relevance(database, audit.target, [Component.parse(name) for name in names])


def by_relevance(database: Database, target: int, components: list[Component]) -> list[Component]:
    """Sort components by their mean relevance for a class, the largest first."""
    shares = mean_shares(database, target)
    rows = dict(zip(components, database.rows_of(components), strict=True))
    return sorted(components, key=lambda one: (-shares[rows[one]], rows[one]))


TRACED = 24
"""Images that relevance is computed on, with and without the artefact."""
STEPS = 2
"""Times that the number of components is doubled."""
FEWEST = 4
"""Components of the first step, at least."""


@dataclass(frozen=True, eq=False)
class Step:
    """What removing further components does, in addition to those that were removed.

    Parameters
    ----------
    added
        The further components, the largest share of the artefact's effect first.
    taken
        Whether each image with the artefact is taken for the class, before and without all.
    accuracy
        On the original images, without and with the further components.
    """

    added: tuple[Component, ...]
    taken: RateChange
    accuracy: RateChange


def next_components(
    database: Database,
    preview: AblationPreview,
    artefact: Pieces,
    remaining: Bool[np.ndarray, " n"],
    seed: int = 0,
) -> list[Step]:
    """Remove further components, those that an artefact makes most relevant for the class.

    A component's share of the artefact's effect is the mean difference of its share of its layer's
    relevance for the class, with the artefact and without it, on the same images.

    Parameters
    ----------
    preview
        Predictions without the components that were removed so far.
    remaining
        Which images with the artefact are still taken for the class; relevance is computed on them.

    Returns
    -------
    list of Step
        Each adds twice as many components; empty if there are no further components.
    """
    ranked = _ranked(database, preview, artefact, remaining, seed)
    steps: list[Step] = []
    count = max(FEWEST, len(preview.components) // 2)
    others = preview.right != preview.target
    for _ in range(STEPS):
        added = tuple(ranked[:count])
        if not added or (steps and len(added) == len(steps[-1].added)):
            break
        without = ablation_preview(
            database, preview.target, [*preview.components, *added], artefact=artefact,
            seed=seed, samples=preview.samples,
        )  # fmt: skip
        clean, marked = without.sets
        before, after = preview.sets[1].after[others], marked.after[others]
        right = preview.right
        steps.append(
            Step(
                added,
                RateChange.of(before == preview.target, after == preview.target),
                RateChange.of(preview.sets[0].after == right, clean.after == right),
            )
        )
        count *= 2
    return steps


def _ranked(
    database: Database,
    preview: AblationPreview,
    artefact: Pieces,
    remaining: Bool[np.ndarray, " n"],
    seed: int,
) -> list[Component]:
    """Return the other components whose relevance the artefact raises, most first."""
    samples = preview.samples[remaining][:TRACED].tolist()
    marked = WithArtefact(database.images, [artefact], seed=seed)
    try:
        jobs = [make_job(database, preview.target, samples, images) for images in (None, marked)]
        without, with_mark = map(component_shares, jobs)
    except RelevanceError:  # the rules do not fit the model
        return []
    removed = set(preview.components)
    rises: list[tuple[float, int, Component]] = []
    for entry in jobs[0].entries:
        rise = (with_mark[entry.name] - without[entry.name]).mean(0)
        for index in np.flatnonzero(rise > 0).tolist():
            component = database.component(entry.first + index)
            if component not in removed:
                rises.append((-float(rise[index]), entry.first + index, component))
    return [component for _, _, component in sorted(rises)]
