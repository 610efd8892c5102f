"""``semlens explain`` and ``semlens effect``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.options import (
    Data,
    Db,
    Device,
    Json,
    Layer,
    Spec,
    Subject,
    labelled,
    opened,
    split,
)
from semlens.cli.output import err, out, print_json, reported, table
from semlens.cli.progress import progress_bars
from semlens.errors import ConceptError

Rules = Annotated[
    str | None,
    typer.Option(help="Relevance rules: a preset, gradient or auto [the database's]."),
]
Concepts = Annotated[
    str,
    typer.Option(help="File or name of a concept set for the labels; none for no labels."),
]


class Replacement(StrEnum):
    """What an ablated component becomes."""

    zero = "zero"
    mean = "mean"


class Grouping(StrEnum):
    """What is ablated together."""

    label = "label"


@reported
def explain(
    database: Db,
    image: Annotated[Path, typer.Argument(help="Image file.")],
    target: Annotated[
        str | None, typer.Option(help="Class, by name or number; by default the predicted one.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Components per layer.")] = 8,
    layer: Layer = None,
    concepts: Concepts = "paper-vocabulary",
    save: Annotated[
        Path | None, typer.Option(help="File to write: .html, .png, .jpg, .webp or .json.")
    ] = None,
    rules: Rules = None,
    model: Subject = None,
    embedder: Spec = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Explain one prediction: which components, their labels, and where in the image.

    Relevance is in units of the class's logit; the share is that of the layer's total.

    Examples:

    semlens explain r18.semlens dog.jpg --save dog.html

    semlens explain r18.semlens dog.jpg --target "tabby cat" --layer layer4 --top 4 --json
    """
    from semlens.analysis.explain import explain as explain_image
    from semlens.analysis.explanation import check_path
    from semlens.analysis.target import find_class
    from semlens.data.images import read_file
    from semlens.data.pixels import decode

    if save is not None:
        check_path(save)
    picture = decode(read_file(image), str(image))
    db = opened(database, embedder=embedder)
    chosen = None if target is None else find_class(db, target)
    layers = split(layer)
    for name in layers or ():
        db.layer(name)
    with err.status("loading the model"):
        subject = db.load_model(model, device)
    labels = labelled(db, concepts, layers)
    with err.status("following the relevance"):
        found = explain_image(
            db,
            subject,
            picture,
            chosen,
            top=top,
            layers=layers,
            labels=labels,
            rules=rules,
            name="/".join(image.parts[-2:]),
        )
    if save is not None:
        found.save(save)
        err.print(f"wrote {save}", markup=False)
    if as_json:
        print_json(found.to_json())
        return
    out.print(found)
    if save is None:
        out.print("See it: add --save FILE.html", highlight=False)


@reported
def effect(
    database: Db,
    target: Annotated[str, typer.Option(help="Class, by name or number.")],
    components: Annotated[
        list[str] | None,
        typer.Option(help="LAYER:INDEX, given again or joined by commas; else the top ones."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the most relevant ones.")] = 20,
    group_by: Annotated[
        Grouping | None, typer.Option(help="Ablate components of one label together.")
    ] = None,
    concepts: Concepts = "paper-vocabulary",
    replace: Annotated[
        Replacement, typer.Option("--with", help="What an ablated component becomes.")
    ] = Replacement.zero,
    samples: Annotated[int, typer.Option(min=1, help="Images of the class at most.")] = 100,
    layer: Annotated[
        str | None, typer.Option(help="Layer of the top components; the deepest by default.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write the table to this .csv file.")] = None,
    rules: Rules = None,
    model: Subject = None,
    data: Data = None,
    embedder: Spec = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass for relevance.")] = 32,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Ablate components and set the change of a class's logit beside their relevance.

    The effect is the logit with the component less the logit without it, averaged over
    images of the class. A channel is taken out whole, whichever the sign of the component.

    Examples:

    semlens effect r18.semlens --target "tabby cat"

    semlens effect r18.semlens --target 281 --components layer4:17,layer4:230 --with mean
    """
    from semlens.analysis.effect import check_path
    from semlens.analysis.effect import effect as measure
    from semlens.analysis.target import class_samples, find_class
    from semlens.types import Component

    if save is not None:
        check_path(save)
    db = opened(database, embedder=embedder)
    chosen = find_class(db, target)
    class_samples(db, chosen)  # a class without any is known before the model is loaded
    given = [Component.parse(name) for name in split(components) or ()]
    for component in given:
        db.row(component)
    name = layer if layer is None else db.layer(layer).name
    with err.status("loading the model and checking the images"):
        subject = db.load_model(model, device)
        images = db.load_images(data)
    labels = None
    if group_by is not None:
        labels = labelled(
            db, concepts, list({c.layer for c in given}) or ([name] if name else None)
        )
        if labels is None:
            raise ConceptError(
                "There are no labels to group by.",
                "Expected a concept set, and a database whose embedder reads texts.",
                "Choose one with --concepts, or leave out --group-by.",
            )
    with progress_bars() as progress:
        found = measure(
            db,
            subject,
            images,
            chosen,
            given or None,
            samples=samples,
            top=top,
            layer=name,
            labels=labels,
            replace=replace.value,
            rules=rules,
            batch_size=batch_size,
            progress=progress,
        )
    if save is not None:
        found.save(save)
        err.print(f"wrote {save}", markup=False)
    if as_json:
        print_json(found.to_json())
        return
    title = f"'{found.name}': {len(found.samples)} images, mean logit {found.logit.mean():.3f}"
    frame = found.to_pandas()
    frame["size"] = frame["components"].map(len)
    columns = ["unit", "size", "relevance", "effect", "relevance_error", "effect_error"]
    table(frame, title, columns if labels is not None else [c for c in columns if c != "size"])
    out.print(found.summary(), highlight=False, soft_wrap=True)
