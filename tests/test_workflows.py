"""The workflows of GitHub fit the project: Python versions, lanes, files and extras."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))


def jobs(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text("utf-8"))["jobs"]


def runs(job: dict[str, Any]) -> str:
    return "\n".join(step["run"] for step in job["steps"] if "run" in step)


def test_the_fast_lane_runs_where_the_project_says_it_works() -> None:
    matrix = jobs("ci")["fast"]["strategy"]["matrix"]
    stated = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert matrix["python"] == stated
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


def test_lint_is_that_of_the_project() -> None:
    lint = runs(jobs("ci")["lint"])
    gate = (ROOT / ".ci/run").read_text("utf-8")
    for tool in ("ruff check .", "ruff format --check .", "lint-imports", "deptry src", "pyright"):
        assert tool in lint, tool
        assert tool in gate, tool


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_and_extras_that_are_named_exist(path: Path) -> None:
    text = path.read_text("utf-8")
    for extra in re.findall(r"\.\[(\w+)\]", text):
        assert extra in PROJECT["optional-dependencies"]
    for name in re.findall(r"(?:web/[\w-]+\.json|\.ci/\w+|docs/\w+\.py)", text):
        assert (ROOT / name).exists(), name


def test_only_a_checked_release_is_published_and_only_that_job_has_the_right() -> None:
    release = jobs("release")
    assert release["publish"]["needs"] == "check"
    assert release["check"]["needs"] == "build"
    assert release["publish"]["permissions"] == {"id-token": "write"}
    assert not any("permissions" in job for name, job in release.items() if name != "publish")
    version = f"## {PROJECT['version']}"
    assert version in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_container_installs_extras_that_exist() -> None:
    text = (ROOT / "examples/container/Dockerfile").read_text("utf-8")
    extras = re.search(r"\$wheel\[([\w,-]+)\]", text)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if "!" in line
    }
    for name in allowed:
        assert (ROOT / name).exists(), name
    assert {"src", "web", "pyproject.toml", "hatch_build.py", PROJECT["readme"]} <= allowed
