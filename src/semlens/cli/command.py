"""Commands that ask a question: options from its settings, and one way to open and to answer."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from semlens.analysis.result import Result, check_end
from semlens.cli.outline import KEYWORD, with_parameters
from semlens.cli.output import Device, Json, Save, Spec, out, print_json, reported, written
from semlens.settings import Setting, bare, listing_of, needs_of, settings_of

if TYPE_CHECKING:
    from semlens.analysis.concepts import ConceptSet
    from semlens.api import ConceptDatabase

NO_LABELS = "none"
"""Instead of a concept set: components stay without labels."""
_SOURCES = {
    "model": Annotated[
        str | None, typer.Option("--model", help="Where to load the model from, if moved.")
    ],
    "images": Annotated[
        str | None, typer.Option("--data", help="Where to load the images from, if moved.")
    ],
    "embedder": Spec,
    "device": Device,
}
_NAMES = {
    "images": "data",  # what is a SPEC here is one in a build
    "artefacts": "artefact",
    "concept_map": "map",
    "model_test": "tested",
    "sensitivity": "evaluated",
}
"""Options that are called otherwise than the parameter."""


@dataclass
class QuestionContext:
    """What a command is about: its database or databases, and its question.

    Parameters
    ----------
    paths
        Folders of the databases.
    question
        Called with the databases and the settings.
    typed
        Settings of the question, as they were typed.
    sources
        ``model``, ``images``, ``embedder`` and ``device`` where they were given.
    save
        Files that the answer will be written to.
    as_json
        Whether the answer will be printed as JSON.
    """

    paths: Sequence[Path]
    question: Callable[..., Any]
    typed: dict[str, Any]
    sources: dict[str, Any]
    save: Sequence[Path]
    as_json: bool
    after: Callable[[], None] = lambda: None
    """Called once the answer stands there."""
    files: list[tuple[Path, Callable[..., None]]] = field(default_factory=list)
    """Further files, and what writes the answer to each."""

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that were typed, as the question takes them."""
        return {name: self._read(name, value) for name, value in self.typed.items()}

    def _read(self, name: str, value: Any) -> Any:
        if name not in _READ:
            return value
        found = _READ[name](value, self)
        # what may be None is so by the name 'none'
        optional = type(None) in typing.get_args(settings_of(self.question)[name].type)
        return None if found == NO_LABELS and optional else found

    @functools.cached_property
    def databases(self) -> list[ConceptDatabase]:
        """The databases, opened once."""
        from semlens.api import open as open_database

        return [open_database(path, **self.sources) for path in self.paths]

    @property
    def db(self) -> ConceptDatabase:
        """The first database."""
        return self.databases[0]

    def also(self, path: Path | None, ends: Sequence[str], write: Callable[..., None]) -> None:
        """Write the answer to a further file, if one is named; a wrong ending is refused now."""
        if path is not None:
            self.files.append((check_end(path, ends), write))

    def __call__(self, *more: Any, **changes: Any) -> Any:
        """Ask the question, with other settings than were typed where ``changes`` names some."""
        first = next(iter(inspect.signature(self.question).parameters))
        asked = self.databases if first == "databases" else self.db
        return self.question(asked, *more, **{**self.settings, **changes})


def command(
    question: Callable[..., Any],
    *,
    fields: type[BaseModel] | None = None,
) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Make a command of a function of a :class:`QuestionContext` and further options of its own.

    The command takes the database (or, if the question takes ``databases``, several), every
    setting of the question that the function does not take itself, the sources that the
    question needs, ``--save`` and ``--json``. What the function returns is printed and saved.

    Parameters
    ----------
    fields
        A settings class; the question takes one as ``settings``, and each field is an option.
    """
    several = next(iter(inspect.signature(question).parameters)) == "databases"

    def decorate(function: Callable[..., Result]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        taken = {parameter.name for parameter in own}
        needs = set(needs_of(question)) - taken
        needs = {name: None for name in _SOURCES if name in needs}
        needs |= {"device": "cpu"} if needs else {}
        settings = {k: one for k, one in settings_of(question).items() if k not in taken}

        @functools.wraps(function)
        def run(**given: Any) -> None:
            folders = given.pop("databases" if several else "database")
            save, as_json = given.pop("save") or (), given.pop("as_json")
            typed = {
                name: value
                for name in settings
                if (value := given.pop(name)) is not None  # else the question's own default
            }
            if fields is not None:
                chosen = {name: given.pop(name) for name in fields.model_fields}
                known = {name: value for name, value in chosen.items() if value is not None}
                typed["settings"] = fields(**known)
            found = {name: given.pop(name) for name in needs}
            ask = QuestionContext(
                folders if several else [folders], question, typed, found, save, as_json
            )
            for path in save:
                check_end(path, result_ends(question))
            result = function(ask, **given)
            for path in save:
                result.save(path)
            for path, write in ask.files:
                write(result, path)
                written(path)
            if as_json:
                print_json(result.to_json())
            else:
                out.print(result)
                for path in save:
                    written(path)
            ask.after()

        text = "Folders of the databases." if several else "Folder of the database."
        place = Annotated[list[Path] if several else Path, typer.Argument(help=text)]
        head = inspect.Parameter("databases" if several else "database", KEYWORD, annotation=place)
        parameters = [
            head,
            *(parameter.replace(kind=KEYWORD) for parameter in own),
            *(option(one) for one in settings.values()),
            *(field_options(fields) if fields is not None else ()),
            *(
                inspect.Parameter(name, KEYWORD, annotation=_SOURCES[name], default=default)
                for name, default in needs.items()
            ),
            inspect.Parameter("save", KEYWORD, annotation=Save, default=None),
            inspect.Parameter("as_json", KEYWORD, annotation=Json, default=False),
        ]
        return reported(with_parameters(run, parameters))

    return decorate


def question_command(question: Callable[..., Result]) -> Callable[..., None]:
    """Make a command of a question as it is; its help is the question's summary and example."""

    def run(ask: QuestionContext) -> Result:
        return ask()

    listing = listing_of(question)
    text = inspect.getdoc(question) or ""
    # the sections of a numpy docstring are for Python
    text = re.split(r"\n\n\w+\n---", text)[0]
    run.__doc__ = f"{text}\n\nExamples:\n\nsemlens {listing.example}" if listing else text
    return command(question)(run)


