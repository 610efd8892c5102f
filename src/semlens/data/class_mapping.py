"""From the class names of the data to the model's logits: by name, never by order."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semlens.errors import DataError

UNLABELLED = "(no label)"
"""The class name of a sample whose label is missing."""


class UnmappedWarning(UserWarning):
    """Some class of the data has no logit of the model."""


@dataclass(frozen=True)
class TargetMap:
    """Each sample's logit, or None where it is not known.

    Parameters
    ----------
    logits
        One entry per sample.
    names
        Class name of each sample, or None when the data has no classes.
    notice
        What to tell the user when some class of the data has no logit; empty when all have.
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
        Class name of each sample, or None when the data has no classes.
    count
        Number of samples.
    classes, synsets
        The model's class names and WordNet ids in logit order, when known.
    mapping
        Class name of the data -> logit, which goes before the names (``--classes``).
    """
    if targets is None:
        return TargetMap((None,) * count)
    if len(targets) != count:
        raise DataError(
            f"There are {len(targets)} targets for {count} images.",
            "Expected one per image, in the same order.",
            "Give one class name for each.",
        )
    known = _unique(classes or ()) | _unique(synsets or ())
    known |= {_fold(name): logit for name, logit in (mapping or {}).items()}
    unmapped = sorted({name for name in targets if _fold(name) not in known})
    notice = ""
    if unmapped:
        shown = ", ".join(unmapped[:5]) + (" ..." if len(unmapped) > 5 else "")
        notice = (
            f"{len(unmapped)} of {len(set(targets))} classes of the data have no logit ({shown}). "
            "Questions about classes leave them out. Map them with classes=FILE (--classes FILE), "
            "a line 'name,logit' each."
        )
    return TargetMap(tuple(known.get(_fold(name)) for name in targets), tuple(targets), notice)


def name_targets(labels: Iterable[Any], names: Sequence[Any] | None, spec: str) -> list[str] | None:
    """Turn a data set's labels (numbers of ``names``, or texts) into class names.

    A missing label (None or -1) becomes :data:`UNLABELLED`; None when all are missing.

    Raises
    ------
    DataError
        If a number has no name.
    """
    found: list[str] = []
    for label in labels:
        if label is None or (isinstance(label, int) and label < 0):
            found.append(UNLABELLED)
        elif names is None or isinstance(label, str):
            found.append(str(label))
        elif label < len(names):
            name = names[label]  # torchvision's ImageNet has a tuple of synonyms
            found.append(str(name[0]) if isinstance(name, tuple | list) else str(name))
        else:
            raise DataError(
                f"'{spec}' has the class number {label}.",
                f"Expected 0 to {len(names) - 1}, as it names {len(names)} classes.",
                "Give names for all classes.",
            )
    return None if all(name == UNLABELLED for name in found) else found


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Map names to places; one that has two places (ImageNet's cranes) is not guessed."""
    folded = [_fold(name) for name in names]
    often = Counter(folded)
    return {name: place for place, name in enumerate(folded) if often[name] == 1}


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def read_classes(path: Path) -> dict[str, int]:
    """Read a map from class name to logit.

    JSON: an object ``{"name": logit}``, or a list of names in logit order. CSV: lines
    ``name,logit``, with or without a heading. Text: a name per line, in logit order. A name
    that a list holds twice is left out: which logit is meant cannot be known.

    Raises
    ------
    DataError
        If the file has another form.
    """
    try:
        text = path.read_text("utf-8-sig")
        if path.suffix == ".json":
            loaded = json.loads(text)
            if isinstance(loaded, list):
                return _unique([str(name) for name in loaded])
            return {str(name): _logit(logit) for name, logit in loaded.items()}
        lines = [line for line in csv.reader(text.splitlines()) if line]
        pairs = bool(lines) and all(len(line) == 2 for line in lines)
        heading = pairs and path.suffix == ".csv" and not _is_number(lines[0][1])
        if pairs and (path.suffix == ".csv" or all(_is_number(line[1]) for line in lines)):
            return {line[0].strip(): _logit(line[1]) for line in lines[heading:]}
        return _unique([line.strip() for line in text.splitlines() if line.strip()])
    except (OSError, ValueError, AttributeError, TypeError, csv.Error) as error:
        raise DataError(
            f"'{path}' cannot be read as classes ({error}).",
            "Expected JSON, CSV lines 'name,logit', or a name per line in logit order.",
            "Correct the file.",
        ) from error


def _is_number(text: str) -> bool:
    return text.strip().lstrip("-").isdecimal()


def _logit(value: Any) -> int:
    if int(value) != float(value) or int(value) < 0:
        raise ValueError(f"{value} is no logit")
    return int(value)


def read_targets(path: Path, ids: Sequence[str]) -> list[str]:
    """Read the class name of every sample from CSV lines ``path,target``.

    Raises
    ------
    DataError
        If a sample has no line, or the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = {line[0]: line[1].strip() for line in csv.reader(file) if len(line) >= 2}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"'{path}' cannot be read ({error}).", "Expected CSV lines 'path,target'.", "Check it."
        ) from error
    missing = [name for name in ids if name not in rows]
    if missing:
        raise DataError(
            f"'{path}' has no line for {len(missing)} images (first: {missing[0]}).",
            "Expected a line 'path,target' for each, with the path relative to the data folder.",
            "Add them.",
        )
    return [rows[name] for name in ids]
