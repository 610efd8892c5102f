"""Models that once gave wrong relevance, or none, without saying so."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_says
from torch import Tensor, nn
from torch.nn import functional

import semlens as sl
from semlens.errors import RelevanceError
from semlens.relevance.assign_rules import nonnegative_nodes
from semlens.relevance.class_relevance import class_relevance
from semlens.relevance.conditional_heatmaps import conditional_heatmaps
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.make_engine import FallbackWarning, GradientEngine, make_engine


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Net(nn.Module):
    """A convolution, what a test puts behind it, and a head."""

    def __init__(self, between, channels: int = 6, **parts: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, 1, 1)
        self.between = between
        self.last = nn.Conv2d(channels, 5, 3, 1, 1)
        self.head = nn.Linear(5, 4)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        x = self.between(self, functional.relu(self.stem(x)))
        return self.head(functional.relu(self.last(x)).mean((2, 3)))


def pairs():
    return torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 2, 3]), torch.ones(4, dtype=torch.int64)


def peaks(engine, x, layer, image, channel):
    maps = engine.trace(x, [layer]).values[layer]
    return maps[image, channel].flatten(1).argmax(1)


STEMS = {
    "alexnet": nn.Conv2d(3, 8, 11, 4, 2),
    "lenet": nn.Sequential(nn.Conv2d(3, 8, 5), nn.ReLU(), nn.Conv2d(8, 8, 5)),
    "squeezenet": nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU()),
    "pooled": nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2)),
    "padded": nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()),
}


@pytest.mark.parametrize("name", list(STEMS))
def test_known_positions_start_where_the_peak_is(name):
    net = nn.Sequential(STEMS[name], nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = net.double().eval()
    x = noise(2, 3, 64, 64)
    engine = LRPEngine(net, x, ["0"])
    image, channel, sign = pairs()
    position = peaks(engine, x, "0", image, channel)
    found = conditional_heatmaps(engine, x, "0", image, channel, sign, position=position)
    expected = conditional_heatmaps(engine, x, "0", image, channel, sign)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert (engine.receptive_field("0") is not None) == (name == "padded")


def row_and_column_gates(self, x):
    return x * x.mean(3, keepdim=True).sigmoid() * x.mean(2, keepdim=True).sigmoid()


def a_row_is_added(self, x):
    return x + self.row(x.mean(2, keepdim=True))


@pytest.mark.parametrize("between", [row_and_column_gates, a_row_is_added])
def test_factors_of_one_row_or_column_keep_their_place(between):
    net = Net(between, row=nn.Conv2d(6, 6, 1)).double().eval()
    x = noise(2, 3, 24, 24)
    engine = LRPEngine(net, x, ["last"], "epsilon")
    image, channel, sign = pairs()
    found = conditional_heatmaps(engine, x, "last", image, channel, sign)
    whole = engine.trace(x, ["last"])
    value = whole.values["last"]
    position = value[image, channel].flatten(1).argmax(1)
    for n in range(4):
        dense = torch.zeros(1, *value.shape, dtype=torch.float64)
        dense[0, image[n], channel[n]].view(-1)[position[n]] = 1
        from semlens.relevance.backward_signal import BackwardSignal

        heat = whole.backward({"last": BackwardSignal(dense)}).heatmaps[0, image[n]]
        assert heat.abs().sum() > 0
        torch.testing.assert_close(found[n], heat, rtol=1e-9, atol=1e-12)


def test_batch_norm_over_features_keeps_its_axes():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.BatchNorm1d(4), nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4),
    ).double()  # fmt: skip
    net(noise(8, 3, 16, 16))
    net.eval()
    x = noise(2, 3, 16, 16)
    found = class_relevance(LRPEngine(net, x, ["7"], "epsilon"), x, torch.tensor([1, 2]))
    values = net[:8](x)
    expected = values * net[8].weight[torch.tensor([1, 2])]
    torch.testing.assert_close(found["7"], expected.detach().float(), rtol=1e-4, atol=1e-6)


class Hyper(nn.Module):
    """A dense layer whose weights depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.maker = nn.Linear(3, 12)
        self.bias = nn.Parameter(torch.arange(4.0))

    def forward(self, x):
        x = x.mean((2, 3))
        return functional.linear(x[:1], self.maker(x[:1]).view(4, 3), self.bias)


def test_weights_that_depend_on_the_image_keep_their_bias():
    net = Hyper().double().eval()
    x = noise(1, 3, 8, 8)
    engine = make_engine(net, x, ["maker"])
    torch.testing.assert_close(engine.trace(x).values[""].detach(), net(x).detach())


