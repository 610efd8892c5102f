"""The documentation runs, page by page, on the database of the demo, and prints what it shows.

``SEMLENS_ALL_DOCS=1`` also runs the blocks that take minutes.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import SkipTest

import matplotlib.pyplot as plt
import pytest
import torch
from documented_blocks import PARSERS, compare_output, difference, run_commands
from PIL import Image
from sybil import Document
from sybil.example import SybilFailure

import semlens as sl

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
ELSEWHERE = {"migration.md"}
"""Pages that a test of their own runs."""
FIRST_STEPS = {"README.md", "index.md", "installation.md", "quickstart.md"}
"""Pages of which every command is run; of the others, those whose output is shown."""
BUNDLED = {
    "torchvision/resnet18:IMAGENET1K_V1": "semlens/demo",
    "open_clip/MobileCLIP-S2/datacompdr": "semlens/demo",
    "--layers layer2": "--layers layer1",
    "layer3,layer4": "layer2",
    '"layer3", "layer4"': '"layer2"',
    "layer4": "layer2",
    "tabby cat": "clock",
}
"""What stands for the weights of a hub on these pages and on that of Python."""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """A folder with the demo's databases, its images, and what pages call their own."""
    path = tmp_path_factory.mktemp("docs")
    for database in demo.parent.glob("*.semlens"):
        shutil.copytree(database, path / "semlens-demo" / database.name)
    images = demo.parent / "images"
    (path / "semlens-demo/images").symlink_to(images)
    (path / "val").symlink_to(images / "clock")
    for kind in images.iterdir():
        (path / "photos" / kind.name).mkdir(parents=True)
        shutil.copy(min(kind.iterdir()), path / "photos" / kind.name)  # a build takes time for each
    onion = Image.open(images / "vegetable/test-0014.webp").convert("RGB")
    for name in ("onion.jpg", "new.jpg", "dog.jpg", "example.jpg", "a.jpg", "b.png"):
        onion.save(path / name)
    return path


def write_concept_sets(folder: Path, page: str) -> None:
    """Write the files of concepts that pages show and use."""
    for shown_on, file in (
        ("concept-sets.md", "farm.toml"),
        ("unexpected.md" if page == "unexpected.md" else "audit.md", "vegetable.toml"),
    ):
        text = re.search(r"^```toml\n(.*?)^```$", (DOCS / shown_on).read_text("utf-8"), re.M | re.S)
        assert text is not None
        (folder / file).write_text(text[1])


@pytest.fixture
def folder(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the material for one page, which is the working directory."""
    shutil.copytree(material, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def given(page: str) -> dict[str, Any]:
    """Return what a page takes as known."""
    if page == "artefacts.md":
        return {"sl": sl, "image": Image.new("RGB", (96, 96))}
    if page == "relevance.md":
        model = sl.load_model("torchvision/resnet18", random_weights=0)
        return {"model": model, "batch": torch.rand(1, 3, 224, 224)}
    return {}


def parsed(page: Path, folder: Path) -> Document:
    """Return a page, with what the packages ship in place of the weights of a hub."""
    text = page.read_text("utf-8")
    if page.name in {*FIRST_STEPS, "python.md"}:
        for hub, bundled in BUNDLED.items():
            text = text.replace(hub, bundled)
    copy = folder / page.name
    copy.write_text(text, "utf-8")
    return Document.parse(str(copy), *PARSERS)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # with SEMLENS_ALL_DOCS, models are trained
@pytest.mark.filterwarnings("ignore")  # what a page does may warn; its tests are elsewhere
@pytest.mark.parametrize(
    "page", [path for path in PAGES if path.name not in ELSEWHERE], ids=lambda path: path.name
)
def test_a_page_runs_and_prints_what_it_shows(page: Path, folder: Path) -> None:
    write_concept_sets(folder, page.name)
    document = parsed(page, folder)
    document.namespace.update(given(page.name), quick="SEMLENS_ALL_DOCS" not in os.environ)
    for example, following in pairwise([*document, None]):
        assert example is not None
        shown = following is not None and following.region.evaluator is compare_output
        if example.region.evaluator is run_commands and not (shown or page.name in FIRST_STEPS):
            continue
        with suppress(SkipTest):  # its reason stands on the page
            example.evaluate()
    plt.close("all")


def test_what_is_not_run_names_tests_that_exist() -> None:
    reasons = re.findall(r"<!-- skip: (?:start|next) (.*) -->", "".join(map(Path.read_text, PAGES)))
    assert len(reasons) > 20
    for reason in reasons:
        for name in re.findall(r"test_\w+\.py", reason):
            assert (ROOT / "tests" / name).is_file(), reason


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a  0.50\nb", "a 0.51\n\nb\n", True),
        ("a  0.50", "a 0.52", False),
        ("a  0.5", "a 0.52", True),
        ("12 hits", "13 hits", False),
        ("a 0.5\n...", "a 0.5\nb 1.5\nc", True),
        ("a 0.5\n...\nc 2.50", "a 0.6\nb 1.5\nc 2.51", True),
        ("a 0.5\n...\nc 2.50", "a 0.5\nb 1.5\nc 2.60", False),
        ("...\nb", "a\nb", True),
        ("...\nb", "a\nb\nc", False),
        ("a", "a\nb", False),
    ],
)
def test_output_is_compared(shown: str, printed: str, same: bool) -> None:
    assert (difference(shown, printed) is None) is same


def test_a_block_that_prints_something_else_fails(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    code, text = Document.parse(str(page), *PARSERS)
    code.evaluate()
    with pytest.raises(SybilFailure, match="Expected"):
        text.evaluate()
