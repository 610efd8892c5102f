"""Verdicts on the components of all classes, kept in the database.

The audits of :func:`semlens.lenses.audit.class_audits.audit_all`, reduced to what every page of
the web application shows. A class is audited again only if its lists or settings have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from semlens.errors import ConceptError, RelevanceError, StoreError
from semlens.lenses.audit.audit import audit_class
from semlens.lenses.audit.audit_records import AuditSettings
from semlens.lenses.audit.audit_result import (
    TABLE,
    Audit,
    load_table,
    verdict_concept,
    verdict_keys,
)
from semlens.lenses.audit.class_verdict import ClassVerdict, Experiment, class_verdicts, overall
from semlens.lenses.classes import class_name
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.resolve_concepts import ResolvedConcepts
from semlens.lenses.swap.kept import kept_experiments
from semlens.progress import report_progress
from semlens.store.reader import Database
from semlens.wording import STRAIGHT

OF_COMPONENT = ["component", "verdict", "component_concept", "weight"]
"""Columns of a component; the others are of its class and repeat."""


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What each class relies on, and whether it should.

    Parameters
    ----------
    classes
        One row per class, the strongest evidence first: ``target``, ``name``, and the columns of
        :attr:`semlens.lenses.audit.audit_result.Audit.row`.
    standings
        The standing of each class, in the same order.
    components
        One row per class and relevant component, most relevant first: ``target``,
        ``component``, ``verdict``, ``concept`` (None if unexpected) and ``weight``, its share of
        the relevance of all layers.
    skipped
        By class name, why a class was not audited.
    """

    classes: pd.DataFrame
    standings: Sequence[ClassVerdict]
    components: pd.DataFrame
    skipped: Mapping[str, str]

    def standing(self, target: int) -> ClassVerdict | None:
        """Return the standing of a class; None if it was not audited."""
        return self.by_class.get(target)

    @cached_property
    def by_class(self) -> Mapping[int, ClassVerdict]:
        """The standings by logit."""
        targets = self.classes["target"] if len(self.classes) else ()
        return dict(zip(map(int, targets), self.standings, strict=True))

    @property
    def p_values(self) -> dict[int, float]:
        """The p-values by logit."""
        return {target: one.p_value for target, one in self.by_class.items()}

    def sentence(self, quotes: str = STRAIGHT) -> str:
        """Return the result in one sentence."""
        if not self.standings:
            reason = next(iter(self.skipped.values()), "No class has lists of concepts.")
            return f"No class was audited. {reason}"
        return overall(self.standings, quotes)


def kept_verdicts(database: Database, resolved: Mapping[int, ResolvedConcepts]) -> Verdicts:
    """Audit all classes, each with its own concepts; those audited before are read.

    Only the shares, p-values and verdicts are computed: there are no intervals.

    Parameters
    ----------
    resolved
        The concepts of each class, see
        :func:`semlens.lenses.resolve_concepts.concepts_by_class`.
    """
    keys = verdict_keys(database, resolved)
    saved, saved_keys = load_table(database)
    skipped: dict[str, str] = {}
    parts: list[pd.DataFrame] = []
    for done, (target, one) in enumerate(resolved.items()):
        report_progress("auditing", done, len(resolved))
        key, settings = keys[target]
        if saved_keys.get(str(target)) == key:
            parts.append(saved.loc[saved["target"] == target])
            continue
        try:
            parts.append(_audited(database, target, one.concepts, settings))
        except (RelevanceError, ConceptError) as error:  # the other classes are still audited
            skipped[class_name(database, target)] = error.value
    report_progress("auditing", len(resolved), len(resolved))
    if not parts:
        return Verdicts(pd.DataFrame(), (), pd.DataFrame(), skipped)
    table = pd.concat(parts, ignore_index=True)
    audited = {str(target): keys[target][0] for target in table["target"].unique().tolist()}
    if audited != saved_keys and database.is_writable:
        with suppress(StoreError):  # another process may be writing it
            database.save_analysis(TABLE, table, {"keys": audited})
    levels = {target: settings.level for target, (_, settings) in keys.items()}
    return _verdicts(table, levels, kept_experiments(database), skipped)


def _audited(
    database: Database, target: int, concepts: ConceptSet, settings: AuditSettings
) -> pd.DataFrame:
    """Audit a class; return one row per component, with the values of the class."""
    if not database.embedder.has_text and not all(c.images for c in concepts.concepts):
        raise ConceptError(
            "The embedder of this database cannot embed texts.",
            "Expected concepts by image, or an embedder with a text tower.",
            "Save an audit with concepts by image from Python.",
        )
    result = audit_class(database, target, concepts, settings, resamples=0)
    row = result.row
    return pd.DataFrame(
        {
            "target": target,
            "name": row.pop("class"),
            **{key: _column(value, len(result.frame)) for key, value in row.items()},
            "component": result.frame["component"],
            "verdict": result.frame["verdict"],
            "component_concept": pd.Series(_concepts(result), dtype=object),
            "weight": result.weights,
        }
    )


def _column(value: Any, count: int) -> pd.Series:
    """Return a column of one value; texts that may be missing keep their type."""
    kind = object if value is None or isinstance(value, str) else type(value)
    return pd.Series([value] * count, dtype=kind)


def _concepts(result: Audit) -> list[str | None]:
    return [verdict_concept(record) for record in result.frame.to_dict("records")]


def _verdicts(
    table: pd.DataFrame,
    levels: Mapping[int, float],
    experiments: Mapping[int, Sequence[Experiment]],
    skipped: Mapping[str, str],
) -> Verdicts:
    """Split the table, and find the standing of each class among all."""
    classes = table.drop(columns=OF_COMPONENT).drop_duplicates("target", ignore_index=True)
    rows = [{**row, "class": row["name"]} for row in classes.to_dict("records")]
    targets = [int(row["target"]) for row in rows]
    found = class_verdicts(
        rows, [levels[one] for one in targets], [experiments.get(one, ()) for one in targets]
    )
    order = sorted(range(len(rows)), key=lambda i: (*found[i].rank, -found[i].share))
    components = table.loc[:, ["target", *OF_COMPONENT]].rename(
        columns={"component_concept": "concept"}
    )
    ordered = classes.iloc[order].reset_index(drop=True)
    return Verdicts(ordered, [found[i] for i in order], components, skipped)
