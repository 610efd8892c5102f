"""The crops of a database that an extension need not compute again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from semlens.models.activations import LayerLayout
from semlens.run.crop_tasks import crop_refs
from semlens.run.crops import CroppedPairs
from semlens.stages.crop_regions import ExamplePairs
from semlens.stages.embed import CropRef
from semlens.store import file_names
from semlens.store.reader import Database
from semlens.store.schema import MASK_BYTES, THUMBNAILS
from semlens.types import Crop

_PAIR = ["layer", "channel", "sign", "sample", "position"]


@dataclass(frozen=True)
class KnownCrops:
    """What a database holds of n pairs, and its crops.

    Parameters
    ----------
    row
        int64[n], the row of each pair in the arrays below, or -1 if the database lacks it.
    box, mask, crop
        int32[m 4], uint8[m 32] and int64[m]: box, display mask and crop of the database's pairs.
    whole
        Vectors of whole images, by sample.
    """

    database: Database
    row: np.ndarray
    box: np.ndarray
    mask: np.ndarray
    crop: np.ndarray
    whole: dict[int, Tensor]

    @classmethod
    def of(
        cls,
        database: Database,
        layouts: Sequence[LayerLayout],
        crops: Sequence[Crop],
        pairs: ExamplePairs,
    ) -> KnownCrops:
        """Look pairs up in a database; layers that are cropped in another way are left out."""
        tables = [
            _pairs_of_layer(database, index, layout.name)
            for index, (layout, crop) in enumerate(zip(layouts, crops, strict=True))
            if database.layer(layout.name).crop == crop
        ]
        frames, boxes, masks, indices = zip(*tables, strict=True) if tables else ((),) * 4
        known = pd.concat([_frame(pairs).iloc[:0], *frames], ignore_index=True)
        row = _frame(pairs).merge(known.assign(row=np.arange(len(known))), "left", _PAIR)["row"]
        return cls(
            database,
            row.fillna(-1).to_numpy().astype(np.int64),
            np.concatenate([np.zeros((0, 4), np.int32), *boxes]),
            np.concatenate([np.zeros((0, MASK_BYTES), np.uint8), *masks]),
            np.concatenate([np.zeros(0, np.int64), *indices]),
            _reference_vectors(database),
        )

    @property
    def is_known(self) -> np.ndarray:
        """bool[n], which pairs the database has."""
        return self.row >= 0

    def crops_of(self, samples: Sequence[int]) -> dict[CropRef, int]:
        """Return the crops of some samples, with their numbers."""
        all_samples, boxes = self.database.crop_samples, self.database.crop_boxes
        chosen = np.flatnonzero(np.isin(all_samples, samples))
        refs = crop_refs(torch.from_numpy(all_samples[chosen]), torch.from_numpy(boxes[chosen]))
        return dict(zip(refs, chosen.tolist(), strict=True))

    def thumbnails(self, crops: np.ndarray) -> pa.Table:
        """Return ``webp`` and ``box`` of some crops."""
        return self._all_thumbnails.take(crops)

    @cached_property
    def _all_thumbnails(self) -> pa.Table:
        files = map(file_names.thumbnails_file, range(len(self.database.manifest.crops)))
        tables = [self.database.files.table(file) for file in files]
        return pa.concat_tables([THUMBNAILS.empty_table(), *tables])

    def compare(self, part: CropPart, *, thumbnails: bool) -> tuple[int, int]:
        """Compare what was computed with the database, bit by bit.

        Returns
        -------
        tuple
            Number of pairs and whole images that were compared, and of those that differ.
        """
        new, row = part.computed, self.row[part.pairs]
        known = np.flatnonzero(row >= 0)
        row, crop = row[known], new["pair_crop"].numpy()[known]
        equal = (new["pair_box"].numpy()[known] == self.box[row]).all(1)
        equal &= (new["pair_mask"].numpy()[known] == self.mask[row]).all(1)
        vectors = torch.from_numpy(self.database.crop_vectors[self.crop[row]])
        equal &= _same_bits(new["vector"][crop], vectors)
        if thumbnails:
            before, now = self.thumbnails(self.crop[row])["webp"].to_pylist(), split_webp(new)
            same = [now[i] == webp for i, webp in zip(crop, before, strict=True)]
            equal &= np.array(same, bool)
        whole = [
            bool(_same_bits(vector[None], self.whole[sample][None])[0])
            for sample, vector in _whole_vectors(new)
            if sample in self.whole
        ]
        return len(known) + len(whole), int((~equal).sum()) + whole.count(False)

    def lacking(self, part: CropPart) -> CropPart:
        """Return the pairs of a part that the database does not have."""
        lacking = ~self.is_known[part.pairs]
        columns = ("pair_box", "pair_mask", "pair_crop", "pair_known")
        by_pair = {name: part.computed[name][torch.from_numpy(lacking)] for name in columns}
        return CropPart(part.pairs[lacking], {**part.computed, **by_pair})


@dataclass(frozen=True)
class CropPart:
    """Some of the pairs, as they were computed for the extension.

    Parameters
    ----------
    pairs
        int64[k], which of all pairs.
    computed
        See :func:`semlens.run.crop_tasks.merge_crops`; ``pair_crop`` of known crops is that of
        the database.
    """

    pairs: np.ndarray
    computed: Mapping[str, Tensor]


def assemble(
    pairs: ExamplePairs, known: KnownCrops, parts: Sequence[CropPart], *, thumbnails: bool
) -> tuple[CroppedPairs, int]:
    """Put the crops of the database and computed ones into the order of a build.

    Returns
    -------
    tuple
        The crops, and how many of them are from the database.
    """
    box = np.zeros((len(pairs), 4), np.int32)
    mask = np.zeros((len(pairs), MASK_BYTES), np.uint8)
    source = np.zeros(len(pairs), np.int64)
    """Row of each pair's crop in the vectors of the database and of all parts."""
    mine = known.is_known
    row = known.row[mine]
    box[mine], mask[mine], source[mine] = known.box[row], known.mask[row], known.crop[row]
    first = old_count = len(known.database.crop_vectors)
    for part in parts:
        new = part.computed
        box[part.pairs], mask[part.pairs] = new["pair_box"].numpy(), new["pair_mask"].numpy()
        crop, is_known = new["pair_crop"].numpy(), new["pair_known"].numpy()
        source[part.pairs] = np.where(is_known, crop, crop + first)
        first += len(new["vector"])
    # a build numbers crops by sample and box
    named = np.column_stack([pairs.sample, box.astype(np.int64)])
    unique, representative, crop = np.unique(named, axis=0, return_index=True, return_inverse=True)
    chosen = source[representative]
    old_vectors = torch.from_numpy(known.database.crop_vectors)
    vectors = torch.cat([old_vectors, *(part.computed["vector"] for part in parts)])
    new_crops = {
        "vector": vectors[torch.from_numpy(chosen)],
        "sample": torch.from_numpy(unique[:, 0].copy()),
        "box": torch.from_numpy(unique[:, 1:].astype(np.int32)),
        **_thumbnails(known, parts, chosen, old_count, stored=thumbnails),
    }
    whole = dict(known.whole)
    for part in parts:
        whole |= dict(_whole_vectors(part.computed))
    reused = int((chosen < old_count).sum())
    return CroppedPairs(box, mask, crop.reshape(-1), new_crops, whole), reused


