"""Retrieval of pictures by their captions, and of captions by their pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from semlens.embedders.embedder import Embedder

RECALL_AT = (1, 5, 10, 50)
DRAWS = 2000
"""Bootstrap samples of the captions."""
MARGIN = 0.9
"""Share of the white square that a picture fills."""
BATCH = 64


def on_white(pixels: np.ndarray) -> Image.Image:
    """Place an RGBA picture on a white square."""
    picture = Image.fromarray(pixels)
    side = round(max(picture.size) / MARGIN)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.convert("RGB")


def retrieval(embedder: Embedder, pixels: np.ndarray, captions: Sequence[str]) -> dict[str, Any]:
    """Embed pictures uint8[N h w 4] and captions; measure recall, and the cost of a picture."""
    names, concept = np.unique(captions, return_inverse=True)
    start = time.process_time()
    batches = (pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH))
    images = torch.cat([embedder.embed_images([on_white(p) for p in b]) for b in batches])
    milliseconds = 1000 * (time.process_time() - start) / len(pixels)
    texts = embedder.embed_texts(names.tolist())
    return {
        "pictures": len(pixels),
        "captions": len(names),
        **recalls((texts @ images.T).numpy(), concept),
        "cpu ms per picture": milliseconds,
    }


def recalls(similarity: np.ndarray, concept: np.ndarray) -> dict[str, Any]:
    """Return recall in both directions.

    Parameters
    ----------
    similarity
        float[Q N], of captions with pictures.
    concept
        int[N], the caption of each picture.
    """
    order = np.argsort(-similarity, axis=1, kind="stable")
    rank = (concept[order] == np.arange(len(similarity))[:, None]).argmax(1)
    drawn = np.random.default_rng(0).integers(0, len(rank), (DRAWS, len(rank)))
    figures: dict[str, Any] = {}
    for k in RECALL_AT:
        hit = rank < k
        low, high = np.quantile(hit[drawn].mean(1), (0.025, 0.975))
        figures[f"recall@{k}"] = {"value": hit.mean(), "low": low, "high": high}
    return {**figures, "image to text": (similarity.argmax(0) == concept).mean()}
