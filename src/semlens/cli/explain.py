"""``semlens relevance``, ``explain``, ``graph`` and ``effect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from semlens.analysis.class_relevance import RelevantComponents, class_relevance
from semlens.analysis.effect import Effects
from semlens.analysis.effect import effect as ask_effect
from semlens.analysis.explain import Explanation
from semlens.analysis.explain import explain as ask_explain
from semlens.analysis.graph.attribution_graph import AttributionGraph, attribution_graph
from semlens.analysis.saved_labels import labels_by_component
from semlens.cli.command import QuestionContext, command
from semlens.cli.output import err, written

Picture = Annotated[
    list[Path] | None,
    typer.Option("--image", help="A picture, in place of images of the class; may be given again."),
]


@command(ask_explain)
def explain(
    ask: QuestionContext, image: Annotated[Path, typer.Argument(help="The picture to explain.")]
) -> Explanation:
    """Explain one prediction: which components, their labels, and where in the image.

    Relevance is in units of the class's logit; the share is that of the layer's total.

    Examples:

    semlens explain r18.semlens dog.jpg --save dog.html

    semlens explain r18.semlens dog.jpg --target "tabby cat" --layer layer4 --top 4 --json
    """
    found: Explanation = ask(image)
    if not (ask.save or ask.as_json):
        err.print("See it: add --save FILE.html", highlight=False)
    return found


@command(ask_effect)
def effect(
    ask: QuestionContext,
    image: Picture = None,
    replace: Annotated[
        Literal["zero", "mean"], typer.Option("--with", help="What an ablated component becomes.")
    ] = "zero",
) -> Effects:
    """Ablate components and set the change of a class's logit beside their relevance.

    The effect is the logit with the component less the logit without it, averaged over
    images of the class. A channel is taken out whole, whichever the sign of the component.

    Examples:

    semlens effect r18.semlens --target "tabby cat"

    semlens effect r18.semlens --target 281 --components layer4:17,layer4:230 --with mean
    """
    return ask(images=image, replace=replace)


@command(attribution_graph)
def graph(
    ask: QuestionContext,
    image: Picture = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Labels that 'semlens label' has kept, instead of a concept set."),
    ] = None,
) -> AttributionGraph:
    """Show which concepts a class rests on, layer by layer, and what passes between them.

    Components that matter for the class are grouped by their labels; those without are "?".
    A line shows how much relevance a lower group gets from an upper one. Without --save or
    --json, the picture is written to CLASS.svg.

    Examples:

    semlens graph r18.semlens --target "tiger shark"

    semlens graph r18.semlens --target 291 --image lion.jpg --concepts my-concepts.toml
    --save lion.png
    """
    known = {} if labels is None else {"concepts": labels_by_component(ask.db, labels)}
    found: AttributionGraph = ask(images=image, **known)
    if not (ask.save or ask.as_json):
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in found.name).strip("-")
        found.save(f"{name or 'graph'}.svg")
        written(f"{name or 'graph'}.svg")
    return found


@command(class_relevance)
def relevance(ask: QuestionContext, image: Picture = None) -> RelevantComponents:
    """List the components that a class relies on most.

    Shares are of their layer's relevance: on average over the class's samples, and on the
    sample where it is largest. A database built with --relevance has them; else, or for other
    pictures, --samples and --image compute them.

    Examples:

    semlens relevance r18.semlens --target ox

    semlens relevance r18.semlens --target 345 --layer layer4 --top 5 --json

    semlens relevance r18.semlens --target ox --image ox.jpg
    """
    return ask(images=image)
