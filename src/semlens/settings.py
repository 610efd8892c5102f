"""Settings: parameters of a lens, each declared once as an annotated parameter of its function.

A setting is written as
``minimum: Annotated[float, setting("Minimum share of relevance.", ge=0, le=1)] = 0.01``. Value
checks, command-line options and the server's request models are derived from it.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    Strict,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.fields import FieldInfo

from semlens.errors import RecipeError, SemlensError, shortened

T = TypeVar("T")
Items = Annotated[tuple[T, ...], Strict(False)]
"""A tuple that a strict model also takes as a list: JSON has no tuples."""
Kind = Literal["class", "component", "layer", "concepts", "image"]
"""What of a database an argument names, if not a number or a word."""


def setting(help: str, *, local: bool = False, **bounds: Any) -> Any:
    """Annotate a parameter as a setting with help text and pydantic bounds (``ge=0``, ...).

    Parameters
    ----------
    local
        Whether only somebody at the machine of the database may give it, since it names files
        there. Types that take a ``Path`` are local without saying so, unless :class:`Remote` is.
    """
    return Field(description=help, json_schema_extra={"local": True} if local else None, **bounds)


@dataclass(frozen=True)
class Reads:
    """How an argument is read once, at the boundary: a class by name becomes its logit.

    A parameter type is written as ``Annotated[int, Reads(int | str, find_class), setting("...")]``:
    what the function gets, what callers may give, and how one becomes the other.

    Parameters
    ----------
    accepts
        Type of what callers may give.
    read
        Called with the database (or databases) and the argument.
    """

    accepts: Any
    read: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Remote:
    """How an argument is given by somebody elsewhere, who may not name files of this machine.

    Written beside the setting: ``Annotated[Concepts, setting("..."), Remote(list[str], read)]``.

    Parameters
    ----------
    accepts
        Type of what a page or an agent may give.
    kind
        What is chosen, so that a page can offer what there is.
    read
        Called with the database (or databases) and the argument; returns what callers in Python
        would give. None if it is the same.
    help
        The setting's text for such callers, if it has another one.
    """

    accepts: Any
    kind: Kind | None = None
    read: Callable[[Any, Any], Any] | None = None
    help: str = ""


@dataclass(frozen=True)
class Setting:
    """One setting of a lens."""

    name: str
    type: Any
    """What callers may give: the annotation without the field, or what :class:`Reads` accepts."""
    field: FieldInfo
    default: Any
    """``inspect.Parameter.empty`` if the setting is required."""
    reads: Callable[[Any, Any], Any] | None = None
    """Turns a database and an argument into what the function gets."""
    remote: Remote | None = None
    """How a page or an agent gives it; None if only the machine of the database may."""

    @functools.cached_property
    def expected(self) -> str:
        """Valid values in words; empty if the type has no restrictions."""
        return expected_value(self.type, self.field)

    def check(self, question: str, value: Any) -> None:
        """Raise a :class:`RecipeError` if a value is invalid."""
        if not self.expected:
            return
        try:
            is_list = isinstance(value, list | tuple)
            self._adapter.validate_python(tuple(map(_plain, value)) if is_list else _plain(value))
        except ValidationError as error:
            raise RecipeError(
                f"The setting '{self.name}' of '{question}' is {value!r}.",
                self.expected,
                f"Give another {self.name}.",
            ) from error

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        annotated: Any = Annotated[self.type, self.field]
        # NaN would pass every bound, since it compares as false; strict, as True is no number
        return TypeAdapter(annotated, config=ConfigDict(allow_inf_nan=False, strict=True))


def expected_value(type_: Any, field: FieldInfo) -> str:
    """Return the valid values of a setting in words, such as "Expected a number from 0 to 1."."""
    alternatives = _alternatives(type_)
    members = [t for t in alternatives if t is not type(None) and typing.get_origin(t) is not tuple]
    limits = list(field.metadata)
    for member in members:  # a union's bounds are annotated on its members
        limits += [
            b for m in getattr(member, "__metadata__", ()) for b in getattr(m, "metadata", ())
        ]
    members = [unannotated(member) for member in members]
    choices = [str(c) for member in members if typing.get_origin(member) is Literal
               for c in typing.get_args(member)]  # fmt: skip
    if choices:
        head = f"{', '.join(choices[:-1])} or " if len(choices) > 1 else ""
        return f"Expected {head}{choices[-1]}."
    if members == [bool]:
        return "Expected True or False."
    if not members or not {int, float}.issuperset(members):
        return ""
    bounds = {type(limit).__name__: limit for limit in limits}
    text = "a number" if float in members else "a whole number"
    for name, words, attribute in (
        ("Ge", "from", "ge"), ("Gt", "above", "gt"), ("Le", "to", "le"), ("Lt", "below", "lt"),
    ):  # fmt: skip
        if name in bounds:
            text += f" {words} {getattr(bounds[name], attribute):.10g}"
    if any(typing.get_origin(t) is tuple for t in alternatives):
        text += " or a pair of these"
    return f"Expected {text}{' or None' if type(None) in alternatives else ''}."


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch as that of Python."""
    return value.item() if getattr(value, "shape", None) == () else value


