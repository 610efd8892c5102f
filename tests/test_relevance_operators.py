"""Operators beyond those of common CNNs, against dense matrices and automatic differentiation."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest
import torch
from relevance_cases import (
    Function,
    by_contributions,
    matrix,
    noise,
    normalisation,
    passing,
    rules_of,
    seeded,
    signed,
)
from torch import nn
from torch.nn import functional

from semlens.relevance.conservation import CONSTANT, KINDS, check_conservation
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.make_engine import FallbackWarning, make_engine

LINE, VOLUME = (4, 56), (2, 2, 7, 8)
"""Shapes into which the map [4 7 8] is arranged, with channels first."""


class On(nn.Module):
    """A layer that reads the map in another shape."""

    def __init__(self, layer, shape=(4, 7, 8)) -> None:
        super().__init__()
        self.layer, self.shape = layer, shape

    def forward(self, x):
        return self.layer(x.reshape(-1, *self.shape))


class Multiplied(nn.Module):
    """An einsum with weights."""

    def __init__(self, equation, *shape) -> None:
        super().__init__()
        self.equation, self.weight = equation, nn.Parameter(torch.zeros(shape))

    def forward(self, x):
        return torch.einsum(self.equation, *self.operands(x))

    def operands(self, x):
        constant_first = self.equation.index("o") < self.equation.index(",")
        return (self.weight, x) if constant_first else (x, self.weight)


SUMS = {
    "1-D": lambda: On(nn.Conv1d(4, 6, 5, 2, 1), LINE),
    "1-D, same": lambda: On(nn.Conv1d(4, 6, 4, padding="same", dilation=3), LINE),
    "1-D, valid, groups": lambda: On(nn.Conv1d(4, 6, 3, 4, "valid", groups=2), LINE),
    "1-D with a norm": lambda: On(nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)), LINE),
    "3-D": lambda: On(nn.Conv3d(2, 3, (1, 3, 3), (1, 2, 3), (0, 1, 1)), VOLUME),
    "3-D, same": lambda: On(nn.Conv3d(2, 3, 2, padding="same"), VOLUME),
    "3-D, depthwise": lambda: On(nn.Conv3d(2, 4, 2, groups=2, bias=False), VOLUME),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed, stride": lambda: nn.ConvTranspose2d(4, 6, (3, 4), (2, 3), 1, (1, 2)),
    "transposed, dilation": lambda: nn.ConvTranspose2d(4, 6, 3, 1, 2, dilation=2),
    "transposed, dilated end": lambda: nn.ConvTranspose2d(4, 6, 3, 1, 1, 2, dilation=3),
    "transposed, groups": lambda: nn.ConvTranspose2d(4, 6, 2, 2, groups=2),
    "transposed with a norm": lambda: nn.Sequential(
        nn.ConvTranspose2d(4, 6, 2, 2, groups=2), nn.BatchNorm2d(6)
    ),
    "transposed 1-D": lambda: On(nn.ConvTranspose1d(4, 3, 4, 2, 1), LINE),
    "transposed 3-D": lambda: On(nn.ConvTranspose3d(2, 3, 2, (1, 2, 1), bias=False), VOLUME),
    "einsum": lambda: Multiplied("bchw,oc->bohw", 6, 4),
    "einsum, weights first": lambda: Multiplied("och,...chw->...wo", 5, 4, 7),
    "einsum, outer": lambda: Multiplied("bchw,o->bchwo", 2),
}


@functools.cache
def sums(kind):
    layers = {name: seeded(make(), 3) for name, make in SUMS.items()}
    for layer in layers.values():
        for part in layer.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.running_mean, part.running_var = noise(6, seed=1), noise(6, seed=2) ** 2 + 0.5
    return passing(nn.Tanh(), layers, noise(2, 4, 7, 8), rules_of(kind))


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("kind", ["epsilon", "zplus", "gamma"])
def test_weighted_sums_of_any_dimension(kind, name):
    got = sums(kind)[name]
    weight, bias = matrix(got.layer, got.below.shape[1:])
    for start, image in ((0, 0), (1, 1)):
        expected = by_contributions(
            kind, weight, bias, got.below[image].flatten(), got.started[start, image].flatten()
        )
        torch.testing.assert_close(got.arrived[start, image].flatten(), expected)


def einsum(equation, *axes):
    """An einsum of the two halves of the channels, each flattened over some of its axes."""

    def multiply(x):
        parts = [part.flatten(*axes) if axes else part for part in x.chunk(2, 1)]
        return torch.einsum(equation, *parts)

    return multiply


PRODUCTS = {
    "attention scores": einsum("bhid,bhjd->bhij"),
    "no free axis": einsum("bchw,bchw->bc"),
    "elementwise, and implicit": einsum("...i,...i"),
    "all summed": einsum("bchw,bdij->bj"),
    "outer": einsum("bn,bm->bnm", 1),
    "two batches, two sums": einsum("bchw,bdhw->bdc"),
    "one operand": lambda x: torch.einsum("bchw->bwh", x),
    "three": lambda x: torch.einsum("bchw,bchv,bcvw->bch", *[x.tanh(), x[..., :3], x[:, :, :3]]),
    "a gate": lambda x: torch.einsum("bchw,bc->bchw", x, x.mean((2, 3)).sigmoid()),
}
SELECTED = {
    "adaptive maximum": lambda x: functional.adaptive_max_pool2d(x, (3, 2)),
    "adaptive maximum, 1-D": lambda x: functional.adaptive_max_pool1d(x.flatten(2), 5),
    "adaptive maximum, 3-D": lambda x: functional.adaptive_max_pool3d(x[:, None], 2),
    "maximum, 3-D": lambda x: functional.max_pool3d(x[:, None], 2),
    "dilated maximum": lambda x: functional.max_pool2d(x, 2, 1, dilation=2),
    "mean of the largest": lambda x: x.flatten(2).topk(3, -1).values.mean(-1),
    "smallest": lambda x: x.flatten(2).topk(2, largest=False).values,
    "sorted": lambda x: x.flatten(2).sort(-1, descending=True).values[:, :, 1:4],
    "median": lambda x: x.flatten(2).median(-1).values,
    "minimum of an axis": lambda x: x.min(1).values,
    "gathered": lambda x: x.flatten(2).gather(2, x.flatten(2).topk(3).indices),
    "indexed": lambda x: x[torch.arange(x.shape[0]), x.mean((2, 3)).argmax(1)],
    "masked": lambda x: x.masked_fill(x.mean(1, keepdim=True) < 0, 0.0) * (x > -1),
    "chosen": lambda x: torch.where(x.roll(1, 1) > 0, x, 2 * x),
}
LINEAR = {
    "mean, 3-D": lambda x: functional.avg_pool3d(x[:, None], 2),
    "adaptive mean, 3-D": lambda x: functional.adaptive_avg_pool3d(x[:, None], (2, 3, 2)),
    "upsample, 1-D": lambda x: functional.interpolate(x.flatten(2), scale_factor=2.0),
    "upsample, 3-D": lambda x: functional.interpolate(x[:, None], scale_factor=2.0),
    "linear, 1-D": lambda x: functional.interpolate(x.flatten(2), size=50, mode="linear"),
    "linear, 3-D": lambda x: functional.interpolate(x[:, None], size=(5, 7, 4), mode="trilinear"),
    "fold": lambda x: functional.fold(functional.unfold(x, 2), (6, 6), 2),
}
GATED = {
    "glu": (lambda x: functional.glu(x, 1), lambda x, y: y / x[:, :2]),
    "glu of rows": (lambda x: functional.glu(x, -2), lambda x, y: y / x[:, :, :3]),
}


@functools.cache
def structures():
    layers = {name: Function(make) for name, make in (PRODUCTS | SELECTED | LINEAR).items()}
    layers |= {name: Function(make) for name, (make, _) in GATED.items()}
    return passing(nn.Identity(), layers, noise(2, 4, 6, 6), rules_of(epsilon=1e-13))


@pytest.mark.parametrize("name", SELECTED | LINEAR)
def test_selections_and_moves_are_gradients_and_lose_nothing(name):
    got, function = structures()[name], (SELECTED | LINEAR)[name]
    leaf = got.below.clone().requires_grad_()
    start = (got.started[0] / got.above).nan_to_num()
    (gradient,) = torch.autograd.grad(function(leaf), leaf, start)
    torch.testing.assert_close(got.arrived[0], got.below * gradient)
    torch.testing.assert_close(got.arrived.sum(), got.started.sum())


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_written_as_einsum_lose_nothing(name):
    got = structures()[name]
    torch.testing.assert_close(got.arrived.sum(), got.started.sum())
    if name in ("one operand", "three", "a gate"):
        return
    leaf = got.below.clone().requires_grad_()  # each of two factors gets half of the gradient
    start = got.started[0] / got.above / 2
    (gradient,) = torch.autograd.grad(PRODUCTS[name](leaf), leaf, start)
    torch.testing.assert_close(got.arrived[0], got.below * gradient)


def test_a_gate_in_an_einsum_gets_nothing():
    got = structures()["a gate"]
    torch.testing.assert_close(got.arrived, got.started)


@pytest.mark.parametrize("name", GATED)
def test_the_gate_of_a_glu_gets_nothing(name):
    got = structures()[name]
    leaf = got.below.clone().requires_grad_()
    function, gate = GATED[name]
    held = gate(got.below, got.above)
    value = leaf[:, :2] if name == "glu" else leaf[:, :, :3]
    torch.testing.assert_close(held * value, function(got.below))
    (gradient,) = torch.autograd.grad(held * value, leaf, got.started[0] / got.above)
    torch.testing.assert_close(got.arrived[0], got.below * gradient)


PASSED_ON = {
    "clamp": lambda x: x.clamp(-1, 1.5),
    "clamp above": lambda x: x.clamp(max=2),
    "square": lambda x: x**2,
    "root": lambda x: x.clamp(min=0) ** 0.5,
    "power pool": lambda x: functional.lp_pool2d(x, 2.0, 3),
}
EXPANDED = {
    "softplus": functional.softplus,
    "steep softplus": lambda x: functional.softplus(x, 5, 2),
    "threshold": lambda x: functional.threshold(x, 0.3, -2),
    "threshold at zero": lambda x: functional.threshold(x, 0.0, 0.0),
    "log sigmoid": functional.logsigmoid,
    "log softmax": lambda x: x.log_softmax(1),
    "log softmax of columns": lambda x: x.log_softmax(-1),
    "bounds above zero": lambda x: x.clamp(min=0.2),
}


@functools.cache
def functions():
    layers = {name: Function(function) for name, function in (PASSED_ON | EXPANDED).items()}
    x = noise(2, 4, 6, 6)
    x[0, 0, 0, 0] = 0
    return passing(nn.Identity(), layers, x, rules_of())


@pytest.mark.parametrize("name", PASSED_ON)
def test_functions_that_are_zero_at_zero_pass_relevance_on(name):
    got = functions()[name]
    if got.above.shape == got.below.shape:
        torch.testing.assert_close(got.arrived, got.started)
    torch.testing.assert_close(got.arrived.sum(), got.started.sum())


@pytest.mark.parametrize("name", EXPANDED)
def test_functions_that_are_not_zero_at_zero_are_expanded(name):
    got = functions()[name]
    leaf = got.below.clone().requires_grad_()
    start = got.started[1] / got.above
    (gradient,) = torch.autograd.grad(EXPANDED[name](leaf), leaf, start.nan_to_num())
    torch.testing.assert_close(got.arrived[1], got.below * gradient)


NORMS = {
    "2-D": lambda: nn.InstanceNorm2d(6, affine=True),
    "1-D": lambda: On(nn.InstanceNorm1d(6, affine=True), (6, 24)),
    "3-D, no weights": lambda: On(nn.InstanceNorm3d(6), (6, 2, 4, 3)),
}


@functools.cache
def norms():
    stored = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
    stored.running_mean, stored.running_var = noise(6, seed=1), noise(6, seed=2) ** 2 + 0.5
    layers = {name: seeded(make()) for name, make in NORMS.items()} | {"stored": seeded(stored)}
    return passing(nn.Identity(), layers, noise(2, 6, 3, 8), rules_of())


@pytest.mark.parametrize("name", NORMS)
def test_instance_norms_are_group_norms_of_single_channels(name):
    got = norms()[name]
    layer = got.layer.layer if isinstance(got.layer, On) else got.layer
    groups = nn.GroupNorm(6, 6, layer.eps).double()
    if layer.affine:
        groups.weight, groups.bias = layer.weight, layer.bias
    for image in range(2):
        above = got.above[image].flatten()
        z = normalisation(groups, got.below[image]) * got.below[image].flatten()
        torch.testing.assert_close(
            z.sum(1) + groups.bias.repeat_interleave(24), above, atol=1e-9, rtol=1e-9
        )
        expected = (z / above[:, None] * got.started[1, image].flatten()[:, None]).sum(0)
        torch.testing.assert_close(got.arrived[1, image].flatten(), expected)


def test_an_instance_norm_with_stored_statistics_is_a_scale_with_a_bias():
    got = norms()["stored"]
    scale = got.layer.weight / (got.layer.running_var + got.layer.eps).sqrt()
    share = got.below * scale.view(6, 1, 1) / signed(got.above)
    torch.testing.assert_close(got.arrived, share * got.started)


class Unusual(nn.Module):
    """A path through all kinds of these operations that can absorb relevance."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up = nn.Conv2d(3, 6, 3, 2), nn.ConvTranspose2d(6, 4, 3, 2)
        self.norm, self.line = nn.InstanceNorm2d(4, affine=True), nn.Conv1d(2, 4, 3)
        self.volume, self.weight = nn.Conv3d(1, 2, 2), nn.Parameter(torch.zeros(4, 5))
        self.scores = nn.Linear(5, 4)

    def forward(self, x):
        x = functional.softplus(self.norm(self.up(functional.threshold(self.stem(x), 0.1, 0.1))))
        x = functional.logsigmoid(functional.glu(x, 1).clamp(min=0.01))
        x = self.volume(self.line(x.flatten(2))[:, None, :, :, None].expand(-1, -1, -1, -1, 2))
        x = torch.einsum("bdcl,ce->bdle", functional.pad(x[..., 0], (0, 0, 0, 1)), self.weight)
        return self.scores(x.flatten(1, 2).topk(3, 1).values.mean(1)).log_softmax(1)


