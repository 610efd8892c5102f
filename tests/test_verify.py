"""What ``semlens db verify`` finds: every kind of damage, by the name of the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import LittleNet, WordEmbedder, build_vegetables, to_tensor
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import StoreError
from semlens.models.subject import SubjectModel
from semlens.regular_files import file_digest

COMPONENTS, SAMPLES = "components.parquet", "samples.parquet"
EXAMPLES, THETA = "examples/first.parquet", "vectors/second.safetensors"
CROPS, REFERENCE = "vectors/crops/0000.safetensors", "reference.safetensors"
READOUTS, SHARES = "reference/first.safetensors", "relevance/first.parquet"
COUNTS = "relevance.parquet"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ["vegetable", "ox", "zebra", "clock"]
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", names)
    db = build_vegetables(tmp_path_factory.mktemp("verify"), subject)
    db = sl.open(db.path, model=subject, embedder=WordEmbedder())
    db.audits.add("ox", sl.ConceptSet.load("paper-ox"))
    db.label("paper-vocabulary").save_to_database("words")
    return db.path


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(built, tmp_path / "db")


def found(path: Path) -> list[tuple[str, str]]:
    return [(one.file, one.problem) for one in sl.verify(path).problems]


def sign(path: Path, name: str) -> None:
    """Enter a changed file into the manifest, as somebody who knows the format would."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = file_digest(path / name)
    (path / "manifest.json").write_text(json.dumps(manifest))


def change_table(path: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    schema = pq.read_schema(path / name)
    frame = change(pd.read_parquet(path / name))
    pq.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False), path / name)
    sign(path, name)


def change_tensors(path: Path, name: str, key: str, change: Callable[[Any], Any]) -> None:
    tensors = load_file(path / name)
    tensors[key] = change(tensors[key].clone()).contiguous()
    save_file(tensors, path / name)
    sign(path, name)


def put(position: Any, value: Any) -> Callable[[Any], Any]:
    """Return a function that sets a part of a tensor."""

    def change(tensor: Any) -> Any:
        tensor[position] = value
        return tensor

    return change


