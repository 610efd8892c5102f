"""What runs on a device and on the CPU, and has to say the same: builds, questions, embedders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from PIL import Image

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.data.images import Images
from semlens.embedders.load import load_embedder
from semlens.lenses.result import Result
from semlens.models.subject import SubjectModel
from semlens.run.plan import Execution

BUILDS = [
    {"crop": "none"},
    {"crop": "activation"},
    {"crop": "crp"},
    {"crop": "none", "rank": "relevance"},
    pytest.param(
        {"crop": "activation", "components": "channels,semi-nmf:3,kmeans:2"},
        marks=pytest.mark.slow,
    ),
]
"""Settings of builds."""
BUNDLED = ["semlens/demo", "semlens/photo"]
MARKED = ["layer3:5", "layer3:17"]
MARK = "text:hello"
QUESTIONS: dict[str, Callable[[sl.ConceptDatabase], Result]] = {
    "affected": lambda db: db.affected(MARKED, all_data=True),
    "attribution_graph": lambda db: db.attribution_graph("vegetable", samples=4),
    "border_swap": lambda db: db.swap("vegetable", part="border", count=8, reference=8),
    "colour_swap": lambda db: db.swap("vegetable", part="colour", count=8, reference=8),
    "contrast": lambda db: db.contrast(errors="vegetable"),
    "cut_out": lambda db: db.cut_out(MARKED, count=3),
    "effect": lambda db: db.effect("vegetable", MARKED, samples=8),
    "evaluate": lambda db: db.evaluate(samples=range(64)),
    "explain": lambda db: db.explain(db.images.read(3), without=MARKED),
    "model_test": lambda db: db.model_test("vegetable", artefacts=[MARK], count=16),
    "prune": lambda db: db.prune(MARKED),
    "region_swap": lambda db: db.swap("vegetable", part="region", count=8, reference=8),
    "reliance": lambda db: db.reliance("vegetable", [MARK], count=16),
    "retrain": lambda db: db.retrain([MARK], settings=sl.Training(epochs=1), only="test-"),
    "sensitivity": lambda db: db.sensitivity([MARK], prune=MARKED, only="test-"),
}
"""Every question that runs the model, on the demo."""
NETWORKS = {
    "resnet10t": ({}, "layer3"),
    "efficientnet_lite0": ({}, "blocks.4"),
    "convnext_atto": ({}, "stages.1"),
    "vit_tiny_patch16_224": ({"img_size": 32, "patch_size": 8, "depth": 2}, "blocks.0"),
}
"""Arguments of timm's network, and a layer of it."""


def subject_on(device: str) -> SubjectModel:
    """A little network of four classes."""
    net = spread_logits(LittleNet(), plain_colours()).to(device)
    return SubjectModel(net, to_tensor, "32 bilinear", "python:little", VEGETABLES)


def with_unreadable_batch(folder: Path) -> ImageFolder:
    """41 pictures; the eight that are a batch of their own cannot be read."""
    write_pictures(folder, 41)
    for path in sorted(folder.rglob("*.png"))[8:16]:
        path.write_bytes(b"not a picture")
    return ImageFolder(folder)


def build_on(device: str, path: Path, images: Images, **settings: Any) -> sl.ConceptDatabase:
    return sl.build(
        path, subject_on(device), images, ColourEmbedder(), ["first", "second"], examples=5,
        execution=Execution(8, 2), relevance=True,
        targets=[VEGETABLES[i % 4] for i in range(len(images))], **settings,
    )  # fmt: skip


def assert_same_database(
    found: sl.ConceptDatabase, expected: sl.ConceptDatabase, tolerance: float
) -> None:
    np.testing.assert_allclose(found.theta, expected.theta, atol=tolerance)
    frames = [(db.summary(), db.relevance(), *map(db.examples, ("first", "second")))
              for db in (found, expected)]  # fmt: skip
    for mine, other in zip(*frames, strict=True):
        pd.testing.assert_frame_equal(mine, other, rtol=tolerance, atol=tolerance)


def answer_on(device: str, name: str, demo: Path, folder: Path) -> object:
    """Ask a question of a copy of the demo without kept results, and return its JSON."""
    copy = shutil.copytree(demo, folder / device.partition(":")[0])
    shutil.rmtree(copy / "analysis", ignore_errors=True)
    result = QUESTIONS[name](sl.open(copy, device=device))
    return json.loads(json.dumps(result.to_json()).replace(str(copy), "DATABASE"))


def assert_same_answer(found: object, expected: object, tolerance: float) -> None:
    """Compare two JSON objects; the time that something took is not compared."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and list(found) == list(expected)
        for key in expected.keys() - {"seconds"}:
            assert_same_answer(found[key], expected[key], tolerance)
    elif isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected)
        for mine, other in zip(found, expected, strict=True):
            assert_same_answer(mine, other, tolerance)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True)
    else:
        assert found == expected


def embed_on(device: str, spec: str) -> list[torch.Tensor]:
    """Embed pictures, and texts if the embedder can."""
    embedder = load_embedder(spec, device=device)
    pictures = [Image.new("RGB", size, (200, 90, 10)) for size in ((40, 30), (9, 60))]
    texts = [embedder.embed_texts(["a red square", "the"])] if embedder.has_text else []
    return [embedder.embed_images(pictures), *texts]


def relevance_on(device: str, name: str, rules: str) -> np.ndarray:
    """Return the relevance that reaches the pixels of two images."""
    options, layer = NETWORKS[name]
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7, **options).eval()
    inputs = torch.randn(2, 3, 32, 32).to(device)
    engine = sl.make_engine(network.to(device), inputs, [layer], rules=rules)
    return sl.check_conservation(engine, inputs).pixels
