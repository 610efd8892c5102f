"""Which tensor of a model's output answers: chosen by the user, by name or by width."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from semlens.errors import ModelError

Output = str | int | Callable[[Any], Tensor]
"""A key or path such as ``heads.0``, an index, or a function of the model's output."""
NO_LOGITS = (
    "Expected a classifier, with one row of logits per image.",
    "Ask about another target of the output, such as target='region:CLASS' of a segmenter or "
    "'box:CLASS@x0,y0,x1,y1' of a detector; questions about predictions need a classifier.",
)
"""Expectation and remedy of the error for a model without logits."""
DECLARE = "output= of SubjectModel (--output): a key, an index or a function."
"""How a user chooses a tensor."""
PROBABILITIES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda z: z.softmax(-1),
    "log_softmax": lambda z: z.log_softmax(-1),
    "sigmoid": torch.sigmoid,
}
"""Functions that make probabilities, or their logarithms, of logits [b k]."""
_ANSWERS = {
    "logits", "logit", "out", "output", "outputs", "pred", "preds", "prediction", "predictions",
    "scores", "score", "probs", "probabilities", "class_logits", "cls_logits",
}  # fmt: skip
_EMBEDDINGS = {
    "features", "feature", "feats", "feat", "embedding", "embeddings", "embeds", "image_embeds",
    "pooler_output", "pooled", "hidden", "hidden_state", "last_hidden_state", "hidden_states",
    "representation", "projection",
}  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """A function from a model's output to the tensor that answers.

    Parameters
    ----------
    path
        Keys and indices that lead to it, joined by dots; empty if the output is the tensor.
    function
        The user's function, in place of a path.
    """

    path: str = ""
    function: Callable[[Any], Any] | None = None

    def __call__(self, output: Any) -> Any:
        """Return the tensor; None if the output has none there."""
        if self.function is not None:
            return _call(self.function, output)
        return tensors_of(output).get(self.path)

    @property
    def is_embedding(self) -> bool:
        """Whether the tensor has the name of an embedding."""
        return _is_named(self.path, _EMBEDDINGS)


def output_name(output: Output | None) -> str:
    """Return a text that identifies the user's choice of a tensor; empty without one."""
    if output is None or not callable(output):
        return "" if output is None else str(output)
    digest = hashlib.sha256(_identity(output).encode()).hexdigest()[:12]
    return f"function {getattr(output, '__qualname__', type(output).__name__)} {digest}"


def _identity(value: Any) -> str:
    """Return a text of a function's source and of the plain values that it uses."""
    if isinstance(value, partial):
        parts = [value.func, *value.args, *sorted(value.keywords.items())]
        return f"partial({', '.join(map(_identity, parts))})"
    if not inspect.isfunction(value):
        is_plain = isinstance(value, str | int | float | tuple | None)
        return repr(value) if is_plain else type(value).__qualname__
    try:
        source = inspect.getsource(value)
    except OSError:  # typed into an interpreter
        source = value.__code__.co_code.hex()
    closure = [cell.cell_contents for cell in value.__closure__ or ()]
    # several functions may be written on one line
    used = [*value.__code__.co_consts, *value.__code__.co_names, *closure]
    used += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).items()]
    return f"{source} {', '.join(map(_identity, used))}"


def check_output(output: object) -> None:
    """Raise an error for a choice of tensor that is neither a key, an index nor a function.

    Raises
    ------
    ModelError
        If it is not.
    """
    if (isinstance(output, bool) or not isinstance(output, str | int)) and not callable(output):
        raise ModelError(
            f"output is {output!r}.",
            "Expected the key or index of a tensor, or a function of the model's output.",
            "Pass for example output='logits', output=1, or output=lambda result: result.scores.",
        )


def find_tensor(
    result: Any, count: int, output: Output | None, classes: Sequence[str] | None
) -> Selection:
    """Find the tensor that answers.

    Parameters
    ----------
    result
        The model's output for ``count`` images.
    output
        The user's choice.
    classes
        Names of the logits, if known.

    Raises
    ------
    ModelError
        If there is none, or several fit.
    """
    if callable(output):
        chosen = Selection(output_name(output), output)
        tensor = chosen(result)
        if not _is_row_per_image(tensor, count):
            raise _unusable(f"The function output= returns {_received(tensor)}", result)
        return chosen
    leaves = tensors_of(result)
    if output is not None:
        leaves = _chosen(leaves, output, result)
    elif has_boxes(leaves):
        raise ModelError("The model returns boxes, not logits [b classes].", *NO_LOGITS)
    rows = {path: leaf for path, leaf in leaves.items() if _is_row_per_image(leaf, count)}
    if not rows and output is not None:
        shapes = ", ".join(_received(leaf) for leaf in leaves.values())
        raise _unusable(f"The model's output {output!r} is {shapes}", result)
    if not rows:
        first = next(iter(leaves.values()), None)
        received = type(result).__name__ if first is None else _received(first)
        raise ModelError(f"The model returns {received}, not logits [b classes].", *NO_LOGITS)
    candidates = _likeliest(rows, classes)
    if len(candidates) > 1:
        listed = ", ".join(f"{path} {list(rows[path].shape[1:])}" for path in candidates)
        raise ModelError(
            f"Several tensors of the model's output may be its answer: {listed} (with the shape "
            "for an image).",
            "Expected to know which: by the name logits or out, or by as many values as there are "
            "class names.",
            "Choose one by " + DECLARE,
        )
    return Selection(candidates[0])


