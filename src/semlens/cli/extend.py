"""``semlens db extend``: adding images to a database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.build_inputs import load_sources
from semlens.cli.output import JsonOption, out, print_json, report_errors
from semlens.regular_files import user_path


@report_errors
def extend(
    database: Annotated[Path, typer.Argument(help="Folder of the database.")],
    data: Annotated[
        list[str],
        typer.Option(
            help="The new images, in the forms that --data of build takes; can be repeated."
        ),
    ],
    classes: Annotated[
        Path | None,
        typer.Option(help="File that maps the class names of the new images to logits."),
    ] = None,
    targets: Annotated[
        Path | None,
        typer.Option(help="CSV file with lines 'path,class' of the new images."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Subject model; needed if it is a FILE.py:CALLABLE."),
    ] = None,
    old_data: Annotated[
        str | None,
        typer.Option(help="Current location of the images of the database, if they have moved."),
    ] = None,
    embedder: Annotated[
        str | None, typer.Option(help="Current location of the foundation model, if it has moved.")
    ] = None,
    recompute_crops: Annotated[
        bool,
        typer.Option(
            "--recompute-crops",
            help="Compute all crops, rather than check a few and take over the others.",
        ),
    ] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="File of the boxes of old and new images, if examples are cropped to boxes and "
            "the file has another name now."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Threads that decode images; -1 means one per core.")
    ] = -1,
    device: Annotated[
        str | None, typer.Option(help="Device, of the type of the build; by default that type.")
    ] = None,
    executor: Annotated[
        str, typer.Option(help="What computes, as for build: here, processes[:N] or ray.")
    ] = "here",
    compute_threads: Annotated[
        int | None,
        typer.Option(help="CPU threads per process for the models, as for build.", min=1),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add images to a database that was built with --extendable.

    The database becomes what a build over all the images would have made, with the same bytes.
    Only the new images are run through the model, and only new examples are cropped and embedded.
    If it is interrupted, run the same command again.

    Examples:

    semlens db extend r18.semlens --data photos-of-may/

    semlens db extend r18.semlens --data photos-of-may/ --executor processes --json
    """
    from semlens.data.class_mapping import read_targets
    from semlens.run.extend import extend as extend_database
    from semlens.run.plan import Execution, parse_executor

    images = load_sources(data)
    done = extend_database(
        database,
        images,
        model=model,
        data=old_data,
        embedder=embedder,
        classes=classes,
        targets=read_targets(targets, images.ids) if targets else None,
        device=device,
        execution=Execution(workers=workers),
        executor=parse_executor(executor, compute_threads),
        recompute_crops=recompute_crops,
        boxes=boxes,
    )
    if as_json:
        path = str(user_path(database).resolve())
        print_json({"database": path, "data": images.spec, **asdict(done)})
        return
    added, crops = done.samples - done.samples_before, done.crops
    if not added:
        text = f"{database} has the images of {images.spec} already; nothing was changed."
        out.print(text, soft_wrap=True, highlight=False)
        return
    relevance = "" if done.relevance == "none" else f"Class relevance: {done.relevance}.\n"
    out.print(
        f"{done.samples_before} images and {added} new ones: {done.samples}.\n"
        f"Batches: {done.batches_reused} of {done.batches} kept.\n"
        f"Examples: {crops.new_examples} new, in {crops.changed_components} components.\n"
        f"Crops: {crops.reused} kept, {crops.computed} computed; {crops.compared} examples "
        "compared.\n"
        f"{relevance}{done.seconds:.1f} s.",
        soft_wrap=True,
        highlight=False,
    )
