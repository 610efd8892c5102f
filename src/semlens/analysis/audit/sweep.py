"""Audits of many classes, each against its own concepts (paper, 4.2 and Fig. 3b).

Conditions say what no audit may meet: for a build server that lets a model pass or not.
"""

from __future__ import annotations

import operator
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text
from scipy.stats import false_discovery_control

from semlens.analysis.audit.audit import (
    BACKGROUND,
    LEVEL,
    RESAMPLES,
    Background,
    Level,
    Resamples,
    Seed,
    Threshold,
    audit,
)
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.relevance_shares import VERDICTS
from semlens.analysis.class_relevance import MINIMUM, Minimum
from semlens.analysis.classes import class_name
from semlens.analysis.resolve_concepts import ClassConcepts, concepts_by_class, nothing_left
from semlens.analysis.result import Result
from semlens.draw.text_table import rich_table
from semlens.errors import ConceptError, RecipeError, RelevanceError
from semlens.progress import report
from semlens.settings import question
from semlens.store.atomic_files import save_text
from semlens.store.reader import Database
from semlens.types import Layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
MEASURES = (*VERDICTS, *(f"{verdict}.number" for verdict in VERDICTS), "p")


@dataclass(frozen=True)
class Condition:
    """A bound on an audit's figure: ``spurious>0.05``, ``valid.number<0.5``, ``p<0.01``.

    A verdict's name stands for its share of relevance, with ``.number`` for its share of
    components, ``p`` for the chance that random concepts claim as much as the spurious ones.
    """

    text: str
    measure: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises
        ------
        RecipeError
            If it has another form, or its measure is unknown.
        """
        match = re.fullmatch(r"\s*([a-z.]+)\s*(>=|<=|>|<)\s*(\d*\.?\d+)\s*(%?)\s*", text)
        if match is None or match[1] not in MEASURES:
            raise RecipeError(
                f"'{text}' is no condition of an audit.",
                f"Expected for example 'spurious>0.05'; known are {', '.join(MEASURES)}.",
                "Correct it, and put it in quotes.",
            )
        bound = float(match[3]) / (100 if match[4] else 1)
        if bound > 1:
            raise RecipeError(
                f"The bound of '{text}' is {bound:g}.",
                "Expected a share from 0 to 1, or of at most 100 %.",
                f"Write '{match[1]}{match[2]}{match[3]}%' for a percentage.",
            )
        return cls(text.strip(), match[1], match[2], bound)

    def value(self, audit: Audit) -> float:
        """Return the figure that is compared.

        Raises
        ------
        RecipeError
            If the audit's concepts cannot give such a verdict: the condition says nothing.
        """
        verdict, _, by = self.measure.partition(".")
        if (verdict if verdict != "p" else "spurious") not in audit.possible:
            raise RecipeError(
                f"'{self.text}' says nothing about the class '{audit.name}'.",
                f"Its concepts can only give {', '.join(sorted(audit.possible))}.",
                "Add concepts of the other side, such as the set 'artefacts'.",
            )
        return audit.p_value if verdict == "p" else audit.share(verdict, by=by or "relevance")

    def met(self, audit: Audit) -> bool:
        """Say whether the audit fails by this condition."""
        return _COMPARE[self.sign](self.value(audit), self.bound)


@dataclass(frozen=True)
class Check:
    """One condition on one class."""

    name: str
    condition: Condition
    value: float
    failed: bool
    detail: str


def check_conditions(audits: Mapping[str, Audit], conditions: Sequence[Condition]) -> list[Check]:
    """Hold every audit against every condition."""
    return [
        Check(name, one, one.value(audit), one.met(audit), audit.sentence)
        for name, audit in audits.items()
        for one in conditions
    ]


def save_junit(
    path: Path, checks: Sequence[Check], suite: str, skipped: Mapping[str, str] | None = None
) -> None:
    """Write checks as JUnit XML: a test case per class and condition, and per class left out."""
    left = skipped or {}
    root = ElementTree.Element("testsuites")
    head = {
        "name": suite,
        "tests": str(len(checks) + len(left)),
        "failures": str(sum(check.failed for check in checks)),
        "errors": "0",
        "skipped": str(len(left)),
    }
    parent = ElementTree.SubElement(root, "testsuite", head)
    for check in checks:
        case = ElementTree.SubElement(
            parent,
            "testcase",
            {"classname": f"{suite}.{check.name}", "name": f"not {check.condition.text}"},
        )
        if check.failed:
            said = f"{check.condition.measure} is {check.value:.4f}"
            found = ElementTree.SubElement(case, "failure", {"message": said, "type": "audit"})
            found.text = check.detail
    for name, why in left.items():
        names = {"classname": f"{suite}.{name}", "name": "audit"}
        case = ElementTree.SubElement(parent, "testcase", names)
        ElementTree.SubElement(case, "skipped", {"message": why})
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    save_text(path, text + "\n")


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
    def frame(self) -> pd.DataFrame:  # pyright: ignore[reportIncompatibleVariableOverride]
        """One row per class: shares by relevance, chance, and what is spurious most."""
        table = pd.DataFrame([_record(name, one) for name, one in self.audits.items()])
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
        from semlens.draw.audit_plots import sweep_plot

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


@question("embedder")
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
) -> Sweep:
    """Audit every class that has concepts, each against its own.

    Parameters
    ----------
    concepts
        A set with a ``target`` is for that class only; one without is for every class. The
        classes are those that some set names, or all with relevance if none does. By default a
        class is held against the lists of its saved audit that was edited last, or the bundled
        sets that are for it.

    Other parameters are those of :func:`audit`.

    Raises
    ------
    ConceptError
        If there is no set, or the concepts of every class are refused; a class whose are is left
        out.
    RelevanceError
        If the database has no relevance, or not for any of the classes.
    """
    held, skipped = concepts_by_class(database, concepts)
    audits: dict[str, Audit] = {}
    for done, (number, one) in enumerate(held.items()):
        report("auditing", done, len(held))
        name = class_name(database, number)
        # a name that two classes have must not hide one of them
        name = name if name not in audits else f"{name} ({number})"
        try:
            audits[name] = audit(
                database, number, one.concepts, layers=layers, minimum=minimum, level=level,
                threshold=threshold, background=background, resamples=resamples, seed=seed,
            )  # fmt: skip
        except (RelevanceError, ConceptError) as error:  # one list must not cost all other audits
            skipped[name] = error
    report("auditing", len(held), len(held))
    if not audits:
        raise nothing_left(skipped)
    return Sweep(audits, {name: error.value for name, error in skipped.items()})