def unannotated(type_: Any) -> Any:
    """Return the type of an ``Annotated`` type, or the type itself."""
    return type_.__origin__ if typing.get_origin(type_) is Annotated else type_


def _alternatives(type_: Any) -> tuple[Any, ...]:
    union = typing.get_origin(type_) in (typing.Union, types.UnionType)
    return typing.get_args(type_) if union else (type_,)


@functools.cache
def settings_of(question: Callable[..., Any]) -> Mapping[str, Setting]:
    """Return the settings of a question by name, in parameter order."""
    function = inspect.unwrap(question)
    hints = typing.get_type_hints(function, include_extras=True)
    settings: dict[str, Setting] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        metadata: tuple[Any, ...] = getattr(hints.get(name), "__metadata__", ())
        # the outermost, where a parameter type is annotated with another text
        field = next((m for m in reversed(metadata) if isinstance(m, FieldInfo)), None)
        reads = next((m for m in metadata if isinstance(m, Reads)), None)
        if field is not None:
            type_ = hints[name].__origin__ if reads is None else reads.accepts
            read = None if reads is None else reads.read
            remote = next((m for m in metadata if isinstance(m, Remote)), None)
            if (field.json_schema_extra or {}) == {"local": True}:
                remote = None
            elif remote is None:
                remote = _remote(type_, field)
            settings[name] = Setting(name, type_, field, parameter.default, read, remote)
    return settings


def remote_settings(question: Callable[..., Any]) -> dict[str, Setting] | None:
    """Return the settings that a page or an agent may give; None if it cannot ask the question.

    It cannot if a parameter without a default is no setting, or is given locally only.
    """
    settings = settings_of(question)
    _, *parameters = inspect.signature(question).parameters.values()
    for parameter in parameters:
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        given = settings.get(parameter.name)
        if parameter.default is parameter.empty and not variadic:
            if given is None or given.remote is None:
                return None
    return {name: setting for name, setting in settings.items() if setting.remote is not None}


def remote_request(question: Callable[..., Any]) -> type[BaseModel]:
    """Make a pydantic model of what a page or an agent gives: the settings in :class:`Remote`."""
    fields: dict[str, Any] = {}
    for name, setting in (remote_settings(question) or {}).items():
        remote = cast(Remote, setting.remote)
        field: Any = Field(
            description=remote.help or setting.field.description,
            json_schema_extra={"kind": remote.kind} if remote.kind else None,
        )
        field.metadata = [*setting.field.metadata]
        required = setting.default is inspect.Parameter.empty
        accepts = remote.accepts if required else remote.accepts | None
        fields[name] = (Annotated[accepts, field], ... if required else setting.default)
    config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    return create_model(question.__name__, __config__=config, **fields)


