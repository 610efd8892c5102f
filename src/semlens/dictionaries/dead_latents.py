"""Latents that no vector activates, and their resampling (Bricken et al. 2023)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from semlens.dictionaries.sparse_autoencoder import SparseAutoencoder

ROWS = 4096
"""Vectors that are coded at once: their codes take much more memory than they do."""
SHRINKAGE = 0.2
"""Length of a resampled row of a vanilla encoder, as a share of the mean of the others."""


@torch.no_grad()
def resample(
    autoencoder: SparseAutoencoder,
    dead: Bool[Tensor, " k"],
    x: Float[Tensor, "n c"],
    optimizer: torch.optim.Adam,
    generator: torch.Generator,
) -> None:
    """Point dead latents at vectors that are badly reconstructed (Bricken et al. 2023).

    Each gets the direction of a vector of ``x``, drawn in proportion to its squared loss; its
    bias becomes zero, and Adam forgets it. Rows of the encoder get a fifth of the mean length of
    the others, as in the paper; with TopK the mean length, since a smaller product would not be
    among the largest.
    """
    parts = [(y - autoencoder.decode(autoencoder.encode(y))).square().sum(-1)
             for y in x.split(ROWS)]  # fmt: skip
    weight = torch.cat(parts).cpu().double().square()  # not every device has float64
    indices = dead.nonzero()[:, 0]
    count = min(len(indices), int((weight > 0).sum()))
    if not count:
        return
    indices = indices[:count]
    drawn = torch.multinomial(weight, count, generator=generator).to(x.device)
    directions = functional.normalize(x[drawn] - autoencoder.centre, dim=1)
    lengths = autoencoder.encoder[~dead].norm(dim=1)
    length = lengths.mean() if len(lengths) else torch.ones((), device=x.device)
    share = 1.0 if autoencoder.active is not None else SHRINKAGE
    autoencoder.decoder[indices] = directions
    autoencoder.encoder[indices] = directions * (share * length)
    autoencoder.bias[indices] = 0
    for parameter in (autoencoder.decoder, autoencoder.encoder, autoencoder.bias):
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[parameter][moment][indices] = 0
