"""Relevance traces: shares of components, and the relevance that passes between layers.

A trace of a class contains the strongest components of every layer one by one, for each sample.
``prune_graph`` of ``attribution_graph`` derives any smaller graph from it exactly,
without the model. For a single graph, ``db.attribution_graph`` is cheaper, because it
propagates relevance once per group, not once per component.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from semlens.errors import LayerError, RelevanceError
from semlens.lens import lens
from semlens.lenses.arguments import Class, Samples
from semlens.lenses.classes import (
    OTHER_IMAGES,
    Pictures,
    TargetImages,
    class_samples,
    target_images,
)
from semlens.lenses.database_engine import group_masks, relevance_per_component
from semlens.models.forward import batches
from semlens.models.target import Target
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.class_relevance import shares, target_seed
from semlens.relevance.conditional_heatmaps import pairs_per_pass
from semlens.relevance.presets import Rules
from semlens.relevance.protocols import ForwardTrace, RelevanceEngine
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.types import Layers


def reached_layers(database: Database, target: int | None, layers: Layers = None) -> list[str]:
    """Return the layers with relevance for a class, according to the database.

    All layers if the database has no relevance for the class, or the target is not one class.
    """
    names = database.layer_names(layers)
    if database.manifest.relevance is None or (
        target not in set(database.relevance_classes["class"])
    ):
        return names
    return [name for name in names if len(database.relevance(target, [name]))] or names


def single_readings(database: Database, layers: Layers = None) -> list[str]:
    """Return layers without those that read the same layer: its own components are kept.

    Raises
    ------
    LayerError
        If several readings of a layer are asked for: no relevance flows between them.
    """
    names = database.layer_names(layers)
    readings: dict[str, list[str]] = {}
    for name in names:
        dictionary = database.layer(name).dictionary
        readings.setdefault(dictionary.layer if dictionary else name, []).append(name)
    for same in readings.values():
        if len(same) > 1 and layers is not None:
            raise LayerError(
                f"{' and '.join(same)} are readings of the same layer.",
                "Expected one of each layer: a graph leads from one layer to the one below.",
                f"Choose the layers, for example only {same[-1]}.",
            )
    chosen = {layer if layer in same else same[0] for layer, same in readings.items()}
    return [name for name in names if name in chosen]


def graph_layers(database: Database, target: int, layers: Layers = None) -> list[str]:
    """Return the layers of a class's graph: one reading of each layer that has relevance for it."""
    return reached_layers(database, target, single_readings(database, layers))


ComponentGroups = Sequence[Sequence[int]]
"""Indices of components in their layer, group by group."""


@dataclass(frozen=True)
class TraceJob:
    """Images, engine and layers for tracing the relevance of a class.

    Parameters
    ----------
    entries
        The layers, from the lowest to the highest.
    """

    images: TargetImages
    engine: RelevanceEngine
    entries: Sequence[LayerEntry]
    batch_size: int

    def batches(self, stage: str) -> Iterator[tuple[ForwardTrace, Mapping[str, Tensor]]]:
        """Yield the trace of each batch, and the class's relevance over activation by layer.

        Raises
        ------
        RelevanceError
            If the class's logit does not depend on a layer.
        """
        images, names = self.images, [entry.name for entry in self.entries]
        model = images.database.model
        for inputs in batches(model, images.read, images.samples, self.batch_size, stage):
            trace = self.engine.trace(inputs)
            seed = target_seed(trace, images.target).signals
            relevance = trace.backward(seed, names, heatmaps=False).layers
            _check_reached(names, relevance)
            yield trace, relevance


def make_job(
    database: Database,
    target: int | Target,
    samples: int | Sequence[int],
    images: Pictures = None,
    layers: Layers = None,
    rules: str | Rules | None = None,
    batch_size: int | None = None,
) -> TraceJob:
    """Resolve images, engine and batch size; see ``db.attribution_graph``."""
    names = database.layer_names(layers)
    class_data = target_images(database, target, samples, images)
    engine = class_data.engine(names, rules)
    entries = [database.layer(name) for name in engine.sort_layers(names)]
    return TraceJob(
        class_data, engine, entries, batch_size or pairs_per_pass(engine, entries[-1].name)
    )


