"""The stages of a build, shard by shard: what is saved is loaded, the rest computed and saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from semlens.progress import report
from semlens.store.files import load_tensors, save_tensors

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
