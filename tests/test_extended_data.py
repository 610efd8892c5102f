"""What can be added to a database, what is refused, and what is then read."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, write_pictures
from fastapi.testclient import TestClient
from growing_data import CLASSES, LAYERS, build, extend, images_of, model_of, write_folders
from PIL import Image
from test_executors import contents
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, RecipeError, StaleError, StoreError
from semlens.lenses.concepts import Concept
from semlens.web.app import create_app

pytestmark = pytest.mark.filterwarnings("ignore::semlens.data.class_mapping.UnmappedWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return write_folders(tmp_path_factory.mktemp("data"))


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


@pytest.mark.slow
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
    audit = db.audit("class1", probes, background=words, resamples=20)
    assert len(audit.to_pandas())


@pytest.mark.slow
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
    said = json.loads(semlens("db", "extend", tmp_path / "db", *new, "--model", model, "--json"))
    assert (said["samples_before"], said["samples"], said["batches_reused"]) == (7, 10, 3)
    before = contents(tmp_path / "db")
    semlens("build", tmp_path / "db", *build_options, *data, *new)  # the same data: nothing to do
    assert contents(tmp_path / "db") == before
    text = semlens("db", "extend", tmp_path / "db", *new, "--model", model)
    assert "already; nothing was changed" in text
    status = json.loads(semlens("status", tmp_path / "db", "--json"))
    assert status["extendable"] == {"batch_size": 2, "device": "cpu"}
