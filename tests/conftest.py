"""Small real inputs that many tests share: noisy pictures, a little CNN, a plain embedder."""

from __future__ import annotations

import copy
import importlib
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from httpx import Response
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.embedders.embedder import Embedder
from semlens.models.subject import SubjectModel, weights_digest
from semlens.recipe import fingerprint
from semlens.regular_files import file_digest
from semlens.relevance import captured_graph, lrp_engine
from semlens.relevance.captured_graph import CapturedGraph

pytest_plugins = ["lanes", "web_browser"]


class LittleNet(nn.Module):
    """Two convolutional stages: one behind a ReLU, one that goes negative, and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.second = nn.Conv2d(6, 10, 3, 2, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        return self.head(functional.relu(x).mean((2, 3)))


def spread_logits(net: Any, batch: Tensor) -> Any:
    """Return a net with a head whose logits differ: untrained, it calls every image the same."""
    with torch.no_grad():
        logits = net(batch)
        net.head.bias -= logits.mean(0)
        net.head.weight /= logits.std(0)[:, None]
        net.head.bias /= logits.std(0)
    return net


def plain_colours(count: int = 64) -> Tensor:
    """Return images of one random colour each, as inputs [n 3 32 32]."""
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.rand(count, 3, 1, 1, generator=generator) - 1).expand(count, 3, 32, 32)


def to_tensor(image: Image.Image) -> Tensor:
    """Resize to 32 x 32 and scale to [-1, 1]."""
    small = image.resize((32, 32), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(small, np.float32)).permute(2, 0, 1) / 127.5 - 1


class ColourEmbedder(Embedder):
    """A plain embedder without texts: average colour of a 4 x 4 grid, projected."""

    has_text = False
    spec = "python:colours"
    dim = 24

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.matrix = torch.randn(48, self.dim, generator=generator)
        self.fingerprint = fingerprint("colours", seed)

    def preprocess(self, image: Image.Image) -> Tensor:
        small = image.resize((4, 4), Image.Resampling.BOX)
        return torch.from_numpy(np.asarray(small, np.float32)).permute(2, 0, 1) / 255

    def _images(self, batch: Tensor) -> Tensor:
        return (batch.flatten(1) - 0.5) @ self.matrix


class WordEmbedder(ColourEmbedder):
    """The same with texts: a vector per word drawn from the word's own letters, averaged."""

    has_text = True
    spec = "python:words"

    def _texts(self, texts: list[str]) -> Tensor:
        def word(text: str) -> Tensor:
            seed = int.from_bytes(text.encode().ljust(8, b"\0")[:8], "little") % 2**31
            return torch.randn(self.dim, generator=torch.Generator().manual_seed(seed))

        return torch.stack(
            [torch.stack([word(w) for w in (text.split() or [""])]).mean(0) for text in texts]
        )


VEGETABLES = ["vegetable", "ox", "zebra", "clock"]
"""Classes of :func:`build_vegetables`; there is no image of a zebra."""


def build_vegetables(folder: Path, model: SubjectModel) -> sl.ConceptDatabase:
    """Build a database of two layers with class relevance from 24 pictures of three classes."""
    images = ImageFolder(write_pictures(folder / "images", 24))
    targets = [["vegetable", "ox", "clock"][i % 3] for i in range(len(images))]
    return sl.build(
        folder / "db", model, images, WordEmbedder(), ["first", "second"], examples=4,
        crop="activation", relevance=True, targets=targets,
    )  # fmt: skip


def write_pictures(folder: Path, count: int, seed: int = 0, classes: int = 2) -> Path:
    """Write noisy PNGs of many sizes with a bright blob somewhere, in class sub-folders."""
    random = np.random.default_rng(seed)
    for i in range(count):
        height, width = random.integers(24, 90, 2)
        pixels = random.integers(0, 120, (height, width, 3))
        y, x = random.integers(0, height - 12), random.integers(0, width - 12)
        pixels[y : y + 12, x : x + 12] += random.integers(0, 135, 3)
        path = folder / f"class{i % classes}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colours(height: int = 8, width: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def sign_files(database: Path) -> None:
    """Make a database's manifest say that its files are as they lie there."""
    manifest = json.loads((database / "manifest.json").read_text())
    manifest["files"] = {name: file_digest(database / name) for name in manifest["files"]}
    (database / "manifest.json").write_text(json.dumps(manifest))


def assert_says(error: BaseException, *parts: str) -> None:
    for part in parts:
        assert part in str(error), (part, str(error))


