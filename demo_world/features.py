"""Features of augmented samples from the frozen front of the image tower, cached on disk.

The front (stem and stages 0 to 3 with ImageNet weights) is not trained, so every augmented sample
passes through it once, and training reads only features.
"""

import json
import time

import numpy as np
import torch
from torch import Tensor, nn

from demo_world.augment import Augmenter, SampleKind
from demo_world.captions import HELD_OUT, TRAIN
from demo_world.overlays import overlay_bank
from demo_world.rasterise import Picture, load_pictures
from demo_world.workspace import Workspace
from semlens.embedders.demo import ImageTower
from semlens.embedders.photo import imagenet_classifier

PASSES = 6
FROZEN_STAGES = 4
BANK_SIZE = 4000
OVERLAY_SHARE = 0.17  # pictures with an overlay
OVERLAY_ONLY_SHARE = 0.06
SUBSAMPLED = frozenset("country-flag subdivision-flag time".split())
SUBSAMPLED_CLIP_ART = frozenset("apps actions action stars mimetypes filesystems devices".split())


def pretrained_tower() -> ImageTower:
    """Return an image tower with the ImageNet weights of the classifier of ``semlens/photo``."""
    tower = ImageTower()
    weights = imagenet_classifier().state_dict()
    body = {name: v for name, v in weights.items() if not name.startswith("classifier.")}
    tower.body.load_state_dict(body)
    return tower


def front(body: nn.Module, images: Tensor) -> Tensor:
    """Return the features of the frozen stages: [B 3 96 96] to [B 80 6 6]."""
    x = body.bn1(body.conv_stem(images))
    for stage in body.blocks[:FROZEN_STAGES]:
        x = stage(x)
    return x


def is_subsampled(picture: Picture) -> bool:
    """Return whether a picture has many near duplicates, which every second pass skips."""
    clip_art = picture.source == "openclipart" and picture.subgroup in SUBSAMPLED_CLIP_ART
    return clip_art or picture.subgroup in SUBSAMPLED


def sample_kinds(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a kind for each of ``count`` samples."""
    shares = (1 - OVERLAY_SHARE - OVERLAY_ONLY_SHARE, OVERLAY_SHARE, OVERLAY_ONLY_SHARE)
    return rng.choice(np.array([int(k) for k in SampleKind]), size=count, p=shares)


@torch.inference_mode()
def write_features(work: Workspace, seed: int = 0) -> None:
    """Write one ``pass-K.npz`` per augmentation pass: features, rows, kinds, overlay indices."""
    work.features.mkdir(parents=True, exist_ok=True)
    pixels, pictures = load_pictures(work)
    split = json.loads(work.captions.read_text())["split"]
    usable = np.array([i for i, s in enumerate(split) if s in (TRAIN, HELD_OUT)])
    not_subsampled = np.array([i for i in usable if not is_subsampled(pictures[i])])
    augment = Augmenter(np.array(pixels), overlay_bank(work, BANK_SIZE, seed), seed)
    body = pretrained_tower().body.eval().to(memory_format=torch.channels_last)
    rng = np.random.default_rng(seed)
    start = time.time()
    for number in range(PASSES):
        rows = rng.permutation(usable if number % 2 == 0 else not_subsampled)
        kinds = sample_kinds(len(rows), rng)
        overlays = rng.integers(0, BANK_SIZE, len(rows))
        chunks = []
        for first in range(0, len(rows), 128):
            batch = slice(first, first + 128)
            images = augment(rows[batch], kinds[batch], overlays[batch])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                features = front(body, images.to(memory_format=torch.channels_last))
            chunks.append(features.permute(0, 2, 3, 1).half().numpy())
        np.savez(work.features / f"pass-{number}.npz", features=np.concatenate(chunks), rows=rows,
                 kinds=kinds, overlays=overlays)  # fmt: skip
        print(f"pass {number}, {time.time() - start:.0f} s", flush=True)
