"""What people are asked in each study (paper, G.1): wording, answers and scales."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Measure = Literal["similarity", "clarity", "polysemanticity"]
"""The measure that a study compares with people."""

POINTS = (0, 25, 50, 75, 100)
"""Values of the five points of a rating. The paper's ratings go from 0 to 100, too; it does not say
in how many steps."""
CONTROL = "-control"
"""Ending of the kinds of questions that only tell who answers carefully."""
SETS = "ABC"
"""Names of the sets of a question."""


@dataclass(frozen=True)
class Scale:
    """A rating on five points."""

    name: str
    """Column of the answers."""
    prompt: str
    low: str
    high: str


@dataclass(frozen=True)
class Task:
    """One kind of question."""

    prompt: str
    sets: int
    """Number of sets of images that are shown."""
    choices: tuple[tuple[str, str], ...] = ()
    """Values and texts of the answers; if there are none, the answer is a set or a rating."""
    scales: tuple[Scale, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """Values of the column ``answer``; empty if it is a rating."""
        if self.choices:
            return tuple(value for value, _ in self.choices)
        return tuple(SETS[: self.sets]) if self.sets > 1 else ()


_THEMES = (("one", "One"), ("two", "Two"), ("more", "Three or more"), ("none", "No common theme"))
_CLEARER = Task("Which set has the clearer common theme?", 2)
_COUNT = Task("How many common themes do you see in these images?", 1, _THEMES)

TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "odd": Task(
            "Two of these sets show the same theme. Which one is the odd one out?",
            3,
            scales=(
                Scale("confidence", "How sure are you?", "Guessing", "Certain"),
                Scale(
                    "similarity",
                    "How similar is the odd set to the other two?",
                    "Not at all",
                    "Nearly the same",
                ),
            ),
        ),
        "clearer-control": _CLEARER,
        "rating": Task(
            "How clear is the common theme of these images?",
            1,
            scales=(Scale("answer", "", "No theme", "Very clear"),),
        ),
        "clearer": _CLEARER,
        "count-control": _COUNT,
        "count": _COUNT,
    }
)
"""Each kind of question. Those with a right answer are ``odd`` and the controls."""


@dataclass(frozen=True)
class Protocol:
    """How a study is made and filtered."""

    tasks: int
    """Number of tasks in the paper."""
    kinds: tuple[str, ...]
    """Questions of one task."""
    shown: int
    """Images in a set."""
    minimum_accuracy: float
    """Raters below are removed."""
    chance: float
    """Accuracy of guessing."""
    title: str
    introduction: str


PROTOCOLS: Mapping[Measure, Protocol] = MappingProxyType(
    {
        "similarity": Protocol(
            50, ("odd",), 10, 0.55, 1 / 3, "Find the odd one out",
            "Each question shows three sets of images. Two sets show the same theme, one shows "
            "another. Choose the odd one out, then say how sure you are and how similar it is to "
            "the others.",
        ),
        "clarity": Protocol(
            32, ("clearer-control", "rating", "clearer"), 10, 0.70, 1 / 2, "Rate common themes",
            "Each question shows one or two sets of images. Choose the set whose common theme is "
            "easier to understand, or rate how clear the theme of a single set is.",
        ),
        "polysemanticity": Protocol(
            28, ("count-control", "count"), 20, 0.72, 1 / 4, "Count common themes",
            "Each question shows one set of images. Say whether they have one common theme, two, "
            "three or more, or none at all.",
        ),
    }
)  # fmt: skip
"""The three studies of the paper."""

MAXIMUM_CORRELATION = 0.15
"""Raters of similarity whose confidence and similarity correlate more are removed (G.1.1)."""

POLYSEMANTICITY: Mapping[str, float] = MappingProxyType(
    {"one": 0.0, "none": 0.5, "two": 1.0, "more": 1.0}
)
"""Score of each number of themes (G.1.3)."""
