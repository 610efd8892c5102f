"""Commands made from questions: options from settings, and one way to open, print and save."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from semlens.cli.outline import KEYWORD, with_parameters
from semlens.cli.output import (
    DeviceOption,
    EmbedderOption,
    JsonOption,
    out,
    print_json,
    print_written,
    report_errors,
    saved_text,
)
from semlens.errors import StoreError
from semlens.lens import lens_of, result_of, takes_several
from semlens.lenses.result import Result, check_suffix
from semlens.settings import Setting, settings_of, unannotated
from semlens.types import Component

if TYPE_CHECKING:
    from semlens.concept_database import ConceptDatabase
    from semlens.lenses.concepts import ConceptSet

NO_LABELS = "none"
"""In place of a concept set: components stay without labels."""
_SOURCES = {
    "model": Annotated[
        str | None, typer.Option("--model", help="Where to load the model from, if it has moved.")
    ],
    "images": Annotated[
        str | None,
        typer.Option("--data", help="Where to load the images from, if they have moved."),
    ],
    "embedder": EmbedderOption,
    "device": DeviceOption,
}


@dataclass
class QuestionContext:
    """The databases and the question of a command, with the settings from its options.

    Parameters
    ----------
    paths
        Folders of the databases.
    question
        Called with the databases and the settings.
    options
        Settings of the question, as they were given on the command line.
    sources
        ``model``, ``images``, ``embedder`` and ``device``, for the questions that need them.
    save
        Files that the answer will be saved to.
    as_json
        Whether the answer will be printed as JSON.
    """

    paths: Sequence[Path]
    question: Callable[..., Any]
    options: dict[str, Any]
    sources: dict[str, Any]
    save: list[Path]
    as_json: bool
    after_output: Callable[[], None] = lambda: None
    """Called after the answer was printed and saved."""
    files: list[tuple[Path, Callable[..., None]]] = field(default_factory=list)
    """Additional files, and the function that writes the answer to each."""

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The settings from the options, as the question takes them."""
        return {name: self._parse(name, value) for name, value in self.options.items()}

    def _parse(self, name: str, value: Any) -> Any:
        from semlens.models.function_target import FunctionTarget, is_function_text
        from semlens.models.target import Target

        setting = settings_of(self.question).get(name)
        if setting is None:  # a class of settings, already made from its fields
            return value
        kind = option_kind(setting)
        if kind == "names":
            return split_commas(value)
        if kind == "concepts":
            parsed = load_concept_sets(value, self)
            # on the command line 'none' stands for None
            optional = type(None) in typing.get_args(setting.type)
            return None if parsed == NO_LABELS and optional else parsed
        # a target as text executes no file; here the user of this machine names one
        if is_function_text(value) and Target in _members(setting.type):
            return FunctionTarget.load(value)
        return value

    @functools.cached_property
    def databases(self) -> list[ConceptDatabase]:
        """The databases, opened once."""
        from semlens.api import open as open_database

        return [open_database(path, **self.sources) for path in self.paths]

    @property
    def db(self) -> ConceptDatabase:
        """The first database."""
        return self.databases[0]

    def also_write(
        self, path: Path | None, ends: Sequence[str], write: Callable[..., None]
    ) -> None:
        """Write the answer to an additional file, if given; a wrong ending is refused now."""
        if path is not None:
            self.files.append((check_suffix(path, ends), write))

    def take(self, suffix: str, default: str) -> Path:
        """Return the file to save with this ending, which the command itself writes.

        Raises
        ------
        StoreError
            If there are several.
        """
        files = [path for path in self.save if path.suffix.lower() == suffix]
        if len(files) > 1:
            raise StoreError(
                f"--save is given with {len(files)} files that end in {suffix}.",
                "Expected one.",
                "Save it once.",
            )
        self.save = [path for path in self.save if path not in files]
        return files[0] if files else Path(default)

    def __call__(self, *arguments: Any, **overrides: Any) -> Any:
        """Ask the question; ``overrides`` replace settings from the options."""
        subject = self.databases if takes_several(self.question) else self.db
        return self.question(subject, *arguments, **{**self.settings, **overrides})


