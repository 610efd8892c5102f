"""Each rule against its equation in relevance, written out contribution by contribution."""

from __future__ import annotations

import functools

import pytest
import torch
from relevance_cases import (
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

from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.lrp_engine import LRPEngine

SUMS = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "padded": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "stride": lambda: nn.Conv2d(4, 6, 3, 2, 1),
    "stride leaves some over": lambda: nn.Conv2d(4, 6, 2, 3),
    "uneven stride": lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0)),
    "dilation": lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "groups": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, 2, 1, groups=4),
    "same": lambda: nn.Conv2d(4, 6, 3, padding="same"),
    "same, even kernel": lambda: nn.Conv2d(4, 6, (2, 4), padding="same"),
    "same, even kernel, dilation": lambda: nn.Conv2d(4, 6, 2, padding="same", dilation=3),
    "valid": lambda: nn.Conv2d(4, 6, 3, padding="valid"),
    "point": lambda: nn.Conv2d(4, 6, 1),
    "point, stride": lambda: nn.Conv2d(4, 6, 1, 2),
    "no bias": lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False),
    "kernel larger than stride": lambda: nn.Conv2d(4, 6, 5, 4, 2),
    "dense": lambda: nn.Linear(8, 4),
    "dense, no bias": lambda: nn.Linear(8, 4, bias=False),
    "with a ReLU": lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()),
    "dense with a ReLU": lambda: nn.Sequential(nn.Linear(8, 4), nn.ReLU()),
}
PRES = {"one sign": nn.ReLU, "both signs": nn.Tanh}


@functools.cache
def sums(kind, pre):
    layers = {name: seeded(make()) for name, make in SUMS.items()}
    return passing(PRES[pre](), layers, noise(2, 4, 7, 8), rules_of(kind))


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("pre", PRES)
@pytest.mark.parametrize("kind", ["epsilon", "zplus", "gamma"])
def test_weighted_sums(kind, pre, name):
    got = sums(kind, pre)[name]
    layer = got.layer[0] if isinstance(got.layer, nn.Sequential) else got.layer
    weight, bias = matrix(layer, got.below.shape[1:])
    for start, image in ((0, 0), (1, 1)):
        expected = by_contributions(
            kind, weight, bias, got.below[image].flatten(), got.started[start, image].flatten()
        )
        torch.testing.assert_close(got.arrived[start, image].flatten(), expected)


def test_flat_without_pixels_is_epsilon_for_a_dense_layer():
    layers = {"dense": seeded(nn.Linear(8, 4))}
    x = noise(2, 4, 7, 8)
    flat = passing(nn.Tanh(), layers, x, rules_of("flat"))["dense"]
    epsilon = passing(nn.Tanh(), layers, x, rules_of("epsilon"))["dense"]
    torch.testing.assert_close(flat.arrived, epsilon.arrived)


def spread_evenly(layer, shape, relevance):
    """Give each output's relevance in equal parts to the pixels that it reads."""
    weight, _ = matrix(layer, shape)
    reads = (weight.abs().unflatten(1, shape).sum(1) > 0).double()  # [outputs h w]
    even = reads / reads.sum((1, 2), keepdim=True)
    return (even * relevance.flatten()[:, None, None]).sum(0)


SPATIAL = {name: make for name, make in SUMS.items() if "dense" not in name}


@functools.cache
def flats():
    layers = {name: seeded(make()) for name, make in SPATIAL.items()}
    return passing(nn.Identity(), layers, noise(2, 4, 7, 8), rules_of("flat"))


@pytest.mark.parametrize("name", SPATIAL)
def test_flat(name):
    got = flats()[name]
    layer = got.layer[0] if isinstance(got.layer, nn.Sequential) else got.layer
    if layer.groups > 1:  # what is read is the pixel; which colour does not matter
        layer = seeded(nn.Conv2d(4, layer.out_channels, 3, layer.stride, layer.padding))
    expected = spread_evenly(layer, got.below.shape[1:], got.started[0, 1])
    torch.testing.assert_close(got.heat[0, 1], expected)


def test_flat_stands_behind_a_normalisation_of_the_pixels():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = seeded(nn.Conv2d(3, 5, 3, 2))

        def forward(self, x):
            return self.layer((x - 0.4) / torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1))

    net, x = Normed(), noise(1, 3, 9, 9)
    trace = LRPEngine(net, x, ["layer"], "epsilon-plus-flat").trace(x)
    heat = trace.backward(
        {"layer": BackwardSignal(torch.ones_like(trace.values["layer"])[None])}
    ).heatmaps
    expected = spread_evenly(net.layer, x.shape[1:], trace.values["layer"][0])
    torch.testing.assert_close(heat[0, 0], expected)


