"""The worked example of CONTRIBUTING.md: one file and its tests are a question."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the files of the example, after docs/generate.py."""
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "static")
    shutil.copytree(ROOT / "src", tree / "src", ignore=ignored)
    shutil.copytree(ROOT / "docs", tree / "docs", ignore=shutil.ignore_patterns("images"))
    for name in ("mkdocs.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, tree)
    (tree / "tests").mkdir()
    for path in (ROOT / "tests").glob("[!t]*.py"):  # conftest and what it imports
        shutil.copy(path, tree / "tests")
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    files = re.findall(r"`([\w/]+\.py)`:\n\n```python\n(.*?)```", text, re.S)
    assert len(files) == 2
    for path, body in files:
        (tree / path).write_text(body, "utf-8")
    run(tree, "docs/generate.py")
    install(tree)
    return tree


def install(tree: Path) -> None:
    """Write the metadata of ``pip install -e .``, without building the page."""
    project = tomllib.loads((tree / "pyproject.toml").read_text("utf-8"))["project"]
    for old in (tree / "src").glob("semlens-*.dist-info"):
        shutil.rmtree(old)
    folder = tree / "src/semlens-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: semlens\nVersion: 0.1.0\n")
    lines: list[str] = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines))


def run(tree: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    ran = subprocess.run(
        [sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_its_tests_pass(tree):
    words = ["-q", "-n", "0", "-p", "no:cacheprovider", "tests/test_rarely_active.py"]
    run(tree, "-m", "pytest", *words)


def test_it_is_a_command_with_options(tree):
    help_text = run(tree, "-m", "semlens.cli", "rarely-active", "--help")
    assert "--at-most" in help_text
    assert "rarely-active r18.semlens" in help_text
    assert "rarely-active" in run(tree, "-m", "semlens.cli", "--help")


def test_it_is_a_tool_for_agents_and_a_page(tree):
    program = """
import semlens.mcp.tools, semlens.web.routes.lenses as web
print(semlens.mcp.tools.tools()["rarely_active"].schema["properties"].keys())
print([one.title for one in web.list_lenses().lenses])
"""
    said = run(tree, "-c", program)
    assert "'at_most'" in said and "'layers'" in said and "'Rarely active'" in said
    assert "### rarely_active" in (tree / "docs/agents.md").read_text("utf-8")


def test_it_is_documented(tree):
    assert "\n## semlens rarely-active\n" in (tree / "docs/cli.md").read_text("utf-8")
    assert "| `rarely_active(db)` |" in (tree / "docs/python.md").read_text("utf-8")


def test_only_generated_files_differ(tree):
    files = [
        path.relative_to(tree)
        for path in (tree / "src").rglob("*")
        if path.is_file() and not {"__pycache__", "semlens-0.1.0.dist-info"} & {*path.parts}
    ]
    differ = {
        path.relative_to("src/semlens").as_posix()
        for path in files
        if not (ROOT / path).is_file() or (ROOT / path).read_bytes() != (tree / path).read_bytes()
    }
    generated = {"lenses/questions.py", "lenses/questions.pyi", "cli/outline.json"}
    assert differ == {"lenses/describe/rarely_active.py", *generated}
