"""Mapping from the class names of the data to the model's logits: by name, never by order."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semlens.errors import DataError
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
    logits |= {_normalize(name): logit for name, logit in (mapping or {}).items()}
    unmapped = sorted({name for name in targets if _normalize(name) not in logits})
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
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def read_classes(path: Path) -> dict[str, int]:
    """Read a mapping from class name to logit.

    JSON: an object ``{"name": logit}``, or a list of names in logit order. CSV: lines
    ``name,logit``, with or without a header. Text: a name per line, in logit order. A name that
    occurs twice in a list is left out, because its logit is ambiguous.

    Raises
    ------
    DataError
        If the file has none of these formats.
    """
    try:
        text = read_text(path)
        if path.suffix == ".json":
            loaded = json.loads(text)
            if isinstance(loaded, list):
                return _unique_indices([str(name) for name in loaded])
            return {str(name): _logit(logit) for name, logit in loaded.items()}
        lines = [line for line in csv.reader(text.splitlines()) if line]
        has_pairs = bool(lines) and all(len(line) == 2 for line in lines)
        has_header = has_pairs and path.suffix == ".csv" and not _is_number(lines[0][1])
        if has_pairs and (path.suffix == ".csv" or all(_is_number(line[1]) for line in lines)):
            return {line[0].strip(): _logit(line[1]) for line in lines[has_header:]}
        return _unique_indices([line.strip() for line in text.splitlines() if line.strip()])
    except (OSError, ValueError, AttributeError, TypeError, csv.Error) as error:
        raise DataError(
            f"Cannot read classes from '{path}' ({error}).",
            "Expected JSON, CSV lines 'name,logit', or a name per line in logit order.",
            "Fix the file.",
        ) from error


def _is_number(text: str) -> bool:
    return text.strip().lstrip("-").isdecimal()


def _logit(value: Any) -> int:
    if int(value) != float(value) or int(value) < 0:
        raise ValueError(f"{value} is not a valid logit")
    return int(value)


def read_targets(path: Path, ids: Sequence[str]) -> list[str]:
    """Read the class name of every sample from CSV lines ``path,target``.

    Raises
    ------
    DataError
        If a sample has no line, or the file cannot be read.
    """
    try:
        lines = csv.reader(io.StringIO(read_text(path), newline=""))
        rows = {line[0]: line[1].strip() for line in lines if len(line) >= 2}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"Cannot read '{path}' ({error}).", "Expected CSV lines 'path,target'.", "Fix the file."
        ) from error
    missing = [name for name in ids if name not in rows]
    if missing:
        raise DataError(
            f"'{path}' has no line for {len(missing)} images (first: {missing[0]}).",
            "Expected a line 'path,target' per image, with paths relative to the data folder.",
            "Add the missing lines.",
        )
    return [rows[name] for name in ids]
