"""The stages of new layers: what is collected, which examples are used, what is cropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from semlens.models.activations import LayerLayout
from semlens.run.collect import collect_stage, load_collected
from semlens.run.crop_tasks import crop_refs
from semlens.run.crops import crop_stage, list_pairs
from semlens.run.known_vectors import check_whole_vectors
from semlens.run.plan import Plan
from semlens.run.reference import choose_reference
from semlens.run.shards import Shards, Stage
from semlens.stages.collect import Collected
from semlens.stages.crop_regions import ExamplePairs
from semlens.stages.embed import CropRef
from semlens.stages.select_examples import LayerExamples, select_examples
from semlens.store.reader import Database, data_fingerprint
from semlens.types import Crop


@dataclass(frozen=True)
class NewLayers:
    """The layers that a build adds.

    Parameters
    ----------
    database
        The database to which they are added, or None if it is new.
    crops
        How each layer is cropped.
    digests
        Digest of each image.
    """

    database: Database | None
    plan: Plan
    layouts: Sequence[LayerLayout]
    crops: Sequence[Crop]
    digests: Sequence[str]

    @cached_property
    def reference(self) -> list[int]:
        """The reference samples, readable or not."""
        previous = self.database.manifest if self.database else None
        return choose_reference(self.plan, self.layouts, previous, self.digests)

    @property
    def collect(self) -> Stage:
        """The stage that runs the model over all images."""
        plan, chosen = self.plan, self.reference
        data = data_fingerprint(plan.images.ids, self.digests)
        key = plan.collect_key(data, plan.model.fingerprint, len(chosen))
        return collect_stage(plan, self.layouts, self.digests, chosen, key)

    def select(self, collect: Stage, shards: Shards) -> SelectedExamples:
        """Decide from the complete first stage which signs count and which examples are used."""
        plan, previous = self.plan, self.database.manifest if self.database else None
        chosen = self.reference
        collected, of_whole_batches = load_collected(plan, collect, shards)
        reference = [sample for sample in chosen if sample not in collected.unreadable]
        if previous:
            reference = reference[: previous.reference]
        recipe = plan.recipe
        layers = [
            select_examples(collected, layout, recipe.signs, recipe.rank) for layout in self.layouts
        ]
        pairs, slots = list_pairs(layers)
        key = plan.embed_key(collect.key, list(self.crops), previous.crops if previous else [])
        whole = () if previous else reference  # those of an existing database have vectors
        samples = {*pairs.sample.tolist(), *whole}
        check_whole_vectors(plan.embedder, plan.images.ids, self.crops, samples)
        crop = crop_stage(
            plan, self.layouts, self.crops, self.digests, pairs, self._existing(), whole, key
        )
        return SelectedExamples(collected, of_whole_batches, layers, pairs, slots, reference, crop)

    def _existing(self) -> dict[CropRef, int]:
        if self.database is None:
            return {}
        tensors = map(torch.from_numpy, (self.database.crop_samples, self.database.crop_boxes))
        return {crop: index for index, crop in enumerate(crop_refs(*tensors))}


@dataclass(frozen=True)
class SelectedExamples:
    """What is decided once all images are collected.

    Parameters
    ----------
    of_whole_batches
        The part of ``collected`` to which more data can be added; None if there is none.
    pairs, slots
        The used examples, see :func:`semlens.run.crops.list_pairs`.
    reference
        The readable reference samples.
    crop
        The stage that crops and embeds them.
    """

    collected: Collected
    of_whole_batches: Collected | None
    layers: list[LayerExamples]
    pairs: ExamplePairs
    slots: np.ndarray
    reference: list[int]
    crop: Stage
