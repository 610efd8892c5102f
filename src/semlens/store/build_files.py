"""The files of a build, each compared with the manifest before anything is answered from it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from torch import Tensor

from semlens.errors import StoreError
from semlens.store import file_names, schema
from semlens.store.atomic_files import damaged, file_digest, load_table, load_tensors
from semlens.store.manifest import Manifest

Table = tuple[pa.Schema, int | None]
"""Columns, and the number of rows where the manifest knows it."""
Tensors = dict[str, tuple[str, list[int]]]
"""By name, a tensor's type, as safetensors writes it, and its shape."""


class BuildFiles:
    """Reads the files of a database; safe in threads.

    At opening, the head of every file is read: columns and number of rows of tables, names,
    types and shapes of tensors. When a file is first needed, all of it is hashed, and its
    tensors must be finite.

    Raises
    ------
    StoreError
        If a file is missing, or is not the one that the manifest names.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self._lock = threading.RLock()
        self._places: dict[str, Path] = {}
        self._tensors: dict[str, Mapping[str, Tensor]] = {}
        for name, what in expected_files(manifest).items():
            if name not in manifest.files:
                raise _other_content(folder / name, "the manifest does not list it")
            place = find_file(folder, manifest, name)
            try:
                wrong = (
                    _table_fault(place, *what)
                    if isinstance(what, tuple)
                    else _tensors_fault(place, what)
                )
            except Exception as error:  # whatever the readers raise for a damaged file
                raise damaged(place, error) from error
            if wrong:
                raise _other_content(place, wrong)

    def place(self, name: str) -> Path:
        """Return where a file lies, once its content was found to be the manifest's."""
        with self._lock:
            if name not in self._places:
                place = find_file(self.folder, self.manifest, name)
                if not _unchanged(place, self.manifest.files[name]):
                    raise _other_content(place, "its SHA-256 differs")
                self._places[name] = place
            return self._places[name]

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """Return a table, or some columns of it."""
        return load_table(self.place(name), columns)

    def tensors(self, name: str) -> Mapping[str, Tensor]:
        """Return the tensors of a file: mapped, so that only what is used takes memory."""
        with self._lock:
            if name not in self._tensors:
                place = self.place(name)
                for key, tensor in load_tensors(place).items():  # a mapping that ends with this
                    if tensor.is_floating_point() and not _finite(tensor):
                        raise _other_content(place, f"'{key}' is not finite everywhere")
                self._tensors[name] = load_tensors(place)
            return self._tensors[name]


def expected_files(manifest: Manifest) -> Mapping[str, Table | Tensors]:
    """Return what each file of a build must hold, by the manifest."""
    dim = manifest.dim
    found: dict[str, Table | Tensors] = {
        file_names.COMPONENTS: (schema.COMPONENTS, manifest.rows),
        file_names.SAMPLES: (schema.SAMPLES, manifest.samples),
    }
    for layer in manifest.layers:
        found[file_names.examples_file(layer.name)] = (schema.EXAMPLES, None)
        found[file_names.theta_file(layer.name)] = {"theta": ("F16", [layer.rows, dim])}
        found[file_names.relevance_file(layer.name)] = (schema.RELEVANCE, None)
    for number, crops in enumerate(manifest.crops):
        found[file_names.crops_file(number)] = {
            "vector": ("F16", [crops, dim]),
            "sample": ("I64", [crops]),
            "box": ("I32", [crops, 4]),
        }
        if manifest.recipe.thumbnails:
            found[file_names.thumbnails_file(number)] = (schema.THUMBNAILS, crops)
    found[file_names.RELEVANCE_CLASSES] = (schema.RELEVANCE_CLASSES, None)
    optional = file_names.RELEVANCE  # computed only if asked for, and void once classes change
    return {
        name: what
        for name, what in found.items()
        if name in manifest.files or not name.startswith(optional)
    }


def find_file(folder: Path, manifest: Manifest, name: str) -> Path:
    """Return a file's place; a writer that was stopped may not have moved it there yet."""
    staged = folder / file_names.STAGED / name
    waiting = staged.is_file() and _unchanged(staged, manifest.files[name])
    return staged if waiting else folder / name


def damaged_files(folder: Path, manifest: Manifest) -> list[str]:
    """Hash every file of a build and return those that are missing or changed."""
    return [
        name
        for name, digest in manifest.files.items()
        if not _unchanged(find_file(folder, manifest, name), digest)
    ]


def _unchanged(place: Path, digest: str) -> bool:
    try:
        return file_digest(place) == digest
    except OSError:
        return False


def _table_fault(place: Path, schema: pa.Schema, rows: int | None) -> str:
    head = pq.read_metadata(place)
    found = head.schema.to_arrow_schema()
    if not found.equals(schema):
        return f"its columns are {', '.join(f'{f.name} {f.type}' for f in found)}"
    return "" if rows in (None, head.num_rows) else f"it has {head.num_rows} rows, not {rows}"


def _tensors_fault(place: Path, expected: Tensors) -> str:
    with safe_open(place, "numpy") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
    return "" if found == expected else f"it holds {_described(found)}, not {_described(expected)}"


def _described(tensors: Tensors) -> str:
    return ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in sorted(tensors.items()))


def _finite(tensor: Tensor) -> bool:
    # NaN and infinity reach the extremes, and nothing as large as the tensor is made
    return not tensor.numel() or bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def _other_content(place: Path, reason: str) -> StoreError:
    return StoreError(
        f"'{place}' is not the file that the build wrote: {reason}.",
        "Expected the content that the manifest describes.",
        "Restore it, or remove the database and build it again; if a build has just ended, open "
        "the database again.",
    )
