"""Relate: how much each component matters for each class (paper, Section 4 and H.2).

One forward and one backward pass per sample serve all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semlens.data.images import Images
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import (
    class_seed,
    component_relevance,
    images_per_pass,
    shares,
)
from semlens.relevance.make_engine import Engines
from semlens.relevance.protocols import OUTPUT
from semlens.stages.batches import batch_inputs, prepared_batches
from semlens.streaming.statistics import ByClass


@dataclass(frozen=True)
class ClassRelevanceTotals:
    """Shares of relevance by layer; merging is associative and free of order."""

    layers: Mapping[str, ByClass]

    def merge(self, other: ClassRelevanceTotals) -> ClassRelevanceTotals:
        """Join the findings over two disjoint sets of samples."""
        return ClassRelevanceTotals(
            {name: part.merge(other.layers[name]) for name, part in self.layers.items()}
        )

    def tensors(self) -> dict[str, Tensor]:
        """Flatten to named tensors, for a file."""
        return {
            f"{name}/{part}": value
            for name, found in self.layers.items()
            for part, value in vars(found).items()
        }

    @classmethod
    def from_tensors(cls, flat: Mapping[str, Tensor], names: Sequence[str]) -> ClassRelevanceTotals:
        """Undo :meth:`tensors`."""
        parts = ("classes", "count", "total", "maximum")
        return cls({name: ByClass(*(flat[f"{name}/{part}"] for part in parts)) for name in names})


def collect_class_relevance(
    model: SubjectModel,
    engines: Engines,
    images: Images,
    rows: Mapping[str, int],
    samples: Sequence[int],
    targets: Mapping[int, int] | None,
    *,
    batch_size: int = 32,
    workers: int = 2,
    progress: Callable[[int], None] = lambda done: None,
) -> ClassRelevanceTotals:
    """Compute the relevance of all components for each sample's class.

    Parameters
    ----------
    rows
        By layer, its number of components: channels, or twice that where both signs count.
    samples
        Those to explain; one that cannot be read is left out.
    targets
        Logit of each sample, or None to explain what the model predicts.
    """
    found = ClassRelevanceTotals({name: ByClass.empty(count) for name, count in rows.items()})

    for batch in prepared_batches(model, images.read, samples, batch_size, workers):
        ready = [one for one in batch if one.inputs is not None]
        if ready:
            inputs = batch_inputs(model, ready)
            known = None if targets is None else [targets[one.number] for one in ready]
            step = images_per_pass(engines.engine(inputs, list(rows)))
            for start in range(0, len(inputs), step):
                part = slice(start, start + step)
                mine = None if known is None else known[part]
                found = found.merge(_batch(engines, inputs[part], rows, mine))
        progress(len(batch))
    return found


def _batch(
    engines: Engines, inputs: Tensor, rows: Mapping[str, int], known: list[int] | None
) -> ClassRelevanceTotals:
    engine = engines.engine(inputs, list(rows))
    trace = engine.trace(inputs)
    target = (
        trace.values[OUTPUT].detach().argmax(1).cpu()
        if known is None
        else torch.tensor(known, dtype=torch.int64)
    )
    pulled = trace.pull({OUTPUT: class_seed(trace, target[None])}, list(rows), heat=False)
    found: dict[str, ByClass] = {}
    for name, count in rows.items():
        passed = pulled.layers.get(name)
        if passed is None:  # nothing goes from this layer to the logits
            found[name] = ByClass.of(target, torch.zeros(len(target), count))
            continue
        signed = component_relevance(trace, name, passed)[0]
        both = count == 2 * signed.shape[-1]
        value = signed.flatten(1) if both else signed.sum(1)
        found[name] = ByClass.of(target, shares(value).float().cpu())
    return ClassRelevanceTotals(found)
