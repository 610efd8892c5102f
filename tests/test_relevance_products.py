"""Rules of products, attention, sums and structure, against plain sums over contributions."""

from __future__ import annotations

import functools

import pytest
import torch
from relevance_cases import Function, attend, noise, passing, rules_of, signed, two
from torch import nn
from torch.nn import functional

GATES = {
    "sigmoid": torch.sigmoid,
    "hardsigmoid": functional.hardsigmoid,
    "pooled sigmoid": lambda b: torch.sigmoid(b.mean((2, 3), keepdim=True)),
    "shifted sigmoid": lambda b: 2 * torch.sigmoid(b) - 0.5,
    "reciprocal norm": lambda b: (b.square().mean(1, keepdim=True) + 1e-3).rsqrt(),
}


def gated(gate, turned):
    return two(lambda a, b: gate(b) * a if turned else a * gate(b))


@functools.cache
def products():
    layers = {(name, t): gated(gate, t) for name, gate in GATES.items() for t in (False, True)}
    layers |= {
        "product": two(lambda a, b: a * b),
        "broadcast": two(lambda a, b: a * b.mean((2, 3), keepdim=True)),
        "division": two(lambda a, b: a / (b.square() + 1)),
        "matrices": two(lambda a, b: a @ b),
    }
    return passing(nn.Identity(), layers, noise(2, 4, 3, 3), rules_of())


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("turned", [False, True])
def test_a_gate_gets_nothing(name, turned):
    got = products()[name, turned]
    torch.testing.assert_close(got.arrived[:, :, :2], got.started)
    assert not got.arrived[:, :, 2:].any()


def test_both_factors_of_a_product_get_half():
    got = products()["product"]
    torch.testing.assert_close(got.arrived, torch.cat([got.started / 2] * 2, 2))


def test_a_product_that_is_broadcast():
    got = products()["broadcast"]
    half = got.started / 2
    torch.testing.assert_close(got.arrived[:, :, :2], half)
    torch.testing.assert_close(got.arrived[:, :, 2:].sum((3, 4)), half.sum((3, 4)))


def test_a_divisor_gets_nothing():
    got = products()["division"]
    torch.testing.assert_close(got.arrived[:, :, :2], got.started)
    assert not got.arrived[:, :, 2:].any()


def test_a_matrix_product_gives_each_factor_half():
    got = products()["matrices"]
    for image in range(2):
        a, b = got.below[image].chunk(2)
        z = torch.einsum("hij,hjk->hijk", a, b)  # what each pair adds to an output
        share = z / got.above[image][:, :, None] * got.started[0, image][:, :, None] / 2
        torch.testing.assert_close(got.arrived[0, image, :2], share.sum(3))
        torch.testing.assert_close(got.arrived[0, image, 2:], share.sum(1))


class Attending(nn.Module):
    """Queries, keys and values lie one after another along the channels."""

    def __init__(self, fused, mask=None, causal=False) -> None:
        super().__init__()
        self.fused, self.mask, self.causal = fused, mask, causal

    def forward(self, x):
        q, k, v = x.chunk(3, dim=1)
        if self.fused:
            return functional.scaled_dot_product_attention(
                q, k, v, self.mask, is_causal=self.causal
            )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if self.causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, -torch.inf)
        if self.mask is not None:
            scores = scores + self.mask
        return scores.softmax(-1) @ v


MASKS = {"no mask": (None, False), "causal": (None, True), "mask": (noise(5, 5, seed=3), False)}


@functools.cache
def attentions(attention):
    layers = {
        (name, fused): Attending(fused, *mask) for name, mask in MASKS.items() for fused in (0, 1)
    }
    rules = rules_of(attention=attention, epsilon=1e-12)
    return passing(nn.Identity(), layers, noise(2, 6, 5, 4), rules)


@pytest.mark.parametrize("fused", [0, 1])
@pytest.mark.parametrize("masked", MASKS)
@pytest.mark.parametrize("attention", ["constant", "taylor"])
def test_attention(attention, masked, fused):
    """CP-LRP and AttnLRP, as one operator and as the same in single steps."""
    got = attentions(attention)[masked, fused]
    for image, head in ((0, 0), (1, 1)):
        q, k, v = (part[head] for part in got.below[image].chunk(3))
        expected = attend(
            q, k, v, got.above[image, head], got.started[1, image, head],
            attention == "constant", *MASKS[masked],
        )  # fmt: skip
        for place, part in enumerate(expected):
            torch.testing.assert_close(got.arrived[1, image, 2 * place + head], part)


