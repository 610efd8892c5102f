"""Vectors that a user has computed, in place of the image tower of the embedder that made them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float16, Float32
from PIL import Image
from torch import Tensor

from semlens.data.images import Images
from semlens.data.own_boxes import check_images, clip
from semlens.embedders.embedder import Embedder
from semlens.embedders.vector_file import read_vector_file
from semlens.errors import EmbedderError, ImageError, shortened
from semlens.recipe import fingerprint
from semlens.regular_files import user_path
from semlens.types import Box

PREFIX = "vectors/"
_SPEC = re.compile(rf"{PREFIX}(?P<file>.+?\.parquet)(?::(?P<embedder>.+))?", re.DOTALL)

COMPARED = 16
"""Images on which the file is compared with the embedder that is said to have made it."""
SAME_SPACE = 0.9
"""Cosine that 7 of 8 of them must reach. As measured in docs/embedders.md, other resampling or a
JPEG in between stay above it, another embedder or the wrong images below."""
_ROUNDING = 1e-3
"""Of a cosine; equal images have equal vectors."""


def is_vectors(spec: str) -> bool:
    """Return whether a SPEC names a file of vectors."""
    return spec.startswith(PREFIX)


def split_spec(spec: str) -> tuple[str, str | None]:
    """Return the file of a SPEC ``vectors/FILE.parquet[:EMBEDDER]``, and the embedder's SPEC.

    Raises
    ------
    EmbedderError
        If it has another form.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise EmbedderError(
            f"'{shortened(spec)}' names no file of vectors.",
            "Expected vectors/FILE.parquet, or vectors/FILE.parquet:EMBEDDER with the SPEC of the "
            "embedder that made them.",
            "Correct the SPEC.",
        )
    if match["embedder"] is not None and is_vectors(match["embedder"]):
        raise EmbedderError(
            f"'{shortened(match['embedder'])}' is a file of vectors itself.",
            "Expected the embedder that made the vectors.",
            "Name that embedder, or none.",
        )
    return match["file"], match["embedder"]


