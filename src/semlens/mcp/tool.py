"""A tool: a question with arguments that JSON can hold, and its answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from semlens.concept_database import ConceptDatabase
from semlens.errors import RecipeError, nearest
from semlens.lenses.result import Result
from semlens.mcp.image_access import ImageAccess
from semlens.settings import invalid_field, request_model, setting, settings_of

ROWS = 20
"""Entries of each list in the numbers of an answer, by default: agents pay for what they read. At
least four, so that boxes stay whole."""

DatabaseName = Annotated[
    str | None, setting("Database, by name as in overview [the first that is served].")
]
DATABASES: Any = (
    Annotated[list[str], setting("Databases to compare, by name as in overview [all].")],
    (),
)
COMMON: dict[str, Any] = {
    "picture": (Annotated[bool, setting("Whether the answer has a picture.")], True),
    "rows": (
        Annotated[int, setting("Entries of each list in the numbers, at most.", ge=4, le=1000)],
        ROWS,
    ),
}


@dataclass(frozen=True)
class Call:
    """One call of a tool: its arguments, and what it may be about.

    Parameters
    ----------
    databases
        The databases that are served, by name.
    images
        The images that the agent may name.
    arguments
        The checked arguments, by name.
    """

    databases: Mapping[str, ConceptDatabase]
    images: ImageAccess
    arguments: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Return an argument."""
        return self.arguments[name]

    @property
    def db(self) -> ConceptDatabase:
        """The database that the call is about; without a name the first."""
        return self.named(self["database"])

    @property
    def several(self) -> list[ConceptDatabase]:
        """The databases that the call is about; without names all."""
        return [self.named(name) for name in self["databases"] or self.databases]

    def named(self, name: str | None) -> ConceptDatabase:
        """Return a database by name, the first for None.

        Raises
        ------
        RecipeError
            If there is none of this name.
        """
        name = next(iter(self.databases)) if name is None else name
        if name not in self.databases:
            raise RecipeError(
                f"There is no database '{name}'.",
                f"Expected one of {', '.join(self.databases)}.",
                "Give one of these names, or none for the first.",
            )
        return self.databases[name]

    def settings(self, question: Callable[..., Any], *handled: str) -> dict[str, Any]:
        """Return the arguments that are settings of a question, without those handled otherwise."""
        names = settings_of(question).keys() - set(handled)
        settings = {name: value for name, value in self.arguments.items() if name in names}
        if isinstance(settings.get("layers"), str):  # "layer3,layer4", as the help says
            settings["layers"] = [name.strip() for name in settings["layers"].split(",")]
        return settings


@dataclass(frozen=True)
class Tool:
    """A tool: its name and description, the model of its arguments, and what answers a call."""

    name: str
    description: str
    model: type[BaseModel]
    answer: Callable[[Call], Result]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the arguments, the required ones first."""
        schema = self.model.model_json_schema()
        required = schema.get("required", [])
        properties = {
            name: {key: value for key, value in entry.items() if key != "title"}
            for name, entry in schema["properties"].items()
        }
        ordered = sorted(properties, key=lambda name: name not in required)
        return {
            "type": "object",
            "properties": {name: properties[name] for name in ordered},
            "required": required,
            "additionalProperties": False,
        }

    def check(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call with the defaults.

        Raises
        ------
        RecipeError
            If one is missing, unknown or invalid.
        """
        known = self.model.model_fields
        for name in arguments:
            if name not in known:
                raise RecipeError(
                    f"The tool '{self.name}' has no argument '{name}'.",
                    f"The nearest are {nearest(name, known)}.",
                    "Correct the name, or leave it out.",
                )
        for name, field in known.items():
            if field.is_required() and name not in arguments:
                raise RecipeError(
                    f"The argument '{name}' of '{self.name}' is missing.",
                    f"Expected: {field.description}",
                    f"Give {name}.",
                )
        try:
            return dict(self.model.model_validate(dict(arguments)))
        except ValidationError as error:
            raise invalid_field(known, error, RecipeError) from error


def tool(
    question: Callable[..., Any] = lambda: None, *, without: Iterable[str] = (), **others: Any
) -> Callable[[Callable[[Call], Result]], Tool]:
    """Make a tool from a question's settings and a function that answers a call.

    Parameters
    ----------
    question
        Its settings become arguments, with their types, bounds, defaults and help; none by default.
    without
        Settings that an agent does not get: technical ones, and those that read any file.
    others
        Additional or replaced arguments, as type and default.
    """

    def decorate(answer: Callable[[Call], Result]) -> Tool:
        name = answer.__name__.rstrip("_")
        model = request_model(question, name, without=without, **others, **COMMON)
        text = " ".join((inspect.getdoc(answer) or "").split())
        return Tool(name, text, model, answer)

    return decorate


def retyped(question: Callable[..., Any], name: str, type_: Any) -> tuple[Any, Any]:
    """Return a setting as an argument of another type, with its own help and default."""
    known = settings_of(question)[name]
    default = ... if known.default is inspect.Parameter.empty else known.default
    return Annotated[type_, setting(known.field.description or "")], default
