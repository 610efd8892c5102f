"""Audits of many classes, each against its own concepts (paper, 4.2 and Fig. 3b)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text
from scipy.stats import false_discovery_control

from semlens.analysis.audit.audit import audit
from semlens.analysis.audit.found import Audit
from semlens.analysis.audit.shares import VERDICTS
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.result import Result
from semlens.analysis.target import class_name, find_class
from semlens.draw.table import rich_table
from semlens.errors import ConceptError, RelevanceError
from semlens.store.reader import Database

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Sweep(Result):
    """One audit per class.

    Parameters
    ----------
    audits
        By class, in logit order.
    skipped
        Why a class that a concept set is for was left out.
    """

    audits: Mapping[str, Audit]
    skipped: Mapping[str, str]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per class: shares by relevance, chance, and what is spurious most."""
        records = [_record(name, one) for name, one in self.audits.items()]
        table = pd.DataFrame(records)
        p = table["p_value"].to_numpy(float)
        q = np.full(len(p), np.nan)
        if not np.isnan(p).all():
            q[~np.isnan(p)] = false_discovery_control(p[~np.isnan(p)])
        return table.assign(q_value=q)

    @property
    def alarms(self) -> list[str]:
        """The classes whose spurious share exceeds chance."""
        return [name for name, one in self.audits.items() if one.alarm]

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per class."""
        return self.frame.copy()

    def components(self) -> pd.DataFrame:
        """Return one row per class and relevant component."""
        return pd.concat(
            [one.to_pandas().assign(**{"class": name}) for name, one in self.audits.items()],
            ignore_index=True,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "classes": self.frame.to_dict("records"),
            "alarms": self.alarms,
            "skipped": dict(self.skipped),
            "audits": {name: one.to_json() for name, one in self.audits.items()},
        }

    def plot(self) -> Figure:
        """Draw every class's components by their valid alignment, and the shares (Fig. 3b)."""
        from semlens.draw.sweep_plot import sweep_plot

        return sweep_plot(self.frame, {name: one.frame for name, one in self.audits.items()})

    def __rich__(self) -> RenderableType:
        """Return a row per class."""
        table = self.frame.sort_values("p_value", kind="stable")
        shown = pd.DataFrame({"class": table["class"]})
        for verdict in VERDICTS:
            shown[verdict] = [f"{100 * value:.0f} %" for value in table[verdict]]
        shown["p_value"] = table["p_value"]
        shown["alarm"] = ["ALARM" if name in self.alarms else "" for name in table["class"]]
        shown["most_spurious"] = [
            f"{concept} ({100 * share:.0f} %)" if concept else None
            for concept, share in zip(table["concept"], table["concept_share"], strict=True)
        ]
        parts: list[RenderableType] = [
            rich_table(shown, f"{len(table)} classes, shares of relevance by verdict")
        ]
        parts += [Text(f"Left out '{name}': {why}") for name, why in self.skipped.items()]
        return Group(*parts)


def _record(name: str, one: Audit) -> dict[str, Any]:
    spurious = one.summary[(one.summary["kind"] == "spurious") & (one.summary["components"] > 0)]
    first = spurious.iloc[0] if len(spurious) else None
    return {
        "class": name,
        "components": len(one.frame),
        **{verdict: one.share(verdict) for verdict in VERDICTS},
        "p_value": one.p_value,
        "alarm": one.alarm,
        "concept": None if first is None else first["concept"],
        "concept_share": np.nan if first is None else first["relevance"],
    }


def audit_all(
    database: Database,
    sets: Sequence[ConceptSet],
    *,
    progress: Callable[[int, int], None] = lambda *_: None,
    **settings: Any,
) -> Sweep:
    """Audit every class that has concepts, each against its own.

    Parameters
    ----------
    sets
        A set with a ``target`` is for that class only; one without is for every class. The
        classes are those that some set names, or all with relevance if none does.
    progress
        Called with the number of classes done, and of all.
    settings
        As :func:`audit` takes them.

    Raises
    ------
    ConceptError
        If there is no set.
    RelevanceError
        If the database has no relevance, or not for any of the classes.
    ConceptError
        If the concepts of every class are refused; a class whose are is left out.
    """
    if not sets:
        raise ConceptError("There is no concept set.", "Expected at least one.", "Name one.")
    wanted, skipped = _targets(database, sets)
    audits: dict[str, Audit] = {}
    refused: ConceptError | None = None
    for done, number in enumerate(wanted):
        progress(done, len(wanted))
        name = class_name(database, number)
        # a name that two classes have must not hide one of them
        name = name if name not in audits else f"{name} ({number})"
        try:
            audits[name] = audit(database, number, set_for(database, number, sets), **settings)
        except RelevanceError as error:
            skipped[name] = error.value
        except ConceptError as error:  # one long list must not cost the audits of all others
            skipped[name] = error.value
            refused = error
    progress(len(wanted), len(wanted))
    if not audits and refused is not None:
        raise refused
    if not audits:
        raise RelevanceError(
            "No class could be audited: " + "; ".join(skipped.values()),
            f"Expected classes of the database among {len(sets)} concept sets.",
            "Check the sets' targets, or leave these out.",
        )
    return Sweep(audits, skipped)


def set_for(database: Database, target: int | str, sets: Sequence[ConceptSet]) -> ConceptSet:
    """Join the sets that are for a class: those that name it, and those that name none.

    Raises
    ------
    ConceptError
        If all of them name other classes.
    """
    number = find_class(database, target)
    chosen = [one for one in sets if one.target is None or _logit(database, one) == number]
    if not chosen:
        raise ConceptError(
            f"No concept set is for the class '{class_name(database, number)}'.",
            f"The sets are for {', '.join(sorted({str(one.target) for one in sets}))}.",
            "Take the 'target' out of a set that you want for this class, too.",
        )
    return ConceptSet.join([replace(one, target=None) for one in chosen])


def _targets(database: Database, sets: Sequence[ConceptSet]) -> tuple[list[int], dict[str, str]]:
    """Return the classes to audit, and why classes that a set names are not among them."""
    named = [one.target for one in sets if one.target is not None]
    if not named:
        return sorted(int(number) for number in database.relevance_classes["class"]), {}
    wanted: set[int] = set()
    skipped: dict[str, str] = {}
    for target in named:
        try:
            wanted.add(find_class(database, target))
        except RelevanceError as error:
            skipped[str(target)] = error.value
    return sorted(wanted), skipped


def _logit(database: Database, one: ConceptSet) -> int | None:
    """Return the class that a set is for, or None if the database lacks it."""
    try:
        return None if one.target is None else find_class(database, one.target)
    except RelevanceError:
        return None
