"""Adding images to a database: the bytes of a build over all of them, and every refusal."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ColourEmbedder, LittleNet, WordEmbedder, sign_files, to_tensor, write_pictures
from fastapi.testclient import TestClient
from PIL import Image
from test_executors import Shuffled, contents
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.analysis.concepts import Concept
from semlens.api import make_plan
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, RecipeError, StaleError, StoreError
from semlens.models.subject import SubjectModel
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.parts import Part, build_part, merge_parts
from semlens.run.plan import Execution
from semlens.run.state import RecomputeWarning
from semlens.store import writer as store_writer
from semlens.store.atomic_files import load_tensors, save_tensors
from semlens.web.app import create_app

LAYERS = ["first", "second"]
pytestmark = pytest.mark.filterwarnings("ignore::semlens.data.class_mapping.UnmappedWarning")


def model_of(module=None, classes="abcd"):
    return SubjectModel(module or LittleNet(), to_tensor, "v", "python:little", list(classes))


CLASSES = ("class0", "class1", "c", "d")
"""Classes that the folders have, so that relevance is for them."""


def images_of(*folders):
    sources = [ImageFolder(folder) for folder in folders]
    return sources[0] if len(sources) == 1 else sl.JoinedImages(sources)


def build(path, *folders, model=None, embedder=None, batch_size=4, **settings):
    settings = {
        "examples": 3, "reference": 20, "crop": "crp", "rules": "gradient", "extendable": True,
        "layers": LAYERS, **settings,
    }  # fmt: skip
    return sl.build(
        path, model or model_of(), images_of(*folders), embedder or ColourEmbedder(),
        execution=Execution(batch_size, 0), progress=lambda *step: None, **settings,
    )  # fmt: skip


def extend(path, *folders, model=None, embedder=None, **options):
    return sl.extend(
        path, images_of(*folders), model=model or model_of(),
        embedder=embedder or ColourEmbedder(), execution=Execution(workers=0),
        **{"progress": lambda *step: None, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Folders of images by their number; one image in "23" and in "10" is unreadable."""
    base = tmp_path_factory.mktemp("data")
    folders = {
        str(count): write_pictures(base / str(count), count, seed=count)
        for count in (23, 24, 3, 10, 7)
    }
    for name in ("23", "10"):
        file = folders[name] / "class0" / "002.png"
        file.write_bytes(file.read_bytes()[:150])
    return folders


@pytest.fixture(scope="module")
def base(tmp_path_factory, folders) -> Path:
    """A database of the 23 images with relevance of their classes.  Copy it to extend it."""
    path = tmp_path_factory.mktemp("base") / "db"
    build(path, folders["23"], model=model_of(classes=CLASSES), relevance=True)
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory, folders) -> dict[str, str]:
    """What one build makes of it and 10 more."""
    path = tmp_path_factory.mktemp("full") / "db"
    model = model_of(classes=CLASSES)
    build(path, folders["23"], folders["10"], model=model, relevance=True)
    return contents(path)


