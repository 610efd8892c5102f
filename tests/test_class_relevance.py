"""Class relevance in a database, and crops by relevance, against slow plain code."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LittleNet, assert_says, colours, to_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional

import semlens as sl
from semlens.errors import RelevanceError
from semlens.models.subject import SubjectModel
from semlens.relevance.conditional_heatmaps import (
    SignalIndex,
    conditional_heatmaps,
    patch_geometry,
    peak_seed,
)
from semlens.relevance.heatmap_boxes import bounding_boxes, display_masks, upsample_and_blur
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.make_engine import FallbackWarning
from semlens.run.plan import Execution
from semlens.streaming.statistics import ClassShares
from semlens.types import Component

LAYERS = ["first", "second"]


def build(path, subject, images, embedder, layers=LAYERS, **options):
    options = {"examples": 4, "thumbnails": False, "relevance": True, **options}
    execution = Execution(options.pop("batch_size", 8), 2, options.pop("shard", None))
    return sl.build(path, subject, images, embedder, layers, execution=execution, **options)


def class_names(images):
    """A class of the model for each image, by turns; the last image has none."""
    return ["abcd"[i % 3] for i in range(len(images) - 1)] + ["unknown"]


# -- the mergeable --------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_means_and_maxima_are_exact_in_any_order(targets, random):
    shares = torch.tensor([[random.uniform(-1, 1) for _ in range(5)] for _ in targets])
    samples = list(zip(targets, shares, strict=True))
    whole = ClassShares.from_batch(torch.tensor(targets), shares)
    random.shuffle(samples)
    merged = ClassShares.empty(5)
    while samples:
        count = random.randint(1, len(samples))
        part, samples = samples[:count], samples[count:]
        one = ClassShares.from_batch(
            torch.tensor([t for t, _ in part]), torch.stack([s for _, s in part])
        )
        merged = merged.merge(one) if random.random() < 0.5 else one.merge(merged)
    for name, value in vars(whole).items():
        assert torch.equal(value, getattr(merged, name)), name
    for row, target in enumerate(whole.classes.tolist()):
        mine = shares[torch.tensor(targets) == target].double()
        assert torch.allclose(whole.mean[row], mine.mean(0), atol=1e-11)
        assert torch.equal(whole.maximum[row], mine.float().amax(0))


def test_shares_that_are_not_finite_count_as_nothing():
    found = ClassShares.from_batch(
        torch.tensor([1, 1]), torch.tensor([[torch.nan, 0.5], [1.0, torch.inf]])
    )
    assert found.mean.tolist() == [[0.5, 0.25]]


# -- in a database --------------------------------------------------------------------------


def plain_shares(images, targets):
    """Epsilon through the linear head and z+ through the convolution, written out."""
    net = LittleNet().double()
    found: dict[tuple[int, str], list[np.ndarray]] = {}
    for number, name in enumerate(targets):
        if name not in "abcd":
            continue
        logit = "abcd".index(name)
        with torch.no_grad():
            x = to_tensor(images.read(number))[None].double()
            first = net.first(x)
            second = net.second(first)
            pooled = functional.relu(second).mean((2, 3))
            y = net.head(pooled)[0, logit]
            share = pooled[0] * net.head.weight[logit] * y / (y + 1e-6 * (1 if y >= 0 else -1))
            at_map = functional.relu(second)[0] / second[0].shape[1] ** 2
            at_map = at_map * net.head.weight[logit][:, None, None]
            at_map = at_map * y / (y + 1e-6 * (1 if y >= 0 else -1))
            positive = net.second.weight.clamp(min=0)
            z = functional.conv2d(first, positive, net.second.bias.clamp(min=0), 2, 1) + 1e-6
            below = functional.conv_transpose2d((at_map / z[0])[None], positive, None, 2, 1, 1)
            reached = (below * first)[0].sum((1, 2))
        both = torch.cat([share, torch.zeros(10)])  # a ReLU passes nothing below zero
        for layer, values in (("first", reached), ("second", both)):
            values = values / values.abs().sum()
            found.setdefault((logit, layer), []).append(values.numpy())
    return found


@pytest.mark.slow
def test_tables_say_the_same_as_plain_code(tmp_path, subject, images, embedder):
    targets = class_names(images)
    db = build(tmp_path / "db", subject, images, embedder, targets=targets)
    assert db.manifest.relevance.rules == "epsilon-plus-flat"
    assert db.manifest.relevance.targets == "classes"
    expected = plain_shares(images, targets)
    for (logit, layer), shares in expected.items():
        table = db.relevance(logit, [layer]).set_index("component")
        first = db.layer(layer).first
        mean, most = np.mean(shares, axis=0), np.max(shares, axis=0)
        for row, (average, largest) in enumerate(zip(mean, most, strict=True)):
            if max(abs(average), largest) >= 1.01e-3:
                assert table.loc[first + row, "mean"] == pytest.approx(average, abs=2e-5)
                assert table.loc[first + row, "max"] == pytest.approx(largest, abs=2e-5)
            elif max(abs(average), largest) < 0.99e-3:
                assert first + row not in table.index
    counts = pd.read_parquet(tmp_path / "db" / "relevance.parquet").set_index("class")["samples"]
    assert counts.to_dict() == {
        logit: class_names(images).count("abcd"[logit]) for logit in range(3)
    }


@pytest.mark.slow
def test_any_shards_and_adding_it_later_give_the_same_bytes(tmp_path, subject, images, embedder):
    targets = class_names(images)
    build(tmp_path / "a", subject, images, embedder, targets=targets)
    build(tmp_path / "b", subject, images, embedder, targets=targets, shard=16)
    build(tmp_path / "c", subject, images, embedder, ["first"], targets=targets, relevance=False)
    build(tmp_path / "c", subject, images, embedder, ["second"], targets=targets, relevance=False)
    assert sl.open(tmp_path / "c", embedder=embedder).manifest.relevance is None
    build(tmp_path / "c", subject, images, embedder, targets=targets)
    for file in ("relevance.parquet", "relevance/first.parquet", "relevance/second.parquet"):
        tables = [pd.read_parquet(tmp_path / name / file) for name in "abc"]
        assert tables[0].equals(tables[1])
        assert tables[0].equals(tables[2])
    assert not (tmp_path / "c" / "partial").exists()


@pytest.mark.slow
def test_a_layer_that_is_added_gets_relevance_too(tmp_path, subject, images, embedder):
    build(tmp_path / "db", subject, images, embedder, ["first"], targets=class_names(images))
    db = build(
        tmp_path / "db", subject, images, embedder, ["second"], targets=class_names(images),
        relevance=False,
    )  # fmt: skip
    assert set(db.class_relevance("a", concepts=None).frame["layer"]) == {"first", "second"}
    assert db.verify().sound


@pytest.mark.slow
def test_without_classes_predictions_are_explained(tmp_path, subject, images, embedder):
    db = build(tmp_path / "db", subject, images, embedder)
    assert db.manifest.relevance.targets == "predictions"
    counts = pd.read_parquet(tmp_path / "db" / "relevance.parquet")["samples"]
    assert counts.sum() == len(images)


@pytest.mark.slow
def test_components_come_by_mean_share(tmp_path, subject, images, embedder):
    db = build(tmp_path / "db", subject, images, embedder, targets=class_names(images))
    asked = functools.partial(db.class_relevance, concepts=None)
    answer = asked("b", top=5)
    found = answer.to_pandas()
    assert len(found) == 5
    assert answer.to_json()["rules"] == "epsilon-plus-flat"
    assert {"target", "rules", "components"} == set(answer.to_json())
    assert [str(component) for component in answer.components] == found["component"].tolist()
    answer.save(tmp_path / "relevance.png")
    assert Image.open(tmp_path / "relevance.png").width > 500
    assert "Components that 'b' relies" in repr(answer)
    assert found["mean"].is_monotonic_decreasing
    table = db.relevance(1).set_index("component")
    row = db.row(Component.parse(found["component"][0]))
    assert table.loc[row, "mean"] == table["mean"].max() == found["mean"][0]
    assert asked(1).to_json() == asked("b").to_json() == asked("1").to_json()
    assert set(asked("b", layers="first").frame["layer"]) == {"first"}


@pytest.mark.slow
def test_relevance_of_any_class_on_any_images(tmp_path, subject, images, words):
    targets = class_names(images)
    db = build(tmp_path / "db", subject, images, words, targets=targets)
    known = db.class_relevance("b", top=99, concepts=["dog", "cat"])
    assert set(known.frame.columns) == {"component", "layer", "mean", "max", "label"}
    kept = known.frame.set_index("component")
    mine = [i for i, name in enumerate(targets) if name == "b"]
    for samples in (mine, len(images)):  # named, or counted
        now = db.class_relevance("b", top=99, concepts=None, samples=samples)
        assert now.rules == known.rules
        whole = now.frame.set_index("component")
        for column in ("mean", "max"):
            np.testing.assert_allclose(whole.loc[kept.index, column], kept[column], atol=2e-5)
            assert whole.drop(kept.index)[column].abs().max() < 1.01e-3  # too little to be kept
    other = db.class_relevance("d", concepts=None, samples=[3, 4])  # which no sample has
    same = db.class_relevance("d", concepts=None, images=[images.read(3), images.read(4)])
    pd.testing.assert_frame_equal(other.frame, same.frame)
    assert other.target == 3


@pytest.mark.slow
def test_what_is_not_there_is_said(tmp_path, subject, images, embedder):
    plain = build(tmp_path / "plain", subject, images, embedder, relevance=False)
    with pytest.raises(RelevanceError) as error:
        plain.class_relevance("a", concepts=None)
    assert_says(error.value, "no class relevance", "--relevance")
    db = build(tmp_path / "db", subject, images, embedder, targets=class_names(images))
    with pytest.raises(RelevanceError) as error:
        db.class_relevance("e")
    assert_says(error.value, "'e'", "0 to 3", "a, b, c, d")
    with pytest.raises(RelevanceError) as error:
        db.class_relevance(7)
    assert_says(error.value, "'7'")
    with pytest.raises(RelevanceError) as error:
        db.class_relevance("d")
    assert_says(error.value, "class 3", "3 classes")


def test_classes_of_which_nothing_can_be_read_are_an_error(tmp_path, subject, embedder):
    for name in ("x/1.png", "x/2.png", "a/broken.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colours(40, 40)).save(tmp_path / "data" / name)
    (tmp_path / "data/a/broken.png").write_bytes(b"no picture")
    with pytest.raises(RelevanceError) as error:
        build(tmp_path / "db", subject, sl.ImageFolder(tmp_path / "data"), embedder)
    assert_says(error.value, "No sample has a class", "--classes")


# -- crops ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_boxes_and_masks_are_those_of_one_heatmap_at_a_time(tmp_path, subject, images, embedder):
    db = build(tmp_path / "db", subject, images, embedder, crop="crp", relevance=False)
    geometry = subject.geometry()
    grey = torch.zeros(1, 3, 32, 32)
    engine = LRPEngine(subject.module, grey, LAYERS)
    for layer in LAYERS:
        frame = db.examples(layer).dropna(subset="crop")
        for _, example in frame.iloc[:: max(1, len(frame) // 12)].iterrows():
            component = db.component(int(example["component"]))
            image = images.read(int(example["sample"]))
            heat = conditional_heatmaps(
                engine, to_tensor(image)[None], layer, torch.tensor([0]),
                torch.tensor([component.index]), torch.tensor([component.sign]),
            )  # fmt: skip
            smooth = upsample_and_blur(heat, 32, 32, 51 / 224)
            edges = bounding_boxes(smooth, 0.01)
            box = geometry(*image.size).to_original(*(float(e) for e in edges[0]))
            assert tuple(example["box"]) == box.as_tuple()
            shown = np.unpackbits(np.frombuffer(example["mask"], np.uint8)).reshape(16, 16)
            assert (shown == display_masks(smooth, edges)[0].numpy()).mean() > 0.99


def test_masks_are_sampled_at_the_middle_of_cells():
    heat = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[0, 0, 50, 40], [3, 7, 21, 33], [10, 10, 11, 11]])
    found = display_masks(heat, box, 0.5)
    for n, (left, top, right, bottom) in enumerate(box.tolist()):
        for i in range(16):
            for j in range(16):
                y = int(top + (i + 0.5) / 16 * (bottom - top))
                x = int(left + (j + 0.5) / 16 * (right - left))
                assert found[n, i, j] == (heat[n, y, x] > 0.5 * heat[n].max())


class TokenNet(nn.Module):
    """A map layer, then tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.block = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((tokens + self.block(tokens)).mean(1))


