"""Conditional heatmaps: windows against whole maps, batching, every form of layer, no traces."""

from __future__ import annotations

import functools

import pytest
import torch
from conftest import assert_says
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st
from relevance_blocks import BLOCKS, WIDTH
from relevance_cases import noise, seeded
from torch import nn
from torch.nn import functional

from semlens.errors import LayerError, RelevanceError
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.class_relevance import (
    class_relevance,
    class_seed,
    component_relevance,
    shares,
)
from semlens.relevance.conditional_heatmaps import conditional_heatmaps
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.make_engine import GradientEngine
from semlens.relevance.protocols import OUTPUT


def dense_heat(engine, inputs, layer, image, channel, sign):
    """One pair alone, from a start that covers the whole map."""
    trace = engine.trace(inputs[image : image + 1], [layer])
    maps = trace.values[layer][0, channel] * sign
    values = torch.zeros(1, *trace.values[layer].shape, dtype=maps.dtype)
    values[0, 0, channel].view(-1)[maps.argmax()] = sign
    return trace.backward({layer: BackwardSignal(values)}).heatmaps[0, 0]


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    st.lists(st.sampled_from(sorted(BLOCKS)), min_size=2, max_size=5),
    st.sampled_from([(3, 1, 1), (3, 2, 1), (5, 2, 0), (2, 2, 0)]),
    st.sampled_from(["epsilon-plus-flat", "epsilon-gamma", "epsilon"]),
    st.integers(0, 99),
)
def test_windows_are_the_whole_map(names, stem, rules, seed):
    blocks = [nn.Conv2d(3, WIDTH, *stem), nn.ReLU(), *(BLOCKS[name]() for name in names)]
    net = seeded(nn.Sequential(*blocks), seed)
    x = noise(2, 3, 32, 32, seed=seed)
    assume(min(net(x).shape[-2:]) > 1)
    layer = str(len(blocks) - 1)
    engine = LRPEngine(net, x, [layer], rules)
    pairs = torch.tensor([0, 1, 1]), torch.tensor([0, 2, 2]), torch.tensor([1, 1, -1])
    heat = conditional_heatmaps(engine, x, layer, *pairs)
    for got, *one in zip(heat, *(part.tolist() for part in pairs), strict=True):
        expected = dense_heat(engine, x, layer, *one)
        scale = float(expected.abs().max()) or 1
        torch.testing.assert_close(got / scale, expected / scale, atol=1e-9, rtol=1e-9)


