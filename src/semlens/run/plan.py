"""What a build is about to do: its inputs, how it runs, and the shards that it is cut into."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from semlens.progress import report
from semlens.recipe import FORMAT, Recipe, fingerprint
from semlens.relevance.make_engine import Engines, FallbackWarning
from semlens.store.atomic_files import load_tensors, save_tensors
from semlens.types import Crop


@dataclass(frozen=True)
class Execution:
    """How a build runs; nothing of it changes the result beyond rounding.

    Parameters
    ----------
    batch_size
        Samples per forward pass. Results are byte-identical at equal batch size and
        device, and agree to 1e-5 otherwise.
    workers
        Threads that decode and preprocess.
    shard
        Samples per saved shard, or None to choose by the size of the data.
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
        """Decoding threads; -1 means one per core."""
        return default_workers() if self.workers < 0 else self.workers

    def shards(self, samples: int, size: int | None = None) -> Iterator[range]:
        """Split sample places into runs of whole batches, 64 at most unless a size is given."""
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
    """Whether a database that is there takes the classes, too, or keeps its own."""
    relevance: bool = False
    """Whether class relevance is computed for all layers."""

    @cached_property
    def engines(self) -> Engines:
        """The model's relevance engines."""
        return Engines(self.model, self.recipe.rules)

    def crops(self, forms: Sequence[LayerLayout]) -> list[Crop]:
        """Decide how each layer is cropped (paper, H.1).

        With ``auto`` channels and units are cropped by relevance, token features by their
        activation map; and all by the map when the model's relevance would only be gradient
        times input.
        """
        asked = self.recipe.crop
        if asked != "auto":
            return [asked] * len(forms)
        plain = [form.form in ("map", "units") for form in forms]
        names = [form.name for form, crp in zip(forms, plain, strict=True) if crp]
        exact = bool(names) and self.engines.exact(names)
        if names and not exact:
            text = "So examples are cropped by activation maps; crop='crp' insists on relevance."
            warnings.warn(text, FallbackWarning, stacklevel=2)
        return ["crp" if crp and exact else "activation" for crp in plain]

    def collect_key(self, data: str, model: str) -> str:
        """Fingerprint of everything that decides the collect shards."""
        recipe = self.recipe
        return fingerprint(
            FORMAT,
            "collect",
            model,
            data,
            list(self.layers),
            [recipe.examples, recipe.readout, recipe.signs],
            [self.execution.batch_size, self.model.device.type],
        )

    def embed_key(self, collect_key: str, crops: list[Crop], known_crops: list[int]) -> str:
        """Fingerprint of everything that decides the attribute and embed shards."""
        recipe = self.recipe.model_dump()
        return fingerprint(
            FORMAT, "embed", collect_key, self.embedder.fingerprint, recipe, crops, known_crops
        )


Advance = Callable[[int], None]
"""Called with the number of samples done since the last call."""


@dataclass(frozen=True)
class Shards:
    """The shards of one build.

    Parameters
    ----------
    folder
        Where they are saved.
    """

    folder: Path

    def of(
        self,
        steps: tuple[str, ...],
        key: str,
        ranges: Iterable[range],
        total: int,
        compute: Callable[[range, Mapping[str, Advance]], Mapping[str, Tensor]],
    ) -> Iterator[dict[str, Tensor]]:
        """Yield what each shard of a stage holds, mapped from its file.

        Parameters
        ----------
        steps
            What progress is reported of; the first names the stage.
        key
            Fingerprint of everything that decides what the shards hold.
        ranges, total
            Places of the samples in each shard, and their number in all.
        compute
            Makes the tensors of a shard, and reports to the steps by their names.
        """
        for shard in ranges:
            name = f"{steps[0]}-{key[:16]}-{shard.start:08d}-{shard.stop:08d}.safetensors"
            if not (self.folder / name).is_file():
                advance = {step: _advance(step, shard.start, total) for step in steps}
                save_tensors(self.folder / name, compute(shard, advance))
            for step in steps:
                report(step, shard.stop, total)
            yield load_tensors(self.folder / name)


def _advance(step: str, done: int, total: int) -> Advance:
    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(step, done, total)

    return advance