def _thumbnails(
    known: KnownCrops,
    parts: Sequence[CropPart],
    chosen: np.ndarray,
    old_count: int,
    *,
    stored: bool,
) -> dict[str, Tensor]:
    pictures: list[bytes] = [b""] * len(chosen)
    boxes = np.zeros((len(chosen), 4), np.int32)
    if stored:
        old = np.flatnonzero(chosen < old_count)
        table = known.thumbnails(chosen[old])
        computed = [webp for part in parts for webp in split_webp(part.computed)]
        computed_boxes = [part.computed["webp_box"].numpy() for part in parts]
        boxes[old] = _boxes(table)
        for place, webp in zip(old, table["webp"].to_pylist(), strict=True):
            pictures[place] = webp
        new = np.flatnonzero(chosen >= old_count)
        for place in new:
            pictures[place] = computed[chosen[place] - old_count]
        boxes[new] = np.concatenate([boxes[:0], *computed_boxes])[chosen[new] - old_count]
    else:
        pictures, boxes = [], boxes[:0]
    joined = np.frombuffer(b"".join(pictures), np.uint8).copy()
    return {
        "webp": torch.from_numpy(joined),
        "webp_size": torch.tensor([len(webp) for webp in pictures], dtype=torch.int64),
        "webp_box": torch.from_numpy(boxes),
    }


def split_webp(computed: Mapping[str, Tensor]) -> list[bytes]:
    """Return the thumbnails of computed crops, one by one."""
    webp = computed["webp"].numpy().tobytes()
    ends = accumulate(computed["webp_size"].tolist(), initial=0)
    return [webp[start:stop] for start, stop in pairwise(ends)]


def _frame(pairs: ExamplePairs) -> pd.DataFrame:
    return pd.DataFrame({name: getattr(pairs, name).astype(np.int64) for name in _PAIR})


def _pairs_of_layer(
    database: Database, index: int, name: str
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Return a layer's pairs, and their boxes, masks and crops."""
    entry = database.layer(name)
    table = database.files.table(file_names.examples_file(name))
    table = table.filter(table["crop"].is_valid())
    offset = table["component"].to_numpy() - entry.first
    columns = {
        "layer": np.full(len(offset), index),
        "channel": offset % entry.channels,
        "sign": np.where(offset < entry.channels, 1, -1),
        "sample": table["sample"].to_numpy(),
        "position": table["position"].to_numpy(),
    }
    frame = pd.DataFrame({key: values.astype(np.int64) for key, values in columns.items()})
    masks = np.frombuffer(b"".join(table["mask"].to_pylist()), np.uint8)
    return (
        frame,
        _boxes(table),
        masks.reshape(-1, MASK_BYTES),
        table["crop"].to_numpy().astype(np.int64),
    )


def _boxes(table: pa.Table) -> np.ndarray:
    return np.array(table["box"].to_pylist(), np.int32).reshape(-1, 4)


def _reference_vectors(database: Database) -> dict[int, Tensor]:
    if not database.manifest.reference:
        return {}
    tensors = database.files.tensors(file_names.REFERENCE)
    return dict(zip(tensors["sample"].tolist(), tensors["vector"], strict=True))


def _whole_vectors(computed: Mapping[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
    yield from zip(computed["whole_sample"].tolist(), computed["whole_vector"], strict=True)


def _same_bits(a: Tensor, b: Tensor) -> np.ndarray:
    """Return bool[n], which rows of two float16 tensors have the same bits."""
    return (a.contiguous().view(torch.int16) == b.contiguous().view(torch.int16)).all(1).numpy()