@pytest.mark.parametrize(
    ("first", "settings"),
    [
        pytest.param("24", {"crop": "activation", "relevance": True}, marks=pytest.mark.slow),
        ("23", {"crop": "none", "thumbnails": False, "reference": 0, "batch_size": 1}),
        pytest.param(
            "23",
            {"crop": "crp", "batch_size": 2, "readout": "max", "signs": "both"},
            marks=pytest.mark.slow,
        ),
        ("3", {"layers": ["head", "first"], "reference": 6, "aggregate": "median"}),
    ],
)
def test_extended_twice_it_has_the_bytes_of_one_build(tmp_path, folders, first, settings):
    build(tmp_path / "full", folders[first], folders["10"], folders["7"], **settings)
    build(tmp_path / "db", folders[first], **settings)
    done = [extend(tmp_path / "db", folders[name]) for name in ("10", "7")]
    assert contents(tmp_path / "db") == contents(tmp_path / "full")
    assert sl.verify(tmp_path / "db").sound
    size, count = settings.get("batch_size", 4), int(first)
    assert [d.samples for d in done] == [count + 10, count + 17]
    assert [d.batches_reused for d in done] == [count // size, (count + 10) // size]
    assert all(d.crops.reused > 0 and d.crops.computed > 0 for d in done[first == "3" :])
    if settings.get("relevance"):
        assert [d.relevance for d in done] == ["continued", "continued"]


class Flip(nn.Module):
    """A layer that is the brightness: negative only on dark images."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 2, 1)
        self.head = nn.Linear(2, 4)
        with torch.no_grad():
            self.first.weight[:] = torch.tensor([1.0, 0.5])[:, None, None, None]
            self.first.bias[:] = 3

    def forward(self, x):
        return self.head(self.first(x + 0.2).mean((2, 3)))


def one_colour(folder, *colours):
    for number, colour in enumerate(colours):
        (folder / "class0").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (colour,) * 3).save(folder / "class0" / f"{number}.png")
    return folder


def test_new_images_turn_a_layer_negative(tmp_path):
    bright, dark = one_colour(tmp_path / "a", *range(200, 209)), one_colour(tmp_path / "b", 0, 1)
    module = Flip()
    with torch.no_grad():
        module.first.bias[:] = 0
    settings = {"layers": ["first"], "crop": "activation", "relevance": True}
    options = {"model": model_of(module)}
    db = build(tmp_path / "db", bright, **settings, **options)
    assert db.manifest.rows == 2
    build(tmp_path / "full", bright, dark, **settings, **options)
    done = extend(tmp_path / "db", dark, **options)
    assert done.relevance == "computed again: a layer has other signs than before"
    assert sl.open(tmp_path / "db").manifest.rows == 4
    assert contents(tmp_path / "db") == contents(tmp_path / "full")


def test_images_that_no_component_shows_change_only_the_statistics(tmp_path):
    class Counting(ColourEmbedder):
        def _images(self, batch):
            embedded.append(int(batch.flatten(1).any(1).sum()))
            return super()._images(batch)

    embedded = []
    bright, dark = one_colour(tmp_path / "a", *range(150, 200)), one_colour(tmp_path / "b", 9, 8)
    settings = {"layers": ["first"], "reference": 0, "examples": 46, "batch_size": 1}
    options = {"model": model_of(Flip()), "embedder": Counting()}
    db = build(tmp_path / "db", bright, **settings, **options)
    before, crops = contents(tmp_path / "db"), sum(db.manifest.crops)
    assert sum(embedded) == crops == 46
    embedded.clear()
    done = extend(tmp_path / "db", dark, **options)
    assert (done.crops.reused, done.crops.computed, done.crops.new_examples) == (46, 0, 0)
    # three blocks of four images are compared: the first, the middle and the last, of two
    assert sum(embedded) == 4 + 4 + 2
    assert done.crops.compared == 2 * 10
    after = contents(tmp_path / "db")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    statistics = {"components.parquet", "samples.parquet", "manifest.json"}
    assert changed == {*statistics, "state/collect/first.safetensors"}


def test_crops_that_round_differently_are_all_computed_again(tmp_path, folders):
    class Mates(ColourEmbedder):
        """A crop's vector depends on the crops that are embedded with it."""

        def _images(self, batch):
            return super()._images(batch + 0.01 * batch.mean())

    options = {"embedder": Mates(), "crop": "none", "batch_size": 1}
    build(tmp_path / "full", folders["24"], folders["7"], **{**options, "batch_size": 4})
    build(tmp_path / "db", folders["24"], **{**options, "batch_size": 4})
    shutil.copytree(tmp_path / "db", tmp_path / "asked")
    with pytest.warns(RecomputeWarning, match="All crops are computed again"):
        done = extend(tmp_path / "db", folders["7"], embedder=Mates())
    asked = extend(tmp_path / "asked", folders["7"], embedder=Mates(), recompute_crops=True)
    assert done.crops.reused == asked.crops.reused == 0
    expected = contents(tmp_path / "full")
    assert contents(tmp_path / "db") == contents(tmp_path / "asked") == expected


def test_statistics_that_round_differently_are_all_computed_again(tmp_path, folders, base, full):
    shutil.copytree(base, tmp_path / "db")
    file = tmp_path / "db" / "state" / "collect" / "second.safetensors"
    tensors = load_tensors(file)
    tensors["key"][:] += 1 << 32  # the next larger number in place of each positive readout
    save_tensors(file, tensors)
    sign_files(tmp_path / "db")
    model = model_of(classes=CLASSES)
    with pytest.warns(RecomputeWarning, match="All statistics are computed again"):
        done = extend(tmp_path / "db", folders["10"], model=model)
    assert done.batches_reused == 0
    assert done.relevance == "computed again: readouts differ in bits"
    assert contents(tmp_path / "db") == full


@pytest.mark.slow
def test_layers_and_classes_that_were_added_later(tmp_path, folders):
    """What was built in several steps is extended to what one build makes."""
    build(tmp_path / "db", folders["24"], layers=["first"], relevance=True)
    build(tmp_path / "db", folders["24"], batch_size=7)  # it keeps the batches of the state
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({"class0": 1, "class1": 2}))
    build(tmp_path / "db", folders["24"], classes=classes)
    options = {"relevance": True, "classes": classes}
    build(tmp_path / "full", folders["24"], folders["7"], **options)
    done = extend(tmp_path / "db", folders["7"], classes=classes)
    assert done.relevance == "continued"
    assert contents(tmp_path / "db") == contents(tmp_path / "full")
    build(tmp_path / "db", *(folders[n] for n in ("24", "7")), layers=["head"])
    done = extend(tmp_path / "db", folders["10"], classes=classes)
    assert done.relevance == "computed again: the database does not have its state"
    build(
        tmp_path / "three", *(folders[n] for n in ("24", "7", "10")),
        layers=[*LAYERS, "head"], **options,
    )  # fmt: skip
    assert contents(tmp_path / "db") == contents(tmp_path / "three")


