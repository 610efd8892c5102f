"""The card of a component as a widget, and what widgets share.

The page asks for crops with ``{"type": "crops", "row": ROW, "count": COUNT}`` and gets the same
back with the crops as buffers, strongest first, or with an ``error``. So a database of 100,000
components is shown without sending its pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import anywidget
import traitlets

from semlens.draw.encode_images import encode_webp
from semlens.draw.example_picture import example_picture, example_webp
from semlens.errors import SemlensError
from semlens.lenses.describe.card import card
from semlens.lenses.result import plain
from semlens.progress import progress_listener
from semlens.store.reader import Database
from semlens.types import Component, as_components

MOST = 24
"""Most crops of an answer."""
SIDE = 128
"""Side in pixels of a crop that has no stored thumbnail."""
Send = Callable[[dict[str, Any], list[bytes]], None]


def crops_of(database: Database, row: int, count: int) -> list[bytes]:
    """Return the outlined crops of a component as WebP, strongest first.

    Raises
    ------
    DataError, StaleError
        If there are no thumbnails, and an original is missing or has changed.
    """
    return [
        example_webp(database, example) or encode_webp(example_picture(database, example, SIDE))
        for example in database.examples_of(row, count)
    ]


def answer_crops(database: Database, content: Any, send: Send) -> None:
    """Answer a message of the page; anything but a request for crops is ignored."""
    if not isinstance(content, dict) or content.get("type") != "crops":
        return
    row, count = content.get("row"), content.get("count")
    answer = {"type": "crops", "row": row, "count": count}
    if type(row) is not int or not 0 <= row < database.manifest.rows:
        send({**answer, "error": "There is no such component."}, [])
        return
    count = min(max(count, 1), MOST) if type(count) is int else 1
    try:
        send(answer, crops_of(database, row, count))
    except (SemlensError, OSError) as error:  # shown in place of the crops
        send({**answer, "error": str(error)}, [])


class ComponentsTrait(traitlets.TraitType[Any, Any]):
    """A tuple of components; names and results that have components are taken as well."""

    default_value = ()
    info_text = "components, or their names"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tag(to_json=lambda value, _: [str(c) for c in value],
                 from_json=lambda value, _: as_components(value))  # fmt: skip

    def validate(self, obj: Any, value: Any) -> tuple[Component, ...]:
        """Return a tuple of components.

        Raises
        ------
        LayerError
            If a name does not have the format ``layer:index``.
        """
        return tuple(as_components(value))


class ComponentTrait(traitlets.TraitType[Any, Any]):
    """One component, or None."""

    default_value = None
    allow_none = True
    info_text = "a component, its name, or None"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tag(to_json=lambda value, _: None if value is None else str(value),
                 from_json=lambda value, _: value)  # fmt: skip

    def validate(self, obj: Any, value: Any) -> Component:
        """Return a component; see :class:`ComponentsTrait`."""
        return as_components(value)[0]


def module_source(name: str) -> str:
    """Return the ECMAScript module of a widget, with what the widgets share before it."""
    folder = files("semlens.notebook").joinpath("javascript")
    return "\n".join(folder.joinpath(file).read_text("utf-8") for file in ("shared.js", name))


def style_source() -> str:
    """Return the style sheet of the widgets."""
    return files("semlens.notebook").joinpath("javascript", "widgets.css").read_text("utf-8")


class CardWidget(anywidget.AnyWidget):
    """Crops, label, measures and classes of one component, which can be changed.

    Parameters
    ----------
    database
        The database.
    component
        What is shown at first; None for nothing.

    Raises
    ------
    LayerError
        If there is no such component; also when ``component`` is set.
    """

    _esm = module_source("card.js")
    _css = style_source()

    component = ComponentTrait(help="The component that is shown, or None.").tag(sync=True)
    _card = traitlets.Dict(allow_none=True, default_value=None).tag(sync=True)

    def __init__(self, database: Database, component: Component | str | None = None) -> None:
        self.database = database
        super().__init__(component=component)
        self.on_msg(self._answer)

    @traitlets.validate("component")
    def _known(self, proposal: Any) -> Component | None:
        if proposal["value"] is not None:
            self.database.row(proposal["value"])
        return proposal["value"]

    @traitlets.observe("component")
    def _describe(self, change: Any) -> None:
        component = change["new"]
        if component is None:
            self._card = None
            return
        with progress_listener(lambda *told: None):  # a click in the page has no cell to print to
            shown = card(self.database, component)
        self._card = {"row": shown.row, **plain(shown.to_json())}

    def _answer(self, widget: object, content: Any, buffers: object) -> None:
        answer_crops(self.database, content, self.send)
