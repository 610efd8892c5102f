"""Labels that other programs gave: descriptions of CLIP-Dissect, explanations of Neuronpedia."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.documents import csv_rows, parse_json
from semlens.draw.example_sheet import sheet
from semlens.draw.text_table import titled_table
from semlens.errors import ConceptError, LayerError, nearest, shortened
from semlens.lenses.result import IMAGE_SUFFIXES, TABLE_SUFFIXES, Result
from semlens.regular_files import read_text, user_path
from semlens.store.reader import Database
from semlens.types import Component

CLIP_DISSECT, NEURONPEDIA = "CLIP-Dissect", "Neuronpedia"
SUFFIXES = (".csv", ".json", ".jsonl")
_COLUMNS: dict[str, tuple[str, ...]] = {
    CLIP_DISSECT: ("layer", "unit", "description", "similarity"),
    NEURONPEDIA: ("layer", "index", "description"),
}
"""What each program calls layer, index, label and, if it has one, score."""
SHOWN = 20
"""Components shown in a terminal and in the picture."""


@dataclass(frozen=True)
class _Entry:
    """One row of a file."""

    place: str
    """Where it is in the file, for messages."""
    layer: str
    index: int
    label: str | None
    score: float


@dataclass(frozen=True, eq=False, repr=False)
class ImportedLabels(Result):
    """Labels from a file, one row per component that the file names."""

    suffixes = (*IMAGE_SUFFIXES, *TABLE_SUFFIXES)

    frame: pd.DataFrame
    """As of :class:`semlens.lenses.labelling.labels.Labels`. What the other program does not say
    is NaN; ``method`` names the program and the file."""
    database: Database

    @property
    def method(self) -> str:
        """The program and the file, such as ``imported: CLIP-Dissect, descriptions.csv``."""
        return str(self.frame["method"].iat[0])

    @property
    def labelled(self) -> int:
        """Number of components with a label."""
        return int(np.count_nonzero(self.frame["label"].notna()))

    def save_to_database(self, name: str = "imported") -> Path:
        """Save the table in the database, as ``analysis/labels-NAME.parquet``.

        It is then used wherever saved labels are.
        """
        return self.database.save_analysis(f"labels-{name}", self.frame)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        frame: Any = self.frame
        columns = ["component", "layer", "index", "sign", "label", "score"]
        return {
            "method": self.method,
            "labelled": self.labelled,
            "labels": frame[columns].to_dict("records"),
        }

    def plot(self) -> Image.Image:
        """Draw the examples of the first components, one row each, with their labels."""
        frame = self.frame.head(SHOWN)
        captions = [label or "none" for label in frame["label"]]
        rows = self.database.rows_of(frame["component"].tolist())
        return sheet(self.database, rows, captions=captions)

    def __rich__(self) -> RenderableType:
        """Return the table of the first components."""
        frame: Any = self.frame
        known = bool(frame["score"].notna().any())
        columns = ["component", "label", *(["score"] if known else [])]
        title = f"{self.labelled} of {self.database.manifest.rows} labelled, {self.method}"
        lines = titled_table(title, frame.head(SHOWN).fillna({"label": "none"}), columns)
        more = len(self.frame) - SHOWN
        return Group(*lines, *([Text(f"{more} more in to_pandas()")] if more > 0 else []))


def read_labels(
    database: Database, file: str | Path, *, layer: str | None = None
) -> ImportedLabels:
    """Read labels that another program gave to the components of the model.

    Two forms are read. ``descriptions.csv`` of CLIP-Dissect has the columns layer, unit,
    description and similarity. Explanations of Neuronpedia, which SAELens links to, are a list of
    objects (``.json``), or one object a line (``.jsonl``), with layer, index and description. Other
    columns are ignored, and a description that is empty is no label. An index stands for the
    component with the positive sign.

    Parameters
    ----------
    layer
        The layer of the database that the file is about, if the file calls it otherwise.

    Raises
    ------
    ConceptError
        If the file cannot be read, is of another form, labels a component twice, or has layers of
        several names that are all to be ``layer``.
    LayerError
        If the database lacks a layer or a component of the file.
    """
    path = user_path(file)
    kind, records = _records(path)
    entries = [_entry(kind, place, record) for place, record in records]
    if not entries:
        raise ConceptError(
            f"'{path.name}' has no labels.", "Expected at least one.", "Choose another file."
        )
    if layer is not None:
        entries = _as_layer(path, entries, database.layer(layer).name)
    rows: dict[int, _Entry] = {}
    for entry in entries:
        row = _row(database, entry)
        if row in rows:
            raise ConceptError(
                f"{entry.place} labels {database.component(row)} again, after {rows[row].place}.",
                "Expected one label per component.",
                "Keep one of them, such as those of one program that explains.",
            )
        rows[row] = entry
    chosen = [rows[row] for row in sorted(rows)]
    return ImportedLabels(
        _frame(database, sorted(rows), chosen, f"imported: {kind}, {path.name}"), database
    )


def _records(path: Path) -> tuple[str, Sequence[tuple[str, object]]]:
    """Return the program and its records, each with its place in the file."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConceptError(
            f"'{path.name}' is not a file of labels.",
            f"Expected {', '.join(SUFFIXES)}: descriptions of CLIP-Dissect, or explanations of "
            "Neuronpedia.",
            "Choose another file, or convert it.",
        )
    try:
        text = read_text(path)
        if suffix == ".csv":
            return CLIP_DISSECT, _of_csv(text)
        if suffix == ".jsonl":
            lines = enumerate(text.split("\n"), start=1)
            records = [(f"Line {n}", parse_json(line)) for n, line in lines if line.strip()]
        else:
            parsed = parse_json(text)
            items = parsed if isinstance(parsed, list) else [parsed]
            records = [(f"Entry {n}", item) for n, item in enumerate(items, start=1)]
    except (OSError, ValueError, csv.Error) as error:  # not UTF-8, not JSON, ...
        raise ConceptError(
            f"'{path}' cannot be read: {' '.join(str(error).split())}.",
            f"Expected a file of labels in UTF-8, as {suffix}.",
            "Check the path and the file.",
        ) from error
    return NEURONPEDIA, records


