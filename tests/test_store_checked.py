"""No answer comes from a corrupt file: heads are checked at opening, contents when first read."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import LittleNet, WordEmbedder, assert_says, sign_files, to_tensor
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import StoreError
from semlens.models.subject import SubjectModel
from semlens.run.plan import Execution
from semlens.store import checked_files, file_names

FIRST, SECOND = file_names.theta_file("first"), file_names.theta_file("second")
CROPS = file_names.crops_file(0)
READOUTS = file_names.reference_file("second")


@pytest.fixture(scope="module")
def built(tmp_path_factory, pictures) -> Path:
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    path = tmp_path_factory.mktemp("checked") / "db"
    sl.build(path, subject, ImageFolder(pictures), WordEmbedder(), ["first", "second"],
             examples=6, relevance=True, execution=Execution(8, 0, 16))  # fmt: skip
    return path


@pytest.fixture
def copy(built, tmp_path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "db"))


def opened(path: Path) -> sl.ConceptDatabase:
    return sl.open(path, embedder=WordEmbedder())


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(file: Path) -> None:
        held = {name: value.clone() for name, value in load_file(file).items()}
        change(held)
        save_file(held, file)

    return spoil


def table(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda file: pq.write_table(change(pq.read_table(file, partitioning=None)), file)


HEADS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "another layer's vectors": (
        SECOND,
        lambda file: shutil.copy(file.with_name("first.safetensors"), file),
        "it holds theta F16 [6, 24], not theta F16 [20, 24]",
    ),
    "one row less": (SECOND, tensors(lambda t: t.update(theta=t["theta"][1:].clone())), "[19, 24]"),
    "another type": (FIRST, tensors(lambda t: t.update(theta=t["theta"].float())), "F32"),
    "another name": (FIRST, tensors(lambda t: t.update(vector=t.pop("theta"))), "vector F16"),
    "one tensor more": (CROPS, tensors(lambda t: t.update(more=torch.zeros(2))), "more F32 [2]"),
    "fewer boxes": (CROPS, tensors(lambda t: t.update(box=t["box"][:-1].clone())), "box I32"),
    "vectors cut short": (FIRST, lambda f: f.write_bytes(f.read_bytes()[:-8]), "cannot be read"),
    "no vectors": (FIRST, Path.unlink, "cannot be read"),
    "a pipe": (FIRST, lambda f: (f.unlink(), os.mkfifo(f)), "not a regular file"),
    "a table that is a pipe": (
        file_names.COMPONENTS,
        lambda f: (f.unlink(), os.mkfifo(f)),
        "not a regular file",
    ),
    "an empty file": (
        file_names.thumbnails_file(0),
        lambda f: f.write_bytes(b""),
        "cannot be read",
    ),
    "fewer reference images": (
        file_names.REFERENCE,
        tensors(lambda t: t.update(vector=t["vector"][1:].clone())),
        "vector F16 [40, 24]",
    ),
    "another layer's readouts": (
        READOUTS,
        lambda file: shutil.copy(file.with_name("first.safetensors"), file),
        "it holds readout F16 [6, 41], scale F32 [6], not readout F16 [10, 41], scale F32 [10]",
    ),
    "no readouts": (READOUTS, Path.unlink, "cannot be read"),
    "no reference images": (file_names.REFERENCE, Path.unlink, "cannot be read"),
    "one component less": (file_names.COMPONENTS, table(lambda t: t.slice(1)), "25 rows, not 26"),
    "one sample more": (
        file_names.SAMPLES,
        table(lambda t: pa.concat_tables([t, t.slice(0, 1)])),
        "42 rows, not 41",
    ),
    "no masks": (
        file_names.examples_file("first"),
        table(lambda t: t.drop(["mask"])),
        "its columns",
    ),
    "wide numbers": (
        file_names.relevance_file("second"),
        table(lambda t: t.set_column(2, "mean", t["mean"].cast(pa.float64()))),
        "mean double",
    ),
    "one thumbnail less": (file_names.thumbnails_file(0), table(lambda t: t.slice(1)), "rows, not"),
    "other counts": (
        file_names.RELEVANCE_CLASSES,
        table(lambda t: t.drop(["samples"])),
        "its columns",
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_file_of_another_form_is_refused_at_opening(copy, name):
    file, spoil, text = HEADS[name]
    spoil(copy / file)
    with pytest.raises(StoreError) as error:
        opened(copy)
    assert_says(error.value, str(copy / file), text, "Restore it")
    if (copy / file).is_file():  # the digests are not what found it
        sign_files(copy)
        with pytest.raises(StoreError):
            opened(copy)


QUESTIONS: dict[str, tuple[str, Callable[[sl.ConceptDatabase], object]]] = {
    "search": (SECOND, lambda db: db.search("dog")),
    "one vector": (SECOND, lambda db: db.concept_vectors([20])),
    "all vectors": (FIRST, lambda db: db.theta),
    "one crop": (CROPS, lambda db: db.vectors_of([0])),
    "all crops": (CROPS, lambda db: db.crop_samples),
    "reference vectors": (file_names.REFERENCE, lambda db: db.reference.vectors),
    "reference images": (file_names.REFERENCE, lambda db: db.reference.ids),
    "readouts": (READOUTS, lambda db: db.reference.readouts("second")),
    "components": (file_names.COMPONENTS, lambda db: db.summary()),
    "samples": (file_names.SAMPLES, lambda db: db.samples),
    "one sample": (file_names.SAMPLES, lambda db: db.sample(0)),
    "examples": (file_names.examples_file("first"), lambda db: db.examples("first")),
    "one component": (file_names.examples_file("first"), lambda db: db.examples_of(0)),
    "picture": (file_names.thumbnails_file(0), lambda db: db.thumbnail(0)),
    "relevance": (file_names.relevance_file("second"), lambda db: db.relevance()),
    "classes": (file_names.RELEVANCE_CLASSES, lambda db: db.relevance_classes),
}


def flip(file: Path) -> None:
    """Change one bit where data lies: the head stays what it was."""
    data = bytearray(file.read_bytes())
    place = -1 if file.suffix == ".safetensors" else 8
    data[place] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_question_is_answered_from_a_changed_file(copy, name):
    file, ask = QUESTIONS[name]
    ask(opened(copy))
    flip(copy / file)
    db = opened(copy)
    for _ in range(2):
        with pytest.raises(StoreError) as error:
            ask(db)
        assert_says(error.value, str(copy / file), "SHA-256 differs", "Restore it")
    assert [problem.file for problem in db.verify().problems] == [file]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("file", "part"),
    [(SECOND, "theta"), (CROPS, "vector"), (file_names.REFERENCE, "vector"), (READOUTS, "readout")],
)
def test_vectors_that_are_not_finite_are_refused(copy, file, part, value):
    def spoil(held):
        held[part][3, 5] = value

    tensors(spoil)(copy / file)
    sign_files(copy)
    with pytest.raises(StoreError) as error:
        _ = opened(copy).theta, opened(copy).crop_vectors
        _ = opened(copy).reference.vectors, opened(copy).reference.readouts("second")
    assert_says(error.value, str(copy / file), f"'{part}' is not finite", "Restore it")


@pytest.mark.slow
def test_what_was_read_is_not_hashed_again(built, monkeypatch):
    hashed: list[str] = []
    real = checked_files.file_digest

    def counting(path):
        hashed.append(path.relative_to(built).as_posix())
        return real(path)

    monkeypatch.setattr(checked_files, "file_digest", counting)
    db = opened(built)
    assert hashed == []
    asked = threading.Barrier(8)

    def ask(_):
        asked.wait()
        return db.search("dog").components, db.thumbnail(0), db.examples_of(3)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert all(answer == answers[0] for answer in answers)
    expected = [
        file_names.COMPONENTS,
        file_names.SAMPLES,
        FIRST,
        SECOND,
        file_names.thumbnails_file(0),
    ]
    # the search compares its hits with crops of both layers
    expected += [file_names.examples_file("first"), file_names.examples_file("second")]
    expected += [file_names.crops_file(number) for number in range(len(db.manifest.crops))]
    assert sorted(hashed) == sorted(expected)


@pytest.mark.parametrize(
    ("command", "spoil"),
    [
        (["search", "DB", "dog"], HEADS["another layer's vectors"][:2]),
        (["scores", "DB"], (SECOND, flip)),
        (["status", "DB"], (file_names.SAMPLES, flip)),
        (["status", "DB"], HEADS["one component less"][:2]),
        (["scores", "DB"], (CROPS, flip)),
        (["show", "DB", "first:1"], (file_names.thumbnails_file(0), flip)),
        (["serve", "DB", "--no-browser"], HEADS["vectors cut short"][:2]),
    ],
)
def test_commands_end_with_what_is_wrong(copy, command, spoil):
    spoil[1](copy / spoil[0])
    arguments = [str(copy) if part == "DB" else part for part in command]
    ended = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert ended.exit_code == 1
    assert "StoreError" in ended.stderr
    assert Path(spoil[0]).name in ended.stderr


def test_the_server_answers_with_the_error(copy):
    from semlens.web.app import create_app

    flip(copy / SECOND)
    with TestClient(create_app([opened(copy)]), base_url="http://localhost") as client:
        found = client.get("/api/v1/models/0/search?q=dog")
    assert found.status_code >= 400
    assert found.json()["kind"] == "StoreError"


def test_verify_lists_all_damage_of_a_database_that_cannot_be_opened(copy):
    flip(copy / CROPS)
    (copy / FIRST).unlink()
    for extra in ([], ["--json"]):
        ended = CliRunner().invoke(app, ["db", "verify", str(copy), *extra], env={"COLUMNS": "300"})
        assert ended.exit_code == 1
        assert CROPS in ended.stdout
        assert FIRST in ended.stdout


@pytest.mark.slow
def test_a_database_that_was_extended_meanwhile_says_so(copy, pictures):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    db = opened(copy)
    sl.build(copy, subject, ImageFolder(pictures), WordEmbedder(), ["head"],
             examples=6, execution=Execution(8, 0, 16))  # fmt: skip
    with pytest.raises(StoreError, match="open the database again"):
        db.summary()
    assert len(opened(copy).summary()) == 3
    assert np.isfinite(opened(copy).theta).all()
    assert isinstance(opened(copy).show(["first:1"]), Image.Image)


def _first_twice(manifest):
    manifest["layers"][1]["name"] = "first"


def _shifted(manifest):
    manifest["layers"][1]["first"] += 1


def _more_rows(manifest):
    manifest["layers"][0]["rows"] = 1000


def _no_layers(manifest):
    manifest["layers"] = []


@pytest.mark.parametrize("change", [_first_twice, _shifted, _more_rows, _no_layers])
def test_a_manifest_whose_layers_do_not_fit_together_is_refused(copy, change):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"manifest\.json") as error:
        sl.open(copy)
    assert_says(error.value, "Expected", "Restore")


def test_a_newer_format_names_itself_whatever_else_it_holds(copy):
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text()) | {"format": 999, "unheard_of": {}}
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match="has format 999"):
        sl.open(copy)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[]", b'{"format": 7}', b"\xc3("])
def test_a_manifest_that_is_none_is_refused(copy, content):
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(StoreError, match="cannot be read") as error:
        sl.open(copy)
    assert_says(error.value, "Expected", "Restore")


def test_a_file_that_is_replaced_after_its_first_use_is_verified_again(copy):
    db, file = opened(copy), copy / file_names.examples_file("first")
    before = db.examples("first")
    flip(file)
    with pytest.raises(StoreError, match="SHA-256 differs"):
        db.examples("first")
    flip(file)
    assert db.examples("first").equals(before)


VECTORS = (lambda db: db.concept_vectors([3, 20]), lambda db: db.vectors_of([0, 5]),
           lambda db: db.reference.readouts("second"), lambda db: db.reference.vectors)  # fmt: skip


def write_in_place(folder: Path, change: Callable[[bytes], bytes]) -> None:
    """Write to the tensor files themselves, which may be open or mapped, as ``cp`` does."""
    for file in folder.rglob("*.safetensors"):
        with file.open("r+b") as opened_file:
            content = change(opened_file.read())
            opened_file.seek(0)
            opened_file.write(content)
            opened_file.truncate()


@pytest.mark.parametrize("change", [lambda c: c[: len(c) // 2], lambda c: bytes(len(c))])
def test_what_is_written_in_place_does_not_reach_vectors_that_were_read(copy, change):
    db = opened(copy)
    before = [ask(db) for ask in VECTORS]
    write_in_place(copy, change)
    for ask, expected in zip(VECTORS[:3], before[:3], strict=True):  # the last is kept by itself
        assert ask(db).tobytes() == expected.tobytes()
    with pytest.raises(StoreError):
        opened(copy)


def test_large_files_are_mapped_and_refused_once_they_are_written_in_place(copy, monkeypatch):
    expected = [ask(opened(copy)) for ask in VECTORS]
    monkeypatch.setattr(checked_files, "MAX_READ", 0)
    db = opened(copy)
    for ask, read in zip(VECTORS, expected, strict=True):
        assert ask(db).tobytes() == read.tobytes()
    write_in_place(copy, lambda content: content[:-8] + bytes(8))
    for ask in VECTORS[:3]:
        with pytest.raises(StoreError, match="SHA-256 differs"):
            ask(db)
