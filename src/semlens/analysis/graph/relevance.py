"""The numbers of an attribution graph: shares of components, and what passes between groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from semlens.data.images import Images
from semlens.data.prefetch import default_workers, prefetch
from semlens.errors import RelevanceError
from semlens.models.subject import SubjectModel
from semlens.relevance.choose import make_engine
from semlens.relevance.classes import class_start, component_relevance, shares
from semlens.relevance.conditional import pairs_per_pass
from semlens.relevance.flow import Flow
from semlens.relevance.interface import OUTPUT, Traced, Tracer
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database

Progress = Callable[[str, int, int], None]
Groups = Sequence[Sequence[int]]
"""Places of components in their layer, group by group."""


@dataclass(frozen=True)
class Job:
    """Images of one class on their way through a model.

    Parameters
    ----------
    entries
        The layers, from the lowest to the highest.
    samples
        Which of the images.
    target
        The logit where relevance starts.
    """

    engine: Tracer
    model: SubjectModel
    images: Images | Sequence[Image.Image]
    samples: Sequence[int]
    target: int
    entries: Sequence[LayerEntry]
    batch_size: int
    progress: Progress

    def batches(self, stage: str) -> Iterator[tuple[Traced, Mapping[str, Tensor]]]:
        """Yield each batch, traced, with the class's relevance over activation at every layer."""
        done, held = 0, list[Tensor]()
        self.progress(stage, 0, len(self.samples))
        ready = prefetch(self._prepared, self.samples, default_workers(), 2 * self.batch_size)
        for tensor in ready:
            held.append(tensor)
            if len(held) == self.batch_size or done + len(held) == len(self.samples):
                yield self._pulled(self.model.batch(held))
                done += len(held)
                held = []
                self.progress(stage, done, len(self.samples))

    def picture(self, sample: int) -> Image.Image:
        """Return one of the images."""
        images = self.images
        return images.read(sample) if isinstance(images, Images) else images[sample]

    def _prepared(self, sample: int) -> Tensor:
        return self.model.preprocess(self.picture(sample))

    def _pulled(self, inputs: Tensor) -> tuple[Traced, Mapping[str, Tensor]]:
        trace = self.engine.trace(inputs)
        names = [entry.name for entry in self.entries]
        targets = torch.full((1, len(inputs)), self.target)
        found = trace.pull({OUTPUT: class_start(trace, targets)}, names, heat=False).layers
        for name in names:
            if name not in found:
                raise _unreached(name)
        return trace, found


def make_job(
    database: Database,
    model: SubjectModel,
    images: Images | Sequence[Image.Image],
    target: int,
    samples: Sequence[int] | np.ndarray | None = None,
    layers: Sequence[str] | None = None,
    engine: Tracer | None = None,
    batch_size: int | None = None,
    progress: Progress = lambda *_: None,
) -> Job:
    """Choose the engine and the batches; see :func:`semlens.attribution_graph`.

    Raises
    ------
    StaleError
        If the model is not the one of the database.
    RelevanceError
        If there is no image.
    """
    database.check_model(model)
    entries = [database.layer(name) for name in layers or database.layers]
    chosen = [int(i) for i in (range(len(images)) if samples is None else samples)]
    if not chosen:
        raise RelevanceError(
            "There is no image to trace.", "Expected at least one.", "Give images of the class."
        )
    names = [entry.name for entry in entries]
    if engine is None:
        first = images.read(chosen[0]) if isinstance(images, Images) else images[chosen[0]]
        example = model.batch([model.preprocess(first)])
        engine = make_engine(model.module, example, names, database.manifest.recipe.rules)
    order = engine.order(names)
    entries = sorted(entries, key=lambda entry: order.index(entry.name))
    batch_size = batch_size or pairs_per_pass(engine, entries[-1].name)
    return Job(engine, model, images, chosen, target, entries, batch_size, progress)


def per_component(
    entry: LayerEntry, trace: Traced, flow: Float[Tensor, "n u ..."]
) -> Float[Tensor, "n u k"]:
    """Return what reached a layer, for each of its components in the order of the database."""
    signed = component_relevance(trace, entry.name, flow)
    return signed.flatten(2) if entry.rows > entry.channels else signed.sum(2)


def component_shares(job: Job) -> dict[str, Float[Tensor, "s k"]]:
    """Return each component's share of its layer's relevance, sample by sample.

    Raises
    ------
    RelevanceError
        If a layer does not lie on the way to the logit.
    """
    parts: dict[str, list[Tensor]] = {entry.name: [] for entry in job.entries}
    for trace, found in job.batches("relevance"):
        for entry in job.entries:
            relevance = per_component(entry, trace, found[entry.name])[0]
            parts[entry.name].append(shares(relevance).cpu())
    found = {name: torch.cat(part) for name, part in parts.items()}
    for name, share in found.items():
        if not bool(share.any()):
            raise _unreached(name)
    return found


