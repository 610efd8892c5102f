"""What a question asks about: one number per image that a model's output is read as.

A :class:`Target` has a name, a key that identifies it, and ``value(output)``, which is
differentiable. All built-in targets are linear in the output once their choice is held: which box
is nearest, where a class is predicted, how long an embedding is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from pydantic_core import CoreSchema, core_schema
from torch import Tensor

from semlens.errors import RelevanceError, shortened
from semlens.models.model_output import ModelOutput
from semlens.models.output_tensor import output_name
from semlens.recipe import fingerprint

FORMS = (
    "a class by name or number, 'cat - dog', 'cat + dog', similar:TEXT, box:CLASS@x0,y0,x1,y1, "
    "region:CLASS, or FILE.py:FUNCTION"
)
"""How a target is written."""
ClassRef = int | str
"""A class, by number or by name."""


@runtime_checkable
class Names(Protocol):
    """What names in a target stand for."""

    def index(self, name: ClassRef) -> int:
        """Return the number of a class."""
        ...

    def vector(self, text: str) -> Float[Tensor, " d"]:
        """Return the direction of a text in the space of the model's answer."""
        ...


class Target(ABC):
    """One number per image, read off a model's output.

    Written as text (:meth:`parse`), or made by :meth:`logit`, :meth:`difference`, :meth:`similar`,
    :meth:`box`, :meth:`region` and :meth:`function`.
    """

    reads_answer: ClassVar[bool] = True
    """Whether it is read off the scores of the model's answer, not off other tensors."""

    @property
    @abstractmethod
    def name(self) -> str:
        """How it is written."""

    @property
    @abstractmethod
    def key(self) -> str:
        """A text that identifies it: two targets of one key have equal values."""

    @property
    def index(self) -> int | None:
        """Number of the class whose logit it is; None for any other target."""
        return None

    def with_names(self, names: Names) -> Target:
        """Return the target with numbers in place of names.

        Raises
        ------
        RelevanceError
            If a name stands for nothing.
        """
        return self

    def choice(self, output: ModelOutput) -> Tensor | None:
        """Return what is held while the output changes, [b ...]; None if there is nothing."""
        return None

    @abstractmethod
    def held_value(self, output: ModelOutput, choice: Tensor | None) -> Float[Tensor, " b"]:
        """Return the value under a choice of :meth:`choice`."""

    def value(self, output: ModelOutput | Any) -> Float[Tensor, " b"]:
        """Return the value of each image.

        Parameters
        ----------
        output
            What a model returned for b images.

        Raises
        ------
        RelevanceError
            If the output has no such value.
        """
        output = output if isinstance(output, ModelOutput) else ModelOutput(output)
        return self.held_value(output, self.choice(output))

    # -- making one ---------------------------------------------------------------------------

    @staticmethod
    def parse(text: str, classes: Sequence[str] | None = None) -> Target:
        """Read a target from its text.

        ``3`` or ``cat``, ``cat - dog``, ``cat + dog``, ``similar:a red bus``,
        ``box:person@120,40,300,220`` or ``box:person@17`` (a fixed query or anchor),
        ``region:road`` or ``region:road@120,40,300,220``, ``file.py:function``. Coordinates
        are pixels of the image as the model gets it.

        Parameters
        ----------
        classes
            Names of the classes, in which names are looked up at once; without them, by the
            question that gets the target.

        Raises
        ------
        RelevanceError
            If it has no such form, or ``classes`` has no such name.
        """
        from semlens.models.parse_target import parse_target

        return parse_target(text, classes)

    @staticmethod
    def logit(target: ClassRef) -> Logits:
        """Return the logit of a class or label, or a value of a regression by its number."""
        return Logits(((target, 1.0),))

    @staticmethod
    def difference(target: ClassRef, other: ClassRef) -> Logits:
        """Return a logit minus another one."""
        return Logits(((target, 1.0), (other, -1.0)))

    @staticmethod
    def similar(text: str, vector: Float[Tensor, " d"] | None = None) -> Similar:
        """Return the cosine of the model's embedding with that of a text, or with a vector."""
        return Similar(text, None if vector is None else tuple(vector.detach().double().tolist()))

    @staticmethod
    def region(target: ClassRef, mask: Any = None) -> Target:
        """Return the mean logit of a class over a mask bool[h w], or over where it is predicted."""
        from semlens.models.spatial_targets import Region

        held = None if mask is None else torch.as_tensor(mask, dtype=torch.bool)
        return Region(target, held)

    @staticmethod
    def box(target: ClassRef, box: Sequence[float] | int) -> Target:
        """Return a class's score of the box nearest to ``(x0, y0, x1, y1)``, or of a query."""
        from semlens.models.spatial_targets import BoxScore

        if isinstance(box, int):
            return BoxScore(target, query=box)
        return BoxScore(target, (float(box[0]), float(box[1]), float(box[2]), float(box[3])))

    @staticmethod
    def function(function: Callable[[Any], Tensor], version: str = "") -> Target:
        """Return what a function makes of the model's output: a tensor [b].

        Parameters
        ----------
        version
            A text that identifies it; by default its source does.
        """
        from semlens.models.function_target import FunctionTarget

        label = getattr(function, "__name__", "function")
        return FunctionTarget(function, label, version or output_name(function))

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> CoreSchema:
        """Take a target as it is; in JSON it is its text."""
        return core_schema.no_info_plain_validator_function(
            _target,
            serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(),
        )

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def _target(value: object) -> Target:
    if not isinstance(value, Target):
        raise ValueError("Expected a target")
    return value


