"""The part of a report that says what people have looked at, and what they say of it."""

from __future__ import annotations

from collections.abc import Mapping

from semlens.analysis.audit.found import Audit
from semlens.analysis.audit.record import AuditRecord, Review, Status
from semlens.analysis.report.sections import Skipped
from semlens.draw.report_page import Badge, Block, Section, Table, Text
from semlens.store.reader import Database

SAYS: Mapping[Status, str] = {
    "reviewed": "looked at",
    "confirmed": "agrees with the verdict",
    "dismissed": "holds it for harmless or wrong",
}


def review_section(kept: AuditRecord, judged: Audit | Skipped, database: Database) -> Section:
    """Show a saved audit's reviews with their notes, and how much is still to be looked at."""
    title = "Review by people"
    blocks: list[Block] = [Text(_origin(kept, database))]
    if isinstance(judged, Skipped):
        verdicts: dict[str, str] = {}
    else:
        frame = judged.frame
        verdicts = dict(zip(frame["component"], frame["verdict"], strict=True))
        seen = frame["component"].isin(list(kept.reviews)).to_numpy()
        part = float(seen @ judged.weights)
        blocks.append(
            Text(
                f"{seen.sum()} of {len(frame)} relevant components were reviewed; they have "
                f"{part:.1%} of the relevance looked at."
            )
        )
    if kept.reviews:
        blocks.append(
            Table(
                "Reviews: " + "; ".join(f"{name}: {says}" for name, says in SAYS.items()),
                ["component", "verdict", "review", "note", "when (UTC)"],
                [
                    (name, _badge(verdicts.get(name)), one.status, one.note or "-", _when(one))
                    for name, one in _ordered(kept.reviews, verdicts)
                ],
            )
        )
    return Section("reviews", title, blocks, flows=True)


def _origin(kept: AuditRecord, database: Database) -> str:
    told = (
        f"Audit {kept.id}, '{kept.name}', saved on {_day(kept.created)}, last edited on "
        f"{_day(kept.changed)} (revision {kept.revision})."
    )
    if kept.database != database.fingerprint:
        told += (
            f" It was made on another build of this database ({kept.database[:12]}): verdicts are "
            "of the build as it is now, reviews may be of components as they were."
        )
    return told


def _ordered(
    reviews: Mapping[str, Review], verdicts: Mapping[str, str]
) -> list[tuple[str, Review]]:
    """Return reviews, most relevant component first; those that are no longer relevant last."""
    place = {name: number for number, name in enumerate(verdicts)}
    return sorted(reviews.items(), key=lambda pair: (place.get(pair[0], len(place)), pair[0]))


def _badge(verdict: str | None) -> Badge | str:
    return "not relevant" if verdict is None else Badge(verdict, verdict)


def _when(one: Review) -> str:
    return one.when[:16].replace("T", " ")


def _day(time: str) -> str:
    return time[:10]
