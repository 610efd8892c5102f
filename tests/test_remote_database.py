"""A database in an object store: files are copied when they are used, and verified."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from conftest import (
    LittleNet,
    SubjectModel,
    WordEmbedder,
    assert_says,
    to_tensor,
    when_done,
    write_pictures,
)
from fastapi.testclient import TestClient
from object_store import BUCKET, ObjectStore, object_store  # noqa: F401  # a fixture
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import StoreError
from semlens.lenses.labelling.component_labels import label_tables, saved_labels
from semlens.web.app import create_app


def db_model() -> SubjectModel:
    return SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    pictures = write_pictures(folder / "images", 24)
    settings = {"examples": 4, "crop": "activation", "reference": 8}
    db = sl.build(
        folder / "db", db_model(), pictures, WordEmbedder(), ["first", "second"], **settings
    )
    db.label(["red", "blue"]).save_to_database("colours")
    db.audits.add(0, {"blob": ["red"]})
    return db.path


@pytest.fixture
def url(local: Path, object_store: ObjectStore, request, monkeypatch, tmp_path) -> str:  # noqa: F811
    """A copy of its own for each test, of which nothing is on this machine."""
    monkeypatch.setenv("SEMLENS_CACHE", str(tmp_path / "copies"))
    url = object_store.upload(local, request.node.name)
    object_store.gets.clear()
    return url


def read_files(store: ObjectStore, url: str) -> list[str]:
    """Return the files that were read since the last time, without listings."""
    head = url.removeprefix("s3:/") + "/"
    names = [path.removeprefix(head) for path, _ in store.gets if path.startswith(head)]
    store.gets.clear()
    return sorted(names)


@pytest.mark.slow
def test_each_question_reads_its_own_files_once(url, local, object_store):  # noqa: F811
    here = sl.open(local, embedder=WordEmbedder())
    db = sl.open(url, embedder=WordEmbedder())
    assert read_files(object_store, url) == ["manifest.json"]
    of_second = db.row(sl.Component("second", 0))
    assert db.examples_of(of_second) == here.examples_of(of_second)
    assert read_files(object_store, url) == ["examples/second.parquet", "samples.parquet"]
    crop = db.examples_of(of_second)[0].crop
    assert db.thumbnail(crop) == here.thumbnail(crop)
    assert read_files(object_store, url) == ["thumbnails/0000.parquet"]
    rows = [of_second]
    assert db.concept_vectors(rows).tobytes() == here.concept_vectors(rows).tobytes()
    assert read_files(object_store, url) == ["vectors/second.safetensors"]
    hits = db.search("red", layers="second").to_pandas()
    pd.testing.assert_frame_equal(hits, here.search("red", layers="second").to_pandas())
    assert read_files(object_store, url) == [
        "analysis/labels-colours.parquet", "components.parquet",
        "vectors/crops/0000.safetensors", "vectors/first.safetensors",
    ]  # fmt: skip
    db.search("blue", layers="second")
    again = sl.open(url, embedder=WordEmbedder())
    assert db.fingerprint == here.fingerprint == again.fingerprint
    assert len(again.examples_of(of_second)) == len(here.examples_of(of_second))
    assert read_files(object_store, url) == ["manifest.json"]


@pytest.mark.slow
def test_what_people_saved_is_read_and_nothing_is_written(url, local, object_store):  # noqa: F811
    db, here = sl.open(url, embedder=WordEmbedder()), sl.open(local)
    assert [table.name for table in label_tables(db)] == ["colours"]
    pd.testing.assert_frame_equal(saved_labels(db, "colours"), saved_labels(here, "colours"))
    assert [record.name for record in db.audits.readable()] == ["a"]
    db.audits.add(1, {"blob": ["red"]})
    assert not db.is_writable
    assert not db.audits.keeps
    with pytest.raises(StoreError, match="cannot be written"):
        db.label(["red", "blue"]).save_to_database("mine")
    with pytest.raises(StoreError, match="Build into a folder"):
        sl.build(url, db_model(), local.parent / "images", WordEmbedder(), ["first"])
    keys = object_store.client.list_objects(Bucket=BUCKET, Prefix=url.split("/")[-1])["Contents"]
    assert len(keys) == sum(p.is_file() for p in local.rglob("*"))


@pytest.mark.slow
def test_a_damaged_file_is_refused_and_a_damaged_copy_is_replaced(url, local, object_store):  # noqa: F811
    db = sl.open(url)
    copy = db.files.verified_path("components.parquet")
    copy.write_bytes(b"damaged")
    assert len(sl.open(url).components) == len(sl.open(local).components)
    folder = url.removeprefix(f"s3://{BUCKET}/")
    client = object_store.client
    client.put_object(Bucket=BUCKET, Key=f"{folder}/samples.parquet", Body=b"damaged")
    client.delete_object(Bucket=BUCKET, Key=f"{folder}/examples/first.parquet")
    with pytest.raises(StoreError) as error:
        _ = sl.open(url).samples
    assert_says(error.value, f"{url}/samples.parquet", "SHA-256 differs", "Upload")
    with pytest.raises(StoreError, match=r"first\.parquet.* cannot be copied"):
        sl.open(url).examples("first")
    problems = {problem.file for problem in sl.verify(url).problems}
    assert problems == {"samples.parquet", "examples/first.parquet"}
    client.delete_object(Bucket=BUCKET, Key=f"{folder}/manifest.json")
    with pytest.raises(StoreError, match="is not a database"):
        sl.open(url)


@pytest.mark.slow
def test_it_is_served_like_one_of_this_machine(url, local):
    apps = [create_app([sl.open(path, embedder=WordEmbedder())]) for path in (url, local)]
    clients = [TestClient(app, base_url="http://localhost") for app in apps]
    for question in ("search?q=red&k=3", "components", "components/second:1/strip.webp"):
        answers = [
            when_done(lambda c=client, q=question: c.get(f"/api/v1/models/0/{q}"))
            for client in clients
        ]
        assert [answer.status_code for answer in answers] == [200, 200], question
        assert answers[0].content == answers[1].content, question


@pytest.mark.slow
def test_commands_take_a_url(url):
    run = CliRunner().invoke
    shown = run(app, ["status", url, "--json"])
    assert shown.exit_code == 0, shown.output
    checked = run(app, ["db", "verify", url])
    assert checked.exit_code == 0, checked.output
    assert f"no problem in '{url}'" in checked.output.replace("\n", "")
    listed = run(app, ["scores", url, "--json"])
    assert listed.exit_code == 0, listed.output
