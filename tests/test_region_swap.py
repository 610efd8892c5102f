"""Relevant regions pasted onto other classes: a mark that moves, one that sits still, and none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import ColourEmbedder, assert_says, to_tensor, write_pictures
from PIL import Image, ImageDraw
from test_border_swap import CLASSES, true_logits
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import ModelError
from semlens.lenses.swap.pairs import draw_pairs
from semlens.lenses.swap.parts import (
    BLUR,
    coverage,
    overlaps,
    relevant_regions,
    strongest_pixels,
)
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import class_seed
from semlens.relevance.heatmap_boxes import upsample_and_blur
from semlens.relevance.make_engine import make_engine
from semlens.relevance.protocols import OUTPUT

SIDE = 0.22
"""Side of a mark, as a share of the image's."""
MODEL = """
from conftest import to_tensor
from test_region_swap import CLASSES, Marked

def make():
    return Marked(), to_tensor, CLASSES
"""


class Marked(nn.Module):
    """Random logits; the first class also rests on red anywhere."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Conv2d(3, 9, 3, 1, 1)
        self.act = nn.ReLU()
        self.head = nn.Linear(9, len(CLASSES))
        with torch.no_grad():  # the last channel: red without green and blue
            self.features.weight[8], self.features.bias[8] = 0.0, 0.0
            self.features.weight[8, :, 1, 1] = torch.tensor([1.0, -1.0, -1.0]) / 3
            self.features.bias[8] = -0.6
            self.head.weight[:, 8] = torch.tensor([60.0] + [0.0] * 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.act(self.features(x)).mean((2, 3)))


def mark(image: Image.Image, x: float, y: float) -> None:
    """Draw a red mark; ``x`` and ``y`` are the place of its corner, as shares."""
    left, top = x * image.width, y * image.height
    right, bottom = left + SIDE * image.width, top + SIDE * image.height
    ImageDraw.Draw(image).rectangle([left, top, right, bottom], fill=(255, 0, 0))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Databases of the same model: the first class with a mark that sits still, moves, or none."""
    folder = tmp_path_factory.mktemp("regions")
    (folder / "model.py").write_text(MODEL)
    write_pictures(folder / "none", 84, classes=len(CLASSES))
    random = np.random.default_rng(0)
    for path in sorted((folder / "none").rglob("*.png")):
        for kind in ("still", "moves"):
            image = Image.open(path)
            if path.parent.name == "class0":
                x, y = random.uniform(0, 1 - SIDE, 2) if kind == "moves" else (0.39, 0.39)
                mark(image, x, y)
            target = folder / kind / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            image.save(target)
    return {
        name: sl.build(
            folder / f"{name}.db", f"{folder / 'model.py'}:make", ImageFolder(folder / name),
            ColourEmbedder(), ["act"], examples=2, crop="none",
        )
        for name in ("none", "still", "moves")
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["still", "moves"])
def test_a_mark_is_detected_and_its_component_is_named(worlds, kind):
    db = worlds[kind]
    result = db.swap(part="region", count=24)
    assert result.detected == ["class0"]
    assert str(result.excited("class0")[0]) == "act:8"
    if kind == "still":  # in the middle
        assert db.swap(part="border", count=24, size=0.15).detected == []
    # the region is the mark
    samples = np.flatnonzero(true_logits(db) == 0)
    regions = relevant_regions(db, samples, 0, 0.05).numpy()
    for sample, region in zip(samples.tolist(), regions, strict=True):
        red = to_tensor(db.images.read(sample)).numpy()
        red = (red[0] > 0.5) & (red[1] < -0.5) & (red[2] < -0.5)
        assert (region & red).sum() > 0.6 * region.sum()


@pytest.mark.slow
def test_nothing_is_detected_where_nothing_is_planted(worlds):
    assert worlds["none"].swap(part="region", count=24).detected == []


@pytest.mark.slow
def test_regions_of_a_mark_that_sits_still_overlap(worlds):
    still, moves = (
        worlds[kind].swap(part="region", count=12).frame.set_index("class")["overlap"]["class0"]
        for kind in ("still", "moves")
    )
    assert still > 0.6
    assert moves < still / 2


