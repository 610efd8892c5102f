"""The result of inserting signs: rises of a target against controls, and components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Group, RenderableType

from semlens.draw.text_table import titled_table
from semlens.figures import FigureSpec, Panel, PictureRow, Pictures, Series, Values
from semlens.lenses.result import Result, Section
from semlens.lenses.swap.effect import ALPHA
from semlens.types import Component
from semlens.wording import STRAIGHT, p_text, quoted

VARIANTS = ("plain", "sign", "covered", "scrambled")
"""What is done to an image."""
LIMITS = (
    "A target that relies on the sign only together with something else, which these images do not "
    "show, is not found. What a sign does beyond its controls need not be a fault."
)


@dataclass(frozen=True, eq=False, repr=False)
class Reliance(Result):
    """Whether a target relies on signs, by inserting each into images.

    Parameters
    ----------
    name
        The target.
    frame
        One row per artefact, smallest p-value first: ``artefact``, ``source``, ``rise`` (mean
        change of the target with the sign, in its own units), ``covered`` and ``scrambled`` (the
        same with the controls), ``control`` (the one that comes nearest), ``excess`` (mean
        difference between the sign and that control, in standard deviations of the target over the
        images as they are; negative if the target falls), ``p_value`` (of more than one and a half
        times the control's change and a third of a deviation, in either direction), ``adjusted``
        (Bonferroni over the artefacts) and ``relies``.
    components
        By artefact, the components that it changes most: ``artefact``, ``component``, ``effect``
        (change against the scrambled control, in standard deviations between images, Cohen's d) and
        ``carried`` (share of the excess that is lost if the component is ablated; NaN where the
        p-value is not below 5 %), the largest first.
    images
        Number of images.
    pictures
        By artefact, some images by variant: ``plain``, ``sign``, ``covered``, ``scrambled``.
    """

    name: str
    frame: pd.DataFrame
    components: pd.DataFrame
    images: int
    pictures: Mapping[str, Mapping[str, Sequence[Image.Image]]] = field(default_factory=dict)

    @property
    def relied_on(self) -> list[str]:
        """Names of the artefacts that the target relies on, strongest evidence first."""
        return list(self.frame.loc[self.frame["relies"], "artefact"])

    def carriers(self, artefact: str) -> list[Component]:
        """Return the components that carry an artefact's effect, the largest share first."""
        rows = self.components[self.components["artefact"] == artefact]
        return [Component.parse(name) for name in rows["component"]]

    def sentence(self, quotes: str = STRAIGHT) -> str:
        """Return what was found for each artefact."""
        return "\n".join(self._sentence(row, quotes) for row in self.frame.to_dict("records"))

    def _sentence(self, row: Mapping[Any, Any], quotes: str) -> str:
        verdict = "relies on" if row["relies"] else "is not shown to rely on"
        return (
            f"{quoted(self.name, quotes)} {verdict} {quoted(row['artefact'], quotes)}: inserted "
            f"into {self.images} images it changes the target by {row['rise']:+.3g} on average, "
            f"{row['control']} by {row[row['control']]:+.3g}; the difference is "
            f"{row['excess']:+.2f} standard deviations (adjusted {p_text(row['adjusted'])})."
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "target": self.name,
            "images": self.images,
            "relies": self.relied_on,
            "artefacts": self.frame.to_dict("records"),
            "components": self.components.to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return the changes by artefact, and images with the first one."""
        names = list(self.frame["artefact"])
        columns = {"sign": "rise", "covered": "covered", "scrambled": "scrambled"}
        series = [
            Series(self.frame[column].tolist(), name, notes=self._notes() if name == "sign" else ())
            for name, column in columns.items()
        ]
        panels: list[Panel] = [
            Values("Mean change of the target", names, series, f"change of {self.name}", 0.0)
        ]
        if names and (variants := self.pictures.get(names[0])):
            rows = [PictureRow(variants[name], name) for name in VARIANTS]
            panels.append(Pictures(f"Images with '{names[0]}', and its controls", rows))
        return FigureSpec(f"What inserted signs do to '{self.name}'", panels)

    def _notes(self) -> list[str]:
        return ["relies" if relies else "" for relies in self.frame["relies"]]

    def section(self, target: str | None = None) -> Section:
        """Return what views show."""
        return Section(self.sentence().splitlines(), self.figure(), self.frame, LIMITS)

    def __rich__(self) -> RenderableType:
        """Return the sentences, and the components of what is relied on."""
        shown = self.frame.drop(columns=["source"])
        carried = self.components.loc[self.components["artefact"].isin(self.relied_on)]
        written = {name: shown[name].map("{:.4f}".format) for name in ("p_value", "adjusted")}
        parts = [self.sentence(), *titled_table("", shown.assign(**written))]
        if len(carried):
            parts += titled_table("Components that carry the difference", carried)
        return Group(*parts)


def corrected(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows, smallest p-value first, corrected for all of them (Bonferroni)."""
    frame = frame.sort_values("p_value", kind="stable", ignore_index=True)
    adjusted = np.minimum(frame["p_value"].to_numpy(float) * len(frame), 1.0)
    return frame.assign(adjusted=adjusted, relies=adjusted < ALPHA)
