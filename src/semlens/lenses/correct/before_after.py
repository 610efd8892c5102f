"""Before and after: a class's artefact in other images, with and without the spurious components.

The artefact is cut out of the components' own examples and inserted into images of other classes.
The model is run on these images and on the originals, each with and without the components.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image

from semlens.data.artefact import insert_drawn
from semlens.errors import DataError
from semlens.lens import lens
from semlens.lenses.arguments import Class, Components
from semlens.lenses.classes import class_name
from semlens.lenses.correct.ablation_preview import (
    AblationPreview,
    Predictions,
    RateChange,
    Step,
    ablation_preview,
    next_components,
    preview_samples,
)
from semlens.lenses.correct.mark import Mark, find_mark, misclassified_as
from semlens.store.reader import Database
from semlens.types import Component

SURROUNDINGS = 0.05
"""Share of other images that a control may turn at least, before it is said."""
INSEPARABLE = 1 / 3
"""Share of the mark's effect that a control has, from which the two cannot be told apart."""
PER_CLASS, AT_MOST = 20, 240
"""Images of each class, and in total."""


@dataclass(frozen=True, eq=False)
class BeforeAfter:
    """A model with and without components, on images with and without the artefact.

    Parameters
    ----------
    preview
        Predictions on the original images and, if there is a mark, on the same images with it.
    mark
        The artefact; None if it cannot be cut out.
    control
        Which images the model takes for the class with the mark's control on them.
    reason
        Why there is no mark.
    steps
        What removing further components does, if the mark still has an effect.
    seed
        Decides which images are shown.
    """

    preview: AblationPreview
    name: str
    mark: Mark | None
    control: Bool[np.ndarray, " n"] | None
    reason: str | None
    steps: tuple[Step, ...]
    database: Database
    seed: int

    @property
    def unmarked(self) -> Predictions:
        """Predictions on the original images."""
        return self.preview.sets[0]

    @property
    def marked(self) -> Predictions | None:
        """Predictions on the images with the mark."""
        return None if self.mark is None else self.preview.sets[1]

    @property
    def others(self) -> Bool[np.ndarray, " n"]:
        """Which images are of other classes."""
        return self.preview.right != self.preview.target

    @property
    def effect(self) -> RateChange | None:
        """The share of other images that the model takes for the class: by the mark.

        Before is the control or, without one, the original images.
        """
        if self.mark is None or self.marked is None or not self.others.any():
            return None
        without = self.control
        if without is None:
            without = self.unmarked.before == self.preview.target
        return RateChange.of(
            without[self.others], (self.marked.before == self.preview.target)[self.others]
        )

    @property
    def works(self) -> bool:
        """Whether the mark makes the model predict the class."""
        return self.effect is not None and bool(self.effect.change_interval[0] > 0)

    @property
    def helps(self) -> bool:
        """Whether the model predicts the class less often by the mark, without the components."""
        rate = None if self.marked is None else self.preview.mistaken(self.marked)
        return self.works and rate is not None and bool(rate.change_interval[1] < 0)

    @property
    def turned(self) -> Bool[np.ndarray, " n"]:
        """Which images of other classes the mark turns into the class."""
        if self.marked is None:
            return np.zeros(len(self.others), bool)
        target = self.preview.target
        return self.others & (self.marked.before == target) & (self.unmarked.before != target)

    @property
    def kept(self) -> float | None:
        """The share of the turned images that are still turned without the components."""
        if self.marked is None or not self.turned.any():
            return None
        return float((self.marked.after == self.preview.target)[self.turned].mean())

    @property
    def unseparated(self) -> float | None:
        """The share of the control that is taken for the class, if that is more than by itself.

        Then what was cut out is not the mark alone: its surroundings turn images, too.
        """
        if self.control is None or not self.others.any():
            return None
        plain = self.unmarked.before == self.preview.target
        rate = RateChange.of(plain[self.others], self.control[self.others])
        return rate.after if rate.change_interval[0] > SURROUNDINGS else None

    def recalls(self) -> list[tuple[int, RateChange]]:
        """Return the recall of each class on the original images, the largest loss first."""
        classes = np.unique(self.preview.right).tolist()
        rates = [(one, self.preview.accuracy(self.unmarked, one)) for one in classes]
        return sorted(rates, key=lambda pair: pair[1].change)

    @property
    def costs(self) -> bool:
        """Whether the model is less accurate on the original images without the components."""
        return bool(self.preview.accuracy(self.unmarked).change_interval[1] < 0)

    @property
    def finding(self) -> str:
        """What the mark does, with and without the components, in one sentence."""
        count = len(self.preview.components)
        without = f"without the {count} components" if count > 1 else "without the component"
        if self.mark is None or self.marked is None:
            return self.reason or "No mark can be cut out."
        rate = self.preview.mistaken(self.marked)
        if rate is None or self.effect is None:
            return "There are no images of other classes to put the mark on."
        if not self.works:
            return (
                f"What was cut out does not make the model see '{self.name}' in other images "
                f"({_percent(rate.before)} of them; {_percent(self.effect.before)} without the "
                "mark), so nothing is shown to be repaired."
            )
        text = f"With the mark, the model takes {_percent(rate.before)} of other images for "
        if self.helps:
            return f"{text}'{self.name}'; {without}, {_percent(rate.after)}."
        return (
            f"{text}'{self.name}', and {without} still {_percent(rate.after)}: removing "
            f"{'them' if count > 1 else 'it'} does not repair it."
        )

    @property
    def caution(self) -> str | None:
        """What the figures do not show, because the mark cannot be cut out alone."""
        share = self.unseparated
        if not self.works or share is None or self.effect is None:
            return None
        what = "The cut-outs show some of what surrounds the mark"
        if share > INSEPARABLE * self.effect.after:
            what = "The mark cannot be separated from its surroundings"
        return (
            f"{what}: the same regions of images of '{self.name}' without it turn "
            f"{_percent(share)} of other images, too."
        )

    @property
    def advice(self) -> str | None:
        """What to remove next, if the mark still turns images without the components."""
        if not self.steps or self.kept is None:
            return None
        count, turned = len(self.preview.components), int(self.turned.sum())
        removed = f"these {count}" if count > 1 else "this one"
        text = (
            f"Removing {removed} keeps {_percent(self.kept)} of the flips ({turned} images): the "
            "mark also acts through other components."
        )
        best = min(self.steps, key=lambda step: step.taken.after)
        if best.taken.change_interval[1] >= 0:
            return (
                f"{text} Removing the next {len(best.added)} as well changes little "
                f"({_percent(best.taken.after)} are still taken for '{self.name}'): pruning cannot "
                "repair it; retrain instead."
            )
        return (
            f"{text} Without the next {len(best.added)} as well, {_percent(best.taken.after)} of "
            f"other images are taken for '{self.name}', and accuracy on unmarked images is "
            f"{_percent(best.accuracy.after, 1)} (now {_percent(best.accuracy.before, 1)})."
        )

    @property
    def suggested(self) -> tuple[Component, ...]:
        """The components to remove next; empty if none help."""
        helping = [step for step in self.steps if step.taken.change_interval[1] < 0]
        return min(helping, key=lambda step: step.taken.after).added if helping else ()

    @property
    def cost(self) -> str:
        """What the removal does to the original images, in one sentence."""
        rate = self.preview.accuracy(self.unmarked)
        before, after = _percent(rate.before, 1), _percent(rate.after, 1)
        changed = int((self.unmarked.before != self.unmarked.after).sum())
        counts = f"{changed} of {rate.images} predictions change"
        if self.costs:
            return (
                f"Price: {-100 * rate.change:.1f} points of accuracy on unmarked images, "
                f"{before} to {after} ({counts})."
            )
        if changed == 0:
            return f"No prediction on {rate.images} unmarked images changes."
        return f"On unmarked images, accuracy goes from {before} to {after} ({counts})."

    def candidates(self, predictions: Predictions) -> Bool[np.ndarray, " n"]:
        """Return which images are worth showing.

        With the mark: images of other classes that it turns into the class, or any of other
        classes if it turns none. Without: images whose prediction changes.
        """
        if predictions is self.unmarked:
            return predictions.before != predictions.after
        return self.turned if self.works and self.turned.any() else self.others

    def shown(self, predictions: Predictions, count: int) -> Int64[np.ndarray, " s"]:
        """Return positions of candidates, drawn at random and evenly over the true classes.

        Those that are correct without the components come first.
        """
        candidates = np.flatnonzero(self.candidates(predictions))
        shuffled = np.random.default_rng(self.seed).permutation(candidates)
        true = self.preview.right[shuffled]
        rank = np.array([(true[:i] == one).sum() for i, one in enumerate(true)], np.int64)
        drawn = shuffled[np.argsort(rank, kind="stable")][:count]
        wrong = predictions.after[drawn] != self.preview.right[drawn]
        return drawn[np.argsort(wrong, kind="stable")]

    def picture(self, predictions: Predictions, position: int) -> Image.Image:
        """Return an image as the model saw it, with its mark if it has one."""
        sample = int(self.preview.samples[position])
        database = self.database
        image = database.images.read(sample)
        if predictions is self.unmarked or self.mark is None:
            return image
        return insert_drawn(image, [self.mark.pieces], self.seed, sample)


