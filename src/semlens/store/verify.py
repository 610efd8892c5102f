"""Checking a database on disk: every file against its hash, and what the manifest says of it.

Besides the shapes of its files, every database keeps an order, ranges and references.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from semlens.errors import StoreError
from semlens.progress import progress_bars, report_progress
from semlens.recipe import fingerprint
from semlens.regular_files import file_digest, user_path
from semlens.remote_files import remote_url
from semlens.store import file_names
from semlens.store.atomic_files import load_sealed_table, load_tensors
from semlens.store.checked_files import (
    BuildFiles,
    Expected,
    expected_files,
    find_file,
    header_problem,
    not_finite,
)
from semlens.store.json_documents import JsonDocuments
from semlens.store.manifest import MANIFEST_NAME, LayerEntry, Manifest
from semlens.store.remote_database import RemoteDatabase

UNIT_TOLERANCE = 5e-3
"""Largest deviation of a unit vector's length; half precision stays ten times below."""
Broken = tuple[str, str]
"""Name of a file, and what does not hold in it."""


@dataclass
class Invariants:
    """The checks of the files of a database that are as the build wrote them.

    Parameters
    ----------
    intact
        Names of these files; the others are left out.
    """

    files: BuildFiles
    manifest: Manifest
    intact: frozenset[str]
    _samples: pd.DataFrame | None = field(default=None, init=False)
    _boxes: list[np.ndarray] = field(default_factory=list[np.ndarray], init=False)

    def check(self) -> Iterator[Broken]:
        """Yield everything that does not hold."""
        if file_names.SAMPLES in self.intact:
            self._samples = self._table(file_names.SAMPLES)
            yield from _told(file_names.SAMPLES, self._check_samples(self._samples))
        for number, _ in enumerate(self.manifest.crops):
            if (name := file_names.crops_file(number)) in self.intact:
                yield from _told(name, self._check_crops(self.files.tensors(name)))
        if file_names.COMPONENTS in self.intact:
            components = self._table(file_names.COMPONENTS)
            yield from _told(file_names.COMPONENTS, self._check_components(components))
            for layer in self.manifest.layers:
                yield from self._check_layer(layer, components)
        if file_names.REFERENCE in self.intact:
            tensors = self.files.tensors(file_names.REFERENCE)
            yield from _told(file_names.REFERENCE, self._check_reference(tensors))
        yield from self._check_relevance()

    def _table(self, name: str) -> pd.DataFrame:
        return self.files.table(name).to_pandas()

    def _check_samples(self, frame: pd.DataFrame) -> Iterator[str | None]:
        manifest = self.manifest
        yield _unless(
            bool((frame["sample"] == np.arange(len(frame))).all()), "the samples are not in order"
        )
        yield _unless(bool(frame["path"].is_unique), "a path occurs twice")
        skipped = int(frame["error"].notna().to_numpy().sum())
        yield _unless(
            skipped == manifest.unreadable,
            f"{skipped} samples are skipped; the manifest says {manifest.unreadable}",
        )
        logits, classes = frame["logit"].dropna(), manifest.classes
        upper = np.iinfo(np.int32).max if classes is None else len(classes)
        yield _unless(_within(logits, 0, upper), f"a logit is not from 0 to {upper - 1}")
        yield _unless(
            fingerprint(frame["path"].tolist(), frame["sha256"].tolist())
            == manifest.data.fingerprint,
            "paths and hashes do not give the fingerprint of the data",
        )

    def _check_crops(self, tensors: Any) -> Iterator[str | None]:
        boxes = tensors["box"].numpy()
        self._boxes.append(boxes)
        yield _unless(_unit(tensors["vector"]), "a vector does not have unit length")
        yield _unless(self._readable(tensors["sample"]), "an image is not there")
        yield _unless(_valid(boxes), "a box is empty or negative")

    def _check_components(self, frame: pd.DataFrame) -> Iterator[str | None]:
        for layer in self.manifest.layers:
            part = frame.iloc[layer.first : layer.first + layer.rows]
            signs = layer.rows // layer.channels
            expected = layer.rows == signs * layer.channels and bool(
                (part["layer"] == layer.name).all()
                and (part["index"] == np.tile(np.arange(layer.channels), signs)).all()
                and (part["sign"] == np.repeat([1, -1][:signs], layer.channels)).all()
            )
            yield _unless(expected, f"its rows are not the components of '{layer.name}'")
        most = min(self.manifest.recipe.examples, self.manifest.samples)
        yield _unless(_within(frame["examples"], 0, most + 1), f"not 0 to {most} examples")
        yield _unless(_within(frame["samples"], 0, self.manifest.samples + 1), "too many samples")
        yield _unless(bool(frame["firing_rate"].dropna().between(0, 1).all()), "a rate beyond 1")

    def _check_layer(self, layer: LayerEntry, components: pd.DataFrame) -> Iterator[Broken]:
        used = components["examples"].iloc[layer.first : layer.first + layer.rows].to_numpy()
        if (name := file_names.examples_file(layer.name)) in self.intact:
            yield from _told(name, self._check_examples(self._table(name), layer, used))
        if (name := file_names.theta_file(layer.name)) in self.intact:
            given = self.files.tensors(name)["theta"].any(1).numpy()
            text = "a component has examples but no vector, or the reverse"
            yield from _told(name, iter([_unless(bool((given == (used > 0)).all()), text)]))
        if (name := file_names.reference_file(layer.name)) in self.intact:
            scale = self.files.tensors(name)["scale"]
            powers = bool((scale > 0).all() and (torch.frexp(scale)[0] == 0.5).all())
            yield from _told(name, iter([_unless(powers, "a scale is no power of two")]))

    def _check_examples(
        self, frame: pd.DataFrame, layer: LayerEntry, used: np.ndarray
    ) -> Iterator[str | None]:
        component, rank = frame["component"].to_numpy(), frame["rank"].to_numpy()
        yield _unless(
            _within(component, layer.first, layer.first + layer.rows)
            and bool((np.diff(component) >= 0).all()),
            "the components are not those of the layer, in order",
        )
        yield _unless(
            bool((rank == frame.groupby("component").cumcount()).all()), "the ranks have gaps"
        )
        yield _unless(self._readable(frame["sample"]), "an image is not there")
        cropped = frame[frame["crop"].notna()]
        counts = np.bincount(cropped["component"] - layer.first, minlength=layer.rows)
        yield _unless(
            np.array_equal(counts, used), "the number of examples is not that of components.parquet"
        )
        crops = np.asarray(cropped["crop"], np.int64)
        boxes = np.stack(cropped["box"].tolist()) if len(cropped) else np.zeros((0, 4), np.int32)
        known = np.concatenate(self._boxes) if self._boxes else np.zeros((0, 4), np.int32)
        if len(known) == sum(self.manifest.crops):  # no crops file is damaged
            yield _unless(
                _within(crops, 0, len(known)) and np.array_equal(known[crops], boxes),
                "an example refers to another crop",
            )

    def _check_reference(self, tensors: Any) -> Iterator[str | None]:
        samples = tensors["sample"].numpy()
        yield _unless(len(np.unique(samples)) == len(samples), "an image occurs twice")
        yield _unless(self._readable(samples), "an image is not there")
        yield _unless(_unit(tensors["vector"]), "a vector does not have unit length")

    def _check_relevance(self) -> Iterator[Broken]:
        if file_names.RELEVANCE_CLASSES not in self.intact:
            return
        counts = self._table(file_names.RELEVANCE_CLASSES)
        text = "a class occurs twice, or has no samples"
        good = bool(counts["class"].is_unique and (counts["samples"] > 0).all())
        yield from _told(file_names.RELEVANCE_CLASSES, iter([_unless(good, text)]))
        for layer in self.manifest.layers:
            if (name := file_names.relevance_file(layer.name)) in self.intact:
                yield from _told(name, _check_shares(self._table(name), layer, counts))

    def _readable(self, samples: Any) -> bool:
        """Return whether all of these images exist and were read."""
        numbers = np.asarray(samples, np.int64)
        if not _within(numbers, 0, self.manifest.samples):
            return False
        return self._samples is None or not bool(self._samples["error"].notna()[numbers].any())


