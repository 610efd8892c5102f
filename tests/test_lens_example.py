"""The outside package of ``examples/lens``, installed with pip: every view has its question."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from web_browser import copy_of, expect

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow

VIEWS = """
import json, sys, time
import semlens as sl
from fastapi.testclient import TestClient
from semlens.mcp.tools import tools
from semlens.testing import check_lens
from semlens.web.app import create_app
from semlens_example_lens import crop_shapes

path = sys.argv[1]
db = sl.open(path)
found = db.crop_shapes(layers="layer3", top=3)
assert "crop_shapes" in dir(db)
try:
    db.crop_shape
except AttributeError as error:
    missing = str(error)
check_lens(crop_shapes, db)
with TestClient(create_app([db]), base_url="http://localhost") as client:
    lenses = client.get("/api/v1/lenses").json()["lenses"]
    listed = [lens for lens in lenses if lens["name"] == "crop_shapes"]
    ask = "/api/v1/models/0/lenses/crop_shapes"
    answer = client.post(ask, json={"layers": ["layer3"], "top": 3})
    while answer.status_code == 202:
        time.sleep(0.05)
        answer = client.post(ask, json={"layers": ["layer3"], "top": 3})
    refused = client.post(ask, json={"layers": ["nowhere"]})
    while refused.status_code == 202:
        time.sleep(0.05)
        refused = client.post(ask, json={"layers": ["nowhere"]})
tool = tools()["crop_shapes"]
print(json.dumps({
    "rows": found.to_json()["components"], "summary": found.summary, "missing": missing,
    "listed": listed, "answer": answer.json(), "refused": refused.status_code,
    "tool": {"schema": tool.schema, "text": tool.description},
}))
"""
COMMANDS = """
import contextlib, io, json, sys
from semlens.cli.main import main

ended = []
for words in json.load(sys.stdin):
    code, out, err = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            sys.argv = ["semlens", *words]
            main()
        except SystemExit as end:
            code = end.code or 0
    ended.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(ended))
"""
BROKEN = '[semlens.lenses]\nbroken = "no_such_module:broken"\n'.replace('"', "")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Python of an environment in which pip has installed the example; it runs a command."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    seen = [ROOT / "src", sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (site / "seen.pth").write_text("\n".join(map(str, dict.fromkeys(seen))))
    program = folder / "bin/python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", program, "install", "--quiet", "--no-deps",
         "--no-build-isolation", ROOT / "examples/lens"], check=True,
    )  # fmt: skip
    metadata = site / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(BROKEN)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"COLUMNS": "160"}

    def run(*words: object, code: int = 0, cwd: Path = folder, given: str | None = None) -> str:
        command = [program, *map(str, words)]
        ended = subprocess.run(
            command, input=given, capture_output=True, text=True, env=environment, cwd=cwd
        )
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + (ended.stderr if code else "")

    def started(*words: object) -> subprocess.Popen[str]:
        command = [program, *map(str, words)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    run.started = started
    return run


def test_the_command_is_listed_and_another_that_cannot_be_imported_with_the_reason(python):
    text = python("-m", "semlens.cli", "--help")
    panel = text.partition("Describe")[2].partition("╰")[0]
    assert "crop-shapes" in panel
    assert "Measure how long or wide the crops" in panel
    assert "broken" in text.partition("Not usable")[2]
    assert "cannot be imported (ModuleNotFoundError" in " ".join(text.split())
    assert "audit" in text and "No such module" not in text
    error = python("-m", "semlens.cli", "broken", "x.semlens", code=1)
    assert "LensError" in error and "Update, repair or uninstall the package." in error


def test_the_command_answers_saves_and_refuses(python, demo, tmp_path):
    of_layer = ["crop-shapes", str(demo), "--layer", "layer3", "--top", "4"]
    commands = [
        ["crop-shapes", "--help"],
        [*of_layer, "--json", "--save", "shapes.png"],
        of_layer,
        ["crop-shapes", str(demo), "--layer", "nowhere"],
        ["crop-shape", str(demo)],
    ]
    ended = json.loads(python("-c", COMMANDS, cwd=tmp_path, given=json.dumps(commands)))
    assert [code for code, *_ in ended] == [0, 0, 0, 1, 2], ended
    usage, printed, table, (_, _, refused), (_, _, meant) = ended
    assert "--examples" in usage[1] and "--layer,--layers" in usage[1]
    found = json.loads(printed[1])["components"]
    assert {"component", "aspect", "low", "high", "side"} <= set(found[0])
    assert Image.open(tmp_path / "shapes.png").width > 200
    assert "components, " in table[1]
    assert "'nowhere'" in refused
    assert "semlens crop-shapes" in meant


def test_python_http_and_agents_have_it(python, demo):
    said = json.loads(python("-c", VIEWS, demo).splitlines()[-1])
    shapes = said["rows"]
    elongation = [max(row["aspect"], 1 / row["aspect"]) for row in shapes]
    assert elongation == sorted(elongation, reverse=True)
    assert said["summary"].startswith(f"Of {len(shapes)} components")
    assert "'crop_shape'" in said["missing"] and "crop_shapes" in said["missing"]
    [listed] = said["listed"]
    assert (listed["group"], listed["title"]) == ("Describe", "Crop shapes")
    assert {"layers", "examples", "top"} == set(listed["settings"]["properties"])
    assert said["answer"]["sentences"] == [said["summary"]]
    [panel] = said["answer"]["figure"]["panels"]
    assert (panel["form"], len(panel["rows"])) == ("components", 3)
    assert said["refused"] == 404  # an unknown layer, as everywhere
    assert {"layers", "examples", "top", "rows", "picture", "database"} == set(
        said["tool"]["schema"]["properties"]
    )
    assert said["tool"]["text"].startswith("Measure how long or wide")


def test_a_report_has_its_section(python, demo, tmp_path):
    (tmp_path / "signs.toml").write_text('valid = ["a leaf"]\nspurious = ["a text"]\n')
    words = ["--target", "vegetable", "--concepts", tmp_path / "signs.toml", "--run", "crop_shapes"]
    page = tmp_path / "vegetable.html"
    python("-m", "semlens.cli", "report", demo, *words, "--save", page)
    html = page.read_text()
    assert "Shapes of the crops" in html
    assert re.search(r"Of \d+ components", html)


@pytest.mark.browser
def test_its_page_asks_and_shows_the_answer(python, demo, page_at, tmp_path):
    database = copy_of(demo, tmp_path)
    words = ["-m", "semlens.cli", "serve", database, "--port", "0", "--no-browser", "--json"]
    with python.started(*words) as server:
        try:
            page = page_at(json.loads(server.stdout.readline())["url"] + "#/lens/crop_shapes")
            expect(page.get_by_role("heading", level=1)).to_have_text("Crop shapes")
            page.get_by_role("button", name="Ask").click()
            expect(page.get_by_text(re.compile(r"Of \d+ components"))).to_be_visible()
            page.locator("figure li").first.scroll_into_view_if_needed()
            expect(page.locator("figure img").first).to_be_visible()
            page.goto("about:blank")  # which asks a server that stops nothing
        finally:
            server.terminate()
