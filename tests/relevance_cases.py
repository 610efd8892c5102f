"""What the tests of relevance share: small nets, and rules written out by contributions.

The references work in relevance ``R`` itself, on contributions ``z[j, i] = w[j, i] x[i]`` of a
dense matrix that is read off the operator, in float64. The engine carries ``R / activation``
and never sees such a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.presets import Rules

EPSILON = 1e-2
"""Large, so that a wrong stabiliser shows."""
GAMMA = 0.3


def rules_of(kind: str = "epsilon", **changes) -> Rules:
    changes = {"epsilon": EPSILON, "gamma_conv": GAMMA, "gamma_dense": GAMMA, **changes}
    return Rules("own", first=kind, conv=kind, dense=kind, **changes)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module float64 weights from a seed, norms and biases too."""
    for number, value in enumerate(module.parameters()):
        shape = (*value.shape, 1)
        fan = max(1, value[0].numel()) if value.ndim > 1 else 4
        value.data = noise(*shape, seed=seed + number)[..., 0] / fan**0.5
    module.double().eval()
    for number, part in enumerate(module.modules()):
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = noise(part.num_features, seed=seed + 50 + number) / 3
            part.running_var = 0.5 + noise(part.num_features, seed=seed + 70 + number).abs()
    return module


class Function(nn.Module):
    """A function as a layer."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def two(combine):
    """A function of the two halves of the channels, as a layer."""
    return Function(lambda x: combine(*x.chunk(2, 1)))


class Beside(nn.Module):
    """Many layers that read the same values, so that one capture serves many tests."""

    def __init__(self, pre: nn.Module, layers: list[nn.Module]) -> None:
        super().__init__()
        self.pre, self.layers = pre, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pre(x)
        return torch.stack([layer(x).flatten(1).mean(1) for layer in self.layers], 1)


@dataclass(frozen=True)
class Passed:
    """Random relevance that was sent back through one layer."""

    layer: nn.Module
    below: Tensor
    """The values that the layer reads [U ...]."""
    above: Tensor
    """The values that it puts out."""
    started: Tensor
    """The relevance of these [n U ...]."""
    arrived: Tensor
    """The relevance of those."""
    heat: Tensor | None


def passing(
    pre: nn.Module, layers: Mapping[str, nn.Module], x: Tensor, rules: Rules
) -> dict[str, Passed]:
    """Send random relevance back through each of some layers: two starts for each image."""
    names = {name: f"layers.{number}" for number, name in enumerate(layers)}
    net = Beside(pre, list(layers.values())).eval()
    trace = LRPEngine(net, x, ["pre", *names.values()], rules).trace(x)
    found: dict[str, Passed] = {}
    for number, (name, place) in enumerate(names.items()):
        above, below = trace.values[place], trace.values["pre"]
        flow = noise(2, *above.shape, seed=number)
        pulled = trace.backward({place: BackwardSignal(flow)}, ["pre"])
        arrived = pulled.layers["pre"] * below if "pre" in pulled.layers else below
        found[name] = Passed(layers[name], below, above, flow * above, arrived, pulled.heatmaps)
    return found


def matrix(module: nn.Module, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Read weights [outputs inputs] and bias off an affine module."""
    with torch.no_grad():
        zero = torch.zeros(1, *shape, dtype=torch.float64)
        bias = module(zero).flatten()
        unit = torch.eye(zero.numel(), dtype=torch.float64).view(-1, *shape)
        return (module(unit).flatten(1) - bias).T, bias


def signed(value: Tensor, epsilon: float = EPSILON) -> Tensor:
    return value + epsilon * torch.where(value >= 0, 1.0, -1.0)


def by_contributions(kind: str, weight: Tensor, bias: Tensor, x: Tensor, relevance: Tensor):
    """Relevance of the inputs [inputs] of one sample, from that of its outputs [outputs]."""
    z = weight * x
    if kind == "epsilon":
        return (z / signed(z.sum(1) + bias)[:, None] * relevance[:, None]).sum(0)
    if kind == "zplus":
        z = z.clamp(min=0)
        below = z.sum(1) + bias.clamp(min=0) + EPSILON
        return (z / below[:, None] * relevance[:, None]).sum(0)
    # gamma (zennit): the contributions, and the bias, that have the sign of the output
    up = (z.sum(1) + bias > 0)[:, None]
    raised = z + GAMMA * torch.where(up, z.clamp(min=0), z.clamp(max=0))
    shift = bias + GAMMA * torch.where(up[:, 0], bias.clamp(min=0), bias.clamp(max=0))
    below = signed(raised.sum(1) + shift)
    return (raised / below[:, None] * relevance[:, None]).sum(0)


def normalisation(layer, x):
    """Weights of the affine map that a normalisation is with its spread held constant."""
    flat = x.flatten()
    if isinstance(layer, nn.GroupNorm):
        groups = torch.arange(layer.num_groups).repeat_interleave(len(flat) // layer.num_groups)
        weight = layer.weight.repeat_interleave(len(flat) // len(layer.weight))
    else:
        width = layer.normalized_shape[0]
        groups = torch.arange(len(flat) // width).repeat_interleave(width)
        weight = layer.weight.repeat(len(flat) // width)
    together = (groups[:, None] == groups).double()
    mean = together / together.sum(1, keepdim=True)
    if isinstance(layer, nn.RMSNorm):
        eps = torch.finfo(x.dtype).eps if layer.eps is None else layer.eps
        return torch.diag(weight / (mean @ flat**2 + eps).sqrt())
    centred = torch.eye(len(flat), dtype=x.dtype) - mean
    spread = (mean @ (centred @ flat) ** 2 + layer.eps).sqrt()
    return (weight / spread)[:, None] * centred


def attend(q, k, v, out, relevance, constant, mask, causal):
    """Relevance of queries, keys and values [tokens width] of one head, in plain sums."""
    scores = torch.einsum("id,jd->ij", q, k) / q.shape[1] ** 0.5
    shown = scores if mask is None else scores + mask
    if causal:
        shown = shown.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf)
    weights = shown.softmax(1)
    z = torch.einsum("ij,jd->ijd", weights, v)
    share = z / out[:, None] * relevance[:, None]
    if constant:
        return torch.zeros_like(q), torch.zeros_like(k), share.sum(0)
    to_weights = share.sum(2) / 2
    # Eq. 13 of AttnLRP: R_i = x_i (R_i - s_i sum R)
    to_scores = scores * (to_weights - weights * to_weights.sum(1, keepdim=True))
    parts = torch.einsum("id,jd->ijd", q, k) / q.shape[1] ** 0.5 / scores[..., None]
    half = parts * to_scores[..., None] / 2
    return half.sum(1), half.sum(0), share.sum(0) / 2
