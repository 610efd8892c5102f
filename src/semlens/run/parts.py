"""Builds in parts that run on their own, as jobs of a cluster do, and their merge."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from semlens.errors import RecipeError, StaleError, StoreError
from semlens.run.build_database import check_plan, finish, open_existing
from semlens.run.layer_stages import NewLayers, SelectedExamples
from semlens.run.plan import Plan
from semlens.run.relevance import layers_without_relevance, relate_stage
from semlens.run.shards import Shards, Stage, digests_from, hash_stage
from semlens.store import file_names
from semlens.store.atomic_files import load_sealed
from semlens.store.reader import Database
from semlens.store.writer import check_folder, write_lock


@dataclass(frozen=True)
class Part:
    """One of ``count`` parts of a build, by number from 1.

    Examples
    --------
    >>> Part.parse("2/3")
    Part(number=2, count=3)
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 1 <= self.number <= self.count:
            raise _invalid_part(str(self))

    @classmethod
    def parse(cls, text: str) -> Part:
        """Return the part of a text such as ``2/3``.

        Raises
        ------
        RecipeError
            If it is none.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if match is None:
            raise _invalid_part(text)
        return cls(int(match[1]), int(match[2]))

    def of(self, stage: Stage) -> range:
        """Return the samples of a stage that belong to this part."""
        units = -(-stage.total // stage.unit)
        start, stop = (units * i // self.count * stage.unit for i in (self.number - 1, self.number))
        return range(start, min(stop, stage.total))

    def __str__(self) -> str:
        """Return ``number/count``."""
        return f"{self.number}/{self.count}"


def _invalid_part(text: str) -> RecipeError:
    return RecipeError(
        f"The part is '{text}'.", "Expected I/N with I from 1 to N.", "Give one such as 1/3."
    )


@dataclass(frozen=True)
class PartReport:
    """What a part of a build did.

    Parameters
    ----------
    part
        The part.
    computed
        By stage, the number of samples that this run computed.
    waiting
        By stage that is incomplete, the parts that are missing, if there are as many as now.
    """

    part: Part
    computed: dict[str, int]
    waiting: dict[str, list[Part]]

    @property
    def is_complete(self) -> bool:
        """Whether all parts of all stages are there, so that they can be merged."""
        return not self.waiting


def build_part(path: Path, plan: Plan, part: Part) -> PartReport:
    """Compute a part of the stages of a build that can be computed now.

    The stages are: hash the images; run the model; crop and embed, and class relevance if the plan
    has it. A stage needs all parts of the one before. Runs may share a folder, or have one each.

    Raises
    ------
    StaleError
        If images change between the parts; those that are hashed must be hashed again.
    """
    check_folder(path)
    plan = check_plan(plan)
    database, plan, layouts = open_existing(path, plan, fit=False)
    shards = Shards(path / file_names.PARTIAL)
    computed: dict[str, int] = {}
    waiting: dict[str, list[Part]] = {}
    hashing = hash_stage(plan)
    with plan.execution.executor.start(plan.inputs) as workers, _forget_stale(shards, hashing):

        def is_complete(stage: Stage) -> bool:
            missing = shards.missing(stage, part.of(stage))
            shards.complete(stage, workers, plan.execution, part.of(stage))
            computed[stage.name] = sum(map(len, missing))
            others = [Part(i, part.count) for i in range(1, part.count + 1)]
            absent = [other for other in others if shards.missing(stage, other.of(stage))]
            if absent:
                waiting[stage.name] = absent
            return not absent

        if is_complete(hashing):
            digests = digests_from(shards.load(hashing))
            if database:
                database.check_images(plan.images, digests)
            selected = None
            if plan.layers:
                new = NewLayers(database, plan, layouts, plan.crops(layouts), digests)
                collect = new.collect
                if is_complete(collect):
                    selected = new.select(collect, shards)
                    is_complete(selected.crop)
            if not plan.layers or selected is not None:
                relate = _relate_stage(plan, database, selected, digests)
                if relate is not None:
                    is_complete(relate)
    return PartReport(part, computed, waiting)


def _relate_stage(
    plan: Plan, database: Database | None, selected: SelectedExamples | None, digests: list[str]
) -> Stage | None:
    """Return the stage of class relevance of all layers that will lack it, if it is wanted."""
    previous = database.manifest if database else None
    if not (plan.relevance or (previous is not None and previous.relevance is not None)):
        return None
    rows = {entry.name: entry.rows for entry in layers_without_relevance(previous)} if previous \
        else {}  # fmt: skip
    if selected is not None:
        rows |= {layer.layout.name: len(layer.index) for layer in selected.layers}
        unreadable = set(selected.collected.unreadable)
    else:
        assert database is not None  # noqa: S101  # a new database has layers
        errors = database.samples["error"].notna().tolist()
        unreadable = {i for i, is_error in enumerate(errors) if is_error}
    return relate_stage(plan, rows, unreadable, digests) if rows else None


@contextmanager
def _forget_stale(shards: Shards, hashing: Stage) -> Iterator[None]:
    """Remove the digests if images have changed, so that the next run hashes them again."""
    try:
        yield
    except StaleError:
        for file in shards.folder.glob(f"{hashing.name}-*"):
            file.unlink(missing_ok=True)
        raise


def merge_parts(path: Path, plan: Plan, parts: Sequence[Path] = ()) -> Database:
    """Complete a build from its parts; nothing is computed that a part computes.

    Parameters
    ----------
    parts
        Folders of parts other than ``path``; their shards are copied, and they are left as they
        are.

    Raises
    ------
    StoreError
        If a part is missing, is damaged or belongs to another build.
    """
    plan = check_plan(plan)
    with write_lock(path):
        database, plan, layouts = open_existing(path, plan, fit=False)
        shards = Shards(path / file_names.PARTIAL)
        for part in parts:
            _copy_shards(part / file_names.PARTIAL, shards.folder)

        def check_complete(stage: Stage, within: range | None = None) -> None:
            missing = shards.missing(stage, within)
            if missing:
                raise _incomplete(stage, missing, shards)

        hashing = hash_stage(plan)
        with _forget_stale(shards, hashing):
            check_complete(hashing)
            digests = digests_from(shards.load(hashing))
            return finish(path, database, plan, layouts, digests, shards, check_complete)


def _copy_shards(source: Path, target: Path) -> None:
    """Copy the shards of a part, and check their digests."""
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise StoreError(
            f"'{source.parent}' has no shards.",
            "Expected the folder of a part of a build.",
            "Check the path.",
        )
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        if load_sealed(file) is None:
            raise StoreError(
                f"'{file}' is damaged.",
                "Expected a shard as it was written.",
                "Copy it again, or run this part again.",
            )
        if not (target / file.name).exists():
            partial = target / f".{file.name}.part"
            shutil.copyfile(file, partial)
            partial.replace(target / file.name)


def _incomplete(stage: Stage, missing: Sequence[range], shards: Shards) -> StoreError:
    count = sum(map(len, missing))
    first = f"{missing[0].start} to {missing[0].stop - 1}"
    others = [
        file for file in shards.folder.glob(f"{stage.name}-*.safetensors")
        if stage.samples_of(file.name) is None
    ]  # fmt: skip
    note = f" {len(others)} shards of this step belong to another build." if others else ""
    return StoreError(
        f"The step '{stage.name}' lacks {count} of {stage.total} samples, the first of them "
        f"{first}.{note}",
        "Expected all parts, built with the same settings from the same images.",
        "Run all parts again: each computes what is missing of it.",
    )