@lens("model", "images")
def before_after(
    database: Database,
    target: Class,
    components: Components,
    *,
    per_class: int = PER_CLASS,
    at_most: int = AT_MOST,
    seed: int = 0,
) -> BeforeAfter:
    """Show what a class's artefact does to other images, and whether removing components helps.

    Parameters
    ----------
    components
        Components that respond to the artefact, most relevant first: those that an audit calls
        spurious.
    per_class, at_most
        Number of images, see :func:`semlens.lenses.correct.ablation_preview.preview_samples`.

    Raises
    ------
    LayerError
        If no component is given, or one is not in the database.
    DataError
        If the class has no samples.
    ModelError
        If the model outputs no logits, or only one.
    """
    samples, _ = preview_samples(database, target, per_class, at_most, seed)
    mark, reason = None, None
    try:
        mark = find_mark(database, target, components, samples, seed)
    except DataError as error:
        reason = error.value
    preview = ablation_preview(
        database, target, components, artefact=None if mark is None else mark.pieces, seed=seed,
        samples=samples,
    )  # fmt: skip
    control = None
    if mark is not None and mark.control is not None:
        control = misclassified_as(database, target, mark.control, samples, seed)
    result = BeforeAfter(
        preview, class_name(database, target), mark, control, reason, (), database, seed
    )
    if mark is None or not _acts_still(result):
        return result
    remaining = result.turned & (result.preview.sets[1].after == target)
    steps = next_components(database, preview, mark.pieces, remaining, seed)
    return replace(result, steps=tuple(steps))


def _acts_still(result: BeforeAfter) -> bool:
    """Whether the mark turns images without the components, more than what is by chance."""
    if not result.works or result.marked is None or not result.kept:
        return False
    target, others = result.preview.target, result.others
    without = result.unmarked.after == target if result.control is None else result.control
    left = RateChange.of(without[others], (result.marked.after == target)[others])
    return bool(left.change_interval[0] > 0)


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
