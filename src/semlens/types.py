"""Shared types: components, boxes, literals of a recipe, and parameter types of questions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeVar, runtime_checkable

from pydantic_core import CoreSchema, core_schema

from semlens.errors import LayerError, shortened
from semlens.settings import Remote, setting

T = TypeVar("T")

Readout = Literal["mean", "max", "cls"]
"""How a component's activations on one sample become one number (paper, 3.1)."""

Rank = Literal["activation", "relevance"]
Precision = Literal["float32", "bfloat16", "float16"]
"""What ranks the samples of a component: its readout, or its relevance for the predicted class."""

Crop = Literal["auto", "none", "activation", "crp", "boxes"]
"""How a concept example is cropped: not at all, by its activation map, by conditional relevance
(CRP), to a box of the user, or by the default for the layer."""

Aggregate = Literal["mean", "median", "weighted"]
"""How the vectors of a component's examples become one vector (paper, Eq. 2)."""

Layout = Literal["auto", "channels_first", "channels_last"]
"""Axis order of a layer's feature maps: [b c h w], [b h w c], or inferred."""

Signs = Literal["auto", "positive", "both"]
"""Whether a component's strongest negative activations count as a separate component."""


@dataclass(frozen=True, order=True)
class Component:
    """One channel, unit or token feature of a layer, with a sign.

    Written ``layer:index`` or, for the negative direction, ``layer:-index``
    (``layer:-0`` included).
    """

    layer: str
    index: int
    sign: int = 1

    def __str__(self) -> str:
        """Return the name that :meth:`parse` reads."""
        return f"{self.layer}:{'-' if self.sign < 0 else ''}{self.index}"

    @classmethod
    def parse(cls, text: str) -> Component:
        """Read ``layer:index`` or ``layer:-index``.

        Raises
        ------
        LayerError
            If the text has a different format.
        """
        match = re.fullmatch(r"(.+):([+-]?)([0-9]{1,9})", text.strip())
        if match is None:
            raise LayerError(
                f"'{shortened(text)}' does not name a component.",
                "Expected LAYER:INDEX, such as layer4:17, or LAYER:-17 for the negative sign.",
                "See db.components for names, or run 'semlens search DB TEXT'.",
            )
        return cls(match[1], int(match[3]), -1 if match[2] == "-" else 1)

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> CoreSchema:
        """Serialize to the component's name in JSON."""

        def read(value: object) -> Component:
            return value if isinstance(value, cls) else cls.parse(str(value))

        return core_schema.no_info_plain_validator_function(
            read,
            serialization=core_schema.to_string_ser_schema(),
            json_schema_input_schema=core_schema.str_schema(),
        )


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle in upright original pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    def as_tuple(self) -> tuple[int, int, int, int]:
        """Return ``(left, top, right, bottom)``, as Pillow's ``crop`` takes it."""
        return (self.left, self.top, self.right, self.bottom)

    def moved(self, right: int, down: int) -> Box:
        """Return the box of the same size at another place."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)


@dataclass(frozen=True)
class Thumbnail:
    """A crop with some of its surroundings: a square WebP, and where the crop is in it."""

    webp: bytes
    box: Box


@runtime_checkable
class HasComponents(Protocol):
    """A result about components, such as hits."""

    @property
    def components(self) -> Sequence[Component | str]:
        """The components, or their names."""
        ...


Components = Component | str | HasComponents | Iterable[Component | str]
"""Parameter type of questions: a component, a name, a result with components, or several."""
Layers = Annotated[
    str | Sequence[str] | None,
    setting("Layers to include, repeated or separated by commas."),
    Remote(list[str] | None, "layer", help="Layers to include [all]."),
]
"""Parameter type of questions: one layer, several, or None for all."""
REMOTE_COMPONENTS = Remote(list[str], "component", help="Components, such as layer4:17.")
"""How a page or an agent gives components."""
Target = Annotated[int | str, setting("Class, by name or by logit index.")]
"""Parameter type of questions: a class, by name or logit."""


def as_components(components: Components) -> list[Component]:
    """Return a list of components; a string is one name.

    Raises
    ------
    LayerError
        If a name does not have the format ``layer:index``.
    """
    if isinstance(components, Component | str):
        items: Iterable[Component | str] = [components]
    elif isinstance(components, Iterable):
        items = components
    else:
        items = components.components
    return [c if isinstance(c, Component) else Component.parse(c) for c in items]


def as_list(value: T | Iterable[T]) -> list[T]:
    """Return a list of one item or several; a string is one item."""
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return list(value)  # pyright: ignore[reportUnknownArgumentType]
    return [value]  # pyright: ignore[reportReturnType]
