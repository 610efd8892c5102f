"""The classes, and what each relies on in every layer."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.analysis.class_relevance import (
    MOSTLY,
    REACHED,
    LayerRelevance,
    class_table,
    relevant_components,
)
from semlens.analysis.describe.build_command import build_command
from semlens.analysis.target import class_name
from semlens.errors import RelevanceError
from semlens.web.errors import Waiting, not_found
from semlens.web.routes.place import layer_names
from semlens.web.served import All, Model, Served, Serving
from semlens.web.vocabulary import chosen, named
from semlens.web.work import StillWorking

router = APIRouter(prefix="/models/{m}/classes", tags=["classes"])


class ClassSummary(BaseModel):
    """One class of which relevance is known."""

    number: int
    """Its logit."""
    name: str
    samples: int
    relevant: int
    """Components that reach 1 % of their layer's relevance on some sample."""


class RelevantComponent(BaseModel):
    """One component, with its shares of its layer's relevance for the class."""

    row: int
    layer: int
    index: int
    name: str
    label: str | None
    mean: float
    """On average over the class's samples; below zero it speaks against the class."""
    max: float
    """On the sample where it is largest."""
    cumulated: float
    """What the components down to this one carry of the layer."""


class RelevantLayer(BaseModel):
    """The components of one layer that matter for the class, strongest first."""

    layer: int
    name: str
    components: int
    relevant: int
    """How many reach the minimum on some sample."""
    carried: float
    mostly: int | None
    """How many of the strongest carry most of the layer (``ClassRelevance.most``)."""
    rows: list[RelevantComponent]


class ClassRelevance(BaseModel):
    """What a class relies on, layer by layer."""

    number: int
    name: str
    samples: int
    rules: str
    minimum: float
    most: float = MOSTLY
    concepts: str | None
    """What the labels are taken from; null where there are none."""
    naming: Waiting | None
    """The labels are still being made: this answer is without them."""
    layers: list[RelevantLayer]


@router.get("")
def list_classes(served: Model, serving: All) -> list[ClassSummary]:
    """Return the classes of which relevance is known, in the order of their logits."""
    check_relevance(served)
    table = serving.work.result(
        f"classes {served.number}",
        "reading the classes",
        lambda _: class_table(served.db),
        short=True,
    )
    return [
        ClassSummary(
            number=int(one["class"]),
            name=str(one["name"]),
            samples=int(one["samples"]),
            relevant=int(one["relevant"]),
        )
        for one in table.to_dict("records")
    ]


@router.get("/{c}/relevance")
def class_relevance(
    served: Model,
    serving: All,
    c: int,
    layer: Annotated[list[int] | None, Query()] = None,
    k: Annotated[int, Query(ge=1, le=500)] = 20,
    minimum: Annotated[float, Query(ge=0, le=1)] = REACHED,
    concepts: Annotated[str | None, Query(max_length=200)] = None,
) -> ClassRelevance:
    """Return the most relevant components of every layer for a class."""
    samples = class_samples(served, c)
    names = layer_names(served, layer or ())
    found = relevant_components(served.db, c, layers=names, top=k, minimum=minimum)
    rows = [int(row) for one in found for row in one.frame["row"]]
    source = chosen(served, concepts)
    labels, naming = dict[int, str | None].fromkeys(rows), None
    try:
        labels = labels_of(served, serving, source, rows)
    except StillWorking as work:
        naming = Waiting(what=work.what, done=work.done, total=work.total, seconds=work.seconds)
    entry = served.db.manifest.relevance
    return ClassRelevance(
        number=c,
        name=class_name(served.db, c),
        samples=samples,
        rules=entry.rules if entry else "",
        minimum=minimum,
        concepts=source,
        naming=naming,
        layers=[_layer(served, one, labels) for one in found],
    )


def _layer(served: Served, found: LayerRelevance, labels: dict[int, str | None]) -> RelevantLayer:
    db = served.db
    entry = db.layer(found.layer)
    number = db.layers.index(found.layer)
    rows = found.frame["row"].to_numpy(np.int64)
    return RelevantLayer(
        layer=number,
        name=found.layer,
        components=found.components,
        relevant=found.relevant,
        carried=found.carried,
        mostly=found.mostly,
        rows=[
            RelevantComponent(
                row=row,
                layer=number,
                index=row - entry.first,
                name=name,
                label=labels[row],
                mean=float(part["mean"]),
                max=float(part["max"]),
                cumulated=float(part["cumulated"]),
            )
            for row, name, part in zip(
                rows.tolist(), db.names(rows), found.frame.to_dict("records"), strict=True
            )
        ],
    )


def check_relevance(served: Served) -> None:
    """Refuse a database without class relevance, with the command that adds it."""
    db = served.db
    if db.manifest.relevance is not None:
        return
    command = build_command(db, "--relevance")
    raise RelevanceError(
        f"The database '{db.path}' has no class relevance.",
        "Expected one that was built with --relevance.",
        f"Run: {command}"
        if command
        else "Call semlens.build again with relevance=True: only that is computed.",
    )


def class_samples(served: Served, target: int) -> int:
    """Return on how many samples the relevance of a class was measured.

    Raises
    ------
    RelevanceError
        If the database has no relevance at all.
    Refused
        If it has none of this class.
    """
    check_relevance(served)
    known = served.db.relevance_classes
    mine = known["samples"].to_numpy()[known["class"].to_numpy() == target]
    if not len(mine):
        numbers = sorted(int(number) for number in known["class"])
        names = [f"{number} ({class_name(served.db, number)})" for number in numbers[:8]]
        more = f" and {len(numbers) - len(names)} more" if len(numbers) > len(names) else ""
        raise not_found(
            f"There is no relevance of class {target}.",
            f"There is of {', '.join(names)}{more}.",
        )
    return int(mine[0])


def labels_of(
    served: Served, serving: Serving, source: str | None, rows: list[int]
) -> dict[int, str | None]:
    """Return the label of each of some rows; None where nothing names it."""
    if source is None or not rows:
        return dict.fromkeys(rows)
    found = named(served, serving, source, rows)
    return {row: one.label if one else None for row, one in zip(rows, found, strict=True)}
