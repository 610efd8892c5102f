"""From the class names of the data to the model's logits: by name, never by order."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from semlens.errors import DataError


@dataclass(frozen=True)
class TargetMap:
    """Each sample's logit, or None where it is not known.

    Parameters
    ----------
    logits
        One entry per sample.
    notice
        What to tell the user when some class of the data has no logit; empty when all have.
    """

    logits: tuple[int | None, ...]
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
    known: dict[str, int] = {}
    for names in (classes, synsets):
        folded = [_fold(name) for name in names or ()]
        known |= {n: i for i, n in enumerate(folded) if folded.count(n) == 1 or n not in known}
        for name in {n for n in folded if folded.count(n) > 1}:
            known.pop(name)  # two logits of one name (ImageNet's two cranes): not by guess
    known |= {_fold(name): logit for name, logit in (mapping or {}).items()}
    unmapped = sorted({name for name in targets if _fold(name) not in known})
    notice = ""
    if unmapped:
        shown = ", ".join(unmapped[:5]) + (" ..." if len(unmapped) > 5 else "")
        notice = (
            f"{len(unmapped)} of {len(set(targets))} classes of the data have no logit ({shown}). "
            "Commands about classes leave them out. Map them with --classes FILE "
            "(a line 'name,logit' each)."
        )
    return TargetMap(tuple(known.get(_fold(name)) for name in targets), notice)


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").replace("-", " ").casefold().split())


def read_classes(path: Path) -> dict[str, int]:
    """Read a map from class name to logit.

    JSON: an object ``{"name": logit}``, or a list of names in logit order. CSV: lines
    ``name,logit``. Text: a name per line, in logit order.

    Raises
    ------
    DataError
        If the file has another form.
    """
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            loaded = json.loads(text)
            if isinstance(loaded, list):
                return {str(name): i for i, name in enumerate(loaded)}
            return {str(name): int(logit) for name, logit in loaded.items()}
        lines = [line for line in csv.reader(text.splitlines()) if line]
        if all(len(line) == 2 and line[1].strip().lstrip("-").isdecimal() for line in lines):
            return {line[0].strip(): int(line[1]) for line in lines}
        return {line.strip(): i for i, line in enumerate(text.splitlines()) if line.strip()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"'{path}' cannot be read as classes ({error}).",
            "Expected JSON, CSV lines 'name,logit', or a name per line in logit order.",
            "Correct the file.",
        ) from error


def read_targets(path: Path, ids: Sequence[str]) -> list[str]:
    """Read the class name of every sample from CSV lines ``path,target``.

    Raises
    ------
    DataError
        If a sample has no line, or the file cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = {line[0]: line[1].strip() for line in csv.reader(file) if len(line) >= 2}
    except (OSError, UnicodeDecodeError) as error:
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
