"""Fine-tuning a copy of a model on images that carry artefacts at random (paper, 4.3.3)."""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from semlens.analysis.evaluate import LabelledImages, check_targets
from semlens.data.artefact import Artefact, insert_drawn
from semlens.errors import DataError, RecipeError, StoreError
from semlens.models.forward import batches, run_scores
from semlens.models.subject import SubjectModel
from semlens.progress import report
from semlens.settings import Settings, setting
from semlens.store.atomic_files import write_atomic

WARM_UP = 0.05
"""Share of the steps in which the learning rate rises."""
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
"""Layers that take their statistics from the batch."""
FEW = 16
"""Batches that are smaller leave the statistics of batch norms as they are."""
CUT = 0.2
"""How much of a side the random part of an image may leave away."""


class Training(Settings):
    """How a model is trained on."""

    epochs: Annotated[int, setting("Passes over the images.", ge=1)] = 6
    insert_share: Annotated[
        float, setting("Share of the images that get an artefact, in every class.", ge=0, le=1)
    ] = 0.5
    learning_rate: Annotated[float, setting("Its peak (AdamW, warm-up, cosine).", gt=0)] = 5e-4
    weight_decay: Annotated[float, setting("Of weights; biases and norms have none.", ge=0)] = 0.05
    batch_size: Annotated[int, setting("Images per step.", ge=2)] = 64
    balanced: Annotated[bool, setting("Draw all classes equally often.")] = True
    """The affected samples that are left out are mostly of one class."""
    flip: Annotated[bool, setting("Mirror images at random.")] = True
    held_out: Annotated[float, setting("Share of the images to measure on.", ge=0, le=0.9)] = 0.1
    seed: Annotated[int, setting("Of everything that is drawn.", ge=0)] = 0


@dataclass(frozen=True, eq=False)
class TrainingData(LabelledImages):
    """What is trained on: samples with their logits, and the artefacts to insert."""

    artefacts: tuple[Artefact, ...]

    def order(self, settings: Training, epoch: int) -> Int64[np.ndarray, " n"]:
        """Return the places of one epoch's samples, classes equally often if so set."""
        draw = np.random.default_rng((settings.seed, epoch))
        count = len(self.samples)
        if not settings.balanced:
            return draw.permutation(count)
        weight = 1 / np.bincount(self.targets)[self.targets]
        return draw.choice(count, count, p=weight / weight.sum())

    def picture(self, place: int, settings: Training, draw: np.random.Generator) -> Image.Image:
        """Return an image as it is trained on: varied, and perhaps with an artefact."""
        image = varied(self.images.read(int(self.samples[place])), draw, flip=settings.flip)
        if draw.random() >= settings.insert_share or not self.artefacts:
            return image
        return insert_drawn(image, self.artefacts, settings.seed, int(draw.integers(2**31)))


def varied(image: Image.Image, draw: np.random.Generator, *, flip: bool) -> Image.Image:
    """Return a random part of an image at the image's own size, perhaps mirrored.

    In its own pixels, and of its own size: any preprocessing can follow.
    """
    share = 1 - CUT * draw.random()
    left, top = draw.random(2) * (1 - share) * np.array(image.size)
    box = (left, top, left + share * image.width, top + share * image.height)
    changed = image.resize(image.size, Image.Resampling.BILINEAR, box)
    if flip and draw.random() < 0.5:
        changed = changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return changed


