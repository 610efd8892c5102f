"""The plan of a build: its inputs, how it is executed, and its shards."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from semlens.data.class_mapping import TargetMap
from semlens.data.images import Images
from semlens.data.prefetch import default_workers
from semlens.embedders.load import Embedder
from semlens.errors import RecipeError
from semlens.models.activations import LayerLayout
from semlens.models.subject import SubjectModel
from semlens.progress import report_progress
from semlens.recipe import FORMAT, Recipe, fingerprint
from semlens.relevance.make_engine import EngineCache, FallbackWarning
from semlens.store.atomic_files import load_tensors
from semlens.store.sealed_tensors import load_sealed, save_sealed
from semlens.types import Crop


@dataclass(frozen=True)
class Execution:
    """How a build is executed; it does not change the result beyond rounding.

    Parameters
    ----------
    batch_size
        Samples per forward pass. Results are byte-identical for equal batch size and device, and
        agree to 1e-5 otherwise.
    workers
        Threads that decode and preprocess; -1 means one per core.
    shard
        Samples per saved shard, or None to choose from the size of the data.
    """

    batch_size: int = 32
    workers: int = -1
    shard: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.batch_size < 1:
            raise RecipeError(
                f"The batch size is {self.batch_size}.", "Expected 1 or more.", "Try 32."
            )

    @property
    def threads(self) -> int:
        """Number of decoding threads."""
        return default_workers() if self.workers < 0 else self.workers

    def for_source(self, images: Images) -> Execution:
        """Return this execution with the threads that a remote source needs to be read ahead."""
        return replace(
            self, workers=max(self.threads, images.parallel_reads) if self.workers else 0
        )

    def shards(self, samples: int, size: int | None = None) -> Iterator[range]:
        """Split samples into ranges of whole batches, at most 64 unless a size is given."""
        size = self.shard or size or max(1024, -(-samples // 64))
        step = max(1, round(size / self.batch_size)) * self.batch_size
        for start in range(0, samples, step):
            yield range(start, min(start + step, samples))


@dataclass(frozen=True)
class Plan:
    """The inputs of a build."""

    model: SubjectModel
    images: Images
    embedder: Embedder
    layers: tuple[str, ...]
    recipe: Recipe
    execution: Execution
    targets: TargetMap
    """The class of each sample."""
    relabel: bool = False
    """Whether an existing database takes over these classes, or keeps its own."""
    relevance: bool = False
    """Whether class relevance is computed for all layers."""

    @cached_property
    def engines(self) -> EngineCache:
        """Relevance engines of the model."""
        return EngineCache(self.model, self.recipe.rules)

    def crops(self, layouts: Sequence[LayerLayout]) -> list[Crop]:
        """Return how each layer is cropped (paper, H.1).

        With ``auto``, channels and units are cropped by relevance and token features by activation
        map; all are cropped by activation map if relevance would be gradient times input.
        """
        crop = self.recipe.crop
        if crop != "auto":
            return [crop] * len(layouts)
        by_relevance = [layout.form in ("map", "units") for layout in layouts]
        names = [
            layout.name
            for layout, suits_relevance in zip(layouts, by_relevance, strict=True)
            if suits_relevance
        ]
        is_exact = bool(names) and self.engines.is_exact(names)
        if names and not is_exact:
            text = "So examples are cropped by activation maps; crop='crp' uses relevance anyway."
            warnings.warn(text, FallbackWarning, stacklevel=2)
        return [
            "crp" if suits_relevance and is_exact else "activation"
            for suits_relevance in by_relevance
        ]

    def collect_key(self, data: str, model: str, reference: int) -> str:
        """Return a fingerprint of everything that determines the collect shards.

        Parameters
        ----------
        reference
            Number of reference samples.
        """
        recipe = self.recipe
        return fingerprint(
            FORMAT,
            "collect",
            model,
            data,
            list(self.layers),
            [recipe.examples, recipe.readout, recipe.signs, reference],
            [self.execution.batch_size, self.model.device.type],
        )

    def embed_key(self, collect_key: str, crops: list[Crop], existing_crops: list[int]) -> str:
        """Return a fingerprint of everything that determines the crop and embed shards."""
        recipe = self.recipe.model_dump()
        return fingerprint(
            FORMAT, "embed", collect_key, self.embedder.fingerprint, recipe, crops, existing_crops
        )


Advance = Callable[[int], None]
"""Called with the number of samples done since the last call."""


@dataclass(frozen=True)
class Shards:
    """The shards of one build.

    Parameters
    ----------
    folder
        Folder of the shard files.
    """

    folder: Path

    def load_or_compute(
        self,
        steps: tuple[str, ...],
        key: str,
        ranges: Iterable[range],
        total: int,
        compute: Callable[[range, Mapping[str, Advance]], Mapping[str, Tensor]],
    ) -> Iterator[dict[str, Tensor]]:
        """Yield the tensors of each shard of a stage, computing those that are not saved whole.

        Parameters
        ----------
        steps
            Names under which progress is reported; the first one names the files.
        key
            Fingerprint of everything that determines the content of the shards.
        ranges, total
            Range of samples of each shard, and the total number of samples.
        compute
            Returns the tensors of a shard; called with its range and a progress callback by step.
        """
        for shard in ranges:
            name = f"{steps[0]}-{key[:16]}-{shard.start:08d}-{shard.stop:08d}.safetensors"
            tensors = load_sealed(self.folder / name)
            if tensors is None:
                advance = {step: _advance(step, shard.start, total) for step in steps}
                save_sealed(self.folder / name, compute(shard, advance))
                tensors = load_tensors(self.folder / name)
            for step in steps:
                report_progress(step, shard.stop, total)
            yield tensors


def _advance(step: str, done: int, total: int) -> Advance:
    def advance(count: int) -> None:
        nonlocal done
        done += count
        report_progress(step, done, total)

    return advance
