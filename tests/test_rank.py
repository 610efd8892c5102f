"""Examples by relevance: against LRP image by image in float64, and a net with a planted order."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import (
    ColourEmbedder,
    LittleNet,
    WordEmbedder,
    spread_logits,
    to_tensor,
    write_pictures,
)
from growing_data import build, extend
from PIL import Image
from test_executors import Shuffled, contents
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.api import make_plan
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import ModelError, RecipeError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe.classes_and_samples import example_files
from semlens.lenses.describe.component_card import card
from semlens.lenses.describe.overview import describe_settings
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.noise import strengths
from semlens.lenses.query_embedding import embed_concepts
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import class_seed
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.protocols import OUTPUT
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.layer_stages import NotFiniteWarning
from semlens.run.parts import Part, build_part, merge_parts
from semlens.run.plan import Execution

LAYERS = ["first", "second"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::semlens.relevance.make_engine.ConservationWarning"),
    pytest.mark.filterwarnings("ignore::semlens.data.class_mapping.UnmappedWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), 22)


class SignedNet(LittleNet):
    """The same, whose head reads what is below zero too, so that relevance has both signs."""

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def subject(folder):
    images = ImageFolder(folder)
    batch = torch.stack([to_tensor(images.read(i)) for i in range(len(images))])
    net = spread_logits(SignedNet(seed=3), batch)
    return SubjectModel(net, to_tensor, "v", "python:signed", list("abcd"))


def make(path, subject, images, **settings):
    settings = {"layers": LAYERS, "rank": "relevance", "examples": 5, "crop": "none",
                "thumbnails": False, "reference": 12, **settings}  # fmt: skip
    execution = Execution(settings.pop("batch_size", 4), 0, settings.pop("shard", None))
    return sl.build(path, subject, images, ColourEmbedder(), execution=execution, **settings)


def slow_relevance(engine, module, images, layers):
    """Relevance float64[n 2 c] by layer for the predicted class, one image at a time."""
    found = {layer: [] for layer in layers}
    for i in range(len(images)):
        x = to_tensor(images.read(i))[None].double()
        with torch.no_grad():
            predicted = module(x).argmax(1)
        trace = engine.trace(x)
        seed = class_seed(trace, predicted[None])
        signals = trace.backward({OUTPUT: seed}, layers, heatmaps=False).layers
        for layer in layers:
            activation = trace.values[layer].detach()[0].flatten(1)
            relevance = activation * signals[layer][0, 0].flatten(1)
            sides = (relevance * (activation >= 0), relevance * (activation < 0))
            found[layer].append(torch.stack([side.sum(1) for side in sides]))
    return {layer: torch.stack(rows).numpy() for layer, rows in found.items()}


def assert_ranked(db, layer, expected):
    """Compare a layer's examples with a full sort of strengths float64[n rows]."""
    entry, frame = db.layer(layer), db.examples(layer)
    for place in range(entry.rows):
        strength = expected[:, place]
        order = np.lexsort((np.arange(len(strength)), -strength))[: db.manifest.recipe.examples]
        mine = frame[frame["component"] == entry.first + place]
        np.testing.assert_allclose(mine["activation"], strength[order], atol=1e-5, rtol=1e-4)
        gap = np.diff(np.sort(strength)[::-1])
        if not len(gap) or np.abs(gap[: len(order)]).min() > 1e-5:
            assert mine["sample"].tolist() == order.tolist()
        assert mine["crop"].notna().tolist() == (strength[order] > 1e-6).tolist()


@pytest.mark.parametrize("signs", ["auto", "positive", "both"])
def test_ranking_is_that_of_slow_relevance(tmp_path, subject, folder, signs):
    images = ImageFolder(folder)
    db = make(tmp_path / "db", subject, images, signs=signs)
    module = copy.deepcopy(subject.module).double()
    engine = LRPEngine(module, to_tensor(images.read(0))[None].double(), LAYERS, "auto")
    slow = slow_relevance(engine, module, images, LAYERS)
    for layer in LAYERS:
        both = slow[layer]
        two = db.layer(layer).rows == 2 * db.layer(layer).channels
        assert two == (signs == "both" or (signs == "auto" and layer == "second"))
        expected = np.concatenate([both[:, 0], both[:, 1]], 1) if two else both.sum(1)
        assert_ranked(db, layer, expected)
        assert db.layer(layer).rank_rules == engine.rules.name
        # the random images have the same quantity
        np.testing.assert_allclose(
            db.reference.readouts(layer), expected[db.reference.samples], atol=1e-3, rtol=1e-3
        )
    assert sl.verify(tmp_path / "db").sound