def interrupt(*_):
    raise KeyboardInterrupt


def test_killed_and_resumed(tmp_path, folders, base, full, monkeypatch):
    model, before = model_of(classes=CLASSES), contents(base)
    real, writes = os.fsync, 0

    def failing(handle):
        nonlocal writes
        writes += 1
        if writes == stop:
            raise KeyboardInterrupt
        real(handle)

    # a shard; a file in the staging folder; the manifest
    for stop in (3, 9, 10**6):
        target, writes = tmp_path / str(stop), 0
        shutil.copytree(base, target)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "fsync", failing)
            if stop == 10**6:
                patch.setattr(store_writer, "move_staged", interrupt)
            extend(target, folders["10"], model=model)
        left = sl.open(target).manifest
        assert (left.samples == 33) == (stop == 10**6)
        assert sl.verify(target).sound
        done = extend(target, folders["10"], model=model)
        assert (done.samples_before == done.samples) == (stop == 10**6)
        assert contents(target) == full != before


@pytest.mark.slow
def test_killed_at_every_write(tmp_path, folders, base, full):
    model, real, stop = model_of(classes=CLASSES), os.fsync, 0
    while True:
        stop, writes = stop + 3, 0

        def failing(handle, stop=stop):
            nonlocal writes
            writes += 1
            if writes == stop:
                raise KeyboardInterrupt
            real(handle)

        target = tmp_path / str(stop)
        shutil.copytree(base, target)
        os.fsync = failing
        try:
            extend(target, folders["10"], model=model)
            break
        except KeyboardInterrupt:
            pass
        finally:
            os.fsync = real
        assert sl.verify(target).sound
        extend(target, folders["10"], model=model)
        assert contents(target) == full, stop
    assert stop > 15


@pytest.mark.parametrize(
    "executor",
    [Shuffled(), pytest.param(LocalProcesses(2, torch.get_num_threads()), marks=pytest.mark.slow)],
)
def test_other_executors_give_the_same_bytes(tmp_path, folders, base, full, executor):
    shutil.copytree(base, tmp_path / "db")
    model = model_of(classes=CLASSES)
    done = extend(tmp_path / "db", folders["10"], model=model, executor=executor)
    assert (done.batches_reused, done.batches) == (5, 9)
    assert contents(tmp_path / "db") == full


