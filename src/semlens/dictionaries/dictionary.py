"""A dictionary: directions in the activations of a layer, whose codes are read as components."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from semlens.dictionaries.operators import as_constant, nonnegative_least_squares

Code = Literal["linear", "relu", "topk", "jumprelu", "nearest", "nonnegative", "length"]
"""How codes follow from products of activations and directions; see :class:`Dictionary`."""

CODES: tuple[str, ...] = get_args(Code)

SEPARATOR = "@"
"""Between layer and kind in the name of a dictionary's components."""


@dataclass(frozen=True)
class DictionaryInfo:
    """What a dictionary is, and what it was fitted on.

    Parameters
    ----------
    layer
        Layer whose activations it reads.
    kind
        ``nmf``, ``semi-nmf``, ``pca``, ``kmeans``, ``sae``, ``heads`` or ``cav``.
    code
        How codes are computed.
    channels_first
        Whether the layer's channels are the second axis; otherwise they are the last.
    active
        Codes per position that are not zero at most, for ``topk``.
    error
        Whether the error of the reconstruction is a component of its own, the last one.
    input_of
        Module inside the layer whose input it reads; None: it reads the layer's output.
    seed
        Seed of the fit; None if it was made elsewhere.
    model
        Fingerprint of the model on whose activations it was fitted, if known.
    data
        SPEC of the images on which it was fitted, if known.
    vectors
        Number of activation vectors on which it was fitted, if known.
    explained
        Share of their energy that the reconstruction explains, if known.
    mean_active
        Codes per vector that are not zero on average (L0), for sparse autoencoders, if known.
    dead
        Directions whose code was zero on all vectors of a sample, likewise.
    """

    layer: str
    kind: str
    code: Code
    channels_first: bool
    active: int | None = None
    error: bool = False
    input_of: str | None = None
    seed: int | None = None
    model: str | None = None
    data: str | None = None
    vectors: int | None = None
    explained: float | None = None
    mean_active: float | None = None
    dead: int | None = None

    @property
    def name(self) -> str:
        """Name of the layer of its components, ``LAYER@KIND``."""
        return f"{self.layer}{SEPARATOR}{self.kind}"


PROVENANCE = ("seed", "model", "data", "vectors", "explained", "mean_active", "dead")
"""Fields of a description that do not change the codes."""


