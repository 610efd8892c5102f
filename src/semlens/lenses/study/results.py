"""The answers to a study: filtered as in the paper, and compared with the measures (G.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.text_table import titled_table
from semlens.figures import FigureSpec, Point, Scatter
from semlens.lenses.result import Result, Section
from semlens.lenses.statistics.intervals import auroc, auroc_interval
from semlens.lenses.study.answers import Key, read_answers, read_key
from semlens.lenses.study.correlation import correlate
from semlens.lenses.study.raters import mean_ratings, rate_raters, share_right
from semlens.lenses.study.tasks import Measure

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Comparison:
    """A column of the measures, and the ratings of the same questions."""

    kind: str
    measure: str
    """Column of the key."""
    rating: str
    """Column of the mean ratings."""
    title: str
    rating_title: str


COMPARISONS: Mapping[Measure, tuple[Comparison, ...]] = MappingProxyType(
    {
        "similarity": (
            Comparison("odd", "value", "similarity", "similarity", "similarity"),
            Comparison("odd", "value", "confidence", "similarity", "confidence"),
            Comparison("odd", "value", "accuracy", "similarity", "accuracy"),
        ),
        "clarity": (
            Comparison("rating", "value", "rating", "clarity", "clarity"),
            Comparison("clearer", "value", "chose_a", "clarity of A - B", "chose A"),
        ),
        "polysemanticity": (
            Comparison("count", "value", "themes", "polysemanticity", "themes"),
            Comparison("count", "clarity", "themes", "clarity", "themes"),
        ),
    }
)
"""What the paper correlates, question by question (Figs. G.3, G.7 and G.9)."""

_SHORT = {"questions": "n", "pearson": "r", "spearman": "rho", "spearman_p": "rho p"}
"""Titles of columns in a terminal."""


@dataclass(frozen=True, repr=False)
class StudyResults(Result):
    """Raters that were kept, mean ratings by question, and their correlation with the measures."""

    study: str
    measure: Measure
    frame: pd.DataFrame
    """One row per question: the key's columns, raters, accuracy, and the mean ratings of the kept
    raters (see :func:`~semlens.lenses.study.raters.mean_ratings`)."""
    raters: pd.DataFrame
    """One row per rater: rater, accuracy, p, confidence_similarity, kept, reason."""
    correlations: pd.DataFrame
    """One row per comparison: measure, rating, questions, pearson, low, high, p, spearman,
    spearman_p."""
    recurring: int
    """Number of components in several questions of one kind."""

    @property
    def accuracy(self) -> float:
        """Mean accuracy of the kept raters on the questions with a right answer; NaN for none."""
        kept = self.raters["kept"].to_numpy(bool)
        accuracy = self.raters["accuracy"].to_numpy(float)[kept]
        return float(np.mean(accuracy)) if len(accuracy) else float("nan")

    @property
    def measure_accuracy(self) -> float:
        """Share of these that the measure answers correctly; NaN if it does not choose."""
        return share_right(self.frame)

    @property
    def kept(self) -> int:
        """Number of raters that the filters kept."""
        return int(np.count_nonzero(self.raters["kept"].to_numpy(bool)))

    def detection(self) -> tuple[float, float, float] | None:
        """Return the AUROC of polysemanticity for units seen as polysemantic, and its interval.

        A unit is seen as polysemantic if its mean score is above 0.5 (G.1.3). None for other
        studies, and if all units are on one side.
        """
        if self.measure != "polysemanticity":
            return None
        _, values, themes = next(_compared(self.measure, self.frame))
        seen, value = themes > 0.5, values[:, None]
        count = int(seen.sum())
        if not 0 < count < len(seen):
            return None
        found = float(auroc(value[seen], value[~seen])[0])
        return (found, *auroc_interval(found, count, len(seen) - count))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        detection = self.detection()
        return {
            "study": self.study,
            "measure": self.measure,
            "raters": len(self.raters),
            "kept": self.kept,
            "accuracy": self.accuracy,
            "measure_accuracy": self.measure_accuracy,
            "correlations": self.correlations.to_dict("records"),
            "detection": None
            if detection is None
            else dict(zip(("auroc", "low", "high"), detection, strict=True)),
            "recurring": self.recurring,
            "raters_table": self.raters.to_dict("records"),
            "questions": self.frame.to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return the measures over the mean ratings, one panel per correlation."""
        panels = [
            Scatter(
                text,
                [Point(rating, value) for value, rating in zip(x, y, strict=True)],
                f"{one.rating_title}, mean of the raters",
                f"{one.title} as computed",
            )
            for one, x, y, text in self._correlated()
        ]
        return FigureSpec(f"{self.measure}: {self._kept()}", panels, columns=3)

    def section(self, target: str | None = None) -> Section:
        """Return the accuracies and the correlations, in sentences."""
        sentences = [f"{self._kept()}."]
        if self.kept:
            sentences.append(self._accuracy_text)
            sentences += [
                f"{one.title} as computed and {one.rating_title} as rated: {text}, on "
                f"{len(x)} questions."
                for one, x, _, text in self._correlated()
            ]
        return Section(sentences, self.figure(), self.correlations, self._recurring_text)

    def _correlated(self) -> Iterator[tuple[Comparison, list[float], list[float], str]]:
        """Yield the values of each comparison, and its correlation in words."""
        rows = self.correlations.to_dict("records")
        for (one, x, y), row in zip(_compared(self.measure, self.frame), rows, strict=True):
            known = not np.isnan(row["pearson"])
            text = f"r = {row['pearson']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
            yield one, x.tolist(), y.tolist(), text if known else "no correlation"

    @property
    def _accuracy_text(self) -> str:
        text = f"Right answers: raters {self.accuracy:.1%}"
        if not np.isnan(self.measure_accuracy):
            text += f", {self.measure} as computed {self.measure_accuracy:.1%}"
        return text + "."

    @property
    def _recurring_text(self) -> str:
        if not self.recurring:
            return ""
        return (
            f"{self.recurring} components recur in questions of one kind: intervals are "
            "too narrow and p-values too small."
        )

    def _kept(self) -> str:
        return f"{self.kept} of {len(self.raters)} raters kept"

    def __rich__(self) -> RenderableType:
        """Return the raters, the accuracies and the correlations."""
        lines = titled_table(
            f"study {self.study} of {self.measure}: {self._kept()}",
            self.raters.drop(columns="kept"),
        )
        if self.kept:
            lines += [Text(self._accuracy_text), Text()]
            short = self.correlations.rename(columns=_SHORT)
            lines += titled_table("the measure against the mean of the raters", short)
        else:
            lines.append(Text("No rater is kept, so there is nothing to correlate."))
        detection = self.detection()
        if detection is not None:
            value, low, high = detection
            lines.append(
                Text(
                    f"Units seen as polysemantic are told from others with an AUROC of {value:.2f} "
                    f"({low:.2f} to {high:.2f})."
                )
            )
        if self.recurring:
            lines.append(Text(self._recurring_text))
        return Group(*lines)


