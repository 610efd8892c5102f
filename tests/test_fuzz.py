"""Damaged inputs of every reader: our own errors come out, in bounded time and memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import VEGETABLES, LittleNet, WordEmbedder, build_vegetables, to_tensor

import semlens as sl
from benchmarks.cases.fuzz import benchmark as fuzz
from benchmarks.cases.fuzz.found import OF_SEMLENS, SOURCE, readers_in_source
from benchmarks.cases.fuzz.http import finish_jobs, request_reader
from benchmarks.cases.fuzz.readers import Reader, database_readers, file_readers
from benchmarks.cases.fuzz.user_files import dictionary_readers, table_readers
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.models.subject import SubjectModel

FILES = [
    "images", "concept sets, TOML", "concept sets, JSON", "concept sets, CSV",
    "settings of a build", "class mappings", "class targets", "component names",
    "SPECs of models", "SPECs of embedders", "SPECs of images", "cached tables", "tensors",
    "shards",
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Reader]:
    return file_readers(tmp_path_factory.mktemp("readers"))


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> sl.ConceptDatabase:
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", VEGETABLES)
    db = build_vegetables(tmp_path_factory.mktemp("fuzzed"), model)
    db.audits.add("vegetable", ConceptSet((Concept("dog", (), "valid"), Concept("tree"))))
    return db


RECOMPUTED = ("kept responses",)
"""What is damaged there is computed again: nothing is refused."""


def of_files(database: sl.ConceptDatabase) -> dict[str, Reader]:
    """Return the readers of the files of a database, without its images and its model."""
    readers = database_readers(database.path, lambda path: sl.open(path, embedder=WordEmbedder()))
    return readers


def assert_survives(reader: Reader, inputs: int, *, refuses: bool = True) -> None:
    """Feed a reader; some inputs must be refused and, since some are whole, some be read."""
    attempts: list[fuzz.Attempt] = []
    fuzz.fuzz(reader, inputs, attempts.append)
    wrong = [one.detail for one in attempts if one.outcome == fuzz.WRONG]
    assert not wrong, wrong[0]
    found = {one.outcome for one in attempts}
    assert len(found) == 1 + refuses or len(attempts) < 30, (reader, found)


def test_every_reader_of_files_is_fuzzed(files):
    assert list(files) == FILES


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_and_texts(files, name):
    assert_survives(files[name], 8 if name.startswith("SPEC") else 40)


def test_files_that_users_bring(tmp_path):
    known = {**dictionary_readers(tmp_path), **table_readers(tmp_path)}
    wrong: list[str] = []
    for name, reader in known.items():
        attempts: list[fuzz.Attempt] = []
        fuzz.fuzz(replace(reader, first=reader.first[::12]), 2, attempts.append)
        wrong += [f"{name}: {one.detail}" for one in attempts if one.outcome == fuzz.WRONG]
    assert not wrong, wrong[0]


def test_a_reader_that_no_input_gets_to_is_found(tmp_path):
    known = file_readers(tmp_path)
    chosen = {name: known[name] for name in ("images", "class targets")}
    missing = fuzz.without_fuzzing(chosen)
    assert "data/class_mapping.read_targets" not in missing
    assert "data/images.decode" not in missing
    assert {"data/class_mapping.read_classes", "store/dictionary_files.load_saelens"} <= {*missing}
    assert set(missing) < readers_in_source()
    # what is left out names functions that are there
    modules = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
    for start in OF_SEMLENS:
        module = start.partition(".")[0]
        assert any(name.startswith(module) for name in modules), start


@pytest.mark.slow
def test_damaged_databases_and_requests(database):
    for name, reader in of_files(database).items():
        assert_survives(reader, 4, refuses=name not in RECOMPUTED)
    assert_survives(request_reader(database), 12)
    finish_jobs()