@pytest.mark.slow
def test_the_gain_is_the_mean_difference_of_logits(worlds):
    """The oracle: relevance, pixels and logits of one image after the other."""
    db = worlds["still"]
    result = db.swap("class0", part="region", size=0.04, count=8)
    pairs = draw_pairs(true_logits(db), 0, 8, 0)
    engine = make_engine(db.model.module, db.model.example, [])
    gains = []
    for receiver, donor, third in zip(pairs.receivers, pairs.donors, pairs.third, strict=True):
        image, source, other = (
            db.model.preprocess(db.images.read(int(i))).double() for i in (receiver, donor, third)
        )
        trace = engine.trace(source[None].float())
        heat = trace.backward({OUTPUT: class_seed(trace, torch.tensor([[0]]))}).heatmaps[0]
        smooth = upsample_and_blur(heat.detach(), 32, 32, BLUR)[0].numpy()
        mask = smooth >= np.sort(smooth.ravel())[-round(0.04 * 32 * 32)]
        with torch.no_grad():
            first, second = (
                float(
                    db.model.module(torch.where(torch.from_numpy(mask), one, image)[None].float())[
                        0, 0
                    ]
                )
                for one in (source, other)
            )
        gains.append(first - second)
    assert result.frame["gain"][0] == pytest.approx(np.mean(gains), abs=1e-4)
    assert result.frame["adjusted"][0] == result.frame["p_value"][0]
    assert result.classes == 7


def test_a_region_has_its_share_of_pixels_and_no_evidence_against_the_class():
    heat = torch.randn(3, 20, 30, generator=torch.Generator().manual_seed(0))
    assert strongest_pixels(heat, 0.1).sum((1, 2)).tolist() == [60, 60, 60]
    against = -heat.abs()
    against[1, 4, 5] = 2.0
    assert strongest_pixels(against, 0.1).sum((1, 2)).tolist() == [0, 1, 0]


def test_overlaps_are_those_of_all_pairs_of_images():
    random = np.random.default_rng(0)
    sets = [random.random((n, 6, 7)) < 0.3 for n in (5, 3, 4)]
    sets[1][:, :3] = True
    maps = np.stack([coverage(torch.from_numpy(one)) for one in sets])
    expected = []
    for c, one in enumerate(sets):
        area = one.sum((1, 2)).mean()
        own = [(a & b).sum() for i, a in enumerate(one) for j, b in enumerate(one) if i != j]
        other = [
            np.mean([(a & b).sum() for a in one for b in two])
            for d, two in enumerate(sets)
            if d != c
        ]
        expected.append((np.mean(own) - np.mean(other)) / area)
    assert overlaps(maps, np.array([5.0, 3.0, 4.0])) == pytest.approx(np.array(expected))
    assert overlaps(np.zeros((2, 3, 3)), np.array([4.0, 4.0])).tolist() == [0.0, 0.0]


@pytest.mark.slow
def test_transformers_are_supported(worlds, tmp_path):
    torch.manual_seed(0)
    net = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=7
    )
    db = sl.build(
        tmp_path / "vit", SubjectModel(net.eval(), to_tensor, "vit", classes=CLASSES),
        worlds["none"].images, ColourEmbedder(), ["blocks.0"], examples=2, crop="none",
    )  # fmt: skip
    result = db.swap("class3", part="region", count=8)
    assert np.isfinite(result.frame["gain"]).all()
    assert result.coverage["class3"].shape == (32, 32)
    assert 0 < result.coverage["class3"].mean() <= 0.05


@pytest.mark.slow
def test_a_model_without_logits_is_refused(worlds, tmp_path):
    maps = SubjectModel(nn.Sequential(nn.Conv2d(3, 4, 3)), to_tensor, "maps", classes=CLASSES)
    db = sl.build(
        tmp_path / "maps", maps, worlds["none"].images, ColourEmbedder(), ["0"], examples=2,
        crop="none",
    )  # fmt: skip
    with pytest.raises(ModelError) as error:
        db.swap(part="region", count=8)
    assert_says(error.value, "not logits", "need a classifier")


@pytest.mark.slow
def test_the_command_prints_and_draws(worlds, tmp_path):
    db = worlds["still"]
    arguments = [
        "swap", str(db.path), "--model", db.manifest.model.spec, "--part", "region",
        "--count", "16", "--json", "--save", str(tmp_path / "r.png"),
    ]  # fmt: skip
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    printed = json.loads(ended.stdout)
    assert printed["detected"] == ["class0"]
    assert len(printed["classes"]) == 7
    assert printed["components"][0]["component"] == "act:8"
    assert Image.open(tmp_path / "r.png").width > 500
