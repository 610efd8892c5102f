"""Features of augmented drawings at 224 pixels, for the head of the embedder for photographs.

EfficientNet-Lite0 is not trained, so each augmented sample passes through it once.
"""

import json
import time

import numpy as np
import torch
from torch import Tensor

from demo_world.augment import Augmenter
from demo_world.captions import TRAIN
from demo_world.features import is_subsampled, sample_kinds
from demo_world.overlays import overlay_bank
from demo_world.rasterise import Picture, load_pictures, rasterise
from demo_world.workspace import Workspace
from semlens.embedders.photo import SIDE, imagenet_classifier

PASSES = 1
BANK_SIZE = 3000
BATCH = 64


def photo_workspace(work: Workspace) -> Workspace:
    """Return the workspace with pictures of the size of the classifier's input."""
    return Workspace(work.root, SIDE)


def rows_by_picture(work: Workspace) -> dict[tuple[str, str], int]:
    """Return the row in ``captions.json``, which lists the small pictures, by source and name."""
    records = json.loads(work.picture_index.read_text())
    return {(record["source"], record["name"]): row for row, record in enumerate(records)}


def captioned(work: Workspace, splits: tuple[str, ...]) -> list[tuple[int, Picture, int]]:
    """Return large row, record and caption row of the pictures of some splits."""
    rows = rows_by_picture(work)
    split = json.loads(work.captions.read_text())["split"]
    _, pictures = load_pictures(photo_workspace(work))
    # a thin drawing may be empty in one size only
    both = [(i, p, rows.get((p.source, p.name))) for i, p in enumerate(pictures)]
    return [(i, p, row) for i, p, row in both if row is not None and split[row] in splits]


class FeatureExtractor:
    """EfficientNet-Lite0 without its classifier."""

    def __init__(self) -> None:
        network = imagenet_classifier()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> np.ndarray:
        """Map images [B 3 224 224] in [-1, 1] to features float32 [B 1280]."""
        images = images.to(memory_format=torch.channels_last)
        maps = self.network.forward_features(images)
        return self.network.forward_head(maps, pre_logits=True).numpy()


def write_photo_features(work: Workspace, seed: int = 0) -> None:
    """Rasterise at 224 pixels and write features, caption rows, kinds and overlays."""
    large = photo_workspace(work)
    if not large.pictures.exists():
        rasterise(large)
    work.features.mkdir(parents=True, exist_ok=True)
    pixels, _ = load_pictures(large)
    train = captioned(work, (TRAIN,))
    distinct = [entry for entry in train if not is_subsampled(entry[1])]
    augment = Augmenter(pixels, overlay_bank(large, BANK_SIZE, seed), seed)
    extract, rng, start = FeatureExtractor(), np.random.default_rng(seed), time.time()
    for number in range(PASSES):
        entries = train if number % 2 == 0 else distinct
        order = rng.permutation(len(entries))
        rows = np.array([entries[i][0] for i in order])
        kinds = sample_kinds(len(rows), rng)
        overlays = rng.integers(0, BANK_SIZE, len(rows))
        batches = [slice(first, first + BATCH) for first in range(0, len(rows), BATCH)]
        features = [extract(augment(rows[b], kinds[b], overlays[b])) for b in batches]
        np.savez(
            work.features / f"photo-pass-{number}.npz",
            features=np.concatenate(features).astype(np.float16),
            rows=np.array([entries[i][2] for i in order]),
            kinds=kinds,
            overlays=overlays,
        )
        print(f"pass {number}, {time.time() - start:.0f} s", flush=True)
