"""The plan of a build: its inputs, and how it is executed."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from semlens.data.class_mapping import TargetMap
from semlens.data.images import Images
from semlens.data.own_boxes import OwnBoxes
from semlens.data.prefetch import default_workers
from semlens.dictionaries.request import DictionaryRequest
from semlens.embedders.embedder import Embedder
from semlens.errors import RecipeError
from semlens.models.activations import CHANNELS_FIRST, LayerLayout
from semlens.models.subject import SubjectModel
from semlens.recipe import FORMAT, Recipe, fingerprint
from semlens.relevance.make_engine import EngineCache, FallbackWarning
from semlens.run.executors.executor import Executor, Inputs, ThisProcess
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.executors.ray_cluster import Ray
from semlens.store.manifest import Extendable, Source
from semlens.types import Crop

TASKS_PER_WORKER = 4
"""Shards that each worker gets at least, where the data permits, so that all end together."""


@dataclass(frozen=True)
class Execution:
    """How a build is executed; it does not change the result beyond rounding.

    Parameters
    ----------
    batch_size
        Samples per forward pass. Results are byte-identical for equal batch size, device and
        number of compute threads, and agree to 1e-5 otherwise.
    workers
        Threads that decode and preprocess; -1 means one per core.
    shard
        Samples per saved shard, or None to choose from the size of the data.
    executor
        What computes the shards.
    """

    batch_size: int = 32
    workers: int = -1
    shard: int | None = None
    executor: Executor = field(default_factory=ThisProcess)

    def __post_init__(self) -> None:
        """Check the numbers."""
        if type(self.batch_size) is not int or self.batch_size < 1:
            raise RecipeError(
                f"The batch size is {self.batch_size}.", "Expected 1 or more.", "Try 32."
            )

    @property
    def threads(self) -> int:
        """Number of decoding threads."""
        return default_workers() if self.workers < 0 else self.workers

    def computed_by(self, executor: Executor | str | None) -> Execution:
        """Return this execution with another executor, given as an object or a text, if any."""
        if isinstance(executor, str):
            executor = parse_executor(executor)
        return self if executor is None else replace(self, executor=executor)

    def for_source(self, images: Images) -> Execution:
        """Return this execution with the threads that a remote source needs to be read ahead."""
        return replace(
            self, workers=max(self.threads, images.parallel_reads) if self.workers else 0
        )

    def cut(
        self, samples: range, total: int, unit: int, size: int | None, workers: int
    ) -> Iterator[range]:
        """Cut a range of samples into shards.

        An incomplete unit at the end of all samples is a shard of its own, so that the others can
        be kept: when data is added, only it changes.

        Parameters
        ----------
        samples
            The range; it starts at a multiple of ``unit``.
        total
            Number of samples of all shards.
        unit
            Shards are multiples of it, so that no cut changes a result.
        size
            Samples per shard; by default 1024, or as many as give 64 shards.
        workers
            Number of workers; several get smaller shards.
        """
        size = self.shard or size or max(1024, -(-total // 64))
        if workers > 1 and not self.shard:
            size = min(size, -(-total // (TASKS_PER_WORKER * workers)))
        step = max(1, round(size / unit)) * unit
        whole = min(samples.stop, total // unit * unit)
        for start in range(samples.start, whole, step):
            yield range(start, min(start + step, whole))
        if samples.stop > whole:
            yield range(max(samples.start, whole), samples.stop)


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
    dictionaries: tuple[tuple[str, DictionaryRequest], ...] = ()
    """Directions to be components, each with its layer; their names are in ``layers``."""
    boxes: OwnBoxes | None = None
    """Boxes of the user, if examples are cropped to these."""
    extendable: bool = False
    """Whether the state of the statistics is kept, so that data can be added."""

    @cached_property
    def inputs(self) -> Inputs:
        """What the shards are computed with."""
        execution = self.execution
        return Inputs(
            self.model,
            self.images,
            self.embedder,
            self.recipe,
            execution.batch_size,
            execution.threads,
            self.boxes,
        )

    @property
    def stages(self) -> dict[str, int]:
        """The stages of a build in their order, with their numbers of images; 0 until selected."""
        count = len(self.images)
        explained = sum(logit is not None for logit in self.targets.logits) or count
        relate = {"relate": explained} if self.relevance else {}
        return {"hash": count, "collect": count, "crop": 0, "embed": 0} | relate

    @property
    def extendable_entry(self) -> Extendable | None:
        """What the manifest says of the state that is kept, if it is."""
        if not self.extendable:
            return None
        return Extendable(batch_size=self.execution.batch_size, device=self.model.device.type)

    @property
    def boxes_entry(self) -> Source | None:
        """What the manifest says of the boxes, if there are any."""
        if self.boxes is None:
            return None
        return Source(spec=self.boxes.spec, fingerprint=self.boxes.fingerprint())

    @property
    def engines(self) -> EngineCache:
        """Relevance engines of the model."""
        return self.inputs.engines

    @property
    def rank_rules(self) -> str | None:
        """Name of the relevance rules by which samples are ranked; None: by activation."""
        by_relevance = self.recipe.rank == "relevance"
        return self.engines.rules_name(list(self.layers)) if by_relevance else None

    def crops(self, layouts: Sequence[LayerLayout]) -> list[Crop]:
        """Return how each layer is cropped (paper, H.1).

        With ``auto``, channels and units are cropped by relevance and token features by activation
        map; all are cropped by activation map if relevance would be gradient times input.
        """
        crop = self.recipe.crop
        if crop != "auto":
            return [crop] * len(layouts)
        by_relevance = [layout.form in CHANNELS_FIRST for layout in layouts]
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

    @property
    def dictionary_fingerprints(self) -> dict[str, str]:
        """Fingerprints of the model's dictionaries, by name."""
        return {name: part.fingerprint for name, part in self.model.dictionaries.items()}

    def collect_key(self, data: str, model: str, reference: int) -> str:
        """Return a fingerprint of everything that determines the collect shards.

        Parameters
        ----------
        reference
            Number of reference samples.
        """
        recipe = self.recipe
        by = [recipe.rank, self.rank_rules]
        return fingerprint(
            FORMAT,
            "collect",
            model,
            data,
            list(self.layers),
            self.dictionary_fingerprints,
            [recipe.examples, recipe.readout, recipe.signs, by, reference],
            [self.execution.batch_size, self.model.device.type],
        )

    def embed_key(self, collect_key: str, crops: list[Crop], existing_crops: list[int]) -> str:
        """Return a fingerprint of everything that determines the crop and embed shards."""
        recipe = self.recipe.model_dump()
        boxes = self.boxes.fingerprint() if self.boxes is not None else None
        return fingerprint(
            FORMAT,
            "embed",
            collect_key,
            self.embedder.fingerprint,
            recipe,
            [crops, boxes],
            existing_crops,
        )


EXECUTORS = "here, processes[:N], ray or ray://HOST:PORT"


def parse_executor(text: str, threads: int | None = None) -> Executor:
    """Return an executor by name.

    Parameters
    ----------
    text
        ``here``; ``processes`` or ``processes:4``; ``ray`` or ``ray://HOST:PORT``.
    threads
        Compute threads of each worker on a CPU.

    Raises
    ------
    RecipeError
        If there is no such executor.

    Examples
    --------
    >>> parse_executor("processes:2").processes
    2
    """
    if text == "here":
        return ThisProcess(threads)
    if match := re.fullmatch(r"processes(?::(\d+))?", text):
        return LocalProcesses(int(match[1]) if match[1] else None, threads)
    if text == "ray" or re.fullmatch(r"ray://\S+", text):
        return Ray(None if text == "ray" else text, threads or 1)
    raise RecipeError(
        f"There is no executor '{text}'.", f"Expected {EXECUTORS}.", "Correct the name."
    )