def _unreached(layer: str) -> RelevanceError:
    return RelevanceError(
        f"No relevance reaches the layer '{layer}'.",
        "Expected layers that lie between the images and the logits.",
        "Leave it out: --layers with the other ones.",
    )


def group_masks(
    entry: LayerEntry, value: Float[Tensor, "u ..."], groups: Groups
) -> Float[Tensor, "n ..."]:
    """Return 1 where a value of a layer belongs to a group, and 0 elsewhere.

    A channel of which both signs are components belongs to one of them where it is negative,
    and to the other elsewhere. The second axis has the length 1 if all images agree.
    """
    member = value.new_zeros(len(groups), entry.rows)
    for number, places in enumerate(groups):
        member[number, list(places)] = 1
    shape = [len(groups), *[1] * value.ndim]
    shape[2 if entry.form in ("map", "units") else -1] = entry.channels
    positive = member[:, : entry.channels].reshape(shape)
    if entry.rows == entry.channels:
        return positive
    return torch.where(value >= 0, positive, member[:, entry.channels :].reshape(shape))


def arrivals(
    upper: LayerEntry,
    lower: LayerEntry,
    trace: Traced,
    flow: Float[Tensor, "1 u ..."],
    groups: Groups,
    at_once: int,
) -> Float[Tensor, "n u k"]:
    """Return what reaches each lower component when relevance starts at one upper group only.

    Parameters
    ----------
    flow
        The class's relevance over activation at the upper layer.
    at_once
        Groups in one backward pass.
    """
    found: list[Tensor] = []
    for first in range(0, len(groups), at_once):
        masks = group_masks(upper, trace.values[upper.name], groups[first : first + at_once])
        pulled = trace.pull({upper.name: Flow(flow * masks)}, [lower.name], heat=False).layers
        if lower.name in pulled:
            found.append(per_component(lower, trace, pulled[lower.name]))
        else:  # nothing of the upper layer has come from the lower one
            found.append(flow.new_zeros(len(masks), flow.shape[1], lower.rows))
    return torch.cat(found)


@dataclass(frozen=True)
class Passed:
    """What passes between the groups of two layers.

    Parameters
    ----------
    weight
        float[a b]: share of the lower layer's relevance that comes from upper group a to lower
        group b, mean over samples.
    shown
        Share of the lower layer's relevance that all of this explains.
    """

    weight: Float[Tensor, "a b"]
    shown: float


def passed(job: Job, groups: Mapping[str, Groups]) -> dict[str, Passed]:
    """Return by lower layer what passes down to its groups from those of the layer above."""
    pairs = [
        (upper, lower)
        for lower, upper in zip(job.entries, job.entries[1:], strict=False)
        if groups[upper.name] and groups[lower.name]
    ]
    if not pairs:
        return {}
    weight = {
        lower.name: torch.zeros(len(groups[upper.name]), len(groups[lower.name]))
        for upper, lower in pairs
    }
    shown = {lower.name: 0.0 for _, lower in pairs}
    for trace, found in job.batches("connections"):
        images = len(trace.inputs)
        for upper, lower in pairs:
            at_once = max(1, pairs_per_pass(job.engine, upper.name) // images)
            flow = found[upper.name]
            came = arrivals(upper, lower, trace, flow, groups[upper.name], at_once)
            whole = per_component(lower, trace, found[lower.name])[0]
            share, explained = _shared(came, whole, groups[lower.name])
            weight[lower.name] += share / len(job.samples)
            shown[lower.name] += explained / len(job.samples)
    return {name: Passed(weight[name], shown[name]) for name in weight}


def per_total(total: Float[Tensor, " u"]) -> Float[Tensor, " u"]:
    """Return what turns relevance into shares; 0 for an image whose relevance is 0."""
    return torch.where(total > 0, 1 / total.clamp(min=torch.finfo(total.dtype).tiny), 0)


def _shared(
    came: Float[Tensor, "n u k"], whole: Float[Tensor, "u k"], groups: Groups
) -> tuple[Float[Tensor, "n b"], float]:
    """Divide by each sample's total, and sum over the samples.

    The second value is 1 less the share of what is missing, so that too much and too little
    count alike.
    """
    total = whole.abs().sum(1)
    scale = per_total(total)
    came = came * scale[:, None]
    summed = torch.stack([came[..., list(places)].sum((1, 2)) for places in groups], 1)
    kept = torch.zeros_like(whole)
    places = [place for group in groups for place in group]
    kept[:, places] = came.sum(0)[:, places]
    missing = (whole * scale[:, None] - kept).abs().sum(1)
    explained = torch.where(total > 0, 1 - missing, 0).sum()
    return summed.cpu(), float(explained)
