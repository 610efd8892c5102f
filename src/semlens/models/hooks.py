"""Running a model: in batches that fit, with forward hooks that are always removed again."""

from __future__ import annotations

import sys
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from semlens.errors import LayerError, ModelError, SemlensError, nearest

T = TypeVar("T")

FAILURES = (
    RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError,
    ArithmeticError,
)  # fmt: skip
"""Exceptions that a model raises for inputs that it does not support.

Other exceptions, such as lack of memory, are not caused by the model.
"""


class _StopForward(BaseException):
    """Raised by the last hook that is needed, to end a forward pass early."""


class NamedLayers(nn.Module, ABC):
    """A module around a model, which decides the names of the layers."""

    @abstractmethod
    def layers(self) -> dict[str, nn.Module]:
        """Return the layers by name."""

    @abstractmethod
    def name_of(self, path: str) -> str:
        """Return the layer's name for a path in ``named_modules``."""


def unwrapped(module: nn.Module) -> nn.Module:
    """Remove torch.compile and data parallelism around a model, which rename its layers.

    Raises
    ------
    ModelError
        If the model is TorchScript.
    """
    while True:
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"The module is TorchScript ({type(module).__name__}).",
                "Expected a plain module, whose layers can be read while it runs.",
                "Use the module that it was scripted or traced from.",
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(original := getattr(module, "_orig_mod", None), nn.Module):
            module = original
        else:
            return module


def layer_modules(module: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of a model by the names of layers; the model itself has an empty one.

    TorchScript inside of the model is left out, since it accepts no hooks.
    """
    layers = module.layers() if isinstance(module, NamedLayers) else dict(module.named_modules())
    return {n: part for n, part in layers.items() if not isinstance(part, torch.jit.ScriptModule)}


def find_layer(module: nn.Module, name: str) -> nn.Module:
    """Return the named layer.

    Raises
    ------
    LayerError
        If the model has no such layer; the text names the nearest ones.
    """
    layers = layer_modules(module)
    if name not in layers and name in dict(module.named_modules()):
        raise LayerError(
            f"Layer '{name}' is TorchScript, or inside of it.",
            "Expected plain modules, whose values can be read while the model runs.",
            "Put the module that it was scripted or traced from in its place, or choose another.",
        )
    if name not in layers or name == "":
        raise LayerError(
            f"Layer '{name}' is not in {type(module).__name__}.",
            f"The nearest names are {nearest(name, [key for key in layers if key])}.",
            "Run 'semlens layers MODEL' for all of them.",
        )
    return layers[name]


def call_model(module: Callable[[Tensor], Any], batch: Tensor) -> Any:
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


class _Uncompiled:
    """Runs what torch.compile made as plain Python, since compiled code may skip our hooks.

    PyTorch has one setting for all threads: it is restored when the last of them is done.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0
        self._stance: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            # nothing can be compiled before the compiler is imported, which takes seconds
            if self._stance is None and "torch._dynamo" in sys.modules:
                self._stance = torch.compiler.set_stance("force_eager")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._stance is not None:
                self._stance.__exit__(None, None, None)
                self._stance = None


_UNCOMPILED = _Uncompiled()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put every sub-module into eval mode, and restore the mode of each afterwards.

    Compiled parts run as plain Python, with their hooks.
    """
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with _UNCOMPILED:
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


@contextmanager
def input_hooks_on(module: nn.Module, hooks: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Call a function with the first input of the named modules; a result replaces it."""
    with ExitStack() as stack:
        for name, on_input in hooks.items():

            def replaced(
                _: nn.Module, inputs: tuple[Any, ...], on_input: Callable[[Any], Any] = on_input
            ) -> tuple[Any, ...] | None:
                value = on_input(inputs[0])
                return None if value is None else (value, *inputs[1:])

            stack.callback(find_layer(module, name).register_forward_pre_hook(replaced).remove)
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
            "Expected layers that the model calls. Some modules use the weights of a part without "
            "calling it, such as MultiheadAttention those of its out_proj.",
            "Choose a layer that runs, such as the module around it; 'semlens layers MODEL' lists "
            "them.",
        )
    return results


class SmallerBatchWarning(UserWarning):
    """Batches were halved, since the device ran out of memory."""


class FittingBatches:
    """Runs batches whole, or in parts that fit into memory; parts stay small once one did not.

    Which samples belong to a batch does not change: results agree to rounding.
    """

    def __init__(self) -> None:
        self._largest: int | None = None

    def run(self, compute: Callable[[Tensor], T], batch: Tensor, join: Callable[[list[T]], T]) -> T:
        """Return ``compute(batch)``, or what ``join`` makes of its results for parts.

        Raises
        ------
        ModelError
            If a single sample does not fit.
        """
        while True:
            size = min(self._largest or len(batch), len(batch))
            try:
                if size == len(batch):
                    return compute(batch)
                return join([compute(part) for part in batch.split(size)])
            except (RuntimeError, ModelError) as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise ModelError(
                        "One image does not fit into the memory of the device.",
                        "Expected enough for a forward pass.",
                        "Use a device with more memory, such as --device cpu.",
                    ) from error
                self._largest = size // 2
            # outside of the except clause, whose traceback keeps the tensors of the failed pass
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            warnings.warn(
                f"The device has too little memory for {size} images at once: passes have "
                f"{self._largest}. --batch-size {self._largest} says so from the start.",
                SmallerBatchWarning,
                stacklevel=2,
            )


def out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch, as the error itself or its cause, has no memory left on a GPU or the CPU."""
    cause = error.__cause__ if isinstance(error, ModelError) else error
    return isinstance(cause, torch.OutOfMemoryError) or (
        isinstance(cause, RuntimeError) and "allocate memory" in str(cause)
    )
