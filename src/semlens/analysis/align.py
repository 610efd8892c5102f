"""Similarity and alignment in semantic space (paper, Eqs. 3 and 4)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from semlens.analysis.probe import Probe


def unit(vectors: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Scale rows to length one; a row of zeros stays zero."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(length, np.float32(1e-12))


def cosine(
    theta: Float32[np.ndarray, "n d"], probes: Float32[np.ndarray, "q d"]
) -> Float32[np.ndarray, "n q"]:
    """Cosine similarity of every component with every probe vector (Eq. 3)."""
    # dividing afterwards spares a copy of theta
    length = np.sqrt(np.einsum("nd,nd->n", theta, theta))[:, None]
    return (theta @ unit(probes).T) / np.maximum(length, np.float32(1e-12))


def alignment(theta: Float32[np.ndarray, "n d"], probe: Probe) -> Float32[np.ndarray, "n q"]:
    """Similarity with the probe less similarity with the empty templates (Eq. 4).

    Without a text tower there is no null vector, and alignment is the plain cosine.
    """
    if probe.null is None:
        return cosine(theta, probe.vectors)
    similarity = cosine(theta, np.concatenate([probe.vectors, probe.null[None]]))
    return similarity[:, :-1] - similarity[:, -1:]
