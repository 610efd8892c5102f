"""Derived tables that hold the digest of their own file, since no manifest lists them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from semlens.errors import StoreError
from semlens.regular_files import read_bytes
from semlens.store.atomic_files import write_atomic

_KEY = b"sha256"
_PLACE = b"SHA-256 of this file with this text in place of the digest".ljust(64, b".")
"""What the metadata of a table holds, in as many bytes, while its file is hashed."""


def save_sealed_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file with its own digest in the metadata, atomically."""
    metadata = {**(table.schema.metadata or {}), _KEY: _PLACE}
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
        If it cannot be read, or has changed since it was written.
    """
    try:
        data = bytearray(read_bytes(path))
        digest = pq.read_metadata(pa.BufferReader(data)).metadata[_KEY]
        at = data.rindex(digest)
        data[at : at + len(digest)] = _PLACE
        if hashlib.sha256(data).hexdigest().encode() != digest:
            raise ValueError("its SHA-256 differs")
        return pq.read_table(pa.BufferReader(data), columns=columns)
    except Exception as error:  # the reader raises many types of errors for damaged bytes
        raise StoreError(
            f"'{path}' cannot be read ({error!r}).",
            "Expected a result that semlens saved and nothing has changed since.",
            "Remove the file: what it holds is computed when it is needed.",
        ) from error


_DIGEST = "sha256"


def save_sealed(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically, with their digest in the header.

    Several processes may write the same file at the same time.
    """
    plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_DIGEST: _content_digest(plain)}
    write_atomic(path, lambda part: save_file(plain, part, metadata), writer=uuid4().hex)


def load_sealed(path: Path) -> dict[str, Tensor] | None:
    """Read what :func:`save_sealed` wrote; None if it is missing or damaged."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get(_DIGEST)
    except Exception:  # the reader raises many types of errors for damaged bytes
        return None
    return tensors if digest == _content_digest(tensors) else None


def _content_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
