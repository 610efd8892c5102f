"""``semlens audit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semlens.cli.options import (
    Concepts,
    Db,
    Json,
    Layer,
    Level,
    Minimum,
    Save,
    Saved,
    Spec,
    Threshold,
    check_saved,
    checked,
    opened,
    split,
)
from semlens.cli.output import answer, err, out, reported

if TYPE_CHECKING:
    from semlens.analysis.audit.found import Audit
    from semlens.analysis.audit.gate import Check
    from semlens.analysis.audit.sweep import Sweep

FAILED = 3
"""Exit code when a condition of ``--fail-on`` is met."""


@reported
def audit(
    context: typer.Context,
    database: Db,
    target: Annotated[
        str | None,
        typer.Option(help="Class, by name or by the number of its logit [the concept set's own]."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every class: each with the sets that name it or none.")
    ] = False,
    concepts: Concepts = None,
    saved: Saved = None,
    layer: Layer = None,
    minimum: Minimum = 0.01,
    level: Level = 0.05,
    threshold: Threshold = None,
    background: Annotated[
        str, typer.Option(help="Concept set that random concepts are drawn from.")
    ] = "paper-vocabulary",
    resamples: Annotated[
        int, typer.Option(min=0, help="Draws of the bootstrap behind the intervals.")
    ] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Condition that gives exit code 3, such as 'spurious>0.05'. May be given again."
        ),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="File for the conditions' outcome as JUnit XML.")
    ] = None,
    save: Save = None,
    embedder: Spec = None,
    as_json: Json = False,
) -> None:
    """Say whether a class rests on what it should rest on.

    Each relevant component is valid, spurious, both or unexpected, by its alignment with
    [valid] and [spurious] concepts, against chance. `--concepts` may be a folder of sets, or
    the name of a bundled one.

    Examples:

    semlens audit r50.semlens --target ox --concepts paper-ox --save ox.png

    semlens audit r50.semlens --all --concepts paper-imagenet --concepts artefacts

    semlens audit r50.semlens --target ox --concepts ox.toml --fail-on 'spurious>0.05'
    --junit audit.xml

    semlens audit r50.semlens --saved 3
    """
    from semlens.analysis.audit.gate import Condition, gate, save_junit
    from semlens.analysis.audit.sweep import Sweep
    from semlens.analysis.concepts import ConceptSet
    from semlens.errors import RecipeError

    files = checked(save)
    conditions = [Condition.parse(text) for text in fail_on or ()]
    if junit is not None and not conditions:
        raise RecipeError(
            "--junit has nothing to write.", "Expected a condition.", "Add --fail-on."
        )
    if saved is not None:
        check_saved(context)
        db = opened(database, embedder=embedder)
        with err.status("auditing"):
            found = db.audits.run(saved, resamples=resamples)
    else:
        settings: dict[str, Any] = {
            "layers": split(layer),
            "minimum": minimum,
            "level": level,
            "threshold": threshold,
            "background": ConceptSet.load(background),
            "resamples": resamples,
            "seed": seed,
        }
        found = _audited(database, embedder, concepts, target, every, settings)
    several = isinstance(found, Sweep)
    audits = dict(found.audits) if several else {found.name: found}
    checks = gate(audits, conditions)
    if junit is not None:
        save_junit(junit, checks, database.name, dict(found.skipped) if several else {})
    answer(found, as_json, files)
    _report(checks, as_json)


def _audited(
    database: Path,
    embedder: str | None,
    concepts: list[str] | None,
    target: str | None,
    every: bool,
    settings: dict[str, Any],
) -> Audit | Sweep:
    """Audit one class or all by the sets that are named."""
    from semlens.analysis.audit.audit import audit as run
    from semlens.analysis.audit.sweep import audit_all, set_for
    from semlens.analysis.concepts import load_sets
    from semlens.errors import ConceptError, RecipeError

    if every and target is not None:
        raise RecipeError("--all and --target were given.", "Expected one.", "Leave one out.")
    if not concepts:
        raise ConceptError(
            "There is no concept set.",
            "Expected --concepts with what the class should and should not rest on.",
            "Write one (docs/concept-sets.md), or name a bundled one such as paper-ox.",
        )
    sets = [one for name in concepts for one in load_sets(name)]
    if target is None and len(sets) == 1 and not every:
        target = sets[0].target
    db = opened(database, embedder=embedder)
    with err.status("auditing") as status:
        if every or target is None:
            return audit_all(
                db, sets, progress=lambda n, of: status.update(f"auditing: {n} of {of}"), **settings
            )
        return run(db, target, set_for(db, target, sets), **settings)


def _report(checks: list[Check], quiet: bool) -> None:
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
