"""Artefacts that can be inserted into clean images: hue, text, stickers, stripes, cut-outs.

To test how a model reacts to them, and to show them to it in training on images of any class,
so that they stop to mean one (paper, 4.3.3 and F.2.3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
from PIL import Image
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from semlens.data.artefact_rendering import (
    Colour,
    Place,
    blend,
    check_words,
    colour_text,
    corner,
    cutout_paths,
    default_font,
    parse_colour,
    pasted,
    read_cutout,
    stripes,
    trimmed,
    written,
)
from semlens.data.images import Images
from semlens.errors import DataError
from semlens.settings import invalid, setting
from semlens.types import as_list

FORMS = (
    "hue[:COLOUR][:opacity=0.3], text:WORDS[:size=0.12:place=bottom:...], "
    "patch:COLOUR[:size=0.22:...], stripes[:COLOUR][:period=0.09:...], "
    "paste:FOLDER[:where=random]"
)


def _as_colour(value: Any) -> Any:
    return parse_colour(value) if isinstance(value, str) else value


def _as_folder(value: str) -> str:
    path = Path(value).expanduser().resolve()
    cutout_paths(path)
    return str(path)


Share = Annotated[float, Field(gt=0, le=1)]
AnyColour = Annotated[Colour, BeforeValidator(_as_colour)]


@dataclass(frozen=True)
class Artefact(ABC):
    """Something that is put on an image; the settings are fixed, the seed places it.

    Raises
    ------
    DataError
        If a setting is wrong.
    """

    name: ClassVar[str]
    """Its kind, for tables."""

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, values: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(values)
        except ValidationError as error:
            raise invalid(cast(Any, cls).__pydantic_fields__, error, DataError) from error

    @abstractmethod
    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return an upright RGB image with the artefact; the same seed, the same picture."""

    @property
    def spec(self) -> str:
        """The text that :func:`load_artefact` reads back."""
        first, *others = fields(cast(Any, self))
        values = [f"{f.name}={_text(getattr(self, f.name))}" for f in others]
        return ":".join([self.name, _text(getattr(self, first.name)), *values])


@dataclass(frozen=True)
class Hue(Artefact):
    """One colour over the whole image; by default reddened skin (paper, F.2.3, Eqs. 1-3)."""

    colour: AnyColour = (231, 128, 151)
    opacity: Share = 0.3
    name: ClassVar[str] = "hue"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return ``(1 - opacity) v + opacity * colour``; the seed has no part in it."""
        return blend(image, self.colour, self.opacity)


@dataclass(frozen=True)
class TextMark(Artefact):
    """A text watermark on one line.

    Parameters
    ----------
    size
        Of the font, as a share of the image's height; smaller where the words would not fit.
    outline
        Colour of the edge, or None.
    font
        A TrueType file; DejaVu Sans Bold by default.
    """

    words: str
    size: Share = 0.12
    place: Place = "random"
    colour: AnyColour = (255, 255, 255)
    outline: AnyColour | None = (60, 60, 60)
    opacity: Share = 0.9
    font: str | None = None
    name: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        """Refuse words that cannot be drawn."""
        check_words(self.words, self.font or default_font())

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image with the words on it."""
        piece = written(
            self.words, self.font or default_font(), self.size * image.height,
            max(1, round(0.94 * image.width)), self.colour, self.outline,
        )  # fmt: skip
        at = corner(self.place, piece.size, image.size, np.random.default_rng(seed))
        return pasted(image, piece, at, self.opacity)


@dataclass(frozen=True)
class Patch(Artefact):
    """A coloured square, as a sticker; ``size`` is a share of the image's shorter side."""

    colour: AnyColour = (220, 30, 40)
    size: Share = 0.22
    place: Place = "random"
    opacity: Share = 0.96
    name: ClassVar[str] = "patch"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image with the square on it."""
        side = max(1, round(self.size * min(image.size)))
        piece = Image.new("RGBA", (side, side), (*self.colour, 255))
        at = corner(self.place, piece.size, image.size, np.random.default_rng(seed))
        return pasted(image, piece, at, self.opacity)


@dataclass(frozen=True)
class Stripes(Artefact):
    """Soft stripes over the whole image.

    Parameters
    ----------
    period
        From stripe to stripe, as a share of the image's shorter side.
    angle
        In degrees, 0 is horizontal; None draws one.
    """

    colour: AnyColour = (255, 255, 255)
    period: Share = 0.09
    opacity: Share = 0.45
    angle: FiniteFloat | None = None
    name: ClassVar[str] = "stripes"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image with the stripes on it."""
        draw = np.random.default_rng(seed)
        phase, turn = draw.random(2)
        angle = 180 * float(turn) if self.angle is None else self.angle
        period = max(2.0, self.period * min(image.size))
        mask = stripes(image.size, period, angle, float(phase))
        return blend(image, self.colour, mask * np.float32(self.opacity))


