"""The numbers of an attribution graph: shares of components, and what passes between them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from semlens.analysis.class_images import ClassImages, Pictures, class_images
from semlens.analysis.engine import group_masks, per_component
from semlens.errors import RelevanceError
from semlens.models.forward import batches
from semlens.relevance.classes import class_start, shares
from semlens.relevance.conditional import pairs_per_pass
from semlens.relevance.flow import Flow
from semlens.relevance.interface import OUTPUT, Traced, Tracer
from semlens.relevance.presets import Rules
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.types import Layers

Groups = Sequence[Sequence[int]]
"""Places of components in their layer, group by group."""


@dataclass(frozen=True)
class Job:
    """Images on their way through a model, and the class where relevance starts.

    Parameters
    ----------
    entries
        The layers, from the lowest to the highest.
    """

    images: ClassImages
    engine: Tracer
    entries: Sequence[LayerEntry]
    batch_size: int

    def batches(self, stage: str) -> Iterator[tuple[Traced, Mapping[str, Tensor]]]:
        """Yield each batch, traced, with the class's relevance over activation at every layer.

        Raises
        ------
        RelevanceError
            If a layer does not lie on the way to the logit.
        """
        images, names = self.images, [entry.name for entry in self.entries]
        model = images.database.model
        for inputs in batches(model, images.read, images.samples, self.batch_size, stage):
            trace = self.engine.trace(inputs)
            start = class_start(trace, torch.full((1, len(inputs)), images.target))
            found = trace.pull({OUTPUT: start}, names, heat=False).layers
            _check_reached(names, found)
            yield trace, found


def make_job(
    database: Database,
    target: int | str,
    samples: int | Sequence[int] | np.ndarray,
    images: Pictures = None,
    layers: Layers = None,
    rules: str | Rules | None = None,
    batch_size: int | None = None,
) -> Job:
    """Choose images, engine and batches; see :func:`semlens.attribution_graph`."""
    names = database.chosen(layers)
    shown = class_images(database, target, samples, images)
    engine = shown.engine(names, rules)
    entries = [database.layer(name) for name in engine.order(names)]
    batch_size = batch_size or pairs_per_pass(engine, entries[-1].name)
    return Job(shown, engine, entries, batch_size)


def component_shares(job: Job) -> dict[str, Float32[np.ndarray, "s k"]]:
    """Return each component's share of its layer's relevance, sample by sample.

    Raises
    ------
    RelevanceError
        If a layer does not lie on the way to the logit.
    """
    parts: dict[str, list[np.ndarray]] = {entry.name: [] for entry in job.entries}
    for trace, found in job.batches("relevance"):
        for entry in job.entries:
            share = shares(per_component(entry, trace, found[entry.name])[0])
            parts[entry.name].append(share.float().cpu().numpy())
    whole = {name: np.concatenate(part) for name, part in parts.items()}
    _check_reached(whole, {name for name, share in whole.items() if share.any()})
    return whole


def _check_reached(names: Iterable[str], reached: Container[str]) -> None:
    for name in names:
        if name not in reached:
            raise RelevanceError(
                f"No relevance reaches the layer '{name}'.",
                "Expected layers that lie between the images and the logits.",
                "Leave it out: name the other ones with layers=.",
            )


def arrivals(
    job: Job, starts: Mapping[str, Groups], kept: Mapping[str, Sequence[int]]
) -> dict[str, Float32[np.ndarray, "s a k"]]:
    """Return by layer what reaches its kept components from each group of the layer above.

    Relevance starts at one group only, with what the class has brought there. It is in shares
    of the lower layer's absolute relevance. Layers of which nothing is kept, or nothing above,
    are left out.

    Parameters
    ----------
    starts, kept
        By layer, places of components in it.
    """
    pairs = [
        (upper, lower)
        for lower, upper in zip(job.entries, job.entries[1:], strict=False)
        if len(starts[upper.name]) and len(kept[lower.name])
    ]
    parts: dict[str, list[np.ndarray]] = {lower.name: [] for _, lower in pairs}
    for trace, found in job.batches("connections") if pairs else ():
        for upper, lower in pairs:
            total = per_component(lower, trace, found[lower.name])[0].abs().sum(1)
            came = _passed(job.engine, upper, lower, trace, found[upper.name], starts[upper.name])
            share = came[..., list(kept[lower.name])] * per_total(total)[:, None]
            parts[lower.name].append(share.transpose(0, 1).float().cpu().numpy())
    return {name: np.concatenate(part) for name, part in parts.items()}


def _passed(
    engine: Tracer,
    upper: LayerEntry,
    lower: LayerEntry,
    trace: Traced,
    flow: Float[Tensor, "1 u ..."],
    groups: Groups,
) -> Float[Tensor, "n u k"]:
    """Return what reaches each lower component when relevance starts at one upper group only.

    Parameters
    ----------
    flow
        The class's relevance over activation at the upper layer.
    """
    found: list[Tensor] = []
    step = max(1, pairs_per_pass(engine, upper.name) // len(trace.inputs))
    for first in range(0, len(groups), step):
        masks = group_masks(upper, trace.values[upper.name], groups[first : first + step])
        pulled = trace.pull({upper.name: Flow(flow * masks)}, [lower.name], heat=False).layers
        if lower.name in pulled:
            found.append(per_component(lower, trace, pulled[lower.name]))
        else:  # nothing of the upper layer has come from the lower one
            found.append(flow.new_zeros(len(masks), flow.shape[1], lower.rows))
    return torch.cat(found)


def per_total(total: Float[Tensor, " u"]) -> Float[Tensor, " u"]:
    """Return what turns relevance into shares; 0 for an image whose relevance is 0."""
    return torch.where(total > 0, 1 / total.clamp(min=torch.finfo(total.dtype).tiny), 0)
