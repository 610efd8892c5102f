"""``semlens db fit``: the stream of activations, the file, and the databases that take it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ColourEmbedder, LittleNet, assert_says, to_tensor, write_pictures
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.demo.bundled_images import DemoWorld
from semlens.errors import DataError, RecipeError
from semlens.lenses.statistics.intervals import auroc
from semlens.models.activations import LayerLayout
from semlens.models.forward import readouts
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import class_relevance
from semlens.run import dictionaries as run_dictionaries
from semlens.run.dictionaries import UnknownModelWarning
from semlens.stages.sampled_vectors import shuffled_activations
from semlens.store.dictionary_files import load_dictionary

LAYOUT = LayerLayout("first", "map", 6, 16, 16)
QUICK = sl.SaeTraining(train_vectors=4096, step_vectors=256)


def little(seed: int = 0) -> SubjectModel:
    return SubjectModel(LittleNet(seed), to_tensor, "32 bilinear", "python:little", list("abcd"))


def all_vectors(model: SubjectModel, images: ImageFolder) -> Tensor:
    """The vectors of all positions of all images, without the code under test."""
    batch = torch.stack([to_tensor(images.read(i)) for i in range(len(images))])
    with torch.no_grad():
        return model.module.first(batch).movedim(1, -1).reshape(-1, 6)


def in_order(vectors: Tensor) -> np.ndarray:
    rows = vectors.numpy().round(4)
    return rows[np.lexsort(rows.T)]


# -- the stream -----------------------------------------------------------------------------


@pytest.fixture
def few(tmp_path) -> ImageFolder:
    return ImageFolder(write_pictures(tmp_path / "few", 7))


def test_what_fits_into_memory_is_computed_once_and_repeated_in_new_orders(subject, few):
    passes: list[int] = []
    assert subject.takes_channels_last  # which runs the model once
    subject.module.first.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    stream = shuffled_activations(subject, few, LAYOUT, size=256, batch_size=3)
    first, second = (torch.cat(list(islice(stream, 7))) for _ in range(2))
    expected = in_order(all_vectors(little(), few))
    for vectors in (first, second):  # 7 * 256 vectors: each once
        np.testing.assert_allclose(in_order(vectors), expected, atol=1e-3)
    assert not torch.equal(first, second)
    assert sum(passes) == 7
    again = shuffled_activations(little(), few, LAYOUT, size=256, batch_size=3)
    torch.testing.assert_close(torch.cat(list(islice(again, 7))), first)
    other = shuffled_activations(little(), few, LAYOUT, size=256, batch_size=3, seed=1)
    assert not torch.equal(torch.cat(list(islice(other, 7))), first)


def test_more_vectors_than_memory_are_streamed_and_mixed(subject, few):
    images_run: list[int] = []
    assert subject.takes_channels_last  # which runs the model once
    subject.module.first.register_forward_hook(lambda _, inputs, __: images_run.extend(inputs[0]))
    buffer = 4 * 6 * 600  # 600 vectors of the 1792 in a pass
    stream = shuffled_activations(subject, few, LAYOUT, size=64, batch_size=1, buffer=buffer)
    run_before_first, taken = 0, []
    for number, batch in enumerate(islice(stream, 28 * 6)):  # six passes
        run_before_first = run_before_first or len(images_run)
        assert batch.shape == (64, 6)
        # never more in memory than the buffer, and the image that made it overflow
        assert 256 * len(images_run) - 64 * number <= 600 + 256 + 64
        taken.append(batch)
    assert run_before_first == 3  # of 256 vectors each
    expected = all_vectors(little(), few).unique(dim=0)
    distance, nearest = torch.cdist(torch.cat(taken).double(), expected.double()).min(dim=1)
    assert distance.max() < 1e-5  # every vector is one of them
    found, counts = np.unique(nearest.numpy(), return_counts=True)
    assert len(found) > 0.97 * len(expected)  # of what is random, some is still in the buffer
    assert np.median(counts) == pytest.approx(6, abs=1)
    images_in_batch = [batch.unique(dim=0).shape[0] for batch in taken]
    assert np.median(images_in_batch) > 50


def test_images_without_finite_activations_are_an_error(subject, few):
    with torch.no_grad():
        subject.module.first[0].bias += torch.nan
    with pytest.raises(DataError) as error:
        next(shuffled_activations(subject, few, LAYOUT, size=8))
    assert_says(error.value, "'first' has no finite activations", "readable image", "Check")


# -- the file -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, pictures) -> sl.Fit:
    file = tmp_path_factory.mktemp("fit") / "sae.safetensors"
    return sl.fit(file, little(), pictures, "first", "sae:16", training=QUICK, seed=3)


def test_the_file_says_what_was_fitted_on_what_and_how_well(fitted, pictures):
    read = load_dictionary(fitted.path)
    info = read.info
    assert read.fingerprint == fitted.dictionary.fingerprint
    assert (info.layer, info.kind, info.code, info.active) == ("first", "sae", "topk", 4)
    assert (info.model, info.data) == (little().fingerprint, str(pictures))
    assert (info.seed, info.vectors, info.channels_first) == (3, 4096, True)
    assert read.directions == 16
    x = all_vectors(little(), ImageFolder(pictures)).double().numpy()
    encoder, decoder, bias = (
        getattr(read, name).double().numpy() for name in ("encoder", "decoder", "bias")
    )
    products = x @ encoder.T + bias
    codes = np.where(products >= np.sort(products, 1)[:, -4:-3], np.maximum(products, 0), 0)
    assert info.mean_active == pytest.approx((codes > 0).sum(1).mean(), abs=0.05)
    assert info.dead == int((codes == 0).all(0).sum())
    left = x - codes @ decoder
    left -= left.mean(0)
    explained = 1 - (left**2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert info.explained == pytest.approx(explained, abs=0.02)
    row = fitted.frame.iloc[0]
    assert (row["directions"], row["channels"], row["dead"]) == (16, 6, info.dead)


def test_the_order_of_axes_is_that_of_the_model_unless_it_is_given(pictures, tmp_path):
    for given, own, expected in (
        ("auto", "auto", "first"), ("auto", "channels_last", "last"),
        ("channels_last", "auto", "last"), ("channels_first", "channels_last", "first"),
    ):  # fmt: skip
        model = replace(little(), layout=own)
        file = tmp_path / f"{given}-{own}.safetensors"
        info = sl.fit(file, model, pictures, "first", "pca:2", layout=given).dictionary.info
        assert info.channels_first == (expected == "first")


def test_fitting_again_gives_the_same_bytes(fitted, pictures, tmp_path):
    file = tmp_path / "sae.safetensors"
    sl.fit(file, little(), pictures, "first", "sae:16", training=QUICK, seed=3)
    assert file.read_bytes() == fitted.path.read_bytes()


def build(path: Any, images: Any, components: str, model: SubjectModel | None = None, **settings):
    return sl.build(
        path, model or little(), images, ColourEmbedder(), settings.pop("layers", ["first"]),
        components=components, examples=3, crop="activation", reference=16, **settings,
    )  # fmt: skip


def test_databases_of_the_model_take_the_file(fitted, pictures, tmp_path):
    other = write_pictures(tmp_path / "other", 12, seed=5)
    db = build(tmp_path / "db", other, f"sae:{fitted.path}")
    frame = db.components
    assert db.layers == ["first@sae"]
    assert frame["kind"].tolist() == ["sae"] * 16 + ["error"]
    assert db.dictionaries[0].fingerprint == fitted.dictionary.fingerprint
    assert db.dictionaries[0].info == fitted.dictionary.info
    values = fitted.dictionary.encode(all_vectors(little(), ImageFolder(other)))
    means = values.reshape(12, 256, 17).mean(1).double().mean(0)
    np.testing.assert_allclose(frame["mean"], means, atol=1e-4)


def test_a_file_of_another_model_or_layer_is_refused(fitted, pictures, tmp_path):
    with pytest.raises(RecipeError) as error:
        build(tmp_path / "db", pictures, f"sae:{fitted.path}", little(seed=1))
    assert_says(error.value, "fitted on another model", "layer 'first' of this model", "Fit sae")
    with pytest.raises(RecipeError) as error:
        build(tmp_path / "db", pictures, f"sae:{fitted.path}", layers=["second"])
    assert_says(error.value, "fitted on layer 'first'", "Expected layer 'second'")
    with pytest.raises(RecipeError) as error:
        build(tmp_path / "db", pictures, f"nmf:{fitted.path}")
    assert_says(error.value, "of the kind sae", "Expected nmf")


def write_saelens(folder: Any, channels: int) -> None:
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({"architecture": "standard"}))
    shapes = {"W_enc": (channels, 8), "W_dec": (8, channels), "b_enc": (8,), "b_dec": (channels,)}
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.rand(*shape, generator=generator) for name, shape in shapes.items()}
    save_file(weights, folder / "sae_weights.safetensors")


def test_a_file_that_does_not_name_its_model_is_taken_with_a_warning(few, tmp_path):
    write_saelens(tmp_path / "saelens", 6)
    with pytest.warns(UnknownModelWarning, match="does not say on which model"):
        db = build(tmp_path / "db", few, f"sae:{tmp_path / 'saelens'}")
    assert db.manifest.rows == 9
    write_saelens(tmp_path / "wide", 7)
    with pytest.raises(RecipeError) as error:
        build(tmp_path / "db2", few, f"sae:{tmp_path / 'wide'}")
    assert_says(error.value, "have 7 channels", "'first' has 6", "not recorded")


# -- a build that trains --------------------------------------------------------------------


def test_a_build_trains_once_even_if_it_is_interrupted(few, tmp_path, monkeypatch):
    fits: list[str] = []
    fit = run_dictionaries.fit_to_images

    def counted(*args: Any, **kwargs: Any) -> Any:
        fits.append(args[3])
        return fit(*args, sl.SaeTraining(train_vectors=2048), **kwargs)

    monkeypatch.setattr(run_dictionaries, "fit_to_images", counted)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "collect":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "db", few, "channels,sae:8", progress=stop)
    db = build(tmp_path / "db", few, "channels,sae:8")
    assert fits == ["sae"]
    assert db.layers == ["first", "first@sae"]
    assert len(db.components) == 6 + 9
    again = build(tmp_path / "db", few, "channels,sae:8")
    assert again.fingerprint == db.fingerprint
    assert fits == ["sae"]
    with pytest.raises(RecipeError) as error:
        build(tmp_path / "db", few, "sae:9")
    assert_says(error.value, "other directions 'first@sae'", "Expected the same")


# -- the command ----------------------------------------------------------------------------


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["db", "fit", *map(str, arguments)])


def test_the_command_writes_a_file_and_says_what_is_in_it(few, tmp_path):
    file = tmp_path / "nmf.safetensors"
    common = ("--model", "semlens/demo", "--data", few.spec, "--layer", "layer3")
    ended = command(file, *common, "--components", "nmf:4", "--json")
    assert ended.exit_code == 0, ended.output
    printed = json.loads(ended.stdout)
    info = load_dictionary(file).info
    assert printed["file"] == str(file)
    assert (printed["kind"], printed["directions"], printed["channels"]) == ("nmf", 4, 128)
    assert printed["model"] == info.model == sl.load_model("semlens/demo").fingerprint
    assert printed["explained"] == info.explained
    assert printed["dead"] is None
    options = ("--components", "sae:8", "--active", 2, "--train-vectors", 500, "--seed", 4)
    ended = command(tmp_path / "sae.safetensors", *common, *options)
    assert ended.exit_code == 0, ended.output
    assert "explained" in ended.output
    assert "dead" in ended.output
    info = load_dictionary(tmp_path / "sae.safetensors").info
    assert (info.active, info.vectors, info.seed) == (2, 512, 4)


@pytest.mark.parametrize(
    ("file", "options", "parts"),
    [
        ("sae.pt", [], ("ends in .safetensors",)),
        ("x.safetensors", ["--components", "channels"], ("are 'channels'", "one kind", "sae:256")),
        ("x.safetensors", ["--components", "heads:3"], ("'heads:3'", "'heads' and files need no")),
        ("x.safetensors", ["--components", "sae:8,nmf:4"], ("'sae:8,nmf:4'", "one kind")),
        ("x.safetensors", ["--components", "nmf:4", "--active", "2"], ("a training", "sae:N")),
        ("x.safetensors", ["--components", "sae:4", "--active", "5"], ("5 active", "at most 4")),
        ("x.safetensors", ["--components", "sae:4", "--variant", "gated"], ("topk or vanilla",)),
        ("x.safetensors", ["--layer", "layer9"], ("layer9", "semlens layers")),
    ],
)
def test_the_command_refuses_what_it_cannot_do(few, tmp_path, file, options, parts):
    common = ["--model", "semlens/demo", "--data", few.spec, "--layer", "layer3"]
    ended = command(tmp_path / file, *common, *options)
    assert ended.exit_code == 1, ended.output
    assert not (tmp_path / file).exists()
    for part in parts:
        assert part in " ".join(ended.output.split()), ended.output


# -- the planted mark -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:With rules")
def test_search_finds_the_planted_mark_among_the_latents_of_the_demo(tmp_path):
    """The demo's images, a quarter of them; which latents are planted is measured by plain code."""
    world = DemoWorld()
    world.unpack(tmp_path / "images")
    every = ImageFolder(tmp_path / "images")
    kept = [every.read(i) for i in range(0, len(every), 4)]
    file = tmp_path / "sae.safetensors"
    sl.fit(file, "semlens/demo", kept, "layer3", "sae:64",
           training=sl.SaeTraining(train_vectors=2**18))  # fmt: skip
    db = sl.build(
        tmp_path / "db", "semlens/demo", kept, "semlens/demo", ["layer3"], components=f"sae:{file}",
        crop="activation", reference=256,
    )  # fmt: skip
    marked, clean = world.images("test", "marked"), world.images("test", "clean")
    samples = range(len(clean))
    with_mark, without = (
        readouts(db.model, images.read, samples, ["layer3@sae"], "mean")["layer3@sae"]
        for images in (marked, clean)
    )
    areas = auroc(with_mark[:, :64], without[:, :64])
    best = int(areas.argmax())
    assert areas[best] > 0.97
    assert np.median(np.abs(areas - 0.5)) < 0.2  # and the other latents do not know of it
    hits = db.search("written text", top=5)
    found = [hit.component.index for hit in hits.hits]
    assert best in found[:3]
    assert areas[found[0]] > 0.9
    # and what the latents and the error have of a logit's relevance is what the layer has
    batch = db.model.batch([db.model.prepare(marked.read(i)) for i in range(8)])
    layers = ["layer3", "layer3@sae"]
    engine = sl.make_engine(db.model.module, batch, layers)
    shares = class_relevance(engine, batch, torch.zeros(8, dtype=torch.int64), layers)
    layer, codes = (shares[name].double().sum(1) for name in layers)
    torch.testing.assert_close(codes, layer, rtol=5e-3, atol=1e-3 * float(layer.abs().max()))
