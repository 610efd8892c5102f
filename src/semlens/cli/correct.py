"""``semlens prune``, ``affected``, ``retrain`` and ``evaluate``: correct a model, and prove it."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semlens.cli.options import Data, Db, Device, Json, Save, Subject, checked, opened
from semlens.cli.output import answer, err, print_json, reported, table
from semlens.cli.progress import progress_bars
from semlens.errors import DataError, LayerError

if TYPE_CHECKING:
    from semlens.api import ConceptDatabase
    from semlens.data.artefact import Artefact
    from semlens.data.images import Images
    from semlens.types import Component

Components = Annotated[
    list[str] | None, typer.Argument(help="Components: LAYER:INDEX, or LAYER:-INDEX.")
]
From = Annotated[
    Path | None,
    typer.Option("--from", help="File with components: an audit (.json, .csv), or a list."),
]
Verdict = Annotated[str, typer.Option(help="Which of an audit's verdicts to take.")]
ARTEFACT_HELP = "What to insert: hue, text:WORDS, patch:COLOUR, stripes, paste:FOLDER."


@reported
def prune(
    database: Db,
    components: Components = None,
    out: Annotated[Path, typer.Option(help="File to write: .safetensors.")] = Path(
        "pruned.safetensors"
    ),
    source: From = None,
    verdict: Verdict = "spurious",
    model: Subject = None,
    as_json: Json = False,
) -> None:
    """Write the model's weights without some components.

    The result is compared with hooks that set the components to zero. Components that no
    change of weights removes exactly are refused.

    Examples:

    semlens prune r18.semlens layer4:17 layer4:230 --out pruned.safetensors

    semlens prune r18.semlens --from audit.json --out pruned.safetensors
    """
    import pandas as pd

    from semlens.analysis.correct.export import check_weights, save_weights
    from semlens.analysis.correct.prune import prune_weights
    from semlens.models.load import WEIGHTS

    check_weights(out)
    db = opened(database)
    chosen = _components(db, components, source, verdict)
    with err.status("loading the model"):
        subject = db.load_model(model)
    with err.status("finding the weights"):
        found = prune_weights(subject, chosen)
    path = save_weights(out, found.state)
    spec = f"{subject.spec.partition(WEIGHTS)[0]}{WEIGHTS}{path}"
    edits = [vars(edit) for edit in found.edits]
    if as_json:
        names = [str(component) for component in chosen]
        print_json({"components": names, "edits": edits, "model": spec, "weights": str(path)})
        return
    table(pd.DataFrame(edits), f"{len(chosen)} components pruned; tensors that were changed")
    err.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)


@reported
def affected(
    database: Db,
    components: Components = None,
    all_data: Annotated[
        bool, typer.Option("--all-data", help="Score all samples; runs the model.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="CSV to write: every sample with its score.")
    ] = None,
    source: From = None,
    verdict: Verdict = "spurious",
    model: Subject = None,
    data: Data = None,
    device: Device = "cpu",
    save: Save = None,
    as_json: Json = False,
) -> None:
    """List the samples that carry what some components stand for.

    Without --all-data these are concept examples only, which the database holds.

    Examples:

    semlens affected r18.semlens layer4:17

    semlens affected r18.semlens --from audit.json --all-data --out affected.csv --save affected.png
    """
    from semlens.analysis.correct.affected import affected as find
    from semlens.analysis.result import check_end

    paths = checked(save) + ([check_end(out, (".csv",))] if out is not None else [])
    db = opened(database)
    chosen = _components(db, components, source, verdict)
    if not all_data:
        answer(find(db, chosen), as_json, paths)
        return
    with err.status("loading the model and checking the images"):
        subject, images = db.load_model(model, device), db.load_images(data)
    with progress_bars() as progress:
        found = find(db, chosen, images, subject, progress=progress)
    answer(found, as_json, paths)


@reported
def retrain(
    database: Db,
    artefact: Annotated[list[str], typer.Option(help=f"{ARTEFACT_HELP} May be given again.")],
    drop: Annotated[
        Path | None, typer.Option(help="Affected samples to leave out: .csv, or a path per line.")
    ] = None,
    out: Annotated[Path, typer.Option(help="File to write: .safetensors.")] = Path(
        "retrained.safetensors"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 6,
    insert_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the images that get an artefact.")
    ] = 0.5,
    learning_rate: Annotated[float, typer.Option(help="Its peak (AdamW, cosine).")] = 5e-4,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 64,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the images to measure on.")
    ] = 0.1,
    balanced: Annotated[bool, typer.Option(help="Draw all classes equally often.")] = True,
    flip: Annotated[bool, typer.Option(help="Mirror images at random.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of everything that is drawn.")] = 0,
    data: Annotated[
        str | None, typer.Option(help="Training images; by default those of the database.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only images whose file name starts so (train-).")
    ] = None,
    model: Subject = None,
    device: Device = "cpu",
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a copy of the model with artefacts inserted at random.

    Affected images are left out. The run goes on where it was stopped: FILE.checkpoint beside
    the weights is kept until they are written.

    Examples:

    semlens retrain r18.semlens --artefact "text:© stock" --drop affected.csv

    semlens retrain r18.semlens --artefact patch:red --artefact stripes --epochs 5 --data train/
    """
    from semlens.analysis.correct.chosen import read_affected
    from semlens.analysis.correct.export import check_weights
    from semlens.analysis.correct.retrain import retrain as train
    from semlens.analysis.correct.training import Training
    from semlens.data.load import load_images

    check_weights(out)
    paths = checked(save)
    settings = Training(
        epochs=epochs, insert_share=insert_share, learning_rate=learning_rate,
        batch_size=batch_size, held_out=held_out, balanced=balanced, flip=flip, seed=seed,
    )  # fmt: skip
    artefacts = _artefacts(artefact)
    gone = read_affected(drop) if drop is not None else []
    db = opened(database)
    with err.status("loading the model and the images"):
        subject = db.load_model(model, device)
        images = db.load_images() if data is None else load_images(data)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    with progress_bars() as progress:
        found = train(
            subject, images, artefacts, gone, samples=_starting(images, only),
            settings=settings, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
    better = found.save_weights(out)
    checkpoint.unlink(missing_ok=True)
    if as_json:
        for path in paths:
            found.save(path)
        print_json({**found.to_json(), "model": better.spec, "weights": str(out.resolve())})
        return
    answer(found, False, paths)
    err.print(f"Written: {out}", markup=False, highlight=False, soft_wrap=True)


@reported
def evaluate(
    database: Db,
    artefact: Annotated[
        list[str] | None, typer.Option(help=f"{ARTEFACT_HELP} May be given again.")
    ] = None,
    prune: Annotated[
        list[str] | None, typer.Option(help="Component to leave out; may be given again.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Other weights: NAME=FILE, or FILE as its name; may be given again."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Images: SPEC or NAME=SPEC; the first are the clean ones."),
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only images whose file name starts so (test-).")
    ] = None,
    source: From = None,
    verdict: Verdict = "spurious",
    model: Subject = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Of the artefacts' places.")] = 0,
    device: Device = "cpu",
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Measure accuracy on clean images and with artefacts, for the model and its corrections.

    Examples:

    semlens evaluate r18.semlens --artefact hue --prune layer4:17 --weights better.safetensors

    semlens evaluate r18.semlens --data clean=val/ --data marked=val-marked/ --save evaluate.png
    """
    from semlens.analysis.correct.export import with_weights
    from semlens.analysis.correct.sensitivity import sensitivity

    paths = checked(save)
    artefacts = _artefacts(artefact or [])
    db = opened(database)
    removed = _components(db, prune, source, verdict) if prune or source else []
    with err.status("loading the models and the images"):
        subject = db.load_model(model, device)
        models = {"vanilla": subject}
        for name, file in _named(weights or []):
            _new(name, models)
            models[name] = with_weights(subject, file)
        sets = _sets(db, data)
    chosen = {name: _starting(part, only) for name, part in sets.items()}
    with progress_bars() as progress:
        found = sensitivity(
            models, sets, artefacts, prune=removed, samples=chosen, batch_size=batch_size,
            seed=seed, progress=progress,
        )  # fmt: skip
    answer(found, as_json, paths)


def _components(
    db: ConceptDatabase, names: list[str] | None, source: Path | None, verdict: str
) -> list[Component]:
    """Return components that are named, and those of a file; the database must have them."""
    from semlens.analysis.correct.chosen import read_components
    from semlens.types import Component

    found = [Component.parse(name) for part in names or () for name in part.split(",")]
    found += read_components(source, verdict) if source is not None else []
    if not found:
        raise LayerError(
            "No component is named.",
            "Expected LAYER:INDEX, or --from FILE.",
            "Find some with 'semlens search DB TEXT' or 'semlens audit DB'.",
        )
    for component in found:
        db.row(component)
    return list(dict.fromkeys(found))


def _artefacts(specs: list[str]) -> list[Artefact]:
    from semlens.data.artefact import load_artefact

    return [load_artefact(spec) for spec in specs]


def _starting(images: Images, start: str | None) -> list[int] | None:
    """Return the samples whose file name starts so; None for all."""
    if start is None:
        return None
    found = [i for i, name in enumerate(images.ids) if name.rsplit("/", 1)[-1].startswith(start)]
    if not found:
        raise DataError(
            f"No file name of '{images.spec}' starts with '{start}'.",
            f"Expected names such as '{images.ids[0].rsplit('/', 1)[-1]}'.",
            "Correct --only, or leave it out.",
        )
    return found


def _named(given: list[str], first: str | None = None) -> list[tuple[str, str]]:
    """Part NAME=VALUE; one without a name gets its file's, the first one ``first`` if there is."""
    found: list[tuple[str, str]] = []
    for one in given:
        name, mark, value = one.partition("=")
        plain = not mark or "/" in name
        short = Path(one).stem if found or first is None else first
        found.append((short, one) if plain else (name, value))
    return found


def _new(name: str, known: Container[str]) -> None:
    if name in known:
        raise DataError(
            f"There are two called '{name}'.", "Expected different names.", "Add NAME=."
        )


def _sets(db: ConceptDatabase, given: list[str] | None) -> dict[str, Images]:
    from semlens.data.load import load_images

    if not given:
        return {"clean": db.load_images()}
    found: dict[str, Images] = {}
    for name, spec in _named(given, "clean"):
        _new(name, found)
        found[name] = load_images(spec)
    return found
