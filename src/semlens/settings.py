"""Questions and their settings: each declared once, as an annotated parameter of one function.

A question is a function of a database first. Its settings are written as
``minimum: Annotated[float, setting("Least share of relevance.", ge=0, le=1)] = 0.01``; from that
come the check of the values, the options of the command line and the server's request models.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, ParamSpec, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from semlens.errors import RecipeError, SemlensError
from semlens.progress import shown

P = ParamSpec("P")
R = TypeVar("R")
Source = Literal["model", "images", "embedder"]
"""What a database brings along, and a question may have to load."""


class Listing(NamedTuple):
    """Where a question is offered: in Python, and as a command."""

    public: bool
    panel: str | None
    example: str


def setting(help: str, **bounds: Any) -> Any:
    """Annotate a parameter as a setting: what it is, and pydantic's bounds (``ge=0``, ...)."""
    return Field(description=help, **bounds)


@dataclass(frozen=True)
class Setting:
    """One setting of a question."""

    name: str
    type: Any
    """Its annotation without the field."""
    field: FieldInfo
    default: Any
    """``inspect.Parameter.empty`` where it has to be given."""

    @functools.cached_property
    def expected(self) -> str:
        """What its values are, in words; empty where any value of the type will do."""
        return expected_value(self.type, self.field)

    def check(self, question: str, value: Any) -> None:
        """Refuse a value that the declaration excludes (:class:`RecipeError`)."""
        if not self.expected:
            return
        try:
            self._adapter.validate_python(value)
        except ValidationError as error:
            raise RecipeError(
                f"The setting '{self.name}' of '{question}' is {value!r}.",
                self.expected,
                f"Give another {self.name}.",
            ) from error

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        annotated: Any = Annotated[self.type, self.field]
        return TypeAdapter(annotated)


def expected_value(type_: Any, field: FieldInfo) -> str:
    """Say in words which values a setting takes, such as "Expected a number from 0 to 1."."""
    kinds = _alternatives(type_)
    parts = [
        part for part in kinds if part is not type(None) and typing.get_origin(part) is not tuple
    ]
    limits = list(field.metadata)
    for part in parts:  # a union's bounds are of its numbers
        limits += [b for m in getattr(part, "__metadata__", ()) for b in getattr(m, "metadata", ())]
    parts = [bare(part) for part in parts]
    choices = [str(c) for part in parts if typing.get_origin(part) is Literal
               for c in typing.get_args(part)]  # fmt: skip
    if choices:
        several = f"{', '.join(choices[:-1])} or " if len(choices) > 1 else ""
        return f"Expected {several}{choices[-1]}."
    if not parts or not {int, float}.issuperset(parts):
        return ""
    bounds = {type(one).__name__: one for one in limits}
    text = "a number" if float in parts else "a whole number"
    for name, words, attribute in (
        ("Ge", "from", "ge"), ("Gt", "above", "gt"), ("Le", "to", "le"), ("Lt", "below", "lt"),
    ):  # fmt: skip
        if name in bounds:
            text += f" {words} {getattr(bounds[name], attribute):.10g}"
    text += " or a pair of these" if any(typing.get_origin(k) is tuple for k in kinds) else ""
    return f"Expected {text}{' or None' if type(None) in kinds else ''}."


def bare(type_: Any) -> Any:
    """Return an annotation without what is annotated."""
    return type_.__origin__ if typing.get_origin(type_) is Annotated else type_


def _alternatives(type_: Any) -> tuple[Any, ...]:
    union = typing.get_origin(type_) in (typing.Union, types.UnionType)
    return typing.get_args(type_) if union else (type_,)


@functools.cache
def settings_of(question: Callable[..., Any]) -> Mapping[str, Setting]:
    """Return the settings of a question by name, in the order of its parameters."""
    function = inspect.unwrap(question)
    hints = typing.get_type_hints(function, include_extras=True)
    found: dict[str, Setting] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        field = next(
            (m for m in getattr(hints.get(name), "__metadata__", ()) if isinstance(m, FieldInfo)),
            None,
        )
        if field is not None:
            found[name] = Setting(name, hints[name].__origin__, field, parameter.default)
    return found


def question(
    *needs: Source, public: bool = True, panel: str | None = None, example: str = ""
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a question: its settings are checked, and long work shows its progress.

    Parameters
    ----------
    needs
        What it may load of the database's model, images and embedder.
    public
        Whether it is a name of ``semlens`` and a method of ``ConceptDatabase``.
    panel
        The panel of ``semlens --help`` that lists it as a command. None if it has no command, or
        one that is written by hand in ``semlens.cli``.
    example
        A call of that command, for its help.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def ask(*args: P.args, **kwargs: P.kwargs) -> R:
            known = settings_of(function)
            for name, value in signature.bind(*args, **kwargs).arguments.items():
                if name in known:
                    known[name].check(function.__name__, value)
            with shown():
                return function(*args, **kwargs)

        vars(ask)["needs"] = needs
        vars(ask)["listing"] = Listing(public, panel, example)
        return ask

    return decorate


def listing_of(question: Callable[..., Any]) -> Listing | None:
    """Return where a question is offered; None for a function that is no question."""
    listing = getattr(question, "listing", None)
    return listing if isinstance(listing, Listing) else None


def needs_of(question: Callable[..., Any]) -> tuple[Source, ...]:
    """Return what a question may load of a database's sources."""
    return getattr(question, "needs", ())


def request_model(
    question: Callable[..., Any], name: str, *, without: Iterable[str] = (), **others: Any
) -> type[BaseModel]:
    """Make the model of a request from a question's settings.

    Parameters
    ----------
    without
        Settings that a request cannot name.
    others
        Further fields, or other types for settings, as pydantic's ``create_model`` takes them.
    """
    fields: dict[str, Any] = {
        one.name: (
            Annotated[one.type, one.field],
            ... if one.default is inspect.Parameter.empty else one.default,
        )
        for one in settings_of(question).values()
        if one.name not in set(without)
    }
    return create_model(
        name,
        __config__=ConfigDict(frozen=True, extra="forbid"),
        __doc__=inspect.getdoc(question),
        **{**fields, **others},
    )


class Settings(BaseModel):
    """Base of frozen settings classes; a wrong value is a :class:`RecipeError`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, values: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return check(values)
        except ValidationError as error:
            raise invalid(cls.model_fields, error, RecipeError) from error


def invalid(
    fields: Mapping[str, FieldInfo], error: ValidationError, kind: type[SemlensError]
) -> SemlensError:
    """Return the error of ``kind`` that says which of a class's fields is wrong."""
    first = error.errors()[0]
    place = first["loc"][0] if first["loc"] else ""
    name = list(fields)[place] if isinstance(place, int) else place  # by position, or by name
    expected = expected_value(fields[name].annotation, fields[name]) if name in fields else ""
    return kind(
        f"{name} is '{first['input']}'.", expected or f"{first['msg']}.", f"Give another {name}."
    )
