"""Conditions that an audit must not meet: for a build server that lets a model pass or not."""

from __future__ import annotations

import operator
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from semlens.analysis.audit.found import Audit
from semlens.analysis.audit.shares import VERDICTS
from semlens.errors import RecipeError
from semlens.store.files import save_text

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
        if verdict == "p":
            return audit.p_value
        return audit.share(verdict, by=by or "relevance")

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


def gate(audits: Mapping[str, Audit], conditions: Sequence[Condition]) -> list[Check]:
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
    failed = sum(check.failed for check in checks)
    root = ElementTree.Element("testsuites")
    head = {
        "name": suite, "tests": str(len(checks) + len(left)), "failures": str(failed),
        "errors": "0", "skipped": str(len(left)),
    }  # fmt: skip
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
