"""Components as a synchronised trait: names in the page, ``Component`` in Python."""

from __future__ import annotations

from typing import Any

import traitlets

from semlens.types import Component, as_components


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
