"""Results by part, each with the commit at which it was measured.

A part that was measured at the same commit with the same settings is not measured again: a run of
hours can be stopped, and goes on where it was.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHANGED = " with changes"


def measured_commit(code: Sequence[str]) -> str:
    """Return the last commit that changed some code, marked if that has changed since.

    Parameters
    ----------
    code
        Patterns of paths from the root of the repository.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments, "--", *code]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
        return ended.stdout.strip()

    commit = git("log", "-1", "--format=%h") or "unknown"
    return commit + CHANGED if git("status", "--porcelain") else commit


def measurement(started: float, code: Sequence[str]) -> dict[str, Any]:
    """Return date, commit and duration of what began at a reading of ``time.monotonic``."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": measured_commit(code),
        "seconds": round(time.monotonic() - started),
    }


@dataclass(frozen=True)
class PartResult:
    """What one part of a benchmark measured."""

    part: str
    date: str
    commit: str
    seconds: float
    settings: Mapping[str, Any]
    complete: bool
    """Whether it came to its end."""
    values: Mapping[str, Any]


class PartResults:
    """Results of the parts of a benchmark, each in a file.

    Parameters
    ----------
    folder
        Holds the files.
    settings
        Plain values that decide, besides the code, what is measured.
    code
        What is measured: patterns of paths from the root of the repository.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], code: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._settings = folder, dict(settings)
        self._commit = measured_commit(code)

    def has(self, part: str) -> bool:
        """Whether a part was measured to its end at this commit, with these settings."""
        if self._commit.endswith(CHANGED) or not self._file(part).is_file():
            return False
        found = self._read(part)
        same = (found.commit, found.settings) == (self._commit, self._settings)
        return found.complete and same

    def save(
        self, part: str, seconds: float, values: Mapping[str, Any], *, complete: bool = True
    ) -> None:
        """Save what a part has measured, replacing earlier results of this part."""
        result = PartResult(
            part, time.strftime("%Y-%m-%d"), self._commit, seconds, self._settings, complete, values
        )
        self._file(part).write_text(json.dumps(vars(result)), "utf-8")

    def of(self, parts: Sequence[str]) -> list[PartResult]:
        """Return the saved results of some parts, in their order."""
        return [self._read(part) for part in parts if self._file(part).is_file()]

    def _file(self, part: str) -> Path:
        return self._folder / f"{part}.json"

    def _read(self, part: str) -> PartResult:
        return PartResult(**json.loads(self._file(part).read_text("utf-8")))


def together(results: Sequence[PartResult]) -> dict[str, Any]:
    """Return date, commit and duration of several parts; parts by commit if there are several."""
    commits: dict[str, list[str]] = {}
    for one in results:
        commits.setdefault(one.commit, []).append(one.part)
    several = [f"{commit} ({', '.join(parts)})" for commit, parts in commits.items()]
    return {
        "date": max(one.date for one in results),
        "commit": ", ".join(several if len(commits) > 1 else commits),
        "seconds": round(sum(one.seconds for one in results)),
        "incomplete": [one.part for one in results if not one.complete],
    }
