"""Uploaded images that pages refer to by id."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

from semlens.web.errors import HttpError

MAX_IMAGES = 200
MAX_BYTES = 100_000_000


class UploadedImages:
    """The latest uploads, so that a page sends an image once and its address survives a reload.

    An id is part of the digest of the content: the same image has the same id, and nobody can
    guess the id of an image they do not have. Thread-safe.
    """

    def __init__(self, max_images: int = MAX_IMAGES, max_bytes: int = MAX_BYTES) -> None:
        self._max_images, self._max_bytes = max_images, max_bytes
        self._lock = threading.Lock()
        self._contents: OrderedDict[str, bytes] = OrderedDict()

    def add(self, content: bytes) -> str:
        """Remember an upload and return its id."""
        image_id = f"u{hashlib.sha256(content).hexdigest()[:24]}"  # never the number of a sample
        with self._lock:
            self._contents[image_id] = content
            self._contents.move_to_end(image_id)
            while len(self._contents) > 1 and self._is_full():
                self._contents.popitem(last=False)
        return image_id

    def get(self, image_id: str) -> bytes:
        """Return the content of an upload.

        Raises
        ------
        HttpError
            404, if it is unknown or was dropped.
        """
        with self._lock:
            if image_id in self._contents:
                self._contents.move_to_end(image_id)
                return self._contents[image_id]
        raise HttpError(
            404,
            f"The server does not have the image '{image_id[:40]}'.",
            f"It remembers the last {self._max_images} uploads until it stops.",
            "Choose the image again.",
        )

    def _is_full(self) -> bool:
        size = sum(map(len, self._contents.values()))
        return len(self._contents) > self._max_images or size > self._max_bytes
