"""A database with every question as a method."""

from __future__ import annotations

from importlib.util import find_spec
from types import MethodType
from typing import TYPE_CHECKING, Any

import pandas as pd
from PIL import Image

from semlens.draw.example_sheet import sheet
from semlens.errors import ServeError, nearest
from semlens.lens import load_lens, registered
from semlens.lenses.lazy_method import LazyMethod
from semlens.lenses.questions import Questions
from semlens.store.locked_cached_property import locked_cached_property
from semlens.types import Component, Components, Layers

if TYPE_CHECKING:
    from semlens.hub.push import push_to_hub
    from semlens.lenses.audit.saved_audits import SavedAudits
    from semlens.lenses.describe.card import Card
    from semlens.lenses.describe.projector import save_projector
    from semlens.lenses.labelling.imported_labels import read_labels
    from semlens.notebook.card_widget import CardWidget
    from semlens.notebook.map_widget import MapWidget
else:  # imported on first use
    Card = SavedAudits = CardWidget = MapWidget = object


class ConceptDatabase(Questions):
    """A database with every question as a method, such as ``db.scores()``.

    The model, the images and the embedder are loaded when a question first needs them; pass
    their locations to ``semlens.open`` if they have moved.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.open("demo.semlens")                               # doctest: +SKIP
    >>> db.search("watermark", top=3).components                   # doctest: +SKIP
    """

    if TYPE_CHECKING:
        push_to_hub = push_to_hub
        read_labels = read_labels
        save_projector = save_projector
    else:
        push_to_hub = LazyMethod("semlens.hub.push")
        read_labels = LazyMethod("semlens.lenses.labelling.imported_labels")
        save_projector = LazyMethod("semlens.lenses.describe.projector")

    def __getitem__(self, component: object) -> Card:
        """Return the card of a component, such as ``db["layer4:17"]``; see :meth:`card`.

        Raises
        ------
        LayerError
            If there is no such component.
        """
        return self.card(str(component))

    def __getattr__(self, name: str) -> Any:
        """Return the lens of another package as a method."""
        if hasattr(type(self), name):  # a property that raised AttributeError: its own text
            return object.__getattribute__(self, name)
        if name.startswith("_") or name not in registered():
            near = nearest(name, [*registered(), *super().__dir__()])
            raise AttributeError(
                f"A database has no attribute '{name}'. The nearest are {near}. A lens of another "
                "package is a method once the package is installed."
            )
        return MethodType(load_lens(name), self)

    def __dir__(self) -> list[str]:
        """Return the names of all attributes, with the lenses of other packages."""
        return [*super().__dir__(), *registered()]

    @locked_cached_property
    def audits(self) -> SavedAudits:
        """Audits that are saved in the database, with their reviews."""
        from semlens.lenses.audit.saved_audits import SavedAudits

        return SavedAudits(self)

    def show(self, components: Components, columns: int = 10, *, mask: bool = False) -> Image.Image:
        """Return a picture of components' examples, one row each.

        With ``mask``, areas below 2 % of the heatmap's maximum are darkened (paper, H.1).
        """
        return sheet(self, self.rows_of(components), columns, mask=mask)

    def map_widget(
        self, layers: Layers = None, *, colour: str = "layer", height: int = 460, **settings: Any
    ) -> MapWidget:
        """Return an interactive map for a notebook; see its ``selected`` and ``colour_by``.

        Parameters
        ----------
        layers, settings
            As for ``db.concept_map``.
        colour
            ``layer``, ``place``, ``clarity``, ``redundancy`` or ``polysemanticity``.
        height
            In pixels.

        Raises
        ------
        ServeError
            If the extra ``notebook`` is not installed.
        """
        _check_notebook_extra()
        from semlens.notebook.map_widget import MapWidget

        return MapWidget(self.concept_map(layers=layers, **settings), colour=colour, height=height)

    def card_widget(self, component: Component | str | None = None) -> CardWidget:
        """Return an interactive card for a notebook, whose ``component`` can be changed.

        Raises
        ------
        ServeError
            If the extra ``notebook`` is not installed.
        LayerError
            If there is no such component.
        """
        _check_notebook_extra()
        from semlens.notebook.card_widget import CardWidget

        return CardWidget(self, component)

    def summary(self) -> pd.DataFrame:
        """Return one row per layer: form, components, signs, crop, components without examples.

        If examples are cropped to boxes of yours, ``without_box`` is the number of examples that
        are whole images because no box is where the component reacts most.
        """
        components = self.components
        rows: list[dict[str, Any]] = []
        for layer in self.manifest.layers:
            layer_components = components.iloc[layer.first : layer.first + layer.rows]
            rows.append(
                {
                    "layer": layer.name,
                    "form": layer.form,
                    "components": layer.rows,
                    "signs": "both" if layer.rows > layer.channels else "+",
                    "crop": layer.crop,
                    "without_examples": int((layer_components["examples"] == 0).sum()),
                    **({} if layer.without_box is None else {"without_box": layer.without_box}),
                    "not_finite": layer.not_finite,
                }
            )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        """Return the database's identity and layers as text."""
        m = self.manifest
        return (
            f"ConceptDatabase('{self.path}')\n"
            f"{m.rows} components of {m.model.spec}, {m.samples} images of {m.data.spec},\n"
            f"embedded by {m.embedder.spec}\n{self.summary().to_string(index=False)}"
        )

    def _repr_html_(self) -> str:
        """Return what it is made of, with examples, for notebooks; it never fails."""
        from semlens.draw.notebook_html import database_html, guarded_html

        return guarded_html(lambda: database_html(self, self.summary()), self)


def _check_notebook_extra() -> None:
    if find_spec("anywidget") is None:
        raise ServeError(
            "Widgets need the package 'anywidget'.",
            "It is not installed.",
            "Run: pip install 'semlens[notebook]' and restart the kernel.",
        )
