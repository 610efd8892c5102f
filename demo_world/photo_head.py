"""Training of the head of the embedder for photographs on drawings and on ImageNet's classes."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from demo_world.image_tower import CaptionSampler, TowerRecipe, contrastive_loss
from demo_world.overlays import overlay_bank
from demo_world.photo_classes import ClassCaptions, class_captions, class_features
from demo_world.photo_features import BANK_SIZE, PASSES, photo_workspace
from demo_world.workspace import Workspace
from semlens.embedders.demo import BODY_FEATURES, DIMENSION
from semlens.embedders.photo import ASSET, CLASSES, SentenceEncoder, imagenet_classifier


@dataclass(frozen=True)
class HeadRecipe:
    """Settings of the training; the defaults are those of the bundled head."""

    seed: int = 0
    epochs: int = 12
    batch: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.5
    warm_up: int = 60
    class_share: float = 0.6  # classes per drawing
    class_noise: float = 0.7  # of a drawing's deviation, added to a class's features


def cached_features(work: Workspace) -> dict[str, np.ndarray]:
    """Return features [N 1280], caption rows, kinds and overlays of all samples."""
    passes = [np.load(work.features / f"photo-pass-{k}.npz") for k in range(PASSES)]
    return {name: np.concatenate([p[name] for p in passes]) for name in passes[0].files}


class Samples:
    """Standardised features of drawings and classes, with target vectors."""

    def __init__(self, work: Workspace, captions: ClassCaptions, recipe: HeadRecipe) -> None:
        self.cached, self.captions, self.recipe = cached_features(work), captions, recipe
        bank = overlay_bank(photo_workspace(work), BANK_SIZE, 0)
        self.sampler = CaptionSampler(work, bank, TowerRecipe())
        features = torch.from_numpy(self.cached["features"]).float()
        self.mean, self.spread = features.mean(0), features.std(0) + 1e-3
        self.drawings = (features - self.mean) / self.spread
        likely = class_features(imagenet_classifier().classifier, features)
        self.classes = (likely - self.mean) / self.spread

    def batch(self, rows: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return features [B 1280] and unit targets [B 384] of drawings, and of random classes."""
        columns = (self.cached[name][rows] for name in ("rows", "kinds", "overlays"))
        targets = [self.sampler.target(*s, rng) for s in zip(*columns, strict=True)]
        labels = rng.integers(0, CLASSES, int(self.recipe.class_share * len(rows)))
        targets += [self.captions.draw(label, rng) for label in labels.tolist()]
        noise = self.drawings[rng.integers(0, len(self.drawings), len(labels))]
        classes = self.classes[labels] + self.recipe.class_noise * noise
        return torch.cat([self.drawings[rows], classes]), torch.stack(targets)


def train_head(work: Workspace, captions: ClassCaptions, recipe: HeadRecipe) -> nn.Linear:
    """Train a linear map from features to the text space, with the loss of the image tower."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    samples = Samples(work, captions, recipe)
    head, scale_log = nn.Linear(BODY_FEATURES, DIMENSION), nn.Parameter(torch.tensor(math.log(14)))
    optimizer = torch.optim.AdamW(
        [
            {"params": head.parameters(), "weight_decay": recipe.weight_decay},
            {"params": [scale_log], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
    count = len(samples.drawings)
    steps = recipe.epochs * count // recipe.batch
    order, position = rng.permutation(count), 0
    for step in range(steps):
        rate = min(1.0, (step + 1) / recipe.warm_up)
        rate *= 0.49 * (1 + math.cos(math.pi * step / steps)) + 0.02
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        if position + recipe.batch > count:
            order, position = rng.permutation(count), 0
        features, targets = samples.batch(order[position : position + recipe.batch], rng)
        position += recipe.batch
        vectors = F.normalize(head(F.dropout(features, recipe.dropout)), dim=1)
        scale = scale_log.exp().clamp(max=60)
        loss = contrastive_loss(vectors, targets, scale, samples.sampler.recipe.soft_targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            print(f"{step} of {steps}, loss {loss.item():.3f}", flush=True)
    return folded(head, samples.mean, samples.spread)


@torch.no_grad()
def folded(head: nn.Linear, mean: Tensor, spread: Tensor) -> nn.Linear:
    """Return the head with the standardisation of its input in its weights."""
    result = nn.Linear(head.in_features, head.out_features)
    result.weight.copy_(head.weight / spread)
    result.bias.copy_(head.bias - result.weight @ mean)
    return result


def write_photo_asset(work: Workspace) -> None:
    """Train the head and write ``photo.safetensors``: head, class vectors and mean, float16."""
    mean = torch.from_numpy(np.load(work.caption_vectors)["mean"]).float()
    captions = class_captions(work, SentenceEncoder(mean))
    head = train_head(work, captions, HeadRecipe())
    tensors = {
        "head.weight": head.weight.detach(),
        "head.bias": head.bias.detach(),
        "classes": captions.names,
        "text_mean": mean,
    }
    save_file({name: t.half().contiguous() for name, t in tensors.items()}, work.root / ASSET)
