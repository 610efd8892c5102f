"""What is like a component: its neighbours in the model, and its twin in another one."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from semlens.analysis.describe.candidates import Candidates
from semlens.analysis.describe.neighbours import neighbours, twin
from semlens.store.reader import Database
from semlens.web.routes.place import Row, layer_names
from semlens.web.served import All, Model, Served, Serving
from semlens.web.vocabulary import chosen, named

router = APIRouter(prefix="/models/{m}/components/{layer}/{index}", tags=["card"])

Concepts = Annotated[str | None, Query(max_length=200)]


class CardKin(BaseModel):
    """A component that is like another one."""

    row: int
    layer: int
    index: int
    name: str
    cosine: float
    label: str | None


class CardTwin(BaseModel):
    """The nearest component of another model; null where that has none with examples."""

    model: int
    twin: CardKin | None
    mutual: bool
    """Whether each is the nearest of the other."""


@router.get("/neighbours")
def component_neighbours(
    served: Model,
    serving: All,
    row: Row,
    k: Annotated[int, Query(ge=1, le=100)] = 6,
    among: Annotated[int | None, Query(ge=0)] = None,
    concepts: Concepts = None,
) -> list[CardKin]:
    """Return the components most like this one, of all layers or ``among`` those of one.

    They are named only if ``concepts`` are given.
    """
    found = neighbours(served.db, row, k, layer_names(served, [] if among is None else [among]))
    return _kin(served, serving, [(one.row, one.cosine) for one in found], concepts)


@router.get("/twin")
def component_twin(
    served: Model, serving: All, row: Row, other: int, concepts: Concepts = None
) -> CardTwin:
    """Return the component of another model that is most like this one."""
    there = serving.at(other)
    found = twin(served.db, row, there.db)
    if found is None:
        return CardTwin(model=other, twin=None, mutual=False)
    kin = _kin(there, serving, [(found.row, found.cosine)], concepts)[0]
    return CardTwin(model=other, twin=kin, mutual=found.mutual)


def _kin(
    served: Served, serving: Serving, found: list[tuple[int, float]], concepts: str | None
) -> list[CardKin]:
    name = chosen(served, concepts) if concepts is not None else None
    labels: list[Candidates | None] = [None] * len(found)
    if name is not None:
        labels = named(served, serving, name, [row for row, _ in found])
    return [
        CardKin(
            row=row,
            **_place(served.db, row),
            cosine=cosine,
            label=given.label if given else None,
        )
        for (row, cosine), given in zip(found, labels, strict=True)
    ]


def _place(db: Database, row: int) -> dict[str, Any]:
    component = db.component(row)
    return {
        "layer": db.layers.index(component.layer),
        "index": row - db.layer(component.layer).first,
        "name": str(component),
    }
