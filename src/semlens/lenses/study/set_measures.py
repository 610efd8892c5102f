"""What the measures say about the sets of images of a question."""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn import functional

from semlens.lenses import scores


def set_vectors(vectors: Float32[Tensor, "s m d"]) -> Float32[Tensor, "s d"]:
    """Return the unit vector of each set: the mean of its images (paper, Eq. 2), normalised."""
    return functional.normalize(vectors.mean(1), dim=1)


def odd_set(vectors: Float32[Tensor, "3 m d"]) -> int:
    """Return the set that is not in the most similar pair (paper, G.1.1)."""
    units = set_vectors(vectors)
    # the pair without set i is similarity[i]
    similarity = torch.stack([units[1] @ units[2], units[0] @ units[2], units[0] @ units[1]])
    return int(similarity.argmax())


def odd_similarity(vectors: Float32[Tensor, "3 m d"], odd: int) -> float:
    """Mean cosine of the odd set with the other two (paper, G.1.1, Eq. 1)."""
    cosines = set_vectors(vectors) @ set_vectors(vectors)[odd]
    return float((cosines.sum() - cosines[odd]) / 2)


def set_clarity(vectors: Float32[Tensor, "m d"]) -> float:
    """Clarity of one set (paper, Eq. 7)."""
    return float(scores.clarity(vectors[None], torch.ones(1, len(vectors), dtype=torch.bool)))


def set_polysemanticity(vectors: Float32[Tensor, "m d"]) -> float:
    """Polysemanticity of one set (paper, Eq. 10)."""
    used = torch.ones(1, len(vectors), dtype=torch.bool)
    return float(scores.polysemanticity(vectors[None], used))
