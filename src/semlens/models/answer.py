"""The answer of a model: which tensor of its output it is, and what its values are.

Everything that needs a prediction asks :class:`Answer`. It is measured once, on example images;
where several answers fit, :func:`find_answer` refuses and names the option that decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from semlens.errors import ModelError
from semlens.models.final_operator import FinalOperator
from semlens.models.hooks import NamedLayers, call_model, evaluating, layer_modules
from semlens.models.output_tensor import DECLARE, Output, Selection, find_tensor
from semlens.models.with_dictionaries import bare_module

Task = Literal["auto", "multiclass", "binary", "multilabel", "regression", "embedding"]
"""What the values of an answer are: logits of classes of which one is right, one logit of a class
and its opposite, a logit for each of several labels, values, or a vector whose axes mean nothing.
"""
TASKS: tuple[str, ...] = get_args(Task)
WITHOUT_CLASSES = ("regression", "embedding")
EXAMPLES = 4
"""Example images on which an answer is measured."""
TOLERANCE = 1e-3
"""Largest deviation of a sum of probabilities, or of a norm, from one."""


class NoPredictionWarning(UserWarning):
    """Some images have logits that are not numbers, and so no prediction."""


@dataclass(frozen=True)
class Answer:
    """The values with which a model answers, and what they are.

    ``Raw`` values are those in the model, [b k] or [b]. Of one logit z, the ``scores`` are [b 2]:
    z for the class that it stands for, and -z for its opposite, each the log-odds of its class;
    otherwise they are the raw values [b k]. If the model ends in a softmax, log-softmax or
    sigmoid, raw values are those before it: these are the logits, and there relevance starts.

    Parameters
    ----------
    selection
        Which tensor of the output.
    task
        What the values are; never ``auto``.
    width
        Values per image.
    ends_in
        ``softmax``, ``log_softmax`` or ``sigmoid`` if the model ends in one, and raw values precede
        it.
    scale
        What the raw values are if no such operator was found at the end.
    positive
        Of one logit, the class that it stands for: 0 or 1.
    reason
        How the task was found, in words.
    """

    selection: Selection
    task: Task
    width: int
    ends_in: str | None = None
    scale: Literal["logits", "probabilities", "log-probabilities"] = "logits"
    positive: int = 0
    reason: str = ""

    @property
    def count(self) -> int:
        """Number of scores per image: of classes, labels or values."""
        return 2 if self.task == "binary" else self.width

    @property
    def has_classes(self) -> bool:
        """Whether the scores are those of classes or labels."""
        return self.task not in WITHOUT_CLASSES

    def class_names(self, names: Sequence[str] | None) -> Sequence[str] | None:
        """Return a name for each score, from the names that were given for the logits."""
        if self.task != "binary" or (names is not None and len(names) != 1):
            return names
        return ("positive", "negative") if names is None else (names[0], f"not {names[0]}")

    # -- reading ------------------------------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[Callable[[Any], Float[Tensor, "b ..."]]]:
        """Watch a forward pass; yields the function from the model's output to raw values.

        Raises
        ------
        ModelError
            If the output has no such tensor, or it was not computed as on the example images.
        """
        if self.ends_in is None:
            yield lambda output: self._checked(self.selection(output))
            return
        with FinalOperator() as operators:
            yield lambda output: operators.before(
                self._checked(self.selection(output)), self.ends_in or ""
            )

    def _checked(self, raw: Any) -> Tensor:
        fits = isinstance(raw, Tensor) and raw.ndim in (1, 2) and self.width == _width(raw)
        if not fits:
            received = f"a tensor {list(raw.shape)}" if isinstance(raw, Tensor) else "no tensor"
            raise ModelError(
                f"The model's answer is {received}.",
                f"Expected {self.width} values per image, as for the example images.",
                "Use a model whose output has the same form for all images.",
            )
        return raw

    def run(self, module: Callable[[Tensor], Any], batch: Tensor) -> Float[Tensor, "b scores"]:
        """Run a module over a batch and return its scores."""
        with self.reading() as read:
            raw = read(call_model(module, batch))
        return self.scores(raw)

    def scores(self, raw: Float[Tensor, "b ..."]) -> Float[Tensor, "b scores"]:
        """Return the scores of raw values."""
        raw = raw.reshape(-1, self.width)
        return raw * raw.new_tensor(self._signs) if self.task == "binary" else raw

    @property
    def _signs(self) -> tuple[float, ...]:
        return (1.0, -1.0) if self.positive == 0 else (-1.0, 1.0)

    def seed(
        self, raw: Float[Tensor, "u ..."], targets: Int64[Tensor, "n u"]
    ) -> Float[Tensor, "n u ..."]:
        """Return the gradient of the scores of some targets with respect to raw values."""
        targets = targets.to(raw.device).long()
        if self.task == "binary":
            seeds = raw.new_tensor(self._signs)[targets]
            return seeds.reshape(len(targets), *raw.shape)
        seeds = raw.new_zeros(len(targets), len(raw), self.width)
        return seeds.scatter_(2, targets[..., None], 1.0).reshape(len(targets), *raw.shape)

    # -- what scores mean ---------------------------------------------------------------------

    def probabilities(self, scores: Float[Tensor, "b scores"]) -> Float[Tensor, "b scores"] | None:
        """Return the probability of each class or label; None for values and embeddings."""
        if not self.has_classes:
            return None
        if self.scale != "logits":
            return scores if self.scale == "probabilities" else scores.exp()
        one_of_all = self.ends_in != "sigmoid" and self.task == "multiclass"
        return scores.softmax(-1) if one_of_all else scores.sigmoid()

    def predicted(self, scores: Float[Tensor, "b scores"]) -> Int64[Tensor, " b"]:
        """Return the class of the largest score of each image; -1 if a score is not a number.

        Of several labels it is the likeliest one.

        Raises
        ------
        ModelError
            If the scores are not those of classes.
        """
        self.check_classes()
        largest = scores.nan_to_num(-torch.inf).argmax(-1)
        return largest.masked_fill(scores.isnan().any(-1), -1)

    def check_classes(self) -> None:
        """Raise an error if the scores are not those of classes.

        Raises
        ------
        ModelError
            If the model answers with values, or an embedding.
        """
        if not self.has_classes:
            is_embedding = self.task == "embedding"
            what = "an embedding, whose axes are no" if is_embedding else "values, not with"
            raise ModelError(
                f"The model answers with {what} classes ({self.reason}).",
                "Expected classes, of which the one with the largest logit is predicted.",
                f"{'' if is_embedding else 'Ask about a value by its number. '}If these are logits "
                "of classes, pass task='multiclass' to SubjectModel (--task).",
            )

    def loss(
        self, scores: Float[Tensor, "b scores"], targets: Int64[Tensor, " b"]
    ) -> Float[Tensor, ""]:
        """Return the mean of minus the log-probability of the right class.

        Raises
        ------
        ModelError
            If an image of one known class is no truth for the answer.
        """
        if not self.has_classes or self.task == "multilabel":
            raise ModelError(
                f"The model's task is '{self.task}' ({self.reason}).",
                "Expected classes of which one is right for an image: that is all that is known.",
                "Train it elsewhere; or pass task='multiclass' to SubjectModel (--task) if one "
                "class is right.",
            )
        rows = torch.arange(len(targets), device=targets.device)
        scores = scores.float()
        if self.scale == "probabilities":
            scores = scores.clamp_min(torch.finfo(scores.dtype).tiny).log()
        if self.task == "binary":
            return functional.softplus(-scores[rows, targets]).mean()
        return functional.cross_entropy(scores, targets)

    def sentence(self) -> str:
        """Return what the model answers with, in one sentence."""
        what = {
            "multiclass": f"{self.width} classes, of which one is right",
            "binary": "one logit, of a class and its opposite",
            "multilabel": f"{self.width} labels, each true or not",
            "regression": f"{self.width} value{'s' * (self.width != 1)}",
            "embedding": f"an embedding of {self.width} numbers, whose axes are no classes",
        }[self.task]
        ends = f"; relevance starts before the {self.ends_in} at its end" if self.ends_in else ""
        where = f" (output {self.selection.path})" if self.selection.path else ""
        return f"Answers with {what}{where}: {self.reason}{ends}."


MODEL = "model"


class Answering(NamedLayers):
    """A model that returns the tensor that a user's function makes of its output.

    So that the function is part of what is captured, and relevance passes through it.
    """

    def __init__(self, model: nn.Module, selection: Selection) -> None:
        super().__init__()
        self.model, self.selection = model, selection

    def layers(self) -> dict[str, nn.Module]:
        """Return the layers of the model."""
        return layer_modules(self.model)

    def name_of(self, path: str) -> str:
        """Return the layer's name for a path in ``named_modules``."""
        inner = path.removeprefix(MODEL).removeprefix(".")
        return self.model.name_of(inner) if isinstance(self.model, NamedLayers) else inner

    def forward(self, batch: Tensor) -> Tensor:
        """Return the tensor."""
        return self.selection(self.model(batch))


