"""A database on the hub: push, open, search, pull; the real client, and a hub on this machine."""

from __future__ import annotations

import io
from pathlib import Path

import huggingface_hub.constants as constants
import pandas as pd
import pytest
from conftest import (
    LittleNet,
    SubjectModel,
    WordEmbedder,
    assert_says,
    to_tensor,
    write_pictures,
)
from hub_server import Hub, hub  # noqa: F401  # a fixture
from huggingface_hub import HfFileSystem
from PIL import Image
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import RecipeError, StoreError

NAME = "ada/little"
URL = f"hf://datasets/{NAME}"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    pictures = write_pictures(folder / "images", 24)
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    settings = {"examples": 4, "crop": "activation", "reference": 8}
    db = sl.build(folder / "db", model, pictures, WordEmbedder(), ["first", "second"], **settings)
    db.label(["red", "blue"]).save_to_database("colours")
    db.audits.add(0, {"blob": ["red"]})
    return db.path


def opened(path: str | Path) -> sl.ConceptDatabase:
    return sl.open(path, embedder=WordEmbedder())


def test_round_trip_push_open_search_pull_verify(local: Path, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    here = opened(local)
    pushed = here.push_to_hub(NAME, license="cc-by-4.0", crops=True, draw_map=False)
    assert hub.repositories[NAME].private
    there = opened(URL)
    assert there.fingerprint == pushed.fingerprint
    hits = there.search("red").to_pandas()
    pd.testing.assert_frame_equal(hits, here.search("red").to_pandas())
    assert there.thumbnail(0) == here.thumbnail(0)
    at_commit = opened(f"{URL}@{pushed.commit}")
    assert at_commit.fingerprint == pushed.fingerprint
    copy = sl.pull(NAME, tmp_path / "copy")
    assert sl.verify(copy.path).sound
    assert copy.fingerprint == pushed.fingerprint
    assert not (tmp_path / "copy/partial").exists()
    # saved labels belong to the published build, whose manifest does not name the folder
    labels = copy.load_analysis("labels-colours")
    pd.testing.assert_frame_equal(labels, here.load_analysis("labels-colours"))
    assert not list(copy.audits.readable())


def test_what_is_private_stays_here(local: Path, hub: Hub) -> None:  # noqa: F811
    opened(local).push_to_hub(NAME, license="mit", crops=True, draw_map=False)
    parent = str(local.parent).encode()
    for name, data in hub.files(NAME).items():
        assert parent not in data, name
    assert b'"spec": "images"' in hub.files(NAME)["manifest.json"]
    names = set(hub.files(NAME))
    assert not any(name.startswith(("analysis/audits", "partial", ".lock")) for name in names)
    opened(local).push_to_hub(NAME, license="mit", crops=True, audits=True, draw_map=False)
    assert "analysis/audits/1.json" in hub.files(NAME)
    record = opened(URL).audits.get(1)
    assert record.database == opened(URL).fingerprint


def test_without_crops_there_is_no_picture_of_an_image(
    local: Path,
    hub: Hub,  # noqa: F811
    tmp_path: Path,
) -> None:
    db = opened(local)
    db.push_to_hub(NAME, license="mit", crops=True, draw_map=False)
    assert any(name.startswith("thumbnails/") for name in hub.files(NAME))
    pushed = db.push_to_hub(NAME, license="mit", crops=False, draw_map=False)
    files = hub.files(NAME)
    assert pushed.crops == 0
    assert not any(b"WEBP" in data for data in files.values())
    assert not any(name.startswith("thumbnails/") or name == "map.webp" for name in files)
    copy = sl.pull(NAME, tmp_path / "copy")
    assert sl.verify(copy.path).sound
    assert copy.thumbnail(0) is None
    assert len(opened(copy.path).search("red")) == len(db.search("red"))


def test_the_card_says_what_the_manifest_says(local: Path, hub: Hub) -> None:  # noqa: F811
    db = opened(local)
    pushed = db.push_to_hub(NAME, license="cc-by-4.0", crops=True, draw_map=False)
    card = hub.files(NAME)["README.md"].decode()
    _, metadata, text = card.split("---\n", 2)
    assert "license: cc-by-4.0\n" in metadata
    assert "- n<1K\n" in metadata
    manifest = db.manifest
    for part in (
        manifest.model.fingerprint, manifest.data.fingerprint, manifest.embedder.fingerprint,
        pushed.fingerprint, manifest.model.spec, f"{manifest.rows:,} components", "24 images",
        f"{sum(manifest.crops)} crops", f'sl.open("{URL}")', "| `first` |",
    ):  # fmt: skip
        assert part in text, part
    without = db.push_to_hub(NAME, license="cc-by-4.0", crops=False, draw_map=False)
    card = hub.files(NAME)["README.md"].decode()
    assert "It contains no pictures" in card
    assert without.fingerprint in card


@pytest.mark.slow
def test_the_map_on_the_card_has_crops_only_if_they_are_published(local: Path, hub: Hub) -> None:  # noqa: F811
    db = opened(local)
    pictures = []
    for crops in (True, False):
        db.push_to_hub(NAME, license="mit", crops=crops)
        files = hub.files(NAME)
        assert b"![Map of the components](map.webp)" in files["README.md"]
        image = Image.open(io.BytesIO(files["map.webp"])).convert("RGB")
        pictures.append(len(image.getcolors(image.width * image.height) or ()))
    assert pictures[0] > 2 * pictures[1], pictures  # colours


def test_an_interrupted_pull_continues(local: Path, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    opened(local).push_to_hub(NAME, license="mit", crops=True, draw_map=False)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    folder = tmp_path / "copy"
    with pytest.raises(KeyboardInterrupt):
        sl.pull(NAME, folder, progress=stop)
    with pytest.raises(StoreError, match="unfinished database"):
        sl.open(folder)
    complete = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    damaged = folder / "components.parquet"
    damaged.write_bytes(b"half")
    hub.gets.clear()
    copy = sl.pull(NAME, folder)
    assert sl.verify(copy.path).sound
    build = set(copy.manifest.files)
    assert set(hub.gets) & build == build - complete | {"components.parquet"}
    hub.gets.clear()
    sl.pull(NAME, folder)
    assert not set(hub.gets) & build


def test_a_folder_of_something_else_is_left_alone(local: Path, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    opened(local).push_to_hub(NAME, license="mit", crops=False, draw_map=False)
    with pytest.raises(StoreError, match="another database"):
        sl.pull(NAME, local)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="is not a database"):
        sl.pull(NAME, tmp_path)
    files = hub.files(NAME)
    files["samples.parquet"] = b"damaged"
    with pytest.raises(StoreError, match=r"samples\.parquet.*SHA-256 differs"):
        sl.pull(NAME, tmp_path / "copy")


def test_errors_say_what_to_do(local: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    db = opened(local)
    options = {"license": "mit", "crops": False, "draw_map": False}
    db.push_to_hub(NAME, **options)
    with pytest.raises(StoreError) as missing:
        sl.open("hf://datasets/ada/other")
    assert_says(missing.value, "ada/other", "manifest.json", "hf auth login")
    with pytest.raises(StoreError, match="is not a database"):
        sl.open(f"{URL}@no-such-branch")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(StoreError) as refused:
        db.push_to_hub(NAME, **options)
    assert_says(refused.value, NAME, "organisation", "hf auth login")
    HfFileSystem.clear_instance_cache()
    with pytest.raises(StoreError) as private:
        sl.open(URL)
    assert_says(private.value, URL, "may be read", "hf auth login")
    with pytest.raises(StoreError, match="not a repository of the hub"):
        db.push_to_hub("little", **options)
    with pytest.raises(RecipeError, match="identifier"):
        db.push_to_hub(NAME, license="my own licence", crops=False)
    with pytest.raises(StoreError, match="not on this machine"):
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        HfFileSystem.clear_instance_cache()
        sl.open(URL).push_to_hub(NAME, **options)
    with pytest.raises(StoreError, match=r"resnet50.* has not been published yet.*--config resnet"):
        sl.pull("resnet50")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be reached"):
        db.push_to_hub(NAME, **options)


def test_commands_push_and_pull(local: Path, hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    run = CliRunner().invoke
    arguments = ["db", "push", str(local), NAME, "--license", "mit"]
    asked = run(app, [*arguments, "--no-map"])
    assert asked.exit_code == 1
    assert "--no-crops" in asked.output
    assert NAME not in hub.repositories
    pushed = run(app, [*arguments, "--no-crops", "--no-map", "--public"])
    assert pushed.exit_code == 0, pushed.output
    assert not hub.repositories[NAME].private
    pulled = run(app, ["db", "pull", URL, "--out", str(tmp_path / "copy"), "--json"])
    assert pulled.exit_code == 0, pulled.output
    assert run(app, ["db", "verify", str(tmp_path / "copy")]).exit_code == 0
    assert run(app, ["status", URL]).exit_code == 0
