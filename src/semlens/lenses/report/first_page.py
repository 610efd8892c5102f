"""First page of a report: the verdict, and the components and images behind it."""

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
    Paragraph,
    ReportBlock,
    ReportCards,
    Shares,
)
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.class_verdict import Kind
from semlens.lenses.audit.wording import percent
from semlens.lenses.classes import class_name
from semlens.lenses.correct.before_after import BeforeAfter
from semlens.lenses.report.audit_sections import VERDICT_TEXTS, component_card
from semlens.lenses.report.section_parts import SkippedSection
from semlens.store.reader import Database

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
    return Badge(stands.word, BADGES[stands.kind]), f"{stands.sentence()} {_shares(audit)}"


def _shares(audit: Audit) -> str:
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
