"""Reading the key of a study, and the answers of its raters."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from semlens.documents import csv_rows
from semlens.errors import DataError, shortened
from semlens.lenses.result import format_error, read_saved
from semlens.lenses.study.tasks import PROTOCOLS, TASKS, Measure, Protocol
from semlens.regular_files import read_text

_COLUMNS = ("study", "rater", "question", "answer")
_KEY_COLUMNS = ("question", "kind", "components", "right", "value", "pick", "clarity")


@dataclass(frozen=True)
class Key:
    """The key of a study."""

    study: str
    measure: Measure
    questions: pd.DataFrame
    """Frame of the :class:`~semlens.lenses.study.study.Study`, by the number of the question."""
    recurring: int
    """Number of components in several questions of one kind."""

    @property
    def protocol(self) -> Protocol:
        """The study of the paper that it follows."""
        return PROTOCOLS[self.measure]


def read_key(path: str | Path) -> Key:
    """Read the key that was saved with the page.

    Raises
    ------
    DataError
        If the file cannot be read or has another format.
    """
    path = Path(path)
    head = ("study", "measure", "recurring")
    values = read_saved(path, "study", head, "questions", _KEY_COLUMNS)
    measure: Any = str(values["measure"])
    recurring = values["recurring"]
    kinds = PROTOCOLS[measure].kinds if measure in PROTOCOLS else ()
    numbers = [one["question"] for one in values["questions"]]
    if (
        not isinstance(values["study"], str)
        or type(recurring) is not int
        or any(type(number) is not int for number in numbers)
        or len(set(numbers)) < len(numbers)
        or any(one["kind"] not in kinds for one in values["questions"])
    ):
        raise format_error(path, "study")
    questions = pd.DataFrame(values["questions"]).set_index("question")
    return Key(values["study"], measure, questions, recurring)


def read_answers(key: Key, files: Sequence[str | Path]) -> pd.DataFrame:
    """Read the answers of all raters, of one or several in each file.

    Returns
    -------
    DataFrame
        One row per rater and question: rater, question, answer, and the ratings of the study as
        numbers.

    Raises
    ------
    DataError
        If there is no file, or one cannot be read, is of another study, or has a rater who is in
        another file too, has not answered all questions, or gave an answer that does not exist.
    """
    if not files:
        raise DataError(
            "No answers are given.", "Expected at least one file.", "Add those of the raters."
        )
    answers: list[dict[str, Any]] = []
    origin: dict[str, Path] = {}
    for path in map(Path, files):
        rows = [_parsed(key, path, row) for row in _read(key, path)]
        answered: dict[str, list[int]] = {}
        for row in rows:
            answered.setdefault(row["rater"], []).append(row["question"])
        for rater, questions in answered.items():
            if rater in origin:
                raise DataError(
                    f"The rater '{shortened(rater)}' is in '{origin[rater]}' and in '{path}'.",
                    "Expected each rater once.",
                    "Leave one of the files out, or correct the code in the column 'rater'.",
                )
            origin[rater] = path
            _check_complete(key, path, rater, questions)
        answers += rows
    return pd.DataFrame(answers)


def _read(key: Key, path: Path) -> list[dict[str, str]]:
    """Read the rows of a file as texts."""
    try:
        rows = list(csv_rows(read_text(path.expanduser()), strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, str(error)) from error
    if not rows:
        raise _unreadable(path, "it has no rows")
    for name in (*_COLUMNS, *_scales(key)):
        if any(row.get(name) is None for row in rows):
            raise _unreadable(path, f"a row has no column '{name}'")
    other = {row["study"] for row in rows} - {key.study}
    if other:
        raise DataError(
            f"'{path}' has answers to the study '{shortened(min(other))}'.",
            f"Expected '{key.study}', the study of the key.",
            "Use the key that was saved with the page, or leave the file out.",
        )
    return rows


def _scales(key: Key) -> list[str]:
    """Return the columns that hold ratings, besides the answers."""
    scales = [scale.name for kind in key.protocol.kinds for scale in TASKS[kind].scales]
    return [name for name in scales if name != "answer"]


def _parsed(key: Key, path: Path, row: dict[str, str]) -> dict[str, Any]:
    """Check the cells of a row, and convert numbers."""
    rater, question = row["rater"].strip(), _number(row["question"])
    if not rater:
        raise _unreadable(path, "a cell of the column 'rater' is empty")
    if question not in key.questions.index:
        raise DataError(
            f"'{path}' answers the question '{shortened(row['question'])}'.",
            f"Expected the questions 1 to {len(key.questions)}.",
            "Correct the column 'question', or leave the file out.",
        )
    task = TASKS[key.questions["kind"].to_dict()[question]]
    if task.answers and row["answer"] not in task.answers:
        raise _invalid(path, row, "answer", f"one of {', '.join(task.answers)}")
    for scale in task.scales:
        if not 0 <= _number(row[scale.name]) <= 100:
            raise _invalid(path, row, scale.name, "a number from 0 to 100")
    ratings = {name: _number(row[name]) for name in _scales(key)}
    return {"rater": rater, "question": int(question), "answer": row["answer"], **ratings}


def _number(text: str) -> float:
    """Return a number; NaN if the text is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _check_complete(key: Key, path: Path, rater: str, answered: Sequence[int]) -> None:
    """Check that a rater answered each question once."""
    twice = [question for question, count in Counter(answered).items() if count > 1]
    missing = [question for question in key.questions.index if question not in answered]
    if twice or missing:
        what = f"question {twice[0]} twice" if twice else f"no question {_listed(missing)}"
        raise DataError(
            f"The rater '{shortened(rater)}' answered {what} in '{path}'.",
            f"Expected each of the {len(key.questions)} questions once.",
            "Have the study completed, or leave the rater out.",
        )


def _listed(numbers: Sequence[int], at_most: int = 5) -> str:
    shown = ", ".join(str(number) for number in numbers[:at_most])
    return shown + (", ..." if len(numbers) > at_most else "")


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"'{path}' cannot be read as answers ({' '.join(reason.split())}).",
        f"Expected the CSV file of the page, with the columns {', '.join(_COLUMNS)}.",
        "Ask the rater for the file that the page has downloaded.",
    )


def _invalid(path: Path, row: dict[str, str], column: str, expected: str) -> DataError:
    return DataError(
        f"The rater '{shortened(row['rater'])}' has '{shortened(row[column])}' as {column} of "
        f"question {row['question']} in '{path}'.",
        f"Expected {expected}.",
        "Correct the cell, or leave the rater out.",
    )