def option(one: Setting) -> inspect.Parameter:
    """Return the option of a setting: its name, help, bounds, choices and default."""
    bounds = {type(part).__name__: part for part in one.field.metadata}
    settings: dict[str, Any] = {"help": one.field.description}
    for name, key, attribute in (("Ge", "min", "ge"), ("Le", "max", "le")):
        if name in bounds:
            settings[key] = getattr(bounds[name], attribute)
    names = [f"--{_NAMES.get(one.name, one.name).replace('_', '-')}"]
    plain, optional = _plain_type(one.type)
    default = one.default
    if one.name in _READ:
        plain, optional = list[str], default is not inspect.Parameter.empty
        names = ["--layer", "--layers"] if one.name == "layers" else names
        if default and default is not inspect.Parameter.empty:
            settings["help"] += f" [{default}]"
        default = None if optional else default
    elif plain is bool:
        names = [f"{names[0]}/--no-{names[0][2:]}"]
    annotation = Annotated[plain | None if optional else plain, typer.Option(*names, **settings)]
    return inspect.Parameter(one.name, KEYWORD, annotation=annotation, default=default)


def split_commas(given: Sequence[str]) -> list[str]:
    """Split what was joined by commas, as ``build --layers`` takes it."""
    return [name for part in given for name in part.split(",") if name]


def read_sets(given: Sequence[str], ask: QuestionContext) -> list[ConceptSet] | str:
    """Load the concept sets that options name: files, folders, bundled ones, saved audits' lists.

    ``none`` stays as it is.
    """
    from semlens.analysis.resolve_concepts import sets_for

    if list(given) == [NO_LABELS]:
        return NO_LABELS
    return [one for name in given for one in sets_for(ask.db, name)]


_READ: dict[str, Callable[[Any, QuestionContext], Any]] = {
    "layers": lambda given, _: split_commas(given),
    "components": lambda given, _: split_commas(given),
    "artefacts": lambda given, _: given,
    "concepts": read_sets,
    "background": read_sets,
}
"""Settings whose options may be given again, and how they are read."""


def result_ends(question: Callable[..., Any]) -> Sequence[str]:
    """Return what the answer of a question can be saved as."""
    returned = typing.get_type_hints(inspect.unwrap(question)).get("return")
    return returned.ends if returned is not None else ()


def _plain_type(type_: Any) -> tuple[Any, bool]:
    """Return the type that an option of a setting is read as, and whether it may be left out."""
    if typing.get_origin(type_) not in (Union, UnionType):
        return type_, False
    parts = [bare(part) for part in typing.get_args(type_)]
    plain = (int, float, str, bool, Path)
    simple = [p for p in parts if p in plain or typing.get_origin(p) is Literal]
    # what may be a number or a text is typed as a text: a class, by its name or its number
    return (str if str in simple else simple[0]), type(None) in parts


def with_fields(*classes: type[BaseModel]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option per field of settings classes, in place of its ``**`` parameter.

    An option that is left out is None. Values are for the classes to check.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        first, *others, _ = inspect.signature(function, eval_str=True).parameters.values()
        fields = [option for one in classes for option in field_options(one)]
        return with_parameters(
            function, [p.replace(kind=KEYWORD) for p in (first, *fields, *others)]
        )

    return decorate


def field_options(model: type[BaseModel]) -> list[inspect.Parameter]:
    """Return an option per field of a settings class; one that is left out is None."""
    return [_field_option(name, field) for name, field in model.model_fields.items()]


def _field_option(name: str, field: FieldInfo) -> inspect.Parameter:
    kind, _ = _plain_type(field.annotation)
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    flag = name.replace("_", "-")
    text = str(field.description)
    if kind is bool:
        text += " [on]" if field.default else " [off]"
    elif field.default is not None:
        text += f" [{field.default:.3g}]" if kind is float else f" [{field.default}]"
    option = typer.Option(
        f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}",
        help=text,
        metavar="|".join(choices) or None,
    )
    annotation = Annotated[(str if choices else kind) | None, option]
    return inspect.Parameter(name, KEYWORD, annotation=annotation, default=None)
