"""Builds whose components are codes of dictionaries, and the questions about them."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LittleNet, WordEmbedder, assert_says, stopped_at_write, to_tensor
from test_audit import run_audit
from test_executors import contents

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.dictionaries.dictionary import DictionaryInfo
from semlens.dictionaries.fit import fit_directions
from semlens.errors import LayerError, ModelError, RecipeError, StoreError
from semlens.models.activations import first_tensor
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.plan import Execution
from semlens.store.dictionary_files import load_dictionary, save_dictionary

TARGETS = ["a", "b", "c", "d"]


def make(path, pictures, components, layers=("first",), **settings):
    images = ImageFolder(pictures)
    settings = {"examples": 4, "crop": "activation", "rules": "gradient", **settings}
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", TARGETS)
    return sl.build(
        path, model, images, WordEmbedder(), list(layers), components=components,
        targets=[TARGETS[i % 4] for i in range(len(images))],
        execution=settings.pop("execution", Execution(8, 2)), **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    """The layer's own components, four directions of nmf and three of pca, with relevance."""
    path = tmp_path_factory.mktemp("dictionaries") / "db"
    return make(path, pictures, "channels,nmf:4,pca:3", relevance=True)


def readouts_by_hand(db, name: str) -> np.ndarray:
    """Return the mean code of each direction on each image, image by image in float64."""
    dictionary = next(part for part in db.dictionaries if part.info.name == name)
    rows = []
    for picture in range(len(db.images)):
        x = to_tensor(db.images.read(picture))[None]
        net = LittleNet().eval()
        with torch.no_grad():
            activations = net.first(x).double()
        last = activations.movedim(1, -1).reshape(-1, 6)
        if dictionary.info.code == "linear":
            codes = last @ dictionary.decoder.double().T + dictionary.bias.double()
        else:
            from scipy.optimize import nnls  # noqa: PLC0415

            basis = dictionary.decoder.double().T.numpy()
            codes = torch.from_numpy(np.stack([nnls(basis, row)[0] for row in last.numpy()]))
        rows.append(codes.mean(0).numpy())
    return np.stack(rows)


def test_components_are_named_by_layer_and_kind(db):
    assert db.layers == ["first", "first@nmf", "first@pca"]
    table = pd.read_parquet(db.path / "components.parquet")
    counts = table.groupby(["layer", "kind", "sign"]).size().to_dict()
    assert counts == {
        ("first", "channel", 1): 6, ("first@nmf", "nmf", 1): 4,
        ("first@pca", "pca", 1): 3, ("first@pca", "pca", -1): 3,
    }  # fmt: skip
    assert str(db.component(6)) == "first@nmf:0"


