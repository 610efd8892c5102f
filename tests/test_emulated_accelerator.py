"""Builds and questions on a device other than the CPU, which is emulated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from conftest import (
    VEGETABLES,
    ColourEmbedder,
    LittleNet,
    plain_colours,
    spread_logits,
    to_tensor,
    write_pictures,
)  # fmt: skip
from emulated_accelerator import emulated_accelerator
from PIL import Image
from test_embedders import KINDS

import semlens as sl
from semlens.analysis.result import Result
from semlens.data.image_folder import ImageFolder
from semlens.embedders.load import load_embedder
from semlens.models.subject import SubjectModel
from semlens.relevance.make_engine import EngineCache
from semlens.run.plan import Execution
from semlens.stages.class_relevance import collect_class_relevance
from semlens.stages.collect import collect, layer_layouts

DEVICE = "emulated:0"
pytestmark = pytest.mark.filterwarnings("ignore:With rules")


def subject_on(device: str) -> SubjectModel:
    net = spread_logits(LittleNet(), plain_colours()).to(device)
    return SubjectModel(net, to_tensor, "32 bilinear", "python:little", VEGETABLES)


def test_it_refuses_what_a_gpu_refuses_and_counts_waits():
    with emulated_accelerator() as accelerator:
        value = torch.ones(3, device="emulated") + torch.ones(3).to("emulated")
        assert value.device == torch.device(DEVICE)
        assert value.cpu().tolist() == [2, 2, 2] and accelerator.waits == {"copy": 1}
        assert float(value.sum()) == 6 and accelerator.waits["value"] == 1
        with pytest.raises(RuntimeError, match="same device"):
            value + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            value.numpy()
        with pytest.raises(RuntimeError, match="cannot be indexed"):
            torch.ones(3)[torch.zeros(1, dtype=torch.int64, device="emulated")]
        value[1:] *= 2
        assert value.cpu().tolist() == [2, 4, 4]
        assert value.double().dtype == torch.float64
    with emulated_accelerator(float64=False), pytest.raises(TypeError, match="float64"):
        torch.ones(3, device="emulated").double()


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="PyTorch has no CUDA kernels")
def test_it_refuses_an_operator_without_a_cuda_kernel():
    with emulated_accelerator(), pytest.raises(NotImplementedError, match="no CUDA kernel"):
        torch.histogram(torch.ones(4, device="emulated"), 2)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory) -> ImageFolder:
    """41 pictures; the eight that are a batch of their own cannot be read."""
    folder = write_pictures(tmp_path_factory.mktemp("pictures"), 41)
    for path in sorted(folder.rglob("*.png"))[8:16]:
        path.write_bytes(b"not a picture")
    return ImageFolder(folder)


@pytest.mark.parametrize("float64", [True, False])
@pytest.mark.parametrize("crop", ["none", "activation", "crp"])
def test_a_build_says_the_same_as_on_the_cpu(tmp_path, spoilt, crop, float64):
    def build(name: str, model: SubjectModel) -> sl.ConceptDatabase:
        return sl.build(
            tmp_path / name, model, spoilt, ColourEmbedder(), ["first", "second"], examples=5,
            crop=crop, execution=Execution(8, 2), relevance=True,
            targets=[VEGETABLES[i % 4] for i in range(len(spoilt))],
        )  # fmt: skip

    expected = build("cpu", subject_on("cpu"))
    with emulated_accelerator(float64=float64):
        found = build("device", subject_on(DEVICE))
    np.testing.assert_allclose(found.theta, expected.theta, atol=1e-6)
    pd.testing.assert_frame_equal(found.summary(), expected.summary())
    pd.testing.assert_frame_equal(found.relevance(), expected.relevance())
    for name in ("first", "second"):
        pd.testing.assert_frame_equal(found.examples(name), expected.examples(name))


@pytest.mark.parametrize("relevance", [False, True])
def test_waits_do_not_grow_with_the_layers(images, relevance):
    def waits(layers: list[str]) -> int:
        model = subject_on(DEVICE)
        cache = EngineCache(model, "gradient")
        layouts = layer_layouts(model, layers, "max")
        rows = {layout.name: layout.components for layout in layouts}
        collect_class_relevance(model, cache, images, rows, range(8), None, batch_size=8)
        accelerator.waits.clear()
        if relevance:
            samples = range(len(images))
            collect_class_relevance(model, cache, images, rows, samples, None, batch_size=8)
            return accelerator.waits.total()
        collect(model, images, layouts, range(6), examples=5, readout="max", batch_size=8)
        return accelerator.waits.total() - 2 * len(layers)  # the result itself: keys and positions

    with emulated_accelerator() as accelerator:
        assert 6 <= waits(["second"]) == waits(["first", "second"]) <= 6 * 5


MARKED = ["layer3:5", "layer3:17"]
MARK = "text:hello"
QUESTIONS: dict[str, Callable[[sl.ConceptDatabase], Result]] = {
    "affected": lambda db: db.affected(MARKED, all_data=True),
    "attribution_graph": lambda db: db.attribution_graph("vegetable", samples=4),
    "border_swap": lambda db: db.border_swap("vegetable", count=8, reference=8),
    "colour_swap": lambda db: db.colour_swap("vegetable", count=8, reference=8),
    "contrast": lambda db: db.contrast(errors="vegetable"),
    "cut_out": lambda db: db.cut_out(MARKED, count=3),
    "effect": lambda db: db.effect("vegetable", MARKED, samples=8),
    "evaluate": lambda db: db.evaluate(samples=range(64)),
    "explain": lambda db: db.explain(db.images.read(3), without=MARKED),
    "model_test": lambda db: db.model_test("vegetable", artefacts=[MARK], count=16),
    "prune": lambda db: db.prune(MARKED),
    "region_swap": lambda db: db.region_swap("vegetable", count=8, reference=8),
    "retrain": lambda db: db.retrain([MARK], settings=sl.Training(epochs=1), only="test-"),
    "sensitivity": lambda db: db.sensitivity([MARK], prune=MARKED, only="test-"),
}
"""Every question that runs the model."""


def assert_close(found: object, expected: object) -> None:
    """Compare two JSON objects; numbers to five digits."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and list(found) == list(expected)
        for key in expected.keys() - {"seconds"}:
            assert_close(found[key], expected[key])
    elif isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected)
        for mine, other in zip(found, expected, strict=True):
            assert_close(mine, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True)
    else:
        assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_says_the_same_as_on_the_cpu(name, demo, tmp_path):
    def answer(device: str) -> object:
        copy = shutil.copytree(demo, tmp_path / device.partition(":")[0])
        shutil.rmtree(copy / "analysis", ignore_errors=True)
        result = QUESTIONS[name](sl.open(copy, device=device))
        return json.loads(json.dumps(result.to_json()).replace(str(copy), "DATABASE"))

    expected = answer("cpu")
    with emulated_accelerator(float64=False):
        assert_close(answer(DEVICE), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_an_embedder_says_the_same_as_on_the_cpu(name, tmp_path):
    make, library, _ = KINDS[name]
    check_embedder(f"{library}/{make(tmp_path / name)}")


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["semlens/demo", "semlens/photo"])
def test_a_bundled_embedder_says_the_same_as_on_the_cpu(spec):
    check_embedder(spec)


