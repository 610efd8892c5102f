"""Answer files of simulated raters."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def write_answers(path: Path, study: str, rater: str, rows: Iterable[Row]) -> Path:
    """Write answers in the format of the page."""
    names = ["study", "rater", "question", "answer", "confidence", "similarity", "seconds"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({"study": study, "rater": rater, **row} for row in rows)
    return path


def answered(key: dict[str, Any], answer: Callable[[Row], Row]) -> list[Row]:
    """Answer each question of a key."""
    return [{"question": q["question"], **answer(q)} for q in key["questions"]]
