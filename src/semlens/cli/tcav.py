"""``semlens concepts tcav``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.command import QuestionContext, command
from semlens.lenses.tcav.tcav import Tcav, check_one_layer
from semlens.lenses.tcav.tcav import tcav as ask_tcav


@command(ask_tcav)
def tcav(
    ask: QuestionContext,
    concept: Annotated[
        list[str],
        typer.Option(help="Images of a concept: a folder or list, or NAME=FOLDER. Repeatable."),
    ],
    target: Annotated[
        list[str], typer.Option(help="Class, by name or by logit index. Repeatable.")
    ],
    save_cavs: Annotated[
        Path | None,
        typer.Option(help="Also write the CAVs of one layer, from which a build makes components."),
    ] = None,
) -> Tcav:
    """Measure how sensitive classes are to concepts that are given by example images.

    The TCAV score of a class is the share of its images whose logit rises if the activations of a
    layer move along the concept activation vector (CAV), which separates the concept's images from
    random images. P-values compare it with the scores of random concepts.

    Examples:

    semlens concepts tcav r18.semlens --concept stripes/ --target zebra --layer layer4

    semlens concepts tcav r18.semlens --concept "stamp=crops/stamped" --target ox --target zebra
    --random photos/ --save tcav.png

    semlens concepts tcav r18.semlens --concept stripes/ --target zebra --layer layer4
    --save-cavs cavs.safetensors
    """
    if save_cavs is not None:
        check_one_layer(ask.db.layer_names(ask.settings.get("layers")))
    ask.also_write(save_cavs, [".safetensors"], Tcav.save_cavs)
    return ask(concept, target)