@pytest.mark.slow
def test_auto_crops_each_layer_by_what_suits_it(tmp_path, images, embedder):
    subject = SubjectModel(TokenNet(), to_tensor, "v", classes=list("abcd"))
    layers = ["patches", "block", "head"]
    db = build(tmp_path / "db", subject, images, embedder, layers, relevance=False)
    assert [layer.crop for layer in db.manifest.layers] == ["crp", "activation", "crp"]
    every = build(tmp_path / "crp", subject, images, embedder, layers, crop="crp")
    assert [layer.crop for layer in every.manifest.layers] == ["crp"] * 3
    areas = every.examples("head").dropna(subset="box")["box"]
    assert len({tuple(box) for box in areas}) > 3  # a unit has no map of its own


class OddNet(LittleNet):
    def forward(self, x):
        return self.head(torch.erf(self.second(self.first(x))).mean((2, 3)))


@pytest.mark.slow
def test_a_model_without_rules_is_said_and_served(tmp_path, images, embedder):
    subject = SubjectModel(OddNet(), to_tensor, "v", classes=list("abcd"))
    with pytest.warns(FallbackWarning, match="erf"):
        db = build(tmp_path / "db", subject, images, embedder)
    assert [layer.crop for layer in db.manifest.layers] == ["activation"] * 2
    assert db.manifest.relevance.rules == "gradient"
    with pytest.raises(RelevanceError, match="erf"):
        build(tmp_path / "named", subject, images, embedder, crop="crp", rules="epsilon")


