"""The card of a component as a widget."""

from __future__ import annotations

from typing import Any

import anywidget
import traitlets

from semlens.lenses.describe.card import card
from semlens.lenses.result import plain
from semlens.notebook.extra import module_source, style_source
from semlens.notebook.widget_parts import ComponentTrait, answer_crops
from semlens.progress import progress_listener
from semlens.store.reader import Database
from semlens.types import Component


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