def _of_csv(text: str) -> list[tuple[str, object]]:
    reader = csv_rows(text)
    if not set(_COLUMNS[CLIP_DISSECT]) <= set(reader.fieldnames or ()):
        return [("The first line", dict.fromkeys(reader.fieldnames or ()))]
    return [(f"Line {reader.line_num}", record) for record in reader]


def _entry(kind: str, place: str, record: object) -> _Entry:
    """Check one record."""
    columns = _COLUMNS[kind]
    if not isinstance(record, dict) or not set(columns) <= set(record):
        has = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
        raise ConceptError(
            f"{place} has: {shortened(has or 'nothing')}.",
            f"Expected {', '.join(columns)}, as in files of {kind}.",
            "Rename the columns, or choose another file.",
        )
    layer, index, label = (record[name] for name in columns[:3])
    if re.fullmatch("[0-9]{1,9}", str(index)) is None:
        raise _no_value(place, columns[1], index)
    if label is not None and not isinstance(label, str):
        raise _no_value(place, columns[2], label)
    score = _score(place, columns[3], record[columns[3]]) if columns[3:] else math.nan
    return _Entry(place, str(layer), int(index), " ".join((label or "").split()) or None, score)


def _score(place: str, column: str, value: Any) -> float:
    """Return a finite number that may be written as text."""
    try:
        score = float(str(value))
    except ValueError:
        raise _no_value(place, column, value) from None
    if not math.isfinite(score):
        raise _no_value(place, column, value)
    return score


def _no_value(place: str, column: str, value: Any) -> ConceptError:
    expected = {"description": "a text", "similarity": "a finite number"}
    return ConceptError(
        f"{place}: {column} is '{shortened(value)}'.",
        f"Expected {expected.get(column, 'a whole number from 0')}.",
        "Correct the file, or leave out the line.",
    )


def _as_layer(path: Path, entries: list[_Entry], layer: str) -> list[_Entry]:
    names = list(dict.fromkeys(entry.layer for entry in entries))
    if len(names) > 1:
        raise ConceptError(
            f"'{path.name}' has labels of {len(names)} layers: {', '.join(names[:5])}.",
            f"Expected one, since all are to be of '{layer}'.",
            "Divide the file, or leave out the layer if these are names of the model.",
        )
    return [replace(entry, layer=layer) for entry in entries]


def _row(database: Database, entry: _Entry) -> int:
    """Return the row of a component; errors name the place in the file."""
    if entry.layer not in database.layers:
        raise LayerError(
            f"{entry.place} is about layer '{shortened(entry.layer)}', which is not in the "
            "database.",
            f"It has {nearest(entry.layer, database.layers, at_most=8)}.",
            "Name the layer that the file is about, or build a database with this layer.",
        )
    channels = database.layer(entry.layer).channels
    if entry.index >= channels:
        raise LayerError(
            f"{entry.place} labels component {entry.index} of '{entry.layer}'.",
            f"Expected 0 to {channels - 1}, the components of this layer.",
            "Check that the file is about this model and layer.",
        )
    return database.row(Component(entry.layer, entry.index))


def _frame(database: Database, rows: list[int], entries: list[_Entry], method: str) -> pd.DataFrame:
    """Return the table that :meth:`Labels.to_pandas` returns for labels of semlens."""
    frame = database.components.iloc[rows][["layer", "index", "sign"]].reset_index(drop=True)
    frame.insert(0, "component", database.names(np.array(rows, np.int64)))
    labels = [entry.label for entry in entries]
    scored = [[e.score] if e.label and not math.isnan(e.score) else [] for e in entries]
    return frame.assign(
        label=pd.Series(labels, dtype=object),
        category=pd.Series([label and "" for label in labels], dtype=object),
        score=[entry.score for entry in entries],
        **dict.fromkeys(["threshold", "margin", "confidence", "stability", "shown"], np.nan),
        # a candidate is shown with its score, so a label without one is none
        candidates=[[e.label] if s else [] for e, s in zip(entries, scored, strict=True)],
        scores=scored,
        method=method,
    )
