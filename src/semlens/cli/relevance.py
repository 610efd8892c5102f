"""``semlens relevance``."""

from __future__ import annotations

from typing import Annotated

import typer

from semlens.cli.options import Db, Json, Layer, Spec, labelled, opened, split
from semlens.cli.output import print_json, reported, table


@reported
def relevance(
    database: Db,
    target: Annotated[str, typer.Option(help="Class, by name or by the number of its logit.")],
    top: Annotated[int, typer.Option(min=1, help="How many components.")] = 20,
    layer: Layer = None,
    concepts: Annotated[
        str, typer.Option(help="Concept set for labels, file or bundled name; 'none' for none.")
    ] = "paper-vocabulary",
    embedder: Spec = None,
    as_json: Json = False,
) -> None:
    """List the components that a class relies on most, of a database built with --relevance.

    Shares are of their layer's relevance: on average over the class's samples, and on the
    sample where it is largest.

    Examples:

    semlens relevance r18.semlens --target ox

    semlens relevance r18.semlens --target 345 --layer layer4 --top 5 --json
    """
    from semlens.analysis.target import find_class
    from semlens.types import Component

    db = opened(database, embedder=embedder)
    found = db.class_relevance(target, top=top, layers=split(layer))
    labels = labelled(db, concepts, sorted(set(found["layer"])))
    if labels is not None:
        names = [Component.parse(name) for name in found["component"]]
        found["label"] = [labels.of(component) for component in names]
    entry = db.manifest.relevance
    if as_json:
        records = found.to_dict("records")
        print_json(
            {
                "target": find_class(db, target),
                "rules": entry.rules if entry else None,
                "components": records,
            }
        )
        return
    shown = found.drop(columns="layer")
    for column in ("mean", "max"):
        shown[column] = [f"{100 * value:.1f} %" for value in shown[column]]
    if "label" in shown:
        shown["label"] = shown["label"].fillna("?")
    table(shown, f"What '{target}' relies on (share of the layer's relevance)")
