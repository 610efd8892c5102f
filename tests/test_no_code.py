"""Code that a checkpoint brings is never run, whoever names the checkpoint."""

from __future__ import annotations

import json
import os
import pty
import sys
from pathlib import Path

import pytest
from conftest import assert_says

from semlens.embedders.huggingface import has_text_tower
from semlens.embedders.load import load_embedder
from semlens.errors import ConceptError, EmbedderError, ModelError
from semlens.lenses.labelling.proposals import CaptionModel
from semlens.models.load import load_model
from semlens.models.model_libraries import image_processor

CLASSES = (
    "AutoConfig", "AutoModel", "AutoModelForImageClassification", "AutoImageProcessor",
    "AutoProcessor", "AutoModelForImageTextToText",
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder whose configuration and processor name classes of a Python file in it."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    (folder / "own.py").write_text(code)
    names = {"auto_map": {name: f"own.{name}" for name in CLASSES}}
    config = {"model_type": "own", "architectures": ["OwnForImageClassification"], **names}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(names))
    return folder


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch):
    """Somebody who answers yes to everything: transformers asks only there."""
    ours, theirs = pty.openpty()
    os.write(ours, b"y\n" * 20)
    with os.fdopen(theirs, "r") as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        yield
    os.close(ours)


@pytest.mark.parametrize(
    ("load", "kind", "remedy"),
    [
        (lambda f: load_model(f"transformers/{f}"), ModelError, "FILE.py:FUNCTION"),
        (lambda f: load_model(f"transformers/{f}:random=0"), ModelError, "FILE.py:FUNCTION"),
        (lambda f: image_processor(str(f), f"onnx/{f}/m.onnx"), ModelError, "FILE.py:FUNCTION"),
        (lambda f: load_embedder(f"transformers/{f}"), EmbedderError, "pass an Embedder"),
    ],
)
def test_a_checkpoint_with_code_is_refused_in_words(checkpoint, at_a_terminal, load, kind, remedy):
    with pytest.raises(kind) as caught:
        load(checkpoint)
    assert_says(caught.value, "Python code of its own", "never run", remedy)
    assert not (checkpoint.parent / "ran").exists()


def test_nothing_else_runs_it_either(checkpoint, at_a_terminal):
    with pytest.raises(ConceptError, match="without code of its own"):
        CaptionModel(str(checkpoint))
    with pytest.raises(ValueError, match="trust_remote_code"):
        has_text_tower(str(checkpoint))
    assert not (checkpoint.parent / "ran").exists()