def component_shares(job: TraceJob) -> dict[str, Float32[np.ndarray, "s k"]]:
    """Return each component's share of its layer's relevance on each sample.

    Raises
    ------
    RelevanceError
        If the class's logit does not depend on a layer.
    """
    batch_shares: dict[str, list[np.ndarray]] = {entry.name: [] for entry in job.entries}
    for trace, relevance in job.batches("relevance"):
        for entry in job.entries:
            share = shares(relevance_per_component(entry, trace, relevance[entry.name])[0])
            batch_shares[entry.name].append(share.cpu().float().numpy())
    shares_by_layer = {name: np.concatenate(arrays) for name, arrays in batch_shares.items()}
    _check_reached(
        shares_by_layer, {name for name, share in shares_by_layer.items() if share.any()}
    )
    return shares_by_layer


def _check_reached(names: Iterable[str], reached: Container[str]) -> None:
    for name in names:
        if name not in reached:
            raise RelevanceError(
                f"No relevance reaches the layer '{name}'.",
                "Expected layers between the images and the logits.",
                "Leave it out of layers.",
            )


def received_relevance(
    job: TraceJob, groups: Mapping[str, ComponentGroups], selected: Mapping[str, Sequence[int]]
) -> dict[str, Float32[np.ndarray, "s a k"]]:
    """Return by layer the relevance that its components receive from groups of the layer above.

    For each of the a groups, only the relevance that the class assigns to this group is
    propagated. Values are shares of the lower layer's absolute relevance. Layers without
    selected components, or without groups in the layer above, are left out.

    Parameters
    ----------
    groups, selected
        By layer, indices of its components.
    """
    pairs = [
        (upper, lower)
        for lower, upper in zip(job.entries, job.entries[1:], strict=False)
        if len(groups[upper.name]) and len(selected[lower.name])
    ]
    batch_shares: dict[str, list[np.ndarray]] = {lower.name: [] for _, lower in pairs}
    for trace, relevance in job.batches("connections") if pairs else ():
        for upper, lower in pairs:
            total = relevance_per_component(lower, trace, relevance[lower.name])[0].abs().sum(1)
            passed = _passed(
                job.engine, upper, lower, trace, relevance[upper.name], groups[upper.name]
            )
            # 0 for images without relevance
            scale = torch.where(total > 0, 1 / total.clamp(min=torch.finfo(total.dtype).tiny), 0)
            share = passed[..., list(selected[lower.name])] * scale[:, None]
            batch_shares[lower.name].append(share.transpose(0, 1).cpu().float().numpy())
    return {name: np.concatenate(arrays) for name, arrays in batch_shares.items()}


