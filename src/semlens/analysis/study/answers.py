"""Reading the key of a study, and the answers of its raters."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from semlens.analysis.saved_json import format_error, read_saved
from semlens.analysis.study.tasks import PROTOCOLS, TASKS, Measure, Protocol
from semlens.errors import DataError, shortened
from semlens.regular_files import read_text

_COLUMNS = ("study", "rater", "question", "answer")
_KEY_COLUMNS = ("question", "kind", "components", "right", "value", "pick", "clarity")


@dataclass(frozen=True)
class Key:
    """The key of a study."""

    study: str
    measure: Measure
    questions: pd.DataFrame
    """Frame of the :class:`~semlens.analysis.study.study.Study`, by the number of the question."""
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
    questions = pd.DataFrame(values["questions"]).set_index("question")
    if values["measure"] not in PROTOCOLS or not set(questions["kind"]) <= set(
        PROTOCOLS[values["measure"]].kinds
    ):
        raise format_error(path, "study")
    return Key(values["study"], values["measure"], questions, int(values["recurring"]))


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
    tables: list[pd.DataFrame] = []
    origin: dict[str, Path] = {}
    for path in map(Path, files):
        table = _read(key, path)
        for rater, rows in table.groupby("rater", sort=False):
            if rater in origin:
                raise DataError(
                    f"The rater '{shortened(rater)}' is in '{origin[str(rater)]}' and in '{path}'.",
                    "Expected each rater once.",
                    "Leave one of the files out, or correct the code in the column 'rater'.",
                )
            origin[str(rater)] = path
            _check_complete(key, path, str(rater), rows["question"])
        tables.append(_parsed(key, path, table))
    return pd.concat(tables, ignore_index=True)


def _read(key: Key, path: Path) -> pd.DataFrame:
    """Read a file as texts; empty cells are empty texts."""
    try:
        text = read_text(path.expanduser())
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise _unreadable(path, str(error)) from error
    needed = dict.fromkeys([*_COLUMNS, *_scales(key)])
    missing = [name for name in needed if name not in table.columns]
    if missing:
        raise _unreadable(path, f"it has no column '{missing[0]}'")
    if table.empty:
        raise _unreadable(path, "it has no rows")
    other = set(table["study"]) - {key.study}
    if other:
        raise DataError(
            f"'{path}' has answers to the study '{shortened(min(other))}'.",
            f"Expected '{key.study}', the study of the key.",
            "Use the key that was saved with the page, or leave the file out.",
        )
    if (table["rater"].str.strip() == "").any():
        raise _unreadable(path, "the column 'rater' has an empty cell")
    numbers = pd.to_numeric(table["question"], errors="coerce")
    unknown = table.loc[~numbers.isin(key.questions.index), "question"]
    if len(unknown):
        raise DataError(
            f"'{path}' answers the question '{shortened(unknown.iloc[0])}'.",
            f"Expected the questions 1 to {len(key.questions)}.",
            "Correct the column 'question', or leave the file out.",
        )
    return table.assign(question=numbers.astype(int))[list(needed.keys() - {"study"})]


def _scales(key: Key) -> list[str]:
    """Return the columns that hold ratings, besides the answers."""
    scales = [scale.name for kind in key.protocol.kinds for scale in TASKS[kind].scales]
    return [name for name in scales if name != "answer"]


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"'{path}' cannot be read as answers ({' '.join(reason.split())}).",
        f"Expected the CSV file of the page, with the columns {', '.join(_COLUMNS)}.",
        "Ask the rater for the file that the page has downloaded.",
    )


def _check_complete(key: Key, path: Path, rater: str, answered: pd.Series) -> None:
    """Check that a rater answered each question once."""
    twice = answered[answered.duplicated()]
    missing = key.questions.index.difference(answered)
    if len(twice) or len(missing):
        what = f"{twice.iloc[0]} twice" if len(twice) else f"no {_listed(missing)}"
        raise DataError(
            f"The rater '{shortened(rater)}' answered question {what} in '{path}'.",
            f"Expected each of the {len(key.questions)} questions once.",
            "Have the study completed, or leave the rater out.",
        )


def _listed(numbers: Iterable[int], at_most: int = 5) -> str:
    shown = [str(number) for number in numbers]
    return ", ".join(shown[:at_most]) + (", ..." if len(shown) > at_most else "")


def _parsed(key: Key, path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Check each answer, and convert ratings to numbers."""
    kinds = key.questions["kind"].loc[table["question"]].to_numpy()
    parsed: dict[str, list[Any]] = {name: [] for name in _scales(key)}
    for kind, row in zip(kinds, table.to_dict("records"), strict=True):
        answers = TASKS[kind].answers
        if answers and row["answer"] not in answers:
            raise _no_answer(path, row, "answer", f"one of {', '.join(answers)}")
        for scale in TASKS[kind].scales:
            rating = pd.to_numeric(row[scale.name], errors="coerce")
            if not 0 <= rating <= 100:
                raise _no_answer(path, row, scale.name, "a number from 0 to 100")
            if scale.name != "answer":
                parsed[scale.name].append(float(rating))
    return table.assign(**parsed)


def _no_answer(path: Path, row: dict[str, Any], column: str, expected: str) -> DataError:
    return DataError(
        f"The rater '{shortened(row['rater'])}' has '{shortened(row[column])}' as {column} of "
        f"question {row['question']} in '{path}'.",
        f"Expected {expected}.",
        "Correct the cell, or leave the rater out.",
    )
