"""Reading and ablating layers through hooks that are always taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from semlens.errors import LayerError, nearest
from semlens.models.activations import first_tensor, measure_form
from semlens.types import Component, Components, as_components

if TYPE_CHECKING:
    from semlens.models.subject import SubjectModel

T = TypeVar("T")
Values = Mapping[Component, float] | Mapping[str, float]
"""What components become, by component or name, in units of the activation."""

FAILURES = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError,
    ArithmeticError,
)  # fmt: skip
"""What a forward pass raises by itself when it is run in a way that it does not take.

Anything else is not the model's: a time-out's signal, lack of memory.
"""


class _Reached(BaseException):
    """Thrown from the last hook that is needed, to end a forward pass early."""


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


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every sub-module into eval mode, and each back into its own mode afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


@contextmanager
def hooked(module: nn.Module, hooks: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Show each named layer's outputs to a function; what it returns, if not None, replaces them.

    A layer that runs twice in one pass is shown twice.
    """
    with ExitStack() as stack:
        for name, use in hooks.items():
            handle = find_layer(module, name).register_forward_hook(
                lambda _, __, output, use=use: use(output)
            )
            stack.callback(handle.remove)
        yield


def reading_layers(
    module: nn.Module, names: Iterable[str], seen: Callable[[str, Any], Any]
) -> AbstractContextManager[None]:
    """Call ``seen(name, output)`` whenever a named layer has run."""
    return hooked(module, {name: partial(seen, name) for name in names})


@torch.inference_mode()
def run_layers(
    module: nn.Module,
    batch: Tensor,
    names: Iterable[str],
    use: Callable[[str, Any], T],
    *,
    stop_early: bool = False,
) -> dict[str, T]:
    """Run a batch and return what ``use(name, output)`` makes of each named layer's output.

    ``use`` is called while the layer's output is fresh: a later in-place operation (a ReLU,
    an added shortcut) may overwrite the tensor.

    Parameters
    ----------
    stop_early
        Whether to end the pass as soon as all of them are there.

    Raises
    ------
    LayerError
        If a layer does not run, or runs more than once in a pass.
    """
    names = list(names)
    found: dict[str, T] = {}

    def seen(name: str, output: Any) -> None:
        if name in found:
            raise LayerError(
                f"Layer '{name}' runs more than once in a forward pass.",
                "Expected one output per pass.",
                "Choose the block around it, or the layers that use it.",
            )
        found[name] = use(name, output)
        if stop_early and len(found) == len(names):
            raise _Reached

    with suppress(_Reached), evaluating(module), reading_layers(module, names, seen):
        module(batch)
    missing = [name for name in names if name not in found]
    if missing:
        raise LayerError(
            f"Layer '{missing[0]}' did not run in the forward pass.",
            "Expected every named layer to be used.",
            "Choose a layer that is; 'semlens layers MODEL' lists those that run.",
        )
    return found


@contextmanager
def pruned(
    model: SubjectModel,
    components: Components,
    to: Values | None = None,
) -> Iterator[SubjectModel]:
    """Set components to zero, or to values, while the block runs (paper, 4.3.3).

    The model itself is not changed: hooks do it, and they are taken off at the end.
    A channel is replaced as a whole, at all positions, whichever its sign.

    Parameters
    ----------
    to
        What components become, in units of the activation; those that it lacks become zero.
    """
    with ExitStack() as stack:
        for name, values in new_values(components, to).items():
            stack.enter_context(batched_ablation(model, name, [values]))
        yield model


def new_values(components: Components, to: Values | None = None) -> dict[str, dict[int, float]]:
    """Return by layer what channels become; those that ``to`` lacks become zero."""
    values = {str(component): float(value) for component, value in (to or {}).items()}
    found: dict[str, dict[int, float]] = {}
    for one in as_components(components):
        found.setdefault(one.layer, {})[one.index] = values.get(str(one), 0.0)
    return found


@contextmanager
def batched_ablation(
    model: SubjectModel, layer: str, versions: Sequence[Mapping[int, float]]
) -> Iterator[SubjectModel]:
    """Let a batch leave a layer once per version, each with channels of its own replaced.

    The part of the model before the layer runs once for all versions; its output is
    [versions * b ...], version by version. Only right where nothing but this layer's output
    goes on: compare it with :func:`pruned` before it is relied on.

    Parameters
    ----------
    versions
        Value by channel, for each version; an empty one leaves the layer as it is.
    """
    last = max((index for version in versions for index in version), default=0)
    layout = model.layouts([layer])[layer]

    def change(output: Any) -> Any:
        tensor = first_tensor(output)
        form = measure_form(layer, tensor, layout)
        if last >= form.components:
            raise LayerError(
                f"Component {last} is not in layer '{layer}'.",
                f"It has components 0 to {form.components - 1}.",
                "Take the components from a database of this model.",
            )
        kept = tensor.new_ones(len(versions), form.components)
        fill = torch.zeros_like(kept)
        for place, version in enumerate(versions):
            for index, value in version.items():
                kept[place, index], fill[place, index] = 0, value
        shape = [1] * tensor.ndim
        shape[1 if form.form in ("map", "units") else -1] = form.components
        changed = [
            torch.where(k.view(shape) > 0, tensor, f.view(shape))
            for k, f in zip(kept, fill, strict=True)
        ]
        return replace_first(output, changed[0] if len(changed) == 1 else torch.cat(changed))

    with hooked(model.module, {layer: change}):
        yield model


def replace_first(output: Any, tensor: Tensor) -> Any:
    """Put ``tensor`` where :func:`first_tensor` found the original."""
    if isinstance(output, Tensor):
        return tensor
    named = isinstance(output, Mapping)
    changed: Any = copy(output) if named else list(output)
    parts = output.items() if named else enumerate(output)
    place, value = next((k, v) for k, v in parts if first_tensor(v) is not None)
    changed[place] = replace_first(value, tensor)
    return changed if named else type(output)(changed)
