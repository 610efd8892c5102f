"""``semlens build --shard`` and ``semlens merge``: builds in parts that run on their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from semlens.cli.build_inputs import BuildInputs, load_plan
from semlens.cli.output import JsonOption, err, out, print_json, report_errors, table
from semlens.cli.status import describe_reference
from semlens.documents import read_json
from semlens.errors import RecipeError, StoreError
from semlens.recipe import Recipe
from semlens.regular_files import is_file, user_path

if TYPE_CHECKING:
    from semlens.concept_database import ConceptDatabase
    from semlens.run.plan import Plan

_OPTIONS = "partial/options.json"
"""The options of a build in parts, for the merge; removed with the shards."""
_LOCAL = {"executor", "compute_threads", "shard", "workers"}
"""Options of a run, not of the build."""
_NAMES = {
    "hash": "hashing the images",
    "collect": "running the model",
    "crop": "cropping and embedding",
    "relate": "class relevance",
}


def build_one_part(database: Path, inputs: BuildInputs, recipe: Recipe, as_json: bool) -> None:
    """Compute a part of a build, and print what it did and what comes next."""
    from semlens.progress import progress_bars
    from semlens.run.parts import Part, build_part

    part = Part.parse(str(inputs.shard))
    plan = load_plan(inputs, recipe)
    path = user_path(database)
    with progress_bars():
        report = build_part(path, plan, part)
    _write_options(path, plan, inputs, recipe)
    waiting = {step: [str(other) for other in others] for step, others in report.waiting.items()}
    if as_json:
        print_json(
            {
                "database": str(path.resolve()),
                "part": str(part),
                "computed": report.computed,
                "waiting": waiting,
                "complete": report.is_complete,
            }
        )
        return
    for step, count in report.computed.items():
        out.print(f"Part {part} of {_NAMES[step]}: {count} images computed.")
    if report.is_complete:
        out.print(f"All parts are complete. Next: semlens merge {database}", soft_wrap=True)
        return
    for step, others in waiting.items():
        out.print(f"Waiting for {_NAMES[step]}, parts {', '.join(others)}.", soft_wrap=True)
    text = "Next: run all parts again once these are done; each continues with the next step."
    out.print(text, soft_wrap=True)


def _write_options(path: Path, plan: Plan, inputs: BuildInputs, recipe: Recipe) -> None:
    """Save the options for the merge, which may run in another folder."""
    from semlens.store.atomic_files import write_atomic

    resolved = {
        "model": plan.model.spec,
        "random_weights": None,  # they are in the SPEC
        "data": plan.images.spec,
        "embedder": plan.embedder.spec,
        "device": plan.model.device.type,
        "boxes": inputs.boxes and str(user_path(inputs.boxes).resolve()),
        "classes": inputs.classes and str(user_path(inputs.classes).resolve()),
        "targets": inputs.targets and str(user_path(inputs.targets).resolve()),
    }
    options = {**inputs.model_dump(mode="json", exclude=_LOCAL), **resolved, **recipe.model_dump()}
    text = json.dumps(options, indent=1)
    # several parts may write it at the same time
    write_atomic(path / _OPTIONS, lambda file: file.write_text(text, "utf-8"), uuid4().hex)


@report_errors
def merge(
    database: Annotated[Path, typer.Argument(help="Folder of the database.")],
    parts: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of parts that were built apart from DATABASE."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Subject model; needed if it is a FILE.py:CALLABLE."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Complete a database from parts that were computed one by one, as jobs of a scheduler.

    The shards of other folders are copied into DATABASE after a check of their digests. Nothing is
    computed that a part computes. Run again after it has finished, it changes nothing.

    Examples:

    semlens merge r18.semlens

    semlens merge r18.semlens part1 part2 part3
    """
    from semlens.api import open as open_database
    from semlens.progress import progress_bars
    from semlens.run.parts import merge_parts

    folders = [user_path(part) for part in parts or ()]
    if not folders and _is_merged(user_path(database)):
        text = f"{database} is complete: there are no parts left to merge."
        err.print(text, markup=False, highlight=False, soft_wrap=True)
        print_database(open_database(database), as_json)
        return
    inputs, recipe = _read_options([user_path(database), *folders], model)
    plan = load_plan(inputs, recipe, run_files=model is not None)
    with progress_bars():
        merge_parts(user_path(database), plan, folders)
    print_database(open_database(database), as_json)


def _is_merged(database: Path) -> bool:
    """Return whether a database is finished, and its parts are gone."""
    from semlens.store.manifest import MANIFEST_NAME

    return is_file(database / MANIFEST_NAME) and not is_file(database / _OPTIONS)


def _read_options(folders: list[Path], model: str | None) -> tuple[BuildInputs, Recipe]:
    """Return the options with which the parts were built."""
    from semlens.store.atomic_files import damaged

    file = next((f / _OPTIONS for f in folders if is_file(f / _OPTIONS)), None)
    if file is None:
        raise StoreError(
            f"'{folders[0]}' has no parts of a build.",
            "Expected folders that 'semlens build --shard I/N' wrote.",
            "Check the paths, or name the folders of the parts: semlens merge DATABASE PART ...",
        )
    try:
        options: dict[str, Any] = read_json(file)
        recipe = Recipe(**{name: options.pop(name) for name in Recipe.model_fields})
        options["model"] = model or options["model"]
        return BuildInputs(**options), recipe
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecipeError) as error:
        raise damaged(file, error) from error


def print_database(db: ConceptDatabase, as_json: bool) -> None:
    """Print what a build made."""
    if as_json:
        manifest = db.manifest
        print_json(
            {
                "database": db.location,
                "components": manifest.rows,
                "samples": manifest.samples,
                "unreadable": manifest.unreadable,
                "reference": len(manifest.reference_rows),
                "layers": db.summary().to_dict("records"),
            }
        )
        return
    table(db.summary(), f"{db.path}: {db.manifest.rows} components")
    out.print(f"Reference: {describe_reference(db.manifest)}.")
    if db.manifest.unreadable:
        out.print(f"{db.manifest.unreadable} images skipped. See: semlens status {db.path}")
    out.print(f"Next: semlens search {db.path} 'dog'")
