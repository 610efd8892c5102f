"""``semlens audit``, ``test`` and ``report``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from semlens.analysis.audit.audit import audit as ask_audit
from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.audit.ci_gate import Check, Condition, check_conditions, save_junit
from semlens.analysis.audit.model_test import model_test
from semlens.analysis.audit.model_test_result import ModelTest
from semlens.analysis.audit.sweep import Sweep, audit_all
from semlens.analysis.report.report import Report
from semlens.analysis.report.report import report as ask_report
from semlens.cli.command import QuestionContext, command
from semlens.cli.output import err, out
from semlens.errors import RecipeError

FAILED = 3
"""Exit code when a condition of ``--fail-on`` is met."""


@command(ask_audit)
def audit(
    ask: QuestionContext,
    context: typer.Context,
    every: Annotated[
        bool, typer.Option("--all", help="Every class: each with the sets that name it or none.")
    ] = False,
    saved: Annotated[
        int | None,
        typer.Option(min=1, help="A saved audit, by its number: its class, lists and settings."),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Condition that gives exit code 3, such as 'spurious>0.05'. May be given again."
        ),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="File for the conditions' outcome as JUnit XML.")
    ] = None,
) -> Audit | Sweep:
    """Say whether a class rests on what it should rest on.

    Each relevant component is valid, spurious, both or unexpected, by its alignment with
    [valid] and [spurious] concepts, against chance. `--concepts` may be a folder of sets, or
    the name of a bundled one; without it, each class is held against the lists of its saved
    audit, or the bundled sets that are for it.

    Examples:

    semlens audit r50.semlens --target ox --concepts paper-ox --save ox.png

    semlens audit r50.semlens --all --concepts paper-imagenet --concepts artefacts

    semlens audit r50.semlens --target ox --concepts ox.toml --fail-on 'spurious>0.05'
    --junit audit.xml

    semlens audit r50.semlens --saved 3
    """
    conditions = [Condition.parse(text) for text in fail_on or ()]
    if junit is not None and not conditions:
        raise RecipeError(
            "--junit has nothing to write.", "Expected a condition.", "Add --fail-on."
        )
    found = _found(ask, context, every, saved)
    audits = dict(found.audits) if isinstance(found, Sweep) else {found.name: found}
    checks = check_conditions(audits, conditions)
    if junit is not None:
        left = dict(found.skipped) if isinstance(found, Sweep) else {}
        save_junit(junit, checks, ask.paths[0].name, left)
    ask.after = lambda: _report(checks, ask.as_json)
    return found


def _found(
    ask: QuestionContext, context: typer.Context, every: bool, saved: int | None
) -> Audit | Sweep:
    """Audit one class or all: without a class, that of a single set."""
    settings = dict(ask.settings)
    if saved is not None:
        check_saved(context)
        return ask.db.audits.run(saved, resamples=settings["resamples"])
    target, sets = settings.pop("target", None), settings.get("concepts")
    if every and target is not None:
        raise RecipeError("--all and --target were given.", "Expected one.", "Leave one out.")
    own = target is None and sets and (len(sets) > 1 or sets[0].target is None)
    return audit_all(ask.db, **settings) if every or own else ask()


def _report(checks: Sequence[Check], quiet: bool) -> None:
    """Print the outcome of the conditions, and end with code 3 if one is met."""
    failed = [check for check in checks if check.failed]
    shown = err if quiet else out
    for check in failed:
        shown.print(
            f"FAILED: '{check.name}' {check.condition.text} "
            f"({check.condition.measure} is {check.value:.3f})",
            markup=False,
            highlight=False,
        )
    if checks and not failed:
        shown.print(f"Passed: {len(checks)} conditions.", highlight=False)
    if failed:
        raise typer.Exit(FAILED)


@command(model_test)
def test(ask: QuestionContext) -> ModelTest:
    """Test whether images that show spurious features only pass for a class.

    AUROC of the class's logit on real images against those: 1 is safe, 0.5 is unsafe. With
    --artefact the same images without it are tested too.

    Examples:

    semlens test r18.semlens --target ox --spurious generated/

    semlens test r18.semlens --target ox --artefact "text:© stock" --artefact hue --save test.png
    """
    return ask()


@command(ask_report)
def report(
    ask: QuestionContext,
    context: typer.Context,
    file: Annotated[Path, typer.Option("--out", help="File to write: .html.")] = Path(
        "report.html"
    ),
) -> Report:
    """Write all that is known of a class into one HTML file that can be handed over.

    It holds its pictures and asks nothing of any host. A part that could not be made says why.

    Examples:

    semlens report r18.semlens --target ox --concepts paper-ox --out ox.html

    semlens report r18.semlens --target ox --concepts ox.toml --artefact "text:© stock"
    --evaluated evaluated.json

    semlens report r18.semlens --saved 3 --out ox.html
    """
    ask.also(file, (".html",), Report.save)
    if "saved" in ask.settings:
        check_saved(context)
    return replace(ask(command=["semlens", *sys.argv[1:]]), file=str(file))


_OF_THE_SAVED = {
    "target", "every", "concepts", "layers", "minimum", "level", "threshold", "background", "seed",
}  # fmt: skip


def check_saved(context: typer.Context) -> None:
    """Refuse options that say otherwise than the saved audit which is asked for."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        given = source is not None and source.name == "COMMANDLINE"
        if given and parameter.name in _OF_THE_SAVED:
            raise RecipeError(
                f"--saved and {parameter.opts[0]} were given.",
                "Expected one: a saved audit has its own class, concepts and settings.",
                "Leave one out, or edit the saved audit with 'semlens serve'.",
            )
