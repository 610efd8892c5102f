"""Class relevance: how much each component matters for each class (paper, Section 4 and H.2).

One forward and one backward pass per sample serve all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semlens.data.images import Images
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import explain_batch, images_per_pass, shares
from semlens.relevance.make_engine import EngineCache
from semlens.stages.batches import batch_inputs, prepared_batches
from semlens.streaming.statistics import ClassShares


@dataclass(frozen=True)
class ClassRelevanceTotals:
    """Shares of relevance by layer; merging is associative and commutative."""

    layers: Mapping[str, ClassShares]

    def merge(self, other: ClassRelevanceTotals) -> ClassRelevanceTotals:
        """Merge the totals of two disjoint sets of samples."""
        return ClassRelevanceTotals(
            {name: shares.merge(other.layers[name]) for name, shares in self.layers.items()}
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return all values as named tensors, for a file."""
        return {
            f"{name}/{field}": value
            for name, layer_shares in self.layers.items()
            for field, value in vars(layer_shares).items()
        }

    @classmethod
    def from_tensors(cls, flat: Mapping[str, Tensor], names: Sequence[str]) -> ClassRelevanceTotals:
        """Return totals from the result of :meth:`tensors`."""
        fields = ("classes", "count", "total", "maximum")
        return cls(
            {name: ClassShares(*(flat[f"{name}/{field}"] for field in fields)) for name in names}
        )


def collect_class_relevance(
    model: SubjectModel,
    engines: EngineCache,
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
        Number of components by layer: channels, or twice as many if both signs count.
    samples
        Samples to explain; samples that cannot be read are skipped.
    targets
        Logit of each sample, or None to explain the predicted class.
    """
    totals = ClassRelevanceTotals({name: ClassShares.empty(count) for name, count in rows.items()})

    for batch in prepared_batches(model, images.read, samples, batch_size, workers):
        ready = [item for item in batch if item.inputs is not None]
        if ready:
            inputs = batch_inputs(model, ready)
            classes = None if targets is None else [targets[item.sample] for item in ready]
            images_at_once = images_per_pass(engines.engine(inputs, list(rows)))
            for start in range(0, len(inputs), images_at_once):
                chunk = slice(start, start + images_at_once)
                chunk_classes = None if classes is None else classes[chunk]
                totals = totals.merge(_batch_totals(engines, inputs[chunk], rows, chunk_classes))
        progress(len(batch))
    return totals


def _batch_totals(
    engines: EngineCache, inputs: Tensor, rows: Mapping[str, int], classes: list[int] | None
) -> ClassRelevanceTotals:
    given = None if classes is None else torch.tensor(classes, dtype=torch.int64)
    engine = engines.engine(inputs, list(rows))
    target, relevance = explain_batch(engine, inputs, list(rows), given)
    by_layer: list[Tensor] = []
    for name, count in rows.items():
        by_sign = relevance.get(name)
        if by_sign is None:  # the logits do not depend on this layer
            by_layer.append(torch.zeros(len(target), count, device=inputs.device))
            continue
        both_signs = count == 2 * by_sign.shape[-1]
        by_layer.append(shares(by_sign.flatten(1) if both_signs else by_sign.sum(1)).float())
    on_cpu = torch.cat(by_layer, dim=1).cpu()  # one copy: the CPU waits for the device at each
    pieces = on_cpu.split([*rows.values()], dim=1)
    return ClassRelevanceTotals(
        {
            name: ClassShares.from_batch(target, piece)
            for name, piece in zip(rows, pieces, strict=True)
        }
    )
