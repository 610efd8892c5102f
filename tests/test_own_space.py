"""The subject's own space as embedder: against activations read by hand, and what it refuses."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from conftest import LittleNet, to_tensor, write_pictures
from PIL import Image
from test_executors import contents
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.embedders.load import OwnSpace
from semlens.errors import ConceptError, EmbedderError, LayerError, StaleError
from semlens.models.subject import SubjectModel
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.plan import Execution
from semlens.store.verify import verify

pytestmark = [
    pytest.mark.filterwarnings("ignore::semlens.data.class_mapping.UnmappedWarning"),
    pytest.mark.filterwarnings("ignore::semlens.relevance.make_engine.ConservationWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"), 16)


def model_of(seed=0):
    return SubjectModel(LittleNet(seed), to_tensor, "v", "python:little", list("abcd"))


def make(path, folder, model=None, embedder="self:second", **settings):
    settings = {"examples": 4, "crop": "activation", "reference": 5, **settings}
    return sl.build(
        path, model or model_of(), ImageFolder(folder), embedder, ["first", "second"], **settings
    )


@pytest.fixture(scope="module")
def database(tmp_path_factory, folder):
    path = tmp_path_factory.mktemp("own") / "db"
    targets = [["a", "b"][i % 2] for i in range(16)]
    make(path, folder, relevance=True, targets=targets)
    return path


class Tokens(nn.Module):
    """Patches as tokens, with a class token before them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 6, 8, 8)
        self.block = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([torch.ones(len(x), 1, 6), tokens], 1)
        return self.head(self.block(tokens)[:, 0])


@pytest.mark.parametrize(
    ("net", "layer", "axes"),
    [(LittleNet(), "second", (2, 3)), (LittleNet(), "head", ()), (Tokens(), "block", (1,))],
)
def test_vectors_are_mean_activations(folder, net, layer, axes):
    model = SubjectModel(net, to_tensor, "v")
    embedder = sl.load_embedder(f"self:{layer}", model=model)
    pictures = [ImageFolder(folder).read(i) for i in range(7)]
    kept = []
    plain = copy.deepcopy(net).double()
    handle = plain.get_submodule(layer).register_forward_hook(lambda *a: kept.append(a[2].clone()))
    for picture in pictures:
        plain(to_tensor(picture)[None].double())
    handle.remove()
    expected = [(out.mean(axes) if axes else out)[0].detach().numpy() for out in kept]
    expected = np.stack([vector / np.linalg.norm(vector) for vector in expected])
    assert embedder.dim == expected.shape[1]
    np.testing.assert_allclose(embedder.embed_images(pictures, 3), expected, atol=1e-6)


def test_its_identity_is_that_of_model_and_layer():
    model = model_of()
    one = sl.load_embedder("self:second", model=model)
    assert one.fingerprint == sl.load_embedder("self:second", model=model_of()).fingerprint
    others = [OwnSpace(model, "first"), OwnSpace(model, "head"), OwnSpace(model_of(1), "second")]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 4
    # a module of its own, so that hooks do not meet, with the weights of the subject
    mine, subject = one._model.module, model.module
    assert mine is not subject
    assert mine.second is not subject.second
    assert mine.second.weight is subject.second.weight


def test_a_database_finds_it_in_its_own_model(database, folder):
    db = sl.open(database, model=model_of())
    assert db.manifest.embedder.spec == db.embedder.spec == "self:second"
    assert verify(database).sound
    images = ImageFolder(folder)
    net = LittleNet().double()
    row = int(np.flatnonzero(db.has_examples)[-1])
    vectors = []
    for example in db.examples_of(row):
        crop = images.read(example.sample).crop(example.box.as_tuple())
        with torch.no_grad():
            vector = net.second(net.first(to_tensor(crop)[None].double())).mean((2, 3))[0]
        vectors.append(functional.normalize(vector, dim=0).numpy())
    np.testing.assert_allclose(db.theta[row], np.mean(vectors, 0), atol=2e-3)
    # an image is nearest to the component that has it as an example
    hits = db.search(images=[crop], top=db.manifest.rows)
    cosines = db.theta @ vectors[-1] / np.linalg.norm(db.theta, axis=1).clip(1e-12)
    assert hits.hits[0].row == cosines.argmax()
    assert db.scores().frame["clarity"].notna().any()
    # adding layers loads it from the model of the build
    assert sl.build(
        database, model_of(), images, "self:second", ["first", "second"],
        recipe=db.manifest.recipe, relevance=True,
    ).manifest.rows == db.manifest.rows  # fmt: skip


