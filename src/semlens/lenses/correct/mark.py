"""The mark of an artefact: cut out of the components' own examples, as cleanly as can be shown.

Several ways to cut it out are tried on images that are not reported: each inserts its cut-outs into
images of other classes, and as a control the same regions of images that lack the mark. The way
with the largest difference is used; of several that are nearly as good, the one with the smallest
control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from PIL import Image
from scipy import ndimage

from semlens.data.artefact import insert_drawn
from semlens.data.pieces import Pieces
from semlens.errors import DataError, RelevanceError
from semlens.lenses.classes import true_classes
from semlens.lenses.correct.cav import POWER
from semlens.lenses.correct.segments import PIECE_SIZE, Segment, Segments, cut_out, rgba
from semlens.models.forward import predict
from semlens.progress import report_progress
from semlens.relevance.heatmap_boxes import upsample_and_blur
from semlens.store.reader import Database
from semlens.types import Component

LOCATING = 5
"""Components that the artefact is located with, the most relevant ones."""
LOCATED, CUTOUTS = 36, 12
"""Images that it is located in, those with the highest score, and cut-outs that are inserted: the
first that show different things, so that what they share is the mark."""
ENOUGH = 3
"""Cut-outs from images of the class, below which those of other classes are used as well."""
VISIBLE = 0.1
"""Largest opacity of a cut-out, below which it is left out."""
CHOOSING, FEWEST = 72, 12
"""Images of other classes on which a way is chosen, and how many there are at least."""


@dataclass(frozen=True)
class MaskMethod:
    """A way to make masks from heatmaps; see :mod:`semlens.lenses.correct.mark`.

    Parameters
    ----------
    blur, faint, full
        Of the relevance masks.
    wide
        (faint, full) of wider masks, of which only colours of their own are kept; None for all.
    """

    name: str
    blur: float
    faint: float
    full: float
    wide: tuple[float, float] | None = None


MASK_METHODS = (
    MaskMethod("where the components respond", 41 / 224, 0.25, 0.75),
    MaskMethod("where they respond most", 21 / 224, 0.25, 0.75),
    MaskMethod("where they respond, in colours of its own", 41 / 224, 0.6, 0.9, (0.1, 0.35)),
    MaskMethod("where they respond most, in colours of its own", 21 / 224, 0.6, 0.9, (0.1, 0.35)),
)
"""The ways that are tried; the first is used where there are too few images to choose on."""


@dataclass(frozen=True)
class MaskTrial:
    """A way, and the share of other images that the model takes for the class with its cut-outs.

    ``control`` is that share with the same regions of images without the mark; NaN if there are
    none.
    """

    way: str
    taken: float
    control: float

    @property
    def difference(self) -> float:
        """What the mark adds."""
        return self.taken - (0.0 if np.isnan(self.control) else self.control)


@dataclass(frozen=True, eq=False)
class Mark:
    """An artefact that was cut out.

    Parameters
    ----------
    segments
        Where it was found.
    pieces
        The cut-outs, as inserted.
    samples
        The sample that each cut-out is from.
    control
        The same regions of images of the class that do not show the artefact; None if there are no
        such images.
    way
        How its masks were made.
    trials
        All ways, on images that are not reported; empty if there were too few.
    """

    segments: Segments
    pieces: Pieces
    samples: tuple[int, ...]
    control: Pieces | None
    way: str
    trials: tuple[MaskTrial, ...]


def find_mark(
    database: Database,
    target: int,
    components: Sequence[Component],
    reported: Sequence[int] | Int64[np.ndarray, " n"] = (),
    seed: int = 0,
) -> Mark:
    """Cut out the artefact of a class that the first of these components respond to.

    Parameters
    ----------
    reported
        Samples that no choice may depend on.

    Raises
    ------
    DataError
        If it cannot be cut out.
    """
    try:
        segments = cut_out(database, list(components[:LOCATING]), count=LOCATED, seed=seed)
    except (DataError, RelevanceError) as error:
        raise DataError(
            f"No mark can be cut out: {error.value}",
            "Expected components that respond to a part of their examples.",
            "Choose other components, or another artefact.",
        ) from error
    true = true_classes(database)
    of_class = [one for one in segments.cutouts if true[one.sample] == target]
    located = of_class if len(of_class) >= ENOUGH else segments.cutouts
    chosen = diverse([small_picture(database, one.sample) for one in located], CUTOUTS)
    sources = _Sources(
        database,
        [located[number] for number in chosen],
        [int(sample) for sample in segments.vector.negatives if true[sample] == target][:CUTOUTS],
        ", ".join(map(str, segments.components)),
    )
    cuts = {way: cut for way in MASK_METHODS if (cut := sources.cut(way)) is not None}
    others = _others(database, target, reported, seed)
    trials: list[MaskTrial] = []
    if len(others) >= FEWEST:
        for number, (way, cut) in enumerate(cuts.items()):
            report_progress("choosing the cleanest cut-outs", number, len(cuts))
            shares = [
                float("nan")
                if one is None
                else float(misclassified_as(database, target, one, others, seed).mean())
                for one in (cut.pieces, cut.control)
            ]
            trials.append(MaskTrial(way.name, *shares))
    way = list(cuts)[_cleanest(trials, len(others))]
    cut = cuts[way]
    return Mark(segments, cut.pieces, cut.samples, cut.control, way.name, tuple(trials))


def _cleanest(trials: Sequence[MaskTrial], images: int) -> int:
    """Return the trial with the smallest control of those with nearly the largest difference.

    Nearly: less than one standard error below it (the rule of one standard error).
    """
    if not trials:
        return 0
    largest = max(trials, key=lambda trial: trial.difference)
    variance = sum(
        share * (1 - share) / images
        for share in (largest.taken, largest.control)
        if not np.isnan(share)
    )
    least = largest.difference - variance**0.5
    near = [number for number, trial in enumerate(trials) if trial.difference >= least]
    return min(near, key=lambda number: (np.nan_to_num(trials[number].control), number))


class _Cut(NamedTuple):
    """The cut-outs of a way, the samples they are from, and the control."""

    pieces: Pieces
    samples: tuple[int, ...]
    control: Pieces | None


@dataclass(frozen=True, eq=False)
class _Sources:
    """The images that a mark is cut out of, and images of the class without it."""

    database: Database
    cutouts: Sequence[Segment]
    plain: Sequence[int]
    name: str

    def cut(self, way: MaskMethod) -> _Cut | None:
        """Return the cut-outs, and as a control the same regions of the plain images.

        None if nothing is left of the masks.
        """
        pictures = [small_picture(self.database, one.sample) for one in self.cutouts]
        plain = [small_picture(self.database, sample) for sample in self.plain]

        def masks_of(faint: float, full: float) -> list[Mask]:
            soft = relevance_masks([one.heat for one in self.cutouts], way.blur, faint, full)
            return [
                resized(np.clip(one.in_original(mask), 0, 1), picture.shape)
                for one, mask, picture in zip(self.cutouts, soft, pictures, strict=True)
            ]

        masks = masks_of(way.faint, way.full)
        if way.wide is not None:
            masks = own_colours(pictures, masks, masks_of(*way.wide), plain)
        kept = [number for number, mask in enumerate(masks) if mask.max() >= VISIBLE]
        pictures, masks = [pictures[i] for i in kept], [masks[i] for i in kept]
        pieces = [rgba(Image.fromarray(p), mask) for p, mask in zip(pictures, masks, strict=True)]
        control = [
            rgba(Image.fromarray(one), resized(mask, one.shape))
            for one, mask in zip(_cycled(plain, len(masks)), masks, strict=False)
        ]
        if not pieces:
            return None
        control_pieces = Pieces("images without the mark", tuple(control)) if plain else None
        samples = tuple(self.cutouts[number].sample for number in kept)
        return _Cut(Pieces(self.name, tuple(pieces)), samples, control_pieces)


def small_picture(database: Database, sample: int) -> Picture:
    """Return an image of at most :data:`PIECE_SIZE` pixels."""
    image = database.images.read(sample).convert("RGB")
    image.thumbnail((PIECE_SIZE, PIECE_SIZE))
    return np.asarray(image)


def misclassified_as(
    database: Database,
    target: int,
    pieces: Pieces,
    samples: Int64[np.ndarray, " n"],
    seed: int,
) -> Bool[np.ndarray, " n"]:
    """Return which images the model takes for a class with one of the cut-outs on them."""

    def read(sample: int) -> Image.Image:
        return insert_drawn(database.images.read(sample), [pieces], seed, sample)

    return predict(database.model, read, samples.tolist(), 32, None) == target


def _others(
    database: Database, target: int, reported: Sequence[int] | np.ndarray, seed: int
) -> Int64[np.ndarray, " n"]:
    """Draw images of other classes besides those that are reported."""
    true = true_classes(database)
    candidates = np.flatnonzero((true != target) & ~np.isnan(true))
    free = np.setdiff1d(candidates, np.asarray(reported, np.int64))
    return np.random.default_rng(seed).permutation(free)[:CHOOSING]


def _cycled(items: Sequence[Picture], count: int) -> list[Picture]:
    return [items[number % len(items)] for number in range(count)] if items else []


BINS = 16
"""Bins of each colour channel."""
SPREAD = 1.0
"""Deviation of the Gaussian that smooths a histogram of colours, in bins."""
WINDOW = 0.03
"""Width of the window over which a colour's share is averaged, as a fraction of the image."""
LEAST, MOST = 0.25, 0.75
"""Mean excess of a colour up to which a pixel is surroundings, and from which it is the artefact's.
"""
APART = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
"""Least distance of the colours of two pictures, the largest first."""