def test_parts_of_an_extendable_database(tmp_path, folders, base):
    plan = make_plan(
        model_of(classes=CLASSES), images_of(folders["23"]), ColourEmbedder(), LAYERS,
        relevance=True, extendable=True, execution=Execution(4, 0), examples=3, reference=20,
        crop="crp", rules="gradient",
    )  # fmt: skip
    for _ in range(3):
        for number in (2, 1):
            build_part(tmp_path / "db", plan, Part(number, 2))
    merge_parts(tmp_path / "db", plan)
    assert contents(tmp_path / "db") == contents(base)


def test_images_that_are_gone_changed_or_not_new(tmp_path, folders):
    data, new = tmp_path / "data", folders["7"]
    shutil.copytree(folders["24"], data)
    db = build(tmp_path / "db", data, crop="none")
    before = contents(tmp_path / "db")
    example = db.examples_of(0)[0]
    picture = data / example.path
    users = {
        layer: len({row for row in map(int, db.rows(layer))
                    if example.sample in {e.sample for e in db.examples_of(row)}})
        for layer in LAYERS
    }  # fmt: skip
    original = picture.read_bytes()
    Image.new("RGB", (30, 30), (9, 9, 9)).save(picture)
    used = ", ".join(f"{count} of {layer}" for layer, count in users.items() if count)
    with pytest.raises(StaleError, match=f"Of the 24 .* 1 have changed: {example.path}.") as error:
        extend(tmp_path / "db", new)
    assert f"examples of {used} components" in str(error.value)
    picture.unlink()
    with pytest.raises(StaleError, match=f"1 are missing: {example.path}.") as error:
        extend(tmp_path / "db", new)
    assert f"examples of {used} components" in str(error.value)
    picture.write_bytes(original)
    (data / "class1" / "zzz.png").write_bytes(original)
    with pytest.raises(StaleError, match=r"1 images .* are not in the database: class1/zzz.png"):
        extend(tmp_path / "db", new)
    (data / "class1" / "zzz.png").unlink()
    shutil.copytree(data / "class1", tmp_path / "copy")
    with pytest.raises(RecipeError, match="already has all images"):
        extend(tmp_path / "db", tmp_path / "copy")
    assert extend(tmp_path / "db", data).samples == 24
    assert contents(tmp_path / "db") == before


def test_what_cannot_be_extended(tmp_path, folders):
    folder, new = folders["3"], folders["7"]
    build(tmp_path / "no", folder, crop="none", extendable=False)
    with pytest.raises(RecipeError, match="does not have the state .* extendable=True"):
        extend(tmp_path / "no", new)
    with pytest.raises(RecipeError, match="without the state"):
        build(tmp_path / "no", folder, crop="none", layers=["head"])
    db = build(tmp_path / "db", folder, crop="none")
    with pytest.raises(StoreError, match="not a database"):
        extend(tmp_path / "nothing", new)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(RecipeError, match="of type 'meta'.* built on 'cpu'"):
        extend(tmp_path / "db", new, device="meta")
    with pytest.raises(StaleError, match="model"):
        extend(tmp_path / "db", new, model=model_of(LittleNet(seed=1)))
    kept = replace_manifest(tmp_path / "db", device="cuda")
    with pytest.raises(RecipeError, match="of type 'cpu'.* was built on 'cuda'"):
        extend(tmp_path / "db", new, device="cpu")
    with pytest.raises(RecipeError, match="of type 'cpu'.* was built on 'cuda'"):
        build(tmp_path / "db", folder, crop="none", layers=["head"])
    assert kept.device == db.manifest.extendable.device == "cpu"


def replace_manifest(path, **changes):
    manifest = sl.open(path).manifest
    kept = manifest.extendable.model_copy(update=changes)
    manifest.model_copy(update={"extendable": kept}).save(path)
    return manifest.extendable


