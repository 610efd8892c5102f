"""Routes of all lenses: what there is to ask, with which settings, and the answers.

Nothing here knows a lens: forms and answers follow from its declaration, so that those of other
packages appear as well.
"""

from __future__ import annotations

import inspect
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from semlens.errors import LensError, RecipeError, StoreError, nearest
from semlens.figures import FigureSpec
from semlens.lens import Source, lens_of, load_lens, registered, result_of, takes_several
from semlens.lenses.labelling.component_labels import label_tables
from semlens.lenses.result import PLOT_SUFFIXES, Result, plain
from semlens.recipe import fingerprint
from semlens.settings import invalid_field, read_remote, remote_request, remote_settings
from semlens.types import Component
from semlens.web.app_state import AppState, Context, ModelContext, State
from semlens.web.errors import ErrorResponse, HttpError, error_model, not_found
from semlens.web.responses import attachment, csv

router = APIRouter(tags=["lenses"])

MAX_ROWS = 500
"""Rows of a table in a response; a file has all of them."""

Settings = Annotated[dict[str, Any], Body(default_factory=dict)]
Others = Annotated[list[int] | None, Query(alias="with", max_length=100)]
"""Further models of a lens about several, in ``?with=``, which may be repeated."""


class LensInfo(BaseModel):
    """A lens as a page offers it."""

    name: str
    title: str
    group: str
    summary: str
    description: str
    """The paragraphs of its documentation."""
    example: str
    """A command; empty if it has none."""
    needs: tuple[Source, ...]
    several: bool
    """Whether it is about several models."""
    settings: dict[str, Any]
    """JSON schema. ``kind`` of a property is what of the model it names: class, layer, ..."""
    suffixes: list[str]
    """Of files that its result can be saved as."""


class LensList(BaseModel):
    """All lenses that a page can ask, by group and title."""

    lenses: list[LensInfo]
    failed: list[ErrorResponse]
    """Lenses of other packages that cannot be imported."""


class Column(BaseModel):
    """A column of a table."""

    name: str
    kind: Literal["number", "text", "component", "class", "flag"]


class Table(BaseModel):
    """A table; of a long one, its first rows."""

    columns: list[Column]
    rows: list[list[Any]]
    total: int


