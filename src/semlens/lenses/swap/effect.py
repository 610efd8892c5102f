"""What it does to the class's logit and to every component if images get a part of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from semlens.errors import ModelError
from semlens.lenses.component_readouts import by_component
from semlens.lenses.swap.pairs import Pairs
from semlens.models.forward import NO_LOGITS, batches, readouts_and_logits_of
from semlens.store.reader import Database


@dataclass(frozen=True, eq=False)
class SwapEffect:
    """The difference that it makes whether a part comes from the class or from a third one.

    Parameters
    ----------
    gain
        Mean rise of the class's logit.
    rise
        Mean rise of each component's readout.
    effect
        The same in standard deviations between images (Cohen's d); 0 where all are equal.
    """

    gain: float
    rise: Float64[np.ndarray, " components"]
    effect: Float64[np.ndarray, " components"]


Images = Float[Tensor, "b 3 h w"]
Transfer = Callable[[Images, Images, slice], Images]
"""Returns images with a part of others (receivers, sources, and which of the pairs they are)."""


def paste(regions: Bool[Tensor, "n h w"]) -> Transfer:
    """Return the transfer of regions."""

    def transfer(receivers: Images, sources: Images, part: slice) -> Images:
        return torch.where(regions[part, None].to(receivers.device), sources, receivers)

    return transfer


def model_inputs(database: Database, samples: np.ndarray) -> Float[Tensor, "b 3 h w"]:
    """Return preprocessed samples as one batch."""
    stream = batches(database.model, database.images.read, samples.tolist(), len(samples), None)
    return next(stream)


def swap_effect(
    database: Database,
    pairs: Pairs,
    transfer: Transfer,
    layers: Sequence[str],
    batch_size: int,
) -> SwapEffect:
    """Give each receiver a part of its donor, and compare with the third class's donor.

    Images are the model's input, so that what is exchanged is what the model sees.

    Raises
    ------
    ModelError
        If the model has no logits.
    """
    runs: list[tuple[list[np.ndarray], list[np.ndarray]]] = [([], []), ([], [])]
    for start in range(0, len(pairs.receivers), batch_size):
        part = slice(start, start + batch_size)
        receivers, *sources = (
            model_inputs(database, samples[part])
            for samples in (pairs.receivers, pairs.donors, pairs.third)
        )
        for (logits, readouts), source in zip(runs, sources, strict=True):
            batch = transfer(receivers, source, part)
            logit, values = _run(database, batch, pairs.target, layers)
            logits.append(logit)
            readouts.append(values)
    (logit, values), (third_logit, third_values) = (map(np.concatenate, one) for one in runs)
    rise = values.mean(0) - third_values.mean(0)
    spread = np.sqrt((values.var(0) + third_values.var(0)) / 2)
    effect = np.divide(rise, spread, out=np.zeros_like(rise), where=spread > 0)
    return SwapEffect(float((logit - third_logit).mean()), rise, effect)


def _run(
    database: Database, batch: Tensor, target: int, layers: Sequence[str]
) -> tuple[Float64[np.ndarray, " b"], Float64[np.ndarray, "b components"]]:
    """Return the class's logit and the readout of every component."""
    readout = database.manifest.recipe.readout
    values, logits = readouts_and_logits_of(database.model, [batch], layers, readout)
    if logits is None or target >= logits.shape[1]:
        received = "no logits" if logits is None else f"{logits.shape[1]} logits per image"
        raise ModelError(
            f"The model returns {received}; the class has number {target}.", *NO_LOGITS
        )
    return (
        logits[:, target].astype(np.float64),
        by_component(database, layers, values).astype(np.float64),
    )
