"""The planted worlds of labels: two for development, and two that are opened once."""

from __future__ import annotations

from benchmarks.worlds.labelled.scenes import LabelWorld
from demo_world.scenes import SceneStyle

EMBEDDERS = ("semlens/demo", "semlens/photo")
WORLDS = (
    LabelWorld("dev-broad", "broad", opened_once=False, seed=1, architectures=("small", "vgg")),
    LabelWorld(
        "dev-narrow", "narrow", opened_once=False, seed=2, groups=("animals-nature",), offset=4.0,
        architectures=("vit", "small"),
    ),
    LabelWorld(
        "fresh-broad", "broad", opened_once=True, seed=11, offset=6.0,
        style=SceneStyle(
            scale=(0.42, 0.85), small=(0.25, 0.4), second=0.45,
            backgrounds=(0.35, 0.3, 0.2, 0.15), overlays=(0.04, 0.04, 0.05, 0.05, 0.05), white=0.15,
        ),
        architectures=("vit", "vgg"),
    ),
    LabelWorld(
        "fresh-narrow", "narrow", opened_once=True, seed=12, groups=("food-drink", "travel-places"),
        offset=3.5,
        style=SceneStyle(
            scale=(0.55, 0.95), second=0.35, backgrounds=(0.5, 0.25, 0.15, 0.1),
            overlays=(0.03, 0.05, 0.04, 0.04, 0.06), white=0.3,
        ),
        architectures=("small", "vgg"),
    ),
)  # fmt: skip