def when_done(
    request: Callable[[], Response],
    seen: Callable[[dict[str, Any]], object] = lambda waiting: None,
    seconds: float = 300,
) -> Response:
    """Repeat a request while the server answers that it is at work, as the page does.

    ``seen`` gets what such an answer says. The time is a bound for a machine under load, not an
    expectation.
    """
    end = time.monotonic() + seconds
    while (answer := request()).status_code == 202:
        waiting = answer.json()
        assert set(waiting) == {"description", "done", "total", "seconds", "waiting"}
        assert time.monotonic() < end, f"not done after {seconds} s: {waiting}"
        seen(waiting)
        time.sleep(0.01)
    return answer


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Do not wait for the disk: no database of a test has to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def captured_once() -> Iterator[None]:
    """Capture the forward pass of equal networks once: it takes most of a little build.

    Each engine gets a copy, weights and all.  Networks with hooks, or with attributes other than
    plain values, are captured as ever; so is what is pruned, which looks for the module's own
    weights in its graph.
    """
    captured: dict[tuple[object, ...], CapturedGraph] = {}

    def capture(module: nn.Module, example: Tensor) -> CapturedGraph:
        attributes = plain_attributes(module)
        if attributes is None:
            return captured_graph.capture(module, example)
        parts = tuple(map(type, module.modules()))
        given = (tuple(example.shape), example.dtype, example.device)
        key = (parts, str(module), attributes, weights_digest(module), *given)
        if key not in captured:
            captured[key] = captured_graph.capture(module, example)
        return copy.deepcopy(captured[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lrp_engine, "capture", capture)
        yield


def plain_attributes(module: nn.Module) -> str | None:
    """Return the plain values that modules hold by name, or None if they hold others or hooks."""
    plain = (bool, int, float, str, type(None))
    found = []
    for name, part in module.named_modules():
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part):
            return None
        for key, value in vars(part).items():
            if key.startswith("_"):
                continue
            values = value if isinstance(value, tuple | list) else [value]
            if not all(isinstance(one, plain) for one in values):
                return None
            found.append((name, key, value))
    return repr(found)


@pytest.fixture
def subject() -> SubjectModel:
    return SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 41)


@pytest.fixture
def images(pictures: Path) -> ImageFolder:
    return ImageFolder(pictures)


@pytest.fixture
def embedder() -> ColourEmbedder:
    return ColourEmbedder()


@pytest.fixture
def words() -> WordEmbedder:
    return WordEmbedder()


@pytest.fixture(scope="module")
def example() -> Iterator[Callable[[str, str], ModuleType]]:
    """Import a script of an example, by folder and name, with its siblings on the path.

    All are forgotten afterwards, and what other tests imported under the same names is put back.
    """
    root = Path(__file__).resolve().parents[1] / "examples"

    def load(folder: str, name: str) -> ModuleType:
        for sibling in (root / folder).glob("*.py"):
            origin = getattr(sys.modules.get(sibling.stem), "__file__", None)
            if origin is not None and Path(origin) != sibling:
                patch.delitem(sys.modules, sibling.stem)
        patch.syspath_prepend(str(root / folder))
        return importlib.import_module(name)

    with pytest.MonkeyPatch.context() as patch:
        yield load
        for name, module in list(sys.modules.items()):
            if str(root) in str(getattr(module, "__file__", None)):
                del sys.modules[name]


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder that ``semlens demo`` made, and what it printed.  Takes most of a minute.

    The workers of pytest-xdist share one.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder, printed = shared / "demo", shared / "demo.json"
    with FileLock(shared / "demo.lock"):
        if not printed.is_file():
            command = ["demo", "--json", "--no-serve", "--out", str(folder)]
            ended = CliRunner().invoke(app, command)
            assert ended.exit_code == 0, ended.output
            printed.write_text(ended.stdout)
    return folder, json.loads(printed.read_text())


@pytest.fixture(scope="session")
def demo(request: pytest.FixtureRequest) -> Path:
    """The demo database.  Read only: who writes takes a copy.

    To save a minute, SEMLENS_DEMO may name a folder that ``semlens demo`` has made.
    """
    ready = os.environ.get("SEMLENS_DEMO")
    folder = Path(ready) if ready else request.getfixturevalue("demo_run")[0]
    return folder / "demo.semlens"


@contextmanager
def stopped_at_write(number: int) -> Iterator[None]:
    """Interrupt the code within as its ``number``-th file is written."""
    real, writes = os.fsync, 0

    def failing(handle):
        nonlocal writes
        writes += 1
        if writes == number:
            raise KeyboardInterrupt
        real(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        yield