class Dictionary(nn.Module):
    """Codes ``z`` [... k] of activations ``x`` [... c], and their sum of directions ``z D``.

    With ``p = x E' + b``, the codes are

    - ``linear``: p (PCA, CAV)
    - ``relu``: max(p, 0) (vanilla SAE)
    - ``topk``: max(p, 0) of the ``active`` largest, otherwise 0 (Gao et al. 2024)
    - ``jumprelu``: p above a threshold, otherwise 0 (Rajamanoharan et al. 2024)
    - ``nearest``: max(p, 0) for the nearest centroid, otherwise 0 (k-means); the threshold is half
      of each centroid's squared length, and ``scale`` the centroid's length
    - ``nonnegative``: those of nonnegative least squares (NMF, semi-NMF)
    - ``length``: the length of a group of channels (attention heads); ``E`` and ``D`` hold 1 for
      the channels of the group, otherwise 0, and the direction is that of the group in ``x``

    Each code is ``p`` times a factor that is a constant for relevance and gradients: relevance of
    a code is shared among channels as the products ``x E`` are. The relevance of the error
    ``|x - z D|`` is shared as the energy of the channels.

    Parameters
    ----------
    encoder, decoder
        float32[k c], ``E`` and ``D``.
    bias
        float32[k], ``b``.
    threshold
        float32[k], for ``jumprelu`` and ``nearest``.
    """

    encoder: Tensor
    decoder: Tensor
    bias: Tensor
    threshold: Tensor

    def __init__(
        self,
        info: DictionaryInfo,
        encoder: Float[Tensor, "k c"],
        decoder: Float[Tensor, "k c"],
        bias: Float[Tensor, " k"] | None = None,
        threshold: Float[Tensor, " k"] | None = None,
    ) -> None:
        super().__init__()
        self.info = info
        zeros = torch.zeros(len(encoder))
        values = {
            "encoder": encoder,
            "decoder": decoder,
            "bias": zeros if bias is None else bias,
            "threshold": zeros if threshold is None else threshold,
        }
        for name, value in values.items():  # buffers: not trained with the model
            self.register_buffer(name, value.detach().float().clone().contiguous())

    @property
    def directions(self) -> int:
        """Number of directions."""
        return len(self.decoder)

    @property
    def channels(self) -> int:
        """Number of channels of the layer."""
        return self.decoder.shape[1]

    @property
    def kinds(self) -> list[str]:
        """Kind of each component."""
        return [self.info.kind] * self.directions + ["error"] * self.info.error

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what determines the codes."""
        digest = hashlib.sha256()
        settings = {**asdict(self.info), **dict.fromkeys(PROVENANCE)}
        digest.update(json.dumps(settings, sort_keys=True).encode())
        for value in self.tensors().values():
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors on the CPU, for a file."""
        return {name: value.cpu().contiguous() for name, value in self.named_buffers()}

    def forward(self, activations: Tensor) -> Tensor:
        """Return the codes of a layer's output, in its order of axes."""
        return self.from_last(self.encode(self.to_last(activations)))

    def to_last(self, values: Tensor) -> Tensor:
        """Return values in the layer's order of axes with their channels last, in float32."""
        last = values.movedim(1, -1) if self.info.channels_first else values
        return last if last.dtype == torch.float64 else last.float()

    def from_last(self, values: Tensor) -> Tensor:
        """Undo :meth:`to_last`."""
        return values.movedim(-1, 1) if self.info.channels_first else values

    def encode(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... m"]:
        """Return the codes, and the length of the error if it is a component: m is k or k + 1."""
        read = x * as_constant(x) if self.info.code == "length" else x
        products = functional.linear(read, self.encoder.to(x.dtype), self.bias.to(x.dtype))
        codes = products * as_constant(self._factor(x.detach(), products.detach()))
        if not self.info.error:
            return codes
        error = self._error(x.detach(), codes.detach())
        energy = x.detach().square().sum(-1, keepdim=True)
        length = error.norm(dim=-1, keepdim=True)
        # length = sum of x * (length x / |x|^2): shared among channels by their energy
        shares = as_constant(length * x.detach() / energy.clamp_min(1e-30))
        # where x = 0, a bias may still make codes, and so an error, that no channel has part in
        without_share = as_constant(torch.where(energy > 1e-30, 0.0, length))
        shared = (x * shares).sum(-1, keepdim=True) + without_share
        return torch.cat([codes, shared], -1)

    def decoded(self, values: Tensor, activations: Tensor) -> Tensor:
        """Return :meth:`decode` of values as :meth:`forward` returns them, in the layer's form."""
        decoded = self.decode(self.to_last(values), self.to_last(activations))
        return self.from_last(decoded).to(activations.dtype)

    def decode(
        self, values: Float[Tensor, "... m"], x: Float[Tensor, "... c"]
    ) -> Float[Tensor, "... c"]:
        """Return the sum of directions that belongs to the values that :meth:`encode` gave for x.

        The error, if it is a component, has the direction that it has in ``x``.
        """
        codes = values[..., : self.directions]
        if self.info.code == "length":
            lengths = self.encode(x.detach()).clamp_min(1e-30)
            codes = codes * as_constant(1 / lengths)
            return functional.linear(codes, self.decoder.to(values.dtype).T) * as_constant(x)
        decoded = functional.linear(codes, self.decoder.to(values.dtype).T)
        if not self.info.error:
            return decoded
        error = self._error(x.detach(), self.encode(x.detach())[..., : self.directions].detach())
        length = error.norm(dim=-1, keepdim=True).clamp_min(1e-30)
        added = values[..., self.directions :] * as_constant(error / length)
        # relevance passes unchanged through this sum, also where its two terms cancel
        return torch.stack([decoded, added]).sum(0)

    def _error(self, x: Tensor, codes: Tensor) -> Tensor:
        return x - functional.linear(codes, self.decoder.to(x.dtype).T)

    def _factor(self, x: Tensor, products: Tensor) -> Tensor:
        """Return the factor of each product that makes it a code."""
        threshold = self.threshold.to(x.dtype)
        match self.info.code:
            case "linear":
                return torch.ones_like(products)
            case "relu":
                return (products > 0).to(x.dtype)
            case "jumprelu":
                return ((products > threshold) & (products > 0)).to(x.dtype)
            case "topk":
                active = min(self.info.active or self.directions, self.directions)
                lowest = products.topk(active, dim=-1).values[..., -1:]
                return ((products >= lowest) & (products > 0)).to(x.dtype)
            case "nearest":
                length = (2 * threshold).sqrt()
                nearness = products * length - threshold  # larger if |x - centroid| is smaller
                is_nearest = nearness >= nearness.amax(-1, keepdim=True)
                return (is_nearest & (products > 0)).to(x.dtype)
            case "length":
                return products.clamp_min(1e-30).rsqrt()
            case "nonnegative":
                flat = x.reshape(-1, x.shape[-1])
                codes = nonnegative_least_squares(flat, self.decoder.to(x.dtype))
                codes = codes.reshape(products.shape)
                return torch.where(products == 0, 0.0, codes / products)


def described(info: Mapping[str, object]) -> DictionaryInfo:
    """Return the description that a mapping holds; see :func:`dataclasses.asdict`."""
    return DictionaryInfo(**info)  # pyright: ignore[reportArgumentType]
