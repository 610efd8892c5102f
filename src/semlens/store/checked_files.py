"""The files of a build, verified against the manifest before they are used."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from torch import Tensor

from semlens.data.image_folder import PARALLEL_READS
from semlens.data.prefetch import prefetch
from semlens.errors import StoreError
from semlens.regular_files import file_digest, open_file
from semlens.store import file_names, schema
from semlens.store.atomic_files import damaged, file_version, load_table, load_tensors, read_tensors
from semlens.store.manifest import Manifest
from semlens.store.remote_database import RemoteDatabase

MAX_READ = 2**28
"""Bytes of tensor files that are read into memory; what is beyond is memory-mapped."""
ExpectedTable = tuple[pa.Schema, int | None]
"""Columns, and the number of rows if the manifest defines it."""
ExpectedTensors = dict[str, tuple[str, list[int]]]
"""Type (as safetensors names it) and shape of each tensor, by name."""
ExpectedNames = frozenset[str]
"""Tensors that must be there, with any shape and any values, even NaN."""
Expected = ExpectedTable | ExpectedTensors | ExpectedNames


class BuildFiles:
    """Reads the files of a database; thread-safe.

    On opening, the header of every file is checked: columns and number of rows of tables, names,
    types and shapes of tensors. On first use, a file is hashed, and its tensors must be finite.

    Parameters
    ----------
    check
        Whether to check the headers; not for a database that is known to be damaged.
    remote
        Where missing files are copied from. Then headers are checked on first use.

    Raises
    ------
    StoreError
        If a file is missing, or differs from the one in the manifest.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        check: bool = True,
        remote: RemoteDatabase | None = None,
    ) -> None:
        self.folder, self.manifest, self._remote = folder, manifest, remote
        self._expected = expected_files(manifest)
        self._lock = threading.RLock()
        self._verified_paths: dict[str, tuple[Path, tuple[int, ...] | None]] = {}
        self._tensors: dict[str, Mapping[str, Tensor]] = {}
        self._mapped: set[str] = set()
        self._read_bytes = 0
        for name in self._expected if check else ():
            if name not in manifest.files:
                raise _content_error(folder / name, "the manifest does not list it")
            if remote is None:
                self._check_header(name, find_file(folder, manifest, name))

    def _check_header(self, name: str, path: Path) -> None:
        if problem := header_problem(path, self._expected[name]):
            raise _content_error(path, problem)

    def verified_path(self, name: str) -> Path:
        """Return the path of a file after verifying its SHA-256; again only if it was replaced."""
        with self._lock:
            path, version = self._verified_paths.get(name, (None, None))
            if path is None or file_version(path) != version:
                digest = self.manifest.files[name]
                path = find_file(self.folder, self.manifest, name)
                if self._remote is not None:
                    if not _unchanged(path, digest):
                        self._remote.copy(name, digest)
                    self._check_header(name, path)
                version = file_version(path)
                if not _unchanged(path, digest):
                    raise _content_error(path, "its SHA-256 differs")
                self._verified_paths[name] = path, version
            return path

    def copy_ahead(self, names: Iterable[str]) -> None:
        """Copy files of a database elsewhere that will be used: at once, not in turn."""
        if (remote := self._remote) is None:
            return
        missing = [name for name in names if not (self.folder / name).is_file()]
        copies = prefetch(lambda n: remote.copy(n, self.manifest.files[n]), missing, PARALLEL_READS)
        deque(copies, maxlen=0)

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return a table, or some columns of it."""
        return load_table(self.verified_path(name), columns)

    def tensors(self, name: str) -> Mapping[str, Tensor]:
        """Return the tensors of a file.

        Files are read up to :data:`MAX_READ`. Others are memory-mapped, so that only used parts
        take memory: whoever shortens such a file in place ends the process, with ``SIGBUS``.
        """
        with self._lock:
            if name not in self._tensors:
                path = self.verified_path(name)
                tensors = self._load(name, path)
                self.verified_path(name)  # it may have been written meanwhile
                is_state = isinstance(self._expected[name], frozenset)
                if problem := "" if is_state else not_finite(tensors):
                    raise _content_error(path, problem)
                self._tensors[name] = tensors
            elif name in self._mapped:
                self.verified_path(name)
            return self._tensors[name]

    def _load(self, name: str, path: Path) -> Mapping[str, Tensor]:
        size = path.stat().st_size
        if self._read_bytes + size > MAX_READ:
            self._mapped.add(name)
            return load_tensors(path)
        self._read_bytes += size
        return read_tensors(path)


_STATE = frozenset(("key", "position", "not_finite", "reference/sample", "reference/readout"))
_DICTIONARY = frozenset(("encoder", "decoder", "bias", "threshold"))


def expected_files(manifest: Manifest) -> Mapping[str, Expected]:
    """Return the content that each file of a build must have according to the manifest."""
    dim = manifest.dim
    expected: dict[str, Expected] = {
        file_names.COMPONENTS: (schema.COMPONENTS, manifest.rows),
        file_names.SAMPLES: (schema.SAMPLES, manifest.samples),
    }
    for layer in manifest.layers:
        expected[file_names.examples_file(layer.name)] = (schema.EXAMPLES, None)
        expected[file_names.theta_file(layer.name)] = {"theta": ("F16", [layer.rows, dim])}
        expected[file_names.relevance_file(layer.name)] = (schema.RELEVANCE, None)
        if layer.dictionary is not None:
            expected[file_names.dictionary_file(layer.name)] = _DICTIONARY
        if (reference := layer.reference) is not None:
            expected[file_names.reference_file(layer.name)] = {
                "readout": ("F16", [reference.columns, reference.samples]),
                "scale": ("F32", [reference.columns]),
            }
    if manifest.reference:
        expected[file_names.REFERENCE] = {
            "sample": ("I64", [manifest.reference]),
            "vector": ("F16", [manifest.reference, dim]),
        }
    for file_index, crops in enumerate(manifest.crops):
        expected[file_names.crops_file(file_index)] = {
            "vector": ("F16", [crops, dim]),
            "sample": ("I64", [crops]),
            "box": ("I32", [crops, 4]),
        }
        if manifest.recipe.thumbnails:
            expected[file_names.thumbnails_file(file_index)] = (schema.THUMBNAILS, crops)
    expected[file_names.RELEVANCE_CLASSES] = (schema.RELEVANCE_CLASSES, None)
    if manifest.extendable is not None and manifest.extendable.whole(manifest.samples):
        for layer in manifest.layers:
            expected[file_names.state_file(layer.name)] = _STATE
    expected[file_names.RELEVANCE_STATE] = frozenset()
    # only computed on request, and invalid once classes change
    optional = (file_names.RELEVANCE, file_names.RELEVANCE_STATE)
    return {
        name: content
        for name, content in expected.items()
        if name in manifest.files or not name.startswith(optional)
    }


def find_file(folder: Path, manifest: Manifest, name: str) -> Path:
    """Return the path of a file; an interrupted writer may have left it in the staging folder."""
    staged = folder / file_names.STAGED / name
    is_current = staged.is_file() and _unchanged(staged, manifest.files[name])
    return staged if is_current else folder / name


def _unchanged(path: Path, digest: str) -> bool:
    try:
        return file_digest(path) == digest
    except OSError:
        return False


def header_problem(path: Path, expected: Expected) -> str:
    """Return how the header of a file differs from what the manifest describes, or nothing.

    Raises
    ------
    StoreError
        If it cannot be read.
    """
    try:
        open_file(path).close()  # the readers would wait for ever for what comes out of a pipe
        if isinstance(expected, tuple):
            return _table_problem(path, *expected)
        if isinstance(expected, frozenset):
            return _names_problem(path, expected)
        return _tensors_problem(path, expected)
    except Exception as error:  # readers raise many kinds for a damaged file
        raise damaged(path, error) from error


def _table_problem(path: Path, schema: pa.Schema, rows: int | None) -> str:
    metadata = pq.read_metadata(path)
    columns = metadata.schema.to_arrow_schema()
    if not columns.equals(schema):
        return f"its columns are {', '.join(f'{f.name} {f.type}' for f in columns)}"
    return (
        "" if rows in (None, metadata.num_rows) else f"it has {metadata.num_rows} rows, not {rows}"
    )


def _tensors_problem(path: Path, expected: ExpectedTensors) -> str:
    with safe_open(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        actual = {
            name: (tensor_slice.get_dtype(), tensor_slice.get_shape())
            for name, tensor_slice in slices.items()
        }
    return "" if actual == expected else f"it holds {_describe(actual)}, not {_describe(expected)}"


def _names_problem(path: Path, expected: ExpectedNames) -> str:
    with safe_open(path, "numpy") as file:
        missing = expected.difference(file.keys())
    return f"it lacks {', '.join(sorted(missing))}" if missing else ""


def _describe(tensors: ExpectedTensors) -> str:
    return ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in sorted(tensors.items()))


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return which tensor has NaN or infinite values, or nothing."""
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not _finite(tensor):
            return f"'{key}' is not finite everywhere"
    return ""


def _finite(tensor: Tensor) -> bool:
    # NaN and infinity propagate to the extremes, and no temporary of the tensor's size is needed
    return not tensor.numel() or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def _content_error(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"'{path}' is not the file that the build wrote: {reason}.",
        "Expected the content that the manifest describes.",
        "Restore it, or remove the database and build it again. If a build has just finished, "
        "open the database again.",
    )