ACTIVATIONS = [
    nn.ReLU(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish(), nn.Mish(), nn.LeakyReLU(0.2),
    nn.PReLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.Tanh(), nn.Hardtanh(), nn.ReLU6(),
]  # fmt: skip


@functools.cache
def activations():
    x = 3 * noise(2, 3, 5, 5)
    x[0, 0, 0, 0] = 0
    layers = {repr(layer): layer.double() for layer in ACTIVATIONS}
    return passing(nn.Identity(), layers, x, rules_of())


@pytest.mark.parametrize("name", [repr(layer) for layer in ACTIVATIONS])
def test_activations_pass_relevance_as_it_is(name):
    torch.testing.assert_close(activations()[name].arrived, activations()[name].started)


NORMS = {
    "LayerNorm": lambda: nn.LayerNorm(8),
    "LayerNorm without bias": lambda: nn.LayerNorm(8, bias=False),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "RMSNorm with eps": lambda: nn.RMSNorm(8, eps=0.1),
    "GroupNorm": lambda: nn.GroupNorm(2, 6),
    "GroupNorm, one group": lambda: nn.GroupNorm(1, 6),
}


@functools.cache
def norms():
    layers = {name: seeded(make()) for name, make in NORMS.items()}
    return passing(nn.Identity(), layers, noise(2, 6, 3, 8), rules_of())


@pytest.mark.parametrize("name", NORMS)
def test_normalisations_hold_their_spread_constant(name):
    got = norms()[name]
    for image in range(2):
        above = got.above[image].flatten()
        z = normalisation(got.layer, got.below[image]) * got.below[image].flatten()
        shift = (above - z.sum(1)).view(6, 3, 8)  # what the matrix leaves is the layer's bias
        bias = getattr(got.layer, "bias", None)
        bias = torch.zeros(1, dtype=shift.dtype) if bias is None else bias
        bias = bias.view(6, 1, 1) if isinstance(got.layer, nn.GroupNorm) else bias
        torch.testing.assert_close(shift, bias.expand(6, 3, 8))
        expected = (z / above[:, None] * got.started[1, image].flatten()[:, None]).sum(0)
        torch.testing.assert_close(got.arrived[1, image].flatten(), expected)


def through(layer, x, pre=None, **changes):
    """Send relevance through one layer."""
    return passing(pre or nn.Identity(), {"": layer}, x, rules_of(**changes))[""]


def test_a_batch_norm_that_stands_alone_is_a_scale_with_a_bias():
    layer = seeded(nn.BatchNorm2d(3))
    got = through(layer, noise(2, 3, 4, 4), nn.Tanh())
    scale = (layer.weight / (layer.running_var + layer.eps).sqrt()).view(3, 1, 1)
    torch.testing.assert_close(got.arrived, got.below * scale / signed(got.above) * got.started)


POOLS = [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (3, 2), (1, 1)), (2, 3, 0)]


def winners(x, kernel, stride, padding):
    """Where the maximum of each window of one map stands, by loops."""
    kernel, stride, padding = (
        (v, v) if isinstance(v, int) else v for v in (kernel, stride, padding)
    )
    height = (x.shape[0] + 2 * padding[0] - kernel[0]) // stride[0] + 1
    width = (x.shape[1] + 2 * padding[1] - kernel[1]) // stride[1] + 1
    for row in range(height):
        for column in range(width):
            top, left = row * stride[0] - padding[0], column * stride[1] - padding[1]
            cells = [
                (r, c)
                for r in range(max(top, 0), min(top + kernel[0], x.shape[0]))
                for c in range(max(left, 0), min(left + kernel[1], x.shape[1]))
            ]
            yield row, column, max(cells, key=lambda cell: float(x[cell]))


@functools.cache
def pools():
    layers = {str(pool): nn.MaxPool2d(*pool) for pool in POOLS}
    return passing(nn.Identity(), layers, noise(2, 2, 7, 9), rules_of())


@pytest.mark.parametrize("pool", POOLS)
def test_the_winner_of_a_pool_takes_all(pool):
    got = pools()[str(pool)]
    expected = torch.zeros_like(got.arrived[0])
    for image in range(2):
        for channel in range(2):
            started = got.started[0, image, channel]
            for row, column, cell in winners(got.below[image, channel], *pool):
                expected[(image, channel, *cell)] += started[row, column]
    torch.testing.assert_close(got.arrived[0], expected)


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_behind_flat_is_the_same_in_two_steps(pool):
    conv, x = seeded(nn.Conv2d(3, 5, 3, 2, 1)), noise(2, 3, 17, 15)
    net = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(*pool))
    together = LRPEngine(net, x, ["2"], rules_of("flat")).trace(x)
    apart = LRPEngine(net, x, ["1", "2"], rules_of("flat")).trace(x)  # '1' must not be merged away
    start = {"2": BackwardSignal(noise(2, *together.values["2"].shape))}
    got, two_steps = together.backward(start).heatmaps, apart.backward(start, ["1"])
    torch.testing.assert_close(got, two_steps.heatmaps)
    relevance = two_steps.layers["1"][0, 1] * apart.values["1"][1]
    torch.testing.assert_close(got[0, 1], spread_evenly(conv, x.shape[1:], relevance))