Picture = UInt8[np.ndarray, "_h _w 3"]
Mask = Float32[np.ndarray, "_h _w"]


def relevance_masks(heat: Sequence[Mask], blur: float, faint: float, full: float) -> list[Mask]:
    """Blur heatmaps, raise them to a power as the paper does, and cut off their faint tails.

    Parameters
    ----------
    blur
        Width of the kernel, as a fraction of the input.
    faint, full
        Of a map's maximum: the mask is 0 below the first value and 1 above the second.
    """
    maps = torch.from_numpy(np.stack(heat))
    smooth = upsample_and_blur(maps, maps.shape[1], maps.shape[2], blur).numpy()
    smooth = smooth.clip(min=0) ** POWER
    largest = smooth.max((1, 2), keepdims=True)
    soft = smooth / np.where(largest > 0, largest, 1)
    return list(np.clip((soft - faint) / (full - faint), 0, 1).astype(np.float32))


def own_colours(
    pictures: Sequence[Picture],
    core: Sequence[Mask],
    wide: Sequence[Mask],
    plain: Sequence[Picture],
) -> list[Mask]:
    """Return the part of wide masks that has colours which are in the core of most images only.

    A colour's excess is the share of it, in the core, that is beyond what the same images have
    outside the wide mask, and beyond what images without the artefact have inside it: 1 - p(colour
    elsewhere) / p(colour in the core), at least 0. p in the core is the median over images, so that
    an object that few of them show has no excess. A pixel's weight rises from 0 to 1 with the mean
    excess around it.

    Parameters
    ----------
    pictures, core, wide
        Images with the artefact, where components respond most, and where they respond at all.
    plain
        Images of the same class without the artefact, of any size.
    """
    inside = np.median([_histogram(*pair) for pair in zip(pictures, core, strict=True)], axis=0)
    outside = [_histogram(p, 1 - mask) for p, mask in zip(pictures, wide, strict=True)]
    without = [
        _histogram(picture, resized(wide[number % len(wide)], picture.shape))
        for number, picture in enumerate(plain)
    ]
    elsewhere = np.mean(outside, axis=0)
    if without:
        elsewhere = np.maximum(elsewhere, np.mean(without, axis=0))
    excess = np.where(inside > 0, np.clip(1 - elsewhere / np.maximum(inside, 1e-12), 0, 1), 0)
    parts: list[Mask] = []
    for picture, mask in zip(pictures, wide, strict=True):
        share = excess[tuple(np.moveaxis(_binned(picture), -1, 0))]
        mean = ndimage.uniform_filter(share, max(1, round(WINDOW * max(mask.shape))))
        weight = np.clip((mean - LEAST) / (MOST - LEAST), 0, 1)
        parts.append((mask * weight).astype(np.float32))
    return parts


