"""The timed parts of the build benchmark; each runs in a process of its own.

    python benchmarks/build_parts.py SETTINGS.json

is a worker of ``harness``. Loading libraries and weights is not timed, in no part. The bare loops
are what a careful person would write for the same work without this project: decoding threads
that run ahead, batches, no gradients; they keep nothing, write nothing and check nothing.
"""

from __future__ import annotations

import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import torch
from build_inputs import Inputs
from harness import Clock, Measured, peak_mib, serve
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import semlens as sl
from semlens.run.plan import Execution
from semlens.store import file_names

T = TypeVar("T")
R = TypeVar("R")

BARE = ("bare-subject", "bare-none", "bare-activation")
OURS = ("none", "none+thumbnails", "activation", "activation+thumbnails")


class _Enough(Exception):
    """Ends a forward pass at the last layer that is needed."""


def ahead(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Map in order over threads, 64 items ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 64:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def batches(stream: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists of ``size``."""
    held: list[T] = []
    for item in stream:
        held.append(item)
        if len(held) == size:
            yield held
            held = []
    if held:
        yield held


def decode(path: Path) -> Image.Image:
    """Open a picture as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


@torch.inference_mode()
def bare_subject(settings: Inputs) -> Measured:
    """Decode every image, preprocess it and run the subject."""
    model = sl.load_model(settings.model)
    images = sl.ImageFolder(settings.images)

    def ready(name: str) -> Tensor:
        return model.preprocess(decode(images.root / name))

    with Clock() as clock:
        for batch in batches(ahead(ready, images.ids, settings.threads), settings.batch_size):
            model.module(torch.stack(batch))
    return clock.read()


@torch.inference_mode()
def bare_crops(settings: Inputs, crop: str) -> Measured:
    """Decode what is referenced, run the subject as far as crops need it, embed the crops.

    Which crops there are is read from a database: a bare loop could not know them. For whole
    images the subject is not needed at all.
    """
    model = sl.load_model(settings.model)
    embedder = sl.load_embedder(settings.embedder)
    images = sl.ImageFolder(settings.images)
    boxes = crops_of(Path(settings.work) / f"known-{crop}.semlens")

    def ready(sample: int) -> tuple[Tensor | None, list[Tensor]]:
        image = decode(images.root / images.ids[sample])
        pieces = [embedder.preprocess(image.crop(box)) for box in boxes[sample]]
        return (model.preprocess(image) if crop == "activation" else None), pieces

    waiting: list[Tensor] = []
    with Clock() as clock, stopping(model.module, settings.layers):
        stream = ahead(ready, sorted(boxes), settings.threads)
        for batch in batches(stream, settings.batch_size):
            if crop == "activation":
                run_to_layer(model.module, torch.stack([x for x, _ in batch if x is not None]))
            waiting += [piece for _, pieces in batch for piece in pieces]
            while len(waiting) >= settings.batch_size:
                embedder.embed_batch(torch.stack(waiting[: settings.batch_size]))
                del waiting[: settings.batch_size]
        if waiting:
            embedder.embed_batch(torch.stack(waiting))
    return clock.read()


class stopping:  # noqa: N801 - reads as a statement
    """Stop the forward pass once every named layer has run."""

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self.layers = [dict(module.named_modules())[name] for name in names]

    def __enter__(self) -> None:
        left: set[nn.Module] = set()

        def seen(layer: nn.Module, _: Any, __: Any) -> None:
            left.discard(layer)
            if not left:
                left.update(self.layers)
                raise _Enough

        left.update(self.layers)
        self.hooks = [layer.register_forward_hook(seen) for layer in self.layers]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def run_to_layer(module: nn.Module, batch: Tensor) -> None:
    """Run a forward pass that :class:`stopping` ends."""
    try:
        module(batch)
    except _Enough:
        pass


def crops_of(database: Path) -> dict[int, list[tuple[int, int, int, int]]]:
    """Return the boxes of each referenced sample of a database."""
    found: dict[int, list[tuple[int, int, int, int]]] = {}
    for number in range(len(sl.open(database).manifest.crops)):
        tensors = load_file(database / file_names.crops_file(number))
        for sample, box in zip(tensors["sample"].tolist(), tensors["box"].tolist(), strict=True):
            found.setdefault(sample, []).append(tuple(box))
    return found


def ours(settings: Inputs, variant: str, path: Path | None = None) -> Measured:
    """Build a database."""
    crop, _, thumbnails = variant.partition("+")
    model = sl.load_model(settings.model)
    embedder = sl.load_embedder(settings.embedder)
    images = sl.ImageFolder(settings.images)
    target = path or Path(settings.work) / f"ours-{variant}.semlens"
    shutil.rmtree(target, ignore_errors=True)
    with Clock() as clock:
        sl.build(
            target,
            model,
            images,
            embedder,
            layers=settings.layers,
            examples=settings.examples,
            crop=crop,
            thumbnails=bool(thumbnails),
            execution=Execution(settings.batch_size, settings.threads),
        )
    return clock.read()


def run(part: str, settings: Inputs) -> Measured:
    """Run one part; return its seconds and this process's peak memory."""
    if part == "bare-subject":
        found = bare_subject(settings)
    elif part.startswith("bare-"):
        found = bare_crops(settings, part.removeprefix("bare-"))
    else:
        found = ours(settings, part)
    return {**found, "peak_rss_mib": peak_mib()}


if __name__ == "__main__":
    given = Inputs.read(sys.argv[1])
    serve({"run": lambda part: run(part, given)})
