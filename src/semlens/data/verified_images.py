"""Content hashes of a dataset, and images that are verified against them on every read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from PIL import Image

from semlens.data.images import Images, content_digest
from semlens.data.prefetch import default_workers, prefetch
from semlens.errors import ImageError, StaleError


def content_digests(
    images: Images, workers: int, samples: Iterable[int] | None = None
) -> Iterator[str]:
    """Yield the digest of every sample, or of some; empty if the bytes cannot be read.

    Such a sample is skipped and listed when the model runs over the data.
    """

    def digest(sample: int) -> str:
        for _ in range(2):  # a temporary failure must not count as a broken file
            with suppress(ImageError):
                return images.digest(sample)
        return ""

    threads = max(workers, images.parallel_reads) if workers else 0
    return prefetch(digest, range(len(images)) if samples is None else samples, threads)


ATTEMPTS, PAUSE = 3, 0.2
"""Attempts to read an image, and seconds in between: network storage may fail for a moment."""
_MAX_LISTED = 20


class VerifiedImages(Images):
    """Images that are compared with their digest on every read.

    The bytes that were compared are the bytes that are decoded, so that two reads of an image
    never see different pixels. An image that could not be read when the digests were computed has
    an empty digest and stays unreadable.

    Parameters
    ----------
    digests
        From :func:`content_digests`, by sample; only these samples can be read.
    """

    def __init__(self, images: Images, digests: Mapping[int, str]) -> None:
        self.images, self.digests = images, digests
        self.spec, self.ids, self.targets = images.spec, images.ids, images.targets
        self._lock = threading.Lock()
        self._stale: StaleError | None = None

    def content(self, sample: int) -> bytes | Image.Image:
        """Return the content of an image.

        Raises
        ------
        ImageError
            If it could not be read when the digests were computed either.
        StaleError
            If it has changed; the error lists all of them that have changed.
        """
        for attempt in range(ATTEMPTS):
            time.sleep(PAUSE * bool(attempt))
            try:
                content = self.images.content(sample)
            except ImageError:
                if not self.digests[sample]:
                    raise
                continue
            if content_digest(content) == self.digests[sample]:
                return content
        with self._lock:  # several threads may find changed images at the same time
            self._stale = self._stale or stale_error(self.images, self.digests, [sample])
        raise self._stale


def stale_error(images: Images, digests: Mapping[int, str], changed: Iterable[int]) -> StaleError:
    """Return the error that lists all images that differ from their digests.

    Parameters
    ----------
    changed
        Images that are known to have changed, even if they have changed back.
    """
    current = content_digests(images, default_workers(), digests)
    hashed = zip(digests.items(), current, strict=True)
    different = {i for (i, digest), now in hashed if now != digest}.union(changed)
    names = [images.ids[i] for i in sorted(different)]
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return StaleError(
        f"{len(names)} images of '{images.spec}' have changed since they were hashed: "
        f"{', '.join(names[:_MAX_LISTED])}{more}.",
        "Expected images that do not change during a build.",
        "Run the same build again once nothing writes to them; it will use their new content.",
    )