def test_joined_images_are_read_from_their_sources(tmp_path, folders):
    joined = images_of(folders["3"], folders["7"])
    twice = sl.JoinedImages([joined, ImageFolder(folders["24"])])
    again = sl.load_images(twice.spec)
    assert (again.ids, again.targets, len(again)) == (twice.ids, twice.targets, 34)
    assert again.ids[0] == "class0/000.png"
    assert again.ids[3] == "+1/class0/000.png"
    assert again.ids[10] == "+2/class0/000.png"
    for number, name in ((2, "3"), (3, "7"), (33, "24")):
        place = number - {"3": 0, "7": 3, "24": 10}[name]
        assert again.content(number) == ImageFolder(folders[name]).content(place)
    some = sl.JoinedImages([ImageFolder(folders["3"]), sl.ImageSequence(["x.png"])])
    assert some.targets == ["class0", "class0", "class1", "(no label)"]
    for spec in ("joined:[]", "joined:7", 'joined:["a"]', "joined:x", 'joined:["a", ["b"]]'):
        with pytest.raises(DataError, match="JSON list"):
            sl.load_images(spec)
    clash = write_pictures(tmp_path / "clash" / "+1", 2).parent
    with pytest.raises(DataError, match="Rename the folder"):
        images_of(clash, folders["3"])
    with pytest.raises(DataError, match="is not a folder"):
        sl.load_images('joined:["no/such", "folder/at/all"]')


def test_an_extended_database_is_opened_searched_audited_and_served(tmp_path, folders):
    embedder, model = WordEmbedder(), model_of(classes=CLASSES)
    build(tmp_path / "db", folders["3"], embedder=embedder, model=model, relevance=True)
    extend(tmp_path / "db", folders["7"], embedder=embedder, model=model)
    db = sl.open(tmp_path / "db", model=model, embedder=embedder)
    client = TestClient(create_app([db]), base_url="http://localhost")
    paths = db.samples["path"].tolist()
    for sample in (0, 9):
        name = paths[sample].removeprefix("+1/")
        with Image.open((folders["7"] if sample else folders["3"]) / name) as picture:
            np.testing.assert_array_equal(db.original(sample), picture)
            answer = client.get(f"/api/v1/models/0/explanations/{sample}/image.webp")
            assert Image.open(io.BytesIO(answer.content)).size == picture.size
    assert db.search("red", top=3).hits
    assert any(e.path.startswith("+1/") for row in range(16) for e in db.examples_of(row))
    probes = sl.ConceptSet((Concept("red", (), "spurious"), Concept("ox", (), "valid")))
    words = sl.ConceptSet(tuple(Concept(f"word{i}") for i in range(40)))
    audit = sl.audit(db, "class1", probes, background=words, resamples=20)
    assert len(audit.to_pandas())


def test_the_command(tmp_path, folders):
    run = CliRunner()
    (tmp_path / "little.py").write_text(
        "import torch\nfrom conftest import LittleNet, to_tensor\n"
        "def make():\n    return LittleNet(), to_tensor, list('abcd')\n"
    )
    model = f"{tmp_path / 'little.py'}:make"
    build_options = ["--model", model, "--embedder", "semlens/demo", "--layers", "first",
                     "--crop", "none", "--examples", "2", "--batch-size", "2"]  # fmt: skip

    def semlens(*arguments):
        ended = run.invoke(app, [str(argument) for argument in arguments])
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    data, new = ["--data", folders["7"]], ["--data", folders["3"]]
    semlens("build", tmp_path / "db", *build_options, *data, "--extendable")
    said = json.loads(semlens("extend", tmp_path / "db", *new, "--model", model, "--json"))
    assert (said["samples_before"], said["samples"], said["batches_reused"]) == (7, 10, 3)
    before = contents(tmp_path / "db")
    semlens("build", tmp_path / "db", *build_options, *data, *new)  # the same data: nothing to do
    assert contents(tmp_path / "db") == before
    text = semlens("extend", tmp_path / "db", *new, "--model", model)
    assert "already; nothing was changed" in text
    status = json.loads(semlens("status", tmp_path / "db", "--json"))
    assert status["extendable"] == {"batch_size": 2, "device": "cpu"}
