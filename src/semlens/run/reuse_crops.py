"""The crops of an extension: those of the database, after a check, and new ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from semlens.recipe import FORMAT, fingerprint
from semlens.run.crop_tasks import merge_crops
from semlens.run.crops import CroppedPairs, crop_stage, load_crops, referenced_samples
from semlens.run.known_crops import CropPart, KnownCrops, assemble
from semlens.run.layer_stages import NewLayers, SelectedExamples
from semlens.run.shards import Shards
from semlens.store.reader import Database

Complete = Callable[..., None]
"""Completes a stage, or a range of it."""


class RecomputeWarning(UserWarning):
    """Crops of the database are not what this machine computes, so all are computed again."""


@dataclass(frozen=True)
class CropUse:
    """Where the crops of an extended database are from.

    Parameters
    ----------
    reused, computed
        Number of crops.
    new_examples, changed_components
        Examples that the database did not have, and components that have one.
    checked
        Examples and whole images that were compared with what is computed now.
    """

    reused: int
    computed: int
    new_examples: int
    changed_components: int
    checked: int


def crops_of_extension(
    database: Database,
    new: NewLayers,
    selected: SelectedExamples,
    shards: Shards,
    complete: Complete,
    *,
    recompute: bool,
) -> tuple[CroppedPairs, CropUse]:
    """Return the crops that a build over all data would have made.

    A build computes crops in other batches, which may round differently. So the first, the middle
    and the last block of the build that has examples of the database are computed, and compared
    bit by bit. If anything differs, all crops are computed.

    Parameters
    ----------
    recompute
        Whether all crops are computed in any case.

    Warns
    -----
    RecomputeWarning
        If a crop of the database differs.
    """
    pairs = selected.pairs
    known = KnownCrops.of(database, new.layouts, new.crops, pairs)
    changed = pairs.take(~known.is_known)
    components = np.column_stack([changed.layer, changed.channel, changed.sign])
    counts = len(changed), len(np.unique(components, axis=0))
    if not recompute:
        check = _Check(new, selected, known, shards, complete)
        different, checked = check.run()
        if not different:
            parts = [*check.parts(), *_missing(database, new, selected, known, check)]
            thumbnails = new.plan.recipe.thumbnails
            cropped, reused = assemble(pairs, known, parts, thumbnails=thumbnails)
            computed = len(cropped.new_crops["vector"]) - reused
            return cropped, CropUse(reused, computed, *counts, checked)
        warnings.warn(
            f"{different} of {checked} examples that were checked differ in bits from those of the "
            f"database '{database.path}'. Probably it was built on another processor, with another "
            "version of PyTorch or with another number of compute threads. All crops are computed "
            "again.",
            RecomputeWarning,
            stacklevel=2,
        )
    complete(selected.crop)
    cropped = load_crops(selected.crop, shards, 0)
    return cropped, CropUse(0, len(cropped.new_crops["vector"]), *counts, 0)


@dataclass(frozen=True)
class _Check:
    """The blocks of a build over all data that are computed to compare them."""

    new: NewLayers
    selected: SelectedExamples
    known: KnownCrops
    shards: Shards
    complete: Complete

    @property
    def blocks(self) -> list[range]:
        """The first, the middle and the last block with something that the database has."""
        stage, pairs = self.selected.crop, self.selected.pairs
        known_samples = {*pairs.sample[self.known.is_known].tolist(), *self.known.whole}
        cropped, others = referenced_samples(pairs, self.selected.reference)
        numbers = sorted(
            {
                place // stage.unit
                for place, sample in enumerate([*cropped, *others])
                if sample in known_samples
            }
        )
        chosen = {numbers[i] for i in (0, len(numbers) // 2, -1)} if numbers else set[int]()
        return [
            range(number * stage.unit, min((number + 1) * stage.unit, stage.total))
            for number in sorted(chosen)
        ]

    def run(self) -> tuple[int, int]:
        """Compute the blocks; return how many examples differ, and how many were compared."""
        thumbnails = self.new.plan.recipe.thumbnails
        different = checked = 0
        for block in self.blocks:
            self.complete(self.selected.crop, block)
            computed = merge_crops(self.shards.load(self.selected.crop, block))
            found = self.known.differences(self.pairs_of(block), computed, thumbnails=thumbnails)
            different, checked = different + found[0], checked + found[1]
        return different, checked

    def pairs_of(self, block: range) -> slice:
        """Return which pairs are in a block."""
        pairs = self.selected.pairs
        cropped, _ = referenced_samples(pairs, self.selected.reference)
        samples = cropped[block.start : block.stop]
        if not samples:
            return slice(0, 0)
        start = np.searchsorted(pairs.sample, samples[0], "left")
        stop = np.searchsorted(pairs.sample, samples[-1], "right")
        return slice(int(start), int(stop))

    def parts(self) -> list[CropPart]:
        """Return what the database lacks and the blocks have."""
        found: list[CropPart] = []
        for block in self.blocks:
            computed = merge_crops(self.shards.load(self.selected.crop, block))
            pairs = np.arange(len(self.known.row))[self.pairs_of(block)]
            lacking = ~self.known.is_known[pairs]
            by_pair = {n: computed[n][lacking] for n in computed if n.startswith("pair_")}
            found.append(CropPart(pairs[lacking], {**computed, **by_pair}))
        return found


def _missing(
    database: Database,
    new: NewLayers,
    selected: SelectedExamples,
    known: KnownCrops,
    check: _Check,
) -> list[CropPart]:
    """Compute what neither the database nor the checked blocks have."""
    missing = ~known.is_known
    whole = set(selected.reference).difference(known.whole)
    for part in check.parts():
        missing[part.pairs] = False
        whole.difference_update(part.computed["whole_sample"].tolist())
    pairs = selected.pairs.take(missing)
    if not len(pairs) and not whole:
        return []
    existing = known.crops_of(sorted(set(pairs.sample.tolist())))
    blocks = [[block.start, block.stop] for block in check.blocks]
    key = fingerprint(FORMAT, "extend", selected.crop.key, database.fingerprint, blocks)
    stage = crop_stage(
        new.plan, new.layouts, new.crops, new.digests, pairs, existing, whole, key
    )  # fmt: skip
    check.complete(stage)
    return [CropPart(np.flatnonzero(missing), merge_crops(check.shards.load(stage)))]
