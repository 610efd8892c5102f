"""The crops of an extension: those of the database, after a check, and new ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semlens.recipe import FORMAT, fingerprint
from semlens.run.crop_tasks import merge_crops
from semlens.run.crops import CroppedPairs, crop_stage, load_crops, referenced_samples
from semlens.run.known_crops import CropPart, KnownCrops, assemble
from semlens.run.layer_stages import NewLayers, SelectedExamples
from semlens.run.shards import Complete, Shards
from semlens.run.state import CAUSES, RecomputeWarning
from semlens.store.reader import Database


@dataclass(frozen=True)
class CropUse:
    """Where the crops of an extended database are from.

    Parameters
    ----------
    reused, computed
        Number of crops.
    new_examples, changed_components
        Examples that the database did not have, and components that have one.
    compared
        Examples and whole images that were compared with what is computed now.
    """

    reused: int
    computed: int
    new_examples: int
    changed_components: int
    compared: int


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

    A build computes crops in other batches, which may round differently. So some blocks of the
    build that have examples of the database are computed, and compared bit by bit. If anything
    differs, all crops are computed.

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
        checked = [
            _compute_block(selected, block, shards, complete)
            for block in _blocks_to_check(selected, known)
        ]
        thumbnails = new.plan.recipe.thumbnails
        found = [known.compare(part, thumbnails=thumbnails) for part in checked]
        compared, different = (sum(numbers) for numbers in zip((0, 0), *found, strict=True))
        if not different:
            parts = [known.lacking(part) for part in checked]
            parts += _compute_missing(new, selected, known, parts, shards, complete)
            cropped, reused = assemble(pairs, known, parts, thumbnails=thumbnails)
            computed = len(cropped.new_crops["vector"]) - reused
            return cropped, CropUse(reused, computed, *counts, compared)
        warnings.warn(
            f"{different} of {compared} examples that were cropped and embedded again differ in "
            f"bits from those of '{database.path}'. {CAUSES} All crops are computed again.",
            RecomputeWarning,
            stacklevel=2,
        )
    complete(selected.crop)
    cropped = load_crops(selected.crop, shards, 0)
    return cropped, CropUse(0, len(cropped.new_crops["vector"]), *counts, 0)


def _blocks_to_check(selected: SelectedExamples, known: KnownCrops) -> list[range]:
    """Return some of the blocks with something that the database has.

    They are the first, the middle and the last one; of less than twelve blocks only the first and
    the last, and of less than eight only the middle one, so that little is computed twice.
    """
    stage, pairs = selected.crop, selected.pairs
    known_samples = {*pairs.sample[known.is_known].tolist(), *known.whole}
    cropped, others = referenced_samples(pairs, selected.reference)
    numbers = sorted(
        {
            place // stage.unit
            for place, sample in enumerate([*cropped, *others])
            if sample in known_samples
        }
    )
    first, middle, last = numbers[:1], numbers[len(numbers) // 2 :][:1], numbers[-1:]
    chosen = [*first, *last] if len(numbers) >= 8 else middle
    chosen = [*first, *middle, *last] if len(numbers) >= 12 else chosen
    return [
        range(number * stage.unit, min((number + 1) * stage.unit, stage.total)) for number in chosen
    ]


def _compute_block(
    selected: SelectedExamples, block: range, shards: Shards, complete: Complete
) -> CropPart:
    """Compute a block as a build over all data does."""
    complete(selected.crop, block)
    cropped, _ = referenced_samples(selected.pairs, selected.reference)
    pairs = np.flatnonzero(np.isin(selected.pairs.sample, cropped[block.start : block.stop]))
    return CropPart(pairs, merge_crops(shards.load(selected.crop, block)))


def _compute_missing(
    new: NewLayers,
    selected: SelectedExamples,
    known: KnownCrops,
    parts: Sequence[CropPart],
    shards: Shards,
    complete: Complete,
) -> list[CropPart]:
    """Compute what neither the database nor the checked blocks have."""
    missing = ~known.is_known
    whole = set(selected.reference).difference(known.whole)
    for part in parts:
        missing[part.pairs] = False
        whole.difference_update(part.computed["whole_sample"].tolist())
    pairs = selected.pairs.take(missing)
    if not len(pairs) and not whole:
        return []
    existing = known.crops_of(sorted(set(pairs.sample.tolist())))
    fixed = [known.database.fingerprint, np.flatnonzero(missing).tolist(), sorted(whole)]
    key = fingerprint(FORMAT, "extend", selected.crop.key, fixed)
    stage = crop_stage(
        new.plan, new.layouts, new.crops, new.digests, pairs, existing, whole, key
    )  # fmt: skip
    complete(stage)
    return [CropPart(np.flatnonzero(missing), merge_crops(shards.load(stage)))]
