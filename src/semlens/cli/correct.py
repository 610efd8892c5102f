"""``semlens cutout``, ``prune``, ``affected``, ``retrain``, ``evaluate``: correct, and prove it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from semlens.analysis.correct.affected_samples import AffectedSamples
from semlens.analysis.correct.affected_samples import affected as ask_affected
from semlens.analysis.correct.component_files import SPURIOUS, read_components
from semlens.analysis.correct.corrected_model import CorrectedModel, check_weights
from semlens.analysis.correct.fine_tuning import Training
from semlens.analysis.correct.prune import PrunedModel
from semlens.analysis.correct.prune import prune as ask_prune
from semlens.analysis.correct.retrain import RetrainedModel
from semlens.analysis.correct.retrain import retrain as ask_retrain
from semlens.analysis.correct.segments import Segments, check_folder
from semlens.analysis.correct.segments import cut_out as ask_cut_out
from semlens.analysis.correct.sensitivity import Sensitivity
from semlens.analysis.correct.sensitivity import sensitivity as ask_sensitivity
from semlens.cli.command import QuestionContext, command, split_commas
from semlens.cli.output import written
from semlens.types import Component

C = TypeVar("C", bound=CorrectedModel)
Names = Annotated[
    list[str] | None, typer.Argument(help="Components: LAYER:INDEX, or LAYER:-INDEX.")
]
From = Annotated[
    Path | None,
    typer.Option("--from", help="File with components: an audit (.json, .csv), or a list."),
]
Verdict = Annotated[str, typer.Option(help="Which of an audit's verdicts to take.")]
WEIGHTS = typer.Option("--out", help="File to write: .safetensors.")


@command(ask_cut_out)
def cutout(
    ask: QuestionContext,
    components: Annotated[
        list[str], typer.Argument(help="LAYER:INDEX of those that stand for the artefact.")
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="New or empty folder for the cut-outs (RGBA PNG).")
    ],
) -> Segments:
    """Cut an artefact out of the images that carry it, by a soft mask.

    The mask is relevance of a concept vector: the direction that tells the components' examples
    from other samples. Insert what was cut out with `--artefact paste:FOLDER`.

    Examples:

    semlens cutout r18.semlens layer4:17 layer4:230 --out cutouts/ --save cutouts.png

    semlens test r18.semlens --target ox --artefact paste:cutouts/
    """
    check_folder(folder)
    found: Segments = ask(split_commas(components))
    written(f"{len(found.write(folder))} cut-outs to {folder}")
    return found


@command(ask_prune)
def prune(
    ask: QuestionContext,
    components: Names = None,
    out: Annotated[Path, WEIGHTS] = Path("pruned.safetensors"),
    source: From = None,
    verdict: Verdict = SPURIOUS,
) -> PrunedModel:
    """Write the model's weights without some components.

    The result is compared with hooks that set the components to zero. Components that no
    change of weights removes exactly are refused.

    Examples:

    semlens prune r18.semlens layer4:17 layer4:230 --out pruned.safetensors

    semlens prune r18.semlens --from audit.json --out pruned.safetensors
    """
    check_weights(out)
    return _saved(ask(_components(components, source, verdict)), out)


@command(ask_affected)
def affected(
    ask: QuestionContext,
    components: Names = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV to write: every sample with its score.")
    ] = None,
    source: From = None,
    verdict: Verdict = SPURIOUS,
) -> AffectedSamples:
    """List the samples that carry what some components stand for.

    Without --all-data these are concept examples only, which the database holds.

    Examples:

    semlens affected r18.semlens layer4:17

    semlens affected r18.semlens --from audit.json --all-data --out affected.csv --save affected.png
    """
    ask.also(out, (".csv",), AffectedSamples.save)
    return ask(_components(components, source, verdict))


@command(ask_retrain, fields=Training)
def retrain(
    ask: QuestionContext,
    drop: Annotated[
        Path | None,
        typer.Option(help="Affected samples to leave out: .csv, or a path per line."),
    ] = None,
    out: Annotated[Path, WEIGHTS] = Path("retrained.safetensors"),
    images: Annotated[
        str | None,
        typer.Option("--data", help="Training images; by default those of the database."),
    ] = None,
) -> RetrainedModel:
    """Fine-tune a copy of the model with artefacts inserted at random.

    Affected images are left out. The run goes on where it was stopped: FILE.checkpoint beside
    the weights is kept until they are written.

    Examples:

    semlens retrain r18.semlens --artefact "text:© stock" --drop affected.csv

    semlens retrain r18.semlens --artefact patch:red --artefact stripes --epochs 5 --data train/
    """
    checkpoint = check_weights(out).with_name(f"{out.name}.checkpoint")
    found = _saved(ask(drop=drop or (), images=images, checkpoint=checkpoint), out)
    checkpoint.unlink(missing_ok=True)
    return found


@command(ask_sensitivity)
def evaluate(
    ask: QuestionContext,
    prune: Annotated[
        list[str] | None, typer.Option(help="Component to leave out; may be given again.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Other weights: NAME=FILE, or FILE as its name; may be given again."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--data", help="Images: SPEC or NAME=SPEC; the first are the clean ones."),
    ] = None,
    source: From = None,
    verdict: Verdict = SPURIOUS,
) -> Sensitivity:
    """Measure accuracy on clean images and with artefacts, for the model and its corrections.

    Examples:

    semlens evaluate r18.semlens --artefact hue --prune layer4:17 --weights better.safetensors

    semlens evaluate r18.semlens --data clean=val/ --data marked=val-marked/ --save evaluate.png
    """
    removed = _components(prune, source, verdict)
    return ask(prune=removed, weights=weights or (), images=images or ())


def _components(
    names: list[str] | None, source: Path | None, verdict: str
) -> list[Component | str]:
    """Return components that are named, and those of a file."""
    return [*split_commas(names or ()), *(read_components(source, verdict) if source else ())]


def _saved(found: C, out: Path) -> C:
    """Write the weights of an answer, and return it with a model that can be loaded."""
    better = found.save_weights(out)
    written(out)
    return replace(found, model=better)