def resized(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Resample a mask to the height and width of a picture."""
    if mask.shape == shape[:2]:
        return mask
    size = shape[1], shape[0]
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR), np.float32)


def _binned(picture: Picture) -> np.ndarray:
    return picture.astype(np.int64) * BINS // 256


def _histogram(picture: Picture, mask: Mask) -> Float64[np.ndarray, "b b b"]:
    """Return the distribution of a picture's colours, weighted by a mask."""
    counts = np.zeros((BINS,) * 3)
    np.add.at(counts, tuple(_binned(picture).reshape(-1, 3).T), mask.ravel())
    smooth = ndimage.gaussian_filter(counts, SPREAD, mode="nearest")
    return smooth / max(smooth.sum(), 1e-12)


def diverse(pictures: Sequence[Picture], count: int) -> list[int]:
    """Return the first pictures that differ in their colours, so that they show different things.

    Two differ by the total variation distance of their colours. Of the steps of :data:`APART`, the
    largest is used at which ``count`` pictures are left.
    """
    everywhere = [np.ones(picture.shape[:2], np.float32) for picture in pictures]
    colours = [_histogram(*pair) for pair in zip(pictures, everywhere, strict=True)]
    kept: list[int] = []
    for apart in APART:
        kept = []
        for number, one in enumerate(colours):
            if all(1 - np.minimum(one, colours[other]).sum() >= apart for other in kept):
                kept.append(number)
        if len(kept) >= count:
            break
    return kept[:count]
