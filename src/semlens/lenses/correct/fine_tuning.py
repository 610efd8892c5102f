"""Fine-tuning a copy of a model on images that carry artefacts at random (paper, 4.3.3)."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from pydantic import ConfigDict
from torch import Tensor, nn

from semlens.data.artefact import Artefact, insert_drawn
from semlens.errors import DataError, RecipeError, StoreError
from semlens.lenses.accuracy import LabelledImages, check_targets
from semlens.models.forward import batches, run_scores
from semlens.models.hooks import FAILURES
from semlens.models.subject import SubjectModel
from semlens.progress import report_progress
from semlens.settings import Settings, setting
from semlens.store.atomic_files import write_atomic

WARM_UP = 0.05
"""Fraction of the steps in which the learning rate rises."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
MIN_BATCH = 16
"""Smaller batches do not update the statistics of batch norms."""
MAX_CROP = 0.2
"""Largest fraction of each side that a random crop removes."""


class Training(Settings):
    """Settings of a fine-tuning run."""

    model_config = ConfigDict(strict=True)  # True is no number

    epochs: Annotated[int, setting("Passes over the images.", ge=1)] = 6
    insert_share: Annotated[
        float, setting("Fraction of the images with an artefact, in every class.", ge=0, le=1)
    ] = 0.5
    learning_rate: Annotated[
        float, setting("Peak learning rate (AdamW, warm-up, cosine).", gt=0)
    ] = 5e-4
    weight_decay: Annotated[float, setting("Weight decay; biases and norms have none.", ge=0)] = (
        0.05
    )
    batch_size: Annotated[int, setting("Images per step.", ge=2)] = 64
    balanced: Annotated[bool, setting("Sample all classes equally often.")] = True
    """Most of the affected samples, which are left out, belong to one class."""
    flip: Annotated[bool, setting("Mirror images at random.")] = True
    held_out: Annotated[
        float, setting("Fraction of the images to measure accuracy on.", ge=0, le=0.9)
    ] = 0.1
    seed: Annotated[int, setting("Random seed.", ge=0)] = 0


@dataclass(frozen=True, eq=False)
class TrainingData(LabelledImages):
    """Training samples with their logits, and the artefacts to insert."""

    artefacts: tuple[Artefact, ...]

    def order(self, settings: Training, epoch: int) -> Int64[np.ndarray, " n"]:
        """Return the indices of one epoch's samples, balanced by class if so set."""
        generator = np.random.default_rng((settings.seed, epoch))
        count = len(self.samples)
        if not settings.balanced:
            return generator.permutation(count)
        weight = 1 / np.bincount(self.targets)[self.targets]
        return generator.choice(count, count, p=weight / weight.sum())

    def augmented_image(
        self, index: int, settings: Training, generator: np.random.Generator
    ) -> Image.Image:
        """Return a training image: augmented, and at random with an artefact."""
        image = augment(self.images.read(int(self.samples[index])), generator, flip=settings.flip)
        if generator.random() >= settings.insert_share or not self.artefacts:
            return image
        return insert_drawn(image, self.artefacts, settings.seed, int(generator.integers(2**31)))


def augment(image: Image.Image, generator: np.random.Generator, *, flip: bool) -> Image.Image:
    """Return a random crop of an image, resized to the original size, and perhaps mirrored.

    The result has the size of the image, so that any preprocessing can be applied to it.
    """
    scale = 1 - MAX_CROP * generator.random()
    left, top = generator.random(2) * (1 - scale) * np.array(image.size)
    box = (left, top, left + scale * image.width, top + scale * image.height)
    cropped = image.resize(image.size, Image.Resampling.BILINEAR, box)
    if flip and generator.random() < 0.5:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return cropped