@functools.cache
def unusual():
    x = noise(2, 3, 11, 11)
    return LRPEngine(seeded(Unusual()), x, ["stem"]), x


@pytest.mark.parametrize("kind", ["epsilon", "zplus", "gamma"])
def test_all_relevance_is_accounted_for(kind):
    engine, x = unusual()
    found = check_conservation(engine.with_rules(rules_of(kind)), x)
    sizes = np.abs(found.start) + sum(np.abs(part) for part in found.absorbed.values())
    assert np.all(np.abs(found.residual) <= 1e-9 * sizes)
    absorbing = [name for name in KINDS if np.abs(found.absorbed[name]).max() > 1e-6]
    assert absorbing == [name for name in KINDS if name != CONSTANT]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(5, 2)
        self.rnn = nn.LSTM(4, 5, batch_first=True)

    def forward(self, x):
        return self.head(self.rnn(self.conv(x).flatten(2).transpose(1, 2))[0][:, -1])


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.norm = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).logsumexp((2, 3)))


NAMES = {
    "LSTM": (Recurrent, "lstm (1 x, in 'rnn')"),
    "several": (Noisy, "batch_norm (1 x, in 'norm'), logsumexp (1 x)"),
}


@pytest.mark.parametrize("name", NAMES)
def test_operators_without_a_rule_are_called_by_their_names(name):
    make, said = NAMES[name]
    with pytest.warns(FallbackWarning, match=re.escape(f"relevance rule: {said}.")):
        engine = make_engine(make().eval(), torch.randn(2, 3, 8, 8), ["conv"])
    assert engine.rules.name == "gradient"
