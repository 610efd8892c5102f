"""The result of a swap: gains of classes, excited components, and pasted images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pandas as pd
from PIL import Image
from rich.console import Group, RenderableType

from semlens.draw.text_table import titled_table
from semlens.lenses.result import Chart, Result
from semlens.types import Component

LISTED = 12
"""Classes in a terminal."""


@dataclass(frozen=True, eq=False, repr=False)
class Swap(Result):
    """How much parts of each class's images raise the class's logit on other images.

    Parameters
    ----------
    frame
        The tested classes, smallest p-value first.
    components
        The components that the parts excite most, class by class in the same order: ``class``,
        the size of the part, ``component``, ``rise`` (mean, in units of the readout), ``effect``
        (the same in standard deviations between images, Cohen's d; largest first) and
        ``relevance`` (mean share for the class; NaN where the database lacks it).
    images
        Images per class.
    classes
        Number of classes that have images.
    pasted
        Examples for the first row: an image of another class, before and after.
    """

    name: ClassVar[str]
    """What the experiment is called."""
    parts: ClassVar[str]
    act: ClassVar[str]
    """What is moved to other images, and what that does: "pasted onto other images, raise"."""
    size: ClassVar[str]
    """Column with the size of the parts."""
    found: ClassVar[str]
    """What is said of detected classes."""

    frame: pd.DataFrame
    components: pd.DataFrame
    images: int
    classes: int
    pasted: tuple[tuple[Image.Image, Image.Image], ...] = field(default=(), kw_only=True)

    @property
    def detected(self) -> list[str]:
        """Names of the detected classes, strongest evidence first."""
        return list(dict.fromkeys(self.frame.loc[self.frame["detected"], "class"]))

    def excited(self, target: str) -> list[Component]:
        """Return the components that parts of a class's images excite most, strongest first."""
        sizes = self.frame.loc[self.frame["class"] == target, self.size].tolist()
        return [Component.parse(name) for name in self._excited(target, sizes[0])["component"]]

    def _excited(self, target: str, size: float) -> pd.DataFrame:
        rows = (self.components["class"] == target) & (self.components[self.size] == size)
        return self.components.loc[rows.tolist()]

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "detected": self.detected,
            "images": self.images,
            "classes": self.frame.to_dict("records"),
            "components": self.components.to_dict("records"),
        }

    @property
    def summary(self) -> str:
        """What was detected, in a sentence."""
        count = len(set(self.frame["class"]))
        of = f"{count}" if count == self.classes else f"{count} of the {self.classes} classes"
        named = ", ".join(self.detected) or "none"
        return f"Classes that rely on {self.found} (of {of}, family-wise 5 %): {named}"

    def plot(self) -> Chart:
        """Draw the gain of every class, and pasted images of the first one."""
        from semlens.draw.swap_plots import swap_plot

        return swap_plot(self.frame, self.size, self.summary, self.pasted)

    def __rich__(self) -> RenderableType:
        """Return the classes with the smallest p-values, and the first one's components."""
        shown = self.frame.head(LISTED)
        written = {name: shown[name].map("{:.4f}".format) for name in ("p_value", "adjusted")}
        first = self.frame.iloc[0]
        return Group(
            *titled_table(self.summary, shown.assign(**written)),
            *titled_table(
                f"Components that {first['class']} excites most on other images",
                self._excited(first["class"], first[self.size]).drop(columns=["class", self.size]),
            ),
        )
