"""Fitting directions to activation vectors, as CRAFT and its relatives do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from semlens.dictionaries.dictionary import Code, Dictionary, DictionaryInfo
from semlens.dictionaries.operators import nonnegative_least_squares
from semlens.errors import LayerError

MAX_ROUNDS = 100
TOLERANCE = 1e-5
"""The fit ends once a round removes less than this share of the energy."""


def semi_nmf(x: Float[Tensor, "n c"], directions: int, seed: int) -> Float[Tensor, "k c"]:
    """Return directions D of unit length that minimise ``|x - Z D|^2`` for codes ``Z >= 0``.

    Codes and directions are solved in turn, each exactly, from the centroids of k-means (Ding et
    al. 2010, 3.3, whose multiplicative update of the codes needs more rounds).
    """
    solver = KMeans(directions, n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType]
    centroids = solver.fit(x.numpy()).cluster_centers_
    fitted = _unit(torch.from_numpy(centroids.astype(np.float32)))
    codes = nonnegative_least_squares(x, fitted)
    energy, previous = float(x.square().sum()), float("inf")
    for _ in range(MAX_ROUNDS):
        # a direction that no vector uses keeps its place
        used = codes.amax(0) > 0
        solved = torch.linalg.lstsq(codes[:, used].double(), x.double()).solution.float()
        fitted = fitted.clone()
        fitted[used] = solved
        fitted = _unit(fitted)
        codes = nonnegative_least_squares(x, fitted)
        left = float((x - codes @ fitted).square().sum())
        if previous - left < TOLERANCE * energy:
            break
        previous = left
    return fitted


def _unit(directions: Tensor) -> Tensor:
    return directions / directions.norm(dim=1, keepdim=True).clamp_min(1e-12)


MAX_ITERATIONS = 400
"""Of NMF's coordinate descent."""


@dataclass(frozen=True)
class _Fitted:
    """Directions of unit length [k c], and what codes them."""

    code: Code
    directions: Tensor
    bias: Tensor | None = None
    threshold: Tensor | None = None


def fit_directions(
    kind: str, x: Float[Tensor, "n c"], directions: int, info: DictionaryInfo, seed: int = 0
) -> Dictionary:
    """Fit directions to activation vectors.

    Parameters
    ----------
    kind
        ``nmf`` (Lee & Seung 1999; CRAFT, Fel et al. 2023), ``semi-nmf`` (Ding et al. 2010), ``pca``
        or ``kmeans``.
    x
        The vectors, in float32 on the CPU.
    info
        Layer, order of axes and data; kind, code, seed and share explained are filled in.

    Raises
    ------
    LayerError
        If there are fewer vectors or channels than directions, or NMF is asked for activations
        below zero.
    """
    most = len(x) if kind in ("kmeans", "semi-nmf") else min(x.shape)
    if directions > most:
        raise LayerError(
            f"{kind}:{directions} of layer '{info.layer}' has more directions than "
            f"{'vectors' if most == len(x) else 'channels'} ({most}).",
            f"Expected at most {most}: there are {len(x)} vectors of {x.shape[1]} channels.",
            "Use fewer directions, or more images.",
        )
    lowest = float(x.min())
    if kind == "nmf" and lowest < 0:
        raise LayerError(
            f"The activations of layer '{info.layer}' go down to {lowest:.4g}.",
            "NMF expects activations that are never negative, such as those after a ReLU.",
            "Use semi-nmf, or the layer after the activation function.",
        )
    fitted = FITS[kind](x, directions, seed)
    dictionary = Dictionary(
        replace(info, kind=kind, code=fitted.code, seed=seed, vectors=len(x)),
        fitted.directions, fitted.directions, fitted.bias, fitted.threshold,
    )  # fmt: skip
    dictionary.info = replace(dictionary.info, explained=explained(dictionary, x))
    return dictionary


@torch.no_grad()
def explained(dictionary: Dictionary, x: Float[Tensor, "n c"]) -> float:
    """Return the share of the vectors' variance that the directions explain; at most 1.

    For PCA, variance is that around the mean; for kinds without an offset, around zero.
    """
    codes = dictionary.encode(x)[:, : dictionary.directions].double()
    decoded, x = codes @ dictionary.decoder.double(), x.double()
    if dictionary.info.code == "linear":
        x = x - x.mean(0)
        decoded = decoded - decoded.mean(0)
    return 1 - float((x - decoded).square().sum() / x.square().sum().clamp_min(1e-30))


def _nmf(x: Tensor, directions: int, seed: int) -> _Fitted:
    solver = NMF(
        directions,  # pyright: ignore[reportArgumentType]
        init="nndsvda",
        random_state=seed,
        max_iter=MAX_ITERATIONS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the share explained is reported
        solver.fit(x.numpy())
    return _Fitted("nonnegative", _unit_rows(solver.components_))


def _semi_nmf(x: Tensor, directions: int, seed: int) -> _Fitted:
    return _Fitted("nonnegative", semi_nmf(x, directions, seed))


def _pca(x: Tensor, directions: int, seed: int) -> _Fitted:
    solver = PCA(directions, svd_solver="full").fit(x.double().numpy())
    axes = torch.from_numpy(solver.components_)
    return _Fitted("linear", axes.float(), bias=-(axes @ torch.from_numpy(solver.mean_)).float())


def _kmeans(x: Tensor, directions: int, seed: int) -> _Fitted:
    solver = KMeans(directions, n_init=4, random_state=seed)  # pyright: ignore[reportArgumentType]
    centroids = solver.fit(x.numpy()).cluster_centers_
    lengths = torch.from_numpy(np.linalg.norm(centroids, axis=1).astype(np.float32))
    return _Fitted("nearest", _unit_rows(centroids), threshold=lengths.square() / 2)


def _unit_rows(rows: np.ndarray) -> Tensor:
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return torch.from_numpy((rows / lengths).astype(np.float32))


FITS: Mapping[str, Callable[[Tensor, int, int], _Fitted]] = {
    "nmf": _nmf,
    "semi-nmf": _semi_nmf,
    "pca": _pca,
    "kmeans": _kmeans,
}
"""How each kind of direction is fitted to vectors, in so many directions and with a seed."""
