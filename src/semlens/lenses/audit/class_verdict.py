"""The verdict on a class, its standing: alarm, suspicion or no alarm, in the same words everywhere.

A contrast with the other classes proposes a concept, and a test on images decides. The p-value says
how likely the evidence is by chance if this class alone was tested. Of many classes, some are far
out by chance. The p-values of all classes that were tested together are therefore corrected
(Benjamini and Hochberg); that is the q-value, and it decides. What could not be tested on images is
a suspicion at most. An experiment without words can make a class suspicious that no concept does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from scipy.stats import false_discovery_control

from semlens.wording import STRAIGHT, count, p_text, percent, quoted, unbroken

Kind = Literal["alarm", "suspicion", "no alarm", "no verdict"]
"""Shown, corrected for all classes; only proposed, or only on its own; neither; not tested."""
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Strongest evidence first."""
Evidence = Literal["images", "contrast", "random lists"]
"""What a p-value is of: a test on images, a contrast with other classes, or random lists."""
SEEN = "the regions of its images that match it, pasted onto other images,"
"""What the test on images moves."""
FLAGGED: tuple[Kind, ...] = ("alarm", "suspicion")
"""There is something to look at."""
NAMED = 3
"""Classes that the sentence on all classes names."""


@dataclass(frozen=True)
class Experiment:
    """What an experiment without words finds about a class.

    Parameters
    ----------
    name
        What the experiment is called: "border swap".
    parts, act
        What it moves to other images, and what that does: "the borders of its images", "pasted
        onto other images, raise".
    p_value
        Corrected for all tests of all experiments that were run.
    tests, experiments
        Their numbers.
    """

    name: str
    parts: str
    act: str
    p_value: float
    tests: int
    experiments: int


@runtime_checkable
class SpeaksOfClasses(Protocol):
    """A result of experiments without words."""

    def experiments(self) -> Mapping[int, Sequence[Experiment]]:
        """Return what was found about each class, by logit."""
        ...


@dataclass(frozen=True)
class ClassVerdict:
    """Whether a class raises the alarm, and why: its standing.

    Parameters
    ----------
    name
        The class.
    by_concepts
        What the spurious concepts on its list say.
    p_value
        Of this class alone; NaN if there are no spurious concepts on its list.
    q_value
        Corrected over all classes tested; NaN if it was tested alone.
    tested
        Number of classes that were tested together; 1 if it was tested alone.
    suspect
        The spurious concept with the smallest p-value; None if the p-value is that of the whole
        list, compared with random ones.
    share
        Share of the relevance of all layers on components that match spurious concepts.
    concept, concept_share
        The spurious concept with the largest such share; None and NaN if no component matches one.
    found
        The experiment without words with the strongest finding; None if none finds anything.
    evidence
        What the p-value is of.
    """

    name: str
    by_concepts: Kind
    p_value: float
    q_value: float
    tested: int
    suspect: str | None
    share: float
    concept: str | None
    concept_share: float
    found: Experiment | None = None
    evidence: Evidence = "images"

    @property
    def kind(self) -> Kind:
        """The standing; a finding of an experiment is a suspicion at least."""
        if self.found is not None and self.by_concepts != "alarm":
            return "suspicion"
        return self.by_concepts

    @property
    def word(self) -> str:
        """The standing as a word: Alarm, Suspicion, No alarm or No verdict."""
        return self.kind.capitalize()

    @property
    def flagged(self) -> bool:
        """Whether there is something to look at: an alarm or a suspicion."""
        return self.kind in FLAGGED

    @property
    def rank(self) -> tuple[int, float]:
        """Sorts classes, the strongest evidence first."""
        values = [self.p_value] if self.found is None else [self.p_value, self.found.p_value]
        return KINDS.index(self.kind), min((v for v in values if not math.isnan(v)), default=2.0)

    @property
    def numbers(self) -> str:
        """The p-value and the q-value as text; empty without spurious concepts."""
        if math.isnan(self.p_value):
            return ""
        if self.tested < 2:
            return f"{p_text(self.p_value)}, tested alone"
        q = p_text(self.q_value, "q")
        return f"{p_text(self.p_value)} alone; {q} over {self.tested} classes"

    def headline(self, quotes: str = STRAIGHT) -> str:
        """Return what the class relies on, in a few words that follow its name."""
        what = "its spurious concepts" if self.suspect is None else quoted(self.suspect, quotes)
        if self.by_concepts == "alarm":
            return f"relies on {what}"
        if self.found is not None:
            return f"relies on {self.found.parts}"
        if self.by_concepts == "suspicion":
            return f"may rely on {what}"
        if self.by_concepts == "no alarm":
            return "is not found to rely on a spurious concept"
        return "has no spurious concepts on its list"

    def sentence(self, quotes: str = STRAIGHT) -> str:
        """Return what was tested and what was found, with the p-value and the q-value."""
        text = self._of_concepts(quotes)
        if self.found is not None:
            finding = self._of_experiment(self.found, quotes)
            if self.by_concepts == "no verdict":
                text = f"No spurious concept is listed, but {finding}"
            elif self.by_concepts == "no alarm":
                text = f"No concept raises the alarm ({self.numbers}), but {finding}"
            else:
                text = f"{text} Besides, {finding}"
        return unbroken(text, quotes)

    def _of_experiment(self, experiment: Experiment, quotes: str) -> str:
        """Return what an experiment finds, as the end of a sentence."""
        tests = (
            f"{count(experiment.tests, 'test')} in {count(experiment.experiments, 'experiment')}"
        )
        return (
            f"the {experiment.name} finds that {experiment.parts}, {experiment.act} the logit of "
            f"{quoted(self.name, quotes)} ({p_text(experiment.p_value)}, corrected for {tests})."
        )

    def shares(self, quotes: str = STRAIGHT) -> str:
        """Return how much of the class's relevance matches spurious concepts."""
        if self.concept is None:
            return "No relevant component matches a spurious concept."
        most = f"{quoted(self.concept, quotes)} {percent(self.concept_share)}"
        text = (
            f"Components that match spurious concepts carry {percent(self.share)} of its relevance "
            f"over all layers ({most})."
        )
        return unbroken(text, quotes)

    def _of_concepts(self, quotes: str) -> str:
        """Return what the test of the spurious concepts asks and answers."""
        name = quoted(self.name, quotes)
        if self.by_concepts == "no verdict":
            return f"{name} has no spurious concepts on its list, so nothing can raise the alarm."
        what, others = "its spurious concepts", "on random ones"
        if self.suspect is not None:
            what, others = quoted(self.suspect, quotes), "the other classes do"
        if self.by_concepts == "alarm":
            text = f"relies on {what} more than {others}"
            text += f": {SEEN} raise its logit" if self.evidence == "images" else ""
        elif self.by_concepts == "suspicion" and self.evidence == "contrast":
            text = f"may rely on {what} more than {others}; that could not be tested on images"
        elif self.by_concepts == "suspicion" and self.evidence == "images":
            text = f"may rely on {what} more than {others}"
            text += f", but {SEEN} do not clearly raise its logit"
        elif self.by_concepts == "suspicion":
            text = (
                f"relies on {what} more than {others}, but with {self.tested} classes tested this "
                "may be chance"
            )
        elif self.suspect is not None:
            text = f"relies on no spurious concept clearly more than {others}"
        else:
            text = f"does not clearly rely on {what} more than {others}"
        return f"{name} {text} ({self.numbers})."


