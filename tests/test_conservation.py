"""The account of relevance: all of it is found, and what absorbs it is known by operation."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from relevance_cases import noise, rules_of, seeded
from rich.console import Console
from torch import nn
from torch.nn import functional

from semlens.models.demo import demo_model, load_demo_net
from semlens.relevance.class_relevance import class_seed
from semlens.relevance.conservation import (
    KINDS,
    absorbed_relevance,
    check_conservation,
    conserved_shares,
)
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.make_engine import ConservationWarning, GradientEngine, make_engine
from semlens.relevance.protocols import OUTPUT


class Everything(nn.Module):
    """Each kind of operation that can absorb relevance, and many that must not."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=bias), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.alone = nn.BatchNorm2d(8)
        self.groups = nn.GroupNorm(2, 8)
        self.conv = nn.Conv2d(8, 8, 3, 1, 1, groups=2, bias=bias)
        self.gate = nn.Conv2d(8, 8, 1, bias=bias)
        self.cls = nn.Parameter(torch.zeros(1, 1, 8))
        self.places = nn.Parameter(torch.zeros(17, 8))
        self.norm = nn.LayerNorm(8, bias=bias)
        self.qkv = nn.Linear(8, 24, bias=bias)
        self.qkv2 = nn.Linear(8, 24, bias=bias)
        self.head = nn.Linear(8, 5, bias=bias)

    def forward(self, x):
        x = self.stem(x)
        x = x + functional.gelu(self.conv(self.groups(self.alone(x))))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        x = functional.avg_pool2d(functional.pad(x, (0, 1, 1, 0)), 2, 1)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.places
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        x = x + functional.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        q, k, v = self.qkv2(x).chunk(3, -1)
        x = x + (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v
        return self.head(x[:, 0] + x[:, 1:].amax(1))


RULES = ["epsilon", "zplus", "gamma", "flat"]


@pytest.fixture(scope="module")
def net():
    return seeded(Everything()), noise(3, 3, 16, 16)


@pytest.fixture(scope="module")
def captured(net):
    """The network's engine: ``with_rules`` spares another capture."""
    return LRPEngine(*net, ["stem", "norm"])


@pytest.mark.parametrize("attention", ["constant", "taylor"])
@pytest.mark.parametrize("kind", RULES)
def test_all_relevance_is_accounted_for(net, captured, kind, attention):
    module, x = net
    engine = captured.with_rules(rules_of(kind, attention=attention))
    found = check_conservation(engine, x, torch.tensor([0, 4, 2]))
    with torch.no_grad():
        logits = module(x)[torch.arange(3), torch.tensor([0, 4, 2])]
    np.testing.assert_allclose(found.start, logits, rtol=1e-9)
    sizes = np.abs(found.start) + sum(np.abs(part) for part in found.absorbed.values())
    assert np.all(np.abs(found.residual) <= 1e-9 * sizes)
    absorbing = [name for name in KINDS if np.abs(found.absorbed[name]).max() > 1e-6]
    assert absorbing == [k for k in KINDS if k != KINDS[-1] or attention == "taylor"]
    np.testing.assert_allclose(sum(found.by_module.values()), sum(found.absorbed.values()))


def test_totals_are_those_of_the_engine(net, captured):
    _, x = net
    engine = captured.with_rules("cp-lrp")
    found = check_conservation(engine, x)
    trace = engine.trace(x)
    target = trace.values[OUTPUT].argmax(1)
    pulled = trace.backward({OUTPUT: class_seed(trace, target[None])}, ["stem", "norm"])
    np.testing.assert_allclose(found.pixels, pulled.heatmaps[0].sum((1, 2)), rtol=1e-8)
    for layer in ("stem", "norm"):
        total = (pulled.layers[layer][0] * trace.values[layer]).flatten(1).sum(1)
        np.testing.assert_allclose(found.layers[layer], total, rtol=1e-8)


@pytest.mark.slow
def test_without_constants_nothing_is_absorbed_by_any_operation():
    """Per operation: with no bias, shift or constant, and a tiny stabiliser, all is passed on."""
    module = seeded(Everything(bias=False))
    for name, value in module.named_parameters():
        if name.endswith("bias") or name in ("cls", "places"):
            value.data.zero_()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.zero_()
    x = noise(1, 3, 16, 16)
    engine = LRPEngine(module, x, [], rules_of("epsilon", epsilon=1e-12))
    trace = engine.trace(x, keep_all=True)
    seen = []

    def look(rule, flow):
        kept = sum(
            float((flow.values[0] * share).abs().sum())
            for share in absorbed_relevance(rule, trace.all_values).values()
        )
        reached = float((flow.values[0] * trace.all_values[rule.node]).abs().sum())
        seen.append((rule, kept / max(reached, 1e-300)))

    start = class_seed(trace, torch.tensor([[2]]))
    heat = trace.backward({OUTPUT: start}, on_rule=look).heatmaps
    assert max(kept for _, kept in seen) < 1e-8
    assert {type(rule).__name__ for rule, _ in seen} >= {
        "Epsilon", "Sum", "Product", "Attention", "LayerNorm", "GroupNorm", "Join", "Reshape",
        "Gradient", "Activation", "MaxPool",
    }  # fmt: skip
    torch.testing.assert_close(heat.sum(), trace.values[OUTPUT][0, 2])


def test_operations_without_weights_keep_nothing_by_kind(net, captured):
    _, x = net
    engine = captured.with_rules(rules_of("gamma"))
    trace = engine.trace(x[:1], keep_all=True)
    passed_on = {"Reshape", "Activation", "MaxPool", "Product"}
    met = set()

    def look(rule, flow):
        name = type(rule).__name__
        if name in passed_on:
            met.add(name)
            assert absorbed_relevance(rule, trace.all_values) == {}

    trace.backward({OUTPUT: class_seed(trace, torch.tensor([[0]]))}, on_rule=look)
    assert met == passed_on


def test_a_bias_keeps_what_its_equation_says():
    layer = seeded(nn.Linear(3, 2)).requires_grad_(False)
    x = noise(2, 3, 1, 1)
    engine = LRPEngine(nn.Sequential(nn.Flatten(), layer), x, [], rules_of("epsilon"))
    found = check_conservation(engine, x, torch.tensor([0, 1]))
    for image in range(2):
        y = float(layer(x[image].flatten())[image])
        below = y + 1e-2 * np.sign(y)
        assert found.absorbed["biases"][image] == pytest.approx(
            float(layer.bias[image]) * y / below
        )
        assert found.absorbed["stabilisers"][image] == pytest.approx(y - y * y / below)


def test_the_table(net, captured):
    _, x = net
    found = check_conservation(captured.with_rules("cp-lrp"), x)
    table = found.to_pandas()
    assert list(table.columns) == ["part", "name", "share", "worst"]
    assert list(table["part"]) == ["layer"] * 2 + ["pixels"] + ["absorbed"] * 5 + ["residual"]
    rest = table[table["part"].isin(["pixels", "absorbed", "residual"])]
    assert rest["share"].sum() == pytest.approx(1)
    share = found.pixels / found.start
    worst = table[table["part"] == "pixels"]["worst"].item()
    assert abs(worst - 1) == pytest.approx(np.abs(share - 1).max())
    assert "cp-lrp" in repr(found) and "3 images" in repr(found) and "biases" in repr(found)
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(found)
    assert "residual" in capture.get() and "constants" in capture.get()


def test_gradient_has_totals_only(net):
    module, x = net
    engine = GradientEngine(module, x, ["stem", "norm"])
    found = check_conservation(engine, x, torch.tensor([1, 1, 1]))
    assert found.rules == "gradient" and not found.absorbed
    np.testing.assert_allclose(found.residual, found.start - found.pixels)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(module(leaf)[:, 1].sum(), leaf)
    np.testing.assert_allclose(found.pixels, (gradient * x).sum((1, 2, 3)), rtol=1e-8)


@pytest.mark.slow
def test_a_logit_that_is_zero_is_said_and_gives_no_shares():
    module = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))).float()
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = check_conservation(
        LRPEngine(module, x, ["0"], "epsilon"), x[1:], torch.tensor([1, 1])
    ).to_pandas()
    module[2].weight.data[0], module[2].bias.data[0] = 0, 0
    engine = LRPEngine(module, x, ["0"], "epsilon")
    some = check_conservation(engine, x, torch.tensor([0, 1, 1]))
    assert "0 on 1 of 3 images" in some.notice and some.notice in repr(some)
    pd.testing.assert_frame_equal(some.to_pandas(), expected)
    none = check_conservation(engine, x[:1], torch.tensor([0]))
    assert len(none.to_pandas()) == 0
    console = Console(width=100, record=True, quiet=False)
    console.print(none)
    for text in (repr(none), console.export_text()):
        assert "exactly 0" in " ".join(text.split()) and "nan" not in text.lower()
    assert check_conservation(engine, x, torch.tensor([1, 2, 3])).notice == ""
    assert np.isfinite(conserved_shares(engine, x)).all()
    module[2].weight.data[:], module[2].bias.data[:] = 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_engine(module, x, ["0"]).rules.name == "epsilon-plus-flat"


def test_what_biases_hold_is_told_apart_from_what_is_lost():
    """The demo: 0.59 of a logit belongs to biases, most of it below the layers of its database."""
    net, x = load_demo_net().double(), demo_model().example.double()
    told = (
        r"0\.41 of a logit reaches the pixels.* Biases absorb 0\.59 of the logit, most in "
        r"'layer3\.conv2' .*no other is lost"
    )
    with pytest.warns(ConservationWarning, match=told):
        engine = make_engine(net, x, ["layer3", "layer2"])
    account = check_conservation(engine, x)
    everything = account.pixels + account.absorbed["biases"]
    np.testing.assert_allclose(everything, account.start, rtol=1e-5)  # stabilisers: 1e-6
    # all of the relevance passes through the output of layer2
    at_layer = account.start - account.before_layers
    np.testing.assert_allclose(at_layer, account.layers["layer2"], rtol=1e-9)
    assert np.median(at_layer / account.start) > 0.6
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of which layers receive most
        make_engine(net, x, ["layer3", "layer2"], heatmaps=False)