def read_remote(question: Callable[..., Any], database: Any, given: BaseModel) -> dict[str, Any]:
    """Return the arguments of a question from a :func:`remote_request`; others keep their default.

    Parameters
    ----------
    database
        The database, or the databases of a question about several.
    """
    arguments: dict[str, Any] = {}
    for name in given.model_fields_set:
        remote, value = settings_of(question)[name].remote, getattr(given, name)
        if value is not None or settings_of(question)[name].default is None:
            read = None if remote is None else remote.read
            arguments[name] = value if read is None else read(database, value)
    return arguments


def _remote(type_: Any, field: FieldInfo) -> Remote | None:
    """Return the part of a type that JSON can give.

    A text may be a path where a path is taken; a number or a name is a class.
    """
    members = _alternatives(type_)
    takes_path = any(Path in (member, *typing.get_args(member)) for member in members)
    bounded = any(type(limit).__name__ in ("Ge", "Gt", "Le", "Lt") for limit in field.metadata)
    kept: list[Any] = []
    for member in members:
        plain = unannotated(member)
        items = typing.get_args(plain)
        if plain in (int, float, bool, type(None)) or typing.get_origin(plain) is Literal:
            kept.append(member)
        elif takes_path or (bounded and plain not in (int, float)):
            continue
        elif plain is str or (typing.get_origin(plain) is tuple and Any not in items):
            kept.append(member)
        elif typing.get_origin(plain) in (list, Sequence) and _remote(items[0], field) is not None:
            kept.append(list[items[0]])
    if not any(member is not type(None) for member in kept):
        return None
    is_class = {int, str}.issubset(kept)
    return Remote(typing.Union[tuple(kept)], "class" if is_class else None)  # noqa: UP007


def request_model(
    question: Callable[..., Any], name: str, *, without: Iterable[str] = (), **others: Any
) -> type[BaseModel]:
    """Make a pydantic model of a request from a question's settings.

    Parameters
    ----------
    without
        Settings to exclude.
    others
        Additional or replaced fields, as for pydantic's ``create_model``.
    """
    fields: dict[str, Any] = {
        s.name: (
            Annotated[s.type, s.field],
            ... if s.default is inspect.Parameter.empty else s.default,
        )
        for s in settings_of(question).values()
        if s.name not in set(without)
    }
    return create_model(
        name,
        __config__=ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False),
        __doc__=inspect.getdoc(question),
        **{**fields, **others},
    )


class Settings(BaseModel):
    """Base of frozen settings classes; an invalid value raises a :class:`RecipeError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _raise_recipe_error(cls, values: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(values, dict):
            values = {name: _plain(value) for name, value in values.items()}
        try:
            return check(values)
        except ValidationError as error:
            raise invalid_field(cls.model_fields, error, RecipeError) from error


def invalid_field(
    fields: Mapping[str, FieldInfo], error: ValidationError, kind: type[SemlensError]
) -> SemlensError:
    """Return the error of ``kind`` for the first invalid field of a class."""
    first = error.errors()[0]
    location = first["loc"][0] if first["loc"] else ""
    name = (
        list(fields)[location] if isinstance(location, int) else location
    )  # positional or by name
    expected = expected_value(fields[name].annotation, fields[name]) if name in fields else ""
    if first["type"] == "extra_forbidden":
        return kind(
            f"There is no setting '{shortened(name)}'.",
            f"Expected one of {', '.join(fields)}.",
            "Correct the name, or leave it out.",
        )
    value = shortened(first["input"])
    if not name:
        return kind(f"The settings are '{value}'.", "Expected names with values.", "Correct them.")
    return kind(f"{name} is '{value}'.", expected or f"{first['msg']}.", f"Give another {name}.")
