"""The result of an audit: tables of components, shares and concepts, as text, plot and JSON."""

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

from semlens.analysis.audit.relevance_shares import ALL, VERDICTS, component_weights
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.result import Result
from semlens.draw.text_table import rich_table
from semlens.store.reader import Database
from semlens.types import Component

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 15
"""Components in the table for the terminal."""


@dataclass(frozen=True, repr=False)
class Audit(Result):
    """What a class relies on, and whether it should.

    Parameters
    ----------
    target, name
        Logit index and name of the class.
    frame
        One row per relevant component, most relevant first: ``mean`` and ``max`` share of its
        layer's relevance; ``verdict``; ``certainty``, the share of bootstrap draws with the
        same verdict; and for each side the best concept, its alignment and its threshold.
    shares
        Per layer (``all`` is last) and verdict: the number of components, and shares by number
        and by relevance with 95 % intervals.
    chance
        Per layer and side: the share of relevance that it claims, the mean share of random
        concept sets of its size, and the probability that they claim as much (``p_value``). All
        are computed with centred concept vectors, unless the threshold is fixed.
    summary
        Per concept: the number of components that align with it best, and their share of
        relevance. For a spurious concept also its ``contrast``, which is the association of the
        class's relevance with it, beyond that of the other classes and of the class's own words;
        the largest of another class (``contrast_others``); and ``p_value``, the probability that
        one more class like the others reaches this contrast with any concept of the list. NaN if
        there are fewer than five other classes to compare with.
    settings
        Settings of the audit.
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
        rows = self.shares.query("layer == @layer and verdict == @verdict")
        return float(rows[f"by_{by}"].to_numpy()[0])

    @property
    def weights(self) -> Float[np.ndarray, " k"]:
        """Each component's share of the relevance of all layers; they sum to 1."""
        return component_weights(self.frame).relevance[:, -1]

    @property
    def suspect(self) -> str | None:
        """The spurious concept with the least p-value; None if there is no contrast."""
        tested = self.summary.dropna(subset="p_value")
        return None if tested.empty else str(tested["concept"][tested["p_value"].idxmin()])

    @property
    def p_value(self) -> float:
        """Probability of the spurious concepts' evidence by chance; NaN without such concepts.

        That of the contrast with the other classes or, if these are too few, of the share that
        random concepts claim.
        """
        if self.suspect is not None:
            return float(np.nanmin(self.summary["p_value"].to_numpy(float)))
        rows = self.chance.query("layer == @ALL and side == 'spurious'")
        return next(iter(rows["p_value"].to_list()), float("nan"))

    @property
    def alarm(self) -> bool:
        """Whether the class relies on spurious concepts, at the level of the audit."""
        return self.p_value < self.settings["level"]

    def of(self, *verdicts: str) -> list[Component]:
        """Return the components with any of these verdicts, most relevant first."""
        rows = self.frame[self.frame["verdict"].isin(verdicts)]
        return [Component.parse(name) for name in rows["component"]]

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
            "suspect": self.suspect,
            "shares": self.shares.to_dict("records"),
            "chance": self.chance.to_dict("records"),
            "concepts_found": self.summary.query("components > 0").to_dict("records"),
            "components": self.to_pandas().to_dict("records"),
        }

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        shares = [
            f"{100 * self.share(verdict):.0f} % {verdict}"
            for verdict in VERDICTS
            if verdict in self.possible
        ]
        text = f"What '{self.name}' relies on is {', '.join(shares[:-1])} and {shares[-1]}"
        if math.isnan(self.p_value):
            return text + "."
        return f"{text}. {'ALARM' if self.alarm else 'No alarm'}: {self.evidence}"

    @property
    def evidence(self) -> str:
        """What the alarm, or its absence, is based on, in one sentence."""
        if math.isnan(self.p_value):
            return "There are no spurious concepts, so there is no alarm to raise."
        p = p_text(self.p_value)
        if self.suspect is not None and self.alarm:
            return f"no other class relies on '{self.suspect}' as much ({p})."
        if self.suspect is not None:
            return f"other classes rely on the spurious concepts as much ({p})."
        if self.alarm:
            return f"spurious concepts claim more than random ones ({p})."
        return f"random concepts claim as much as the spurious ones ({p})."

    @property
    def possible(self) -> set[str]:
        """The verdicts that are possible with the sides that have concepts."""
        sides = set(self.chance["side"])
        return {*sides, "unexpected", *(("both",) if len(sides) == 2 else ())}

    def plot(self) -> Figure:
        """Draw components by both alignments, and the shares (paper, Fig. 3a)."""
        from semlens.draw.audit_plots import audit_plot

        return audit_plot(f"What '{self.name}' relies on", self.frame, self.shares)

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
        concepts = self.summary.query("components > 0").head(10)
        concepts = concepts.assign(
            relevance=[f"{100 * value:.1f} %" for value in concepts["relevance"]],
            contrast=["" if v != v else f"{v:.1f}" for v in concepts["contrast"]],
            p_value=["" if v != v else f"{v:.4f}" for v in concepts["p_value"]],
        )
        components = self.frame.head(SHOWN)
        components = components.assign(
            mean=[f"{100 * value:.1f} %" for value in components["mean"]],
            max=[f"{100 * value:.1f} %" for value in components["max"]],
            concept=[_concept(record) for record in components.to_dict("records")],
        )
        title = f"\nComponents, most relevant first ({len(components)} of {len(self.frame)})"
        return Group(
            Text(self.sentence, style="bold"),
            rich_table(shares, "\nShares, with 95 % intervals"),
            rich_table(
                concepts,
                "\nConcepts that components align with best",
                ["concept", "kind", "components", "relevance", "contrast", "p_value"],
            ),
            rich_table(
                components,
                title,
                "component mean max verdict certainty concept valid spurious".split(),
            ),
        )


def p_text(p: float) -> str:
    """Return a p-value as text."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}" if p < 0.01 else f"p = {p:.3f}"


def _concept(record: Mapping[Any, Any]) -> str | None:
    """Return the best concept of the verdict's side, or of both sides."""
    sides = {"both": ["valid", "spurious"], "unexpected": []}
    verdict = record["verdict"]
    return " / ".join(record[f"{side}_concept"] for side in sides.get(verdict, [verdict])) or None


def share_range(record: Mapping[Any, Any], measure: str) -> str:
    """Return a verdict's share with its interval, as text."""
    value, low, high = (100 * record[key] for key in (measure, f"{measure}_low", f"{measure}_high"))
    return f"{value:.1f} %" if math.isnan(low) else f"{value:.1f} % ({low:.1f} to {high:.1f})"
