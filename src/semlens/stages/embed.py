"""Embedding crops: one vector per unique crop, one decode per unique sample (paper, Eq. 2).

Vectors that an embedder has already are not computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from types import MappingProxyType

import torch
from jaxtyping import Float16, Float32
from PIL import Image
from torch import Tensor

from semlens.data.array_picture import in_slice
from semlens.data.images import Images
from semlens.data.prefetch import prefetch
from semlens.draw.crop_window import box_within, cut_window, window_around
from semlens.draw.encode_images import encode_webp
from semlens.embedders.embedder import Embedder, embedding_in
from semlens.embedders.precomputed import PrecomputedVectors, WithoutFile
from semlens.errors import EmbedderError
from semlens.models.hooks import FittingBatches
from semlens.types import Box, Crop, Precision, Thumbnail

THUMBNAIL = 120
"""Side of a thumbnail in pixels; the crop takes 96 of them, or more at the image's edges."""


@dataclass(frozen=True, order=True)
class CropRef:
    """A box of a sample; equal crops of several components are embedded once."""

    sample: int
    box: Box

    def key(self, digest: str) -> str:
        """Return a hash of the image's digest and the box."""
        text = f"{digest}:{self.box.as_tuple()}:{THUMBNAIL}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def embed(
    embedder: Embedder,
    crops: Sequence[CropRef],
    read: Callable[[int], Image.Image],
    *,
    thumbnails: Collection[CropRef],
    precision: Precision = "float32",
    known: Mapping[CropRef, Float16[Tensor, " d"]] = MappingProxyType({}),
    batch_size: int = 32,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[Float16[Tensor, "u d"], list[Thumbnail]]:
    """Embed crops that are sorted by sample.

    Parameters
    ----------
    thumbnails
        The crops of which thumbnails are made.
    known
        Vectors that need not be computed; images of which nothing else is needed are not read.
    progress
        Called with the number of samples that were finished.

    Returns
    -------
    tuple
        Unit vectors, and the thumbnails, in the order of the crops.

    Notes
    -----
    The last batch is filled up with zeros: with batches of one size, the libraries that compute the
    model add in one order, and a crop gets the same vector whatever crops are embedded with it.
    """
    needed = [crop for crop in crops if crop not in known or crop in thumbnails]
    by_sample = {sample: list(group) for sample, group in groupby(needed, lambda crop: crop.sample)}
    progress(len({crop.sample for crop in crops}) - len(by_sample))

    def prepare(sample: int) -> list[tuple[CropRef, Tensor | None, Thumbnail | None]]:
        image = read(sample)
        return [
            (
                crop,
                None if crop in known else embedder.preprocess(image.crop(crop.box.as_tuple())),
                thumbnail(image, crop.box) if crop in thumbnails else None,
            )
            for crop in by_sample[sample]
        ]

    pictures: list[Thumbnail] = []

    def to_embed() -> Iterator[tuple[CropRef, Tensor]]:
        for prepared in prefetch(prepare, by_sample, workers, ahead=batch_size):
            for crop, inputs, picture in prepared:
                if picture is not None:
                    pictures.append(picture)
                if inputs is not None:
                    yield crop, inputs
            progress(1)

    vectors = dict(known)
    passes = FittingBatches()
    stream = to_embed()
    with embedding_in(precision):
        while batch := list(islice(stream, batch_size)):
            batch_crops, inputs = zip(*batch, strict=True)
            filled = torch.zeros(batch_size, *inputs[0].shape, dtype=inputs[0].dtype)
            torch.stack(inputs, out=filled[: len(inputs)])
            embedded = passes.run(embedder.embed_batch, filled, torch.cat)[: len(inputs)]
            _check_vectors(embedder, embedded)
            vectors.update(zip(batch_crops, embedded.to(torch.float16), strict=True))
    none = torch.zeros(0, embedder.dim, dtype=torch.float16)
    return torch.stack([vectors[crop] for crop in crops]) if crops else none, pictures