def _likeliest(rows: Mapping[str, Tensor], classes: Sequence[str] | None) -> list[str]:
    """Return those of some tensors that fit best as the answer; several if it is open."""
    paths = [
        path for path in rows if not (_is_auxiliary(path) or _is_named(path, _EMBEDDINGS))
    ] or [path for path in rows if not _is_auxiliary(path)]
    paths = paths or list(rows)
    if classes is not None:
        widths = {len(classes), 1} if len(classes) <= 2 else {len(classes)}
        paths = [p for p in paths if (rows[p].shape[1:] or (1,))[0] in widths] or paths
    paths = [path for path in paths if _is_named(path, _ANSWERS)] or paths
    paths = [path for path in paths if _is_named(path, {"logits"})] or paths
    distinct = [  # the same tensor may have two names
        path
        for place, path in enumerate(paths)
        if not any(_same(rows[path], rows[other]) for other in paths[:place])
    ]
    return [  # probabilities may be put out beside their logits
        path
        for path in distinct
        if not any(
            _same(rows[path], make(rows[other]))
            for other in distinct
            for make in PROBABILITIES.values()
            if other != path
        )
    ] or distinct


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, rtol=1e-4, atol=1e-6))


def _is_row_per_image(leaf: Any, count: int) -> bool:
    return (
        isinstance(leaf, Tensor)
        and leaf.is_floating_point()
        and leaf.ndim in (1, 2)
        and len(leaf) == count
        and leaf.numel() > 0
    )


def _is_named(path: str, names: set[str]) -> bool:
    return bool(names & {part.lower() for part in path.split(".")})


def _is_auxiliary(path: str) -> bool:
    return any(part.lower().startswith(("aux", "loss")) for part in path.split("."))


def has_boxes(tensors: Mapping[str, Tensor]) -> bool:
    """Whether an output with these tensors is that of a detector."""
    return any(_is_named(path, {"boxes"}) for path in tensors)


def tensors_of(output: Any) -> dict[str, Tensor]:
    """Return the tensors of an output by path, in order."""
    return dict(_leaves(output))


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
        return
    if isinstance(value, Mapping):
        items = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = list(zip(value._fields, value, strict=True))  # pyright: ignore
    elif isinstance(value, list | tuple):
        items = [(str(index), part) for index, part in enumerate(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
    else:
        fields = getattr(value, "__dict__", {})
        items = [(name, part) for name, part in fields.items() if isinstance(part, Tensor)]
    for name, part in items:
        yield from _leaves(part, f"{path}.{name}" if path else name)


def _chosen(leaves: Mapping[str, Tensor], output: str | int, result: Any) -> dict[str, Tensor]:
    """Return the tensors of an output at a key, path or index."""
    key = str(output)
    found = {path: leaf for path, leaf in leaves.items() if f"{path}.".startswith(f"{key}.")}
    if not found and key.lstrip("-").isdecimal() and not isinstance(result, Tensor):
        heads = list(dict.fromkeys(path.split(".")[0] for path in leaves))
        if -len(heads) <= int(key) < len(heads):
            head = heads[int(key)]
            found = {p: leaf for p, leaf in leaves.items() if f"{p}.".startswith(f"{head}.")}
    if not found:
        raise _unusable(f"The model's output has no tensor at {output!r}", result)
    return found


def _call(function: Callable[[Any], Any], output: Any) -> Any:
    try:
        return function(output)
    except Exception as error:  # the user's function may raise anything
        raise ModelError(
            f"The function output= fails ({error!r}).",
            f"Expected a function of the model's output: {described(output)}.",
            "Correct the function.",
        ) from error


def _unusable(value: str, result: Any) -> ModelError:
    return ModelError(
        f"{value}.",
        f"Expected one row of values per image. The output is {described(result)}.",
        "Choose another tensor by " + DECLARE,
    )


def _received(leaf: Any) -> str:
    return f"a tensor {list(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__


def described(result: Any) -> str:
    """Return the tensors of an output with their shapes, in words."""
    tensors = tensors_of(result).items()
    listed = ", ".join(f"{path or 'a tensor'} {list(leaf.shape)}" for path, leaf in tensors)
    return listed or type(result).__name__
