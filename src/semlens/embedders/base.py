"""The protocol of a foundation model: images, and perhaps texts, to unit vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor
from torch.nn import functional

from semlens.errors import EmbedderError

FORMS = "open_clip/MODEL/PRETRAINED, transformers/ID-or-dir or semlens/demo"


def unavailable(spec: str, error: Exception) -> EmbedderError:
    """Return the error for weights that cannot be fetched or read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return EmbedderError(
        f"The embedder '{spec}' cannot be loaded ({reason}).",
        f"Expected {FORMS}, with a hub that can be reached or weights on this machine.",
        "Give a local checkpoint, or semlens/demo to try things out.",
    )


T = TypeVar("T")


class Embedder(ABC):
    """A foundation model, F in the paper (3.2).

    A sub-class says who it is (``spec``, ``fingerprint``, ``dim``, ``has_text``) and
    implements the three methods that begin with an underscore or carry no body.
    """

    spec: str
    """How to load it again."""
    fingerprint: str
    """SHA-256 of weights and preprocessing: vectors of two embedders are never mixed."""
    dim: int
    """Length of a vector."""
    has_text: bool
    """Whether it can embed texts."""

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn an RGB image of any size into the tower's input [3 h w]; safe in threads."""

    @abstractmethod
    def _images(self, batch: Tensor) -> Tensor:
        """Embed preprocessed images [b 3 h w] to [b d], not necessarily of unit length."""

    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts to [n d], not necessarily of unit length."""
        raise EmbedderError(
            f"The embedder '{self.spec}' has no text tower.",
            "A text was given, but it embeds images only.",
            "Search by image (--image FILE), or build with an image-text embedder.",
        )

    @torch.inference_mode()
    def embed_batch(self, batch: Tensor) -> Float32[Tensor, "b d"]:
        """Embed preprocessed images to unit vectors on the CPU."""
        return _unit(self._images(batch))

    def embed_images(
        self, images: Sequence[Image.Image], batch_size: int = 32
    ) -> Float32[Tensor, "n d"]:
        """Embed RGB images of any size to unit vectors."""
        vectors = [
            self.embed_batch(torch.stack([self.preprocess(image) for image in part]))
            for part in _parts(images, batch_size)
        ]
        return torch.cat(vectors) if vectors else torch.zeros(0, self.dim)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> Float32[Tensor, "n d"]:
        """Embed texts to unit vectors.

        Raises
        ------
        EmbedderError
            If the embedder has no text tower.
        """
        vectors = [_unit(self._texts(list(part))) for part in _parts(texts, batch_size)]
        return torch.cat(vectors) if vectors else torch.zeros(0, self.dim)


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1).cpu()


def _parts(items: Sequence[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
