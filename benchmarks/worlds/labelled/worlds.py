"""Units of known content of the planted worlds of labels, made once and kept in a cache."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.cases.embedders import prepare
from benchmarks.harness import log
from benchmarks.worlds.labelled.detectors import hand_built_units
from benchmarks.worlds.labelled.scenes import LabelWorld, WorldImages, make_images
from benchmarks.worlds.labelled.subjects import (
    LAYERS,
    Learned,
    build,
    layer_units,
    make_subject,
    recipe,
    train,
)
from benchmarks.worlds.labelled.units import Units, read_units, save_units
from benchmarks.worlds.labelled.vectors import Vectors, world_vectors
from demo_world.workspace import Workspace
from semlens.lenses.query_embedding import unit
from semlens.recipe import fingerprint
from semlens.store.atomic_files import write_atomic

HERE = Path(__file__).resolve().parent
IMAGES = ("concepts.py", "concepts.toml", "scenes.py", "../../../demo_world/scenes.py")
"""Files that determine a world's images and their words."""
GAPS = {"none": 0.0, "strong": 1.5}
"""Strength of the injected modality gap. The means of images and words are 1.2 apart in the strong
one, and 0.8 in CLIP (Liang et al. 2022, arXiv:2203.02053)."""
PROCESSES = 2
DETECTORS = ("detectors.py",)
SUBJECTS = ("subjects.py",)


def _digest(spec: LabelWorld, *files: str) -> str:
    """Return a digest of a world's settings and of the code in some files."""
    texts = {file: (HERE / file).read_text("utf-8") for file in files}
    code = [_code(text) if file.endswith(".py") else text for file, text in texts.items()]
    return fingerprint(repr(asdict(spec)), *code)[:8]


def _code(text: str) -> str:
    """Return what a file does, which comments, docstrings and line breaks do not change."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            said = [s for s in node.body if isinstance(s, ast.Expr) and _is_text(s.value)]
            node.body = [s for s in node.body if s not in said]
    return ast.dump(tree)


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


class CachedWorld:
    """A world of which images, vectors, subjects and databases are made when they are needed.

    Parameters
    ----------
    work
        Folder of the source pictures (``demo_world``).
    """

    def __init__(self, spec: LabelWorld, cache: Path, work: Path) -> None:
        self.spec, self.work = spec, work
        self.folder = cache / f"{spec.name}-{_digest(spec, *IMAGES)}"
        self.detectors, self.subjects = _digest(spec, *DETECTORS), _digest(spec, *SUBJECTS)

    @cached_property
    def images(self) -> WorldImages:
        """The world's images."""
        log(f"{self.spec.name}: drawing images")
        return make_images(self.spec, Workspace(self.work))

    def vectors(self, embedder: str) -> Vectors:
        """Return the vectors of words and images."""
        return world_vectors(self.images, embedder, self.folder / f"vectors-{_file(embedder)}.npz")

    def units(self, embedder: str) -> list[Units]:
        """Return hand-built units, and those of each trained layer."""
        trained = [
            self.trained(embedder, architecture, layer)
            for architecture in self.spec.architectures
            for layer in LAYERS[architecture]
        ]
        return [self.hand_built(embedder), *trained]

    def is_made(self, embedder: str) -> bool:
        """Return whether all units are in the cache."""
        trained = [
            self._trained_name(embedder, architecture, layer)
            for architecture in self.spec.architectures
            for layer in LAYERS[architecture]
        ]
        names = [self._hand_built_name(embedder), *trained]
        return all((self.folder / name).is_file() for name in names)

    def hand_built(self, embedder: str) -> Units:
        """Return hand-built units."""
        return self._remembered(
            self._hand_built_name(embedder),
            lambda: hand_built_units(self.images, self.vectors(embedder), embedder),
        )

    def trained(self, embedder: str, architecture: str, layer: str) -> Units:
        """Return the units of a layer of a trained subject."""
        name = self._trained_name(embedder, architecture, layer)
        return self._remembered(name, lambda: self._labelled(embedder, architecture, layer))

    def _hand_built_name(self, embedder: str) -> str:
        return f"hand-built-{_file(embedder)}-{self.detectors}.npz"

    def _trained_name(self, embedder: str, architecture: str, layer: str) -> str:
        return f"{architecture}-{_file(embedder)}-{layer}-{self.subjects}.npz"

    def _labelled(self, embedder: str, architecture: str, layer: str) -> Units:
        net, vectors = self._subject(architecture), self.vectors(embedder)
        name = f"{self.spec.name}-{architecture}"
        path = self.folder / f"{architecture}-{_file(embedder)}-{self.subjects}.semlens"
        database = build(net, self.images, vectors, embedder, name, path)
        about = embedder, architecture
        return layer_units(database, layer, net, self.images, vectors, about)

    def _subject(self, architecture: str) -> nn.Module:
        """Load a subject; train it first if there is none."""
        settings = recipe(self.spec, architecture)
        path = self.folder / f"{architecture}-{self.subjects}.safetensors"
        if not path.is_file():
            log(f"{self.spec.name}: training {architecture}")
            state = train(self.images, settings).state_dict()
            state = {name: value.contiguous() for name, value in state.items()}
            write_atomic(path, lambda temporary: save_file(state, temporary))
        net = make_subject(settings, len(Learned.of(self.images).names(self.images.words)))
        net.load_state_dict(load_file(path))
        return net.eval()

    def _remembered(self, name: str, make: Callable[[], Units]) -> Units:
        path = self.folder / name
        if not path.is_file():
            units = make()
            save_units(units, path)
            kinds = {kind: units.kind.count(kind) for kind in dict.fromkeys(units.kind)}
            log(f"{self.spec.name}, {units.embedder}, {units.subject or 'hand-built'}: {kinds}")
        return read_units(path)