@pytest.mark.parametrize("name", ["first@nmf", "first@pca"])
def test_readouts_and_examples_are_those_of_the_codes(db, name):
    by_hand = readouts_by_hand(db, name)
    table = pd.read_parquet(db.path / "components.parquet").query("layer == @name and sign == 1")
    np.testing.assert_allclose(table["mean"], by_hand.mean(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(table["maximum"], by_hand.max(0), rtol=1e-3, atol=1e-4)
    examples = pd.read_parquet(next((db.path / "examples").glob(f"{name.replace('@', '%40')}*")))
    first = examples.groupby("component").first()
    rows = table.index
    np.testing.assert_array_equal(first.loc[rows, "sample"], by_hand.argmax(0))


def test_directions_replace_the_own_components_unless_these_are_named(tmp_path, pictures):
    only = make(tmp_path / "db", pictures, "kmeans:3", examples=2)
    assert only.layers == ["first@kmeans"] and only.manifest.rows == 3
    own = make(tmp_path / "db", pictures, "channels", examples=2)
    assert own.layers == ["first@kmeans", "first"]
    more = make(tmp_path / "db", pictures, "kmeans:3", layers=["first", "second"], examples=2)
    assert more.layers == ["first@kmeans", "first", "second@kmeans"]
    with pytest.raises(RecipeError) as caught:
        make(tmp_path / "db", pictures, "kmeans:4", examples=2)
    assert_says(caught.value, "first@kmeans", "kmeans:4", "new path")


def test_nmf_of_a_layer_that_goes_negative_is_refused(tmp_path, pictures):
    with pytest.raises(LayerError) as caught:
        make(tmp_path / "db", pictures, "nmf:3", layers=["second"])
    assert_says(caught.value, "'second'", "semi-nmf")


def test_equal_builds_have_equal_bytes_also_in_processes_and_after_an_interruption(
    tmp_path, pictures
):
    first = make(tmp_path / "one", pictures, "kmeans:3", layers=["second"])
    with pytest.raises(KeyboardInterrupt), stopped_at_write(4):
        make(tmp_path / "two", pictures, "kmeans:3", layers=["second"])
    kept = list((tmp_path / "two/partial/dictionaries").iterdir())
    times = [file.stat().st_mtime_ns for file in kept]
    assert kept
    again = make(tmp_path / "two", pictures, "kmeans:3", layers=["second"])
    assert times and contents(again.path) == contents(first.path)


def test_directions_of_an_interrupted_build_are_fitted_again_if_an_image_changed(
    tmp_path, pictures
):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)
    with pytest.raises(KeyboardInterrupt), stopped_at_write(3):
        make(tmp_path / "db", folder, "kmeans:3")
    changed = sorted(folder.rglob("*.png"))[0]
    changed.write_bytes(sorted(folder.rglob("*.png"))[1].read_bytes())
    again = make(tmp_path / "db", folder, "kmeans:3")
    fresh = make(tmp_path / "fresh", folder, "kmeans:3")
    assert contents(again.path) == contents(fresh.path)


@pytest.mark.slow
def test_data_that_grows_is_read_by_the_same_directions(tmp_path, pictures):
    """An extension keeps what the database has: directions are fitted once."""
    first = tmp_path / "a"
    for number, file in enumerate(sorted(pictures.rglob("*.png"))):
        place = first if number < 30 else tmp_path / "b"
        place.mkdir(exist_ok=True)
        shutil.copy(file, place / file.name)
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", TARGETS)
    settings = {"examples": 4, "crop": "activation", "rules": "gradient"}
    db = sl.build(
        tmp_path / "db", model, ImageFolder(first), WordEmbedder(), ["first"],
        components="nmf:3", extendable=True, **settings,
    )  # fmt: skip
    before = db.dictionaries[0].fingerprint
    [file] = (db.path / "dictionaries").iterdir()
    kept = shutil.copy(file, tmp_path / "kept.safetensors")
    sl.extend(db.path, tmp_path / "b", model=model, embedder=WordEmbedder())
    grown = sl.open(db.path)
    assert grown.dictionaries[0].fingerprint == before
    joined = sl.JoinedImages([ImageFolder(first), ImageFolder(tmp_path / "b")])
    whole = sl.build(
        tmp_path / "whole", model, joined, WordEmbedder(), ["first"],
        components=f"nmf:{kept}", **settings,
    )  # fmt: skip
    np.testing.assert_array_equal(grown.theta, whole.theta)


@pytest.mark.slow
def test_processes_read_the_same_codes(tmp_path, pictures):
    one = make(tmp_path / "one", pictures, "nmf:3")
    executor = Execution(8, 0, executor=LocalProcesses(2))
    two = make(tmp_path / "two", pictures, "nmf:3", execution=executor)
    assert contents(one.path) == contents(two.path)


def test_a_file_of_directions_is_used_by_another_database(db, tmp_path, pictures):
    [file] = (db.path / "dictionaries").glob("*nmf*")
    other = make(tmp_path / "db", pictures, f"nmf:{file}")
    [read] = other.dictionaries
    assert read.fingerprint == db.dictionaries[0].fingerprint
    assert other.manifest.layers[0].dictionary == db.manifest.layers[1].dictionary
    vectors = [sl.open(one.path).theta for one in (db, other)]
    np.testing.assert_array_equal(vectors[0][6:10], vectors[1])


def test_files_that_do_not_fit_are_refused(db, tmp_path, pictures):
    [file] = (db.path / "dictionaries").glob("*nmf*")
    cases = [
        ("pca:" + str(file), ["first"], RecipeError, ["kind nmf", "nmf:"]),
        ("nmf:" + str(file), ["second"], RecipeError, ["fitted on layer 'first'", "'second'"]),
        ("nmf:" + str(tmp_path / "none.safetensors"), ["first"], RecipeError, ["none.safetensors"]),
        ("sae:" + str(pictures), ["first"], RecipeError, ["not a file of directions"]),
    ]
    for components, layers, kind, parts in cases:
        with pytest.raises(kind) as caught:
            make(tmp_path / "db", pictures, components, layers=layers)
        assert_says(caught.value, *parts)


def test_a_damaged_file_of_a_database_is_found(db, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(db.path, copy)
    [file] = (copy / "dictionaries").glob("*nmf*")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError) as caught:
        _ = sl.open(copy).dictionaries
    assert_says(caught.value, file.name)


def test_saved_directions_are_read_as_they_were(tmp_path):
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    made = fit_directions("nmf", x, 3, DictionaryInfo("first", "nmf", "linear", True))
    save_dictionary(tmp_path / "file.safetensors", made)
    read = load_dictionary(tmp_path / "file.safetensors")
    assert read.info == made.info and read.fingerprint == made.fingerprint
    torch.testing.assert_close(read(x.T[None]), made(x.T[None]), rtol=0, atol=0)


def test_relevance_in_a_prediction_is_the_code_times_the_slope_along_its_direction(db):
    """In float64 by gradients, positive and negative codes apart, as the build's rules have it."""
    net, target, dictionary = LittleNet().double().eval(), 1, db.dictionaries[1]
    picture = f"{db.manifest.data.spec}/{db.images.ids[3]}"
    rows = db.explain(picture, target=target, top=100).to_pandas()
    found = rows[rows["layer"] == "first@pca"].set_index("component")["relevance"]
    middle = net.first(to_tensor(db.images.read(3))[None].double()).detach().requires_grad_()
    logit = net.head(torch.relu(net.second(middle)).mean((2, 3)))[0, target]
    [slope] = torch.autograd.grad(logit, middle)
    directions = dictionary.decoder.double()
    codes = torch.einsum("bchw,kc->khw", middle.detach(), directions)
    codes = codes + dictionary.bias.double().view(-1, 1, 1)
    relevance = codes * torch.einsum("bchw,kc->khw", slope, directions)
    for index, (code, values) in enumerate(zip(codes, relevance, strict=True)):
        for sign, name in ((1, f"first@pca:{index}"), (-1, f"first@pca:-{index}")):
            expected = float(values[code * sign > 0].sum())
            assert float(found.get(name, 0.0)) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_questions_answer_about_directions(db):
    names = ["first@nmf:1", "first@pca:-0"]
    hits = db.search("blue", layers=["first@nmf", "first@pca"], top=10)
    assert {c.layer for c in hits.components} == {"first@nmf", "first@pca"}
    assert len(db.scores().to_pandas()) == 16
    assert db.show(names).size[0] > 100
    assert db.affected(names).samples is not None
    verdicts = run_audit(db, 1, layers="first@nmf").to_pandas()
    assert set(verdicts["component"]) <= {f"first@nmf:{index}" for index in range(4)}
    json.dumps(run_audit(db, 1).to_json())
    with pytest.raises(ModelError) as caught:
        db.prune(names)
    assert_says(caught.value, "first@nmf:1", "semlens.pruned")


def test_a_graph_shows_one_reading_of_each_layer(tmp_path, pictures):
    """No relevance flows between two readings of a layer; it does to the layer below."""
    db = make(tmp_path / "db", pictures, "channels,pca:3", layers=["first", "second"],
              relevance=True)  # fmt: skip
    graph = db.attribution_graph(1, None, samples=4, minimum=0.0)
    assert {node.layer for node in graph.nodes} == {"", "first", "second"}
    names = ["first", "second@pca"]
    graph = db.attribution_graph(1, None, samples=4, minimum=0.0, layers=names)
    assert {node.layer for node in graph.nodes} == {"", *names}
    lower = [edge for edge in graph.edges if edge.target.startswith("first/")]
    assert lower and max(abs(edge.weight) for edge in lower) > 0.01
    with pytest.raises(LayerError) as caught:
        db.attribution_graph(1, layers=["second", "second@pca"])
    assert_says(caught.value, "second and second@pca", "same layer", "only second@pca")


def test_own_channels_are_pruned_and_saved_as_if_there_were_no_directions(db, tmp_path):
    state = db.prune(["first:2"]).state
    assert set(state) == set(LittleNet().state_dict())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    net = LittleNet().eval()
    net.load_state_dict(state)
    with sl.pruned(db.model, ["first:2"]), torch.no_grad():
        torch.testing.assert_close(net(x), db.model.module(x), rtol=1e-4, atol=1e-5)


def test_codes_are_read_like_layers(db):
    x = torch.randn(2, 3, 32, 32)
    names = ["first", "first@nmf"]
    values = run_layers(db.model.module, x, names, lambda _, out: first_tensor(out).clone())
    assert [tuple(values[name].shape) for name in names] == [(2, 6, 16, 16), (2, 4, 16, 16)]