def answering(module: nn.Module, answer: Answer) -> tuple[nn.Module, Answer]:
    """Return a module with the user's function, if there is one, as its last operation."""
    if answer.selection.function is None:
        return module, answer
    return Answering(module, answer.selection), replace(answer, selection=Selection())


def _width(tensor: Tensor) -> int:
    return tensor.shape[1] if tensor.ndim == 2 else 1


# -- measuring --------------------------------------------------------------------------------


@torch.no_grad()
def find_answer(
    module: nn.Module,
    example: Float[Tensor, "b ..."],
    *,
    output: Output | None = None,
    task: Task = "auto",
    classes: Sequence[str] | None = None,
) -> Answer:
    """Find which tensor of a model's output answers, and what it is, from a pass over examples.

    Parameters
    ----------
    output
        Key, index or function that selects the tensor; by default it is found by name and width.
    task
        What the values are; by default it is measured.
    classes
        Names of the logits, if known.

    Raises
    ------
    ModelError
        If the model does not return one row of values per image, if several tensors fit, or if
        the task does not fit.
    """
    batch = example[:EXAMPLES]
    with evaluating(module), FinalOperator() as operators:
        try:
            result = call_model(module, batch)
        except ModelError:  # of a model that takes one image at a time
            batch = batch[:1]
            result = call_model(module, batch)
        selection = find_tensor(result, len(batch), output, classes)
        tensor = selection(result)
    width = _width(tensor)
    ends_in = operators.end(tensor)
    raw = tensor.reshape(len(batch), width).cpu().double()
    if ends_in is not None:
        scale = "logits"
    elif width > 1 and _sums_to_one(raw):
        scale = "probabilities"
    elif width > 1 and bool((raw <= 0).all()) and _sums_to_one(raw.exp()):
        scale = "log-probabilities"
    else:
        scale = "logits"
    found, reason = _measured_task(module, selection, raw, ends_in, scale, classes)
    if task != "auto":
        found, reason = task, f"task='{task}' was given"
    _check_width(found, width)
    positive = int(found == "binary" and classes is not None and len(classes) == 2)
    return Answer(selection, found, width, ends_in, scale, positive, reason)


