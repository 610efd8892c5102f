"""Hashes of a whole data set, and images that must stay what they were when they were hashed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from PIL import Image

from semlens.data.images import Images, content_digest
from semlens.data.prefetch import default_workers, prefetch
from semlens.errors import ImageError, StaleError


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


ATTEMPTS, PAUSE = 3, 0.2
"""A read that fails or differs is tried again, after so many seconds: a network may be slow."""
_LISTED = 20


class VerifiedImages(Images):
    """Images of which each is compared with its digest whenever it is read.

    What is decoded are the very bytes that were compared, so that two reads of one image can
    never see two pictures. An image that could not be read when the digests were taken has an
    empty one, and stays unreadable.

    Parameters
    ----------
    digests
        One per sample, as :func:`content_digests` gives them.
    """

    def __init__(self, images: Images, digests: Sequence[str]) -> None:
        self.images, self.digests = images, digests
        self.spec, self.ids, self.targets = images.spec, images.ids, images.targets
        self._lock = threading.Lock()
        self._stale: StaleError | None = None

    def content(self, sample: int) -> bytes | Image.Image:
        """Return what the image holds.

        Raises
        ------
        ImageError
            If it could not be read when the digests were taken, either.
        StaleError
            If it is not what it was; the text lists all images that are not.
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
        with self._lock:  # several threads may meet changed images at once
            self._stale = self._stale or self._changed(sample)
        raise self._stale

    def _changed(self, sample: int) -> StaleError:
        now = content_digests(self.images, default_workers())
        different = {i for i, digest in enumerate(now) if digest != self.digests[i]} | {sample}
        names = [self.ids[i] for i in sorted(different)]
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return StaleError(
            f"{len(names)} images of '{self.spec}' have changed since they were hashed: "
            f"{', '.join(names[:_LISTED])}{more}.",
            "Expected images that stay the same until the build has ended.",
            "Run the same build again once nothing writes to them: it takes them as they are then.",
        )
