"""Atomic writing of files: a temporary file, flushed to disk, then renamed.

Sealed files hold the digest of their own content, since no manifest lists them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from semlens.errors import StoreError, reason_of
from semlens.regular_files import read_bytes

_DISK_FULL_REASONS = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up"}
_DISK_FULL_REASONS[errno.EFBIG] = "the file-size limit is reached"


def write_atomic(path: Path, write: Callable[[Path], object], writer: str = "") -> None:
    """Call ``write(temporary)`` and rename its file to ``path``.

    The file is made in a folder of its own. There safetensors makes another one, of a random name:
    whatever a killed process leaves there, the next one that writes ``path`` removes.

    Parameters
    ----------
    writer
        Part of the name of that folder: unique, if several processes write to ``path``.

    Raises
    ------
    StoreError
        If there is no space or no permission; an existing file is left unchanged.
    """
    folder = path.with_name(f".{path.name}{writer and '.'}{writer}.part")
    temporary = folder / "new.part"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        temporary.touch()
        # permissions by the user's umask, which safetensors restricts
        mode = temporary.stat().st_mode
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        store_error = _write_error(path, error)
        if store_error is not None:
            raise store_error from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the parent may be a file


def _write_error(path: Path, error: BaseException) -> StoreError | None:
    """Return the error for a path that cannot be written, or None for other exceptions."""
    text = str(error)  # safetensors and pyarrow convert the system's error to text
    for code, reason in _DISK_FULL_REASONS.items():
        if getattr(error, "errno", None) == code or f"os error {code}" in text:
            return StoreError(
                f"'{path}' cannot be written: {reason}.",
                "Expected enough free space.",
                "Free some space and run the same command again: it resumes.",
            )
    if isinstance(error, OSError):
        return StoreError(
            f"'{path}' cannot be written ({error.strerror or error}).",
            "Expected a writable path.",
            "Check the path and its permissions, or choose another one.",
        )
    return None


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str] | None = None
) -> None:
    """Write tensors as safetensors, atomically, with texts in the header."""
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, lambda part: save_file(plain, part, dict(header) if header else None))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, memory-mapped.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    try:
        return load_file(path)
    except Exception as error:
        raise damaged(path, error) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file in memory of their own; errors as for a mapping.

    Nothing that happens to the file later changes them.
    """
    try:
        return load(read_bytes(path))
    except Exception as error:
        raise damaged(path, error) from error


def save_table(
    path: Path,
    table: pa.Table,
    *,
    rows_per_group: int | None = None,
    compressed_column: str | None = None,
) -> None:
    """Write a Parquet file, atomically.

    Parameters
    ----------
    rows_per_group
        Rows per row group, the smallest unit of reading; by default one group for all.
    compressed_column
        A column whose values are already compressed.
    """
    # dictionary encoding is useless for values that are all different
    options: dict[str, Any] = {"compression": "ZSTD"}
    if compressed_column is not None:
        compression = {n: "NONE" if n == compressed_column else "ZSTD" for n in table.column_names}
        options = {
            "compression": compression,
            "use_dictionary": [n for n in compression if n != compressed_column],
        }
    write_atomic(
        path, lambda part: pq.write_table(table, part, row_group_size=rows_per_group, **options)
    )


def save_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_atomic(path, lambda part: part.write_text(text, "utf-8"))


def save_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write a data frame as CSV, atomically."""
    write_atomic(path, lambda part: frame.to_csv(part, index=False))


def load_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or some columns of it.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    try:
        read: Any = pq.read_table
        return read(path, columns=columns, partitioning=None)
    except Exception as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> StoreError:
    """Return the error for a file that cannot be read back."""
    return StoreError(
        f"'{path}' cannot be read ({reason_of(error, whole=True)}).",
        "Expected a file that semlens wrote.",
        "Restore it, or remove the database and build it again.",
    )


def file_version(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is replaced or written; None if it is not there."""
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


_KEY, _NAME = b"sha256", b"name"
_PLACE = b"SHA-256 of this file with this text in place of the digest".ljust(64, b".")
"""What the metadata of a table holds, in as many bytes, while its file is hashed."""


def save_sealed_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file with its own name and digest in the metadata, atomically."""
    metadata = {**(table.schema.metadata or {}), _NAME: path.name.encode(), _KEY: _PLACE}
    stream = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), stream, compression="ZSTD")
    data = bytearray(stream.getvalue())
    at = data.rindex(_PLACE)  # the metadata are at the end of the file
    data[at : at + len(_PLACE)] = hashlib.sha256(data).hexdigest().encode()
    write_atomic(path, lambda part: part.write_bytes(data))


def load_sealed_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a table, or some columns of it, after its file was compared with its digest.

    Raises
    ------
    StoreError
        If it cannot be read, has changed since it was written, or was written by another name.
    """
    try:
        data = bytearray(read_bytes(path))
        metadata = pq.read_metadata(pa.BufferReader(data)).metadata
        digest = metadata[_KEY]
        at = data.rindex(digest)
        data[at : at + len(digest)] = _PLACE
        if hashlib.sha256(data).hexdigest().encode() != digest:
            raise ValueError("its SHA-256 differs")
        if metadata[_NAME] != path.name.encode():
            raise ValueError("it is the copy of another file")
        return pq.read_table(pa.BufferReader(data), columns=columns)
    except Exception as error:  # the reader raises many types of errors for damaged bytes
        raise StoreError(
            f"'{path}' cannot be read ({error!r}).",
            "Expected a result that semlens saved and nothing has changed since.",
            "Remove the file: what it holds is computed when it is needed.",
        ) from error


_DIGEST = "sha256"


def save_sealed(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically; the header has a digest of them and of the name.

    Several processes may write the same file at the same time.
    """
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_DIGEST: _content_digest(path.name, plain)}
    write_atomic(path, lambda part: save_file(plain, part, metadata), writer=uuid4().hex)


def load_sealed(path: Path) -> dict[str, Tensor] | None:
    """Read what :func:`save_sealed` wrote; None if it is missing, damaged or a copy of another."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get(_DIGEST)
    except Exception:  # the reader raises many types of errors for damaged bytes
        return None
    return tensors if digest == _content_digest(path.name, tensors) else None


def _content_digest(file: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the name of a file, and of names, types, shapes and values."""
    digest = hashlib.sha256(json.dumps(file).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
