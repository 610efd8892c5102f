"""The engine as a whole: a transformer by hand, precision, what is refused, and the fallback."""

from __future__ import annotations

import math
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import assert_says, to_tensor
from relevance_cases import (
    attend,
    by_contributions,
    matrix,
    noise,
    normalisation,
    rules_of,
    seeded,
    signed,
)
from torch import nn
from torch.nn import functional

from semlens.errors import RelevanceError
from semlens.models.subject import SubjectModel
from semlens.relevance.assign_rules import PRODUCTS, WEIGHTED_SUMS
from semlens.relevance.class_relevance import class_relevance, class_seed
from semlens.relevance.conservation import check_conservation, conserved_shares
from semlens.relevance.expansions import EXPANSIONS
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.make_engine import (
    ConservationWarning,
    EngineCache,
    FallbackWarning,
    GradientEngine,
    engine_for,
    make_engine,
)
from semlens.relevance.presets import AUTO, PRESETS, Rules, preset
from semlens.relevance.protocols import OUTPUT
from semlens.relevance.rules.base import LOG_SOFTMAX, SHARES, SLOPES, SOFTMAX
from semlens.relevance.rules.structure import LINEAR, MAXIMUM


class OneBlock(nn.Module):
    """A vision transformer of one block, in the usual order."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.places = nn.Parameter(torch.zeros(4, 8))
        self.before, self.between = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.join = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 5)

    def attention(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2).flatten(2), (q, k, v, out)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.places
        x = x + self.join(self.attention(self.before(x))[0])
        x = x + self.down(functional.gelu(self.up(self.between(x))))
        return self.head(x.mean(1))


def slow_attnlrp(net, x, target):
    """AttnLRP of one image, step by step in relevance, with the gamma rule for weighted sums."""

    def dense(layer, value, relevance):
        pairs = zip(value, relevance, strict=True)
        return torch.stack(
            [by_contributions("gamma", layer.weight, layer.bias, v, r) for v, r in pairs]
        )

    def norm(layer, value, relevance):
        z = normalisation(layer, value) * value.flatten()
        share = z / layer(value).flatten()[:, None] * relevance.flatten()[:, None]
        return share.sum(0).view_as(value)

    patches = net.patch(x[None]).flatten(2).transpose(1, 2)[0]
    tokens = patches + net.places
    normed = net.before(tokens)
    mixed, heads = net.attention(normed[None])
    q, k, v, out = (part[0] for part in heads)
    joined = net.join(mixed[0])
    middle = tokens + joined
    second = net.between(middle)
    raised = net.up(second)
    lowered = net.down(functional.gelu(raised))
    last = middle + lowered
    logits = net.head(last.mean(0))

    relevance = torch.zeros(5, dtype=x.dtype)
    relevance[target] = logits[target]
    relevance = by_contributions("gamma", net.head.weight, net.head.bias, last.mean(0), relevance)
    relevance = last / 4 / last.mean(0) * relevance
    part = relevance / signed(last)
    inner = dense(net.down, functional.gelu(raised), lowered * part)
    at_middle = middle * part + norm(net.between, middle, dense(net.up, second, inner))
    part = at_middle / signed(middle)
    to_heads = dense(net.join, mixed[0], joined * part).unflatten(1, (2, 4))
    by_head = [attend(q[h], k[h], v[h], out[h], to_heads[:, h], False, None, False) for h in (0, 1)]
    to_qkv = torch.cat([torch.cat([head[i] for head in by_head], 1) for i in range(3)], 1)
    at_tokens = tokens * part + norm(net.before, tokens, dense(net.qkv, normed, to_qkv))
    at_patches = patches / signed(tokens) * at_tokens
    weight, bias = matrix(net.patch, x.shape)
    pixels = by_contributions("gamma", weight, bias, x.flatten(), at_patches.T.flatten())
    return logits[target], pixels.view_as(x).sum(0)


@pytest.mark.slow
@torch.no_grad()
def test_attnlrp_of_a_transformer_is_that_of_its_equations():
    net, x = seeded(OneBlock()), noise(2, 3, 8, 8)
    trace = LRPEngine(net, x, [], rules_of("gamma", attention="taylor")).trace(x)
    start = class_seed(trace, torch.tensor([[1, 3]]))
    heat = trace.backward({OUTPUT: start}).heatmaps[0]
    for image, target in ((0, 1), (1, 3)):
        logit, expected = slow_attnlrp(net, x[image], target)
        torch.testing.assert_close(trace.values[OUTPUT][image, target], logit)
        torch.testing.assert_close(heat[image], expected)


@pytest.mark.slow
def test_half_precision_computes_in_float32():
    net, x = seeded(OneBlock()).float(), noise(2, 3, 8, 8).float()
    expected = check_conservation(LRPEngine(net, x, ["up"]), x)
    for dtype in (torch.float16, torch.bfloat16):
        small = seeded(OneBlock()).to(dtype)
        for engine in (LRPEngine(small, x.to(dtype), ["up"]), GradientEngine(small, x, ["up"])):
            assert next(small.parameters()).dtype == dtype
            trace = engine.trace(x.to(dtype))
            assert trace.values[OUTPUT].dtype == torch.float32
        got = check_conservation(LRPEngine(small, x.to(dtype), ["up"]), x)
        assert got.start == pytest.approx(expected.start, rel=0.1)
        assert got.pixels == pytest.approx(expected.pixels, rel=0.1, abs=0.02)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        x = x.mean((2, 3))
        return self.head(x) if x.sum() > 0 else -self.head(x)


class Plain(nn.Module):
    """A convolution, an operation to choose, and a head."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation = operation
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.operation(self.conv(x)).mean((2, 3)))