def test_statistics_are_those_of_activations(tmp_path, subject, folder):
    one, two = (
        make(tmp_path / rank, subject, ImageFolder(folder), rank=rank)
        for rank in ("activation", "relevance")
    )
    pd.testing.assert_frame_equal(
        one.components.drop(columns="examples"), two.components.drop(columns="examples")
    )


@pytest.mark.filterwarnings("ignore::semlens.relevance.make_engine.FallbackWarning")
def test_gradient_ranking_is_activation_times_gradient(tmp_path, subject, folder):
    images = ImageFolder(folder)
    db = make(tmp_path / "db", subject, images, rules="gradient", layers=["second"])
    net, rows = copy.deepcopy(subject.module).double(), []
    for i in range(len(images)):
        second = net.second(net.first(to_tensor(images.read(i))[None].double())).detach()
        second.requires_grad_()
        logits = net.head(second.mean((2, 3)))[0]
        (gradient,) = torch.autograd.grad(logits.max(), second)
        product = (second * gradient).detach()[0].flatten(1)
        sides = product * (second[0].flatten(1) >= 0), product * (second[0].flatten(1) < 0)
        rows.append(torch.cat([side.sum(1) for side in sides]).detach().numpy())
    assert_ranked(db, "second", np.stack(rows))
    assert db.layer("second").rank_rules == "gradient"


# -- a planted order ------------------------------------------------------------------------------


class Unused(nn.Module):
    """Channels: red, green, and red again, which only the class of green images looks at."""

    def __init__(self):
        super().__init__()
        self.colours = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        self.head = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.colours[0].weight[:, :, 0, 0] = torch.tensor(
                [[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0]]
            )
            self.head.weight[:] = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 1.0]])

    def forward(self, x):
        return self.head(self.colours(x).mean((2, 3)))


def brightness(image):
    return torch.from_numpy(np.asarray(image.resize((8, 8)), np.float32)).permute(2, 0, 1) / 255


def red_and_green(count=6):
    """Red images, brighter and brighter, then green ones with more and more red."""
    red = [(150 + 10 * i, 20, 0) for i in range(count)]
    green = [(10 * (i + 1), 200, 0) for i in range(count)]
    return [Image.new("RGB", (20, 20), colour) for colour in red + green]


def planted(path, rank):
    model = SubjectModel(Unused(), brightness, "v", "python:unused", ["red", "green"])
    return sl.build(
        path, model, red_and_green(), ColourEmbedder(), ["colours"], rank=rank, examples=3,
        crop="none", reference=0, execution=Execution(4, 0),
    )  # fmt: skip


def test_a_channel_that_the_prediction_does_not_use_has_other_examples(tmp_path):
    used = {}
    for rank in ("activation", "relevance"):
        db = planted(tmp_path / rank, rank)
        frame = db.examples("colours").dropna(subset="crop")
        used[rank] = frame.groupby("component")["sample"].agg(list).to_dict()
    # the red channel is used where it is active; its twin on red images is not used at all
    assert used["activation"] == {0: [5, 4, 3], 1: [6, 7, 8], 2: [5, 4, 3]}
    assert used["relevance"] == {0: [5, 4, 3], 1: [6, 7, 8], 2: [11, 10, 9]}
    relevance = [e.activation for e in db.examples_of(2)]
    np.testing.assert_allclose(relevance, [60 / 255, 50 / 255, 40 / 255], rtol=1e-4)


def test_a_channel_against_every_prediction_has_no_examples(tmp_path):
    model = SubjectModel(Unused(), brightness, "v", "python:unused", ["red", "green"])
    with torch.no_grad():
        model.module.head.weight[:, 2] = torch.tensor([0.0, -0.1])
    db = sl.build(
        tmp_path / "db", model, red_and_green(), ColourEmbedder(), ["colours"], rank="relevance",
        examples=3, crop="none", reference=0,
    )  # fmt: skip
    assert db.has_examples.tolist() == [True, True, False]
    frame = db.examples("colours")
    # it is listed with its largest relevance, which is zero on the red images
    assert frame[frame["component"] == 2]["activation"].tolist() == [0, 0, 0]


