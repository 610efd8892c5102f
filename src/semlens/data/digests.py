"""Content hashes of a whole data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from semlens.data.images import Images
from semlens.data.prefetch import prefetch
from semlens.errors import ImageError


def content_digests(images: Images, workers: int) -> Iterator[str]:
    """Yield the digest of every sample; empty for one whose bytes cannot even be read.

    Such a sample is skipped and listed when the model runs over the data.
    """

    def digest(sample: int) -> str:
        for _ in range(2):  # a failure that passes is not taken for a broken file
            with suppress(ImageError):
                return images.digest(sample)
        return ""

    return prefetch(digest, range(len(images)), workers)
