"""What an audit found, and how it is shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.analysis.audit.relevance_shares import ALL, VERDICTS, weigh
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.result import Result
from semlens.draw.text_table import rich_table
from semlens.store.reader import Database
from semlens.types import Component

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 15
"""Components in a terminal's table."""


@dataclass(frozen=True, repr=False)
class Audit(Result):
    """What a class rests on, and whether it should.

    Parameters
    ----------
    target, name
        The class: its logit and its name.
    frame
        One row per relevant component, most relevant first: ``mean`` and ``max`` share of its
        layer's relevance; ``verdict``; ``certainty``, the share of bootstrap draws with the
        same verdict; for both sides the best concept, its alignment and the threshold.
    shares
        Per layer (``all`` is last) and verdict: number of components, and shares by number and
        by relevance with 95 % intervals.
    chance
        Per layer and side: the share of relevance that it claims, what random concept
        sets of its size claim on average, and with which probability as much (``p_value``).
    summary
        Per concept: components that align with it best, and their share of relevance.
    settings
        With what it was made.
    """

    target: int
    name: str
    concepts: ConceptSet
    frame: pd.DataFrame
    shares: pd.DataFrame
    chance: pd.DataFrame
    summary: pd.DataFrame
    settings: Mapping[str, Any]
    database: Database

    def share(self, verdict: str, layer: str = ALL, by: str = "relevance") -> float:
        """Return the share of a verdict, by ``relevance`` or by ``number``."""
        found = self.shares.query("layer == @layer and verdict == @verdict")
        return float(found[f"by_{by}"].to_numpy()[0])

    @property
    def weights(self) -> Float[np.ndarray, " k"]:
        """The part of each component in the relevance of all layers; they sum to 1."""
        return weigh(self.frame).relevance[:, -1]

    @property
    def p_value(self) -> float:
        """Chance that random concepts claim as much as the spurious ones; NaN without these."""
        found = self.chance.query("layer == @ALL and side == 'spurious'")
        return next(iter(found["p_value"].to_list()), float("nan"))

    @property
    def alarm(self) -> bool:
        """Whether spurious concepts claim more relevance than chance explains."""
        return self.p_value < self.settings["level"]

    def of(self, *verdicts: str) -> list[Component]:
        """Return the components of some verdicts, most relevant first."""
        mine = self.frame[self.frame["verdict"].isin(verdicts)]
        return [Component.parse(name) for name in mine["component"]]

    @property
    def spurious(self) -> list[Component]:
        """Components aligned with spurious concepts only."""
        return self.of("spurious")

    @property
    def unexpected(self) -> list[Component]:
        """Components aligned with neither side."""
        return self.of("unexpected")

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per relevant component."""
        return self.frame.drop(columns="row")

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "target": self.target,
            "class": self.name,
            "concepts": self.concepts.name,
            "settings": dict(self.settings),
            "alarm": self.alarm,
            "p_value": self.p_value,
            "shares": self.shares.to_dict("records"),
            "chance": self.chance.to_dict("records"),
            "concepts_found": self.summary.query("components > 0").to_dict("records"),
            "components": self.to_pandas().to_dict("records"),
        }

    @property
    def sentence(self) -> str:
        """The finding in one sentence."""
        parts = [
            f"{100 * self.share(verdict):.0f} % {verdict}"
            for verdict in VERDICTS
            if verdict in self.possible
        ]
        text = f"What '{self.name}' rests on is {', '.join(parts[:-1])} and {parts[-1]}"
        if not math.isnan(self.p_value):
            text += f"; {'ALARM: more' if self.alarm else 'not more'} spurious than by chance"
            text += f" (p = {self.p_value:.3f})"
        return text + "."

    @property
    def possible(self) -> set[str]:
        """The verdicts that can be given with the sides that there are."""
        sides = set(self.chance["side"])
        return {*sides, "unexpected", *(("both",) if len(sides) == 2 else ())}

    def plot(self) -> Figure:
        """Draw components by both alignments, and the shares (paper, Fig. 3a)."""
        from semlens.draw.audit_plots import audit_plot

        return audit_plot(f"What '{self.name}' rests on", self.frame, self.shares)

    def __rich__(self) -> RenderableType:
        """Return the sentence, shares, concepts and the most relevant components."""
        overall = self.shares.query(f"layer == '{ALL}'")
        shares = pd.DataFrame(
            {
                "verdict": overall["verdict"],
                "components": overall["components"],
                "by_number": [share_range(r, "by_number") for r in overall.to_dict("records")],
                "by_relevance": [
                    share_range(r, "by_relevance") for r in overall.to_dict("records")
                ],
            }
        )
        found = self.summary.query("components > 0").head(10)
        found = found.assign(relevance=[f"{100 * value:.1f} %" for value in found["relevance"]])
        parts = self.frame.head(SHOWN)
        parts = parts.assign(
            mean=[f"{100 * value:.1f} %" for value in parts["mean"]],
            max=[f"{100 * value:.1f} %" for value in parts["max"]],
            concept=[_concept(record) for record in parts.to_dict("records")],
        )
        title = f"\nComponents, most relevant first ({len(parts)} of {len(self.frame)})"
        return Group(
            Text(self.sentence, style="bold"),
            rich_table(shares, "\nShares, with 95 % intervals"),
            rich_table(
                found,
                "\nConcepts that components align with best",
                ["concept", "kind", "components", "relevance"],
            ),
            rich_table(
                parts,
                title,
                [
                    "component",
                    "mean",
                    "max",
                    "verdict",
                    "certainty",
                    "concept",
                    "valid",
                    "spurious",
                ],
            ),
        )


def _concept(record: Mapping[Any, Any]) -> str | None:
    """Return the best concept of the side that the verdict names, of both if it is both."""
    sides = {"both": ["valid", "spurious"], "unexpected": []}
    chosen = sides.get(record["verdict"], [record["verdict"]])
    return " / ".join(record[f"{side}_concept"] for side in chosen) or None


def share_range(record: Mapping[Any, Any], what: str) -> str:
    """Return a share of a verdict with its interval, in words."""
    value, low, high = (100 * record[key] for key in (what, f"{what}_low", f"{what}_high"))
    return f"{value:.1f} %" if math.isnan(low) else f"{value:.1f} % ({low:.1f} to {high:.1f})"
