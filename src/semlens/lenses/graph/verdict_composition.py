"""Verdicts of an audit on the groups of an attribution graph, by how much each member matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from semlens.lenses.audit.audit import audit
from semlens.lenses.audit.audit_records import audit_records
from semlens.lenses.audit.audit_settings import AuditSettings
from semlens.lenses.audit.marks import marked_spurious
from semlens.lenses.resolve_concepts import concepts_by_class
from semlens.draw.graph_layout import GraphNode
from semlens.draw.palette import NO_VERDICT, VERDICTS
from semlens.errors import SemlensError
from semlens.store.reader import Database


def verdict_composition(
    shares: Sequence[float], verdicts: Sequence[str | None]
) -> dict[str, float]:
    """Return the share of each verdict in a group of components; they sum to 1.

    A component counts by the absolute value of its share of the layer's relevance; if all are
    zero, each counts alike.

    Parameters
    ----------
    shares
        Signed share of each component.
    verdicts
        Its verdict; None if the audit has none, which is the key "no verdict".
    """
    weights = [abs(share) for share in shares]
    total = sum(weights)
    if total == 0:
        weights, total = [1.0] * len(weights), float(len(weights))
    found = dict.fromkeys((*VERDICTS, NO_VERDICT), 0.0)
    for weight, verdict in zip(weights, verdicts, strict=True):
        found[verdict or NO_VERDICT] += weight / total
    return {verdict: share for verdict, share in found.items() if share > 0}


def with_verdicts(node: GraphNode, verdicts: Mapping[str, str]) -> GraphNode:
    """Return a group with its composition; without any verdicts, as it is.

    Parameters
    ----------
    verdicts
        By component.
    """
    if not verdicts:
        return node
    of_members = [verdicts.get(component) for component in node.components]
    return replace(node, verdicts=verdict_composition(node.shares, of_members))


def audited_verdicts(database: Database, target: int) -> dict[str, str]:
    """Return the verdicts on the components of a class, as the web application shows them.

    They come from the lists of its most recently edited saved audit, or else from the bundled
    sets; a component that a person has marked is spurious. Empty if there are no lists for the
    class and no marks, or no class relevance.
    """
    if database.manifest.relevance is None:
        return {}
    marked = dict.fromkeys(marked_spurious(database, target), "spurious")
    try:
        resolved = concepts_by_class(database)[0].get(target)
        if resolved is None:
            return marked
        settings = AuditSettings()
        if resolved.audit is not None:
            settings = audit_records(database).get(resolved.audit).settings
        frame = audit(
            database, target, resolved.concepts, resamples=0, **settings.as_arguments()
        ).frame
    except SemlensError:  # such as an embedder without texts; the graph is complete without
        return marked
    return dict(zip(frame["component"], frame["verdict"], strict=True)) | marked