class TrainingRun:
    """A training run, which modifies the model in place and resumes from its checkpoint."""

    def __init__(
        self,
        model: SubjectModel,
        data: TrainingData,
        settings: Training,
        identity: str,
        checkpoint: Path | None,
    ) -> None:
        self.model, self.data, self.settings = model, data, settings
        self.identity, self.checkpoint = identity, checkpoint
        self.steps = -(-len(data.samples) // settings.batch_size)
        parameters = [p for p in model.module.parameters() if p.is_floating_point()]
        for parameter in parameters:
            parameter.requires_grad_(True)
        # no weight decay for biases and norms
        undecayed = {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in parameters if p.ndim > 1]}, undecayed],
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

    def train(self, measure: Callable[[], dict[str, float]]) -> list[dict[str, float | int]]:
        """Train, and return one record per epoch; epoch 0 is the model before training."""
        if not self._resume():
            self.history = [{"epoch": 0, "loss": math.nan, **measure(), "seconds": 0.0}]
        for epoch in range(len(self.history), self.settings.epochs + 1):
            started = time.monotonic()
            loss = self._epoch(epoch)
            metrics = measure()
            seconds = time.monotonic() - started
            self.history.append({"epoch": epoch, "loss": loss, **metrics, "seconds": seconds})
            self._save()
        return self.history

    def _epoch(self, epoch: int) -> float:
        settings, data = self.settings, self.data
        order = data.order(settings, epoch)
        targets = torch.from_numpy(data.targets[order]).to(self.model.device)

        def read(step: int) -> Image.Image:
            generator = np.random.default_rng((settings.seed, epoch, step))
            return data.augmented_image(int(order[step]), settings, generator)

        loss_sum, done, size = 0.0, 0, len(order)
        devices = [targets.device] if targets.is_cuda else []
        with torch.random.fork_rng(devices):  # seeds dropout, then restores the caller's state
            torch.manual_seed(settings.seed * 100_003 + epoch)
            try:
                for batch in batches(self.model, read, range(size), settings.batch_size, None):
                    if len(batch) < 2:  # batch norm cannot train on a single image
                        break
                    _train_mode(self.model.module, frozen=len(batch) < MIN_BATCH)
                    loss_sum += self._step(batch, targets[done : done + len(batch)]) * len(batch)
                    done += len(batch)
                    report_progress("training", (epoch - 1) * size + done, size * settings.epochs)
            finally:
                self.model.module.eval()
        if not math.isfinite(loss_sum):
            raise RecipeError(
                f"The loss of epoch {epoch} is {loss_sum / done}.",
                "Expected a finite loss.",
                "Choose a smaller learning rate.",
            )
        return loss_sum / done

    def _step(self, batch: Tensor, targets: Tensor) -> float:
        with torch.enable_grad():
            scores = run_scores(self.model, batch)
            check_targets(targets.cpu().numpy(), scores.shape[1])
            loss = self.model.answer.loss(scores, targets)
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    # -- checkpoints ------------------------------------------------------------------------

    def _save(self) -> None:
        if self.checkpoint is None:
            return
        buffer = io.BytesIO()  # torch.save to a file does not report a full disk
        torch.save(
            {
                "identity": self.identity,
                "module": self.model.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": {"last_epoch": self.schedule.last_epoch},
                "history": self.history,
            },
            buffer,
        )
        write_atomic(self.checkpoint, lambda path: path.write_bytes(buffer.getbuffer()))

    def _resume(self) -> bool:
        """Load the checkpoint of an unfinished run of the same settings, model and images."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return False
        try:
            saved = torch.load(self.checkpoint, map_location=self.model.device, weights_only=True)
        except Exception as error:  # a pickle may make the reader raise anything
            raise self._unreadable() from error
        if not isinstance(saved, dict) or saved.get("identity") != self.identity:
            raise StoreError(
                f"The checkpoint '{self.checkpoint}' belongs to a different run.",
                "Expected the same model, images, artefacts and settings.",
                "Remove it to start again, or resume with the previous settings.",
            )
        try:
            self.model.module.load_state_dict(saved["module"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.last_epoch = saved["schedule"]["last_epoch"]
            self.history = saved["history"]
        except FAILURES as error:
            raise self._unreadable() from error
        return True

    def _unreadable(self) -> StoreError:
        return StoreError(
            f"Cannot read the checkpoint '{self.checkpoint}'.",
            "Expected a checkpoint of a retraining.",
            "Remove it to start again.",
        )


def _train_mode(module: nn.Module, *, frozen: bool) -> None:
    """Switch to training mode; if ``frozen``, batch norms stay in evaluation mode."""
    module.train()
    for layer in module.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.train(not frozen)


def split_held_out(
    samples: Int64[np.ndarray, " n"], targets: Int64[np.ndarray, " n"], settings: Training
) -> tuple[Int64[np.ndarray, " a"], Int64[np.ndarray, " b"]]:
    """Split indices into training and held-out ones, class by class.

    Raises
    ------
    DataError
        If too few samples are left to train on.
    """
    generator = np.random.default_rng(settings.seed)
    held = np.zeros(len(targets), bool)
    for target in np.unique(targets):
        members = generator.permutation(np.flatnonzero(targets == target))
        # at least one sample of each class is left to train on
        held[members[: min(round(settings.held_out * len(members)), len(members) - 1)]] = True
    train = np.flatnonzero(~held)
    if len(train) < 2 or len(np.unique(targets)) < 2:
        raise DataError(
            f"There are {len(train)} images of {len(np.unique(targets))} classes to train on.",
            "Expected at least two images and two classes.",
            "Drop fewer samples, or give more images.",
        )
    return train, np.flatnonzero(held)
