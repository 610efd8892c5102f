"""ClassAudits: audits of many classes, each with its own concepts (paper, 4.2 and Fig. 3b)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.text_table import rich_table
from semlens.errors import ConceptError, RelevanceError
from semlens.lens import lens
from semlens.lenses.audit.audit import (
    BACKGROUND,
    LEVEL,
    RESAMPLES,
    Background,
    Level,
    Resamples,
    Seed,
    Threshold,
    audit_class,
)
from semlens.lenses.audit.audit_records import AuditSettings
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.class_verdict import FLAGGED, ClassVerdict, overall
from semlens.lenses.audit.relevance_shares import VERDICTS
from semlens.lenses.class_relevance import MINIMUM, Minimum
from semlens.lenses.classes import class_name
from semlens.lenses.resolve_concepts import ClassConcepts, concepts_by_class, no_class_error
from semlens.lenses.result import Result
from semlens.progress import report_progress
from semlens.store.reader import Database
from semlens.types import Layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class ClassAudits(Result):
    """One audit per class.

    Parameters
    ----------
    audits
        By class name, in logit order.
    skipped
        By class name, why a class with a concept set was not audited.
    level
        Largest expected share of false alarms among the alarms.
    """

    audits: Mapping[str, Audit]
    skipped: Mapping[str, str]
    level: float

    @cached_property
    def frame(self) -> pd.DataFrame:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One row per class: shares by relevance, p-value, suspect, and the standing.

        ``q_value`` is the p-value corrected for the number of classes (Benjamini-Hochberg); a
        class raises the alarm if it is at most the level.
        """
        rows = [{**audit.row, "class": name} for name, audit in self.audits.items()]
        return pd.DataFrame(rows).assign(
            q_value=[one.q_value for one in self.standings],
            standing=[one.kind for one in self.standings],
        )

    @cached_property
    def standings(self) -> list[ClassVerdict]:
        """The standing of each class, in the order of the audits."""
        return [replace(audit.standing, name=name) for name, audit in self.audits.items()]

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        return overall(self.standings)

    @property
    def alarms(self) -> list[str]:
        """The classes that rely on spurious concepts, at a false discovery rate of ``level``."""
        return [one.name for one in self.standings if one.kind == "alarm"]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per class."""
        return self.frame.copy()

    def components(self) -> pd.DataFrame:
        """Return one row per class and relevant component."""
        return pd.concat(
            [audit.to_pandas().assign(**{"class": name}) for name, audit in self.audits.items()],
            ignore_index=True,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "sentence": self.sentence,
            "classes": self.frame.to_dict("records"),
            "alarms": self.alarms,
            "level": self.level,
            "skipped": dict(self.skipped),
            "audits": {name: audit.to_json() for name, audit in self.audits.items()},
        }

    def plot(self) -> Figure:
        """Draw each class's components by valid alignment, and the shares (paper, Fig. 3b)."""
        from semlens.draw.audit_plots import sweep_plot

        return sweep_plot(self.frame, {name: audit.frame for name, audit in self.audits.items()})

    def __rich__(self) -> RenderableType:
        """Return the table for the terminal: one row per class, lowest p-value first."""
        table = self.frame.sort_values("p_value", kind="stable")
        shown = pd.DataFrame({"class": table["class"]})
        for verdict in VERDICTS:
            shown[verdict] = [f"{100 * value:.0f} %" for value in table[verdict]]
        for column in ("p", "q"):
            values = table[f"{column}_value"]
            shown[column] = ["" if value != value else f"{value:.4f}" for value in values]
        flagged = table["standing"].isin(FLAGGED)
        shown["standing"] = table["standing"].where(table["standing"] != "alarm", "ALARM")
        shown["suspect"] = table["suspect"].where(flagged)
        title = f"\n{len(table)} classes, shares of the relevance of all layers by verdict"
        lines: list[RenderableType] = [Text(self.sentence, style="bold"), rich_table(shown, title)]
        lines += [Text(f"Skipped '{name}': {reason}") for name, reason in self.skipped.items()]
        return Group(*lines)


@lens("embedder", group="Audit", command="")
def audit_all(
    database: Database,
    concepts: ClassConcepts = None,
    *,
    layers: Layers = None,
    minimum: Minimum = MINIMUM,
    level: Level = LEVEL,
    threshold: Threshold = None,
    background: Background = BACKGROUND,
    resamples: Resamples = RESAMPLES,
    seed: Seed = 0,
) -> ClassAudits:
    """Audit every class that has concepts, each with its own.

    Parameters that are not listed are those of :func:`audit`.

    Parameters
    ----------
    concepts
        A set with a ``target`` applies to that class only, one without to every class. The
        audited classes are those that any set names or, if none does, all classes with relevance.
        By default a class is audited with the lists of its most recently edited saved audit, or
        with the bundled sets for it.

    Raises
    ------
    ConceptError
        If there is no set, or the concepts of every class are invalid. If those of only some
        classes are invalid, these are skipped.
    RelevanceError
        If the database has no relevance for any of the classes.
    """
    settings = AuditSettings.of(layers, minimum, level, threshold, seed)
    resolved, skipped = concepts_by_class(database, concepts)
    audits: dict[str, Audit] = {}
    for done, (class_index, by_class) in enumerate(resolved.items()):
        report_progress("auditing", done, len(resolved))
        name = class_name(database, class_index)
        # two classes may share a name
        name = name if name not in audits else f"{name} ({class_index})"
        try:
            audits[name] = audit_class(
                database, class_index, by_class.concepts, settings, background, resamples
            )
        except (RelevanceError, ConceptError) as error:  # the other audits still run
            skipped[name] = error
    report_progress("auditing", len(resolved), len(resolved))
    if not audits:
        raise no_class_error(skipped)
    p = {name: one.p_value for name, one in audits.items()}
    together = {
        name: replace(one, others=[p[other] for other in audits if other != name])
        for name, one in audits.items()
    }
    return ClassAudits(together, {name: error.value for name, error in skipped.items()}, level)
