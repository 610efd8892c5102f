"""The part of a report that judges: verdicts, shares, concepts and components."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from semlens.analysis.audit.audit_result import Audit, share_range
from semlens.analysis.audit.relevance_shares import ALL
from semlens.analysis.audit.saved_audits import AuditRecord, Status
from semlens.analysis.report.sections import SkippedSection, percent, section, strip
from semlens.draw.report_page import (
    Badge,
    Paragraph,
    ReportBlock,
    ReportCard,
    ReportCards,
    ReportPicture,
    ReportTable,
    Section,
    figure_picture,
)
from semlens.store.reader import Database

SAYS: Mapping[str, str] = {
    "valid": "aligned with valid concepts only",
    "spurious": "aligned with spurious concepts only",
    "both": "aligned with valid and spurious concepts",
    "unexpected": "aligned with neither",
}


def verdict(found: Audit | SkippedSection) -> tuple[Badge, str]:
    """Return the verdict on the class, and the sentence behind it."""
    if isinstance(found, SkippedSection):
        return Badge("No verdict", "open"), f"The audit was not made. {found.reason}"
    if math.isnan(found.p_value):
        return (
            Badge("No verdict on spurious concepts", "open"),
            f"No spurious concepts were given. {found.sentence}",
        )
    claimed = found.share("spurious") + found.share("both")
    if found.alarm:
        return Badge("Alarm", "alarm"), (
            f"'{found.name}' relies on what it should not: spurious concepts claim "
            f"{claimed:.0%} of the relevance looked at, more than chance explains "
            f"(p = {found.p_value:.3f})."
        )
    return Badge("No alarm", "clear"), (
        f"Spurious concepts claim {claimed:.0%} of the relevance of '{found.name}' that was "
        f"looked at, which chance explains (p = {found.p_value:.3f}). "
        f"{found.share('unexpected'):.0%} is unexpected: no concept of the set describes it."
    )


@section("audit", "Audit: does the class rest on what it should?")
def audit_section(found: Audit, database: Database, shown: int) -> list[ReportBlock]:
    """Show what the class rests on, and whether it should."""
    frame = found.frame
    blocks: list[ReportBlock] = [
        Paragraph(found.sentence),
        Paragraph("; ".join(f"{name}: {says}" for name, says in SAYS.items()) + "."),
        _picture(found),
        _shares(found),
        _chance(found),
        _concepts(found),
        _components(found, shown),
    ]
    if len(frame) > shown:
        blocks.append(
            Paragraph(
                f"{len(frame) - shown} less relevant components are counted above, not listed."
            )
        )
    cards = [
        ReportCard(
            record["component"],
            Badge(record["verdict"], record["verdict"]),
            [_reason(record)],
            strip(database, record["row"]),
        )
        for record in frame.head(shown).to_dict("records")
    ]
    return [*blocks, ReportCards(cards)]


def badges(found: Audit | SkippedSection) -> dict[str, Badge]:
    """Return each component's verdict."""
    if isinstance(found, SkippedSection):
        return {}
    named = zip(found.frame["component"], found.frame["verdict"], strict=True)
    return {name: Badge(kind, kind) for name, kind in named}


def _picture(found: Audit) -> ReportPicture:
    counts = found.frame["verdict"].value_counts()
    told = ", ".join(f"{counts.get(name, 0)} {name}" for name in SAYS)
    return figure_picture(
        found.plot(),
        f"Relevant components of '{found.name}' by their alignment with spurious and with valid "
        f"concepts ({told}), and the shares of the verdicts.",
        "Each dot is a component, the larger the more relevant. Right of the line it aligns with a "
        "spurious concept, above the line with a valid one.",
        points=len(found.frame),
    )


def _shares(found: Audit) -> ReportTable:
    several = len(set(found.shares["layer"])) > 2
    rows = [
        (
            "all layers" if row["layer"] == ALL else row["layer"],
            Badge(row["verdict"], row["verdict"]),
            str(row["components"]),
            share_range(row, "by_number"),
            share_range(row, "by_relevance"),
        )
        for row in found.shares.to_dict("records")
        if row["layer"] != ALL or several
    ]
    return ReportTable(
        "Shares of the verdicts, with 95 % intervals (bootstrap over concept examples)",
        ["layer", "verdict", "components", "share by number", "share by relevance"],
        rows,
        [2, 3, 4],
    )