def _check_shares(
    frame: pd.DataFrame, layer: LayerEntry, counts: pd.DataFrame
) -> Iterator[str | None]:
    yield _unless(
        _within(frame["component"], layer.first, layer.first + layer.rows),
        "a component is not of the layer",
    )
    yield _unless(
        bool(frame["class"].isin(counts["class"]).all()), "a class is not in relevance.parquet"
    )
    yield _unless(not frame.duplicated(["component", "class"]).any(), "a pair occurs twice")
    share = frame[["mean", "max"]].abs().to_numpy()
    yield _unless(bool((share <= 1 + 1e-5).all()), "a share is above 1")


def _told(name: str, problems: Iterator[str | None]) -> Iterator[Broken]:
    return ((name, problem) for problem in problems if problem is not None)


def _unless(holds: bool, problem: str) -> str | None:
    return None if holds else problem


def _within(values: Any, lower: int, upper: int) -> bool:
    """Return whether all values are from ``lower`` to below ``upper``."""
    array = np.asarray(values)
    return bool(((array >= lower) & (array < upper)).all())


def _unit(vectors: Tensor) -> bool:
    return bool(((vectors.float().norm(dim=1) - 1).abs() <= UNIT_TOLERANCE).all())


def _valid(boxes: np.ndarray) -> bool:
    left, top, right, bottom = boxes.T
    return bool(((left >= 0) & (top >= 0) & (left < right) & (top < bottom)).all())


