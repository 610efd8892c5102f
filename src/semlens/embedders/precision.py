"""Embedding in 16 bits, and the check that it gives the vectors of 32 bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from PIL import Image
from torch.backends.mha import get_fastpath_enabled, set_fastpath_enabled

from semlens.embedders.embedder import Embedder
from semlens.errors import EmbedderError
from semlens.types import Precision

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