@functools.cache
def taylors():
    layers = {axis: nn.Softmax(axis) for axis in (1, 2, 3, -1, -2)} | {"sigmoid": nn.Sigmoid()}
    return passing(nn.Identity(), layers, noise(2, 3, 4, 5), rules_of(attention="taylor"))


@pytest.mark.parametrize("axis", [1, 2, 3, -1, -2])
def test_softmax_is_expanded_to_first_order(axis):
    got = taylors()[axis]
    total = got.started.sum(axis if axis < 0 else axis + 1, keepdim=True)
    torch.testing.assert_close(got.arrived, got.below * (got.started - got.above * total))


def test_sigmoid_is_expanded_to_first_order():
    got = taylors()["sigmoid"]
    torch.testing.assert_close(got.arrived, got.below * (1 - got.above) * got.started)


SHARES = {
    "a + b": (lambda a, b: a + b, 1),
    "a - b": (lambda a, b: a - b, -1),
    "a + 3 b": (lambda a, b: torch.add(a, b, alpha=3), 3),
}
BROADCAST = [(2, 3), (1,), (1, 2, 3)]


@functools.cache
def additions():
    layers = {name: two(combine) for name, (combine, _) in SHARES.items()}
    layers |= {
        axes: two(lambda a, b, axes=axes: a + b.mean(axes, keepdim=True)) for axes in BROADCAST
    }
    layers["constant"] = Function(lambda x: x + 0.5)
    return passing(nn.Identity(), layers, noise(2, 4, 3, 3), rules_of())


@pytest.mark.parametrize("name", SHARES)
def test_a_sum_gives_each_term_its_share(name):
    got, weight = additions()[name], SHARES[name][1]
    a, b = got.below.chunk(2, 1)
    part = got.started / signed(got.above)
    torch.testing.assert_close(got.arrived, torch.cat([a * part, weight * b * part], 2))


@pytest.mark.parametrize("axes", BROADCAST)
def test_a_sum_that_is_broadcast(axes):
    got = additions()[axes]
    a, b = got.below.chunk(2, 1)
    part, over = got.started / signed(got.above), tuple(axis + 1 for axis in axes)
    torch.testing.assert_close(got.arrived[:, :, :2], a * part)
    small = b.mean(axes, keepdim=True) * part
    torch.testing.assert_close(got.arrived[:, :, 2:].sum(over), small.sum(over))


def test_a_constant_keeps_its_share():
    got = additions()["constant"]
    torch.testing.assert_close(got.arrived, got.below / signed(got.above) * got.started)


STRUCTURE = {
    "flatten": lambda x: x.flatten(1),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "transpose": lambda x: x.flatten(2).transpose(1, 2),
    "cat": lambda x: torch.cat([x[:, 1:], x, 2 * x], 1),
    "cat along a map": lambda x: torch.cat([x, x], -1),
    "stack": lambda x: torch.stack([x, 3 * x], 2),
    "mean": lambda x: x.mean((2, 3)),
    "sum": lambda x: x.sum(1),
    "roll": lambda x: x.roll((1, -2), (2, 3)),
    "shuffle": lambda x: functional.pixel_unshuffle(x, 2),
    "upsample": lambda x: functional.interpolate(x, scale_factor=2.0),
    "bilinear": lambda x: functional.interpolate(x, size=(9, 7), mode="bilinear"),
    "average pool": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "adaptive pool": lambda x: functional.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive maximum": lambda x: functional.adaptive_max_pool2d(x, 1),
    "pad": lambda x: functional.pad(x, (1, 2, 0, 1)),
    "unbind": lambda x: x.unbind(1)[1] - 2 * x.unbind(1)[0],
    "split": lambda x: torch.cat(list(reversed(x.split([1, 2, 1], 1))), 1),
    "negative": lambda x: -x,
    "absolute": torch.abs,
    "largest": lambda x: x.amax((2, 3)),
    "largest of an axis": lambda x: x.max(1).values,
    "index": lambda x: x[:, torch.tensor([2, 0, 0])],
}


@functools.cache
def structures():
    layers = {name: Function(function) for name, function in STRUCTURE.items()}
    return passing(nn.Identity(), layers, noise(2, 4, 6, 6), rules_of(epsilon=1e-13))


@pytest.mark.parametrize("name", STRUCTURE)
def test_operations_without_weights_are_gradients_and_lose_nothing(name):
    """They are homogeneous: R = x * gradient of sum(G y)."""
    got = structures()[name]
    leaf = got.below.clone().requires_grad_()
    start = got.started[0] / got.above
    (gradient,) = torch.autograd.grad(STRUCTURE[name](leaf), leaf, start.nan_to_num())
    torch.testing.assert_close(got.arrived[0], got.below * gradient)
    torch.testing.assert_close(got.arrived.sum(), got.started.sum())