class AllBlocks(nn.Module):
    """Every kind of block beside the others, behind a stem that pools, with a layer on top."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.ModuleList(make() for make in BLOCKS.values())
        self.ends = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, 1, 1) for _ in BLOCKS)

    def forward(self, x):
        x = self.stem(x)
        # a copy each: some blocks write into what they read
        ends = [end(block(x.clone())) for block, end in zip(self.blocks, self.ends, strict=True)]
        return torch.stack([end.mean((1, 2, 3)) for end in ends], 1)


@functools.cache
def all_blocks(rules):
    net, x = seeded(AllBlocks()), noise(1, 3, 48, 48)
    return LRPEngine(net, x, [f"ends.{i}" for i in range(len(BLOCKS))], rules), x


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("rules", ["epsilon-plus-flat", "epsilon-gamma"])
def test_windows_through_each_block(block, rules):
    engine, x = all_blocks(rules)
    layer = f"ends.{list(BLOCKS).index(block)}"
    pairs = torch.tensor([0, 0]), torch.tensor([1, 3]), torch.tensor([1, -1])
    heat = conditional_heatmaps(engine, x, layer, *pairs)
    assert heat.abs().amax((1, 2)).min() > 0
    for got, *one in zip(heat, *(part.tolist() for part in pairs), strict=True):
        torch.testing.assert_close(got, dense_heat(engine, x, layer, *one))


class Small(nn.Module):
    """A CNN with a convolution before its norm, in-place steps and a block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.norm = nn.BatchNorm2d(6)
        self.twice = nn.Conv2d(6, 6, 3, 1, 1)
        self.last = nn.Conv2d(6, 8, 3, 2, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu_(self.norm(self.stem(x)))
        x = self.twice(functional.relu(self.twice(x)))
        x = self.last(x)
        x.relu_()
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def small():
    net, x = seeded(Small()), noise(3, 3, 24, 24)
    return net, x, LRPEngine(net, x, ["stem", "norm", "last"], "epsilon-plus-flat")


PAIRS = (
    torch.tensor([2, 0, 1, 0, 2, 2, 0]),
    torch.tensor([0, 7, 3, 3, 5, 0, 7]),
    torch.tensor([1, 1, 1, 1, 1, 1, 1]),
)


@pytest.mark.slow
def test_many_starts_are_the_single_ones(small):
    _, x, engine = small
    together = conditional_heatmaps(engine, x, "last", *PAIRS)
    for place in range(len(PAIRS[0])):
        one = [part[place : place + 1] for part in PAIRS]
        torch.testing.assert_close(
            together[place], conditional_heatmaps(engine, x, "last", *one)[0]
        )
    assert together.abs().amax((1, 2)).min() > 0


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_the_size_of_chunks_changes_nothing(small, chunk):
    _, x, engine = small
    expected = conditional_heatmaps(engine, x, "last", *PAIRS)
    got = conditional_heatmaps(engine, x, "last", *PAIRS, chunk=chunk)
    torch.testing.assert_close(got, expected)


def test_order_and_repetition_change_nothing(small):
    _, x, engine = small
    image, channel, sign = PAIRS
    expected = conditional_heatmaps(engine, x, "last", *PAIRS)
    twice = torch.cat([x.flip(0), x])  # image i stands at 2 - i and at 3 + i
    for place in (2 - image, 3 + image, torch.where(channel > 3, 2 - image, 3 + image)):
        got = conditional_heatmaps(engine, twice, "last", place, channel, sign)
        torch.testing.assert_close(got, expected)


def test_no_pairs_are_no_heatmaps(small):
    _, x, engine = small
    none = torch.zeros(0, dtype=torch.int64)
    assert conditional_heatmaps(engine, x, "last", none, none, none).shape == (0, 24, 24)


def test_a_value_that_is_overwritten_later_is_the_layer_s_own(small):
    net, x, engine = small
    values = engine.trace(x).values["last"]
    assert float(values.min()) < 0  # before relu_
    kept = []
    hook = net.last.register_forward_hook(lambda _m, _i, out: kept.append(out.clone()))
    with torch.no_grad():
        net(x)
    hook.remove()
    torch.testing.assert_close(values, kept[0])


def test_components_of_sign_minus_one(small):
    _, x, engine = small
    for layer in ("last", "stem"):
        pair = torch.tensor([1]), torch.tensor([2]), torch.tensor([-1])
        got = conditional_heatmaps(engine, x, layer, *pair)[0]
        torch.testing.assert_close(got, dense_heat(engine, x, layer, 1, 2, -1))


def test_a_convolution_that_is_asked_for_is_not_folded_away(small):
    net, x, engine = small
    values = engine.trace(x).values
    with torch.no_grad():
        torch.testing.assert_close(values["stem"], net.stem(x))
        torch.testing.assert_close(values["norm"], net.norm(net.stem(x)))
    alone = LRPEngine(net, x, ["norm"], "epsilon-plus-flat")
    assert len(alone.graph.nodes) < len(engine.graph.nodes)
    torch.testing.assert_close(alone.trace(x).values[OUTPUT], values[OUTPUT])


def test_a_layer_that_runs_twice_cannot_be_asked_for(small):
    net, x, _ = small
    with pytest.raises(LayerError) as caught:
        LRPEngine(net, x, ["twice"])
    assert_says(caught.value, "twice")
    with pytest.raises(LayerError):
        LRPEngine(net, x, ["thrice"])
    with pytest.raises(LayerError):
        GradientEngine(net, x, ["thrice"])


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    net, x = seeded(Small()).train(training), noise(3, 3, 24, 24)
    net.stem.weight.requires_grad_(False)
    net.norm.eval()
    calls = []
    hook = net.last.register_forward_hook(lambda *_: calls.append(1))

    def state():
        return (
            [module.training for module in net.modules()],
            [p.requires_grad for p in net.parameters()],
            [id(p) for p in net.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
            [p.grad for p in net.parameters()],
        )

    before, weights = state(), {k: v.clone() for k, v in net.state_dict().items()}
    for engine in (LRPEngine(net, x, ["last"]), GradientEngine(net, x, ["last"])):
        conditional_heatmaps(engine, x, "last", *PAIRS)
        class_relevance(engine, x, torch.tensor([0, 1, 2]))
        assert state() == before
    for key, value in net.state_dict().items():
        assert torch.equal(value, weights[key]), key
    hook.remove()
    assert not x.requires_grad


class Tokens(nn.Module):
    """A class token and a grid of 3 x 3, then the same as a map with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 8, 8)
        self.cls = nn.Parameter(torch.zeros(1, 1, 6))
        self.mix = nn.Linear(6, 6)
        self.grid = nn.LayerNorm(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.mix(torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1))
        x = x + x.mean(1, keepdim=True)
        return self.head(self.grid(x[:, 1:].unflatten(1, (3, 3))).mean((1, 2)))


@functools.cache
def tokens():
    net, x = seeded(Tokens()), noise(2, 3, 24, 24)
    return LRPEngine(net, x, ["mix", "grid", "head"], "cp-lrp"), x


@pytest.mark.parametrize("layer", ["mix", "grid", "head"])
@pytest.mark.parametrize("sign", [1, -1])
def test_layers_of_tokens_maps_with_channels_last_and_units(layer, sign):
    engine, x = tokens()
    trace = engine.trace(x)
    value = trace.values[layer]
    pairs = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 3]), torch.full((3,), sign)
    heat = conditional_heatmaps(engine, x, layer, *pairs)
    for got, image, channel in zip(heat, *(part.tolist() for part in pairs[:2]), strict=True):
        flow = torch.zeros(1, *value.shape, dtype=value.dtype)
        if layer == "head":
            flow[0, image, channel] = sign
        else:
            one = value[image].flatten(0, -2)[:, channel] * sign
            if layer == "mix":
                one[0] = -torch.inf  # the class token has no place in the image
            flow[0, image].view(-1, value.shape[-1])[one.argmax(), channel] = sign
        torch.testing.assert_close(
            got, trace.backward({layer: BackwardSignal(flow)}).heatmaps[0, image]
        )


def test_relevance_of_components_by_sign(small):
    net, x, engine = small
    trace = engine.trace(x)
    targets = torch.tensor([[0, 1, 2], [4, 4, 4]])
    flow = trace.backward({OUTPUT: class_seed(trace, targets)}, ["last"], heatmaps=False).layers[
        "last"
    ]
    found = component_relevance(trace, "last", flow)
    relevance = trace.values["last"] * flow
    assert found.shape == (2, 3, 2, 8)
    torch.testing.assert_close(found.sum(2), relevance.sum((3, 4)).float())
    below = torch.where(trace.values["last"] < 0, relevance, 0).sum((3, 4))
    torch.testing.assert_close(found[:, :, 1], below.float())
    torch.testing.assert_close(
        class_relevance(engine, x, targets[0])["last"], found[0].sum(1), atol=1e-6, rtol=1e-5
    )
    part = shares(found[0].sum(1))
    torch.testing.assert_close(part.abs().sum(1), torch.ones(3))
    assert not shares(torch.zeros(2, 4)).any()


def test_targets_and_sizes_that_do_not_fit(small):
    _, x, engine = small
    for target in (-1, 5):
        with pytest.raises(RelevanceError) as caught:
            class_relevance(engine, x, torch.tensor([0, target, 0]))
        assert_says(caught.value, str(target), "0 to 4")
    with pytest.raises(RelevanceError) as caught:
        engine.trace(x[..., :20])
    assert_says(caught.value, "[3, 24, 20]", "[3, 24, 24]")
    with pytest.raises(LayerError) as caught_layer:
        engine.trace(x, ["head"])
    assert_says(caught_layer.value, "head", "made for")
