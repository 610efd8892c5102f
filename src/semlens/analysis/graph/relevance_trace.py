"""The numbers of an attribution graph: shares of components, and what passes between them.

A trace of a class is what its graphs are cut out of, without the model. It holds the strongest
components of every layer one by one, sample by sample, so that
:mod:`semlens.analysis.graph.prune_graph` gets any smaller graph of it exactly. When one graph is
wanted and no other, :func:`semlens.attribution_graph` is cheaper: it starts once per group.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from semlens.analysis.classes import (
    ClassImages,
    Pictures,
    Samples,
    class_images,
    class_samples,
    find_class,
)
from semlens.analysis.database_engine import group_masks, per_component
from semlens.errors import RelevanceError
from semlens.models.forward import batches
from semlens.relevance.class_relevance import class_seed, shares
from semlens.relevance.conditional_heatmaps import pairs_per_pass
from semlens.relevance.presets import Rules
from semlens.relevance.protocols import OUTPUT, ForwardTrace, RelevanceEngine
from semlens.relevance.relevance_signal import RelevanceSignal
from semlens.settings import question
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.types import Layers, Target

Groups = Sequence[Sequence[int]]
"""Places of components in their layer, group by group."""


@dataclass(frozen=True)
class TraceJob:
    """Images on their way through a model, and the class where relevance starts.

    Parameters
    ----------
    entries
        The layers, from the lowest to the highest.
    """

    images: ClassImages
    engine: RelevanceEngine
    entries: Sequence[LayerEntry]
    batch_size: int

    def batches(self, stage: str) -> Iterator[tuple[ForwardTrace, Mapping[str, Tensor]]]:
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
            start = class_seed(trace, torch.full((1, len(inputs)), images.target))
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
) -> TraceJob:
    """Choose images, engine and batches; see :func:`semlens.attribution_graph`."""
    names = database.chosen(layers)
    shown = class_images(database, target, samples, images)
    engine = shown.engine(names, rules)
    entries = [database.layer(name) for name in engine.order(names)]
    return TraceJob(shown, engine, entries, batch_size or pairs_per_pass(engine, entries[-1].name))


def component_shares(job: TraceJob) -> dict[str, Float32[np.ndarray, "s k"]]:
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
    job: TraceJob, starts: Mapping[str, Groups], kept: Mapping[str, Sequence[int]]
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
            # 0 for an image whose relevance is 0
            per = torch.where(total > 0, 1 / total.clamp(min=torch.finfo(total.dtype).tiny), 0)
            share = came[..., list(kept[lower.name])] * per[:, None]
            parts[lower.name].append(share.transpose(0, 1).float().cpu().numpy())
    return {name: np.concatenate(part) for name, part in parts.items()}


def _passed(
    engine: RelevanceEngine,
    upper: LayerEntry,
    lower: LayerEntry,
    trace: ForwardTrace,
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
        pulled = trace.pull(
            {upper.name: RelevanceSignal(flow * masks)}, [lower.name], heat=False
        ).layers
        if lower.name in pulled:
            found.append(per_component(lower, trace, pulled[lower.name]))
        else:  # nothing of the upper layer has come from the lower one
            found.append(flow.new_zeros(len(masks), flow.shape[1], lower.rows))
    return torch.cat(found)


MOST = 48
"""Components of a layer: in nets whose relevance is spread, these carry most of it."""
IMAGES = 30
"""Images of the class."""
VERSION = 2
"""Of what a kept trace means; an older one is computed again."""


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

    def to_frame(self) -> pd.DataFrame:
        """Return the trace as a table that a database can keep, a row per component."""
        frame = pd.DataFrame(
            [
                (layer.name, int(place), layer.share[:, k], layer.came[:, :, k].ravel())
                for layer in self.layers
                for k, place in enumerate(layer.places)
            ],
            columns=["layer", "place", "share", "came"],
        )
        frame.attrs = {
            "target": self.target,
            "samples": list(self.samples),
            "rules": self.rules,
            "mass": {layer.name: layer.mass.tolist() for layer in self.layers},
        }
        return frame

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> GraphTrace:
        """Return the trace that :meth:`to_frame` has made a table of."""
        attrs, layers = frame.attrs, list[TracedLayer]()
        for name, part in frame.groupby("layer", sort=False):
            share, came = (
                np.stack(list(part[key]), -1).astype(np.float32) for key in ("share", "came")
            )
            mass = np.array(attrs["mass"][name], np.float32)
            places = part["place"].to_numpy(np.int64)
            shaped = came.reshape(len(share), -1, len(part))
            layers.append(TracedLayer(str(name), places, share, mass, shaped))
        return cls(attrs["target"], tuple(attrs["samples"]), attrs["rules"], tuple(layers))


@question("model", "images", public=False)
def trace_class(
    database: Database,
    target: Target,
    *,
    samples: Samples = IMAGES,
    layers: Layers = None,
    most: int = MOST,
    batch_size: int | None = None,
) -> GraphTrace:
    """Trace the relevance of a class down through single components.

    The trace is kept in the database. Layers that relevance for the class does not reach, as
    far as the database knows, are left out.

    Parameters
    ----------
    samples
        How many samples of the class at most, or the numbers of any samples.
    most
        How many components of a layer: the strongest ones.

    Other parameters and errors are those of :func:`semlens.attribution_graph`.
    """
    number = find_class(database, target)
    chosen = class_samples(database, number, samples) if isinstance(samples, int) else samples
    names = reached_layers(database, number, layers)
    manifest = database.manifest
    key = [
        VERSION,
        manifest.model.fingerprint,
        manifest.data.fingerprint,
        manifest.recipe.rules,
        [[entry.name, entry.rows] for entry in manifest.layers if entry.name in names],
        number,
        [int(sample) for sample in chosen],
        most,
    ]

    def make() -> pd.DataFrame:
        job = make_job(database, number, chosen, layers=names, batch_size=batch_size)
        layers = strongest(job, most)
        places = {layer.name: layer.places.tolist() for layer in layers}
        single = {name: [[place] for place in part] for name, part in places.items()}
        came = arrivals(job, single, places)
        layers = [replace(layer, came=came.get(layer.name, layer.came)) for layer in layers]
        rules = job.engine.rules.name
        return GraphTrace(number, tuple(job.images.samples), rules, tuple(layers)).to_frame()

    return GraphTrace.of_frame(database.cached("graph", key, make))


def strongest(job: TraceJob, most: int | None = None) -> list[TracedLayer]:
    """Return each layer's strongest components, without what comes to them from above."""
    found: list[TracedLayer] = []
    for name, share in component_shares(job).items():
        size = np.abs(share)
        places = np.argsort(-size.max(0), kind="stable")[:most]
        none = np.zeros((len(share), 0, len(places)), np.float32)
        found.append(TracedLayer(name, places, share[:, places], size.sum(1), none))
    return found


def reached_layers(database: Database, target: int, layers: Layers = None) -> list[str]:
    """Return the layers that relevance for a class reaches, as far as the database knows."""
    names = database.chosen(layers)
    if database.manifest.relevance is None or (
        target not in set(database.relevance_classes["class"])
    ):
        return names
    return [name for name in names if len(database.relevance(target, [name]))] or names