# -- patches --------------------------------------------------------------------------------


class Stages(nn.Module):
    """Three stages, a shortcut, a pool, and padding as TensorFlow's models have it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(3, 6, 3, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.low = nn.Conv2d(6, 6, 3, 1, 1, groups=2)
        self.high = nn.Conv2d(6, 8, 3, 2, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.pool(functional.relu(self.stem(functional.pad(x, (0, 1, 0, 1)))))
        x = functional.relu(x + self.low(x))
        return self.head(functional.relu(self.high(x)).mean((2, 3)))


@pytest.mark.parametrize("rules", ["epsilon-plus-flat", "epsilon", "epsilon-gamma"])
def test_patches_give_what_whole_images_give(rules):
    net = Stages().double().eval()
    x = torch.randn(3, 3, 96, 128, generator=torch.Generator().manual_seed(0)).double()
    engine = LRPEngine(net, x, ["high"], rules)
    assert patch_geometry(engine, "high", x) is not None
    rows, columns = 12, 16
    corners = [0, columns - 1, (rows - 1) * columns, rows * columns - 1, 5 * columns + 7, 37]
    position = torch.tensor(corners)
    image, channel = torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6)
    sign = torch.ones(6, dtype=torch.int64)
    found = conditional_heatmaps(engine, x, "high", image, channel, sign, position=position)
    seen = engine.receptive_field("high")
    for n, place in enumerate(corners):
        trace = engine.trace(x[image[n : n + 1]], ["high"])
        at = SignalIndex(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        start = peak_seed(trace, "high", at, channel[n : n + 1], sign[:1], torch.tensor([place]))
        whole = trace.backward({"high": start}).heatmaps[0, 0]
        torch.testing.assert_close(
            found[n], whole, rtol=1e-9, atol=1e-12 * float(whole.abs().max())
        )
        top = place // columns * seen.stride[0] + seen.first[0]
        outside = torch.ones(96, dtype=torch.bool)
        outside[max(top, 0) : max(top + seen.size[0], 0)] = False
        assert not whole[outside].any()


def test_a_gate_over_the_whole_map_has_no_field():
    class Gated(Stages):
        def forward(self, x):
            y = self.stem(x)
            return self.head(
                functional.relu(self.high(y * y.mean((2, 3), True).sigmoid())).mean((2, 3))
            )

    engine = LRPEngine(Gated().eval(), torch.randn(1, 3, 64, 64), ["high"])
    assert engine.receptive_field("high") is None


def test_padding_as_tensorflow_does_it_is_part_of_the_convolution():
    net = Stages().double().eval()
    x = torch.randn(2, 3, 33, 40, generator=torch.Generator().manual_seed(0)).double()
    engine = LRPEngine(net, x, ["stem"], "epsilon")
    heat = conditional_heatmaps(
        engine, x, "stem", torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([1, 1])
    )
    leaf = x.clone().requires_grad_()
    out = net.stem(functional.pad(leaf, (0, 1, 0, 1)))
    for n, channel in enumerate((2, 3)):
        flat = out[n, channel].flatten()
        (gradient,) = torch.autograd.grad(flat.max(), leaf, retain_graph=True)
        expected = (gradient[n] * x[n]).sum(0)
        torch.testing.assert_close(heat[n], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_show_darkens_what_a_component_does_not_react_to(tmp_path, subject, images, embedder):
    db = build(tmp_path / "db", subject, images, embedder, crop="crp", thumbnails=True)
    plain, dark = db.show(["second:1"], 4), db.show(["second:1"], 4, mask=True)
    assert isinstance(dark, Image.Image)
    before, after = (np.asarray(picture, int) for picture in (plain, dark))
    assert (after <= before).all()
    assert (after < before).any()
