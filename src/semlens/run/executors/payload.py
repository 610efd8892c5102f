"""What is sent to workers and back: inputs, tensors, warnings and errors, as bytes."""

from __future__ import annotations

import io
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cloudpickle
import torch
from safetensors.torch import load, save
from torch import Tensor

from semlens.errors import SemlensError, WorkerError
from semlens.models.load import USER_MODULE
from semlens.run.executors.executor import Advance, Inputs, Task
from semlens.run.executors.freed_memory import keep_freed_memory


def pack(inputs: Inputs) -> bytes:
    """Return the inputs as bytes, with the weights.

    Raises
    ------
    WorkerError
        If the model, the embedder or the images cannot be pickled.
    """
    buffer = io.BytesIO()
    try:
        with _user_modules_by_value():
            torch.save(inputs, buffer, pickle_module=cloudpickle)
    except Exception as error:  # an object of the user may raise anything
        raise WorkerError(
            f"The model, the images or the embedder cannot be sent to workers ({error!r}).",
            "Expected objects that can be pickled.",
            "Load them from SPECs, or build in this process.",
        ) from error
    return buffer.getvalue()


@contextmanager
def _user_modules_by_value() -> Iterator[None]:
    """Pickle the classes of a ``FILE.py:CALLABLE`` with their code: workers cannot import them."""
    modules = [sys.modules[name] for name in list(sys.modules) if name.startswith(USER_MODULE)]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def unpack(data: bytes | memoryview, threads: int) -> Inputs:
    """Return a worker's inputs, with so many threads that decode, or more for a remote source."""
    keep_freed_memory()
    buffer = io.BytesIO(data)
    inputs = torch.load(buffer, weights_only=False)
    return replace(inputs, threads=max(threads, inputs.images.parallel_reads) if threads else 0)


@dataclass(frozen=True)
class Computed:
    """The result of a task: its tensors or its error, and the warnings on the way."""

    tensors: bytes | None
    error: Exception | None
    warnings: tuple[Warning, ...] = ()

    def read(self) -> Mapping[str, Tensor]:
        """Issue the warnings; return the tensors, or raise the error."""
        for warning in self.warnings:
            warnings.warn(warning, stacklevel=2)
        if self.error is not None:
            raise self.error
        assert self.tensors is not None  # noqa: S101  # either of the two
        return load(self.tensors)


def compute(inputs: Inputs | Exception, task: Task, advance: Mapping[str, Advance]) -> Computed:
    """Compute a task in a worker, or return the error with which the worker started."""
    if isinstance(inputs, Exception):
        return Computed(None, inputs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            tensors = task(inputs, advance)
            plain = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
            data, error = save(plain), None
        except Exception as raised:  # of the user's model: it is raised in the main process
            data, error = None, _portable(raised)
    ours = [w.message for w in caught if w.category.__module__.startswith("semlens")]
    return Computed(data, error, tuple(w for w in ours if isinstance(w, Warning)))


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with the traceback in the worker as a note."""
    text = "".join(traceback.format_exception(error))
    error.__cause__ = error.__context__ = None
    try:
        if type(cloudpickle.loads(cloudpickle.dumps(error))) is not type(error):
            raise TypeError
    except Exception:  # its class may raise anything
        error = RuntimeError(str(error))
    if not isinstance(error, SemlensError):
        error.add_note(f"In a worker:\n{text}")
    return error


def start_error(error: Exception) -> WorkerError:
    """Return the error of a worker that cannot load the inputs."""
    return WorkerError(
        f"A worker cannot load the model, the images or the embedder ({error!r}).",
        "Expected the packages and folders of this process in every worker.",
        "Install them on all machines, or build in this process.",
    )