def command(
    question: Callable[..., Any],
    *,
    fields: type[BaseModel] | None = None,
    written: str = "",
) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Make a command from a function of a :class:`QuestionContext` and additional options.

    The command takes the database (several, if the question takes ``databases``), every setting
    of the question that the function does not take itself, the sources that the question needs,
    ``--save`` and ``--json``. The command prints and saves the result that the function returns.

    Parameters
    ----------
    fields
        A settings class that the question takes as ``settings``; each field becomes an option.
    written
        Name of the file that the function itself writes (:meth:`QuestionContext.take`) without
        ``--save``.
    """
    several = takes_several(question)
    suffixes = {*result_suffixes(question), *([Path(written).suffix] if written else [])}

    def decorate(function: Callable[..., Result]) -> Callable[..., None]:
        additional = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        overridden = {parameter.name for parameter in additional}
        needed = _needed_sources(question, several=several) - overridden
        sources = {name: None for name in _SOURCES if name in needed}
        sources |= {"device": "cpu"} if sources else {}
        settings = {k: s for k, s in settings_of(question).items() if k not in overridden}

        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            def pop_given(names: Iterable[str]) -> dict[str, Any]:
                """Take arguments out; those that are None get the question's own default."""
                values = {name: arguments.pop(name) for name in names}
                return {name: value for name, value in values.items() if value is not None}

            folders = arguments.pop("databases" if several else "database")
            save: list[Path] = arguments.pop("save") or []
            as_json = arguments.pop("as_json")
            options = pop_given(settings)
            if fields is not None:
                options["settings"] = fields(**pop_given(fields.model_fields))
            paths = folders if several else [folders]
            ask = QuestionContext(paths, question, options, pop_given(sources), save, as_json)
            for path in save:
                check_suffix(path, suffixes)
            result = function(ask, **arguments)
            for path in ask.save:
                result.save(path)
            for path, write in ask.files:
                write(result, path)
                print_written(path)
            if as_json:
                print_json(result.to_json())
            else:
                out.print(result)
                for path in ask.save:
                    print_written(path)
            ask.after_output()

        text = "Folders or URLs of the databases." if several else "Folder or URL of the database."
        saved = typer.Option("--save", help=saved_text(suffixes, written))
        folder = Annotated[list[Path] if several else Path, typer.Argument(help=text)]
        name = "databases" if several else "database"
        parameters = [
            inspect.Parameter(name, KEYWORD, annotation=folder),
            *(parameter.replace(kind=KEYWORD) for parameter in additional),
            *(_setting_option(setting) for setting in settings.values()),
            *(field_options(fields) if fields is not None else ()),
            *(
                inspect.Parameter(name, KEYWORD, annotation=_SOURCES[name], default=default)
                for name, default in sources.items()
            ),
            inspect.Parameter(
                "save", KEYWORD, annotation=Annotated[list[Path] | None, saved], default=None
            ),
            inspect.Parameter("as_json", KEYWORD, annotation=JsonOption, default=False),
        ]
        return report_errors(with_parameters(run, parameters))

    return decorate


def _needed_sources(question: Callable[..., Any], *, several: bool) -> set[str]:
    """Return the sources that a question may load; an embedder may be a layer of the model."""
    declared = lens_of(question)
    needed: set[str] = set(declared.needs if declared else ())
    return needed | {"model"} if "embedder" in needed and not several else needed


def question_command(question: Callable[..., Result]) -> Callable[..., None]:
    """Make a command from a question without code of its own; its docstring is the help."""

    def run(ask: QuestionContext) -> Result:
        return ask()

    listing = lens_of(question)
    text = inspect.getdoc(question) or ""
    # without the sections of the numpy docstring, which are for Python users
    text = re.split(r"\n\n\w+\n---", text)[0]
    run.__doc__ = f"{text}\n\nExamples:\n\nsemlens {listing.example}" if listing else text
    return command(question)(run)


OptionKind = Literal["concepts", "names", "several", "one"]
"""Concept sets, names that commas may separate, values that are repeated, or one value."""


def option_kind(setting: Setting) -> OptionKind:
    """Return how the option of a setting is given, by the setting's type."""
    from semlens.lenses.concepts import ConceptSet

    members = set(_members(setting.type))
    if ConceptSet in members:
        return "concepts"
    items = {
        item
        for member in members
        if typing.get_origin(member) in (list, Sequence, Iterable)
        for item in _members(typing.get_args(member)[0])
    }
    if Component in members or (items and setting.remote and setting.remote.kind == "layer"):
        return "names"
    return "several" if items & {str, Path} else "one"


