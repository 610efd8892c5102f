"""The timed parts of the build benchmark, each run in its own process.

    python -m benchmarks.cases.build.parts SETTINGS.json

is a worker of ``harness``. Loading of libraries and weights is never timed. The bare loops are what
one would write by hand for the same work: decoding threads with prefetching, batches, no gradients.
They store, write and check nothing.
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
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import semlens as sl
from benchmarks.harness import Clock, Measurement, StageClock, peak_mib, serve
from benchmarks.worlds.build_inputs import Inputs
from semlens.run.plan import Execution
from semlens.store import file_names

T = TypeVar("T")
R = TypeVar("R")

BARE = ("bare-subject", "bare-none", "bare-activation")
OURS = (
    "none",
    "none+random-images",
    "none+thumbnails",
    "activation",
    "activation+thumbnails",
    "activation+bfloat16",
)


class _StopForward(Exception):
    """Ends a forward pass after the last layer that is needed."""


def prefetch(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Map in order over threads, with 64 items of look-ahead."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[R]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > 64:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def batches(stream: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split a stream into lists of ``size``."""
    batch: list[T] = []
    for item in stream:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def decode(path: Path) -> Image.Image:
    """Read an image as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


@torch.inference_mode()
def bare_subject(settings: Inputs) -> Measurement:
    """Decode every image, preprocess it and run the subject."""
    model = sl.load_model(settings.model)
    images = sl.ImageFolder(settings.images)

    def preprocess(name: str) -> Tensor:
        return model.preprocess(decode(images.root / name))

    with Clock() as clock:
        for batch in batches(
            prefetch(preprocess, images.ids, settings.threads), settings.batch_size
        ):
            model.module(torch.stack(batch))
    return clock.read()


@torch.inference_mode()
def bare_crops(settings: Inputs, crop: str) -> Measurement:
    """Decode the referenced images, run the subject as far as crops need it, embed the crops.

    The crops are read from a database, because a bare loop cannot know them. Whole images do not
    need the subject.
    """
    model = sl.load_model(settings.model)
    embedder = sl.load_embedder(settings.embedder)
    images = sl.ImageFolder(settings.images)
    boxes = crop_boxes(Path(settings.work) / f"crops-{crop}.semlens")

    def preprocess(sample: int) -> tuple[Tensor | None, list[Tensor]]:
        image = decode(images.root / images.ids[sample])
        crops = [embedder.preprocess(image.crop(box)) for box in boxes[sample]]
        return (model.preprocess(image) if crop == "activation" else None), crops

    pending: list[Tensor] = []
    with Clock() as clock, stop_after(model.module, settings.layers):
        stream = prefetch(preprocess, sorted(boxes), settings.threads)
        for batch in batches(stream, settings.batch_size):
            if crop == "activation":
                run_to_layer(model.module, torch.stack([x for x, _ in batch if x is not None]))
            pending += [crop_input for _, crops in batch for crop_input in crops]
            while len(pending) >= settings.batch_size:
                embedder.embed_batch(torch.stack(pending[: settings.batch_size]))
                del pending[: settings.batch_size]
        if pending:
            embedder.embed_batch(torch.stack(pending))
    return clock.read()


class stop_after:  # noqa: N801 - reads as a statement
    """Stop the forward pass once every named layer has run."""

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        self.layers = [dict(module.named_modules())[name] for name in names]

    def __enter__(self) -> None:
        remaining = set(self.layers)

        def hook(layer: nn.Module, _: Any, __: Any) -> None:
            remaining.discard(layer)
            if not remaining:
                remaining.update(self.layers)
                raise _StopForward

        self.hooks = [layer.register_forward_hook(hook) for layer in self.layers]

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()


def run_to_layer(module: nn.Module, batch: Tensor) -> None:
    """Run a forward pass that :class:`stop_after` ends."""
    try:
        module(batch)
    except _StopForward:
        pass


def crop_boxes(database: Path) -> dict[int, list[tuple[int, int, int, int]]]:
    """Return the boxes of each referenced sample of a database."""
    boxes: dict[int, list[tuple[int, int, int, int]]] = {}
    for number in range(len(sl.open(database).manifest.crops)):
        tensors = load_file(database / file_names.crops_file(number))
        for sample, box in zip(tensors["sample"].tolist(), tensors["box"].tolist(), strict=True):
            boxes.setdefault(sample, []).append(tuple(box))
    return boxes


def ours(settings: Inputs, variant: str, path: Path | None = None) -> Measurement:
    """Build a database in a variant of a crop mode.

    ``+random-images`` adds the default number of these, ``+thumbnails`` a picture of each crop, and
    ``+bfloat16`` embeds in this precision; the bare loop does so in float32.
    """
    crop, _, extra = variant.partition("+")
    model = sl.load_model(settings.model)
    embedder = sl.load_embedder(settings.embedder)
    images = sl.ImageFolder(settings.images)
    target = path or Path(settings.work) / f"ours-{variant}.semlens"
    shutil.rmtree(target, ignore_errors=True)
    with Clock() as clock:
        stages = StageClock()
        sl.build(
            target,
            model,
            images,
            embedder,
            layers=settings.layers,
            examples=settings.examples,
            crop=crop,
            thumbnails=extra == "thumbnails",
            embedder_precision="bfloat16" if extra == "bfloat16" else "float32",
            reference=sl.Recipe().reference if extra == "random-images" else 0,
            execution=Execution(settings.batch_size, settings.threads),
            progress=stages,
        )
    return {**clock.read(), **stages.read()}


def run(part: str, settings: Inputs) -> Measurement:
    """Run one part; return its seconds and this process's peak memory."""
    if part == "bare-subject":
        times = bare_subject(settings)
    elif part.startswith("bare-"):
        times = bare_crops(settings, part.removeprefix("bare-"))
    else:
        times = ours(settings, part)
    return {**times, "peak_rss_mib": peak_mib()}


if __name__ == "__main__":
    inputs = Inputs.read(sys.argv[1])
    serve({"run": lambda part: run(part, inputs)})