def number(target: ClassRef, count: int, what: str = "logit") -> int:
    """Return the number of a class, which is checked to exist.

    Raises
    ------
    RelevanceError
        If it does not, or is still a name.
    """
    if isinstance(target, str):
        raise RelevanceError(
            f"The class '{shortened(target)}' is a name.",
            "Expected a number, or to know the names of the classes.",
            "Pass classes= to Target.parse, or ask a question of a database.",
        )
    if not 0 <= target < count:
        raise RelevanceError(
            f"The target {target} is not a class of the model.",
            f"Expected a {what} from 0 to {count - 1}.",
            "Choose one of them.",
        )
    return target


@dataclass(frozen=True)
class Logits(Target):
    """A weighted sum of scores: one logit, the difference of two, or the sum of several labels.

    Parameters
    ----------
    terms
        Classes, and the weight of each.
    names
        Names of the classes, where numbers stand for them.
    """

    terms: tuple[tuple[ClassRef, float], ...]
    names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def name(self) -> str:
        """The classes, joined by their signs."""
        texts = self.names or tuple(str(one) for one, _ in self.terms)
        signs = ["-" if weight < 0 else "+" for _, weight in self.terms]
        signed = [f"{sign} {text}" for sign, text in zip(signs, texts, strict=True)]
        return " ".join(signed).removeprefix("+ ")

    @property
    def key(self) -> str:
        """The terms."""
        return fingerprint("logits", [list(term) for term in self.terms])

    @property
    def index(self) -> int | None:
        """Number of the class, if it is the logit of one."""
        (first, weight), *others = self.terms
        return first if not others and weight == 1 and isinstance(first, int) else None

    def with_names(self, names: Names) -> Logits:
        """Return the target with numbers in place of names."""
        texts = self.names or tuple(str(one) for one, _ in self.terms)
        return replace(
            self, terms=tuple((names.index(one), w) for one, w in self.terms), names=texts
        )

    def held_value(self, output: ModelOutput, choice: Tensor | None) -> Float[Tensor, " b"]:
        """Return the weighted sum of the scores."""
        scores = output.scores
        columns = [number(one, scores.shape[1]) for one, _ in self.terms]
        return scores[:, columns] @ scores.new_tensor([weight for _, weight in self.terms])


@dataclass(frozen=True)
class Similar(Target):
    """The cosine of a model's embedding with that of a text; its norm is held.

    Parameters
    ----------
    text
        The text, or a name of the vector.
    vector
        The direction [d]; None until the question embeds the text.
    """

    text: str
    vector: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """``similar:`` and the text."""
        return f"similar:{self.text}"

    @property
    def key(self) -> str:
        """The text and the vector."""
        return fingerprint("similar", self.text, self.vector)

    def with_names(self, names: Names) -> Similar:
        """Return the target with the vector of its text."""
        if self.vector is not None:
            return self
        return replace(self, vector=tuple(names.vector(self.text).double().tolist()))

    def choice(self, output: ModelOutput) -> Tensor:
        """Return the norm of each embedding [b]."""
        return output.scores.detach().norm(dim=1)

    def held_value(self, output: ModelOutput, choice: Tensor | None) -> Float[Tensor, " b"]:
        """Return the cosine, with the norms of ``choice``."""
        scores = output.scores
        vector = scores.new_tensor(self.vector or ())
        if len(vector) != scores.shape[1]:
            raise RelevanceError(
                f"'{shortened(self.name)}' has a vector of {len(vector)} numbers.",
                f"Expected {scores.shape[1]}, as the model's answer has.",
                "Ask about a model that embeds into the space of the text, such as a CLIP tower.",
            )
        norms = scores.detach().norm(dim=1) if choice is None else choice
        tiny = torch.finfo(scores.dtype).tiny
        return scores @ (vector / vector.norm()) / norms.clamp_min(tiny)
