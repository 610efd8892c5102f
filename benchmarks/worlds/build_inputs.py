"""Inputs of the build benchmark: generated images and weights, or the user's own.

Nothing is downloaded. The images are coloured shapes over noise with the spectrum of photographs,
in the varying sizes of web photographs, so that JPEG decoding has a realistic cost. The weights
are random, in the formats of pretrained ones.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.harness import Settings

CLIP = "ViT-S-32"
"""open_clip architecture of the generated embedder."""


@dataclass(frozen=True)
class Inputs(Settings):
    """Inputs of a benchmark run, and how its parts run."""

    model: str
    images: str
    embedder: str
    layers: tuple[str, ...]
    examples: int
    batch_size: int
    threads: int


def make_images(folder: Path, count: int, longest: int) -> Path:
    """Write ``count`` JPEGs with sides up to ``longest`` pixels, unless they exist."""
    target = folder / f"images-{count}-{longest}"
    if not target.is_dir():
        partial = folder / f".images-{count}-{longest}"
        partial.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor() as pool:
            list(
                pool.map(
                    lambda i: _write_picture(i, longest, partial / f"{i:05d}.jpg"), range(count)
                )
            )
        partial.rename(target)
    return target


def _write_picture(seed: int, longest: int, path: Path) -> None:
    rng = np.random.default_rng(seed)
    sides = sorted((longest, int(longest * rng.uniform(0.56, 1.0))), reverse=rng.random() < 0.75)
    width, height = sides
    image = Image.fromarray(_natural_noise(rng, height, width))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        radius = rng.uniform(0.04, 0.3) * longest
        colour = (*(int(c) for c in rng.integers(0, 256, 3)), int(rng.integers(120, 256)))
        box = (x - radius, y - radius, x + radius, y + radius * rng.uniform(0.3, 1.0))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    image.save(path, quality=90)


def _natural_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return noise whose amplitude falls with 1/frequency, as in photographs."""
    rows = np.fft.fftfreq(height)[:, None]
    columns = np.fft.rfftfreq(width)[None, :]
    amplitude = 1.0 / np.maximum(np.hypot(rows, columns), 1.0 / max(height, width))
    grey = np.fft.irfft2(
        np.fft.rfft2(rng.normal(size=(height, width))) * amplitude, (height, width)
    )
    tint = np.fft.irfft2(
        np.fft.rfft2(rng.normal(size=(height, width))) * amplitude**1.5, grey.shape
    )
    grey, tint = (x / x.std() * rng.uniform(20, 55) for x in (grey, tint))
    weights = rng.uniform(-0.6, 0.6, 3)
    pixels = grey[:, :, None] + tint[:, :, None] * weights + rng.uniform(70, 180, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def make_subject(folder: Path) -> str:
    """Save a ResNet-18 with seeded random weights; return its SPEC."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    path = folder / "resnet18.safetensors"
    if not path.is_file():
        torch.manual_seed(0)
        save_file(resnet18(weights=None).state_dict(), path)
    return f"torchvision/resnet18:{path}"


def make_embedder(folder: Path) -> str:
    """Save an open_clip model with seeded random weights; return its SPEC."""
    import open_clip
    import torch

    path = folder / f"{CLIP}.pt"
    if not path.is_file():
        torch.manual_seed(0)
        torch.save(open_clip.create_model(CLIP, pretrained=None).state_dict(), path)
    return f"open_clip/{CLIP}/{path}"