def _passed(
    engine: RelevanceEngine,
    upper: LayerEntry,
    lower: LayerEntry,
    trace: ForwardTrace,
    relevance: Float[Tensor, "1 u ..."],
    groups: ComponentGroups,
) -> Float[Tensor, "n u k"]:
    """Return the relevance of lower components if it starts at one group of the upper layer only.

    Parameters
    ----------
    relevance
        The class's relevance over activation at the upper layer.
    """
    passed: list[Tensor] = []
    step = max(1, pairs_per_pass(engine, upper.name) // len(trace.inputs))
    for start in range(0, len(groups), step):
        masks = group_masks(upper, trace.values[upper.name], groups[start : start + step])
        layers = trace.backward(
            {upper.name: BackwardSignal(relevance * masks)}, [lower.name], heatmaps=False
        ).layers
        if lower.name in layers:
            passed.append(relevance_per_component(lower, trace, layers[lower.name]))
        else:  # the upper layer does not depend on the lower one
            passed.append(relevance.new_zeros(len(masks), relevance.shape[1], lower.rows))
    return torch.cat(passed)


MAX_COMPONENTS = 48
"""Components per layer: even if relevance is spread out, they carry most of it."""
IMAGES = 30
"""Images of the class."""
VERSION = 2
"""Version of cached traces; older ones are recomputed."""


@dataclass(frozen=True, eq=False)
class TracedLayer:
    """The k strongest components of a layer, on s samples of a class.

    Parameters
    ----------
    indices
        int64[k], indices of the components in the layer, strongest first (see
        :attr:`strength`).
    share
        float32[s k], their shares of the layer's absolute relevance.
    total
        float32[s], sum of the absolute shares of all components of the layer: 1, or 0 for a
        sample without relevance in this layer.
    received
        float32[s a k], the part of their shares that they receive from each of the a components
        of the layer above; empty (a = 0) for the highest layer.
    """

    name: str
    indices: Int64[np.ndarray, " k"]
    share: Float32[np.ndarray, "s k"]
    total: Float32[np.ndarray, " s"]
    received: Float32[np.ndarray, "s a k"]

    @property
    def strength(self) -> Float32[np.ndarray, " k"]:
        """float32[k], largest absolute share of each component over the samples."""
        return np.abs(self.share).max(0)


@dataclass(frozen=True, eq=False)
class GraphTrace:
    """The relevance of a class, traced through single components.

    Parameters
    ----------
    target
        The class's logit.
    samples
        Numbers of the samples.
    rules
        Name of the relevance rules.
    layers
        From the lowest to the highest.
    """

    target: int
    samples: tuple[int, ...]
    rules: str
    layers: tuple[TracedLayer, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return the trace as a table for the database's cache, one row per component.

        In cached tables, indices are called "place", received relevance "came", and totals
        "mass".
        """
        frame = pd.DataFrame(
            [
                (layer.name, int(index), layer.share[:, k], layer.received[:, :, k].ravel())
                for layer in self.layers
                for k, index in enumerate(layer.indices)
            ],
            columns=["layer", "place", "share", "came"],
        )
        frame.attrs = {
            "target": self.target,
            "samples": list(self.samples),
            "rules": self.rules,
            "mass": {layer.name: layer.total.tolist() for layer in self.layers},
        }
        return frame

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> GraphTrace:
        """Return the trace from a table of :meth:`to_frame`."""
        attrs, layers = frame.attrs, list[TracedLayer]()
        for name, rows in frame.groupby("layer", sort=False):
            share, received = (
                np.stack(list(rows[key]), -1).astype(np.float32) for key in ("share", "came")
            )
            total = np.array(attrs["mass"][name], np.float32)
            indices = rows["place"].to_numpy(np.int64)
            received_shaped = received.reshape(len(share), -1, len(rows))
            layers.append(TracedLayer(str(name), indices, share, total, received_shaped))
        return cls(attrs["target"], tuple(attrs["samples"]), attrs["rules"], tuple(layers))


@lens("model", "images")
def trace_class(
    database: Database,
    target: Class,
    *,
    samples: Samples = IMAGES,
    layers: Layers = None,
    max_components: int = MAX_COMPONENTS,
    batch_size: int | None = None,
) -> GraphTrace:
    """Trace the relevance of a class through single components.

    The trace is cached in the database. Layers without relevance for the class, according to the
    database, are left out.

    Parameters
    ----------
    samples
        Maximum number of samples of the class, or numbers of any samples.
    max_components
        Number of components per layer, the strongest ones.

    Other parameters and errors are those of ``db.attribution_graph``.
    """
    if isinstance(samples, int):
        samples = class_samples(database, target, samples, instead=OTHER_IMAGES).tolist()
    names = graph_layers(database, target, layers)
    manifest = database.manifest
    key = [
        VERSION,
        manifest.model.fingerprint,
        manifest.data.fingerprint,
        manifest.recipe.rules,
        [[entry.name, entry.rows] for entry in manifest.layers if entry.name in names],
        target,
        samples,
        max_components,
    ]

    def make() -> pd.DataFrame:
        job = make_job(database, target, samples, layers=names, batch_size=batch_size)
        traced = strongest_components(job, max_components)
        indices = {layer.name: layer.indices.tolist() for layer in traced}
        groups = {
            name: [[index] for index in layer_indices] for name, layer_indices in indices.items()
        }
        received = received_relevance(job, groups, indices)
        traced = [
            replace(layer, received=received.get(layer.name, layer.received)) for layer in traced
        ]
        return GraphTrace(
            target, tuple(job.images.samples), job.engine.rules.name, tuple(traced)
        ).to_frame()

    return GraphTrace.of_frame(database.cached("graph", key, make))


def strongest_components(job: TraceJob, max_components: int | None = None) -> list[TracedLayer]:
    """Return the strongest components of each layer, without the relevance that they receive."""
    layers: list[TracedLayer] = []
    for name, share in component_shares(job).items():
        magnitude = np.abs(share)
        indices = np.argsort(-magnitude.max(0), kind="stable")[:max_components]
        no_relevance = np.zeros((len(share), 0, len(indices)), np.float32)
        layers.append(TracedLayer(name, indices, share[:, indices], magnitude.sum(1), no_relevance))
    return layers
