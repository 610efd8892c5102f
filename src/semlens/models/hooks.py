"""Reading and ablating layers through forward hooks that are always removed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from semlens.errors import LayerError, ModelError, SemlensError, nearest
from semlens.models.activations import check_channel, first_tensor, measure_layout
from semlens.types import Component, Components, as_components

if TYPE_CHECKING:
    from semlens.models.subject import SubjectModel

T = TypeVar("T")
ComponentValues = Mapping[Component, float] | Mapping[str, float]
"""Values that replace components, by component or name, in units of the activation."""

FAILURES = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError,
    ArithmeticError,
)  # fmt: skip
"""Exceptions that a model raises for inputs that it does not support.

Other exceptions, such as lack of memory, are not caused by the model.
"""


class _StopForward(BaseException):
    """Raised by the last hook that is needed, to end a forward pass early."""


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """Return the named layer.

    Raises
    ------
    LayerError
        If the model has no such layer; the text names the nearest ones.
    """
    layers = dict(module.named_modules())
    if name not in layers or name == "":
        raise LayerError(
            f"Layer '{name}' is not in {type(module).__name__}.",
            f"The nearest names are {nearest(name, [key for key in layers if key])}.",
            "Run 'semlens layers MODEL' for all of them.",
        )
    return layers[name]


def call_model(module: nn.Module, batch: Tensor) -> Any:
    """Run a model on a batch [b 3 h w].

    Raises
    ------
    ModelError
        If the model raises an error, or ends the program.
    """
    try:
        return module(batch)
    except SemlensError:  # from a hook of ours
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ModelError(
            f"{type(module).__name__} fails on a batch {list(batch.shape)} ({error!r}).",
            "Expected a model that takes preprocessed images [b 3 h w] and returns.",
            "Correct the model or its preprocessing; if memory is short, use a smaller batch.",
        ) from error


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every sub-module into eval mode, and restore the mode of each afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


@contextmanager
def forward_hooks_on(
    module: nn.Module, hooks: Mapping[str, Callable[[Any], Any]]
) -> Iterator[None]:
    """Call a function with each output of the named layers; a result that is not None replaces it.

    For a layer that runs twice in a pass, the function is called twice.
    """
    with ExitStack() as stack:
        for name, on_output in hooks.items():
            handle = find_layer(module, name).register_forward_hook(
                lambda _, __, output, on_output=on_output: on_output(output)
            )
            stack.callback(handle.remove)
        yield


def reading_layers(
    module: nn.Module, names: Iterable[str], on_output: Callable[[str, Any], Any]
) -> AbstractContextManager[None]:
    """Call ``on_output(name, output)`` whenever a named layer has run."""
    return forward_hooks_on(module, {name: partial(on_output, name) for name in names})


@torch.inference_mode()
def run_layers(
    module: nn.Module,
    batch: Tensor,
    names: Iterable[str],
    use: Callable[[str, Any], T],
    *,
    stop_early: bool = False,
    on_output: Callable[[Any], object] | None = None,
) -> dict[str, T]:
    """Run a batch and return the result of ``use(name, output)`` for each named layer.

    ``use`` is called as soon as the layer has run, since a later in-place operation (a ReLU, an
    added shortcut) may overwrite the output.

    Parameters
    ----------
    stop_early
        Whether to end the pass after the last of these layers.
    on_output
        Called with the output of the whole model.

    Raises
    ------
    LayerError
        If a layer does not run, or runs more than once in a pass.
    """
    names = list(names)
    results: dict[str, T] = {}
    failures: list[Exception] = []

    def collect(name: str, output: Any) -> None:
        if name in results:
            raise LayerError(
                f"Layer '{name}' runs more than once in a forward pass.",
                "Expected one output per pass.",
                "Choose the block that contains it, or the layers that use it.",
            )
        try:
            results[name] = use(name, output)
        except Exception as error:  # not the model's: it must not be reported as such
            failures.append(error)
            raise _StopForward from error
        if stop_early and len(results) == len(names):
            raise _StopForward

    with suppress(_StopForward), evaluating(module), reading_layers(module, names, collect):
        output = call_model(module, batch)
        if on_output is not None:
            on_output(output)
    if failures:
        raise failures[0]
    missing = [name for name in names if name not in results]
    if missing:
        raise LayerError(
            f"Layer '{missing[0]}' did not run in the forward pass.",
            "Expected layers that the model uses.",
            "Choose a layer that runs; 'semlens layers MODEL' lists them.",
        )
    return results


@contextmanager
def pruned(
    model: SubjectModel,
    components: Components,
    to: ComponentValues | None = None,
) -> Iterator[SubjectModel]:
    """Set components to zero, or to given values, inside a ``with`` block (paper, 4.3.3).

    The model itself is not changed: this uses hooks, which are removed at the end of the block.
    A channel is replaced at all positions, whatever the sign of the component.

    Parameters
    ----------
    to
        Values that replace components, in units of the activation; by default zero.
    """
    with ExitStack() as stack:
        for name, values in replacement_values(components, to).items():
            stack.enter_context(batched_ablation(model, name, [values]))
        yield model


def replacement_values(
    components: Components, to: ComponentValues | None = None
) -> dict[str, dict[int, float]]:
    """Return the value of each replaced channel by layer; zero for components not in ``to``."""
    values = {str(component): float(value) for component, value in (to or {}).items()}
    by_layer: dict[str, dict[int, float]] = {}
    for component in as_components(components):
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
    channel_order = model.channel_orders([layer])[layer]

    def change(output: Any) -> Any:
        tensor = first_tensor(output)
        layout = measure_layout(layer, tensor, channel_order)
        check_channel(layout, last_index)
        keep_mask = tensor.new_ones(len(versions), layout.components)
        replacement = torch.zeros_like(keep_mask)
        for row, version in enumerate(versions):
            for index, value in version.items():
                keep_mask[row, index], replacement[row, index] = 0, value
        shape = [1] * tensor.ndim
        shape[1 if layout.form in ("map", "units") else -1] = layout.components
        changed = [
            torch.where(mask.view(shape) > 0, tensor, values.view(shape))
            for mask, values in zip(keep_mask, replacement, strict=True)
        ]
        return replace_first_tensor(output, changed[0] if len(changed) == 1 else torch.cat(changed))

    with forward_hooks_on(model.module, {layer: change}):
        yield model


def replace_first_tensor(output: Any, tensor: Tensor) -> Any:
    """Return a copy of ``output`` with ``tensor`` in place of its :func:`first_tensor`."""
    if isinstance(output, Tensor):
        return tensor
    is_mapping = isinstance(output, Mapping)
    changed: Any = copy(output) if is_mapping else list(output)
    items = output.items() if is_mapping else enumerate(output)
    key, value = next((k, v) for k, v in items if first_tensor(v) is not None)
    changed[key] = replace_first_tensor(value, tensor)
    return changed if is_mapping else type(output)(changed)
