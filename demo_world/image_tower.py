"""Training of the image tower against the frozen text space (locked-text tuning).

Stem and stages 0 to 3 keep their ImageNet weights (their features are cached). Stages 4 to 6, the
head and the projection are trained on captions with a soft-target contrastive and a cosine loss.
"""

import json
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from demo_world.augment import SampleKind
from demo_world.captions import HELD_OUT, TRAIN
from demo_world.features import BANK_SIZE, FROZEN_STAGES, PASSES, pretrained_tower
from demo_world.overlays import TEMPLATES, Overlay, overlay_bank
from demo_world.text_space import centre
from demo_world.workspace import Workspace
from semlens.embedders.demo import ImageTower, load_text_tower


@dataclass(frozen=True)
class Phase:
    """One cycle of the learning rate, from warm-up to almost zero.

    ``student_share`` is the share of the text tower in the target vectors. The rest is the sentence
    encoder, which knows word order but does not embed the users' queries.
    """

    epochs: float
    rate: float
    student_share: float


@dataclass(frozen=True)
class TowerRecipe:
    """Training settings; the defaults are those of the bundled tower."""

    seed: int = 0
    phases: tuple[Phase, ...] = (Phase(11, 1.0, 0.0), Phase(6, 0.4, 0.5))
    batch: int = 192
    learning_rate: float = 1e-3
    head_learning_rate: float = 3e-3
    dropout: float = 0.15
    soft_targets: float = 30.0  # sharpness of the text-text similarities
    overlay_alone: float = 0.45  # share of overlaid pictures whose caption names the overlay only
    everything: bool = False  # train on the held-out concepts too


