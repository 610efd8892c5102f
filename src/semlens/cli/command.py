"""Commands that ask a question: options from its settings, and one way to open and to answer."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import typer
from pydantic import BaseModel

from semlens.cli.options import NO_LABELS, Json, Save
from semlens.cli.output import answer, reported
from semlens.settings import Setting, bare, needs_of, settings_of

if TYPE_CHECKING:
    from semlens.analysis.concepts import ConceptSet
    from semlens.analysis.result import Result
    from semlens.api import ConceptDatabase

KEYWORD = inspect.Parameter.KEYWORD_ONLY
_SOURCES = {
    "model": (str, "Where to load the model from, if moved."),
    "images": (str, "Where to load the images from, if moved."),
    "embedder": (str, "Where to load the embedder from, if moved."),
    "device": (str, "cpu, cuda, cuda:1, mps."),
}
_NAMES = {
    "images": "data",  # what is a SPEC here is one in a build
    "artefacts": "artefact",
    "concept_map": "map",
    "model_test": "tested",
    "sensitivity": "evaluated",
}
"""Options that are called otherwise than the parameter."""


class Ask:
    """What a command is about: its database or databases, and its question.

    Parameters
    ----------
    paths
        Folders of the databases.
    question
        Called with the databases and the settings.
    settings
        Of the question, as they were typed.
    sources
        ``model``, ``images``, ``embedder`` and ``device`` where they were given.
    save
        Files that the answer will be written to.
    as_json
        Whether the answer will be printed as JSON.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        question: Callable[..., Any],
        settings: dict[str, Any],
        sources: dict[str, Any],
        save: Sequence[Path],
        as_json: bool,
    ) -> None:
        self.paths = paths
        self.save = save
        self.as_json = as_json
        self._typed = settings
        self._question = question
        self._sources = sources
        self.after: Callable[[bool], None] = lambda as_json: None
        """Called once the answer stands there, with whether it is JSON."""

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that were typed, as the question takes them."""
        return {name: self._read(name, value) for name, value in self._typed.items()}

    def _read(self, name: str, value: Any) -> Any:
        if name not in _READ:
            return value
        found = _READ[name](value, self)
        # what may be None is so by the name 'none'
        optional = type(None) in typing.get_args(settings_of(self._question)[name].type)
        return None if found == NO_LABELS and optional else found

    @functools.cached_property
    def databases(self) -> list[ConceptDatabase]:
        """The databases, opened once."""
        from semlens.api import open as open_database

        return [open_database(path, **self._sources) for path in self.paths]

    @property
    def db(self) -> ConceptDatabase:
        """The first database."""
        return self.databases[0]

    def __call__(self, *more: Any, **changes: Any) -> Any:
        """Ask the question, with other settings than were typed where ``changes`` names some."""
        first = next(iter(inspect.signature(self._question).parameters))
        asked = self.databases if first == "databases" else self.db
        return self._question(asked, *more, **{**self.settings, **changes})


def command(
    question: Callable[..., Any],
    *,
    without: Iterable[str] = (),
    sources: Sequence[str] = (),
    fields: type[BaseModel] | None = None,
) -> Callable[[Callable[..., Result | None]], Callable[..., None]]:
    """Make a command of a function that takes an :class:`Ask` and further options of its own.

    The command takes the database (or, if the question takes ``databases``, several), every
    setting of the question that the function does not take itself, the sources that the
    question needs, ``--save`` and ``--json``. What the function returns is printed and saved.

    Parameters
    ----------
    without
        Settings that are no options.
    sources
        Sources to take besides those that the question needs.
    fields
        A settings class; the question takes one as ``settings``, and each field is an option.
    """
    several = next(iter(inspect.signature(question).parameters)) == "databases"

    def decorate(function: Callable[..., Result | None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        taken = {parameter.name for parameter in own} | set(without)
        needs = {*needs_of(question), *sources} - taken
        needs = [name for name in _SOURCES if needs and name in {*needs, "device"}]
        settings = {k: one for k, one in settings_of(question).items() if k not in taken}

        @functools.wraps(function)
        def run(**given: Any) -> None:
            from semlens.analysis.result import check_end

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
            ask = Ask(folders if several else [folders], question, typed, found, save, as_json)
            for path in save:
                check_end(path, result_ends(question))
            result = function(ask, **given)
            if result is not None:
                answer(result, as_json, save)
            ask.after(as_json)

        text = "Folders of the databases." if several else "Folder of the database."
        place = Annotated[list[Path] if several else Path, typer.Argument(help=text)]
        head = inspect.Parameter("databases" if several else "database", KEYWORD, annotation=place)
        parameters = [
            head,
            *(parameter.replace(kind=KEYWORD) for parameter in own),
            *(option(one) for one in settings.values()),
            *(field_options(fields) if fields is not None else ()),
            *(_source(name) for name in needs),
            inspect.Parameter("save", KEYWORD, annotation=Save, default=None),
            inspect.Parameter("as_json", KEYWORD, annotation=Json, default=False),
        ]
        return reported(with_parameters(run, parameters))

    return decorate


def with_parameters(
    function: Callable[..., None], parameters: Sequence[inspect.Parameter]
) -> Callable[..., None]:
    """Give a function of keywords the signature that typer reads its options from."""
    function.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    function.__annotations__ = {p.name: p.annotation for p in parameters}
    return function


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
        if default:
            settings["help"] += f" [{default}]"
        default = None if optional else default
    elif plain is bool:
        names = [f"{names[0]}/--no-{names[0][2:]}"]
    annotation = Annotated[plain | None if optional else plain, typer.Option(*names, **settings)]
    return inspect.Parameter(one.name, KEYWORD, annotation=annotation, default=default)


def split_commas(given: Sequence[str]) -> list[str]:
    """Split what was joined by commas, as ``build --layers`` takes it."""
    return [name for part in given for name in part.split(",") if name]


def read_sets(given: Sequence[str], ask: Ask) -> list[ConceptSet] | str:
    """Load the concept sets that options name: files, folders, bundled ones, saved audits' lists.

    ``none`` stays as it is.
    """
    from semlens.analysis.concept_sets import sets_for

    if list(given) == [NO_LABELS]:
        return NO_LABELS
    return [one for name in given for one in sets_for(ask.db, name)]


_READ: dict[str, Callable[[Any, Ask], Any]] = {
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


def _source(name: str) -> inspect.Parameter:
    kind, text = _SOURCES[name]
    default = "cpu" if name == "device" else None
    made = typer.Option(f"--{_NAMES.get(name, name)}", help=text)
    annotation = Annotated[kind | None if default is None else kind, made]
    return inspect.Parameter(name, KEYWORD, annotation=annotation, default=default)


def _plain_type(type_: Any) -> tuple[Any, bool]:
    """Return the type that an option of a setting is read as, and whether it may be left out."""
    if typing.get_origin(type_) not in (Union, UnionType):
        return type_, False
    parts = [bare(part) for part in typing.get_args(type_)]
    simple = [p for p in parts if p in (int, float, str, bool) or typing.get_origin(p) is Literal]
    # what may be a number or a text is typed as a text: a class, by its name or its number
    return (str if str in simple else simple[0]), type(None) in parts


def field_options(model: type[BaseModel]) -> list[inspect.Parameter]:
    """Return an option per field of a settings class; one that is left out is None."""
    options: list[inspect.Parameter] = []
    for name, field in model.model_fields.items():
        default = "by the layer" if field.default is None else field.default
        kind: Any = field.annotation
        made = option(Setting(name, kind | None, field, None))
        kind, info = typing.get_args(made.annotation)
        info.help = f"{field.description} [{default}]"
        options.append(made.replace(annotation=Annotated[kind, info]))
    return options
