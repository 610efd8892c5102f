"""The Python code of the documentation runs, page by page, on the database of the demo."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

import semlens as sl

DOCS = Path(__file__).resolve().parents[1] / "docs"
FENCE = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
PAGES = {
    path.name: blocks
    for path in sorted(DOCS.glob("*.md"))
    if (blocks := FENCE.findall(path.read_text("utf-8")))
}

NOT_RUN = {
    ("agents.md", 0): "starts a server; tests/test_mcp.py runs one",
    ("border-swap.md", 0): "takes long; tests/test_border_swap.py asks it",
    ("colour-swap.md", 0): "takes long; tests/test_colour_swap.py asks it",
    ("compare.md", 0): "trains a model and builds four databases",
    ("compare.md", 1): "needs the databases of the block before",
    ("compare.md", 2): "needs the databases of the block before",
    ("correct.md", 1): "retrains a model for minutes",
    ("dictionaries.md", 0): "continues a build of the reader's",
    ("labelling.md", 3): "needs a captioning model from a hub",
    ("models-and-data.md", 0): "needs weights of the reader",
    ("publishing.md", 0): "writes to a hub",
    ("python.md", 2): "needs a file of the reader and a GPU",
    ("python.md", 5): "opens a database of another embedder",
    ("region-swap.md", 0): "takes long; tests/test_region_swap.py asks it",
    ("relevance.md", 1): "asks for classes of ImageNet",
    ("report.md", 0): "needs the sensitivity of a retrained model",
    ("sae.md", 1): "runs in another package, dictionary_learning",
    ("serving.md", 0): "serves until it is stopped",
    ("serving.md", 1): "serves until it is stopped",
    ("study.md", 0): "needs the answers of people",
}
"""Blocks that no test runs, by page and number, and why."""

ELSEWHERE = {"migration.md": "tests/test_migration.py"}
"""Pages that a test of their own runs."""

BUNDLED = {
    "torchvision/resnet18:IMAGENET1K_V1": "semlens/demo",
    "open_clip/MobileCLIP-S2/datacompdr": "semlens/demo",
    "layer4": "layer2",
    "tabby cat": "clock",
}
"""What stands for the weights of a hub on the page of Python."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """A folder with a copy of the demo's database, its images, and what pages call their own."""
    path = tmp_path_factory.mktemp("docs")
    shutil.copytree(demo, path / "semlens-demo" / demo.name)
    images = demo.parent / "images"
    (path / "semlens-demo/images").symlink_to(images)
    (path / "val").symlink_to(images / "clock")
    for kind in images.iterdir():
        (path / "photos" / kind.name).mkdir(parents=True)
        for file in sorted(kind.iterdir())[:8]:
            shutil.copy(file, path / "photos" / kind.name)
    onion = Image.open(images / "vegetable/test-0014.webp").convert("RGB")
    for name in ("onion.jpg", "new.jpg", "dog.jpg", "a.jpg", "b.png"):
        onion.save(path / name)
    for page, file in (("concept-sets.md", "farm.toml"), ("audit.md", "vegetable.toml")):
        text = re.search(r"^```toml\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.M | re.S)
        assert text is not None
        (path / file).write_text(text[1])
    return path


def given(page: str) -> dict[str, Any]:
    """Return what a page takes as known."""
    if page == "artefacts.md":
        return {"sl": sl, "image": Image.new("RGB", (96, 96))}
    if page == "relevance.md":
        model = sl.load_model("torchvision/resnet18", random_weights=0)
        return {"model": model, "batch": torch.rand(1, 3, 224, 224)}
    return {}


def test_blocks_that_do_not_run_exist() -> None:
    assert all(number < len(PAGES[page]) for page, number in NOT_RUN)
    assert set(ELSEWHERE) <= set(PAGES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what a page does may warn; its tests are elsewhere
@pytest.mark.parametrize("page", [page for page in PAGES if page not in ELSEWHERE])
def test_the_blocks_of_a_page_run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [i for i in range(len(PAGES[page])) if (page, i) not in NOT_RUN]
    if not numbers:
        pytest.skip(NOT_RUN[page, 0])
    monkeypatch.chdir(folder)
    names = given(page)
    for number in numbers:
        block = PAGES[page][number]
        if page == "python.md":
            for hub, bundled in BUNDLED.items():
                block = block.replace(hub, bundled)
        exec(compile(block, f"{page}, Python block {number}", "exec"), names)
    plt.close("all")
