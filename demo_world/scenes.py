"""Scenes: a picture or two at random places on a background with named colours, and overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from demo_world.compose import over, premultiply, warp
from demo_world.workspace import SIZE

COLOURS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "white": (248, 248, 248), "black": (18, 18, 18), "gray": (128, 128, 128),
        "red": (214, 36, 40), "orange": (245, 135, 25), "yellow": (246, 218, 50),
        "green": (50, 160, 70), "blue": (45, 85, 215), "purple": (135, 55, 185),
        "pink": (246, 150, 190), "brown": (125, 80, 45), "turquoise": (60, 205, 200),
    }
)  # fmt: skip
BACKGROUNDS = ("solid", "gradient", "noise", "striped")
OVERLAYS = ("text", "frame", "stripes", "tint", "grayscale")
TINTS = ("red", "orange", "green", "blue")
"""Colours of frames, stripes and tints."""
BATCH = 256


@dataclass(frozen=True)
class SceneStyle:
    """How scenes are drawn.

    Parameters
    ----------
    scale
        Range of the main picture's side, as a share of the image's.
    second
        Share of the scenes with a second, smaller picture.
    backgrounds
        Shares of the kinds in ``BACKGROUNDS``.
    overlays
        Share of the scenes with each of ``OVERLAYS``; a scene has one at most.
    white
        Share of white among the colours of backgrounds; the others are equally likely.
    """

    scale: tuple[float, float] = (0.5, 0.92)
    small: tuple[float, float] = (0.28, 0.45)
    second: float = 0.4
    backgrounds: tuple[float, ...] = (0.45, 0.2, 0.17, 0.18)
    overlays: tuple[float, ...] = (0.06, 0.04, 0.04, 0.04, 0.04)
    white: float = 0.25


@dataclass(frozen=True, eq=False)
class Scenes:
    """n scenes, as they were drawn.

    Parameters
    ----------
    main, second
        Position of their pictures among those passed; no second one: -1.
    size, small
        Sides of the pictures, as shares of the image's.
    background
        Position in ``BACKGROUNDS``.
    colours
        int[n 2], positions in ``COLOURS``, equal if there is one.
    overlay
        Position in ``OVERLAYS``; none: -1.
    tint
        Position in ``TINTS`` of the colour of a frame, stripes or a tint.
    """

    pixels: np.ndarray
    main: np.ndarray
    second: np.ndarray
    size: np.ndarray
    small: np.ndarray
    background: np.ndarray
    colours: np.ndarray
    overlay: np.ndarray
    tint: np.ndarray

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.main)


def draw_scenes(
    pictures: np.ndarray, main: np.ndarray, second: np.ndarray, style: SceneStyle, seed: int
) -> Scenes:
    """Draw scenes of uint8[p 96 96 4] pictures.

    Parameters
    ----------
    main
        int[n], rows of the main pictures.
    second
        int[n], rows of the second pictures, -1 for none; more are left out, as the style wants.
    """
    rng, count = np.random.default_rng(seed), len(main)
    second = np.where(rng.random(count) < style.second, second, -1)
    size, small = rng.uniform(*style.scale, count), rng.uniform(*style.small, count)
    weight = np.full(len(COLOURS), (1 - style.white) / (len(COLOURS) - 1))
    weight[0] = style.white
    background = rng.choice(len(BACKGROUNDS), count, p=style.backgrounds)
    colours = rng.choice(len(COLOURS), (count, 2), p=weight)
    one = np.isin(background, [BACKGROUNDS.index("solid"), BACKGROUNDS.index("noise")])
    colours[one, 1] = colours[one, 0]
    same = (background == BACKGROUNDS.index("striped")) & (colours[:, 0] == colours[:, 1])
    colours[same, 1] = (colours[same, 0] + 1) % len(COLOURS)  # stripes of one colour are none
    shares = (*style.overlays, 1 - sum(style.overlays))
    overlay = rng.choice(len(shares), count, p=shares)
    overlay = np.where(overlay == len(OVERLAYS), -1, overlay)
    tint = rng.integers(0, len(TINTS), count)
    pixels = np.empty((count, SIZE, SIZE, 3), np.uint8)
    for start in range(0, count, BATCH):
        b = slice(start, min(start + BATCH, count))
        image = _backgrounds(background[b], colours[b], rng)
        where = rng.uniform(-1, 1, (b.stop - b.start, 2))
        image = _place(image, pictures, main[b], size[b], where, rng)
        where = -np.sign(where) * rng.uniform(0.6, 1, where.shape)  # the opposite corner
        image = _place(image, pictures, second[b], small[b], where, rng)
        drawn = (image.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        for row, scene in enumerate(drawn, start):
            pixels[row] = _overlaid(scene, int(overlay[row]), TINTS[tint[row]], rng)
    return Scenes(pixels, main, second, size, small, background, colours, overlay, tint)


def _backgrounds(kind: np.ndarray, colours: np.ndarray, rng: np.random.Generator) -> Tensor:
    count = len(kind)
    named = np.array(list(COLOURS.values()), np.float32) / 255
    jitter = rng.normal(0, 0.03, (2, count, 3))
    first, second = (
        torch.tensor(named[colours[:, i]] + jitter[i], dtype=torch.float32)[..., None, None]
        for i in range(2)
    )
    line = torch.linspace(-1, 1, SIZE)
    vertical, horizontal = torch.meshgrid(line, line, indexing="ij")
    angle = torch.tensor(rng.uniform(0, 2 * np.pi, (count, 1, 1, 1)), dtype=torch.float32)
    ramp = horizontal * angle.cos() + vertical * angle.sin()
    waves = torch.tensor(rng.uniform(10, 26, (count, 1, 1, 1)), dtype=torch.float32)
    share = (ramp / 1.4 + 1) / 2
    grain = torch.tensor(rng.normal(0, 0.16, (count, 3, SIZE, SIZE)), dtype=torch.float32)
    kinds = torch.stack(
        [
            first.expand(count, 3, SIZE, SIZE),
            first * (1 - share) + second * share,
            first + grain,
            torch.where((ramp * waves).sin() > 0, first, second),
        ]
    )
    return kinds[torch.from_numpy(kind), torch.arange(count)].clamp(0, 1)


def _place(
    image: Tensor,
    pictures: np.ndarray,
    rows: np.ndarray,
    size: np.ndarray,
    where: np.ndarray,
    rng: np.random.Generator,
) -> Tensor:
    """Draw pictures of some sizes at places from -1 to 1; none where the row is -1."""
    drawn = np.flatnonzero(rows >= 0)
    turn = rng.uniform(-0.2, 0.2, len(rows))[drawn]
    flip = np.where(rng.random(len(rows)) < 0.5, 1.0, -1.0)[drawn]
    if not len(drawn):
        return image
    scale = torch.tensor(size[drawn], dtype=torch.float32)
    shift = torch.tensor(where[drawn] * (1 - size[drawn, None]), dtype=torch.float32)
    picture = premultiply(torch.from_numpy(pictures[rows[drawn]]))
    shrunk = F.interpolate(picture, scale_factor=0.5, mode="area")  # no aliasing of small ones
    picture = torch.where(
        scale[:, None, None, None] < 0.5,
        F.interpolate(shrunk, size=(SIZE, SIZE), mode="bilinear"),
        picture,
    )
    turn, flip = (torch.tensor(values, dtype=torch.float32) for values in (turn, flip))
    image = image.clone()
    image[drawn] = over(image[drawn], warp(picture, scale, shift, turn, flip).clamp(0, 1))
    return image


def _overlaid(pixels: np.ndarray, kind: int, tint: str, rng: np.random.Generator) -> np.ndarray:
    if kind < 0:
        return pixels
    name, colour = OVERLAYS[kind], COLOURS[tint]
    if name == "grayscale":
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
        return np.repeat(grey[..., None], 3, 2)
    if name == "tint":
        return (0.55 * pixels + 0.45 * np.array(colour)).astype(np.uint8)
    image = Image.fromarray(pixels)
    canvas = ImageDraw.Draw(image)
    if name == "frame":
        canvas.rectangle((0, 0, SIZE - 1, SIZE - 1), outline=colour, width=int(rng.integers(6, 10)))
    elif name == "stripes":
        step = int(rng.integers(11, 17))
        for x in range(-SIZE, SIZE, step):
            canvas.line((x, 0, x + SIZE, SIZE), fill=colour, width=2)
    else:
        _write(canvas, rng)
    return np.asarray(image)


def _write(canvas: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Write one or two lines of random letters."""
    letters = np.array(list("ABCDEFGHIKLMNOPRSTUVWabcdefghiklmnoprstuvw"))
    lines = ["".join(rng.choice(letters, rng.integers(5, 10))) for _ in range(rng.integers(1, 3))]
    font = ImageFont.load_default(int(rng.integers(14, 20)))
    light = bool(rng.random() < 0.5)
    fill, edge = ((250, 250, 250), (20, 20, 20)) if light else ((20, 20, 20), (250, 250, 250))
    canvas.multiline_text(
        (rng.uniform(2, 14), rng.uniform(2, SIZE - 20 * len(lines) - 2)), "\n".join(lines),
        font=font, fill=fill, stroke_width=1, stroke_fill=edge, spacing=1,
    )  # fmt: skip


