"""Arguments of a report: the saved audit, and the date."""

from __future__ import annotations

import datetime

from semlens.errors import RecipeError
from semlens.lenses.audit.audit_records import AuditRecord, audit_records
from semlens.store.reader import Database


def saved_record(
    database: Database, saved: int | AuditRecord, target: object, concepts: object
) -> AuditRecord:
    """Return the saved audit for a report.

    Raises
    ------
    RecipeError
        If a class or concepts were also given.
    """
    if target is not None or concepts is not None:
        raise RecipeError(
            "A saved audit and a class or concepts were given.",
            "Expected one of them: a saved audit has its own class, concepts and settings.",
            "Remove the saved audit, or the class and concepts.",
        )
    audits = audit_records(database)
    record = saved if isinstance(saved, AuditRecord) else audits.get(saved)
    audits.check_class(record)
    return record


def parse_date(date: datetime.date | str) -> datetime.date:
    """Return a date from ``YYYY-MM-DD``.

    Raises
    ------
    RecipeError
        If it is not a date.
    """
    try:
        return datetime.date.fromisoformat(str(date))
    except ValueError as error:
        raise RecipeError(
            f"'{date}' is not a valid date.", "Expected YYYY-MM-DD.", "Correct it."
        ) from error
