"""Vectors that need not be computed: which of them an embedder has, and which are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from jaxtyping import Float16
from torch import Tensor

from semlens.data.prefetch import prefetch
from semlens.embedders.embedder import Embedder
from semlens.embedders.precomputed import PrecomputedVectors, WithoutFile
from semlens.errors import EmbedderError
from semlens.run.plan import Plan
from semlens.stages.embed import CropRef
from semlens.types import Crop


def check_vectors(plan: Plan) -> None:
    """Compare the vectors of a file with the data of a build, and with the embedder it names.

    Raises
    ------
    EmbedderError
        If they do not belong together.
    """
    if isinstance(plan.embedder, WithoutFile):
        raise EmbedderError(
            "The file of vectors with which the database was built is missing.",
            "Expected it, as the vectors of its images are not computed.",
            "Restore it, or give its current location with its embedder: "
            "vectors/FILE.parquet:EMBEDDER.",
        )
    if isinstance(plan.embedder, PrecomputedVectors):
        plan.embedder.check(plan.images)


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
