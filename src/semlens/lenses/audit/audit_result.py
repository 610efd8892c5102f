"""The result of an audit: tables of components, shares and concepts, as text, plot and JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.text_table import rich_table
from semlens.errors import ConceptError, RelevanceError, StoreError
from semlens.lenses.audit.audit_records import AuditSettings, audit_records
from semlens.lenses.audit.class_verdict import ClassVerdict, Evidence, Experiment, class_verdict
from semlens.lenses.audit.image_test import TESTED, ImageTest
from semlens.lenses.audit.relevance_shares import ALL, VERDICTS, component_weights
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.component_labels import component_names, shown_names
from semlens.lenses.resolve_concepts import ResolvedConcepts, concepts_by_class
from semlens.lenses.result import Result
from semlens.lenses.swap.kept import kept_experiments
from semlens.recipe import fingerprint
from semlens.store.reader import Database
from semlens.types import Component
from semlens.version import __version__
from semlens.wording import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


TABLE = "verdicts"
"""Name of the table in the database."""


def list_key(concepts: ConceptSet) -> list[object]:
    """Return the content of a concept set; the lists of a saved audit change under one name."""
    return [
        [[concept.name, list(concept.path), concept.kind, [str(image) for image in concept.images]]
         for concept in concepts.concepts],
        list(concepts.templates or ()),
    ]  # fmt: skip


def verdict_keys(
    database: Database, resolved: Mapping[int, ResolvedConcepts]
) -> dict[int, tuple[str, AuditSettings]]:
    """Return what determines the audit of each class, as a key, and its settings.

    A class whose lists come from a saved audit has the settings of that audit.
    """
    keys: dict[int, tuple[str, AuditSettings]] = {}
    for target, one in resolved.items():
        settings = AuditSettings()
        if one.audit is not None:
            settings = audit_records(database).get(one.audit).settings
        inputs = [list_key(one.concepts), settings.model_dump(mode="json"), *TESTED]
        keys[target] = fingerprint(target, inputs, __version__, database.fingerprint), settings
    return keys


def kept_p_values(database: Database, target: int) -> list[float]:
    """Return the p-values of the classes but one, of the audit of all classes that is kept.

    Empty if there is none, or if the lists of another class have been edited since.
    """
    saved, saved_keys = load_table(database)
    if saved.empty:
        return []
    with suppress(ConceptError, RelevanceError):
        resolved, _ = concepts_by_class(database, files=False)
        keys = {str(one): key for one, (key, _) in verdict_keys(database, resolved).items()}
        saved = saved.loc[saved["target"] != target].drop_duplicates("target")
        if all(keys.get(one) == saved_keys[one] for one in saved["target"].astype(str)):
            return saved["p_value"].astype(float).tolist()
    return []


def load_table(database: Database) -> tuple[pd.DataFrame, Mapping[str, str]]:
    """Return the saved table and the key of each class in it; both empty if there is none."""
    with suppress(StoreError):  # it can be recomputed
        saved = database.load_with_origin(TABLE)
        if saved is not None:
            return saved[0], saved[1]["keys"]
    return pd.DataFrame(), {}


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
        One :class:`semlens.lenses.audit.audit_rows.ComponentRow` per relevant component, most
        relevant first, and its ``row``.
    shares
        One :class:`ShareRow` per layer (``all`` is last) and verdict.
    chance
        One :class:`NullShareRow` per layer and side. All are computed with centred concept
        vectors, unless the threshold is fixed.
    summary
        One :class:`ConceptRow` per concept. The ``contrast`` of a spurious concept is the
        association of the class's relevance with it, beyond that of the other classes and of the
        class's own words; its ``p_value`` is the probability that one more class like the others
        reaches this contrast with any concept of the list, if contrasts are roughly normal. NaN if
        there are fewer than five other classes to compare with.
    settings
        Settings of the audit.
    others
        The p-values of the other classes that were tested together with this one; None for those
        of the audit of all classes that the database keeps, if it does.
    experiments
        What experiments without words say about the class; None for those that the database keeps.
    images
        The test on images; None if no contrast has a p-value of at most the level, which would
        propose a concept.
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
    others: Sequence[float] | None = None
    experiments: Sequence[Experiment] | None = None
    images: ImageTest | None = None

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

        See :attr:`evidence`: that of the test on images, of the contrast with the other classes, or
        of the share that random concepts claim.
        """
        if self.images is not None and self.images.images:
            return self.images.p_value
        if self.suspect is not None:
            return float(np.nanmin(self.summary["p_value"].to_numpy(float)))
        rows = self.chance.query("layer == @ALL and side == 'spurious'")
        return next(iter(rows["p_value"].to_list()), float("nan"))

    @property
    def evidence(self) -> Evidence:
        """What the p-value is of.

        The test on images if a contrast proposes a concept, the contrast if none does or if it
        could not be tested on images, and random lists if there are too few classes to contrast.
        """
        if self.images is not None and self.images.images:
            return "images"
        return "random lists" if self.suspect is None else "contrast"

    @property
    def row(self) -> dict[str, Any]:
        """The class in a table of all classes: shares by relevance, p-value, and concepts."""
        spurious = self.summary.query("kind == 'spurious' and components > 0")
        first = None if spurious.empty else spurious.iloc[0]
        return {
            "class": self.name,
            "components": len(self.frame),
            **{verdict: self.share(verdict) for verdict in VERDICTS},
            "p_value": self.p_value,
            "suspect": self.suspect,
            "evidence": self.evidence,
            "concept": None if first is None else first["concept"],
            "concept_share": float("nan") if first is None else first["relevance"],
        }

    @cached_property
    def standing(self) -> ClassVerdict:
        """Whether the class raises the alarm, among all classes and experiments that were run."""
        others, experiments = self.others, self.experiments
        if others is None:
            others = kept_p_values(self.database, self.target)
        if experiments is None:
            experiments = kept_experiments(self.database).get(self.target, ())
        return class_verdict(self.row, others, self.settings["level"], experiments)

    @property
    def alarm(self) -> bool:
        """Whether the class relies on spurious concepts, beyond chance over all classes tested."""
        return self.standing.kind == "alarm"

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
            "standing": self.standing.kind,
            "p_value": self.p_value,
            "q_value": self.standing.q_value,
            "tested": self.standing.tested,
            "suspect": self.suspect,
            "evidence": self.evidence,
            "images": None if self.images is None else self.images.to_json(),
            "shares": self.shares.to_dict("records"),
            "chance": self.chance.to_dict("records"),
            "concepts_found": self.summary.query("components > 0").to_dict("records"),
            "components": self.to_pandas().to_dict("records"),
        }

    @property
    def sentence(self) -> str:
        """The result in two sentences: what the class relies on, and its standing."""
        first, *others = [
            (percent(self.share(verdict)), verdict)
            for verdict in VERDICTS
            if verdict in self.possible
        ]
        shares = [f"{first[0]} is {first[1]}", *(" ".join(other) for other in others)]
        stands = self.standing
        word = stands.word.upper() if stands.flagged else stands.word
        return (
            f"Of the relevance for '{self.name}' over all layers, {', '.join(shares[:-1])} and "
            f"{shares[-1]}. {word}: {stands.sentence()}"
        )

    @property
    def possible(self) -> set[str]:
        """The verdicts that are possible with the sides that have concepts."""
        sides = set(self.chance["side"])
        return {*sides, "unexpected", *(("both",) if len(sides) == 2 else ())}

    def plot(self) -> Figure:
        """Draw components by both alignments, and the shares (paper, Fig. 3a)."""
        from semlens.draw.audit_plots import CROPS, audit_plot
        from semlens.draw.example_sheet import example_pictures

        rows = dict(zip(self.frame["component"], self.frame["row"], strict=True))
        return audit_plot(
            f"What '{self.name}' relies on",
            self.frame.assign(label=shown_names(self.database, self.frame["component"].tolist())),
            self.shares,
            lambda component: example_pictures(self.database, rows[component], CROPS),
        )

    def __rich__(self) -> RenderableType:
        """Return the sentence, shares, concepts and the most relevant components."""
        overall = self.shares.query(f"layer == '{ALL}'")
        shares = pd.DataFrame(
            {
                "verdict": overall["verdict"],
                "components": overall["components"],
                "by_number": [share_text(r, "by_number") for r in overall.to_dict("records")],
                "by_relevance": [share_text(r, "by_relevance") for r in overall.to_dict("records")],
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
            matches=[verdict_concept(record) for record in components.to_dict("records")],
        )
        columns = "component mean max verdict certainty matches valid spurious".split()
        names = component_names(self.database)
        if names is not None:
            components.insert(0, "label", names.shown(components["component"].tolist()))
            columns.insert(1, "label")
        title = (
            f"\nComponents, most relevant first ({len(components)} of {len(self.frame)}), with "
            "their share of the layer's relevance"
        )
        return Group(
            Text(self.sentence, style="bold"),
            rich_table(shares, "\nShares, with ranges over resampled examples"),
            rich_table(
                concepts,
                "\nConcepts that components align with best",
                ["concept", "kind", "components", "relevance", "contrast", "p_value"],
            ),
            rich_table(components, title, columns),
        )


def verdict_concept(record: Mapping[Any, Any]) -> str | None:
    """Return the best concept of the verdict's side, or of both; None if a person set it."""
    if record.get("marked"):
        return None
    sides = {"both": ["valid", "spurious"], "unexpected": []}
    verdict = record["verdict"]
    return " / ".join(record[f"{side}_concept"] for side in sides.get(verdict, [verdict])) or None


def share_text(record: Mapping[Any, Any], measure: str) -> str:
    """Return a verdict's share with its range, as text."""
    value, low, high = (100 * record[key] for key in (measure, f"{measure}_low", f"{measure}_high"))
    return f"{value:.1f} %" if math.isnan(low) else f"{value:.1f} % ({low:.1f} to {high:.1f})"