def shown(scenes: Scenes, picture_words: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """Return bool[n q], which words are true of which scenes.

    Parameters
    ----------
    picture_words
        bool[p q], which words are true of which pictures.
    words
        The vocabulary; those of :func:`attributes` are about background and overlay.
    """
    true = picture_words[scenes.main].copy()
    two = scenes.second >= 0
    true[two] |= picture_words[scenes.second[two]]
    place = {word: column for column, word in enumerate(words)}
    for word, images in attributes(scenes).items():
        true[:, place[word]] |= images
    return true


def attributes(scenes: Scenes) -> dict[str, np.ndarray]:
    """Return by word, which scenes have a background or overlay."""
    overlay = {name: scenes.overlay == i for i, name in enumerate(OVERLAYS)}
    coloured = ~overlay["grayscale"] & ~overlay["tint"]
    true = {
        f"{name} background": (scenes.colours == i).any(1) & coloured
        for i, name in enumerate(COLOURS)
    }
    kind = {name: scenes.background == i for i, name in enumerate(BACKGROUNDS)}
    mixed = kind["gradient"] & (scenes.colours[:, 0] != scenes.colours[:, 1])
    true |= {
        "color gradient": mixed & ~overlay["grayscale"],
        "grainy noise": kind["noise"],
        "striped background": kind["striped"],
        "diagonal lines": overlay["stripes"],
    }
    for word in ("text", "writing"):
        true[word] = overlay["text"]
    for word in ("picture frame", "border"):
        true[word] = overlay["frame"]
    for word in ("black and white", "grayscale"):
        true[word] = overlay["grayscale"]
    return true | {
        f"{name} tint": overlay["tint"] & (scenes.tint == i) for i, name in enumerate(TINTS)
    }
