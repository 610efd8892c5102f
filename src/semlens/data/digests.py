"""Content hashes of a whole data set."""

from __future__ import annotations

from collections.abc import Iterator

from semlens.data.images import Images
from semlens.data.prefetch import prefetch
from semlens.errors import ImageError


def content_digests(images: Images, workers: int) -> Iterator[str]:
    """Yield the digest of every sample; empty for one whose bytes cannot even be read.

    Such a sample is skipped and listed when the model runs over the data.
    """

    def digest(sample: int) -> str:
        try:
            return images.digest(sample)
        except ImageError:
            return ""

    return prefetch(digest, range(len(images)), workers)
