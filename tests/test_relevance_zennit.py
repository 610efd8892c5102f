"""Relevance against golden files that zennit 1.0 made (tests/golden/zennit/make.py)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from semlens.relevance.class_relevance import class_relevance, class_seed
from semlens.relevance.conditional_heatmaps import conditional_heatmaps
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.protocols import OUTPUT

GOLDEN = Path(__file__).parent / "golden" / "zennit"
sys.path.insert(0, str(GOLDEN))
from subjects import RECIPES, subject  # noqa: E402


@pytest.fixture(scope="module", params=RECIPES)
def case(request):
    name = request.param
    network, inputs = subject(name)
    recipe = RECIPES[name]
    layers = list(dict.fromkeys([*recipe.layers, *recipe.starts]))
    golden = load_file(GOLDEN / f"{name}.safetensors")
    return recipe, LRPEngine(network, inputs, layers, "epsilon-plus-flat"), inputs, golden


def assert_near(got, expected):
    """To 1e-4 of the largest value of each map."""
    assert got.shape == expected.shape
    scale = expected.abs().amax(tuple(range(2, expected.ndim)) or 1, keepdim=True)
    assert float(((got - expected).abs() / scale).max()) < 1e-4


@pytest.mark.slow
def test_the_network_is_the_one_of_the_golden_file(case):
    _, engine, inputs, golden = case
    torch.testing.assert_close(engine.trace(inputs).values[OUTPUT], golden["logits"])


@pytest.mark.slow
def test_class_heatmaps(case):
    _, engine, inputs, golden = case
    trace = engine.trace(inputs)
    heat = trace.backward({OUTPUT: class_seed(trace, golden["class/target"][None])}).heatmaps
    assert_near(heat[0], golden["class/heatmap"])


def test_class_relevance_of_channels(case):
    recipe, engine, inputs, golden = case
    found = class_relevance(engine, inputs, golden["class/target"], recipe.layers)
    for layer in recipe.layers:
        assert_near(found[layer], golden[f"class/{layer}"])


@pytest.mark.slow
def test_conditional_heatmaps(case):
    recipe, engine, inputs, golden = case
    for layer in recipe.starts:
        channel = golden[f"start/{layer}/channel"]
        count = channel.shape[1]
        image = torch.arange(len(inputs)).repeat_interleave(count)
        sign = torch.ones_like(image)
        got = conditional_heatmaps(engine, inputs, layer, image, channel.flatten(), sign)
        assert_near(got.unflatten(0, (-1, count)), golden[f"start/{layer}/heatmap"])
        peaks = engine.trace(inputs, [layer]).values[layer].flatten(2).amax(2)
        torch.testing.assert_close(
            peaks.gather(1, channel), golden[f"start/{layer}/activation"], atol=1e-9, rtol=1e-9
        )
