"""``semlens audit``, ``classes model-test`` and ``report``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.command import QuestionContext, command
from semlens.cli.output import err, out
from semlens.errors import RecipeError
from semlens.lenses.audit.audit import audit as ask_audit
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.ci_gate import Check, Condition, check_conditions, save_junit
from semlens.lenses.audit.class_audits import ClassAudits, audit_all
from semlens.lenses.report.report import Report
from semlens.lenses.report.report import report as ask_report

FAILED = 3
"""Exit code if a condition of ``--fail-on`` is met."""


@command(ask_audit)
def audit(
    ask: QuestionContext,
    context: typer.Context,
    every: Annotated[
        bool,
        typer.Option(
            "--all", help="Audit every class, each with the sets for it and the sets for no class."
        ),
    ] = False,
    saved: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of a saved audit, which gives class, concepts and settings."
        ),
    ] = None,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with code 3 if this condition is met, such as 'spurious>0.05'. Repeatable."
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(help="Write the outcome of each condition to this JUnit XML file."),
    ] = None,
) -> Audit | ClassAudits:
    """Audit whether a class relies on valid concepts or on spurious ones.

    Each relevant component gets a verdict: valid, spurious, both or unexpected, by its alignment
    with [valid] and [spurious] concepts, compared with chance. `--concepts` takes a file, a folder
    or the name of a bundled set. Without it, a class is audited with the concepts of its saved
    audit, or else with the bundled sets for that class.

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
            "--junit has no condition to report.", "Expected at least one.", "Add --fail-on."
        )
    result = _run_audit(ask, context, every, saved)
    audits = dict(result.audits) if isinstance(result, ClassAudits) else {result.name: result}
    checks = check_conditions(audits, conditions)
    if junit is not None:
        skipped = dict(result.skipped) if isinstance(result, ClassAudits) else {}
        save_junit(junit, checks, ask.paths[0].name, skipped)
    ask.after_output = lambda: _print_checks(checks, ask.as_json)
    return result


def _run_audit(
    ask: QuestionContext, context: typer.Context, every: bool, saved: int | None
) -> Audit | ClassAudits:
    """Audit one class or all; without a class, the one that the only concept set is for."""
    settings = dict(ask.settings)
    if saved is not None:
        check_saved(context)
        return ask.db.audits.run(saved, resamples=settings["resamples"])
    target, sets = settings.pop("target", None), settings.get("concepts")
    if every and target is not None:
        raise RecipeError(
            "--all and --target are both given.", "Expected one of them.", "Leave one out."
        )
    all_of_sets = target is None and sets and (len(sets) > 1 or sets[0].target is None)
    return audit_all(ask.db, **settings) if every or all_of_sets else ask()


def _print_checks(checks: Sequence[Check], as_json: bool) -> None:
    """Print the outcome of the conditions, and exit with code 3 if one is met."""
    failed = [check for check in checks if check.failed]
    console = err if as_json else out
    for check in failed:
        console.print(
            f"FAILED: '{check.name}' {check.condition.text} "
            f"({check.condition.measure} is {check.value:.3f})",
            markup=False,
            highlight=False,
        )
    if checks and not failed:
        console.print(f"Passed: {len(checks)} conditions.", highlight=False)
    if failed:
        raise typer.Exit(FAILED)


@command(ask_report, written="report.html")
def report(
    ask: QuestionContext,
    context: typer.Context,
) -> Report:
    """Write everything known about a class to one self-contained HTML file.

    Images are embedded, and nothing is loaded from the network. A section that cannot be made
    says why.

    Examples:

    semlens report r18.semlens --target ox --concepts paper-ox --save ox.html

    semlens report r18.semlens --target ox --concepts ox.toml --artefact "text:© stock"
    --sensitivity sensitivity.json

    semlens report r18.semlens --saved 3 --save ox.html
    """
    file = ask.take(".html", "report.html")
    ask.also_write(file, (".html",), Report.save)
    if "saved" in ask.settings:
        check_saved(context)
    return replace(ask(command=["semlens", *sys.argv[1:]]), file=str(file))


_SAVED_SETTINGS = {
    "target", "every", "concepts", "layers", "minimum", "level", "threshold", "background", "seed",
}  # fmt: skip


def check_saved(context: typer.Context) -> None:
    """Refuse options that conflict with the saved audit."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        on_command_line = source is not None and source.name == "COMMANDLINE"
        if on_command_line and parameter.name in _SAVED_SETTINGS:
            raise RecipeError(
                f"--saved and {parameter.opts[0]} are both given.",
                "Expected one of them: a saved audit has its own class, concepts and settings.",
                "Leave one out, or edit the saved audit with 'semlens serve'.",
            )