class PrecomputedVectors(Embedder):
    """``vectors/FILE.parquet[:EMBEDDER]``: vectors of a file, and of the embedder that made them.

    Without the embedder there are no texts, and no vectors but those of the file.

    Parameters
    ----------
    file
        See :func:`semlens.embedders.vector_file.read_vector_file`.
    embedder
        The embedder that made them.

    Raises
    ------
    EmbedderError
        If the file is damaged or has a bad row, or vectors of another length than the embedder.
    """

    has_precomputed = True

    def __init__(self, file: str | Path, embedder: Embedder | None = None) -> None:
        path = user_path(file).resolve()  # independent of the working directory
        self._file = read_vector_file(path)
        self.embedder = embedder
        self.spec = f"{PREFIX}{path}" + (f":{embedder.spec}" if embedder is not None else "")
        self.digest = self._file.digest
        """SHA-256 of the file."""
        self.fingerprint = _fingerprint(self.digest, embedder)
        self.dim = self._file.vectors.shape[1]
        self.has_text = embedder is not None and embedder.has_text
        if embedder is not None and embedder.dim != self.dim:
            raise EmbedderError(
                f"The vectors of '{path}' have {self.dim} numbers, those of '{embedder.spec}' "
                f"{embedder.dim}.",
                "Expected the embedder that made them.",
                "Name that embedder, or none.",
            )

    def precomputed(
        self, image: str, box: Box, size: tuple[int, int]
    ) -> Float16[Tensor, " d"] | None:
        """Return the file's vector of a part of an image, if it has one."""
        row = self._file.whole.get(image) if box == Box(0, 0, *size) else None
        if row is None:
            for other, candidate in self._file.boxed.get(image, ()):
                if clip(other, size) == box:
                    row = candidate
                    break
        return None if row is None else self._file.vectors[row]

    def may_have_whole(self, image: str) -> bool:
        """Return whether the file may have a vector of a whole image, whose size is not known."""
        return image in self._file.whole or image in self._file.boxed

    def check(self, images: Images) -> None:
        """Compare the file with the data, and with the embedder on some of the images.

        Raises
        ------
        EmbedderError
            If it has images that the data does not have, or vectors of another embedder.
        """
        named = [*self._file.whole, *self._file.boxed]
        check_images(named, images.ids, self._file.name, EmbedderError)
        compared = list(self._to_compare(images)) if self.embedder is not None else []
        if self.embedder is None or not compared:  # no image can be read: the build says so
            return
        pictures, rows = zip(*compared, strict=True)
        own = self.embedder.embed_images(pictures)
        same = _is_same(own, self._file.vectors[list(rows)].float())
        different = int((~same).sum())
        if different > len(rows) // 8:
            raise EmbedderError(
                f"'{self._file.name}' differs from '{self.embedder.spec}' on {different} of "
                f"{len(rows)} images.",
                f"Expected vectors with a cosine of at least {SAME_SPACE}, each nearest to its own "
                "image: those of another embedder or image must not be mixed in.",
                "Check that each row has the id of its own image; name the embedder with the "
                "weights and the preprocessing that made the file, or none.",
            )

    def _to_compare(self, images: Images) -> Iterator[tuple[Image.Image, int]]:
        """Yield parts of images with their rows of the file, evenly spread over it."""
        sample_of = {name: sample for sample, name in enumerate(images.ids)}
        places: list[tuple[str, Box | None, int]] = [
            *((name, None, row) for name, row in self._file.whole.items()),
            *((name, *part) for name, parts in self._file.boxed.items() for part in parts),
        ]
        # every fourth is taken, and the others in place of unreadable ones
        spread = np.unique(np.linspace(0, len(places) - 1, 4 * COMPARED).astype(int)).tolist()
        found = 0
        for index in [i for start in range(4) for i in spread[start::4]]:
            name, box, row = places[index]
            try:
                image = images.read(sample_of[name])
            except ImageError:
                continue
            yield (image if box is None else self._part(image, name, box)), row
            found += 1
            if found == COMPARED:
                return

    def _part(self, image: Image.Image, name: str, box: Box) -> Image.Image:
        inside = clip(box, image.size)
        if inside is None:
            raise EmbedderError(
                f"The box {box.as_tuple()} of '{shortened(name)}' in '{self._file.name}' lies "
                f"outside of the image, which has {image.width} x {image.height} pixels.",
                "Expected pixels of the upright image.",
                "Correct the boxes of the file.",
            )
        return image.crop(inside.as_tuple())

    def missing(self, names: Sequence[str], of: str) -> EmbedderError:
        """Return the error for crops or images without a vector; ``of`` says of how many."""
        return EmbedderError(
            f"'{self._file.name}' lacks the vectors of {len(names)} of {of}, the first "
            f"{shortened(names[0])}.",
            "Expected a vector of each, as no embedder is named that could compute them.",
            "Add them; or build with crop='none' (--crop none), if it has whole images; or name "
            f"the embedder: {PREFIX}FILE.parquet:EMBEDDER.",
        )

    def preprocess(self, image: Image.Image) -> Tensor:
        """Preprocess an image for the embedder.

        Raises
        ------
        EmbedderError
            If no embedder is named.
        """
        if self.embedder is None:
            raise EmbedderError(
                f"'{self.spec}' cannot embed other images.",
                "It has the vectors of a file only.",
                f"Build with the embedder that made them: {PREFIX}FILE.parquet:EMBEDDER.",
            )
        return self.embedder.preprocess(image)

    def _images(self, batch: Tensor) -> Tensor:
        assert self.embedder is not None  # noqa: S101  # it has preprocessed the batch
        return self.embedder.embed_batch(batch)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        if self.embedder is None or not self.has_text:
            return super()._texts(texts)
        return self.embedder.embed_texts(texts)

    def understands(self, text: str) -> bool:
        """Whether any part of a text is in the vocabulary of the embedder."""
        return self.embedder is None or self.embedder.understands(text)


class WithoutFile(Embedder):
    """The embedder of a database whose file of vectors is elsewhere: for questions, not for builds.

    Its fingerprint is that of the file with the embedder, so that any other embedder is refused.

    Parameters
    ----------
    embedder
        The embedder that made the vectors.
    digest
        SHA-256 of the file, as the database records it.
    """

    def __init__(self, embedder: Embedder, digest: str) -> None:
        self._embedder = embedder
        self.spec, self.dim, self.has_text = embedder.spec, embedder.dim, embedder.has_text
        self.fingerprint = _fingerprint(digest, embedder)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Preprocess an image for the embedder."""
        return self._embedder.preprocess(image)

    def _images(self, batch: Tensor) -> Tensor:
        return self._embedder.embed_batch(batch)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self._embedder.embed_texts(texts)

    def understands(self, text: str) -> bool:
        """Whether any part of a text is in the vocabulary of the embedder."""
        return self._embedder.understands(text)


def _fingerprint(digest: str, embedder: Embedder | None) -> str:
    return fingerprint("vectors", digest, embedder.fingerprint if embedder is not None else None)


def _is_same(own: Float32[Tensor, "n d"], given: Float32[Tensor, "n d"]) -> Bool[Tensor, " n"]:
    """Return which given unit vectors are those of the same image in the same space.

    A cosine alone does not tell: in some spaces any two images are as close as this.
    """
    cosines = given @ own.T
    nearest = cosines.diagonal() >= cosines.max(1).values - _ROUNDING
    return nearest & (cosines.diagonal() >= SAME_SPACE)
