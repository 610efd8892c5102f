"""Conditions on audits for continuous integration, with JUnit XML reports."""

from __future__ import annotations

import operator
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from semlens.errors import RecipeError
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.relevance_shares import VERDICTS
from semlens.store.atomic_files import save_text

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
P_VALUES = ("p", "q")
MEASURES = (*VERDICTS, *(f"{verdict}.number" for verdict in VERDICTS), *P_VALUES)


@dataclass(frozen=True)
class Condition:
    """A condition that fails an audit: ``spurious>0.05``, ``valid.number<0.5``, ``p<0.01``.

    The name of a verdict is its share of relevance, with ``.number`` its share of components;
    ``p`` is the p-value of this class alone, ``q`` that over all classes tested.
    """

    text: str
    measure: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse a condition.

        Raises
        ------
        RecipeError
            If it is malformed or its measure is unknown.
        """
        match = re.fullmatch(r"\s*([a-z.]+)\s*(>=|<=|>|<)\s*(\d*\.?\d+)\s*(%?)\s*", text)
        if match is None or match[1] not in MEASURES:
            raise RecipeError(
                f"'{text}' is not a valid condition.",
                f"Expected for example 'spurious>0.05'; measures are {', '.join(MEASURES)}.",
                "Correct it, and put it in quotes.",
            )
        bound = float(match[3]) / (100 if match[4] else 1)
        if bound > 1:
            raise RecipeError(
                f"The bound of '{text}' is {bound:g}.",
                "Expected a share from 0 to 1, or at most 100 %.",
                f"Write '{match[1]}{match[2]}{match[3]}%' for a percentage.",
            )
        return cls(text.strip(), match[1], match[2], bound)

    def value(self, audit: Audit) -> float:
        """Return the audit's value of the measure.

        Raises
        ------
        RecipeError
            If the verdict is impossible with the audit's concepts.
        """
        verdict, _, by = self.measure.partition(".")
        if ("spurious" if verdict in P_VALUES else verdict) not in audit.possible:
            raise RecipeError(
                f"The condition '{self.text}' does not apply to the class '{audit.name}'.",
                f"Its concepts can only give {', '.join(sorted(audit.possible))}.",
                "Add concepts of the other side, such as the set 'artefacts'.",
            )
        if verdict in P_VALUES:
            alone = verdict == "p" or audit.standing.tested < 2
            return audit.p_value if alone else audit.standing.q_value
        return audit.share(verdict, by=by or "relevance")

    def met(self, audit: Audit) -> bool:
        """Whether the condition is met, which fails the audit."""
        return _COMPARE[self.sign](self.value(audit), self.bound)


@dataclass(frozen=True)
class Check:
    """The outcome of one condition on the audit of one class."""

    name: str
    condition: Condition
    value: float
    failed: bool
    detail: str


def check_conditions(audits: Mapping[str, Audit], conditions: Sequence[Condition]) -> list[Check]:
    """Check every audit against every condition."""
    return [
        Check(name, condition, condition.value(audit), condition.met(audit), audit.sentence)
        for name, audit in audits.items()
        for condition in conditions
    ]


def save_junit(
    path: Path, checks: Sequence[Check], suite: str, skipped: Mapping[str, str] | None = None
) -> None:
    """Write checks as JUnit XML: a test case per class and condition, and per skipped class."""
    skipped = skipped or {}
    root = ElementTree.Element("testsuites")
    attributes = {
        "name": suite,
        "tests": str(len(checks) + len(skipped)),
        "failures": str(sum(check.failed for check in checks)),
        "errors": "0",
        "skipped": str(len(skipped)),
    }
    parent = ElementTree.SubElement(root, "testsuite", attributes)
    for check in checks:
        case = ElementTree.SubElement(
            parent,
            "testcase",
            {"classname": f"{suite}.{check.name}", "name": f"not {check.condition.text}"},
        )
        if check.failed:
            message = f"{check.condition.measure} is {check.value:.4f}"
            failure = ElementTree.SubElement(case, "failure", {"message": message, "type": "audit"})
            failure.text = check.detail
    for name, reason in skipped.items():
        names = {"classname": f"{suite}.{name}", "name": "audit"}
        case = ElementTree.SubElement(parent, "testcase", names)
        ElementTree.SubElement(case, "skipped", {"message": reason})
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
    save_text(path, text + "\n")
