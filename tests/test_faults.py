"""What a fault leaves behind is noticed, and the committed counts of faults are whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from benchmarks.cases.faults import trials
from benchmarks.cases.faults.process import Ending
from benchmarks.harness import recorded
from benchmarks.harness import results as results_of_parts
from semlens.errors import BusyError, ModelError, StoreError
from semlens.models.hooks import call_model
from semlens.models.load import load_model
from semlens.run.plan import Execution
from semlens.run.shards import Shards, Stage
from semlens.store.atomic_files import (
    damaged,
    load_sealed,
    load_sealed_table,
    save_sealed,
    save_sealed_table,
)
from semlens.store.writer import write_lock

ROOT = Path(__file__).resolve().parents[1]
RECORDED = recorded.recorded()
STAGES = ("hashing", "collecting", "cropping", "embedding", "merging", "class relevance",
          "extension", "labelling")  # fmt: skip


# -- files with a digest of their own ------------------------------------------------------------


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_sealed_tensors_come_back_and_every_changed_bit_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {
        "f": torch.tensor([[1.5, float("nan")]]), "h": torch.ones(3).half(),
        "b": torch.tensor([True, False]), "i": torch.tensor(7), "none": torch.zeros(0, 4),
        "bf": torch.ones(2, dtype=torch.bfloat16),
    }  # fmt: skip
    save_sealed(path, tensors)
    again = load_sealed(path)
    assert again is not None and again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (again[name].dtype, again[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(again[name].nan_to_num(), tensor.nan_to_num())
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 11):
        path.write_bytes(flipped(data, bit))
        loaded = load_sealed(path)
        # what is noticed is more than what matters, and never less
        assert loaded is None or all(
            torch.equal(loaded[n].nan_to_num(), t.nan_to_num()) and loaded[n].dtype == t.dtype
            for n, t in tensors.items()
        ), bit
    path.unlink()
    assert load_sealed(path) is None


def test_every_changed_bit_of_a_sealed_table_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"a": [1.0, 2.0, 3.0], "b": ["x", None, "y"], "c": [[1.0], [], [2.0, 3.0]]})
    table = table.replace_schema_metadata({"origin": json.dumps({"limit": 0.25})})
    save_sealed_table(path, table)
    again = load_sealed_table(path)
    assert again.equals(table)
    assert again.schema.metadata[b"origin"] == b'{"limit": 0.25}'
    assert load_sealed_table(path, ["b"]).column_names == ["b"]
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 41):
        path.write_bytes(flipped(data, bit))
        with pytest.raises(StoreError):
            load_sealed_table(path)


@pytest.mark.parametrize("damage", ["bit", "empty", "half", "folder"])
def test_a_damaged_shard_is_computed_again(tmp_path, damage):
    computed: list[range] = []

    class Workers:
        count = 1

        def run(self, steps, tasks, running):
            for samples in tasks:
                computed.append(samples)
                yield samples, {"values": torch.arange(float(samples.start), float(samples.stop))}

    def values():
        stage = Stage(("collect",), "k" * 64, 5, 3, lambda samples: samples)
        shards = Shards(tmp_path)
        shards.complete(stage, Workers(), Execution(shard=3))
        return torch.cat([tensors["values"] for tensors in shards.load(stage)]).tolist()

    assert values() == values() == [0, 1, 2, 3, 4]
    assert computed == [range(0, 3), range(3, 5)]
    file = sorted(tmp_path.glob("collect-*"))[1]
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
        with pytest.raises(StoreError, match="cannot be written"):
            values()
        return
    changed = {
        "bit": flipped(data, 8 * len(data) - 1),
        "empty": b"",
        "half": data[: len(data) // 2],
    }
    file.write_bytes(changed[damage])
    assert values() == [0, 1, 2, 3, 4]
    assert computed[2:] == [range(3, 5)]


# -- paths and files that refuse ------------------------------------------------------------------


def test_a_path_that_cannot_be_locked_or_made_is_refused(tmp_path):
    (tmp_path / "db" / ".lock").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "db", tmp_path / "file" / "db", Path("/proc/semlens")):
        with pytest.raises(StoreError, match="cannot be written"), write_lock(path):
            pass
    with write_lock(tmp_path / "new"), pytest.raises(BusyError):
        with write_lock(tmp_path / "new"):
            pass


def test_a_reader_s_own_line_ends_do_not_break_the_message(tmp_path):
    error = damaged(tmp_path, OSError("Couldn't deserialize: Invalid data\n"))
    assert str(error).count("\n") == 0
    assert "(Couldn't deserialize: Invalid data)" in str(error)


@pytest.mark.parametrize("error", [MemoryError, OSError, EOFError, SystemExit, NotImplementedError])
def test_whatever_a_model_raises_is_an_error_of_the_model(error):
    class Failing(torch.nn.Module):
        def forward(self, x):
            raise error("injected")

    with pytest.raises(ModelError, match=f"Failing fails on a batch.*{error.__name__}"):
        call_model(Failing(), torch.zeros(1, 3, 8, 8))


def test_a_model_file_that_ends_the_program_is_refused(tmp_path):
    (tmp_path / "model.py").write_text("import sys\ndef make():\n    sys.exit(0)\n")
    with pytest.raises(ModelError, match="SystemExit"):
        load_model(f"{tmp_path / 'model.py'}:make")


@pytest.mark.slow
def test_a_worker_ends_with_its_parent_and_removes_what_it_left(tmp_path):
    folder = tmp_path / "of-the-build"
    folder.mkdir()
    (folder / "inputs").write_bytes(b"weights")
    code = (
        "import os, sys, time; from pathlib import Path\n"
        "from semlens.run.executors.local_processes import end_with\n"
        "parent = os.getpid()\n"
        "child = os.fork()\n"
        "if child == 0: end_with(parent, Path(sys.argv[1]))\n"
        "print(child, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE) as parent:
        worker = int(parent.stdout.readline())
        time.sleep(0.5)
        os.kill(worker, 0)  # still there, as its parent is
        assert folder.is_dir()
        parent.kill()
        assert not parent.stdout.read()  # ends when the worker does, which has it open
    assert not folder.exists()
    assert not Path(f"/proc/{worker}/exe").exists()


# -- the harness, and its committed counts ---------------------------------------------------------


def test_only_three_parts_and_code_1_are_a_refusal():
    message = "Notice: x\nStoreError: 'a' is not a database.\n  Expected a folder.\n  Check it.\n"
    assert Ending(1, "hash", "", message).refused
    assert not Ending(2, "hash", "", message).refused
    assert not Ending(1, "hash", "", message.rpartition("  Check")[0]).refused
    assert not Ending(1, "hash", "", "Traceback (most recent call last):\n" + message).refused
    assert not Ending(0, "hash", "", "Traceback (most recent call last):\n").finished
    assert Ending(130, "", "", "Interrupted.\n").interrupted
    assert not Ending(130, "", "", "Traceback (most recent call last):\n").interrupted
    assert not Ending(-6, "", "", message).refused


def test_other_answers_are_wrong_and_the_order_of_keys_is_not():
    right = Ending(0, "", '{"a": 1, "b": 2}', "")
    found = {
        output: trials.judge("f", "w", Ending(0, "", output, ""), right).outcome
        for output in ('{"b": 2, "a": 1}', '{"a": 1}', "")
    }
    assert list(found.values()) == [trials.RIGHT, trials.WRONG, trials.WRONG]
    hung = Ending(None, "", "", "")
    assert trials.judge("f", "w", hung, right).outcome == trials.WRONG


def test_changes_are_undone(tmp_path):
    file = tmp_path / "a"
    file.write_bytes(b"content")
    for change in (Path.unlink, lambda p: (p.unlink(), p.mkdir()), lambda p: p.write_bytes(b"")):
        with trials.changed(file, change):
            assert not file.is_file() or file.read_bytes() == b""
        assert file.read_bytes() == b"content"


def test_a_part_is_measured_once_at_each_commit_and_each_setting(monkeypatch, tmp_path):
    code = tmp_path / "code"
    code.mkdir()

    def git(*arguments):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", code, *author, *arguments], check=True, capture_output=True)

    def commit(text):
        (code / "module.py").write_text(text)
        (code / "notes.md").write_text(text)
        git("add", ".")
        git("commit", "-m", text)

    def results(**settings):
        return results_of_parts.PartResults(tmp_path / "results", settings, ["*.py"])

    monkeypatch.setattr(results_of_parts, "ROOT", code)
    git("init")
    commit("one")
    first = results(points=5)
    assert not first.has("a")
    first.save("a", 60, {"n": 1}, complete=False)
    assert not first.has("a")
    first.save("a", 60, {"n": 2})
    assert first.has("a")
    assert not results(points=6).has("a")
    (code / "notes.md").write_text("two")  # is not measured
    assert results(points=5).has("a")
    (code / "module.py").write_text("two")
    assert not results(points=5).has("a")
    commit("two")
    second = results(points=5)
    assert not second.has("a")
    second.save("b", 120, {"n": 3}, complete=False)
    found = results_of_parts.together(second.of(["a", "b", "c"]))
    commits = [one.commit for one in second.of(["a", "b"])]
    assert found["commit"] == f"{commits[0]} (a), {commits[1]} (b)" and len(set(commits)) == 2
    assert (found["seconds"], found["incomplete"]) == (180, ["b"])

    (tmp_path / "benchmarks").mkdir()
    page, entry = tmp_path / "page.md", {**RECORDED["faults"], "page": "page.md"}
    recorded.save({"x": entry}, tmp_path)
    page.write_text("before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n")
    machine = {"cores": 2, "cpu": "slow"}
    markdown = "| a | b |\n| --- | --- |\n| 1 | - |"
    recorded.record("y", {**found, "machine": machine}, {"x": markdown}, tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- x -->\n\nMeasured on ") and text.endswith("-->\nafter\n")
    assert f"at commit {found['commit']}, in 3 minutes. Stopped before their end: b." in text
    assert "old" not in text and f"\n\n{markdown}\n\n" in text
    (kept,) = recorded.recorded(tmp_path).values()
    assert (kept["benchmark"], kept["machine"], kept["commit"]) == (
        "y",
        "2 cores, slow",
        found["commit"],
    )
    assert kept["tables"] == [{"header": ["a", "b"], "rows": [["1", "-"]]}]
    page.write_text("no place for it")
    with pytest.raises(ValueError, match=r"page\.md has no '<!-- x -->'"):
        recorded.write_tables(tmp_path)


def measured(name: str) -> list[list[str]]:
    """Return the cells of the tables that a benchmark recorded, by row, each header first."""
    tables = RECORDED[name]["tables"]
    return [cells for one in tables for cells in (one["header"], *one["rows"])]


def test_the_committed_counts_add_up_and_nothing_is_wrong():
    header, *rows, total = measured("faults")
    assert header == ["fault", "trials", "identical database", "right answer", "clear refusal",
                      "WRONG"]  # fmt: skip
    numbers = {row[0]: [0 if cell == "-" else int(cell) for cell in row[1:]] for row in rows}
    for of_fault, *outcomes, wrong in numbers.values():
        assert sum(outcomes) + wrong == of_fault
        assert wrong == 0
    sums = [sum(column) for column in zip(*numbers.values(), strict=True)]
    assert sums == [0 if cell == "-" else int(cell) for cell in total[1:]]
    for stage in STAGES:
        killed = [n for name, n in numbers.items() if name.startswith("killed") and stage in name]
        assert sum(of_fault for of_fault, *_ in killed) >= 50
    for row in measured("fuzz")[1:]:
        assert row[4] == "0"
    # the times of mixed requests have five columns
    load = {row[0]: row[1:] for row in measured("load") if len(row) == 6 and row[1].isdecimal()}
    assert load["mixed requests of one client"][0] == "10000"
    assert {wrong for *_, wrong, _ in load.values()} == {"0"}


@pytest.mark.slow
def test_faults_quick():
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", "faults", "--quick", "--json"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    printed = json.loads(ended.stdout)
    assert printed["failures"] == []
    for stage in STAGES:
        killed = {name: n for name, n in printed["counts"].items() if stage in name}
        assert sum(sum(n.values()) for name, n in killed.items() if "killed" in name) >= 5, stage