def at(row: int, column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return a function that sets a value of a table."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.at[row, column] = value
        return frame

    return change


@pytest.mark.slow
def test_a_database_is_sound_as_it_was_built(built: Path) -> None:
    result = sl.verify(built)
    assert result.problems == ()
    files = [p for p in built.rglob("*") if p.is_file() and p.name not in (".lock", "last.txt")]
    known = {p.relative_to(built).as_posix() for p in files}
    assert {COMPONENTS, SAMPLES, EXAMPLES, THETA, CROPS, REFERENCE, READOUTS, SHARES} <= known
    assert result.files >= len(known)
    assert result.size >= sum(p.stat().st_size for p in files)


@pytest.mark.slow
def test_every_single_file_is_missed_and_every_changed_bit_is_found(copy: Path) -> None:
    for name in json.loads((copy / "manifest.json").read_text())["files"]:
        content = (copy / name).read_bytes()
        (copy / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert found(copy) == [(name, "its SHA-256 differs from that of the manifest")]
        (copy / name).unlink()
        assert found(copy) == [(name, "it is missing")]
        (copy / name).mkdir()
        assert found(copy) == [(name, "it cannot be read (Is a directory)")]
        (copy / name).rmdir()
        (copy / name).write_bytes(content)
    assert found(copy) == []


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (SAMPLES, lambda f: f.iloc[::-1], "the samples are not in order"),
        (SAMPLES, at(3, "path", "class0/000.png"), "a path occurs twice"),
        (SAMPLES, at(3, "sha256", "0" * 64), "do not give the fingerprint"),
        (SAMPLES, at(3, "error", "unread"), "1 samples are skipped; the manifest says 0"),
        (SAMPLES, at(3, "logit", 9), "a logit is not from 0 to 3"),
        (COMPONENTS, at(2, "index", 3), "not the components of 'first'"),
        (COMPONENTS, at(2, "layer", "second"), "not the components of 'first'"),
        (COMPONENTS, at(2, "sign", -1), "not the components of 'first'"),
        (COMPONENTS, at(2, "examples", 99), "not 0 to 4 examples"),
        (COMPONENTS, at(2, "samples", 99), "too many samples"),
        (COMPONENTS, at(2, "firing_rate", 1.5), "a rate beyond 1"),
        (EXAMPLES, at(1, "component", 99), "the components are not those of the layer"),
        (EXAMPLES, at(1, "rank", 3), "the ranks have gaps"),
        (EXAMPLES, at(1, "sample", 24), "an image is not there"),
        (EXAMPLES, at(1, "sample", -1), "an image is not there"),
        (EXAMPLES, at(1, "box", [0, 0, 1, 1]), "refers to another crop"),
        (EXAMPLES, at(1, "crop", 10**6), "refers to another crop"),
        (EXAMPLES, lambda f: f.iloc[:-1], "is not that of components.parquet"),
        (SHARES, at(1, "component", 99), "a component is not of the layer"),
        (SHARES, at(1, "class", 2), "a class is not in relevance.parquet"),
        (SHARES, lambda f: pd.concat([f, f.tail(1)]), "a pair occurs twice"),
        (SHARES, at(1, "max", 1.5), "a share is above 1"),
        (COUNTS, at(1, "samples", 0), "has no samples"),
    ],
)
def test_a_table_that_contradicts_the_rest_is_found(
    copy: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    change_table(copy, name, change)
    problems = found(copy)
    assert any(file == name and said in problem for file, problem in problems), problems


@pytest.mark.parametrize(
    ("name", "key", "change", "said"),
    [
        (THETA, "theta", put(0, 0), "examples but no vector"),
        (CROPS, "vector", put(0, 0.5), "does not have unit length"),
        (CROPS, "sample", put(0, 24), "an image is not there"),
        (CROPS, "box", put((0, 2), 0), "a box is empty or negative"),
        (REFERENCE, "vector", put(0, 0.5), "does not have unit length"),
        (REFERENCE, "sample", lambda t: t[:1].expand_as(t), "an image occurs twice"),
        (REFERENCE, "sample", put(0, 24), "an image is not there"),
        (READOUTS, "scale", put(0, 3.0), "a scale is no power of two"),
        (THETA, "theta", lambda t: t[1:], "it holds theta F16"),
        (THETA, "theta", lambda t: t.float(), "it holds theta F32"),
        (CROPS, "vector", put(0, float("nan")), "'vector' is not finite"),
    ],
)
def test_a_tensor_that_contradicts_the_rest_is_found(
    copy: Path, name: str, key: str, change: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    change_tensors(copy, name, key, change)
    problems = found(copy)
    assert any(file == name and said in problem for file, problem in problems), problems


def test_all_damage_is_listed_at_once_with_what_to_do(copy: Path) -> None:
    (copy / CROPS).write_bytes(b"")
    (copy / EXAMPLES).unlink()
    table = next((copy / "analysis").glob("*.parquet"))
    table.write_bytes(b"PAR1")
    audit = copy / "analysis" / "audits" / "1.json"
    audit.write_text("{")
    ended = CliRunner().invoke(app, ["db", "verify", str(copy), "--json"])
    assert ended.exit_code == 1
    told = json.loads(ended.stdout)
    remedies = {one["file"]: one["remedy"] for one in told["problems"]}
    assert set(remedies) == {CROPS, EXAMPLES, f"analysis/{table.name}", "analysis/audits/1.json"}
    assert "build it again" in remedies[CROPS]
    assert remedies[f"analysis/{table.name}"].startswith("Delete it")
    assert "cannot be computed again" in remedies["analysis/audits/1.json"]
    assert not told["sound"]
    text = CliRunner().invoke(app, ["db", "verify", str(copy)], env={"COLUMNS": "300"})
    assert text.exit_code == 1
    assert "4 problems" in text.stdout
    assert all(name in text.stdout for name in remedies)


def test_the_command_says_that_nothing_is_wrong(built: Path) -> None:
    ended = CliRunner().invoke(app, ["db", "verify", str(built)], env={"COLUMNS": "300"})
    assert ended.exit_code == 0
    assert ended.stdout.startswith("no problem in ")


def change_manifest(path: Path, **values: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **values}))


def test_what_the_manifest_says_is_checked(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    files = dict(manifest["files"])
    del files[THETA]
    change_manifest(copy, files=files)
    assert found(copy) == [("manifest.json", f"it does not list '{THETA}'")]
    (copy / "extra.bin").write_bytes(b"x")
    change_manifest(copy, files=manifest["files"])
    sign(copy, "extra.bin")
    assert found(copy) == [("extra.bin", "the build has no such file")]
    change_manifest(copy, files=manifest["files"], unreadable=3)
    assert [file for file, _ in found(copy)] == [SAMPLES]
    change_manifest(copy, files=manifest["files"], unreadable=0, samples=23)
    assert SAMPLES in [file for file, _ in found(copy)]
    for name in ("../outside", "/etc/passwd", "vectors/../../outside"):
        change_manifest(copy, samples=24, files={**manifest["files"], name: "0" * 64})
        with pytest.raises(StoreError, match="leads out of the folder"):
            sl.verify(copy)


def test_a_folder_that_is_no_database_is_told_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("x" * 5000)):
        ended = CliRunner().invoke(app, ["db", "verify", str(path)], env={"COLUMNS": "300"})
        assert ended.exit_code == 1
        assert "StoreError" in ended.stderr
        assert len(ended.stderr) < 800
