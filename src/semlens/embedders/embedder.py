"""Base class of foundation models, which embed images and possibly texts, in 32 or 16 bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Float32
from PIL import Image
from torch import Tensor
from torch.backends.mha import get_fastpath_enabled, set_fastpath_enabled
from torch.nn import functional

from semlens.errors import EmbedderError, reason_of
from semlens.models.model_libraries import brings_code
from semlens.types import Box, Precision

EMBEDDER_FORMS = (
    "open_clip/MODEL/PRETRAINED, transformers/ID-or-dir, semlens/photo, semlens/demo, self:LAYER "
    "or vectors/FILE.parquet[:EMBEDDER]"
)


def unavailable_error(spec: str, error: Exception) -> EmbedderError:
    """Return the error for weights that cannot be downloaded or read."""
    if brings_code(error):
        return EmbedderError(
            f"The embedder '{spec}' comes with Python code of its own.",
            "Expected an architecture that transformers has: code of a checkpoint is never run.",
            "If you have read and trust the code, load the model in Python with "
            "trust_remote_code=True, and pass an Embedder that calls it.",
        )
    return EmbedderError(
        f"Cannot load the embedder '{spec}' ({reason_of(error)}).",
        f"Expected {EMBEDDER_FORMS}, with weights on this machine or a reachable hub.",
        "Use a local checkpoint, or semlens/photo, which needs no hub.",
    )


class Embedder(ABC):
    """A foundation model, F in the paper (3.2).

    A subclass sets ``spec``, ``fingerprint``, ``dim`` and ``has_text``, and implements
    ``preprocess``, ``_images`` and, if it embeds texts, ``_texts``.
    """

    spec: str
    """SPEC that loads it again."""
    fingerprint: str
    """SHA-256 of weights and preprocessing; keeps vectors of different embedders apart."""
    dim: int
    """Length of a vector."""
    has_text: bool
    """Whether it embeds texts."""
    has_precomputed: bool = False
    """Whether :meth:`precomputed` has vectors, so that it is asked before an image is decoded."""

    def precomputed(
        self, image: str, box: Box, size: tuple[int, int]
    ) -> Float16[Tensor, " d"] | None:
        """Return a unit vector that need not be computed, or None.

        Parameters
        ----------
        image
            Id of the image in the data.
        box
            A part of it, or all of it.
        size
            Its width and height in pixels, upright.
        """
        return None

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn an RGB image of any size into the model input [3 h w]; must be thread-safe."""

    @abstractmethod
    def _images(self, batch: Tensor) -> Tensor:
        """Embed preprocessed images [b 3 h w] to [b d], not necessarily of unit length."""

    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts to [n d], not necessarily of unit length."""
        raise EmbedderError(
            f"The embedder '{self.spec}' has no text tower.",
            "It embeds images only, but the question needs texts.",
            "Search by image, give concepts as images, or build with an image-text embedder.",
        )

    def understands(self, text: str) -> bool:
        """Whether any part of a text is in the vocabulary; else its vector means nothing."""
        return True

    @torch.no_grad()  # in inference mode, autocast would convert the weights at every use
    def embed_batch(self, batch: Tensor) -> Float32[Tensor, "b d"]:
        """Embed preprocessed images to unit vectors on the CPU."""
        return _unit(self._images(batch))

    def embed_images(
        self, images: Sequence[Image.Image], batch_size: int = 32
    ) -> Float32[Tensor, "n d"]:
        """Embed RGB images of any size to unit vectors."""
        vectors = [
            self.embed_batch(torch.stack([self.preprocess(image) for image in batch]))
            for batch in (images[i : i + batch_size] for i in range(0, len(images), batch_size))
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
        batches = (texts[i : i + batch_size] for i in range(0, len(texts), batch_size))
        vectors = [_unit(self._texts(list(batch))) for batch in batches]
        return torch.cat(vectors) if vectors else torch.zeros(0, self.dim)


def has_known_token(tokenizer: Any, text: str) -> bool:
    """Whether any token of a text is not the one for what is unknown."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return any(token != tokenizer.unk_token_id for token in ids)


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1).cpu()


LEAST_COSINE = 0.999
"""Between the vectors of an image in both precisions. Storing them in 16 bits costs 1e-7; those of
CLIP in bfloat16 have .9999, those of different images seldom more than .9."""


@contextmanager
def embedding_in(precision: Precision) -> Iterator[None]:
    """Let matrix products and convolutions of embedders run in a precision, by autocast."""
    if precision == "float32":
        yield
        return
    fastpath = get_fastpath_enabled()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    with ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.autocast(device, getattr(torch, precision)))
        # PyTorch's fused attention does not know autocast
        stack.callback(set_fastpath_enabled, fastpath)
        set_fastpath_enabled(False)
        yield


def check_precision(embedder: Embedder, precision: Precision) -> None:
    """Compare the vectors of eight pictures with those in 32 bits.

    Raises
    ------
    EmbedderError
        If the cosine of any two is below :data:`LEAST_COSINE`, or not finite.
    """
    if precision == "float32":
        return
    pictures = _pictures()
    exact = embedder.embed_images(pictures)
    with embedding_in(precision):
        rounded = embedder.embed_images(pictures)
    least = float((exact * rounded).sum(dim=1).min())  # NaN if any is
    if not least >= LEAST_COSINE:
        raise EmbedderError(
            f"In {precision}, the embedder '{embedder.spec}' gives vectors whose cosine to those "
            f"in float32 is only {least:.4f}.",
            f"Expected at least {LEAST_COSINE}.",
            "Leave the precision of the embedder at float32.",
        )


def _pictures() -> list[Image.Image]:
    """Return four pictures of smooth colours, and four of noise."""
    draw = np.random.default_rng(0).integers
    smooth, noise = (draw(0, 256, (4, side, side, 3), dtype=np.uint8) for side in (8, 256))
    return [Image.fromarray(grid).resize((256, 256)) for grid in (*smooth, *noise)]
