"""The map of many components: semlens beside UMAP's own layout, in time and trustworthiness.

    python -m benchmarks map                        # 20,000 beside UMAP alone, then 100,000
    python -m benchmarks map --components 50000

The vectors are random with the spectrum of real ones, as in ``scale``. Trustworthiness (Venna
and Kaski, 2001) says how few of the 15 nearest on the map are far away in semantic space, from 0 to
1; it is computed exactly, among the components of the smaller map, for a random sample of these.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.nn import functional

from benchmarks.harness import Clock, benchmark, log
from benchmarks.worlds.many_components import random_vectors
from semlens.lenses.describe import clusters
from semlens.lenses.describe.clusters import MIN_DIST, NEIGHBOURS, compute_layout

OPTIONS: dict[str, dict[str, Any]] = {
    "--components": {"type": int, "default": 100_000, "help": "components of the large map"},
    "--beside": {"type": int, "default": 20_000, "help": "components of that beside UMAP's own"},
}
GOAL_SECONDS, GOAL_DIFFERENCE = 120.0, 0.02
SAMPLED = 2000
"""Components whose neighbourhoods are compared."""


@benchmark(minutes=4, quoted=("docs/map.md",), options=OPTIONS)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Lay out both sizes."""
    if options.quick:
        with patch.object(clusters, "MANY", 200):
            return lay_out(400, 300, 32)
    return lay_out(options.components, options.beside, 512)


def lay_out(many: int, beside: int, dim: int) -> dict[str, Any]:
    """Lay out a small map by both, and a large one."""
    torch.manual_seed(0)
    units = functional.normalize(random_vectors(max(many, beside), dim), dim=1).numpy()
    compute_layout(units[:100], 0)  # compiles UMAP
    few = units[:beside]
    own, ours = laid_out(umap_alone, few, beside), laid_out(compute_layout, few, beside)
    large = laid_out(compute_layout, units[:many], beside)
    return {
        "goal_seconds": GOAL_SECONDS,
        "goal_difference": GOAL_DIFFERENCE,
        "dimensions": dim,
        "maps": {f"UMAP, {beside}": own, f"semlens, {beside}": ours, f"semlens, {many}": large},
        "cpu_over_umap": ours["cpu_seconds"] / own["cpu_seconds"],
        "trustworthiness_lost": own["trustworthiness"] - ours["trustworthiness"],
        "trustworthiness_lost_by_large": own["trustworthiness"] - large["trustworthiness"],
    }


def umap_alone(units: np.ndarray, seed: int) -> np.ndarray:
    """Return UMAP's layout with its own neighbours and start."""
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads, which a seed forbids
        umap = UMAP(NEIGHBOURS, min_dist=MIN_DIST, metric="cosine", random_state=seed, n_jobs=1)
        return umap.fit_transform(units)


Layout = Callable[[np.ndarray, int], np.ndarray]


def laid_out(layout: Layout, units: np.ndarray, judged: int) -> dict[str, float]:
    """Return the time of a layout and its trustworthiness, for the first components alone.

    Among more components the 15 nearest are nearer, and the plane has less room for them: only
    maps of the same components can be compared.
    """
    log(f"laying out {len(units)} components")
    with Clock() as clock:
        positions = layout(units, 0)
    trusted = trustworthiness(units[:judged], positions[:judged])
    return {**clock.read(), "trustworthiness": trusted}


def trustworthiness(units: np.ndarray, positions: np.ndarray, sampled: int = SAMPLED) -> float:
    """Return the trustworthiness of the neighbourhoods of a random sample, among all vectors."""
    size, count = len(units), NEIGHBOURS
    rows = np.random.default_rng(0).permutation(size)[:sampled]
    vectors, places = torch.from_numpy(units), torch.from_numpy(positions.astype(np.float64))
    too_far = 0
    for part in torch.from_numpy(rows).split(max(1, 2**24 // size)):
        cosines, self = vectors[part] @ vectors.T, torch.arange(len(part))
        cosines[self, part] = torch.inf
        distances = torch.cdist(places[part], places)
        distances[self, part] = -1
        nearest = distances.topk(count + 1, largest=False).indices[:, 1:]
        for neighbour in nearest.T:
            rank = (cosines > cosines.gather(1, neighbour[:, None])).sum(1)
            too_far += int((rank - count).clamp(min=0).sum())
    return 1 - 2 * too_far / (len(rows) * count * (2 * size - 3 * count - 1))
