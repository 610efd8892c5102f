"""Does the embedder have the fault too? Its parts, and the word "carton"."""

from __future__ import annotations

from pathlib import Path

import torch
from measure import interval
from PIL import Image

from semlens.embedders.photo import PhotoEmbedder

WORD = "carton"
MARKS = ("chinese", "latin-lines")
BATCH = 32


def vectors(embedder: PhotoEmbedder, files: list[Path]) -> dict[str, torch.Tensor]:
    """Embed photographs by each part of the embedder: unit vectors [n d] by name of the part."""
    parts: dict[str, list[torch.Tensor]] = {}
    for first in range(0, len(files), BATCH):
        images = [Image.open(file).convert("RGB") for file in files[first : first + BATCH]]
        for name, found in embedder.embed_by_part(images).items():
            parts.setdefault(name, []).append(found)
    return {name: torch.cat(batches) for name, batches in parts.items()}


def rises(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Return how much marks raise each part's cosine with the word, with intervals, by mark."""
    embedder = PhotoEmbedder()
    word = embedder.embed_texts([WORD])[0]
    names = sorted(file.name for file in (folder / "plain").glob("*.png"))
    plain = vectors(embedder, [folder / "plain" / name for name in names])
    found: dict[str, dict[str, list[float]]] = {}
    for mark in MARKS:
        marked = vectors(embedder, [folder / mark / name for name in names])
        rise = {part: ((marked[part] - plain[part]) @ word).numpy() for part in plain}
        found[mark] = {
            part: interval(lambda rows, of=one: float(of[rows].mean()), names)
            for part, one in rise.items()
        }
    return found