def load_units(spec: LabelWorld, embedder: str, cache: Path, work: Path) -> list[Units]:
    """Return the units of a world seen through an embedder, made if they are not in the cache.

    The first are hand-built; the others are one trained layer each.

    Parameters
    ----------
    work
        Folder of the source pictures; not read if all units are in the cache.
    """
    return CachedWorld(spec, cache, work).units(embedder)


def make_all(
    worlds: Sequence[LabelWorld], embedders: Sequence[str], cache: Path, work: Path
) -> None:
    """Make all units that are not in the cache, two worlds at a time.

    The source pictures are downloaded if they are needed and not in the work folder.
    """
    missing = [
        spec
        for spec in worlds
        if not all(CachedWorld(spec, cache, work).is_made(embedder) for embedder in embedders)
    ]
    if missing:
        prepare(Workspace(work))
    jobs = [(spec, tuple(embedders), cache, work) for spec in missing]
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        for _ in pool.map(_make, *zip(*jobs, strict=True)):
            pass


def _make(spec: LabelWorld, embedders: Sequence[str], cache: Path, work: Path) -> None:
    torch.set_num_threads(1)
    world = CachedWorld(spec, cache, work)
    for embedder in embedders:
        world.units(embedder)


def with_gap(units: Units, strength: float, seed: int = 0) -> Units:
    """Return the units behind a modality gap, like that of CLIP.

    All images are shifted in one random direction, all words and the empty prompt in another, at
    right angles to it; vectors are then scaled to unit length.

    Parameters
    ----------
    strength
        Length of the shift; 0 changes nothing. Vectors have length 1 before.
    """
    if strength == 0:
        return units
    evidence = units.evidence
    draw = np.random.default_rng(seed)
    shifts = np.linalg.qr(draw.standard_normal((evidence.words.shape[1], 2)))[0].T
    of_images, of_words = (strength * shifts).astype(np.float32)

    def shifted(vectors: np.ndarray, by: np.ndarray) -> np.ndarray:
        return unit(vectors.astype(np.float32) + by)

    null, background, reference = evidence.null, evidence.background, evidence.reference
    behind = replace(
        evidence,
        words=shifted(evidence.words, of_words),
        null=None if null is None else shifted(null[None], of_words)[0],
        images=shifted(evidence.images, of_images),
        background=None if background is None else shifted(background, of_images),
        reference=None if reference is None else shifted(reference, of_images),
    )
    unseen = replace(units.unseen, vectors=shifted(units.unseen.vectors, of_images))
    return replace(units, evidence=behind, unseen=unseen)


def _file(embedder: str) -> str:
    return embedder.replace("/", "-")
