"""Artefacts that can be inserted into clean images: hue, text, stickers, stripes, cut-outs.

They test how a model reacts to an artefact. Inserted into training images of every class, they
make a model stop associating the artefact with one class (paper, 4.3.3 and F.2.3).
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
    cutout_paths,
    default_font,
    draw_text,
    parse_colour,
    paste_piece,
    read_cutout,
    stripes,
    top_left_corner,
    trim_faint_border,
)
from semlens.data.images import Images
from semlens.errors import DataError
from semlens.regular_files import user_path
from semlens.settings import Remote, invalid_field, setting
from semlens.types import as_list

ARTEFACT_FORMS = (
    "hue[:COLOUR][:opacity=0.3], text:WORDS[:size=0.12:place=bottom:...], "
    "patch:COLOUR[:size=0.22:...], stripes[:COLOUR][:period=0.09:...], "
    "paste:FOLDER[:where=random]"
)


def _as_colour(value: Any) -> Any:
    return parse_colour(value) if isinstance(value, str) else value


def _as_folder(value: str) -> str:
    path = user_path(value).resolve()
    cutout_paths(path)
    return str(path)


Share = Annotated[float, Field(gt=0, le=1)]
AnyColour = Annotated[Colour, BeforeValidator(_as_colour)]


@dataclass(frozen=True)
class Artefact(ABC):
    """Something inserted into an image; its settings are fixed, the seed sets the position.

    Raises
    ------
    DataError
        If a setting is invalid.
    """

    name: ClassVar[str]
    """Kind of artefact, as shown in tables."""

    @model_validator(mode="wrap")
    @classmethod
    def _validate(cls, values: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(values)
        except ValidationError as error:
            raise invalid_field(cast(Any, cls).__pydantic_fields__, error, DataError) from error

    @abstractmethod
    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return an upright RGB image with the artefact; deterministic for a seed."""

    @property
    def spec(self) -> str:
        """The text form, which :func:`load_artefact` parses."""
        first, *rest = fields(cast(Any, self))
        values = [f"{f.name}={_text(getattr(self, f.name))}" for f in rest]
        return ":".join([self.name, _text(getattr(self, first.name)), *values])


@dataclass(frozen=True)
class Hue(Artefact):
    """One colour over the whole image; by default reddened skin (paper, F.2.3, Eqs. 1-3)."""

    colour: AnyColour = (231, 128, 151)
    opacity: Share = 0.3
    name: ClassVar[str] = "hue"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return ``(1 - opacity) v + opacity * colour``; the seed is not used."""
        return blend(image, self.colour, self.opacity)


@dataclass(frozen=True)
class TextMark(Artefact):
    """A text watermark on one line.

    Parameters
    ----------
    size
        Font size as a fraction of the image's height; reduced if the words would not fit.
    outline
        Colour of the outline, or None.
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
        """Refuse words that the font cannot draw."""
        check_words(self.words, self.font or default_font())

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image with the words on it."""
        piece = draw_text(
            self.words, self.font or default_font(), self.size * image.height,
            max(1, round(0.94 * image.width)), self.colour, self.outline,
        )  # fmt: skip
        corner = top_left_corner(self.place, piece.size, image.size, np.random.default_rng(seed))
        return paste_piece(image, piece, corner, self.opacity)


@dataclass(frozen=True)
class Patch(Artefact):
    """A coloured square, like a sticker; ``size`` is a fraction of the image's shorter side."""

    colour: AnyColour = (220, 30, 40)
    size: Share = 0.22
    place: Place = "random"
    opacity: Share = 0.96
    name: ClassVar[str] = "patch"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image with the square on it."""
        side = max(1, round(self.size * min(image.size)))
        piece = Image.new("RGBA", (side, side), (*self.colour, 255))
        corner = top_left_corner(self.place, piece.size, image.size, np.random.default_rng(seed))
        return paste_piece(image, piece, corner, self.opacity)


@dataclass(frozen=True)
class Stripes(Artefact):
    """Soft stripes over the whole image.

    Parameters
    ----------
    period
        Distance between stripes, as a fraction of the image's shorter side.
    angle
        In degrees, 0 is horizontal; None draws one at random.
    """

    colour: AnyColour = (255, 255, 255)
    period: Share = 0.09
    opacity: Share = 0.45
    angle: FiniteFloat | None = None
    name: ClassVar[str] = "stripes"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image with the stripes on it."""
        phase, turn = np.random.default_rng(seed).random(2)
        angle = 180 * float(turn) if self.angle is None else self.angle
        period = max(2.0, self.period * min(image.size))
        mask = stripes(image.size, period, angle, float(phase))
        return blend(image, self.colour, mask * np.float32(self.opacity))


