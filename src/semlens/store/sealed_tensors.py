"""Tensors in a file with a digest of their content: what cannot be trusted is computed again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from semlens.store.atomic_files import write_atomic

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
