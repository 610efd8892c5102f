"""The audit in a report: first page, shares, concepts, components and reviews."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from semlens.draw.encode_images import encode_webp
from semlens.draw.html import webp_uri
from semlens.draw.report_page import (
    Badge,
    ChangedPicture,
    ChangedPictures,
    Details,
    Paragraph,
    ReportBlock,
    ReportCard,
    ReportCards,
    ReportPicture,
    ReportTable,
    Section,
    Shares,
    figure_picture,
)
from semlens.lenses.audit.audit_records import AuditRecord, Status
from semlens.lenses.audit.audit_result import Audit, share_text, verdict_concept
from semlens.lenses.audit.class_verdict import Kind
from semlens.lenses.audit.relevance_shares import ALL
from semlens.lenses.classes import class_name
from semlens.lenses.correct.before_after import BeforeAfter
from semlens.lenses.labelling.component_labels import shown_names
from semlens.lenses.report.section_parts import SkippedSection, section, strip
from semlens.store.reader import Database
from semlens.wording import p_text, percent, precise

SIDES = ("valid", "spurious")
VERDICT_TEXTS: Mapping[str, str] = {
    "valid": "aligned with valid concepts only",
    "spurious": "aligned with spurious concepts only",
    "both": "aligned with valid and spurious concepts",
    "unexpected": "aligned with neither",
}


@section("audit", "Audit: does the class rely on valid concepts?")
def audit_section(audit: Audit, database: Database, shown: int) -> list[ReportBlock]:
    """Show what the class relies on, and whether it should."""
    frame = audit.frame
    cards = [component_card(record, database) for record in frame.head(shown).to_dict("records")]
    rest = len(frame) - len(cards)
    left_out = [Paragraph(f"{rest} less relevant components are counted but not listed.")]
    numbers = [_shares(audit), _null_comparison(audit), _components(audit, shown)]
    return [
        Paragraph(audit.sentence),
        _plot(audit),
        Details(f"The {len(cards)} most relevant components, with examples", [ReportCards(cards)]),
        Details("Concepts that components align with best", [_concepts(audit)]),
        Details(
            "Shares with ranges, comparison with random concepts, and values of the components",
            [*numbers, *(left_out if rest else [])],
        ),
    ]


def component_card(record: Mapping[Any, Any], database: Database) -> ReportCard:
    """Return the card of an audited component, under its name."""
    return ReportCard(
        shown_names(database, [record["component"]])[0],
        record["component"],
        Badge(record["verdict"], record["verdict"]),
        [relation(record), _reason(record)],
        strip(database, record["row"]),
    )


def relation(record: Mapping[Any, Any]) -> str:
    """Say which concepts a component matches, or which is the nearest."""
    if record.get("marked"):
        return "marked as spurious by a person"
    concept = verdict_concept(record)
    if concept is not None:
        return f"matches '{concept}'"
    sides = [side for side in SIDES if record[f"{side}_concept"] is not None]
    nearest = max(sides, key=lambda side: record[side] - record[f"{side}_threshold"])
    return f"matches no concept; nearest '{record[f'{nearest}_concept']}'"


def badges(audit: Audit | SkippedSection) -> dict[str, Badge]:
    """Return the verdicts by component name."""
    if isinstance(audit, SkippedSection):
        return {}
    verdicts = zip(audit.frame["component"], audit.frame["verdict"], strict=True)
    return {name: Badge(kind, kind) for name, kind in verdicts}


def _plot(audit: Audit) -> ReportPicture:
    counts = audit.frame["verdict"].value_counts()
    verdicts = "; ".join(f"{name}: {text}" for name, text in VERDICT_TEXTS.items())
    counts_text = ", ".join(f"{counts.get(name, 0)} {name}" for name in VERDICT_TEXTS)
    return figure_picture(
        audit.plot(),
        f"Relevant components of '{audit.name}' by their alignment with spurious and with valid "
        f"concepts ({counts_text}), and the shares of the verdicts.",
        "Each dot is a component; larger dots are more relevant. Dots right of the vertical line "
        "align with a valid concept, dots above the horizontal line with a spurious one. "
        f"{verdicts}.",
        points=len(audit.frame),
    )


def _shares(audit: Audit) -> ReportTable:
    several_layers = len(set(audit.shares["layer"])) > 2
    rows = [
        (
            "all layers" if row["layer"] == ALL else row["layer"],
            Badge(row["verdict"], row["verdict"]),
            str(row["components"]),
            share_text(row, "by_number"),
            share_text(row, "by_relevance"),
        )
        for row in audit.shares.to_dict("records")
        if row["layer"] != ALL or several_layers
    ]
    return ReportTable(
        "Shares of the verdicts, with ranges over resampled examples",
        ["layer", "verdict", "components", "share by number", "share by relevance"],
        rows,
        [2, 3, 4],
    )


def _null_comparison(audit: Audit) -> ReportTable:
    rows = [
        (
            Badge(row["side"], row["side"]),
            "all layers" if row["layer"] == ALL else row["layer"],
            precise(row["share"]),
            precise(row["expected"]),
            f"{row['p_value']:.3f}",
        )
        for row in audit.chance.to_dict("records")
    ]
    return ReportTable(
        "Share of relevance claimed by each side, and by random concepts",
        ["side", "layer", "claimed", "random concepts (mean)", "p"],
        rows,
        [2, 3, 4],
    )


def _concepts(audit: Audit) -> ReportTable:
    aligned: Any = audit.summary[audit.summary["components"] > 0]
    rows = [
        (
            row["concept"],
            Badge(row["kind"], row["kind"]),
            str(row["components"]),
            precise(row["relevance"]),
            *(("-", "-") if math.isnan(row["p_value"]) else _contrast(row)),
        )
        for row in aligned.head(15).to_dict("records")
    ]
    unused = len(audit.summary) - len(aligned)
    return ReportTable(
        f"Concepts that components align with best ({unused} of {len(audit.summary)} have none)",
        ["concept", "side", "components", "share of relevance", "contrast (next class)", "p"],
        rows,
        [2, 3, 4, 5],
    )


def _contrast(row: Mapping[Any, Any]) -> tuple[str, str]:
    """Return a concept's contrast with that of the next class, and its p-value."""
    contrast = f"{row['contrast']:.1f} ({row['contrast_others']:.1f})"
    return contrast, p_text(row["p_value"]).removeprefix("p = ").removeprefix("p ")