def _sums_to_one(values: Tensor) -> bool:
    return bool((values >= 0).all() and ((values.sum(1) - 1).abs() <= TOLERANCE).all())


def _measured_task(
    module: nn.Module,
    selection: Selection,
    raw: Float[Tensor, "b k"],
    ends_in: str | None,
    scale: str,
    classes: Sequence[str] | None,
) -> tuple[Task, str]:
    """Return the task, and how it was found."""
    width = raw.shape[1]
    declared = getattr(getattr(bare_module(module), "config", None), "problem_type", None)
    by_config: dict[Any, Task] = {
        "regression": "regression",
        "multi_label_classification": "binary" if width == 1 else "multilabel",
        "single_label_classification": "binary" if width == 1 else "multiclass",
    }
    if declared in by_config:
        return by_config[declared], f"the model's configuration says {declared}"
    if width == 1:
        return "binary", "it ends in a sigmoid" if ends_in else "one value per image is one logit"
    if ends_in == "sigmoid":
        return "multilabel", "it ends in a sigmoid, which treats each label by itself"
    if ends_in or scale != "logits":
        return "multiclass", f"it ends in a {ends_in}" if ends_in else f"these are {scale}"
    if classes is not None:
        return "multiclass", f"there are {len(classes)} class names; task= says otherwise"
    if selection.is_embedding or getattr(bare_module(module), "num_classes", None) == 0:
        return "embedding", "the model has no classes"
    if width > 2 and bool(((raw.norm(dim=1) - 1).abs() <= TOLERANCE).all()):
        return "embedding", "its vectors have length one"
    return "multiclass", "taken for a logit per class; task= says otherwise"


def check_task(task: object) -> None:
    """Raise an error if a task does not exist.

    Raises
    ------
    ModelError
        If it does not.
    """
    if task not in TASKS:
        raise ModelError(
            f"The task is {task!r}.", f"Expected one of {', '.join(TASKS)}.", "Choose one of them."
        )


def _check_width(task: Task, width: int) -> None:
    if (task == "binary" and width != 1) or (task == "multiclass" and width == 1):
        raise ModelError(
            f"The task is '{task}', but the model returns {width} value{'s' * (width != 1)} per "
            "image.",
            "Expected one value for 'binary', and one per class for 'multiclass'.",
            "Pass another task, or choose another tensor by " + DECLARE,
        )
