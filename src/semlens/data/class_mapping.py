"""Mapping from the class names of the data to the model's logits: by name, never by order."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semlens.documents import parse_json
from semlens.errors import DataError, shortened
from semlens.regular_files import read_text

UNLABELLED = "(no label)"
"""The class name of a sample whose label is missing."""


class UnmappedWarning(UserWarning):
    """Some classes of the data have no logit of the model."""


@dataclass(frozen=True)
class TargetMap:
    """The logit of each sample's class, or None if it is unknown.

    Parameters
    ----------
    logits
        One entry per sample.
    names
        Class name of each sample, or None if the data has no classes.
    notice
        Warning for the user if some classes of the data have no logit, else empty.
    """

    logits: tuple[int | None, ...]
    names: tuple[str | None, ...] | None = None
    notice: str = ""


def map_targets(
    targets: Sequence[str] | None,
    count: int,
    classes: Sequence[str] | None,
    synsets: Sequence[str] | None,
    mapping: Mapping[str, int] | None = None,
) -> TargetMap:
    """Find the logit of every sample.

    Parameters
    ----------
    targets
        Class name of each sample, or None if the data has no classes.
    count
        Number of samples.
    classes, synsets
        The model's class names and WordNet ids in logit order, if known.
    mapping
        Class name of the data -> logit; takes precedence over the names of the model.
    """
    if targets is None:
        return TargetMap((None,) * count)
    if len(targets) != count:
        raise DataError(
            f"There are {len(targets)} targets for {count} images.",
            "Expected one per image, in the same order.",
            "Pass one class name per image.",
        )
    logits = _unique_indices(classes or ()) | _unique_indices(synsets or ())
    logits |= _agreeing((mapping or {}).items(), "classes")
    unmapped = sorted({n for n in targets if _normalize(n) not in logits and n != UNLABELLED})
    notice = ""
    if unmapped:
        shown = ", ".join(unmapped[:5]) + (" ..." if len(unmapped) > 5 else "")
        notice = (
            f"{len(unmapped)} of {len(set(targets))} classes of the data have no logit ({shown}). "
            "They are left out of questions about classes. To map them, pass 'classes': a file "
            "with a line 'name,logit' per class."
        )
    return TargetMap(tuple(logits.get(_normalize(n)) for n in targets), tuple(targets), notice)


def name_targets(labels: Iterable[Any], names: Sequence[Any] | None, spec: str) -> list[str] | None:
    """Turn the labels of a dataset (indices into ``names``, or texts) into class names.

    A missing label (None or -1) becomes :data:`UNLABELLED`; None if all are missing.

    Raises
    ------
    DataError
        If an index has no name.
    """
    class_names: list[str] = []
    for label in labels:
        if label is None or (isinstance(label, int) and label < 0):
            class_names.append(UNLABELLED)
        elif names is None or isinstance(label, str):
            class_names.append(str(label))
        elif label < len(names):
            name = names[label]  # torchvision's ImageNet has a tuple of synonyms
            class_names.append(str(name[0]) if isinstance(name, tuple | list) else str(name))
        else:
            raise DataError(
                f"'{spec}' has the class index {label}.",
                f"Expected 0 to {len(names) - 1}, for {len(names)} class names.",
                "Pass a name for every class.",
            )
    return None if all(name == UNLABELLED for name in class_names) else class_names


def _unique_indices(names: Sequence[str]) -> dict[str, int]:
    """Map names to indices; ambiguous names (ImageNet's "crane") are left out."""
    normalized = [_normalize(name) for name in names]
    counts = Counter(normalized)
    return {name: index for index, name in enumerate(normalized) if counts[name] == 1}


def _normalize(name: str) -> str:
    """Return a name as it is compared: macOS decomposes what others write as one character."""
    composed = unicodedata.normalize("NFC", name).casefold()
    return " ".join(composed.replace("_", " ").replace("-", " ").split())


def _agreeing(pairs: Iterable[tuple[str, int]], source: object) -> dict[str, int]:
    """Return the logit of each normalized name; a name with two logits is refused."""
    logits: dict[str, int] = {}
    for name, logit in pairs:
        known = logits.setdefault(_normalize(name), logit)
        if known != logit:
            raise DataError(
                f"'{source}' maps '{name}' to the logits {known} and {logit}.",
                "Expected one logit for each class; case, '-' and '_' make no difference.",
                "Remove one of them.",
            )
    return logits


def read_classes(path: Path) -> dict[str, int]:
    """Read a mapping from class name to logit.

    JSON: an object ``{"name": logit}``, or a list of names in logit order, where an empty name
    stands for a logit without a class. CSV: lines ``name,logit``, with or without a header. Text:
    a name per line, in logit order. A name that occurs twice in a list is left out, because its
    logit is ambiguous.

    Raises
    ------
    DataError
        If the file has none of these formats; if a line may or may not count as a logit (it is
        empty, or a comment); or if a class has two logits.
    """
    try:
        text = read_text(path)
        if path.suffix == ".json":
            loaded = parse_json(text, objects=_Pairs)
            if not isinstance(loaded, _Pairs):
                names = _unique_indices([str(name) for name in loaded])
                return {name: logit for name, logit in names.items() if name}
            pairs = [(str(name), _logit(logit)) for name, logit in loaded]
            return _as_mapping(pairs, path)
        lines = [line for line in csv.reader(text.splitlines()) if line]
        has_pairs = bool(lines) and all(len(line) == 2 for line in lines)
        has_header = has_pairs and path.suffix == ".csv" and not _is_number(lines[0][1])
        if has_pairs and (path.suffix == ".csv" or all(_is_number(line[1]) for line in lines)):
            pairs = [(line[0].strip(), _logit(line[1])) for line in lines[has_header:]]
            return _as_mapping(pairs, path)
        return _unique_indices(_names_by_line(text, path))
    except (OSError, ValueError, AttributeError, TypeError, csv.Error) as error:
        raise DataError(
            f"Cannot read classes from '{path}' ({error}).",
            "Expected JSON, CSV lines 'name,logit', or a name per line in logit order.",
            "Fix the file.",
        ) from error


class _Pairs(list[tuple[str, Any]]):
    """The entries of a JSON object, of which a dict would drop repeated names."""


def _as_mapping(pairs: Sequence[tuple[str, int]], path: Path) -> dict[str, int]:
    """Return names with logits; a class with two logits is refused."""
    if not pairs:
        raise ValueError("it maps no class")
    _agreeing(pairs, path)
    return dict(pairs)


def _names_by_line(text: str, path: Path) -> list[str]:
    """Return a name per line, where no line leaves open which logit it stands for."""
    lines = [line.strip() for line in text.rstrip().splitlines()]
    for number, line in enumerate(lines, start=1):
        pair = line.rpartition(";")
        found = (
            "is empty" if not line
            else "looks like a comment" if line.startswith(("#", "//"))
            else "separates by ';'" if pair[0] and _is_number(pair[2])
            else ""
        )  # fmt: skip
        if found:
            raise DataError(
                f"Line {number} of '{path}' {found}{f': {shortened(line, 60)}' if line else ''}.",
                "Expected a name per line in logit order, so that line n is logit n - 1.",
                "Remove the line if it is no logit, give the logit any name if it is one, or "
                "write lines 'name,logit'.",
            )
    return lines


def _is_number(text: str) -> bool:
    return text.strip().lstrip("-").isdecimal()


def _logit(value: Any) -> int:
    if int(value) != float(value) or int(value) < 0:
        raise ValueError(f"{value} is not a valid logit")
    return int(value)


def read_targets(path: Path, ids: Sequence[str]) -> list[str]:
    """Read the class name of every sample from CSV lines ``path,target``.

    An empty target is a missing label, :data:`UNLABELLED`.

    Raises
    ------
    DataError
        If a sample has no line or two that differ, or the file cannot be read.
    """
    rows: dict[str, str] = {}
    try:
        lines = csv.reader(io.StringIO(read_text(path), newline=""))
        for number, line in enumerate(lines, start=1):
            if len(line) < 2:
                continue
            target = line[1].strip() or UNLABELLED
            known = rows.setdefault(unicodedata.normalize("NFC", line[0]), target)
            if known != target:
                raise DataError(
                    f"Line {number} of '{path}' says that '{line[0]}' is '{target}', an earlier "
                    f"one '{known}'.",
                    "Expected one class per image.",
                    "Remove one of the lines.",
                )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"Cannot read '{path}' ({error}).", "Expected CSV lines 'path,target'.", "Fix the file."
        ) from error
    composed = [unicodedata.normalize("NFC", name) for name in ids]
    missing = [name for name, key in zip(ids, composed, strict=True) if key not in rows]
    if missing:
        raise DataError(
            f"'{path}' has no line for {len(missing)} images (first: {missing[0]}).",
            "Expected a line 'path,target' per image, with paths relative to the data folder.",
            "Add the missing lines.",
        )
    return [rows[key] for key in composed]
