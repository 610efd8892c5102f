"""Replacing components of a model through forward hooks (paper, 4.3.3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch

from semlens.models.activations import (
    check_channel,
    first_tensor,
    measure_layout,
    replace_first_tensor,
)
from semlens.models.hooks import forward_hooks_on
from semlens.models.subject import SubjectModel
from semlens.types import Component, Components, as_components

ComponentValues = Mapping[Component, float] | Mapping[str, float]
"""Values that replace components, by component or name, in units of the activation."""


def pruned(
    model: SubjectModel,
    components: Components,
    to: ComponentValues | None = None,
) -> AbstractContextManager[SubjectModel]:
    """Set components to zero, or to given values, inside a ``with`` block (paper, 4.3.3).

    The model itself is not changed: this uses hooks, which are removed at the end of the block.
    A channel is replaced at all positions, whatever the sign of the component.

    Parameters
    ----------
    to
        Values that replace components, in units of the activation; by default zero.
    """
    return replaced(model, replacement_values(as_components(components), to))


@contextmanager
def replaced(
    model: SubjectModel, new_values: Mapping[str, Mapping[int, float]]
) -> Iterator[SubjectModel]:
    """Replace channels as :func:`pruned` does, by the values of :func:`replacement_values`."""
    with ExitStack() as stack:
        for name, values in new_values.items():
            stack.enter_context(batched_ablation(model, name, [values]))
        yield model


def replacement_values(
    components: Sequence[Component], to: ComponentValues | None = None
) -> dict[str, dict[int, float]]:
    """Return the value of each replaced channel by layer; zero for components not in ``to``."""
    values = {str(component): float(value) for component, value in (to or {}).items()}
    by_layer: dict[str, dict[int, float]] = {}
    for component in components:
        by_layer.setdefault(component.layer, {})[component.index] = values.get(str(component), 0.0)
    return by_layer


@contextmanager
def batched_ablation(
    model: SubjectModel, layer: str, versions: Sequence[Mapping[int, float]]
) -> Iterator[SubjectModel]:
    """Repeat the output of a layer once per version, each with different channels replaced.

    The part of the model before the layer runs once for all versions; the layer's output becomes
    [versions * b ...], version by version. Only correct if no branch bypasses the layer: compare
    with :func:`pruned` before relying on it.

    Parameters
    ----------
    versions
        Value by channel, for each version; an empty version leaves the layer unchanged.
    """
    last_index = max((index for version in versions for index in version), default=0)
    axes = model.axes([layer])[layer]

    def change(output: Any) -> Any:
        tensor = first_tensor(output)
        layout = measure_layout(layer, tensor, axes)
        check_channel(layout, last_index)
        keep_mask = tensor.new_ones(len(versions), layout.components)
        replacement = torch.zeros_like(keep_mask)
        for row, version in enumerate(versions):
            for index, value in version.items():
                keep_mask[row, index], replacement[row, index] = 0, value
        shape = [1] * tensor.ndim
        shape[layout.channel_axis] = layout.components
        changed = [
            torch.where(mask.view(shape) > 0, tensor, values.view(shape))
            for mask, values in zip(keep_mask, replacement, strict=True)
        ]
        return replace_first_tensor(output, changed[0] if len(changed) == 1 else torch.cat(changed))

    with forward_hooks_on(model.module, {layer: change}):
        yield model
