"""The map of components as a widget: move, zoom, look at crops, select."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anywidget
import numpy as np
import traitlets
from matplotlib.colors import to_hex

from semlens.draw.figure import HEAT, SIGNED
from semlens.draw.map_colours import HUES, Colouring, Groups, Queries, group_colours, point_colours
from semlens.errors import ConceptError, RecipeError
from semlens.lenses.describe.concept_map import ConceptMap
from semlens.lenses.describe.map_colouring import ColourValue, check_colour
from semlens.lenses.labelling.component_labels import saved_names
from semlens.lenses.scores import MEASURES
from semlens.notebook.card_widget import (
    CardWidget,
    ComponentsTrait,
    answer_crops,
    module_source,
    style_source,
)
from semlens.progress import progress_listener
from semlens.types import Component, Components, as_components

CHOICES = ("place", "layer", *MEASURES)
"""What the widget's menu colours by; :meth:`MapWidget.colour_by` adds to it."""
_LEGEND = 12
"""Most names in the legend."""


class MapWidget(anywidget.AnyWidget):
    """An interactive map of a database's components.

    Drag moves the map, the wheel zooms, hovering shows crops and label, a click selects, with
    shift it adds, and shift with a drag selects what a rectangle holds.

    Parameters
    ----------
    concept_map
        The map of one database.
    colour
        What points are coloured by at first: ``place``, ``layer``, ``clarity``, ``redundancy`` or
        ``polysemanticity``.
    height
        In pixels.

    Raises
    ------
    RecipeError
        If the map is of several databases.
    ConceptError
        If the colour is unknown.

    Examples
    --------
    >>> import semlens as sl
    >>> view = sl.open("demo.semlens").map_widget()                 # doctest: +SKIP
    >>> view.colour_by("query", "written text")                     # doctest: +SKIP
    >>> view.selected                                               # doctest: +SKIP
    (Component(layer='layer3', index=17, sign=1),)
    """

    _esm = module_source("map.js")
    _css = style_source()

    selected = ComponentsTrait(help="The selected components; can be set.").tag(sync=True)
    colour = traitlets.Unicode("layer", help="What points are coloured by.").tag(sync=True)
    height = traitlets.Int(460).tag(sync=True)
    _choices = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _rows = traitlets.List(traitlets.Int()).tag(sync=True)
    _names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _points = traitlets.Bytes().tag(sync=True)
    _places = traitlets.List().tag(sync=True)
    _look = traitlets.Dict().tag(sync=True)

    def __init__(
        self, concept_map: ConceptMap, *, colour: str = "layer", height: int = 460
    ) -> None:
        if len(concept_map.sets) != 1:
            raise RecipeError(
                f"The map is of {len(concept_map.sets)} databases.",
                "Expected the map of one.",
                "Plot this one with its plot(), or make a map widget of each database.",
            )
        self.concept_map = concept_map
        self.database = concept_map.sets[0].database
        self._more: dict[str, tuple[str, tuple[ColourValue, ...]]] = {}
        frame = concept_map.frame
        rows = concept_map.sets[0].rows
        names = saved_names(self.database)
        texts = frame["place_label"] if names is None else names.frame["label"].iloc[rows]
        self._check_colour(colour)
        super().__init__(
            height=height,
            _choices=list(CHOICES),
            _rows=rows.tolist(),
            _names=frame["component"].astype(str).tolist(),
            _labels=[text or "" for text in texts],
            _points=concept_map.atlas.points.astype("<f4").tobytes(),
            _places=_places(concept_map),
            colour=colour,
            _look=self._look_by(colour),
        )
        self.on_msg(self._answer)

    def colour_by(self, by: str, *values: ColourValue) -> None:
        """Colour by what ``ConceptMap.coloured`` takes, such as ``("query", "written text")``.

        It becomes a choice of the menu.

        Raises
        ------
        ConceptError, RelevanceError, DataError
            As for :meth:`semlens.lenses.describe.concept_map.ConceptMap.coloured`.
        """
        check_colour(by, values)
        name = ": ".join([by, ", ".join(map(str, values))]) if values else by
        self._more[name] = by, values
        look = self._look_by(name)
        if name not in self._choices:
            self._choices = [*self._choices, name]
        with self.hold_sync():
            self._look, self.colour = look, name

    def select(self, components: Components) -> None:
        """Select components, as names or as a result that has some, such as hits.

        Components that are not on the map are left out.
        """
        known = set(self._names)
        self.selected = [c for c in as_components(components) if str(c) in known]

    def card(self) -> CardWidget:
        """Return a card that follows the selection: it shows the last selected component."""
        card = CardWidget(self.database)

        def follow(*_: object) -> None:
            card.component = self.selected[-1] if self.selected else None

        self.observe(follow, "selected")
        follow()
        return card

    @traitlets.validate("selected")
    def _on_the_map(self, proposal: Any) -> tuple[Component, ...]:
        known = set(self._names)
        missing = [str(c) for c in proposal["value"] if str(c) not in known]
        if missing and known:
            raise RecipeError(
                f"'{missing[0]}' is not on the map.",
                f"Expected components such as '{self._names[0]}'.",
                "Select others, or make the map of more layers.",
            )
        return proposal["value"]

    @traitlets.validate("colour")
    def _known_colour(self, proposal: Any) -> str:
        self._check_colour(proposal["value"])
        return proposal["value"]

    @traitlets.observe("colour")
    def _recolour(self, change: Any) -> None:
        if self._look.get("colour") != change["new"]:
            self._look = self._look_by(change["new"])

    def _check_colour(self, colour: str) -> None:
        if colour not in (*CHOICES, *self._more):
            check_colour(colour, ())
            raise ConceptError(
                f"The map cannot be coloured by '{colour}' without a value.",
                f"Expected one of {', '.join(CHOICES)}.",
                "Call colour_by with its values.",
            )

    def _look_by(self, colour: str) -> dict[str, Any]:
        by, values = self._more.get(colour, (colour, ()))
        with progress_listener(lambda *told: None):  # a change of the menu has no cell to print to
            colouring = self.concept_map.coloured(by, *values).colouring
        drawn = point_colours(colouring)
        return {
            "colour": colour,
            "points": np.round(255 * drawn.colour).astype(np.uint8).tobytes(),
            "order": np.argsort(drawn.rank, kind="stable").astype("<u4").tobytes(),
            "legend": _legend(colouring),
        }

    def _answer(self, widget: object, content: Any, buffers: object) -> None:
        answer_crops(self.database, content, self.send)


