"""``semlens correct``: cut-out, prune, affected, retrain and sensitivity."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from semlens.cli.command import QuestionContext, command, split_commas
from semlens.cli.output import print_written
from semlens.lenses.correct.affected_samples import AffectedSamples
from semlens.lenses.correct.affected_samples import affected as ask_affected
from semlens.lenses.correct.artefact_sensitivity import Sensitivity
from semlens.lenses.correct.artefact_sensitivity import sensitivity as ask_sensitivity
from semlens.lenses.correct.component_files import SPURIOUS, read_components
from semlens.lenses.correct.corrected_model import CorrectedModel, check_weights
from semlens.lenses.correct.fine_tuning import Training
from semlens.lenses.correct.prune import PrunedModel
from semlens.lenses.correct.prune import prune as ask_prune
from semlens.lenses.correct.retrain import RetrainedModel
from semlens.lenses.correct.retrain import retrain as ask_retrain
from semlens.lenses.correct.segments import Segments, check_folder
from semlens.lenses.correct.segments import cut_out as ask_cut_out
from semlens.types import Component

C = TypeVar("C", bound=CorrectedModel)
Names = Annotated[
    list[str] | None, typer.Argument(help="Components: LAYER:INDEX, or LAYER:-INDEX.")
]
From = Annotated[
    Path | None,
    typer.Option(
        "--from", help="File with components: a saved audit or contrast (.json, .csv), or a list."
    ),
]
Verdict = Annotated[str, typer.Option(help="Take the components of an audit with this verdict.")]
Auroc = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Take the components of a contrast with at least this AUROC."),
]
WEIGHTS = ".safetensors"
"""Ending of the file of weights, beside those of the result."""


@command(ask_cut_out)
def cut_out(
    ask: QuestionContext,
    components: Annotated[
        list[str], typer.Argument(help="LAYER:INDEX of the components that encode the artefact.")
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="Empty or new folder for the cut-outs (RGBA PNG).")
    ],
) -> Segments:
    """Cut an artefact out of the images that contain it, with a soft mask.

    The mask is the relevance of a concept vector: the direction that separates the components'
    examples from other samples. Insert the cut-outs with `--artefact paste:FOLDER`.

    Examples:

    semlens correct cut-out r18.semlens layer4:17 layer4:230 --out cutouts/ --save cutouts.png

    semlens classes model-test r18.semlens --target ox --artefact paste:cutouts/
    """
    check_folder(folder)
    segments: Segments = ask(split_commas(components))
    print_written(f"{len(segments.write(folder))} cut-outs to {folder}")
    return segments


@command(ask_prune, written="pruned.safetensors")
def prune(
    ask: QuestionContext,
    components: Names = None,
    source: From = None,
    verdict: Verdict = SPURIOUS,
    auroc: Auroc = None,
) -> PrunedModel:
    """Remove components from the model's weights.

    The result is verified against hooks that set the components to zero. Components that cannot
    be removed exactly by changing weights are refused.

    Examples:

    semlens correct prune r18.semlens layer4:17 layer4:230 --save pruned.safetensors

    semlens correct prune r18.semlens --from audit.json --save pruned.safetensors

    semlens correct prune r18.semlens --from contrast.json --auroc 0.9 --save pruned.safetensors
    """
    out = check_weights(ask.take(WEIGHTS, "pruned.safetensors"))
    return _save_weights(ask(_all_components(components, source, verdict, auroc)), out)


@command(ask_affected)
def affected(
    ask: QuestionContext,
    components: Names = None,
    source: From = None,
    verdict: Verdict = SPURIOUS,
    auroc: Auroc = None,
) -> AffectedSamples:
    """List the samples that contain the concept of some components.

    Without `--all-data`, only the concept examples in the database are considered. A `.csv` file
    has every sample with its score.

    Examples:

    semlens correct affected r18.semlens layer4:17

    semlens correct affected r18.semlens --from audit.json --all-data
    --save affected.csv --save a.png
    """
    return ask(_all_components(components, source, verdict, auroc))


@command(ask_retrain, fields=Training, written="retrained.safetensors")
def retrain(
    ask: QuestionContext,
    drop: Annotated[
        Path | None,
        typer.Option(
            help="Samples to leave out: a .csv file, or a text file with one path per line."
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option("--data", help="Training images [those of the database]."),
    ] = None,
) -> RetrainedModel:
    """Fine-tune a copy of the model with artefacts inserted at random.

    Images listed with `--drop` are left out. If the run is interrupted, run the same command again
    to resume it: a file FILE.checkpoint is kept until the weights are written.

    Examples:

    semlens correct retrain r18.semlens --artefact "text:© stock" --drop affected.csv

    semlens correct retrain r18.semlens --artefact patch:red --artefact stripes --epochs 5
    --data train/
    """
    out = check_weights(ask.take(WEIGHTS, "retrained.safetensors"))
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    model = _save_weights(ask(drop=drop or (), images=images, checkpoint=checkpoint), out)
    checkpoint.unlink(missing_ok=True)
    return model


@command(ask_sensitivity)
def sensitivity(
    ask: QuestionContext,
    prune: Annotated[list[str] | None, typer.Option(help="Component to prune. Repeatable.")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Corrected weights: FILE or NAME=FILE. Repeatable."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="Images: DATA or NAME=DATA; the first are the clean ones. Repeatable."
        ),
    ] = None,
    source: From = None,
    verdict: Verdict = SPURIOUS,
    auroc: Auroc = None,
) -> Sensitivity:
    """Measure accuracy on clean images and with artefacts, before and after a correction.

    Examples:

    semlens correct sensitivity r18.semlens --artefact hue --prune layer4:17
    --weights better.safetensors

    semlens correct sensitivity r18.semlens --data clean=val/ --data marked=val-marked/
    --save sensitivity.png
    """
    pruned = _all_components(prune, source, verdict, auroc)
    return ask(prune=pruned, weights=weights or (), images=images or ())


def _all_components(
    names: list[str] | None, source: Path | None, verdict: str, auroc: float | None
) -> list[Component | str]:
    """Return the components named on the command line and those of a file."""
    listed = read_components(source, verdict, auroc) if source else ()
    return [*split_commas(names or ()), *listed]


def _save_weights(corrected: C, out: Path) -> C:
    """Write the weights of a corrected model, and return it with the SPEC that loads them."""
    model = corrected.save_weights(out)
    print_written(out)
    return replace(corrected, model=model)
