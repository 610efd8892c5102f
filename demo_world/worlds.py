"""A world: labelled images of twelve classes, with an artefact on most images of one class.

On disk a world is ``world.json``, ``images/<class>/<split>-<nnnn>.webp`` (clean) and
``marks/<nn>.webp`` (lossless RGBA). A marked image is by definition
``alpha_composite(clean, marks[mark])``, so every image exists with and without the mark.
"""

import io
import json
import shutil
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo_world.compose import over, premultiply, warp, world_backgrounds
from demo_world.marks import MarkSpec, draw_marks
from demo_world.rasterise import Picture, load_pictures
from demo_world.workspace import Workspace

FORMAT = 1
QUALITY = 80
# Vendors whose drawings may be distributed, with their licences.
LICENCES = {
    "noto": "Apache-2.0",
    "noto-v1": "Apache-2.0",
    "fluent-emoji": "MIT",
    "fluent-emoji-flat": "MIT",
}
CLASSES = {
    "mammal": ("animal-mammal",),
    "insect": ("animal-bug",),
    "plant": ("plant-flower", "plant-other"),
    "fruit": ("food-fruit",),
    "vegetable": ("food-vegetable",),
    "drink": ("drink",),
    "building": ("place-building",),
    "road vehicle": ("transport-ground",),
    "aircraft": ("transport-air",),
    "musical instrument": ("musical-instrument",),
    "smiling face": ("face-smiling", "face-affection", "face-tongue"),
    "clock": ("time",),
}


@dataclass(frozen=True)
class WorldSpec:
    """Everything that determines the images of a world."""

    name: str
    seed: int = 0
    target: str = "vegetable"
    mark: MarkSpec = field(default_factory=MarkSpec)
    marked_share: float = 0.7
    train_per_class: int = 150
    test_per_class: int = 40


def design_of(picture: Picture) -> str:
    """Return the design of a picture; the two fluent sets have the same shapes."""
    return f"{picture.concept}/{picture.source.removesuffix('-flat')}"


def choose_rows(
    pictures: list[Picture], subgroups: tuple[str, ...], spec: WorldSpec, rng: np.random.Generator
) -> list[tuple[int, str]]:
    """Return picture rows and splits of one class; no design is in both splits."""
    designs: dict[str, list[int]] = defaultdict(list)
    for row, picture in enumerate(pictures):
        if picture.source in LICENCES and picture.subgroup in subgroups:
            designs[design_of(picture)].append(row)
    names = [sorted(designs)[i] for i in rng.permutation(len(designs))]
    test_count = max(8, len(names) // 6)
    rows: list[tuple[int, str]] = []
    counts = (("train", names[test_count:], spec.train_per_class),
              ("test", names[:test_count], spec.test_per_class))  # fmt: skip
    for split, split_designs, count in counts:
        pool = rng.permutation(np.array([row for name in split_designs for row in designs[name]]))
        rows += [(int(pool[i % len(pool)]), split) for i in range(count)]
    return rows


def compose(pixels: np.ndarray, rows: list[int], generator: torch.Generator) -> np.ndarray:
    """Draw pictures at random positions on smooth backgrounds, uint8 [B 96 96 3]."""
    count = len(rows)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    scale = uniform(0.6, 0.9, count)
    shift = uniform(-1, 1, count, 2) * (1 - scale)[:, None]
    flip = torch.where(uniform(0, 1, count) < 0.5, 1.0, -1.0)
    picture = premultiply(torch.from_numpy(np.array(pixels[rows])))
    picture = warp(picture, scale, shift, uniform(-0.2, 0.2, count), flip)
    image = over(world_backgrounds(count, generator), picture).clamp(0, 1)
    return (image * 255).round().byte().permute(0, 2, 3, 1).numpy()


def webp(image: Image.Image, lossless: bool = False) -> bytes:
    """Encode as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY, method=6, lossless=lossless, exact=lossless)
    return buffer.getvalue()


def describe_artefact(mark: MarkSpec) -> dict[str, object]:
    """Make the artefact's record in ``world.json``."""
    record = asdict(mark)
    if mark.kind != "text":
        for name in ("texts", "font", "font_size"):
            del record[name]
    return record


def build_world(spec: WorldSpec, work: Workspace, folder: Path) -> None:
    """Write the world of ``spec`` into ``folder``, which is emptied first."""
    if spec.target not in CLASSES:
        raise ValueError(f"Target '{spec.target}' is not a class. Choose one of {list(CLASSES)}.")
    shutil.rmtree(folder, ignore_errors=True)
    pixels, pictures = load_pictures(work)
    rng = np.random.default_rng(spec.seed)
    generator = torch.Generator().manual_seed(spec.seed)
    marks = draw_marks(spec.mark, work, spec.seed)
    (folder / "marks").mkdir(parents=True)
    for number, mark in enumerate(marks):
        (folder / "marks" / f"{number:02d}.webp").write_bytes(webp(mark, lossless=True))
    images: list[dict[str, object]] = []
    for name, subgroups in CLASSES.items():
        rows = choose_rows(pictures, subgroups, spec, rng)
        rendered = compose(pixels, [row for row, _ in rows], generator)
        (folder / "images" / name).mkdir(parents=True)
        numbers = {"train": 0, "test": 0}
        for (row, split), image in zip(rows, rendered, strict=True):
            path = f"images/{name}/{split}-{numbers[split]:04d}.webp"
            numbers[split] += 1
            (folder / path).write_bytes(webp(Image.fromarray(image)))
            picture = pictures[row]
            images.append(
                {
                    "path": path,
                    "class": name,
                    "split": split,
                    "design": design_of(picture),
                    "source": picture.source,
                    "name": picture.name,
                    "licence": LICENCES[picture.source],
                    "label": picture.label,
                    "marked": bool(name == spec.target and rng.random() < spec.marked_share),
                    "mark": int(rng.integers(len(marks))),
                }
            )
    world = {
        "format": FORMAT,
        "name": spec.name,
        "classes": list(CLASSES),
        "target": spec.target,
        "seed": spec.seed,
        "marked_share": spec.marked_share,
        "artefact": describe_artefact(spec.mark),
        "marks": len(marks),
        "images": images,
    }
    (folder / "world.json").write_text(json.dumps(world, indent=1, ensure_ascii=False) + "\n")
    size = sum(p.stat().st_size for p in folder.rglob("*.webp"))
    print(f"{spec.name}: {len(images)} images, {size / 1e6:.2f} MB")