@dataclass(frozen=True)
class Paste(Artefact):
    """Cut-outs of real artefacts, one drawn for each image (paper, F.2.3, Eq. 4).

    Parameters
    ----------
    path
        A PNG or WebP with alpha, or a folder of them, as ``semlens cutout`` writes it.
    where
        ``same``: where it lay in its source, relative to the image; ``random``: anywhere, at
        three quarters to five quarters of its size.
    """

    path: Annotated[str, AfterValidator(_as_folder)]
    where: Literal["same", "random"] = "same"
    name: ClassVar[str] = "paste"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image with one cut-out on it."""
        draw = np.random.default_rng(seed)
        paths = cutout_paths(Path(self.path))
        source = read_cutout(paths[int(draw.integers(len(paths)))])
        if self.where == "same":
            return pasted(image, source.resize(image.size, Image.Resampling.BILINEAR), (0, 0))
        piece = trimmed(source)
        scale = float(draw.uniform(0.75, 1.25)) * min(
            image.width / source.width, image.height / source.height
        )
        size = (max(1, round(scale * piece.width)), max(1, round(scale * piece.height)))
        piece = piece.resize(size, Image.Resampling.BILINEAR)
        return pasted(image, piece, corner("random", size, image.size, draw))


_KINDS: Mapping[str, type[Artefact]] = MappingProxyType(
    {kind.name: kind for kind in (Hue, TextMark, Patch, Stripes, Paste)}
)
Artefacts = Annotated[
    Artefact | str | Iterable[Artefact | str],
    setting(
        "What to insert: hue, text:WORDS, patch:COLOUR, stripes, paste:FOLDER. May be given again."
    ),
]
"""Artefacts wherever a question takes some: one or several, objects or their texts."""


def as_artefacts(given: Artefacts) -> list[Artefact]:
    """Return artefacts however they are given.

    Raises
    ------
    DataError
        If a text is none of an artefact.
    """
    return [one if isinstance(one, Artefact) else load_artefact(one) for one in as_list(given)]


def load_artefact(spec: str) -> Artefact:
    """Read an artefact from its text: a kind, its first setting, and others as ``name=value``.

    Raises
    ------
    DataError
        If it is none; the text names the forms.

    Examples
    --------
    >>> load_artefact("hue:231,128,151:0.3").spec
    'hue:231,128,151:opacity=0.3'
    """
    kind, _, rest = spec.partition(":")
    if kind not in _KINDS:
        raise DataError(
            f"'{spec}' is no artefact.", f"Expected one of {FORMS}.", "Write it in one of them."
        )
    first, *others = (field.name for field in fields(cast(Any, _KINDS[kind])))
    settings: dict[str, Any] = {}
    parts = rest.split(":")
    if kind == "hue" and len(parts) > 1 and "=" not in parts[-1]:
        parts[-1] = f"opacity={parts[-1]}"
    while parts:
        name, equals, value = parts[-1].partition("=")
        # a name that was read already belongs to the first setting, which may hold anything
        if not equals or name not in others or name in settings:
            break
        settings[name] = None if value == "none" else value
        parts.pop()
    text = ":".join(parts)
    if text:
        settings[first] = text
    elif kind in ("text", "paste"):
        raise DataError(
            f"'{spec}' lacks its {first}.", f"Expected one of {FORMS}.", f"Write {kind}:{first}."
        )
    return _KINDS[kind](**settings)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return colour_text(value) if isinstance(value, tuple) else str(value)


class WithArtefact(Images):
    """Images with an artefact on them; ids and classes stay those of the images.

    Parameters
    ----------
    images
        The clean ones.
    artefacts
        One, or several, of which one is drawn for each image; objects, or their texts.
    share
        How many of the images get one; which ones, the seed says.
    seed
        Also of each artefact's place.

    Raises
    ------
    DataError
        If there is no artefact, or the share or seed is none.
    """

    def __init__(
        self,
        images: Images,
        artefacts: Artefacts,
        *,
        share: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.images = images
        self.artefacts = tuple(as_artefacts(artefacts))
        if not self.artefacts or not 0 <= share <= 1:
            raise DataError(
                f"{len(self.artefacts)} artefacts for a share of {share} of the images.",
                "Expected at least one, and a share from 0 to 1.",
                "Give both.",
            )
        if seed < 0:
            raise DataError(f"The seed is {seed}.", "Expected 0 or more.", "Give another one.")
        self.seed = seed
        self.ids = images.ids
        self.targets = images.targets
        count = round(share * len(images))
        order = np.random.default_rng(seed).permutation(len(images))
        self.changed: frozenset[int] = frozenset(order[:count].tolist())
        """The samples that carry an artefact."""
        named = ", ".join(artefact.spec for artefact in self.artefacts)
        part = "" if count == len(images) else f" on {count} of {len(images)}"
        self.spec = f"python:{images.spec} with {named}{part} (seed {seed})"

    def content(self, sample: int) -> bytes | Image.Image:
        """Return the image with its artefact, or what lies there if it carries none."""
        if sample not in self.changed:
            return self.images.content(sample)
        return insert_drawn(self.images.read(sample), self.artefacts, self.seed, sample)


def insert_drawn(
    image: Image.Image, artefacts: Sequence[Artefact], seed: int, sample: int
) -> Image.Image:
    """Insert one of several artefacts; which one and where, seed and sample number say."""
    which = np.random.SeedSequence((seed, sample, 1)).generate_state(1)[0]
    return artefacts[int(which) % len(artefacts)].insert(image, artefact_seed(seed, sample))


def artefact_seed(seed: int, sample: int) -> int:
    """Return the seed of an artefact's place in one image."""
    return int(np.random.SeedSequence((seed, sample)).generate_state(1)[0])
