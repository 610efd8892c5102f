"""The command line as a user meets it: a real process, real output, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import write_pictures
from PIL import Image
from typer.testing import CliRunner

from semlens.cli.app import app
from semlens.cli.output import report_errors
from semlens.errors import StoreError

MODEL = """
import torch
from torch import nn
from torchvision.transforms import functional as F

def make():
    print("what a model prints is no part of an answer")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, 2))
    return net, lambda image: F.to_tensor(F.resize(image, [32, 32])), ["class0", "class1"]
"""


def semlens(*arguments: object, cwd: Path | None = None, check: int = 0) -> tuple[str, str]:
    """Run the command and return what it printed (in this process: torch loads once)."""
    with contextlib.chdir(cwd or Path.cwd()), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "200")
        ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ended.exit_code == check, ended.output
    assert ended.exception is None or isinstance(ended.exception, SystemExit)
    return ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A database of the user's own model, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    write_pictures(folder / "pictures", 14)
    (folder / "model.py").write_text(MODEL)
    out, _ = semlens(
        "build", "db", "--model", "model.py:make", "--data", "pictures", "--embedder",
        "semlens/demo", "--layers", "0,1", "--examples", 4, "--json", cwd=folder,
    )  # fmt: skip
    return folder, json.loads(out)


@pytest.mark.slow
def test_build_prints_one_object(built):
    folder, printed = built
    assert printed["components"] == 8 + 4
    assert printed["samples"] == 14
    assert printed["database"] == str((folder / "db").resolve())
    assert [layer["layer"] for layer in printed["layers"]] == ["0", "1"]
    assert [layer["signs"] for layer in printed["layers"]] == ["both", "+"]


@pytest.mark.slow
def test_search_prints_a_table_json_and_a_picture(built):
    folder, _ = built
    out, _ = semlens("search", "db", "red fruit", "--top", 3, cwd=folder)
    assert "rank" in out
    assert "alignment" in out
    printed = json.loads(
        semlens(
            "search", "db", "red", "--image", next((folder / "pictures").rglob("*.png")),
            "--without", "text", "--layer", "1", "--top", 2, "--json", "--save", "hits.png",
            cwd=folder,
        )[0]
    )  # fmt: skip
    assert [hit["layer"] for hit in printed["hits"]] == ["1", "1"]
    assert printed["query"].endswith("- text")
    assert Image.open(folder / "hits.png").size[0] > 900


@pytest.mark.slow
def test_label_scores_show_and_status(built):
    folder, _ = built
    labels = json.loads(semlens("label", "db", "--layer", "1", "--json", cwd=folder)[0])
    assert len(labels["labels"]) == 4
    assert {"component", "label", "score", "margin"} <= set(labels["labels"][0])
    assert "labelled from 'paper-vocabulary'" in semlens("label", "db", cwd=folder)[0]
    scores = json.loads(semlens("scores", "db", "--json", cwd=folder)[0])
    assert {row["layer"] for row in scores["layers"]} == {"0", "1"}
    assert len(scores["components"]) == 12
    assert "clearest" in semlens("scores", "db", "--save", "s.csv", cwd=folder)[0]
    assert len((folder / "s.csv").read_text().splitlines()) == 13
    shown = json.loads(semlens("show", "db", "0:1", "0:-1", "--json", cwd=folder)[0])
    assert Path(shown["picture"]).name == "examples.png"
    assert len(shown["examples"]["0:-1"]) == 4
    verified = json.loads(semlens("db", "verify", "db", "--json", cwd=folder)[0])
    assert (verified["sound"], verified["problems"]) == (True, [])
    status = json.loads(semlens("status", "db", "--json", cwd=folder)[0])
    assert status["recipe"]["examples"] == 4
    assert status["reference"] == status["samples"] == 14
    assert "images" in semlens("status", "db", cwd=folder)[0]


def test_layers_lists_what_can_be_read(built):
    folder, _ = built
    printed = json.loads(semlens("layers", "model.py:make", "--json", cwd=folder)[0])
    assert [(x["layer"], x["components"]) for x in printed["layers"]][0] == ("0", 4)
    assert "Conv2d" in semlens("layers", "model.py:make", cwd=folder)[0]


def test_a_config_file_gives_the_options_and_the_command_line_wins(built):
    folder, _ = built
    (folder / "build.toml").write_text(
        'model = "model.py:make"\ndata = "pictures"\nembedder = "semlens/demo"\n'
        'layers = ["1"]\nexamples = 3\ncrop = "none"\n'
    )
    semlens("build", "db2", "--config", "build.toml", "--examples", 2, cwd=folder)
    status = json.loads(semlens("status", "db2", "--json", cwd=folder)[0])
    assert (status["recipe"]["examples"], status["recipe"]["crop"]) == (2, "none")
    (folder / "wrong.toml").write_text("exampels = 3\n")
    _, err = semlens("build", "db3", "--config", "wrong.toml", cwd=folder, check=1)
    assert "exampels" in err
    assert "examples" in err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["search", "nowhere", "dog"], ["StoreError", "not a database", "semlens build"]),
        (["search", "db"], ["ConceptError", "empty"]),
        (["search", "db", "dog", "--layer", "9"], ["LayerError", "'9'", "It has"]),
        (["show", "db", "0"], ["LayerError", "LAYER:INDEX"]),
        (["show", "db", "1:99"], ["LayerError", "0 to 3"]),
        (["show", "db", "1:-1"], ["LayerError", "sign +1 only"]),
        (["show", "db", "1:1", "--save", "x.unknown"], ["cannot be written", ".png"]),
        (["label", "db", "--concepts", "nothing"], ["ConceptError", "nearest bundled ones"]),
        (["layers", "nonsense"], ["ModelError", "torchvision/NAME:WEIGHTS"]),
        (["build", "x", "--data", "pictures"], ["--model is missing"]),
        (
            ["build", "x", "--model", "model.py:make", "--data", "nowhere", "--layers", "0"],
            ["DataError", "'nowhere' is not a folder"],
        ),
        (
            ["build", "x", "--model", "model.py:make", "--data", "pictures", "--embedder",
             "semlens/demo", "--layers", "O"],
            ["LayerError", "'O' is not in Sequential", "semlens layers"],
        ),
        (
            ["build", "x", "--model", "model.py:make", "--data", "pictures", "--embedder",
             "semlens/demo", "--layers", "0", "--readout", "median"],
            ["RecipeError", "readout", "median"],
        ),
        (
            ["build", "db", "--model", "model.py:make", "--data", "pictures", "--embedder",
             "semlens/demo", "--layers", "0", "--examples", "7"],
            ["RecipeError", "examples: 4 -> 7"],
        ),
    ],
)  # fmt: skip
def test_errors_say_value_expectation_and_remedy(built, arguments, parts):
    folder, _ = built
    _, err = semlens(*arguments, cwd=folder, check=1)
    for part in parts:
        assert part in err
    assert not (folder / "x").is_dir() or not (folder / "x" / "manifest.json").exists()


def test_wrong_usage_is_exit_code_two_and_help_has_examples():
    semlens("search", check=2)
    for command in ("build", "status", "layers", "search", "label", "scores", "show", "demo"):
        assert "Examples" in semlens(command, "--help")[0]
    command = [sys.executable, "-m", "semlens.cli", "--version"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.startswith("semlens ")


def test_code_of_a_database_is_run_only_when_named(built):
    import semlens as sl

    folder, _ = built
    db = sl.open(folder / "db")
    with pytest.raises(sl.SemlensError, match="never runs code"):
        _ = db.model
    named = sl.open(folder / "db", model=f"{folder}/model.py:make")
    assert named.model.classes == ["class0", "class1"]


INTERRUPTED = """
import os, signal
from model import make as plain