def _places(concept_map: ConceptMap) -> list[dict[str, Any]]:
    """Return the names of places and where they are written, largest place first."""
    names = concept_map.atlas.names
    return [
        {"name": ", ".join(labels), "x": float(names[place, 0]), "y": float(names[place, 1])}
        for place, labels in concept_map.places[["place", "labels"]].itertuples(index=False)
        if labels and np.isfinite(names[place]).all()
    ]


def _legend(colouring: Colouring) -> dict[str, Any]:
    match colouring:
        case Groups():
            colours = list(map(to_hex, group_colours(colouring)))
            pairs: Sequence[tuple[str, str]] = list(zip(colouring.names, colours, strict=True))
            shown = pairs[:_LEGEND] if colouring.title != "place" else []  # named on the map
            return {"names": shown, "more": len(pairs) - len(shown) if shown else 0}
        case Queries():
            hues = [HUES[i % len(HUES)] for i in range(len(colouring.names))]
            return {"names": list(zip(colouring.names, hues, strict=True)), "more": 0}
        case _:
            low, high = colouring.limits
            return {"title": colouring.title, "low": f"{low:.2f}", "high": f"{high:.2f}",
                    "stops": _stops(colouring.signed)}  # fmt: skip


def _stops(signed: bool) -> list[str]:
    return [to_hex((SIGNED if signed else HEAT)(share)) for share in np.linspace(0, 1, 5)]