def _check_vectors(embedder: Embedder, vectors: Float32[Tensor, "b d"]) -> None:
    has_direction = vectors.norm(dim=1) > 0  # false for NaN
    if not bool(has_direction.all()):
        raise EmbedderError(
            f"The embedder '{embedder.spec}' gives {int((~has_direction).sum())} of "
            f"{len(vectors)} crops a vector of zeros, or one that is not finite.",
            "Expected a direction for each.",
            "Use another embedder; of self:LAYER, another layer.",
        )


def thumbnail(image: Image.Image, box: Box) -> Thumbnail:
    """Return a box of an image with its surroundings."""
    image, box = in_slice(image, box)
    window = window_around(box, image.size)
    webp = encode_webp(cut_window(image, window, THUMBNAIL), method=2)
    return Thumbnail(webp, box_within(box, window, THUMBNAIL))


def check_known_vectors(embedder: Embedder, images: Images) -> None:
    """Compare the vectors of a file with the data of a build, and with the embedder it names.

    Raises
    ------
    EmbedderError
        If they do not belong together.
    """
    if isinstance(embedder, WithoutFile):
        raise EmbedderError(
            "The file of vectors with which the database was built is missing.",
            "Expected it, as the vectors of its images are not computed.",
            "Restore it, or give its current location with its embedder: "
            "vectors/FILE.parquet:EMBEDDER.",
        )
    if isinstance(embedder, PrecomputedVectors):
        embedder.check(images)


def known_vectors(
    embedder: Embedder,
    ids: Sequence[str],
    crops: Sequence[CropRef],
    size: Callable[[int], tuple[int, int]],
    workers: int,
) -> Mapping[CropRef, Float16[Tensor, " d"]]:
    """Return the vectors that an embedder has of some crops.

    Parameters
    ----------
    ids
        Id of each sample of the data.
    size
        Returns width and height of a sample.
    workers
        Threads that read sizes.

    Raises
    ------
    EmbedderError
        If it lacks one, and cannot compute it.
    """
    if not embedder.has_precomputed:
        return {}
    samples = sorted({crop.sample for crop in crops})
    sizes = dict(zip(samples, prefetch(size, samples, workers), strict=True))
    found = {
        crop: embedder.precomputed(ids[crop.sample], crop.box, sizes[crop.sample]) for crop in crops
    }
    missing = [crop for crop, vector in found.items() if vector is None]
    if missing and isinstance(embedder, PrecomputedVectors) and embedder.embedder is None:
        names = [_name(ids[crop.sample], crop, sizes[crop.sample]) for crop in missing]
        of = f"{len(crops)} crops of {len(samples)} images that were embedded together"
        raise embedder.missing(names, of)
    return {crop: vector for crop, vector in found.items() if vector is not None}


def check_whole_vectors(
    embedder: Embedder, ids: Sequence[str], crops: Iterable[Crop], samples: Iterable[int]
) -> None:
    """Raise an error before anything is embedded if vectors of whole images will be missing.

    Which crops are needed shows only as regions are found, except where layers are not cropped.

    Parameters
    ----------
    samples
        Numbers of the samples with examples or in the reference.

    Raises
    ------
    EmbedderError
        If the embedder cannot compute vectors, and lacks some.
    """
    if not isinstance(embedder, PrecomputedVectors) or embedder.embedder is not None:
        return
    if set(crops) != {"none"}:
        return
    needed = sorted(set(samples))
    missing = [f"'{ids[i]}'" for i in needed if not embedder.may_have_whole(ids[i])]
    if missing:
        raise embedder.missing(missing, f"{len(needed)} images that are embedded whole")


def _name(image: str, crop: CropRef, size: tuple[int, int]) -> str:
    is_whole = crop.box.as_tuple() == (0, 0, *size)
    return f"'{image}' as a whole" if is_whole else f"the crop {crop.box.as_tuple()} of '{image}'"