class TrainingRun:
    """One training run of a module that is its own; it goes on from a checkpoint of itself."""

    def __init__(
        self,
        model: SubjectModel,
        material: TrainingData,
        settings: Training,
        identity: str,
        checkpoint: Path | None,
    ) -> None:
        self.model, self.material, self.settings = model, material, settings
        self.identity, self.checkpoint = identity, checkpoint
        self.steps = -(-len(material.samples) // settings.batch_size)
        trained = [p for p in model.module.parameters() if p.is_floating_point()]
        for parameter in trained:
            parameter.requires_grad_(True)
        # biases and norms are not drawn to zero
        plain = {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in trained if p.ndim > 1]}, plain],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.history: list[dict[str, float | int]] = []

    def _rate(self, step: int) -> float:
        total = self.steps * self.settings.epochs
        warm = max(1, round(WARM_UP * total))
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    def go(self, measure: Callable[[], dict[str, float]]) -> list[dict[str, float | int]]:
        """Train, and return one record per epoch; the first, number 0, is before training."""
        if not self._resume():
            self.history = [{"epoch": 0, "loss": math.nan, **measure(), "seconds": 0.0}]
        for epoch in range(len(self.history), self.settings.epochs + 1):
            began = time.monotonic()
            loss = self._epoch(epoch)
            found = measure()
            spent = time.monotonic() - began
            self.history.append({"epoch": epoch, "loss": loss, **found, "seconds": spent})
            self._save()
        return self.history

    def _epoch(self, epoch: int) -> float:
        settings, material = self.settings, self.material
        places = material.order(settings, epoch)
        targets = torch.from_numpy(material.targets[places]).to(self.model.device)

        def read(turn: int) -> Image.Image:
            draw = np.random.default_rng((settings.seed, epoch, turn))
            return material.picture(int(places[turn]), settings, draw)

        total, seen, size = 0.0, 0, len(places)
        own = [targets.device] if targets.is_cuda else []
        with torch.random.fork_rng(own):  # of dropout; the user's own state comes back
            torch.manual_seed(settings.seed * 100_003 + epoch)
            try:
                for batch in batches(self.model, read, range(size), settings.batch_size, None):
                    if len(batch) < 2:  # a rest, of which batch norm has no statistics
                        break
                    _train_mode(self.model.module, frozen=len(batch) < FEW)
                    total += self._step(batch, targets[seen : seen + len(batch)]) * len(batch)
                    seen += len(batch)
                    report("training", (epoch - 1) * size + seen, size * settings.epochs)
            finally:
                self.model.module.eval()
        if not math.isfinite(total):
            raise RecipeError(
                f"The loss of epoch {epoch} is {total / seen}.",
                "Expected a finite one.",
                "Choose a smaller learning rate.",
            )
        return total / seen

    def _step(self, batch: Tensor, targets: Tensor) -> float:
        with torch.enable_grad():
            scores = run_scores(self.model, batch)
            check_targets(targets.cpu().numpy(), scores.shape[1])
            loss = functional.cross_entropy(scores.float(), targets)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    # -- checkpoints ------------------------------------------------------------------------

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        memory = io.BytesIO()  # torch's own writer hides that a disk is full
        torch.save(
            {
                "identity": self.identity,
                "module": self.model.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": {"last_epoch": self.schedule.last_epoch},
                "history": self.history,
            },
            memory,
        )
        write_atomic(self.checkpoint, lambda part: part.write_bytes(memory.getbuffer()))

    def _resume(self) -> bool:
        """Take up an unfinished run of the same settings, model and images."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return False
        try:
            held = torch.load(self.checkpoint, map_location=self.model.device, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            raise StoreError(
                f"The checkpoint '{self.checkpoint}' cannot be read.",
                "Expected one that this command has written.",
                "Remove it, to begin again.",
            ) from error
        if not isinstance(held, dict) or held.get("identity") != self.identity:
            raise StoreError(
                f"The checkpoint '{self.checkpoint}' is of another run.",
                "Expected the same model, images, artefacts and settings.",
                "Remove it to begin again, or go on with the settings of before.",
            )
        self.model.module.load_state_dict(held["module"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.schedule.last_epoch = held["schedule"]["last_epoch"]
        self.history = held["history"]
        return True


def _train_mode(module: nn.Module, *, frozen: bool) -> None:
    """Switch dropout and batch norm to training; with small batches, batch norm stays."""
    module.train()
    for part in module.modules():
        if isinstance(part, NORMS):
            part.train(not frozen)


def held_out(
    samples: Int64[np.ndarray, " n"], targets: Int64[np.ndarray, " n"], settings: Training
) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    """Part places into those trained on and those measured on, class by class.

    Raises
    ------
    DataError
        If too few are left to train on.
    """
    draw = np.random.default_rng(settings.seed)
    aside = np.zeros(len(targets), bool)
    for target in np.unique(targets):
        mine = draw.permutation(np.flatnonzero(targets == target))
        aside[mine[: min(round(settings.held_out * len(mine)), len(mine) - 1)]] = True
    kept = np.flatnonzero(~aside)
    if len(kept) < 2 or len(np.unique(targets)) < 2:
        raise DataError(
            f"There are {len(kept)} images of {len(np.unique(targets))} classes to train on.",
            "Expected at least two of each.",
            "Drop fewer samples, or give more images.",
        )
    return kept, np.flatnonzero(aside)