@dataclass(frozen=True)
class Paste(Artefact):
    """Cut-outs of real artefacts, one drawn at random per image (paper, F.2.3, Eq. 4).

    Parameters
    ----------
    path
        A PNG or WebP file with an alpha channel, or a folder of them, as written by
        ``semlens correct cut-out``.
    where
        ``same``: at its relative position in the source image; ``random``: anywhere, scaled by a
        factor from 0.75 to 1.25.
    """

    path: Annotated[str, AfterValidator(_as_folder)]
    where: Literal["same", "random"] = "same"
    name: ClassVar[str] = "paste"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return the image with one cut-out on it."""
        rng = np.random.default_rng(seed)
        paths = cutout_paths(Path(self.path))
        source = read_cutout(paths[int(rng.integers(len(paths)))])
        if self.where == "same":
            return paste_piece(image, source.resize(image.size, Image.Resampling.BILINEAR), (0, 0))
        piece = trim_faint_border(source)
        scale = float(rng.uniform(0.75, 1.25)) * min(
            image.width / source.width, image.height / source.height
        )
        size = (max(1, round(scale * piece.width)), max(1, round(scale * piece.height)))
        piece = piece.resize(size, Image.Resampling.BILINEAR)
        return paste_piece(image, piece, top_left_corner("random", size, image.size, rng))


_KINDS: Mapping[str, type[Artefact]] = MappingProxyType(
    {kind.name: kind for kind in (Hue, TextMark, Patch, Stripes, Paste)}
)
Artefacts = Annotated[
    Artefact | str | Iterable[Artefact | str],
    setting(
        "Artefact to insert: hue, text:WORDS, patch:COLOUR, stripes or paste:FOLDER. Repeatable."
    ),
    Remote(
        list[str],
        read=lambda _, texts: _without_files(texts),
        help="Artefact to insert: hue, text:WORDS, patch:COLOUR or stripes.",
    ),
]
"""One or several artefacts, as objects or in their text form."""


def _without_files(texts: Iterable[str]) -> list[Artefact]:
    artefacts = [load_artefact(text) for text in texts if text.partition(":")[0] != Paste.name]
    if len(artefacts) < len(list(texts)):
        raise DataError(
            f"The artefact '{Paste.name}' is of files.",
            "Expected one that needs no file of the server.",
            "Choose hue, text, patch or stripes.",
        )
    return artefacts


def as_artefacts(artefacts: Artefacts) -> list[Artefact]:
    """Return artefacts as a list of objects.

    Raises
    ------
    DataError
        If a text does not describe an artefact.
    """
    return [a if isinstance(a, Artefact) else load_artefact(a) for a in as_list(artefacts)]


def load_artefact(spec: str) -> Artefact:
    """Parse an artefact from its text: a kind, its first setting, and others as ``name=value``.

    Raises
    ------
    DataError
        If the text has no known form; the error lists the forms.

    Examples
    --------
    >>> load_artefact("hue:231,128,151:0.3").spec
    'hue:231,128,151:opacity=0.3'
    """
    kind, _, tail = spec.partition(":")
    if kind not in _KINDS:
        raise DataError(
            f"Unknown artefact '{spec}'.",
            f"Expected one of {ARTEFACT_FORMS}.",
            "Use one of these forms.",
        )
    first, *rest_names = (field.name for field in fields(cast(Any, _KINDS[kind])))
    settings: dict[str, Any] = {}
    parts = tail.split(":")
    if kind == "hue" and len(parts) > 1 and "=" not in parts[-1]:
        parts[-1] = f"opacity={parts[-1]}"
    while parts:
        name, equals, value = parts[-1].partition("=")
        # settings are read from the end: a repeated name is part of the first setting's free text
        if not equals or name not in rest_names or name in settings:
            break
        settings[name] = None if value == "none" else value
        parts.pop()
    text = ":".join(parts)
    if text:
        settings[first] = text
    elif kind in ("text", "paste"):
        raise DataError(
            f"'{spec}' has no {first}.",
            f"Expected one of {ARTEFACT_FORMS}.",
            f"Use {kind}:{first.upper()}.",
        )
    return _KINDS[kind](**settings)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return colour_text(value) if isinstance(value, tuple) else str(value)


class WithArtefact(Images):
    """Images with inserted artefacts; ids and classes are those of the clean images.

    Parameters
    ----------
    images
        The clean images.
    artefacts
        One artefact, or several of which one is drawn per image; objects or their text form.
    share
        Fraction of the images that get an artefact, drawn with the seed.
    seed
        Also sets the position of each artefact.

    Raises
    ------
    DataError
        If there is no artefact, or the share or seed is out of range.
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
                f"{len(self.artefacts)} artefacts with share={share}.",
                "Expected at least one artefact, and a share from 0 to 1.",
                "Change the artefacts or the share.",
            )
        if seed < 0:
            raise DataError(
                f"{seed} is not a valid seed.", "Expected 0 or more.", "Change the seed."
            )
        self.seed = seed
        self.ids = images.ids
        self.targets = images.targets
        count = round(share * len(images))
        order = np.random.default_rng(seed).permutation(len(images))
        self.changed: frozenset[int] = frozenset(order[:count].tolist())
        """Numbers of the samples that get an artefact."""
        specs = ", ".join(artefact.spec for artefact in self.artefacts)
        subset = "" if count == len(images) else f" on {count} of {len(images)}"
        self.spec = f"python:{images.spec} with {specs}{subset} (seed {seed})"

    def content(self, sample: int) -> bytes | Image.Image:
        """Return the image with its artefact, or the unchanged content if it gets none."""
        if sample not in self.changed:
            return self.images.content(sample)
        return insert_drawn(self.images.read(sample), self.artefacts, self.seed, sample)


def insert_drawn(
    image: Image.Image, artefacts: Sequence[Artefact], seed: int, sample: int
) -> Image.Image:
    """Insert one of several artefacts; seed and sample number set which one and where."""
    index = np.random.SeedSequence((seed, sample, 1)).generate_state(1)[0]
    return artefacts[int(index) % len(artefacts)].insert(image, artefact_seed(seed, sample))


def artefact_seed(seed: int, sample: int) -> int:
    """Return the seed for the position of an artefact in one image."""
    return int(np.random.SeedSequence((seed, sample)).generate_state(1)[0])