class CondConv(Net):
    """A convolution whose kernel is mixed for each image."""

    def __init__(self) -> None:
        super().__init__(lambda self, x: x)

    def forward(self, x):
        kernel = self.last.weight * x.mean().sigmoid()
        return self.head(functional.conv2d(functional.relu(self.stem(x)), kernel).mean((2, 3)))


class Scaled(nn.Module):
    """``addmm`` with a factor, which no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3)
        self.weight = nn.Parameter(torch.randn(6, 4))
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return torch.addmm(self.bias, self.conv(x).relu().mean((2, 3)), self.weight, alpha=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("net", "layer"), [(CondConv(), "stem"), (Scaled(), "conv")])
def test_operators_used_in_other_ways_are_told(net, layer):
    x = noise(2, 3, 16, 16).float()
    with pytest.raises(RelevanceError) as error:
        LRPEngine(net.eval(), x, [layer])
    assert_says(error.value, "gradient")
    with pytest.warns(FallbackWarning):
        assert make_engine(net, x, [layer]).rules.name == "gradient"


def test_gradients_are_read_before_a_layer_is_overwritten():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    x = noise(2, 3, 12, 12).float()
    trace = GradientEngine(net, x, ["0"]).trace(x)
    torch.testing.assert_close(trace.values["0"].detach(), net[0](x).detach())
    torch.testing.assert_close(trace.values[""].detach(), net(x).detach())


@pytest.mark.slow
def test_a_learned_query_gets_nothing_and_breaks_nothing():
    timm = pytest.importorskip("timm")
    net = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=4,
        global_pool="map", class_token=False,
    ).eval()  # fmt: skip
    x = noise(2, 3, 32, 32).float()
    for rules in ("attnlrp", "cp-lrp"):
        engine = LRPEngine(net, x, ["blocks.0"], rules)
        found = class_relevance(engine, x, torch.tensor([1, 2]))["blocks.0"]
        assert found.isfinite().all()
        assert found.abs().sum() > 0


class Places(nn.Module):
    """A convolution times a learned map of places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, 1, 1)
        self.map = nn.Parameter(torch.rand(1, 1, 64, 64))
        self.second = nn.Conv2d(4, 4, 3, 1, 1)

    def forward(self, x):
        y = self.conv(x) * self.map
        return (self.second(y) + torch.zeros_like(self.conv(x))).mean((2, 3))


def test_constants_that_know_their_place_forbid_patches():
    net = Places().double().eval()
    x = noise(2, 3, 64, 64)
    engine = LRPEngine(net, x, ["second"])
    assert engine.receptive_field("second") is None
    image, channel, sign = pairs()
    position = peaks(engine, x, "second", image, channel)
    found = conditional_heatmaps(engine, x, "second", image, channel, sign, position=position)
    expected = conditional_heatmaps(engine, x, "second", image, channel, sign)
    torch.testing.assert_close(found, expected)


def bicubic(self, x):
    return functional.interpolate(x, scale_factor=2, mode="bicubic")


def with_a_negative_channel(self, x):
    return torch.cat([x, -torch.ones_like(x[:1, :1]).expand(x.shape[0], -1, -1, -1)], 1)


def filled(self, x):
    return functional.pad(x, (1, 1, 1, 1), value=-0.5)


@pytest.mark.parametrize(
    ("between", "channels"), [(bicubic, 6), (with_a_negative_channel, 7), (filled, 6)]
)
def test_what_may_be_negative_is_not_called_positive(between, channels):
    net = Net(between, channels).double().eval()
    x = noise(2, 3, 16, 16)
    engine = LRPEngine(net, x, ["last"])
    positive = nonnegative_nodes(engine.graph)
    assert engine.node("last").args[0] not in positive

    def check_positive(node, value):
        if node in positive:
            assert value.min() >= 0, node

    with torch.no_grad():
        engine.graph.run(x, engine.graph.nodes, check_positive)


def test_wrong_rules_are_known_before_the_work(tmp_path, subject, images, embedder):
    with pytest.raises(RelevanceError) as error:
        sl.build(tmp_path / "db", subject, images, embedder, ["first"], rules="nonsense")
    assert_says(error.value, "nonsense", "epsilon-plus-flat")
    assert not (tmp_path / "db" / "partial").exists()
    with pytest.raises(RelevanceError, match="above 0"):
        sl.Rules("own", epsilon=0.0)