def test_an_image_with_infinite_activations_is_no_example(tmp_path, subject, folder):
    class Overflow(SignedNet):
        def forward(self, x):
            self.scale = torch.where(x.mean((1, 2, 3), keepdim=True) == 1, torch.inf, 1.0)
            return super().forward(x * self.scale)

    net = Overflow(seed=3)
    net.load_state_dict(subject.module.state_dict())
    images = ImageFolder(folder)
    pictures = [images.read(i) for i in range(9)]
    pictures.insert(4, Image.new("RGB", (30, 30), (255, 255, 255)))
    model = SubjectModel(net, to_tensor, "v", "python:overflow", list("abcd"))
    told = r"first, second are NaN or infinite on 1 of 10 images \(4\)"
    with pytest.warns(NotFiniteWarning, match=told):
        db = make(tmp_path / "db", model, pictures, batch_size=5)
    assert all(layer.not_finite == 1 for layer in db.manifest.layers)
    for layer in LAYERS:
        assert 4 not in db.examples(layer)["sample"].tolist()
    assert 4 not in db.reference.samples


# -- any division, and more data ------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory, subject, folder):
    path = tmp_path_factory.mktemp("whole") / "db"
    make(path, subject, ImageFolder(folder), crop="crp")
    return contents(path)


def plan_of(subject, folder, executor=None, shard=None):
    execution = Execution(4, 0, shard, **({"executor": executor} if executor else {}))
    return make_plan(
        subject, ImageFolder(folder), ColourEmbedder(), LAYERS, rank="relevance", examples=5,
        crop="crp", thumbnails=False, reference=12, execution=execution,
    )  # fmt: skip


@pytest.mark.parametrize(
    "executor", [Shuffled(), pytest.param(LocalProcesses(2, 1), marks=pytest.mark.slow)]
)
def test_shards_and_executors_give_the_same_bytes(tmp_path, subject, folder, whole, executor):
    plan = plan_of(subject, folder, executor, shard=8)
    sl.build(
        tmp_path / "db", plan.model, plan.images, plan.embedder, LAYERS, recipe=plan.recipe,
        execution=plan.execution,
    )  # fmt: skip
    assert contents(tmp_path / "db") == whole


@pytest.mark.slow
def test_parts_are_merged_to_the_same_bytes(tmp_path, subject, folder, whole):
    plan = plan_of(subject, folder)
    for _ in range(3):
        for number in (2, 1):
            report = build_part(tmp_path / "db", plan, Part(number, 2))
    assert report.is_complete
    merge_parts(tmp_path / "db", plan)
    assert contents(tmp_path / "db") == whole


def test_an_interrupted_build_resumes_to_the_same_bytes(tmp_path, subject, folder, whole):
    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if stage == "collect" and done >= 12:
            raise Stop

    settings = {"crop": "crp", "shard": 4}
    with pytest.raises(Stop):
        make(tmp_path / "db", subject, ImageFolder(folder), progress=stop, **settings)
    assert list((tmp_path / "db" / "partial").glob("collect-*"))
    make(tmp_path / "db", subject, ImageFolder(folder), **settings)
    assert contents(tmp_path / "db") == whole


@pytest.mark.slow
def test_extended_it_has_the_bytes_of_one_build(tmp_path, folder):
    new = write_pictures(tmp_path / "new", 9, seed=4)
    settings = {"rank": "relevance", "rules": "auto", "crop": "none"}
    build(tmp_path / "full", folder, new, **settings)
    build(tmp_path / "db", folder, **settings)
    done = extend(tmp_path / "db", new)
    assert done.batches_reused == 22 // 4
    assert contents(tmp_path / "db") == contents(tmp_path / "full")