def _chance(found: Audit) -> ReportTable:
    rows = [
        (
            Badge(row["side"], row["side"]),
            "all layers" if row["layer"] == ALL else row["layer"],
            percent(row["share"]),
            percent(row["expected"]),
            f"{row['p_value']:.3f}",
        )
        for row in found.chance.to_dict("records")
    ]
    return ReportTable(
        "What each side claims of the relevance, and what random concepts would",
        ["side", "layer", "claimed", "by random concepts, mean", "p"],
        rows,
        [2, 3, 4],
    )


def _concepts(found: Audit) -> ReportTable:
    met: Any = found.summary[found.summary["components"] > 0]
    rows = [
        (
            row["concept"],
            Badge(row["kind"], row["kind"]),
            str(row["components"]),
            percent(row["relevance"]),
        )
        for row in met.head(15).to_dict("records")
    ]
    none = len(found.summary) - len(met)
    return ReportTable(
        f"Concepts that components align with best ({none} of {len(found.summary)} have none)",
        ["concept", "side", "components", "share of relevance"],
        rows,
        [2, 3],
    )


def _components(found: Audit, shown: int) -> ReportTable:
    rows = [
        (
            row["component"],
            Badge(row["verdict"], row["verdict"]),
            percent(row["mean"]),
            percent(row["max"]),
            _aligned(row, "valid"),
            _aligned(row, "spurious"),
            "-" if math.isnan(row["certainty"]) else f"{row['certainty']:.0%}",
        )
        for row in found.frame.head(shown).to_dict("records")
    ]
    return ReportTable(
        "The most relevant components: share of their layer's relevance, best concept of either "
        "side with its alignment and the threshold, and how often redrawn examples give the same "
        "verdict",
        ["component", "verdict", "mean", "max", "best valid", "best spurious", "certainty"],
        rows,
        [2, 3, 6],
    )


def _aligned(row: Mapping[Any, Any], side: str) -> str:
    if row[f"{side}_concept"] is None:
        return "-"
    return f"{row[f'{side}_concept']} {row[side]:+.3f} ({row[f'{side}_threshold']:.3f})"


def _reason(row: Mapping[Any, Any]) -> str:
    """Say how far the best concept of either side lies from its threshold."""
    parts: list[str] = []
    for side in ("valid", "spurious"):
        if row[f"{side}_concept"] is not None:
            apart = row[side] - row[f"{side}_threshold"]
            place = "over" if apart > 0 else "under"
            parts.append(f"{side}: '{row[f'{side}_concept']}', {abs(apart):.3f} {place}")
    return (
        f"{percent(row['mean'])} of its layer's relevance. Best concepts, by their distance from "
        f"the threshold: {'; '.join(parts)}."
    )


REVIEWS: Mapping[Status, str] = {
    "reviewed": "looked at",
    "confirmed": "agrees with the verdict",
    "dismissed": "holds it for harmless or wrong",
}


def review_section(
    kept: AuditRecord, judged: Audit | SkippedSection, database: Database
) -> Section:
    """Show a saved audit's reviews with their notes, and how much is still to be looked at."""
    blocks: list[ReportBlock] = [Paragraph(_origin(kept, database))]
    verdicts = badges(judged)
    if not isinstance(judged, SkippedSection):
        seen = judged.frame["component"].isin(list(kept.reviews)).to_numpy()
        blocks.append(
            Paragraph(
                f"{seen.sum()} of {len(seen)} relevant components were reviewed; they have "
                f"{float(seen @ judged.weights):.1%} of the relevance looked at."
            )
        )
    if kept.reviews:
        # most relevant first; what is no longer relevant last
        place = {name: number for number, name in enumerate(verdicts)}
        order = sorted(
            kept.reviews.items(), key=lambda pair: (place.get(pair[0], len(place)), pair[0])
        )
        rows = [
            (name, verdicts.get(name, "not relevant"), one.status, one.note or "-",
             one.when[:16].replace("T", " "))
            for name, one in order
        ]  # fmt: skip
        blocks.append(
            ReportTable(
                "Reviews: " + "; ".join(f"{name}: {says}" for name, says in REVIEWS.items()),
                ["component", "verdict", "review", "note", "when (UTC)"],
                rows,
            )
        )
    return Section("reviews", "Review by people", blocks, flows=True)


def _origin(kept: AuditRecord, database: Database) -> str:
    told = (
        f"Audit {kept.id}, '{kept.name}', saved on {kept.created[:10]}, last edited on "
        f"{kept.changed[:10]} (revision {kept.revision})."
    )
    if kept.database != database.fingerprint:
        told += (
            f" It was made on another build of this database ({kept.database[:12]}): verdicts are "
            "of the build as it is now, reviews may be of components as they were."
        )
    return told
