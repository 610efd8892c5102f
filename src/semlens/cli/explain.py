"""``semlens class-relevance``, ``explain``, ``graph``, ``effect`` and ``classes prototypes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from semlens.cli.command import QuestionContext, command, split_commas
from semlens.cli.output import err, print_written
from semlens.lenses.class_relevance import RelevantComponents
from semlens.lenses.class_relevance import class_relevance as ask_class_relevance
from semlens.lenses.effect import Effects
from semlens.lenses.effect import effect as ask_effect
from semlens.lenses.explain import explain as ask_explain
from semlens.lenses.explanation import Explanation
from semlens.lenses.graph.attribution_graph import attribution_graph
from semlens.lenses.graph.graph_result import AttributionGraph
from semlens.lenses.labelling.component_labels import labels_by_component
from semlens.lenses.prototypes.prototypes import Prototypes
from semlens.lenses.prototypes.prototypes import prototypes as ask_prototypes

Picture = Annotated[
    list[Path] | None,
    typer.Option("--image", help="Use this image instead of images of the class. Repeatable."),
]


@command(ask_explain)
def explain(
    ask: QuestionContext,
    image: Annotated[Path, typer.Argument(help="Image to explain.")],
    without: Annotated[
        list[str] | None,
        typer.Option(help="Components to set to zero, as LAYER:INDEX. Repeatable."),
    ] = None,
) -> Explanation:
    """Explain one prediction: its components, their labels, and their regions in the image.

    Relevance is in units of the class's logit; shares are of the layer's total relevance.

    With `--without`, the prediction and the relevance are those without these components.

    Examples:

    semlens explain r18.semlens dog.jpg --save dog.html

    semlens explain r18.semlens dog.jpg --target "tabby cat" --layer layer4 --top 4 --json

    semlens explain r18.semlens dog.jpg --target dog --without layer4:17,layer4:230
    """
    explanation: Explanation = ask(image, without=split_commas(without or ()))
    if not (ask.save or ask.as_json):
        err.print("To see the explanation, add --save FILE.html", highlight=False)
    return explanation


@command(ask_effect)
def effect(
    ask: QuestionContext,
    image: Picture = None,
    replace: Annotated[
        Literal["zero", "mean"],
        typer.Option("--with", help="Value that replaces an ablated component."),
    ] = "zero",
) -> Effects:
    """Ablate components and compare the change of a class's logit with their relevance.

    The effect is the logit with the component minus the logit without it, averaged over images of
    the class. Whole channels are ablated, regardless of the sign of the component.

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
        typer.Option(help="Name of labels saved with 'semlens label', instead of a concept set."),
    ] = None,
) -> AttributionGraph:
    """Show which concepts a class relies on, layer by layer, and how they are connected.

    Relevant components are grouped by label; components without a label are "?". An edge shows how
    much relevance a lower group receives from an upper one. Without `--save` or `--json`, the
    graph is written to CLASS.svg.

    Examples:

    semlens graph r18.semlens --target "tiger shark"

    semlens graph r18.semlens --target 291 --image lion.jpg --concepts my-concepts.toml
    --save lion.png
    """
    concepts = {} if labels is None else {"concepts": labels_by_component(ask.db, labels)}
    result: AttributionGraph = ask(images=image, **concepts)
    if not (ask.save or ask.as_json):
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in result.name).strip("-")
        result.save(f"{name or 'graph'}.svg")
        print_written(f"{name or 'graph'}.svg")
    return result


@command(ask_class_relevance)
def class_relevance(ask: QuestionContext, image: Picture = None) -> RelevantComponents:
    """List the components that a class relies on most.

    Shares are of the layer's relevance: the mean over the samples of the class, and the maximum
    over single samples. A database built with `--relevance` has them; otherwise, or for other
    images, they are computed with `--samples` or `--image`.

    Examples:

    semlens class-relevance r18.semlens --target ox

    semlens class-relevance r18.semlens --target 345 --layer layer4 --top 5 --json

    semlens class-relevance r18.semlens --target ox --image ox.jpg
    """
    return ask(images=image)


@command(ask_prototypes)
def prototypes(
    ask: QuestionContext,
    image: Annotated[
        list[Path] | None,
        typer.Option("--image", help="Compare this image with the prototypes. Repeatable."),
    ] = None,
) -> Prototypes:
    """Find the typical ways in which a model predicts a class, and images that deviate.

    The relevance of a layer's components on the images of the class is described by a mixture of
    Gaussians; the image nearest to the mean of each is a prototype. Outliers are less likely than
    nearly all images of the class.

    Examples:

    semlens classes prototypes r18.semlens --target ox --save prototypes.png

    semlens classes prototypes r18.semlens --target ox --layer layer3 --number 4 --image ox.jpg
    """
    return ask(images=image)