def depthwise_in_float32(module: nn.Module) -> None:
    """Run depthwise convolutions in float32: they are slow in bfloat16 on CPUs."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:

            def forward(x: Tensor, plain: nn.Conv2d = layer) -> Tensor:
                with torch.autocast("cpu", enabled=False):
                    return nn.Conv2d.forward(plain, x.float())

            layer.forward = forward  # type: ignore[method-assign]


class CaptionSampler:
    """Draws target vectors for samples: a caption, an overlay phrase, or both."""

    def __init__(self, work: Workspace, bank: list[Overlay], recipe: TowerRecipe) -> None:
        captions = json.loads(work.captions.read_text())
        stored = np.load(work.caption_vectors)
        teacher = centre(stored["captions"], stored["mean"])
        self.teacher, self.vectors = teacher, teacher
        self.work, self.texts = work, captions["texts"]
        self.rows = [np.array(p["captions"]) for p in captions["pictures"]]
        weights = [np.array(p["weights"]) for p in captions["pictures"]]
        self.cumulative = [np.cumsum(w) / w.sum() for w in weights]
        self.overlay_rows: dict[str, int] = captions["overlays"]
        self.bank = bank
        self.recipe = recipe

    def mix(self, student_share: float) -> None:
        """Set the share of the text tower in the target vectors."""
        if student_share == 0:
            self.vectors = self.teacher
            return
        student = load_text_tower(self.work.root).encode(self.texts).clone()
        mixed = (1 - student_share) * self.teacher + student_share * student
        self.vectors = F.normalize(mixed, dim=1)

    def overlay_row(self, overlay: int, rng: np.random.Generator) -> int:
        """Draw a phrase for an overlay, half of the time in a template."""
        phrases = self.bank[overlay].phrases
        template = TEMPLATES[0] if rng.random() < 0.5 else str(rng.choice(TEMPLATES))
        return self.overlay_rows[template.format(phrases[rng.integers(len(phrases))])]

    def target(self, row: int, kind: int, overlay: int, rng: np.random.Generator) -> Tensor:
        """Return the target unit vector [384] of a sample."""
        pick = np.searchsorted(self.cumulative[row], rng.random())
        caption = self.vectors[self.rows[row][pick]]
        if kind == SampleKind.PICTURE:
            return caption
        phrase = self.vectors[self.overlay_row(overlay, rng)]
        if kind == SampleKind.OVERLAY_ONLY or rng.random() < self.recipe.overlay_alone:
            return phrase
        return F.normalize(caption + phrase, dim=0)


class FeatureStore:
    """Cached features of the samples of the training split."""

    def __init__(self, work: Workspace, everything: bool) -> None:
        split = np.array(json.loads(work.captions.read_text())["split"])
        usable = (split == TRAIN) | (everything & (split == HELD_OUT))
        passes = [dict(np.load(work.features / f"pass-{k}.npz")) for k in range(PASSES)]
        masks = [usable[p["rows"]] for p in passes]
        columns = {
            name: np.concatenate([p[name][k] for p, k in zip(passes, masks, strict=True)])
            for name in ("features", "rows", "kinds", "overlays")
        }
        self.features = columns["features"]
        self.rows, self.kinds = columns["rows"], columns["kinds"]
        self.overlays = columns["overlays"]
        self.pictures = int(usable.sum())


def contrastive_loss(vectors: Tensor, targets: Tensor, scale: Tensor, sharpness: float) -> Tensor:
    """Soft-target InfoNCE in both directions, plus the cosine distance."""
    logits = scale * vectors @ targets.T
    soft_labels = F.softmax(sharpness * targets @ targets.T, 1)
    images = (soft_labels * F.log_softmax(logits, 1)).sum(1).mean()
    texts = (soft_labels * F.log_softmax(logits.T, 1)).sum(1).mean()
    return -(images + texts) / 2 + (1 - (vectors * targets).sum(1)).mean()


def parameter_groups(
    tail: list[nn.Module], tower: ImageTower, scale: Tensor, recipe: TowerRecipe
) -> list[dict[str, object]]:
    """Return kernels, norms with biases, and the projection, with their rates and decays."""
    parameters = [p for module in tail for p in module.parameters()]
    rate = recipe.learning_rate
    head = [*tower.projection.parameters(), scale]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "lr": rate, "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim <= 1], "lr": rate, "weight_decay": 0.0},
        {"params": head, "lr": recipe.head_learning_rate, "weight_decay": 0.02},
    ]


def trainable_tail(tower: ImageTower) -> list[nn.Module]:
    """Freeze all but the last stages, head and projection; return the last stages and head."""
    body = tower.body
    tower.requires_grad_(False)
    tail = [*body.blocks[FROZEN_STAGES:], body.conv_head, body.bn2]
    for module in (*tail, tower.projection):
        module.requires_grad_(True)
    return tail


def train_phase(
    tower: ImageTower,
    store: FeatureStore,
    sampler: CaptionSampler,
    phase: Phase,
    recipe: TowerRecipe,
    rng: np.random.Generator,
) -> None:
    """Train the tail and the projection of ``tower`` on the cached features."""
    body, tail = tower.body, trainable_tail(tower)
    scale_log = nn.Parameter(torch.tensor(math.log(14.0)))
    optimizer = torch.optim.AdamW(parameter_groups(tail, tower, scale_log, recipe))
    rates = [group["lr"] * phase.rate for group in optimizer.param_groups]
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    steps = int(phase.epochs * store.pictures / recipe.batch)
    start, order, position, mean_loss = time.time(), rng.permutation(len(store.rows)), 0, 0.0
    sampler.mix(phase.student_share)
    tower.eval()
    for module in tail:
        module.train()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 60)
        factor *= 0.49 * (1 + math.cos(math.pi * step / steps)) + 0.02
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        if position + recipe.batch > len(order):
            order, position = rng.permutation(len(store.rows)), 0
        rows = order[position : position + recipe.batch]
        position += recipe.batch
        samples = zip(store.rows[rows], store.kinds[rows], store.overlays[rows], strict=True)
        targets = torch.stack([sampler.target(r, k, o, rng) for r, k, o in samples])
        x = torch.from_numpy(store.features[rows]).permute(0, 3, 1, 2).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for stage in tail[:-2]:
                x = stage(x)
            x = body.forward_head(body.bn2(body.conv_head(x)))
        vectors = F.normalize(tower.projection(F.dropout(x.float(), recipe.dropout)), dim=-1)
        scale = scale_log.exp().clamp(max=60)
        loss = contrastive_loss(vectors, targets, scale, recipe.soft_targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 2.0)
        optimizer.step()
        mean_loss = loss.item() if step == 0 else 0.97 * mean_loss + 0.03 * loss.item()
        if step % 50 == 0:
            print(f"{step} of {steps}, loss {mean_loss:.3f}, {time.time() - start:.0f} s",
                  flush=True)  # fmt: skip
    tower.eval()


def train_image_tower(work: Workspace, recipe: TowerRecipe, first_phase: int = 0) -> ImageTower:
    """Run the phases and write the float32 checkpoint after each.

    With ``first_phase`` > 0 training resumes from the checkpoint of the previous phase.
    """
    torch.manual_seed(recipe.seed)
    tower = pretrained_tower()
    if first_phase > 0:
        tower.load_state_dict(load_file(work.image_checkpoint))
    tower = tower.to(memory_format=torch.channels_last)
    depthwise_in_float32(tower.body)
    store = FeatureStore(work, recipe.everything)
    sampler = CaptionSampler(work, overlay_bank(work, BANK_SIZE, 0), recipe)
    for number, phase in enumerate(recipe.phases[first_phase:], first_phase):
        rng = np.random.default_rng((recipe.seed, number))
        train_phase(tower, store, sampler, phase, recipe, rng)
        state = {name: value.contiguous() for name, value in tower.state_dict().items()}
        save_file(state, work.image_checkpoint)
    return tower
