"""The page's types are those of the server: regenerated, they are the same."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from web_browser import ROOT, absent

from semlens.web.openapi import description

WEB = ROOT / "web"


@pytest.fixture(scope="module")
def generator():
    command = WEB / "node_modules/.bin/openapi-typescript"
    if shutil.which("node") is None or not command.exists():
        absent("There is no Node with the packages of web/ (npm ci).")
    return command


@pytest.mark.slow
def test_types_follow_the_models_of_the_server(generator, tmp_path):
    source, target = tmp_path / "openapi.json", tmp_path / "types.ts"
    source.write_text(json.dumps(description(schemas=True), indent=2))
    options = ["--root-types", "--root-types-no-schema-prefix"]
    subprocess.run([generator, source, "--output", target, *options], check=True, cwd=WEB)
    kept = (WEB / "src/api/types.ts").read_text()
    assert target.read_text() == kept, "run 'npm run types' in web/"


def test_every_answer_has_a_model():
    """No endpoint answers with something that the page's types do not know."""
    paths = description()["paths"]
    assert len(paths) > 20
    for path, methods in paths.items():
        for method, described in methods.items():
            for code, answer in described["responses"].items():
                content = answer.get("content", {}).get("application/json")
                if content is not None and code.startswith("2"):
                    assert content["schema"], f"{method} {path} has no model"