def test_the_subject_runs_while_it_embeds(folder):
    """Its pass ends at the layer; the subject's own pass in between does not."""
    model = model_of()
    images = ImageFolder(folder)

    class Between(OwnSpace):
        def preprocess(self, image):
            with torch.no_grad():
                assert model.module(model.prepare(image)[None]).shape == (1, 4)
            return super().preprocess(image)

    between = Between(model, "second").embed_images([images.read(0)])
    torch.testing.assert_close(between, OwnSpace(model, "second").embed_images([images.read(0)]))


def test_texts_are_refused_and_images_of_concepts_are_not(database, folder, tmp_path):
    db = sl.open(database, model=model_of())
    for ask in (
        lambda: db.search("dog"),
        lambda: db.label(),
        lambda: db.audit("a", ["artefacts"]),
        lambda: db.dissect(),
        lambda: db.unexpected("a", ["artefacts"]),
    ):
        with pytest.raises((EmbedderError, ConceptError)) as error:
            ask()
        assert "image" in error.value.remedy
    pictures = {}
    for name, colour in (("red", (220, 20, 20)), ("blue", (20, 20, 220))):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
        pictures[name] = str(tmp_path / f"{name}.png")
    file = tmp_path / "concepts.json"
    entries = [{"name": name, "images": [path]} for name, path in pictures.items()]
    file.write_text(json.dumps({"concepts": {"colours": entries}}))
    labels = db.label(str(file), method="semantic-lens", threshold=-1.0)
    first = [candidates[0] for candidates in labels.to_pandas()["candidates"]]
    assert set(first) == {"red", "blue"}
    said = {text.removeprefix("mixed: ") for text in labels.to_pandas()["label"]} - {"mixed"}
    assert {word for text in said for word in text.split(", ")} == {"red", "blue"}


def test_other_models_have_other_spaces(tmp_path, database, folder):
    other = make(tmp_path / "other", folder, model_of(1))
    db = sl.open(database, model=model_of())
    with pytest.raises(StaleError, match="same name, different weights") as error:
        db.compare(other)
    assert "no part of a compared model" in error.value.remedy
    with pytest.raises(StaleError, match="fingerprint differs"):
        make(database, folder, embedder="self:first", relevance=True)
    # two databases of one model are compared
    same = make(tmp_path / "same", folder, examples=3)
    assert same.compare(db).to_json()


def test_without_its_model_or_layer_it_is_refused():
    with pytest.raises(EmbedderError, match="layer of the subject model") as error:
        sl.load_embedder("self:second")
    assert "model=" in error.value.remedy
    with pytest.raises(LayerError, match="'secnod'.*nearest names are second"):
        sl.load_embedder("self:secnod", model=model_of())


def test_a_crop_without_activations_is_refused(tmp_path, folder):
    model = model_of()
    with torch.no_grad():
        model.module.first[0].bias[:] = -100
    with pytest.raises(EmbedderError, match="vector of zeros") as error:
        make(tmp_path / "db", folder, model, embedder="self:first")
    assert "another layer" in error.value.remedy


FILE = """
import torch
from torch import nn
import numpy as np

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3, 4), nn.Conv2d(5, 4, 1), nn.AvgPool2d(2), nn.Flatten(),
                        nn.LazyLinear(4))
    net(torch.zeros(1, 3, 32, 32))
    def prepare(image):
        pixels = np.asarray(image.resize((32, 32)), np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255
    return net.eval(), prepare, list("abcd")
"""


def test_the_commands_build_and_search_with_it(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FILE)
    build = ["build", "db", "--model", "net.py:make", "--data", str(folder), "--embedder", "self:1",
             "--layers", "0", "--examples", "3", "--crop", "none", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, build)
    assert done.exit_code == 0, done.output
    picture = next(folder.rglob("*.png"))
    search = ["search", "db", "--image", str(picture), "--model", "net.py:make", "--json"]
    done = CliRunner().invoke(app, search)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["hits"]
    refused = CliRunner().invoke(app, ["search", "db", "dog", "--model", "net.py:make"])
    assert refused.exit_code == 1
    assert "no text tower" in refused.stderr


@pytest.mark.slow
def test_workers_give_the_same_bytes(tmp_path, folder, database):
    targets = [["a", "b"][i % 2] for i in range(16)]
    execution = Execution(32, 0, executor=LocalProcesses(2, torch.get_num_threads()))
    make(tmp_path / "db", folder, relevance=True, targets=targets, execution=execution)
    ours, whole = contents(tmp_path / "db"), contents(database)
    assert {k: v for k, v in ours.items() if "analysis" not in k} == {
        k: v for k, v in whole.items() if "analysis" not in k
    }
