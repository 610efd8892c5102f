"""``semlens cutout``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.options import Data, Db, Device, Json, Save, Subject, checked, opened
from semlens.cli.output import answer, err, reported
from semlens.cli.progress import progress_bars


@reported
def cutout(
    database: Db,
    components: Annotated[
        list[str], typer.Argument(help="LAYER:INDEX of those that stand for the artefact.")
    ],
    folder: Annotated[
        Path, typer.Option("--out", help="New or empty folder for the cut-outs (RGBA PNG).")
    ],
    count: Annotated[int, typer.Option(min=1, help="Cut-outs at most.")] = 20,
    layer: Annotated[
        str | None,
        typer.Option(help="Layer of the concept vector [the deepest of the components]."),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the draw of samples without the artefact.")
    ] = 0,
    rules: Annotated[
        str | None,
        typer.Option(help="Relevance rules: a preset, gradient or auto [the database's]."),
    ] = None,
    model: Subject = None,
    data: Data = None,
    device: Device = "cpu",
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Cut an artefact out of the images that carry it, by a soft mask.

    The mask is relevance of a concept vector: the direction that tells the components' examples
    from other samples. Insert what was cut out with `--artefact paste:FOLDER`.

    Examples:

    semlens cutout r18.semlens layer4:17 layer4:230 --out cutouts/ --save cutouts.png

    semlens test r18.semlens --target ox --artefact paste:cutouts/
    """
    from semlens.analysis.correct.cut_out import cut_out
    from semlens.analysis.correct.cutouts import check_folder
    from semlens.types import Component

    paths = checked(save)
    check_folder(folder)
    db = opened(database)
    for name in components:
        db.row(Component.parse(name))
    if layer is not None:
        db.layer(layer)
    with err.status("loading the model and checking the images"):
        subject = db.load_model(model, device)
        images = db.load_images(data)
    with progress_bars() as progress:
        found = cut_out(
            db,
            subject,
            images,
            components,
            layer=layer,
            count=count,
            rules=rules,
            seed=seed,
            progress=progress,
        )
    written = found.write(folder)
    answer(found, as_json, paths)
    err.print(
        f"Written: {len(written)} cut-outs to {folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