def _components(audit: Audit, shown: int) -> ReportTable:
    rows = [
        (
            row["component"],
            Badge(row["verdict"], row["verdict"]),
            precise(row["mean"]),
            precise(row["max"]),
            _aligned(row, "valid"),
            _aligned(row, "spurious"),
            "-" if math.isnan(row["certainty"]) else f"{100 * row['certainty']:.0f} %",
        )
        for row in audit.frame.head(shown).to_dict("records")
    ]
    return ReportTable(
        "The most relevant components: share of their layer's relevance, best concept of each "
        "side with its alignment and threshold, and how often resampled examples give the same "
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
    """Return the relevance, and how far the best concept of each side is from its threshold."""
    sides: list[str] = []
    for side in SIDES:
        if row[f"{side}_concept"] is not None:
            difference = row[side] - row[f"{side}_threshold"]
            relation = "above" if difference > 0 else "below"
            sides.append(f"'{row[f'{side}_concept']}' {abs(difference):.3f} {relation}")
    mark = "marked as spurious by a person; " if row.get("marked") else ""
    return (
        f"{mark}{precise(row['mean'])} of its layer's relevance; {', '.join(sides)} the threshold"
    )


REVIEWS: Mapping[Status, str] = {
    "reviewed": "looked at",
    "confirmed": "agrees with the verdict",
    "dismissed": "considers it harmless or wrong",
    "spurious": "considers the component spurious, whatever the verdict",
}


def review_section(
    record: AuditRecord, audit: Audit | SkippedSection, database: Database
) -> Section:
    """Show the reviews of a saved audit with their notes, and how much has been reviewed."""
    blocks: list[ReportBlock] = [Paragraph(_provenance(record, database))]
    verdicts = badges(audit)
    if not isinstance(audit, SkippedSection):
        reviewed = audit.frame["component"].isin(list(record.reviews)).to_numpy()
        blocks.append(
            Paragraph(
                f"{reviewed.sum()} of {len(reviewed)} relevant components were reviewed; they "
                f"have {precise(float(reviewed @ audit.weights))} of the audited relevance."
            )
        )
    if record.reviews:
        # most relevant first; components that are no longer relevant last
        rank = {name: i for i, name in enumerate(verdicts)}
        order = sorted(
            record.reviews.items(), key=lambda pair: (rank.get(pair[0], len(rank)), pair[0])
        )
        rows = [
            (name, verdicts.get(name, "not relevant"), review.status, review.note or "-",
             review.when[:16].replace("T", " "))
            for name, review in order
        ]  # fmt: skip
        blocks.append(
            ReportTable(
                "Reviews: " + "; ".join(f"{name}: {text}" for name, text in REVIEWS.items()),
                ["component", "verdict", "review", "note", "when (UTC)"],
                rows,
            )
        )
    return Section("reviews", "Review by people", blocks, flows=True)


def _provenance(record: AuditRecord, database: Database) -> str:
    text = (
        f"Audit {record.id}, '{record.name}', saved on {record.created[:10]}, last edited on "
        f"{record.changed[:10]} (revision {record.revision})."
    )
    if record.database != database.fingerprint:
        text += (
            f" It was made on another build of this database ({record.database[:12]}): verdicts "
            "are for the current build, reviews may be about earlier components."
        )
    return text


BADGES: Mapping[Kind, str] = {
    "alarm": "alarm", "suspicion": "suspicion", "no alarm": "clear", "no verdict": "open",
}  # fmt: skip
"""Colours of the standings."""
SHOWN = 3
"""Components on the first page."""
IMAGES = 8
"""Images before and after on the first page."""
SIDE = 160
"""Longest side of such an image in pixels."""


def verdict(audit: Audit | SkippedSection) -> tuple[Badge, str]:
    """Return the standing of the class as a badge, and a sentence that explains it."""
    if isinstance(audit, SkippedSection):
        return Badge("No verdict", "open"), f"The audit is missing. {audit.reason}"
    stands = audit.standing
    return Badge(stands.word, BADGES[stands.kind]), f"{stands.sentence()} {_shares_sentence(audit)}"


def _shares_sentence(audit: Audit) -> str:
    """Say how much matches spurious concepts, and how much no concept describes."""
    text = "" if math.isnan(audit.p_value) else f"{audit.standing.shares()} "
    unexpected = percent(audit.share("unexpected"))
    return f"{text}No concept of either list describes {unexpected}: that is unexpected."


def evidence(
    audit: Audit | SkippedSection, repair: BeforeAfter | SkippedSection, database: Database
) -> list[ReportBlock]:
    """Show the shares of the verdicts, and the components that the verdict is based on.

    These are the most relevant spurious ones or, if there are none, the most relevant ones. Below
    them are images with the artefact, before and after the removal of the spurious components.
    """
    if isinstance(audit, SkippedSection):
        return []
    suspicious = audit.frame[audit.frame["verdict"].isin(["spurious", "both"])]
    chosen: Any = suspicious if len(suspicious) else audit.frame
    cards = [component_card(record, database) for record in chosen.head(SHOWN).to_dict("records")]
    if not cards:
        return [Paragraph(f"No component is relevant for '{audit.name}'.")]
    kind = "spurious" if len(suspicious) else "relevant"
    caption = f"The most relevant of {len(chosen)} {kind} components, with their strongest examples"
    if len(chosen) == len(cards):
        caption = f"All {len(cards)} {kind} components, with their strongest examples"
    return [
        Shares(
            f"What '{audit.name}' relies on",
            [(Badge(name, name), audit.share(name)) for name in VERDICT_TEXTS],
        ),
        ReportCards(cards, caption=caption),
        *([] if isinstance(repair, SkippedSection) else _repair(repair)),
    ]


def _repair(repair: BeforeAfter) -> list[ReportBlock]:
    """Show images with the artefact: predictions with and without the spurious components."""
    marked = repair.marked
    if marked is None:
        return []
    pictures: list[ChangedPicture] = []
    for position in repair.shown(marked, IMAGES).tolist():
        picture = repair.picture(marked, position).copy()
        picture.thumbnail((SIDE, SIDE))
        before, after = (
            class_name(repair.database, int(one[position])) for one in (marked.before, marked.after)
        )
        file = repair.database.sample(int(repair.preview.samples[position])).path
        pictures.append(ChangedPicture(webp_uri(encode_webp(picture)), before, after, file))
    about = (
        "The mark is what the spurious components respond to: it is cut out of their own examples "
        "and put on images of other classes. Shown are predictions with all components, and "
        "without the spurious ones."
    )
    return [ChangedPictures(f"Before and after. {repair.finding} {about}", pictures)]
