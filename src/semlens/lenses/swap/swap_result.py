"""The result of a swap: gains of classes, excited components, and pasted images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64
from PIL import Image, ImageOps
from rich.console import Group, RenderableType

from semlens.draw.text_table import titled_table
from semlens.figures import FigureSpec, Panel, PictureRow, Pictures, Series, Values
from semlens.lenses.audit.class_verdict import Experiment
from semlens.lenses.result import Result, Section
from semlens.lenses.swap.effect import ALPHA
from semlens.lenses.swap.parts import PARTS, WORDS, Part
from semlens.types import Component
from semlens.wording import p_text

LISTED = 12
"""Classes in a terminal."""
SHOWN = 16
"""Classes in a figure."""
MAPS = 6
"""Classes whose regions are shown."""
HEAT, MIDDLE = ("#f2f5f9", "#12305f"), "#2f6fde"
"""Colours of a pixel that no region contains, of one that most contain, and between."""
Pasted = tuple[tuple[Image.Image, Image.Image], ...]


@dataclass(frozen=True, eq=False, repr=False)
class Swap(Result):
    """How much parts of each class's images raise the class's logit on other images.

    Parameters
    ----------
    frame
        The tested classes, smallest p-value first: ``class``, ``logit``, ``part``, ``size``,
        ``gain`` (mean over the pairs, in units of the logit), ``excess`` (over the mean gain of the
        other classes, in standard deviations of a logit on images of other classes),
        ``p_value`` (of a gain of one and a half times theirs and a third of a deviation),
        ``adjusted`` (Bonferroni over all rows) and ``detected``. With regions also ``overlap``: the
        share of a region that lies in the region of another image of the class, minus the same for
        images of other classes.
    components
        The components that the parts excite most, class by class: ``class``, ``part``, ``size``,
        ``component``, ``rise`` (mean, in units of the readout), ``effect`` (the same in standard
        deviations between images, Cohen's d; largest first) and ``relevance`` (mean share for the
        class; NaN where the database lacks it). Of a class that is detected also ``carried``, the
        share of the class's gain that is lost without the component (largest first), and
        ``named``: whether that is at least 5 % and clear.
    images
        Images per class, by part.
    classes
        Number of classes that have images.
    pasted
        By part, examples for its first row: an image of another class, before and after.
    coverage
        By class, the share of its images whose region contains each pixel of the input.
    """

    frame: pd.DataFrame
    components: pd.DataFrame
    images: Mapping[str, int]
    classes: int
    pasted: Mapping[str, Pasted] = field(default_factory=dict)
    coverage: Mapping[str, Float64[np.ndarray, "h w"]] = field(default_factory=dict)

    @property
    def parts(self) -> list[Part]:
        """The parts that were moved."""
        moved = set(self.frame["part"])
        return [part for part in PARTS if part in moved]

    def rows(self, part: Part) -> pd.DataFrame:
        """Return the tests of one part."""
        return self.frame.loc[self.frame["part"] == part]

    @property
    def detected(self) -> list[str]:
        """Names of the detected classes, strongest evidence first."""
        return list(dict.fromkeys(self.frame.loc[self.frame["detected"], "class"]))

    def excited(self, target: str) -> list[Component]:
        """Return the components that parts of a class's images excite most, strongest first.

        Of a class that is detected, those that carry most of what it gains.
        """
        first = self.frame[self.frame["class"] == target].iloc[0]
        return [Component.parse(name) for name in self._excited(first)["component"]]

    def _excited(self, row: pd.Series) -> pd.DataFrame:
        keys = ["class", "part", "size"]
        return self.components.loc[(self.components[keys] == row[keys]).all(axis=1)]

    def experiments(self) -> dict[int, list[Experiment]]:
        """Return what each part says about each class, by logit, corrected for all tests."""
        said: dict[int, list[Experiment]] = {}
        for part in self.parts:
            # the smallest p-value of each class first
            rows: Any = self.rows(part).drop_duplicates("logit")
            words, count = WORDS[part], (len(self.frame), len(self.parts))
            for logit, p in zip(rows["logit"], rows["adjusted"], strict=True):
                carriers = self.carriers(int(logit), part) if p < ALPHA else ()
                experiment = Experiment(
                    words.name, words.parts, words.act, float(p), *count, carriers
                )
                said.setdefault(int(logit), []).append(experiment)
        return said

    def carriers(self, logit: int, part: Part) -> tuple[str, ...]:
        """Return the components that carry what a class gains from a part, most first."""
        first = self.rows(part).loc[lambda rows: rows["logit"] == logit].iloc[0]
        found = self._excited(first)
        return tuple(found.loc[found["named"].astype(bool), "component"])

    def carried(self, logit: int) -> dict[str, float]:
        """Return what is lost of a class's gain without a component, of the parts it relies on."""
        shares: dict[str, float] = {}
        rows = self.frame.loc[(self.frame["logit"] == logit) & self.frame["detected"]]
        for _, row in rows.iterrows():
            found = self._excited(row)
            for name, share in found.loc[
                found["named"].astype(bool), ["component", "carried"]
            ].itertuples(index=False):
                shares[name] = max(float(share), shares.get(name, 0.0))
        return shares

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "detected": self.detected,
            "images": dict(self.images),
            "classes": self.frame.to_dict("records"),
            "components": self.components.to_dict("records"),
        }

    @property
    def summary(self) -> str:
        """What was detected, in a sentence for each part."""
        return "\n".join(self._summary(part) for part in self.parts)

    def _summary(self, part: Part) -> str:
        rows = self.rows(part)
        count = len(set(rows["class"]))
        of = f"{count}" if count == self.classes else f"{count} of the {self.classes} classes"
        named = ", ".join(dict.fromkeys(rows.loc[rows["detected"], "class"])) or "none"
        found = WORDS[part].found
        return f"Classes that rely on {found} (of {of}, family-wise 5 %): {named}"

    def figure(self) -> FigureSpec:
        """Return the gain of each class, where its regions lie, and what was pasted."""
        panels: list[Panel] = []
        for part in self.parts:
            rows = self.rows(part)
            names = list(dict.fromkeys(rows["class"]))[:SHOWN]
            panels.append(_gains(rows, names, part, self._summary(part)))
            if part == "region" and self.coverage:
                panels.append(_regions({name: self.coverage[name] for name in names[:MAPS]}))
            if pasted := self.pasted.get(part):
                before, after = zip(*pasted, strict=True)
                both = [PictureRow(before, "image"), PictureRow(after, "after")]
                panels.append(Pictures(f"With the {part} of images of {names[0]}", both))
        return FigureSpec("What parts of a class's images do to its logit", panels)

    def section(self, target: str | None = None) -> Section:
        """Return what was found about a class, or about all."""
        limits = " ".join(WORDS[part].limits for part in self.parts)
        if target is None:
            return Section(self.summary.splitlines(), self.figure(), self.frame, limits)
        sentences = [self._sentence(part, target) for part in self.parts]
        own = self.frame["class"] == target  # the class itself comes first
        table = pd.concat([self.frame.loc[own], self.frame.loc[~own]])
        return Section(sentences, self.figure(), table, limits)

    def _sentence(self, part: Part, target: str) -> str:
        """Describe what a part of a class's images does to its logit on other images."""
        words = WORDS[part]
        own: Any = self.rows(part).loc[lambda rows: rows["class"] == target]
        if own.empty:
            return (
                f"'{target}' was not among the classes tested with the {words.name}. "
                f"{self._summary(part)}."
            )
        best = own.iloc[0]
        finding = (
            f"The class relies on {words.relies}"
            if own["detected"].any()
            else "That is within the range of the other classes"
        )
        return (
            f"{words.short} of images of '{target}', {words.moved} images of other classes, change "
            f"its logit by {best['gain']:+.2f} on average ({words.of} {100 * best['size']:.0f} %). "
            f"{finding} (adjusted {p_text(best['adjusted'])})."
        )

    def __rich__(self) -> RenderableType:
        """Return the classes with the smallest p-values, and the first one's components."""
        shown = self.frame.head(LISTED)
        written = {name: shown[name].map("{:.4f}".format) for name in ("p_value", "adjusted")}
        first = self.frame.iloc[0]
        return Group(
            *titled_table(self.summary, shown.assign(**written)),
            *titled_table(
                f"Components that carry what {first['class']} gains"
                if first["detected"]
                else f"Components that {first['class']} excites most on other images",
                self._excited(first).drop(columns=["class", "part", "size"]),
            ),
        )


def corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of all tests, smallest p-value first, corrected for all (Bonferroni)."""
    frame = frame.sort_values(["p_value", "logit"], kind="stable", ignore_index=True)
    adjusted = np.minimum(frame["p_value"].to_numpy(float) * len(frame), 1.0)
    frame = frame.assign(adjusted=adjusted, detected=adjusted < ALPHA)
    columns = sorted(frame.columns, key=lambda name: name == "overlap")  # it comes last
    return frame.loc[:, columns]


def _gains(rows: pd.DataFrame, names: list[str], part: Part, title: str) -> Values:
    series: list[Series] = []
    for size in sorted(set(rows["size"])):
        of_size = rows[rows["size"] == size].set_index("class").loc[names]
        notes = ["detected" if found else "" for found in of_size["detected"]]
        name = f"{WORDS[part].size} {100 * size:.0f} %"
        series.append(Series(of_size["gain"].tolist(), name, notes=notes))
    return Values(title, names, series, "rise of the class's logit")


def _regions(maps: Mapping[str, Float64[np.ndarray, "h w"]]) -> Pictures:
    """Return where the regions of each class lie, on one scale of colours."""
    largest = max(float(shares.max()) for shares in maps.values()) or 1.0
    greys = [Image.fromarray((255 * shares / largest).astype(np.uint8)) for shares in maps.values()]
    pictures = [ImageOps.colorize(grey, *HEAT, mid=MIDDLE) for grey in greys]
    title = f"Where the regions lie (darkest: {100 * largest:.0f} % of the images)"
    return Pictures(title, [PictureRow(pictures, captions=[*maps])])
