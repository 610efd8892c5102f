"""``semlens report``."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semlens.cli.options import (
    Concepts,
    Data,
    Db,
    Device,
    Json,
    Layer,
    Level,
    Minimum,
    Saved,
    Spec,
    Subject,
    Threshold,
    check_saved,
    opened,
    split,
)
from semlens.cli.output import err, out, print_json, reported
from semlens.cli.progress import progress_bars
from semlens.errors import ConceptError

if TYPE_CHECKING:
    from semlens.analysis.audit.found import Audit
    from semlens.analysis.audit.record import AuditRecord
    from semlens.analysis.concepts import ConceptSet
    from semlens.analysis.graph.graph import AttributionGraph
    from semlens.analysis.report.sections import Skipped
    from semlens.analysis.report.trials import Tested
    from semlens.api import ConceptDatabase

GRAPH_IMAGES = 30
"""Images of the class that the graph is a mean of."""


@reported
def report(
    context: typer.Context,
    database: Db,
    target: Annotated[
        str | None,
        typer.Option(help="Class, by name or by the number of its logit [the concept set's own]."),
    ] = None,
    concepts: Concepts = None,
    saved: Saved = None,
    file: Annotated[Path, typer.Option("--out", help="File to write: .html.")] = Path(
        "report.html"
    ),
    layer: Layer = None,
    minimum: Minimum = 0.01,
    level: Level = 0.05,
    threshold: Threshold = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    shown: Annotated[
        int, typer.Option(min=1, help="Components that a part shows with examples.")
    ] = 12,
    concept_map: Annotated[
        bool,
        typer.Option("--map/--no-map", help="Lay out a map; takes minutes for 100,000 components."),
    ] = True,
    graph: Annotated[
        bool, typer.Option("--graph/--no-graph", help="Trace an attribution graph.")
    ] = True,
    artefact: Annotated[
        list[str] | None,
        typer.Option(help="Test the model with this artefact inserted. May be given again."),
    ] = None,
    spurious: Annotated[
        str | None,
        typer.Option(help="Test the model with images of spurious features only."),
    ] = None,
    tested: Annotated[
        Path | None, typer.Option(help="A model test instead: .json of 'semlens test --save'.")
    ] = None,
    evaluated: Annotated[
        Path | None,
        typer.Option(help="A correction's effect: .json of 'semlens evaluate --save'."),
    ] = None,
    date: Annotated[
        datetime.datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Date in the report [today]."),
    ] = None,
    model: Subject = None,
    data: Data = None,
    device: Device = "cpu",
    embedder: Spec = None,
    as_json: Json = False,
) -> None:
    """Write all that is known of a class into one HTML file that can be handed over.

    It holds its pictures and asks nothing of any host. A part that could not be made says why.

    Examples:

    semlens report r18.semlens --target ox --concepts paper-ox --out ox.html

    semlens report r18.semlens --target ox --concepts ox.toml --artefact "text:© stock"
    --evaluated evaluated.json

    semlens report r18.semlens --saved 3 --out ox.html
    """
    from semlens.analysis.audit.audit import audit as make_audit
    from semlens.analysis.audit.sweep import set_for
    from semlens.analysis.report.given import read_model_test, read_sensitivity
    from semlens.analysis.report.report import report as compose
    from semlens.analysis.report.sections import Skipped, attempt
    from semlens.analysis.result import check_end
    from semlens.analysis.target import class_name, find_class
    from semlens.data.artefact import load_artefact

    check_end(file, (".html",))
    artefacts = [load_artefact(text) for text in artefact or ()]
    kept: AuditRecord | None = None
    settings: dict[str, Any] = {
        "layers": split(layer), "minimum": minimum, "level": level, "threshold": threshold,
        "seed": seed,
    }  # fmt: skip
    if saved is not None:
        check_saved(context)
        db = opened(database, embedder=embedder)
        kept = db.audits.get(saved)
        db.audits.check_class(kept)
        number, chosen, settings = kept.target, kept.concepts, kept.settings.given()
    else:
        sets = _sets(concepts)
        named = _own_target([one.target for one in sets]) if target is None else target
        db = opened(database, embedder=embedder)
        number = find_class(db, named)
        chosen = set_for(db, number, sets)
    layers = settings["layers"]
    db.rows(layers)  # a wrong name is told before anything is computed
    given_test = None if tested is None else read_model_test(tested, class_name(db, number))
    correction = None if evaluated is None else read_sensitivity(evaluated)
    with err.status("auditing"):
        judged = attempt(lambda: make_audit(db, number, chosen, **settings))
    testing = given_test is None and bool(artefacts or spurious)
    loaded: Any = None
    if graph or testing:
        with err.status("loading the model and checking the images"):
            loaded = attempt(lambda: (db.load_model(model, device), db.load_images(data)))
    traced: AttributionGraph | Skipped = Skipped("It was not asked for (--no-graph).")
    if graph:
        traced = _graph(db, number, loaded, judged, layers)
    placed = None if concept_map else Skipped("It was not asked for (--no-map).")
    test: Tested | Skipped | None = given_test
    if testing:
        test = _test(db, number, loaded, artefacts, spurious, seed)
    with err.status("writing the report"):
        found = compose(
            db, number, chosen, audit=judged, concept_map=placed, graph=traced, model_test=test,
            sensitivity=correction, kept=kept, date=date.date() if date else None,
            command=_typed(context), shown=shown,
        )  # fmt: skip
        found.save(file)
    if as_json:
        print_json({**found.to_json(), "file": str(file)})
        return
    out.print(found)
    err.print(f"Written: {file}", markup=False, highlight=False, soft_wrap=True)


def _sets(concepts: list[str] | None) -> list[ConceptSet]:
    """Load what is named."""
    from semlens.analysis.concepts import load_sets

    if not concepts:
        raise ConceptError(
            "There is no concept set.",
            "Expected --concepts with what the class should and should not rest on.",
            "Write one (docs/concept-sets.md), or name a bundled one such as paper-ox.",
        )
    return [one for name in concepts for one in load_sets(name)]


def _own_target(targets: list[str | None]) -> str:
    """Return the class that the concept sets name."""
    named = sorted({one for one in targets if one is not None})
    if len(named) != 1:
        raise ConceptError(
            f"The concept sets name {'the classes ' + ', '.join(named) if named else 'no class'}.",
            "Expected one class to report on.",
            "Choose it with --target.",
        )
    return named[0]


def _graph(
    db: ConceptDatabase,
    number: int,
    loaded: Any,
    judged: Audit | Skipped,
    layers: list[str] | None,
) -> AttributionGraph | Skipped:
    """Trace the graph, or say why there is none."""
    from semlens.analysis.graph.graph import attribution_graph
    from semlens.analysis.report.given import graph_labels
    from semlens.analysis.report.sections import Skipped, attempt
    from semlens.analysis.target import class_samples

    if isinstance(loaded, Skipped):
        return loaded
    subject, images = loaded

    def trace() -> AttributionGraph:
        samples = class_samples(db, number, GRAPH_IMAGES)
        words = db.label(layers=layers) if db.embedder.has_text else None
        known = graph_labels(
            [db.component(int(row)) for row in db.rows(layers)],
            None if isinstance(judged, Skipped) else judged,
            words,
        )
        with progress_bars() as progress:
            return attribution_graph(
                db, subject, images, number, known, samples=samples, layers=layers,
                progress=progress,
            )  # fmt: skip

    return attempt(trace)


def _test(
    db: ConceptDatabase,
    number: int,
    loaded: Any,
    artefacts: list[Any],
    spurious: str | None,
    seed: int,
) -> Tested | Skipped:
    """Test the model, or say why it was not."""
    from semlens.analysis.audit.model_test import model_test
    from semlens.analysis.report.sections import Skipped, attempt
    from semlens.data.load import load_images

    if isinstance(loaded, Skipped):
        return loaded
    subject, images = loaded
    sets = None if spurious is None else load_images(spurious)
    with progress_bars() as progress:
        return attempt(
            lambda: model_test(
                db,
                subject,
                number,
                images=images,
                spurious=sets,
                artefacts=artefacts,
                seed=seed,
                progress=progress,
            )  # fmt: skip
        )


def _typed(context: typer.Context) -> list[str]:
    """Return the command as it was typed, with the options in order."""
    words = ["semlens", "report"]
    for parameter in context.command.params:
        name = str(parameter.name)
        value = context.params.get(name)
        source = context.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE":
            continue
        if parameter.param_type_name == "argument":
            words.insert(2, str(value))
            continue
        if isinstance(value, bool):
            words.append((parameter.opts if value else parameter.secondary_opts)[0])
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            text = one.strftime("%Y-%m-%d") if isinstance(one, datetime.datetime) else str(one)
            words += [parameter.opts[0], text]
    return words
