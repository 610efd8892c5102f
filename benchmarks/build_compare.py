"""Whether ours and the reference's outputs are the same, where the reference is right.

The judge is neither: all readouts are computed once more in float32 by a plain loop. The
reference ranks in bfloat16 (8 bits), so it may keep an example whose readout is below the true
last one by rounding, and only components with a clear gap there must agree exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from build_inputs import Inputs
from build_parts import ahead, batches, decode
from safetensors.torch import load_file
from torch import Tensor

import semlens as sl

GAP = 2.0**-7
"""Twice the relative rounding step of bfloat16: a wider gap cannot be closed by rounding."""
TOLERANCE = 2e-3
"""Largest difference of an entry of two unit vectors, one of them kept in float16."""


@torch.inference_mode()
def all_readouts(settings: Inputs) -> dict[str, np.ndarray]:
    """Return the mean readout [n c] of every image and component, by a plain loop."""
    model = sl.load_model(settings.model)
    images = sl.ImageFolder(settings.images)
    kept: dict[str, list[Tensor]] = {name: [] for name in settings.layers}
    layers = dict(model.module.named_modules())
    hooks = [
        layers[name].register_forward_hook(
            lambda _, __, output, name=name: kept[name].append(output.mean((2, 3)))
        )
        for name in settings.layers
    ]

    def ready(name: str) -> Tensor:
        return model.preprocess(decode(images.root / name))

    for batch in batches(ahead(ready, images.ids, settings.threads), settings.batch_size):
        model.module(torch.stack(batch))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts).numpy() for name, parts in kept.items()}


def agreement(settings: Inputs) -> dict[str, Any]:
    """Compare the database of ``--crop none`` with what the reference has left."""
    work = Path(settings.work)
    db = sl.open(work / "known-none.semlens", sl.load_embedder(settings.embedder))
    theirs = load_file(work / "reference.safetensors")
    readouts = all_readouts(settings)
    total = clear = same = kept_wrong = 0
    worst_example = worst_theta = worst_rank = 0.0
    for layer in settings.layers:
        truth = readouts[layer]
        frame = db.examples(layer)
        entry = db.layer(layer)
        mine = frame.pivot(index="component", columns="rank", values="sample").to_numpy()
        worst_rank = max(worst_rank, _rank_error(truth, mine))
        samples, vectors = theirs[f"{layer}/samples"].numpy(), theirs[f"{layer}/vectors"].float()
        unit = torch.nn.functional.normalize(vectors, dim=-1).numpy()
        crop, used = db.crop_index(layer)
        ours = db.crop_vectors[crop].astype(np.float32)
        for c in range(entry.rows):
            values = truth[:, c]
            order = np.sort(values)[::-1]
            last, following = order[settings.examples - 1], order[settings.examples]
            total += 1
            kept_wrong += int((values[samples[c]] < last * (1 - GAP)).sum())
            place = {s: i for i, s in enumerate(mine[c]) if used[c, i]}
            shared = [(place[s], j) for j, s in enumerate(samples[c]) if s in place]
            for i, j in shared:
                worst_example = max(worst_example, float(np.abs(ours[c, i] - unit[c, j]).max()))
            if last - following > GAP * abs(last) and used[c].all():
                clear += 1
                if set(samples[c]) == set(mine[c]):
                    same += 1
                    theta = unit[c].mean(0)
                    difference = np.abs(db.theta[entry.first + c] - theta).max()
                    worst_theta = max(worst_theta, float(difference))
    overlap = _overlap(db, theirs, settings)
    return {
        "components": total,
        "components_with_a_clear_gap": clear,
        "of_these_with_the_same_examples": same,
        "shared_examples": overlap,
        "reference_examples_below_rounding": kept_wrong,
        "largest_difference_of_our_ranking_from_float32": worst_rank,
        "largest_difference_of_an_example_vector": worst_example,
        "largest_difference_of_a_concept_vector": worst_theta,
        "same": same == clear and max(worst_example, worst_theta) <= TOLERANCE and not kept_wrong,
    }


def _rank_error(truth: np.ndarray, samples: np.ndarray) -> float:
    """How far our k-th readout is from the true k-th largest, over all components."""
    k = samples.shape[1]
    best = -np.sort(-truth, axis=0)[:k].T
    return float(np.abs(np.take_along_axis(truth.T, samples.astype(int), 1) - best).max())


def _overlap(db: sl.ConceptDatabase, theirs: dict[str, Tensor], settings: Inputs) -> float:
    """Share of examples that both have, over all components."""
    shares: list[float] = []
    for layer in settings.layers:
        frame = db.examples(layer)
        mine = frame.pivot(index="component", columns="rank", values="sample").to_numpy()
        samples = theirs[f"{layer}/samples"].numpy()
        shares += [len(set(a) & set(b)) / len(a) for a, b in zip(mine, samples, strict=True)]
    return float(np.mean(shares))
