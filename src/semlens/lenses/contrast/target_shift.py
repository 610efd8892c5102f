"""How a target that is no class differs between two groups, and which components it relies on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from semlens.lenses.contrast.image_groups import ImageGroup
from semlens.lenses.graph.relevance_trace import IMAGES, component_shares, make_job
from semlens.lenses.statistics.separation import separate
from semlens.models.forward import batches, target_values
from semlens.models.hooks import evaluating
from semlens.models.target import Target
from semlens.store.reader import Database
from semlens.wording import p_text


@dataclass(frozen=True)
class TargetShift:
    """A target in two groups of images.

    Parameters
    ----------
    name
        The target.
    shift
        Mean in the first group minus mean in the second, in units of the target.
    auroc, low, high
        Probability that an image of the first group has the larger value, and its 95 % interval.
    p_value
        Of the permutation test, for the target by itself.
    """

    name: str
    shift: float
    auroc: float
    low: float
    high: float
    p_value: float

    @property
    def sentence(self) -> str:
        """The shift in words."""
        return (
            f"'{self.name}' shifts by {self.shift:+.2f} on average (AUROC {self.auroc:.2f}, "
            f"{p_text(self.p_value)})."
        )


@torch.inference_mode()
def _values(
    database: Database, target: Target, group: ImageGroup, batch_size: int
) -> Float64[np.ndarray, " n"]:
    model = database.model
    stream = batches(model, group.images.read, group.samples, batch_size)
    with evaluating(model.module):
        return np.concatenate([target_values(model, batch, target) for batch in stream])


def target_shift(
    database: Database,
    target: Target,
    groups: tuple[ImageGroup, ImageGroup],
    blocks: Int64[np.ndarray, " images"],
    draws: int,
    bursts: Int64[np.ndarray, " images"],
    batch_size: int,
) -> TargetShift:
    """Compare a target between two groups, by the same test as logits.

    Raises
    ------
    RelevanceError
        If the model's output has no such target.
    """
    a, b = (_values(database, target, group, batch_size) for group in groups)
    found = separate(a[:, None], b[:, None], blocks, draws, bursts=bursts)
    numbers = {name: float(value[0]) for name, value in vars(found).items()}
    return TargetShift(target.name, float(a.mean() - b.mean()), **numbers)


def target_shares(
    database: Database, target: Target, groups: tuple[ImageGroup, ImageGroup], layers: list[str]
) -> Float32[np.ndarray, " components"]:
    """Return every component's mean share of relevance for a target; NaN in other layers.

    It is computed on at most 30 images of each group, evenly spaced, and both groups count alike.
    """
    shares = np.full(database.manifest.rows, np.nan, np.float32)
    found: list[dict[str, np.ndarray]] = []
    for group in groups:
        places = np.linspace(0, len(group) - 1, min(IMAGES, len(group))).round().astype(int)
        samples = [group.samples[place] for place in places]
        job = make_job(database, target, samples, group.images, layers)
        found.append({name: one.mean(0) for name, one in component_shares(job).items()})
    for name in layers:
        shares[database.rows([name])] = (found[0][name] + found[1][name]) / 2
    return shares