def class_verdict(
    row: Mapping[Any, Any],
    others: Iterable[float],
    level: float,
    experiments: Sequence[Experiment] = (),
) -> ClassVerdict:
    """Return the standing of a class.

    Parameters
    ----------
    row
        What :attr:`semlens.lenses.audit.audit_result.Audit.row` returns.
    others
        p-values of the other classes that were tested, NaN if they have no spurious concepts;
        empty if the class was tested alone.
    level
        An alarm is a q-value of at most this; if the class was tested alone, a p-value. It is also
        the largest p-value of an experiment's finding.
    experiments
        What the experiments without words say about the class.
    """
    p = float(row["p_value"])
    family = [value for value in others if not math.isnan(value)]
    kind: Kind = "no verdict"
    evidence: Evidence = row["evidence"]
    q = float("nan")
    if not math.isnan(p):
        q = float(false_discovery_control([p, *family])[0])
        if q <= level and evidence != "contrast":
            kind = "alarm"
        else:  # what was tested on images was proposed
            kind = "suspicion" if p <= level or evidence == "images" else "no alarm"
    found = [one for one in experiments if one.p_value <= level]
    return ClassVerdict(
        name=row["class"],
        by_concepts=kind,
        p_value=p,
        q_value=q if family else float("nan"),
        tested=len(family) + 1,
        suspect=_text(row["suspect"]),
        share=float(row["spurious"] + row["both"]),
        concept=_text(row["concept"]),
        concept_share=float(row["concept_share"]),
        found=min(found, key=lambda one: one.p_value, default=None),
        evidence=evidence,
    )


def class_verdicts(
    rows: Sequence[Mapping[Any, Any]],
    levels: Sequence[float],
    experiments: Sequence[Sequence[Experiment]],
) -> list[ClassVerdict]:
    """Return the standings of classes that were tested together, in the order of ``rows``."""
    p = [float(row["p_value"]) for row in rows]
    others = [[*p[:i], *p[i + 1 :]] for i in range(len(p))]
    return [
        class_verdict(*values) for values in zip(rows, others, levels, experiments, strict=True)
    ]


def overall(classes: Sequence[ClassVerdict], quotes: str = STRAIGHT) -> str:
    """Return the finding on all classes in one sentence."""
    tested = [one for one in classes if one.kind != "no verdict"]
    if not tested:
        return "No class has spurious concepts on its list, so none can raise the alarm."
    ranked = sorted(tested, key=lambda one: one.rank)
    of = f"{len(classes)} {'class' if len(classes) == 1 else 'classes'}"
    alarms = [one for one in ranked if one.kind == "alarm"]
    suspicions = [one for one in ranked if one.kind == "suspicion"]
    if alarms:
        raises = "raises" if len(alarms) == 1 else "raise"
        text = f"{len(alarms)} of {of} {raises} the alarm: {_named(alarms, quotes)}."
        return f"{text} Suspicious: {_named(suspicions, quotes)}." if suspicions else text
    if suspicions:
        is_are = "is" if len(suspicions) == 1 else "are"
        return (
            f"None of {of} raises the alarm, but {len(suspicions)} {is_are} suspicious: "
            f"{_named(suspicions, quotes)}."
        )
    first = ranked[0]
    about = "" if first.suspect is None else f", {quoted(first.suspect, quotes)}"
    return (
        f"None of {of} raises the alarm. The closest is {quoted(first.name, quotes)}{about} "
        f"({first.numbers})."
    )


def _named(classes: Sequence[ClassVerdict], quotes: str) -> str:
    """Name the first classes, with what they rely on."""
    named = [f"{quoted(one.name, quotes)} {one.headline(quotes)}" for one in classes[:NAMED]]
    more = len(classes) - NAMED
    return "; ".join([*named, *([f"and {more} more"] if more > 0 else [])])


def _text(value: object) -> str | None:
    """Return a text of a table, in which a missing one may be NaN."""
    return value if isinstance(value, str) else None