@pytest.mark.slow
def test_dictionaries_are_ranked_by_the_relevance_of_their_codes(tmp_path, subject, folder):
    images = ImageFolder(folder)
    layers = ["first"]
    db = make(tmp_path / "db", subject, images, layers=layers, components="nmf:3")
    (name,) = db.layers
    module = copy.deepcopy(db.model.module).double()
    engine = LRPEngine(module, to_tensor(images.read(0))[None].double(), [name], "auto")
    slow = slow_relevance(engine, copy.deepcopy(subject.module).double(), images, [name])[name]
    expected = slow[:, 0]
    assert np.abs(expected).max() > 1e-3
    frame = db.examples(name)
    for place in range(3):
        mine = frame[frame["component"] == place]
        best = np.sort(expected[:, place])[::-1][:5]
        np.testing.assert_allclose(mine["activation"], best, atol=2e-4, rtol=2e-3)


# -- what follows from examples -------------------------------------------------------------------


def test_concept_vectors_and_noise_are_weighted_by_relevance(tmp_path, subject, folder):
    settings = {"aggregate": "weighted", "reference": 0, "layers": ["second"]}
    db = make(tmp_path / "db", subject, ImageFolder(folder), **settings)
    used = 0
    for row in range(db.manifest.rows):
        examples = db.examples_of(row)
        if not examples:
            assert not db.theta[row].any()
            continue
        weight = np.array([e.activation for e in examples], np.float64)
        assert (weight > 0).all()
        vectors = db.vectors_of([e.crop for e in examples]).astype(np.float64)
        np.testing.assert_allclose(db.theta[row], weight @ vectors / weight.sum(), atol=2e-3)
        used += len(examples) >= 2
    assert len(strengths(db, "second", 2)) == used > 10  # components of both signs
    assert (strengths(db, "second", 2) > 0).all()


def test_labels_compare_relevance_with_relevance(tmp_path, subject, folder):
    """The 22 images are all reference images, so each example's readout is known twice."""
    db = sl.build(
        tmp_path / "db", subject, ImageFolder(folder), WordEmbedder(), ["second"], crop="none",
        rank="relevance", examples=5, reference=22, thumbnails=False,
    )  # fmt: skip
    concepts = ConceptSet.of(["dog", "cat", "red", "blue"])
    evidence = layer_evidence(
        db, "second", embed_concepts(db, concepts)
    )  # checks that it is sorted
    for k, count in enumerate(evidence.counts):
        rows = evidence.in_reference[k, :count]
        assert (rows >= 0).all()
        np.testing.assert_allclose(
            evidence.reference_readouts[rows, k], evidence.readouts[k, :count], rtol=2.0**-10
        )
        largest = evidence.reference_readouts[:, k].max()
        np.testing.assert_allclose(evidence.readouts[k, 0], largest, rtol=2.0**-10)
    assert len(db.label(concepts, method="vote").to_pandas()) == db.has_examples.sum() > 10


def test_what_is_shown_says_relevance(tmp_path):
    planted(tmp_path / "db", "relevance")
    done = CliRunner().invoke(
        app,
        ["show", str(tmp_path / "db"), "colours:2", "--save", str(tmp_path / "a.png"), "--json"],
    )
    assert done.exit_code == 0, done.output
    (example, *_) = json.loads(done.output)["examples"]["colours:2"]
    assert example["relevance"] == pytest.approx(60 / 255, rel=1e-4)
    assert "activation" not in example
    db = sl.open(tmp_path / "db")
    assert card(db, 2).rank == "relevance"
    settings = dict(describe_settings(db.manifest))
    assert "most relevant for the predicted class" in settings["Examples"]
    assert example_files(db, np.array([2]))["relevance"].iloc[0] == example["relevance"]


# -- refused --------------------------------------------------------------------------------------


def test_layers_ranked_otherwise_and_models_without_logits_are_refused(tmp_path, subject, folder):
    planted(tmp_path / "db", "relevance")
    with pytest.raises(RecipeError, match="rank: 'relevance' -> 'activation'") as error:
        planted(tmp_path / "db", "activation")
    assert error.value.remedy

    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.colours = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.colours(x)

    model = SubjectModel(Maps(), to_tensor, "v")
    with pytest.raises(ModelError, match="not logits") as error:
        make(tmp_path / "maps", model, ImageFolder(folder), layers=["colours"])
    assert error.value.remedy
    with pytest.raises(RecipeError, match="rank") as error:
        make(tmp_path / "other", subject, ImageFolder(folder), rank="size")
    assert error.value.remedy