def _members(type_: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the type itself."""
    union = typing.get_origin(type_) in (Union, UnionType)
    return tuple(map(unannotated, typing.get_args(type_))) if union else (type_,)


def _flags(setting: Setting, kind: OptionKind, type_: Any) -> list[str]:
    """Return the names of an option; one that is repeated has the singular, too."""
    name = setting.name.replace("_", "-")
    if name == "images" and kind == "one":
        name = "data"  # as in build
    if kind in ("names", "several") and name.endswith("s"):
        return [f"--{name[:-1]}", f"--{name}"]
    return [f"--{name}/--no-{name}"] if type_ is bool else [f"--{name}"]


def _setting_option(setting: Setting) -> inspect.Parameter:
    """Return the option of a setting: its name, help, bounds, choices and default."""
    bounds = {type(entry).__name__: entry for entry in setting.field.metadata}
    keywords: dict[str, Any] = {"help": setting.field.description}
    for name, key, attribute in (("Ge", "min", "ge"), ("Le", "max", "le")):
        if name in bounds:
            keywords[key] = getattr(bounds[name], attribute)
    kind = option_kind(setting)
    default = setting.default
    if kind == "one":
        type_, optional = _option_type(setting.type)
    else:
        type_, optional = list[str], default is not inspect.Parameter.empty
        if default and optional:
            keywords["help"] += f" [{default}]"
        default = None if optional else default
    option = typer.Option(*_flags(setting, kind, type_), **keywords)
    annotation = Annotated[type_ | None if optional else type_, option]
    return inspect.Parameter(setting.name, KEYWORD, annotation=annotation, default=default)


def split_commas(values: Sequence[str]) -> list[str]:
    """Split values that hold several names, separated by commas."""
    return [name for value in values for name in value.split(",") if name]


def load_concept_sets(names: Sequence[str], ask: QuestionContext) -> list[ConceptSet] | str:
    """Load concept sets by file, folder, name of a bundled set, or saved audit; keep ``none``."""
    from semlens.lenses.resolve_concepts import sets_for

    if list(names) == [NO_LABELS]:
        return NO_LABELS
    return [concept_set for name in names for concept_set in sets_for(ask.db, name)]


def result_suffixes(question: Callable[..., Any]) -> Sequence[str]:
    """Return the file endings that the answer of a question can be saved with."""
    returned = result_of(question)
    return returned.suffixes if returned is not None else ()


def _option_type(type_: Any) -> tuple[Any, bool]:
    """Return the type that an option is parsed as, and whether it may be left out."""
    members = _members(type_)
    if len(members) == 1:
        return type_, False
    simple_types = (int, float, str, bool, Path, list[str])
    simple = [m for m in members if m in simple_types or typing.get_origin(m) is Literal]
    # "int | str", such as a class by logit or by name, is parsed as a string
    return (str if str in simple else simple[0]), type(None) in members


def with_fields(
    *classes: type[BaseModel], last: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace the ``**`` parameter of a command by an option per field of settings classes.

    An option that is left out is None. The classes check the values. With ``last``, these options
    are listed after those of the command itself.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        first, *remaining, _ = inspect.signature(function, eval_str=True).parameters.values()
        fields = [option for model in classes for option in field_options(model)]
        options = (*remaining, *fields) if last else (*fields, *remaining)
        return with_parameters(function, [p.replace(kind=KEYWORD) for p in (first, *options)])

    return decorate


def field_options(model: type[BaseModel]) -> list[inspect.Parameter]:
    """Return an option per field of a settings class; an option that is left out is None."""
    return [_field_option(name, field) for name, field in model.model_fields.items()]


def _field_option(name: str, field: FieldInfo) -> inspect.Parameter:
    type_, _ = _option_type(field.annotation)
    choices = typing.get_args(type_) if typing.get_origin(type_) is Literal else ()
    flag = name.replace("_", "-")
    text = str(field.description)
    if type_ is bool:
        text += " [on]" if field.default else " [off]"
    elif field.default is not None:
        text += f" [{field.default:.3g}]" if type_ is float else f" [{field.default}]"
    option = typer.Option(
        f"--{flag}/--no-{flag}" if type_ is bool else f"--{flag}",
        help=text,
        metavar="|".join(choices) or None,
    )
    annotation = Annotated[(str if choices else type_) | None, option]
    return inspect.Parameter(name, KEYWORD, annotation=annotation, default=None)