UNKNOWN = {
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(1),
    "erf": torch.erf,
    "fft": lambda x: torch.fft.rfft2(x).abs(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNKNOWN)
def test_operations_without_a_rule_are_named(name):
    net, x = Plain(UNKNOWN[name]).eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(RelevanceError) as caught:
        LRPEngine(net, x, ["conv"])
    assert_says(caught.value, name, "gradient")
    with pytest.raises(RelevanceError):
        make_engine(net, x, ["conv"], "epsilon")
    with pytest.warns(FallbackWarning, match=name):
        engine = make_engine(net, x, ["conv"])
    assert engine.rules.name == "gradient"


def test_branches_on_values_fall_back():
    net, x = Branching(), torch.randn(2, 3, 8, 8)
    with pytest.raises(RelevanceError) as caught:
        LRPEngine(net, x, [])
    assert_says(caught.value, "Branching", "captured")
    with pytest.warns(FallbackWarning, match="noisier"):
        make_engine(net, x, [])


class Late(Exception):
    """What a time-out's signal raises: no fault of the model's."""


class Traced(Plain):
    """Raises something while it is traced, and only then."""

    def __init__(self, error) -> None:
        super().__init__(nn.ReLU())
        self.error = error

    def forward(self, x):
        if type(x) is not torch.Tensor:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize(
    "error",
    [Late("now"), TimeoutError("now"), MemoryError(), KeyboardInterrupt(),
     torch.OutOfMemoryError("no room"), RuntimeError("can't allocate memory: 8 GB")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_is_not_the_models_fault_is_no_reason_to_fall_back(error):
    with pytest.raises(type(error)):
        make_engine(Traced(error), torch.randn(2, 3, 8, 8), ["conv"])


@pytest.mark.parametrize("error", [RuntimeError("a branch"), KeyError("x"), TypeError()])
def test_what_is_the_models_fault_falls_back(error):
    with pytest.warns(FallbackWarning, match=type(error).__name__):
        make_engine(Traced(error), torch.randn(2, 3, 8, 8), ["conv"])


def test_a_rule_that_is_interrupted_is_interrupted(monkeypatch):
    def interrupted(*_):
        raise Late

    monkeypatch.setattr("semlens.relevance.lrp_engine.canonicalize", interrupted)
    with pytest.raises(Late):
        make_engine(Plain(nn.ReLU()), torch.randn(2, 3, 8, 8), ["conv"])


class Against(nn.Module):
    """What speaks for its classes are sums of negative terms only, which z+ drops."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, bias=False)
        self.conv, self.head = nn.Conv2d(6, 8, 3, bias=False), nn.Linear(8, 4)
        self.conv.weight.data = -self.conv.weight.data.abs()
        self.head.weight.data = -self.head.weight.data.abs()
        self.head.bias.data.fill_(bias)

    def forward(self, x):
        return self.head(self.conv(torch.relu(self.stem(x))).mean((2, 3)))


@pytest.mark.slow
def test_auto_takes_the_first_preset_that_conserves():
    net, x = Against().eval(), torch.randn(2, 3, 12, 12)
    assert (conserved_shares(LRPEngine(net, x, []), x) < 0.01).all()
    engine = make_engine(net, x, ["conv"])
    assert engine.rules.name == "epsilon-gamma"
    np.testing.assert_allclose(conserved_shares(engine, x), 1, atol=0.01)
    # as if it had been asked for by name
    target = torch.tensor([0, 1])
    named = class_relevance(make_engine(net, x, ["conv"], "epsilon-gamma"), x, target)["conv"]
    assert torch.equal(class_relevance(engine, x, target)["conv"], named)
    assert make_engine(Plain(nn.ReLU()).eval(), x, []).rules.name == "epsilon-plus-flat"


class Erratic(nn.Module):
    """Shares of the logit far below and above one, whose mean is near it, under any rules."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def test_a_preset_that_conserves_by_the_mean_only_is_not_preferred(monkeypatch):
    shares = {"epsilon-plus-flat": [0.4, 0.45], "epsilon-gamma": [0.05, 1.95], "epsilon": [3, -1]}
    module = sys.modules["semlens.relevance.make_engine"]
    monkeypatch.setattr(
        module, "conserved_shares", lambda engine, _: np.array(shares[engine.rules.name])
    )
    with pytest.warns(ConservationWarning, match=r"'epsilon-plus-flat' 0\.4"):
        engine = make_engine(Erratic().eval(), torch.randn(2, 3, 12, 12), ["conv"])
    assert engine.rules.name == "epsilon-plus-flat"


@pytest.mark.slow
def test_rules_that_do_not_conserve_are_said():
    net, x = Against(bias=100.0).eval(), torch.randn(2, 3, 12, 12)
    told = r"0\.0\d of a logit .* Biases absorb 0\.98 of the logit, most in 'head' \(0\.98\)"
    with pytest.warns(ConservationWarning, match=told):
        make_engine(net, x, ["conv"])
    told = r"0\.0\d of a logit reaches the layers.*mislead"  # wherever one looks
    with pytest.warns(ConservationWarning, match=told):
        make_engine(net, x, ["conv"], heatmaps=False)
    with pytest.warns(ConservationWarning, match="epsilon-plus-flat"):
        assert make_engine(Against(), x, [], "epsilon-plus-flat").rules.name == "epsilon-plus-flat"


@pytest.mark.slow
def test_the_choice_is_the_models_whatever_the_images():
    model = SubjectModel(Against().eval(), to_tensor, "v")
    engines = EngineCache(model, "auto")
    for inputs in (torch.zeros(1, 3, 32, 32), torch.randn(1, 3, 32, 32), torch.randn(1, 3, 24, 20)):
        engine = engines.engine(inputs, ["conv"])
        assert engine.rules.name == "epsilon-gamma" == engines.rules_name(["conv"])
        engine.trace(inputs)
    assert engine_for(model, ["conv"]).rules.name == "epsilon-gamma"


def test_a_pass_that_fixes_its_batch_size_falls_back():
    class Fixed(Plain):
        def forward(self, x):
            return super().forward(x.reshape(len(x), 3, 8, 8))

    with pytest.warns(FallbackWarning, match="1 images|2 images|captured"):
        make_engine(Fixed(nn.ReLU()), torch.randn(2, 3, 8, 8), ["conv"])


def test_quantised_layers_have_no_relevance():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, torch.qint8)
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(RelevanceError) as caught:
        LRPEngine(quantised, x, [])
    assert_says(caught.value, "gradient")
    with pytest.raises(RelevanceError) as caught, warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        make_engine(quantised, x, [])
    assert_says(caught.value, "quantis")


@pytest.mark.slow
def test_a_compiled_model_is_the_model():
    net = seeded(OneBlock()).float()
    x = noise(2, 3, 8, 8).float()
    subject = SubjectModel(torch.compile(net), lambda image: x[0], "none", "python:compiled")
    got = class_relevance(LRPEngine(subject.module, x, ["up"]), x, torch.tensor([0, 1]))["up"]
    expected = class_relevance(LRPEngine(net, x, ["up"]), x, torch.tensor([0, 1]))["up"]
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("make", [LRPEngine, GradientEngine])
def test_values_that_are_not_finite_are_refused(make):
    net, x = Plain(nn.ReLU()).eval(), torch.randn(2, 3, 8, 8)
    engine = make(net, x, ["conv"])
    with pytest.raises(RelevanceError) as caught:
        engine.trace(x * math.inf)
    assert_says(caught.value, "conv", "finite")
    net.head.weight.data[0, 0] = math.nan
    with pytest.raises(RelevanceError) as caught:
        make(net, x, ["conv"]).trace(x)
    assert_says(caught.value, "finite")


@pytest.mark.parametrize("make", [LRPEngine, GradientEngine])
def test_a_model_without_logits_has_no_classes(make):
    engine = make(nn.Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8), [])
    for verb in (lambda x: class_relevance(engine, x, torch.tensor([0, 1])),
                 lambda x: check_conservation(engine, x)):  # fmt: skip
        with pytest.raises(RelevanceError) as caught:
            verb(torch.randn(2, 3, 8, 8))
        assert_says(caught.value, "logits")


def test_the_fallback_is_gradient_times_input():
    net, x = Plain(torch.erf).double().eval(), noise(2, 3, 8, 8)
    trace = GradientEngine(net, x, ["conv"]).trace(x)
    found = trace.backward({OUTPUT: class_seed(trace, torch.tensor([[0, 3], [2, 2]]))}, ["conv"])
    leaf = x.clone().requires_grad_()
    kept = net.conv(leaf)
    logits = net.head(torch.erf(kept).mean((2, 3)))
    for start, targets in enumerate(([0, 3], [2, 2])):
        score = logits[0, targets[0]] + logits[1, targets[1]]
        pixels, conv = torch.autograd.grad(score, [leaf, kept], retain_graph=True)
        torch.testing.assert_close(found.heatmaps[start], (pixels * x).sum(1))
        torch.testing.assert_close(found.layers["conv"][start], conv)


@pytest.mark.slow
def test_rules_by_family_by_name_and_by_layer():
    cnn, transformer = Plain(nn.ReLU()).eval(), seeded(OneBlock()).float()
    x = torch.randn(2, 3, 8, 8)
    assert LRPEngine(cnn, x, []).rules.name == "epsilon-plus-flat"
    assert LRPEngine(transformer, x, []).rules.name == "attnlrp"
    own = preset("epsilon", layers={"conv": "zplus"})
    assert own.rule_for(("", "conv"), "first") == "zplus"
    assert own.rule_for(("", "other"), "conv") == "epsilon"
    heat = []
    for rules in ("epsilon", own, Rules("z", "zplus", "zplus", "epsilon")):
        trace = LRPEngine(cnn, x, [], rules).trace(x)
        start = class_seed(trace, torch.tensor([[0, 1]]))
        heat.append(trace.backward({OUTPUT: start}).heatmaps)
    plain, changed, same = heat
    torch.testing.assert_close(changed, same)
    assert not torch.allclose(changed, plain)
    with pytest.raises(RelevanceError) as caught:
        preset("epsilom")
    assert_says(caught.value, "epsilom", "epsilon")
    with pytest.raises(RelevanceError):
        Rules("own", epsilon=-1.0)


PAGE = (Path(__file__).resolve().parents[1] / "docs" / "relevance.md").read_text("utf-8")


def names(packets):
    """Plain names of operators, without those of torch's own inner ones."""
    found = {re.sub(r"^aten\.|\..*$", "", str(packet)) for packet in packets}
    return {name for name in found if not name.startswith("_")}


def test_the_page_lists_the_operators_that_have_rules():
    start = PAGE.index("## Supported operations")
    rows = re.findall(r"^\| ([\w, ]+) \| (`.*`) \|$", PAGE[start : PAGE.index("## Families")], re.M)
    listed: dict[str, set[str]] = {}
    for kind, cell in rows:
        listed.setdefault(kind, set()).update(re.findall(r"`(\w+)`", cell))
    assert listed == {
        "weighted sums": names([op for op in WEIGHTED_SUMS if hasattr(op, "overloadpacket")]),
        "products": names(PRODUCTS) | {"scaled_dot_product_attention"},
        "normalisations": {"batch_norm", "layer_norm", "rms_norm", "group_norm"},
        "elementwise": names(SHARES),
        "expanded": names([*SLOPES, *SOFTMAX, *LOG_SOFTMAX]),
        "rewritten": names(op for op in EXPANSIONS if hasattr(op, "overloadpacket")),
        "maxima": names(MAXIMUM),
        "moves, sums, means": names(LINEAR),
    }


def test_the_page_gives_the_order_of_auto():
    for order in AUTO.values():
        assert ", ".join(f"`{name}`" for name in order) in PAGE


def test_the_page_lists_the_presets():
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|", PAGE, re.M)
    known = [(r.name, r.first, r.conv, r.dense, r.attention) for r in PRESETS.values()]
    assert sorted(rows) == sorted(known)
