"""A trace of a class: what its attribution graphs are cut out of, without the model.

It holds the strongest components of every layer one by one, sample by sample, so that
:mod:`semlens.analysis.graph.prune` gets any smaller graph of it exactly. When one graph is
wanted and no other, :func:`semlens.attribution_graph` is cheaper: it starts once per group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from PIL import Image

from semlens.analysis.graph.relevance import (
    Job,
    Progress,
    arrivals,
    component_shares,
    make_job,
    per_component,
    per_total,
)
from semlens.data.images import Images
from semlens.models.subject import SubjectModel
from semlens.relevance.conditional import pairs_per_pass
from semlens.relevance.interface import Tracer
from semlens.store.reader import Database

MOST = 48
"""Components of a layer: in nets whose relevance is spread, these carry most of it."""


@dataclass(frozen=True, eq=False)
class TracedLayer:
    """The strongest components of a layer, over the s samples of a class.

    Parameters
    ----------
    places
        int64[k], their places in the layer; strongest first, by the sample where the share is
        largest in size.
    share
        float32[s k], their shares of the layer's absolute relevance.
    mass
        float32[s], the shares of all components of the layer, in size: 1, or 0 for a sample
        whose relevance does not reach it.
    came
        float32[s a k], what comes to them from each of the a components of the layer above, in
        the same shares; none (a = 0) at the highest layer.
    """

    name: str
    places: Int64[np.ndarray, " k"]
    share: Float32[np.ndarray, "s k"]
    mass: Float32[np.ndarray, " s"]
    came: Float32[np.ndarray, "s a k"]

    @property
    def strength(self) -> Float32[np.ndarray, " k"]:
        """Each component's share, in size, on the sample where it is largest."""
        return np.abs(self.share).max(0)


@dataclass(frozen=True, eq=False)
class GraphTrace:
    """How the relevance of a class comes down through single components.

    Parameters
    ----------
    target
        The class's logit.
    samples
        The samples it was traced on.
    rules
        The rules of relevance.
    layers
        From the lowest to the highest.
    """

    target: int
    samples: tuple[int, ...]
    rules: str
    layers: tuple[TracedLayer, ...]


def trace_class(
    database: Database,
    model: SubjectModel,
    images: Images | Sequence[Image.Image],
    target: int,
    samples: Sequence[int] | np.ndarray,
    *,
    layers: Sequence[str] | None = None,
    most: int = MOST,
    engine: Tracer | None = None,
    batch_size: int | None = None,
    progress: Progress = lambda *_: None,
) -> GraphTrace:
    """Trace the relevance of a class down through single components.

    Parameters
    ----------
    samples
        Which of the images.
    most
        How many components of a layer: the strongest ones.

    Other parameters and errors are those of :func:`semlens.attribution_graph`.
    """
    job = make_job(database, model, images, target, samples, layers, engine, batch_size, progress)
    share = {name: part.float() for name, part in component_shares(job).items()}
    kept = {
        name: part.abs().amax(0).argsort(descending=True, stable=True)[:most]
        for name, part in share.items()
    }
    came = _between(job, kept)
    return GraphTrace(
        target,
        tuple(job.samples),
        job.engine.rules.name,
        tuple(
            TracedLayer(
                entry.name,
                kept[entry.name].numpy(),
                share[entry.name][:, kept[entry.name]].numpy(),
                share[entry.name].abs().sum(1).numpy(),
                came[entry.name],
            )
            for entry in job.entries
        ),
    )


def reached_layers(database: Database, target: int, layers: Sequence[str] | None) -> list[str]:
    """Return the layers that relevance for a class reaches, as far as the database knows."""
    names = database.chosen(layers)
    if database.manifest.relevance is None:
        return names
    found = [name for name in names if len(database.relevance(target, [name]))]
    return found or names


def _between(job: Job, kept: Mapping[str, torch.Tensor]) -> dict[str, Float32[np.ndarray, "s a k"]]:
    """Return by layer what comes to its kept components from each kept one above."""
    highest = job.entries[-1].name
    none = np.zeros((len(job.samples), 0, len(kept[highest])), np.float32)
    parts: dict[str, list[torch.Tensor]] = {entry.name: [] for entry in job.entries[:-1]}
    if not parts:
        return {highest: none}
    for trace, found in job.batches("connections"):
        for lower, upper in zip(job.entries, job.entries[1:], strict=False):
            at_once = max(1, pairs_per_pass(job.engine, upper.name) // len(trace.inputs))
            single = [[place] for place in kept[upper.name].tolist()]
            came = arrivals(upper, lower, trace, found[upper.name], single, at_once)
            whole = per_component(lower, trace, found[lower.name])[0]
            mine = came[..., kept[lower.name].to(came.device)]
            share = mine * per_total(whole.abs().sum(1))[:, None]
            parts[lower.name].append(share.transpose(0, 1).float().cpu())
    return {highest: none} | {name: torch.cat(part).numpy() for name, part in parts.items()}
