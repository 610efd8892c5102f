"""Which components a repair removes: what the audit found, and what a person says."""

from __future__ import annotations

from collections.abc import Mapping

from semlens.lenses.audit.audit_records import Review
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.class_relevance import mean_shares
from semlens.errors import DataError
from semlens.store.reader import Database
from semlens.types import Component


def components_to_remove(
    database: Database, audit: Audit, reviews: Mapping[str, Review]
) -> list[Component]:
    """Return the components that a repair of a class removes, the most relevant first.

    These are the spurious ones if the audit raises the alarm or a suspicion, and those that a
    person has marked as spurious; without those that a person has dismissed.

    Raises
    ------
    DataError
        If there are none.
    """
    found = [str(component) for component in audit.spurious] if audit.standing.flagged else []
    marked = [name for name, review in reviews.items() if review.status == "spurious"]
    dismissed = {name for name, review in reviews.items() if review.status == "dismissed"}
    names = [name for name in dict.fromkeys([*found, *marked]) if name not in dismissed]
    if not names:
        raise DataError(
            f"There is nothing to repair: '{audit.name}' raises no alarm and no suspicion, and no "
            "component is marked as spurious.",
            "Expected spurious components behind either, or components that you marked.",
            "Mark components as spurious on their card, on the map or among the unexpected ones.",
        )
    return by_relevance(database, audit.target, [Component.parse(name) for name in names])


def by_relevance(database: Database, target: int, components: list[Component]) -> list[Component]:
    """Sort components by their mean relevance for a class, the largest first."""
    shares = mean_shares(database, target)
    rows = dict(zip(components, database.rows_of(components), strict=True))
    return sorted(components, key=lambda one: (-shares[rows[one]], rows[one]))