class LensResult(BaseModel):
    """What a lens found, as every view shows it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    sentences: list[str]
    figure: FigureSpec | None
    table: Table | None
    limits: str
    suffixes: list[str]


@router.get("/lenses")
def list_lenses() -> LensList:
    """Return all registered lenses that a page can ask."""
    infos: list[LensInfo] = []
    failed: list[ErrorResponse] = []
    for name in registered():
        try:
            question = load_lens(name)
        except LensError as error:
            failed.append(error_model(error))
        else:
            if _is_offered(question):
                infos.append(_info(name, question))
    return LensList(lenses=sorted(infos, key=lambda i: (i.group, i.title)), failed=failed)


@router.post("/models/{m}/lenses/{name}", responses={200: {"model": LensResult}})
def ask_lens(
    context: Context, state: State, name: str, settings: Settings, others: Others = None
) -> Response:
    """Ask a lens, with its settings as the body."""
    result = _Call.of(context, state, name, settings, others).result(state)
    return json_response(lens_result(result))


@router.post("/models/{m}/lenses/{name}/cancel", status_code=204)
def cancel_lens(
    context: Context, state: State, name: str, settings: Settings, others: Others = None
) -> None:
    """Stop a lens that is running with these settings."""
    state.jobs.cancel(_Call.of(context, state, name, settings, others).key)


@router.post("/models/{m}/lenses/{name}/file", response_class=Response)
def lens_file(
    context: Context,
    state: State,
    name: str,
    settings: Settings,
    suffix: Annotated[str, Query(max_length=20)],
    others: Others = None,
) -> Response:
    """Return the result as a file: a picture, a table or all values."""
    call = _Call.of(context, state, name, settings, others)
    if suffix not in (choices := suffixes_of(result_of(call.question))):
        raise StoreError(
            f"The result of '{name}' cannot be written as '{suffix}'.",
            f"Expected one of {', '.join(choices)}.",
            "Choose another suffix.",
        )
    result = call.result(state)

    def write() -> bytes:
        if suffix == ".csv":  # names in it are untrusted, and a spreadsheet runs formulas
            return csv(result.to_pandas()).encode()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"result{suffix}"
            result.save(path)
            return path.read_bytes()

    content = state.jobs.result(f"{call.key}{suffix}", "Writing the file", write, large=True)
    name = f"{context.name}-{name.replace('_', '-')}{suffix}"
    return Response(content, media_type="application/octet-stream", headers=attachment(name))


def json_response(result: LensResult) -> Response:
    """Return a result as JSON; that of the framework would refuse NaN, which is null here."""
    return Response(result.model_dump_json(), media_type="application/json")


def lens_result(result: Result, target: str | None = None) -> LensResult:
    """Return what views show of a result."""
    section = result.section(target)
    return LensResult(
        sentences=list(section.sentences),
        figure=section.figure,
        table=None if section.table is None else table_of(section.table),
        limits=section.limits,
        suffixes=suffixes_of(type(result), section.figure is not None),
    )


def table_of(frame: pd.DataFrame) -> Table:
    """Return a table without its index, in which a component is one column."""
    if {"layer", "index", "sign"} <= set(frame) and "component" not in frame:
        keys = (frame[key] for key in ("layer", "index", "sign"))
        names = [str(Component(*key)) for key in zip(*keys, strict=True)]
        frame = frame.drop(columns=["layer", "index", "sign"])
        frame.insert(0, "component", pd.Series(names, frame.index, object))
    rows = plain(frame.head(MAX_ROWS).astype(object).to_numpy())
    columns = [
        Column(name=str(name), kind=_kind(str(name), values)) for name, values in frame.items()
    ]
    return Table(columns=columns, rows=rows, total=len(frame))


def _kind(name: str, column: pd.Series) -> Literal["number", "text", "component", "class", "flag"]:
    if name in ("component", "class"):
        return name
    if pd.api.types.is_bool_dtype(column):
        return "flag"
    return "number" if pd.api.types.is_numeric_dtype(column) else "text"


def suffixes_of(result: type[Result], has_figure: bool | None = None) -> list[str]:
    """Return the suffixes of files of a result; charts only if it draws something."""
    draws = has_figure or result.plot is not Result.plot or result.figure is not Result.figure
    return [s for s in result.suffixes if draws or s not in PLOT_SUFFIXES]


@dataclass(frozen=True)
class _Call:
    """A lens, what it is asked about, and its settings."""

    name: str
    question: Callable[..., Result]
    contexts: Sequence[ModelContext]
    given: BaseModel
    key: str

    @classmethod
    def of(
        cls,
        context: ModelContext,
        state: AppState,
        name: str,
        settings: dict[str, Any],
        others: Sequence[int] | None,
    ) -> _Call:
        """Check the name, the models and the settings.

        Raises
        ------
        HttpError, LensError
            If there is no such lens, or only the machine of the database may ask it.
        RecipeError
            If a setting is invalid.
        """
        question = _question(name)
        contexts = [context, *(state.model(number) for number in others or ())]
        if len(contexts) > 1 and not takes_several(question):
            raise HttpError(
                400,
                f"'{name}' was asked about {len(contexts)} models.",
                "Expected one.",
                "Leave out 'with'.",
            )
        model = remote_request(question)
        try:
            # as JSON, in which a list may be a tuple while true is no number
            given = model.model_validate_json(json.dumps(settings), strict=True)
        except ValidationError as error:
            raise invalid_field(model.model_fields, error, RecipeError) from error
        parts = [
            part
            for one in contexts
            for part in (
                one.number,
                one.db.fingerprint,
                # what a default may depend on: saved lists of concepts, saved labels
                [(record.id, record.revision) for record in one.db.audits.readable()],
                [(table.name, table.created) for table in label_tables(one.db)],
            )
        ]
        values = given.model_dump(mode="json", exclude_unset=True)
        key = f"lens/{name}/{fingerprint(values, *parts)}"
        return cls(name, question, contexts, given, key)

    def result(self, state: AppState) -> Result:
        """Return the result; it is computed once.

        Raises
        ------
        JobPending
            While it is being computed.
        """
        declared, title = lens_of(self.question), _title(self.name)
        needs = declared.needs if declared else ()

        def compute() -> Result:
            databases = [context.db for context in self.contexts]
            subject: Any = databases if takes_several(self.question) else databases[0]
            arguments = read_remote(self.question, subject, self.given)
            with ExitStack() as stack:
                if "model" in needs:
                    for context in sorted(self.contexts, key=lambda one: one.number):
                        stack.enter_context(context.run_model(title))
                return self.question(subject, **arguments)

        return state.jobs.result(self.key, title, compute, large=True)


def _question(name: str) -> Callable[..., Result]:
    if name not in registered():
        offered = [info.name for info in list_lenses().lenses]
        raise not_found(
            f"There is no lens '{name}'.", f"Expected one such as {nearest(name, offered)}."
        )
    question = load_lens(name)
    if not _is_offered(question):
        raise HttpError(
            403,
            f"'{name}' is not offered here.",
            "It writes files, or needs files of the machine that has the database.",
            "Ask it there, from Python or the command line.",
        )
    return question


@cache
def _is_offered(question: Callable[..., Any]) -> bool:
    declared, result = lens_of(question), result_of(question)
    return (
        declared is not None
        and declared.group is not None
        and not declared.local
        and isinstance(result, type)
        and issubclass(result, Result)
        and remote_settings(question) is not None
    )


def _info(name: str, question: Callable[..., Any]) -> LensInfo:
    declared = lens_of(question)
    # without the sections of the numpy docstring, which are for users of Python
    prose = re.split(r"\n\n\w+\n---", inspect.getdoc(question) or "")[0]
    summary, *paragraphs = (" ".join(p.split()) for p in prose.split("\n\n"))
    return LensInfo(
        name=name,
        title=_title(name),
        group=str(declared.group) if declared else "",
        summary=summary,
        description="\n\n".join(paragraphs),
        example=f"semlens {declared.example}" if declared and declared.example else "",
        needs=declared.needs if declared else (),
        several=takes_several(question),
        settings=remote_request(question).model_json_schema(),
        suffixes=suffixes_of(result_of(question)),
    )


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