def make():
    net, to_tensor, classes = plain()
    read = []

    def interrupted(image):
        read.append(image.size)
        if len(read) == 60 and "INTERRUPT" in os.environ:
            os.kill(os.getpid(), signal.SIGINT)
        return to_tensor(image)

    return net, interrupted, classes
"""


@pytest.mark.slow
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(built, tmp_path):
    folder, _ = built
    (folder / "interrupted.py").write_text(INTERRUPTED)
    write_pictures(tmp_path / "many", 120, classes=1)
    command = [
        sys.executable, "-m", "semlens.cli", "build", str(tmp_path / "db"), "--model",
        "interrupted.py:make", "--data", str(tmp_path / "many"), "--embedder", "semlens/demo",
        "--layers", "0,1", "--crop", "activation", "--json",
    ]  # fmt: skip
    ended = subprocess.run(
        command, cwd=folder, capture_output=True, text=True,
        env=os.environ | {"INTERRUPT": "1", "PYTHONPATH": str(folder)},
        # a shell's background job, as CI may be, has its children ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert ended.returncode == 130, ended.stderr
    assert "run the same command again" in ended.stderr
    assert "Traceback" not in ended.stderr
    out, _ = semlens(*command[3:], cwd=folder)
    assert json.loads(out)["samples"] == 120


def test_an_error_that_a_library_makes_of_ctrl_c_is_an_interruption(capsys):
    def reads():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:  # as safetensors does while torch makes a tensor
            raise StoreError("'a' cannot be read.", "Expected a file.", "Restore it.") from None

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(typer.Exit) as ended:
            report_errors(reads)()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.value.exit_code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_importing_semlens_is_quick_and_loads_no_torch():
    code = "import sys, semlens; print('torch' in sys.modules, 'pandas' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


HEAVY = ["matplotlib", "sklearn", "scipy.stats", "torchvision", "timm", "umap", "fastapi"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", ["semlens.open", "semlens.open({path!r}).search('red fruit', top=3)"]
)
def test_opening_and_searching_a_database_import_only_what_they_need(built, asked):
    code = asked.format(path=str(built[0] / "db"))
    code = f"import sys, semlens; {code}; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