def study_results(key: str | Path, answers: str | Path | Sequence[str | Path]) -> StudyResults:
    """Evaluate the answers to a study, with the filters of the paper (G.1).

    Parameters
    ----------
    key
        The file with all values (``.json``) of ``db.study``.
    answers
        CSV files that raters downloaded from the page.

    Raises
    ------
    DataError
        If a file cannot be read, is of another study, or has missing, repeated or invalid answers.
    """
    files = [answers] if isinstance(answers, str | Path) else list(answers)
    read = read_key(key)
    return evaluate_answers(read, read_answers(read, files))


def evaluate_answers(key: Key, answers: pd.DataFrame) -> StudyResults:
    """Filter and average answers, and correlate them with the measures."""
    raters = rate_raters(key, answers)
    kept = answers["rater"].isin(raters.loc[raters["kept"], "rater"])
    ratings = mean_ratings(key, answers.loc[kept])
    frame = key.questions.join(ratings).reset_index()
    correlations = pd.DataFrame(
        {
            "measure": one.title,
            "rating": one.rating_title,
            "questions": len(x),
            **asdict(correlate(x, y)),
        }
        for one, x, y in _compared(key.measure, frame)
    )
    return StudyResults(key.study, key.measure, frame, raters, correlations, key.recurring)


def _compared(
    measure: Measure, frame: pd.DataFrame
) -> Iterator[tuple[Comparison, np.ndarray, np.ndarray]]:
    """Return the measures and the mean ratings of each comparison, for the rated questions."""
    for one in COMPARISONS[measure]:
        x, y = frame[one.measure].to_numpy(float), frame[one.rating].to_numpy(float)
        rated = (frame["kind"] == one.kind).to_numpy(bool) & ~np.isnan(x) & ~np.isnan(y)
        yield one, x[rated], y[rated]
