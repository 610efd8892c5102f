"""A sparse autoencoder while it is trained, and its losses."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from semlens.dictionaries.dictionary import Dictionary, DictionaryInfo


class SparseAutoencoder(nn.Module):
    """Codes ``z = f((x - c) E' + b)``, and the reconstruction ``z D + c``.

    ``f`` keeps what is above zero, and of that the ``active`` largest, if this number is given
    (TopK, Gao et al. 2024, eq. 1); otherwise all (vanilla, Bricken et al. 2023). Rows of ``D``
    have unit length; ``E`` starts as ``D``, ``b`` as zero.

    Parameters
    ----------
    directions
        Initial rows of ``D``, of any length.
    centre
        Initial ``c``: the mean of the data.
    active
        Codes that are not zero at most.
    """

    def __init__(
        self,
        directions: Float[Tensor, "k c"],
        centre: Float[Tensor, " c"],
        active: int | None = None,
    ) -> None:
        super().__init__()
        self.active = active
        self.decoder = nn.Parameter(functional.normalize(directions, dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.bias = nn.Parameter(directions.new_zeros(len(directions)))
        self.centre = nn.Parameter(centre.clone())

    def encode(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        """Return the codes."""
        codes = functional.linear(x - self.centre, self.encoder, self.bias).relu()
        if self.active is None:
            return codes
        kept = codes.topk(self.active, dim=-1)
        return torch.zeros_like(codes).scatter(-1, kept.indices, kept.values)

    def decode(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """Return the reconstruction."""
        return codes @ self.decoder + self.centre

    def loss(
        self, x: Float[Tensor, "n c"], codes: Float[Tensor, "n k"], sparsity: float
    ) -> Float[Tensor, ""]:
        """Return the mean of ``|x - (z D + c)|^2``, without ``active`` plus ``sparsity * sum z``.

        The weight of an L1 penalty means something only if ``x`` has a known scale:
        :func:`~semlens.dictionaries.train_sae.train_sae` gives it unit variance.
        """
        error = (x - self.decode(codes)).square().sum(-1).mean()
        return error if self.active is not None else error + sparsity * codes.sum(-1).mean()

    @torch.no_grad()
    def keep_unit_length(self) -> None:
        """Bring the directions back to unit length, after a step."""
        self.decoder.copy_(functional.normalize(self.decoder, dim=1))

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Remove what would only change the length of directions, as Bricken et al. do."""
        assert self.decoder.grad is not None  # noqa: S101  # the caller's condition
        along = (self.decoder.grad * self.decoder).sum(1, keepdim=True)
        self.decoder.grad -= along * self.decoder

    @torch.no_grad()
    def dictionary(self, info: DictionaryInfo, scale: float) -> Dictionary:
        """Return the dictionary for vectors ``scale * x``, whose codes are ``scale`` times these.

        ``c`` becomes part of the encoder's bias, and of the error: what no direction adds.
        """
        bias = scale * (self.bias - self.encoder @ self.centre)
        return Dictionary(info, self.encoder, self.decoder, bias)