def check_embedder(spec: str) -> None:
    pictures = [Image.new("RGB", size, (200, 90, 10)) for size in ((40, 30), (9, 60))]
    texts = ["a red square", "the"]
    on_cpu = load_embedder(spec)
    with emulated_accelerator(float64=False):
        there = load_embedder(spec, device=DEVICE)
        found = there.embed_images(pictures)
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, on_cpu.embed_images(pictures), atol=1e-5, rtol=1e-5)
        if on_cpu.has_text:
            found = there.embed_texts(texts)
            torch.testing.assert_close(found, on_cpu.embed_texts(texts), atol=1e-5, rtol=1e-5)


NETWORKS = {
    "resnet10t": ({}, "layer3"),
    "efficientnet_lite0": ({}, "blocks.4"),
    "convnext_atto": ({}, "stages.1"),
    "vit_tiny_patch16_224": ({"img_size": 32, "patch_size": 8, "depth": 2}, "blocks.0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rules", ["auto", "gradient"])
def test_relevance_of_a_network_is_the_same_as_on_the_cpu(name, rules):
    options, layer = NETWORKS[name]
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7, **options).eval()
    inputs = torch.randn(2, 3, 32, 32)

    def heatmaps(device: str) -> torch.Tensor:
        network.to(device)
        engine = sl.make_engine(network, inputs.to(device), [layer], rules=rules)
        return sl.check(engine, inputs.to(device)).pixels

    expected = heatmaps("cpu")
    with emulated_accelerator(float64=False):
        np.testing.assert_allclose(heatmaps(DEVICE), expected, rtol=1e-4)
