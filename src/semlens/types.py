"""Frozen value types that every room shares."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, TypeVar, runtime_checkable

from pydantic_core import CoreSchema, core_schema

from semlens.errors import LayerError
from semlens.settings import setting

T = TypeVar("T")

Readout = Literal["mean", "max", "cls"]
"""How a component's activations on one sample become one number (paper, 3.1)."""

Crop = Literal["auto", "none", "activation", "crp"]
"""How a concept example is cut out of its image: whole, by its activation map, by conditional
relevance (CRP), or by what suits the layer."""

Aggregate = Literal["mean", "median", "weighted"]
"""How the vectors of a component's examples become one vector (paper, Eq. 2)."""

Layout = Literal["auto", "channels_first", "channels_last"]
"""Order of the axes of a layer that puts out maps: [b c h w], [b h w c], or found out."""

Signs = Literal["auto", "positive", "both"]
"""Whether a component's strongest negative activations count as a component of their own."""


@dataclass(frozen=True, order=True)
class Component:
    """One channel, unit or token feature of a layer, with the sign in which it is read.

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
            If the text has another form.
        """
        match = re.fullmatch(r"(.+):([+-]?)(\d+)", text.strip())
        if match is None:
            raise LayerError(
                f"'{text}' does not name a component.",
                "Expected LAYER:INDEX, such as layer4:17, or LAYER:-17 for the negative sign.",
                "Run 'semlens search DB TEXT' or 'semlens status DB' to see names.",
            )
        return cls(match[1], int(match[3]), -1 if match[2] == "-" else 1)

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> CoreSchema:
        """Be its name in JSON."""

        def read(given: object) -> Component:
            return given if isinstance(given, cls) else cls.parse(str(given))

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


@runtime_checkable
class HasComponents(Protocol):
    """An answer that is about components, such as hits."""

    @property
    def components(self) -> Sequence[Component | str]:
        """The components, or their names."""
        ...


Components = Component | str | HasComponents | Iterable[Component | str]
"""Components wherever a question takes some: one, a name, an answer that has them, or several."""
Layers = Annotated[
    str | Sequence[str] | None, setting("Only these layers: given again, or joined by commas.")
]
"""Layers wherever a question takes some: one, several, or None for all."""
Target = Annotated[int | str, setting("Class, by name or by the number of its logit.")]
"""A class wherever a question takes one."""


def as_components(given: Components) -> list[Component]:
    """Return components however they are given; a text is one name.

    Raises
    ------
    LayerError
        If a name has another form than ``layer:index``.
    """
    if isinstance(given, Component | str):
        several: Iterable[Component | str] = [given]
    elif isinstance(given, Iterable):
        several = given
    else:
        several = given.components
    return [c if isinstance(c, Component) else Component.parse(c) for c in several]


def as_list(given: T | Iterable[T]) -> list[T]:
    """Return a list of what is given; a text is one item, never its characters."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes):
        return list(given)  # pyright: ignore[reportUnknownArgumentType]
    return [given]  # pyright: ignore[reportReturnType]
