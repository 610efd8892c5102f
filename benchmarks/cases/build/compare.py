"""Agreement of our examples and vectors with the reference's.

Both are compared with readouts that a plain loop computes in float32. The reference ranks in
bfloat16 (8 bits), so rounding may let it select an example below the true last one. Only components
with a clear gap after the last example must agree exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.worlds.build_inputs import Inputs
from benchmarks.cases.build.parts import batches, decode, prefetch
from safetensors.torch import load_file
from torch import Tensor

import semlens as sl

GAP = 2.0**-7
"""Twice the relative rounding step of bfloat16: rounding cannot close a wider gap."""
TOLERANCE = 2e-3
"""Largest allowed difference between entries of unit vectors, one stored in float16."""


@torch.inference_mode()
def all_readouts(settings: Inputs) -> dict[str, np.ndarray]:
    """Return the mean readout [n c] of every image and component, by a plain loop."""
    model = sl.load_model(settings.model)
    images = sl.ImageFolder(settings.images)
    outputs: dict[str, list[Tensor]] = {name: [] for name in settings.layers}
    layers = dict(model.module.named_modules())
    hooks = [
        layers[name].register_forward_hook(
            lambda _, __, output, name=name: outputs[name].append(output.mean((2, 3)))
        )
        for name in settings.layers
    ]

    def preprocess(name: str) -> Tensor:
        return model.preprocess(decode(images.root / name))

    for batch in batches(prefetch(preprocess, images.ids, settings.threads), settings.batch_size):
        model.module(torch.stack(batch))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(chunks).numpy() for name, chunks in outputs.items()}


def agreement(settings: Inputs) -> dict[str, Any]:
    """Compare the database with ``crop="none"`` with the output of the reference."""
    work = Path(settings.work)
    db = sl.open(work / "crops-none.semlens", embedder=sl.load_embedder(settings.embedder))
    reference = load_file(work / "reference.safetensors")
    readouts = all_readouts(settings)
    total = clear = same = wrong_examples = 0
    worst_example = worst_theta = worst_rank = 0.0
    for layer in settings.layers:
        truth = readouts[layer]
        frame = db.examples(layer)
        entry = db.layer(layer)
        our_samples = frame.pivot(index="component", columns="rank", values="sample").to_numpy()
        worst_rank = max(worst_rank, _rank_error(truth, our_samples))
        samples, vectors = (
            reference[f"{layer}/samples"].numpy(),
            reference[f"{layer}/vectors"].float(),
        )
        unit = torch.nn.functional.normalize(vectors, dim=-1).numpy()
        crop, used = db.crop_index(layer)
        our_vectors = db.crop_vectors[crop].astype(np.float32)
        for c in range(entry.rows):
            values = truth[:, c]
            order = np.sort(values)[::-1]
            last, following = order[settings.examples - 1], order[settings.examples]
            total += 1
            wrong_examples += int((values[samples[c]] < last * (1 - GAP)).sum())
            rank_of = {s: i for i, s in enumerate(our_samples[c]) if used[c, i]}
            shared = [(rank_of[s], j) for j, s in enumerate(samples[c]) if s in rank_of]
            for i, j in shared:
                worst_example = max(
                    worst_example, float(np.abs(our_vectors[c, i] - unit[c, j]).max())
                )
            if last - following > GAP * abs(last) and used[c].all():
                clear += 1
                if set(samples[c]) == set(our_samples[c]):
                    same += 1
                    theta = unit[c].mean(0)
                    difference = np.abs(db.theta[entry.first + c] - theta).max()
                    worst_theta = max(worst_theta, float(difference))
    overlap = _overlap(db, reference, settings)
    return {
        "components": total,
        "components_with_a_clear_gap": clear,
        "of_these_with_the_same_examples": same,
        "shared_examples": overlap,
        "reference_examples_below_rounding": wrong_examples,
        "largest_difference_of_our_ranking_from_float32": worst_rank,
        "largest_difference_of_an_example_vector": worst_example,
        "largest_difference_of_a_concept_vector": worst_theta,
        "same": same == clear
        and max(worst_example, worst_theta) <= TOLERANCE
        and not wrong_examples,
    }


def _rank_error(truth: np.ndarray, samples: np.ndarray) -> float:
    """Return the largest difference of our k-th readout from the true k-th largest."""
    k = samples.shape[1]
    best = -np.sort(-truth, axis=0)[:k].T
    return float(np.abs(np.take_along_axis(truth.T, samples.astype(int), 1) - best).max())


def _overlap(db: sl.ConceptDatabase, reference: dict[str, Tensor], settings: Inputs) -> float:
    """Return the mean share of common examples over all components."""
    shares: list[float] = []
    for layer in settings.layers:
        frame = db.examples(layer)
        our_samples = frame.pivot(index="component", columns="rank", values="sample").to_numpy()
        samples = reference[f"{layer}/samples"].numpy()
        shares += [len(set(a) & set(b)) / len(a) for a, b in zip(our_samples, samples, strict=True)]
    return float(np.mean(shares))