RESTORE = "Restore it from a copy, or remove the database and build it again."
DELETE = "Delete it: it is computed again when it is needed."
UNIQUE = "Restore it from a copy, or delete it: it cannot be computed again."


@dataclass(frozen=True)
class Problem:
    """A file that is not as it should be."""

    file: str
    """Its path in the database."""
    problem: str
    remedy: str


@dataclass(frozen=True)
class Verification:
    """The result of :func:`verify`."""

    database: str
    files: int
    """Files that were checked."""
    size: int
    """Their bytes."""
    problems: tuple[Problem, ...]

    @property
    def sound(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {**asdict(self), "sound": self.sound}


def verify(database: str | Path) -> Verification:
    """Check every file of a database; nothing is changed, and nothing but its files is needed.

    A file of the build must have the hash, the columns or tensors, and the content that the
    manifest describes; a cached result and a saved audit must be readable.

    Parameters
    ----------
    database
        Folder of the database, which may be damaged, or its URL: then all its files are copied.

    Raises
    ------
    StoreError
        If the folder is not a finished database, or has another format.

    Examples
    --------
    >>> import semlens as sl
    >>> sl.verify("r18.semlens").problems                              # doctest: +SKIP
    ()
    """
    url = remote_url(database)
    remote = RemoteDatabase.open(url) if url is not None else None
    folder = remote.folder if remote else user_path(database)
    manifest = Manifest.load(folder)
    with progress_bars():
        if remote is not None:
            _copy_all(remote, manifest)
        problems = [*_build_problems(folder, manifest), *_analysis_problems(folder)]
    paths = [folder / name for name in (MANIFEST_NAME, *manifest.files)]
    paths += [find_file(folder, manifest, name) for name in manifest.files]
    present = {path for path in (*paths, *_analysis_files(folder)) if path.is_file()}
    return Verification(
        url or str(folder.resolve()),
        len(present),
        sum(path.stat().st_size for path in present),
        tuple(problems),
    )


def _copy_all(remote: RemoteDatabase, manifest: Manifest) -> None:
    """Copy every file of a database elsewhere; what cannot be copied is then missing here."""
    files = BuildFiles(remote.folder, manifest, check=False, remote=remote)
    for done, name in enumerate(manifest.files, start=1):
        with suppress(StoreError, KeyError):  # its problem is listed
            files.verified_path(name)
        report_progress("copy", done, len(manifest.files))
    for name in remote.analysis_files:
        with suppress(StoreError):
            remote.copy_analysis(name)


def _build_problems(folder: Path, manifest: Manifest) -> Iterator[Problem]:
    """Yield the problems of the build's files: first their hashes, then their content."""
    expected = expected_files(manifest)
    for name in sorted(expected.keys() - manifest.files.keys()):
        yield Problem(MANIFEST_NAME, f"it does not list '{name}'", RESTORE)
    intact: set[str] = set()
    for done, (name, digest) in enumerate(manifest.files.items(), start=1):
        path = find_file(folder, manifest, name)
        if problem := _file_problem(path, digest, expected.get(name)):
            yield Problem(name, problem, RESTORE)
        else:
            intact.add(name)
        report_progress("verify", done, len(manifest.files))
    files = BuildFiles(folder, manifest, check=False)
    for name, problem in Invariants(files, manifest, frozenset(intact)).check():
        yield Problem(name, problem, RESTORE)


def _file_problem(path: Path, digest: str, expected: Expected | None) -> str | None:
    try:
        if file_digest(path) != digest:
            return "its SHA-256 differs from that of the manifest"
        if expected is None:
            return "the build has no such file"
        problem = header_problem(path, expected)
        if problem or not isinstance(expected, dict):
            return problem
        return not_finite(load_tensors(path))
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except StoreError as error:
        return f"it cannot be read ({error.__cause__})"


def _analysis_files(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / file_names.ANALYSIS).rglob("*") if path.is_file())


def _analysis_problems(folder: Path) -> Iterator[Problem]:
    """Yield the cached results and saved audits that cannot be read."""
    for path in sorted((folder / file_names.ANALYSIS).glob("*.parquet")):
        try:
            load_sealed_table(path)
        except StoreError as error:
            name = path.relative_to(folder).as_posix()
            yield Problem(name, f"it cannot be read ({error.__cause__})", DELETE)
    audits = JsonDocuments(folder / file_names.AUDITS, "audit", writable=False)
    for number in audits.numbers():
        name = f"{file_names.AUDITS}/{number}.json"
        try:
            found = audits.read(number)["id"]
        except StoreError as error:
            yield Problem(name, f"it cannot be read ({error.__cause__})", UNIQUE)
            continue
        if found != number:
            yield Problem(name, f"it says that it is audit {found}", UNIQUE)
