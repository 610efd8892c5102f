"""The result of a model test: a class's logits on real and on spurious images, and AUROCs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64
from rich.console import Group
from rich.text import Text

from semlens.draw.text_table import rich_table
from semlens.figures import Distribution, Distributions, FigureSpec, Tone
from semlens.lenses.result import Result
from semlens.lenses.statistics.intervals import change_interval
from semlens.wording import STRAIGHT, percent, quoted

BINS = 40
"""Bins of a histogram of logits."""
TOPS = (1, 3, 5)
"""Ranks within which the class counts as predicted (paper, F.1.1: 5)."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """A model's outputs for one class on n images.

    Parameters
    ----------
    logit, probability
        float32[n]; the probability is a softmax over the logits; the sigmoid of a single logit or
        a label.
    rank
        int64[n]; 1 if no other class has a larger logit.
    """

    logit: Float32[np.ndarray, " n"]
    probability: Float32[np.ndarray, " n"]
    rank: Int64[np.ndarray, " n"]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.logit)

    def top(self, k: int) -> float:
        """Return the share of images where the class is among the k largest logits."""
        return float((self.rank <= k).mean())


@dataclass(frozen=True, eq=False)
class SpuriousSet:
    """One set of images that show spurious features only.

    Parameters
    ----------
    source
        The folder, or the inserted artefacts.
    auroc, interval
        AUROC of the class's logit on real images against these, and its 95 % score interval.
        1 is safe, 0.5 is unsafe.
    without
        Outputs on the same images without the artefacts, if these were inserted.
    auroc_without
        AUROC against the images without the artefacts, or NaN.
    """

    name: str
    source: str
    outputs: Outputs
    auroc: float
    interval: tuple[float, float]
    without: Outputs | None = None
    auroc_without: float = float("nan")

    def sentence(self, target: str, quotes: str = STRAIGHT) -> str:
        """Return whether the artefact makes the model predict the class, in one sentence.

        It does if the share of such predictions is larger than on the same images without it (the
        95 % interval of the paired difference excludes zero).
        """
        count, name = len(self.outputs), quoted(self.name, quotes)
        share = f"{percent(self.outputs.top(1))} of {count} images of other classes"
        as_class = f"are taken for {quoted(target, quotes)}"
        if self.without is None:
            return f"With only {name}, {share} {as_class}."
        predicted = self.outputs.rank <= 1, self.without.rank <= 1
        fooled = change_interval(*predicted, paired=True)[1] > 0
        verdict = "fools the model" if fooled else "is not shown to fool the model"
        return (
            f"{name} {verdict}: with it, {share} {as_class}; without it, "
            f"{percent(self.without.top(1))} of the same images."
        )


@dataclass(frozen=True, eq=False, repr=False)
class ModelTest(Result):
    """How well a model separates real images of a class from images of spurious features only.

    Parameters
    ----------
    target, name
        The class.
    model
        SPEC of the tested model.
    real
        Outputs on real images of the class.
    sets
        The spurious sets.
    """

    target: int
    name: str
    model: str
    real: Outputs
    sets: tuple[SpuriousSet, ...]

    @property
    def worst(self) -> SpuriousSet:
        """The set with the lowest AUROC."""
        return min(self.sets, key=lambda tested: tested.auroc)

    @property
    def sentence(self) -> str:
        """What the set with the lowest AUROC does to the model, in one sentence."""
        return self.worst.sentence(self.name)

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per spurious set; ``..._without`` is for images without artefacts."""
        return pd.DataFrame([_row(tested) for tested in self.sets])

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; logits of single images are left out."""
        return {
            "target": self.target,
            "class": self.name,
            "model": self.model,
            "real": {"images": len(self.real), **_summary(self.real)},
            "sets": [{"source": tested.source, **_row(tested)} for tested in self.sets],
        }

    def figure(self) -> FigureSpec:
        """Return the distributions of the class's logits on real images and on each set."""
        # every artefact was inserted into the same images
        clean = next((t.without.logit for t in self.sets if t.without is not None), None)
        groups: list[tuple[str, Float32[np.ndarray, " _"], Tone, str]] = [
            (f"real: {self.name}", self.real.logit, "valid", "")
        ]
        for tested in self.sets:
            low, high = tested.interval
            note = (
                f"AUROC {tested.auroc:.3f}, {low:.3f} to {high:.3f}; "
                f"top 1: {percent(tested.outputs.top(1))}"
            )
            groups.append((tested.name, tested.outputs.logit, "spurious", note))
        if clean is not None:
            groups.append(("without artefact", clean, "neutral", ""))
        edges = np.histogram_bin_edges(np.concatenate([logit for _, logit, _, _ in groups]), BINS)
        rows = [
            Distribution(
                name, edges.tolist(), np.histogram(logit, edges)[0].tolist(),
                float(np.median(logit)), tone, note,
            )
            for name, logit, tone, note in groups
        ]  # fmt: skip
        panel = Distributions("", rows, f"logit of '{self.name}'", rows[0].median)
        return FigureSpec(f"'{self.name}': real images against spurious features only", [panel])

    def __rich__(self) -> Group:
        """Return the table for the terminal."""
        frame = self.to_pandas()
        shown = pd.DataFrame(
            {
                "spurious": frame["set"],
                "images": frame["images"],
                "AUROC": frame["auroc"],
                "95 %": [f"{t.interval[0]:.3f}-{t.interval[1]:.3f}" for t in self.sets],
                "logit": frame["logit"],
                "top 1, 3, 5": [_rates(tested.outputs, TOPS) for tested in self.sets],
            }
        )
        real = self.real
        note = (
            f"Real images: logit {real.logit.mean():.3f}, probability "
            f"{real.probability.mean():.3f}, top 1 in {100 * real.top(1):.0f} %. "
            "AUROC 1 is safe, 0.5 is unsafe."
        )
        if any(tested.without is not None for tested in self.sets):
            shown["without it"] = [
                "-" if t.without is None else f"{t.auroc_without:.3f}, {_rates(t.without, (1,))}"
                for t in self.sets
            ]
            note += " Without it: AUROC and top 1 on the same images without the artefact."
        title = f"\n'{self.name}': {len(real)} real images against spurious ones"
        return Group(Text(self.sentence, style="bold"), rich_table(shown, title), Text(note))


def _rates(outputs: Outputs, tops: Sequence[int]) -> str:
    return " / ".join(f"{100 * outputs.top(k):.0f}" for k in tops) + " %"


def _summary(outputs: Outputs) -> dict[str, float]:
    return {
        "logit": float(outputs.logit.mean()),
        "probability": float(outputs.probability.mean()),
        **{f"top{k}": outputs.top(k) for k in TOPS},
    }


def _row(tested: SpuriousSet) -> dict[str, Any]:
    without = (
        dict.fromkeys(_summary(tested.outputs), float("nan"))
        if tested.without is None
        else _summary(tested.without)
    )
    return {
        "set": tested.name,
        "images": len(tested.outputs),
        "auroc": tested.auroc,
        "low": tested.interval[0],
        "high": tested.interval[1],
        **_summary(tested.outputs),
        "auroc_without": tested.auroc_without,
        **{f"{name}_without": value for name, value in without.items()},
    }
