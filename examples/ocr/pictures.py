"""Pictures of words and strokes, drawn with matplotlib's fonts on plain paper and photographs."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

SIDE = 192
SPOT = (30, 80, 142, 104)
"""Left, top, right and bottom of what is drawn at a fixed place."""
SHORT = (
    "EXIT OPEN SALE HOTEL TAXI MENU BANK PARK STOP ZOO MUSEUM CAFE STATION LIBRARY MARKET SCHOOL "
    "POLICE GARDEN BRIDGE RIVER WINTER MONDAY street window doctor coffee people animal system and"
).split()
WORDS = (
    "the quick brown fox jumps over lazy dog reading learned vision model street exit open sale "
    "coffee hotel parking station museum library market doctor school police bakery garden window "
    "bridge river mountain winter summer monday friday january october twenty hundred yellow "
    "purple orange silver golden people thing place world child number system government company "
    "question night point home water room mother area money story fact month right study book eye"
).split()
FACES = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf",
    "DejaVuSans-Oblique.ttf", "cmr10.ttf", "STIXGeneral.ttf",
)  # fmt: skip
PATTERNS = ("word", "bars", "rings", "crosses", "squares", "dots", "one block")


def face(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Return one of matplotlib's fonts."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def papers() -> list[Image.Image]:
    """Return white and grey paper, and two photographs of scikit-learn."""
    photographs = [
        Image.fromarray(pixels).crop((100, 0, 527, 427)).resize((SIDE, SIDE))
        for pixels in load_sample_images().images
    ]
    return [*(Image.new("RGB", (SIDE, SIDE), (grey,) * 3) for grey in (255, 110)), *photographs]


def pattern(kind: str, paper: Image.Image) -> Image.Image:
    """Return a paper with a word or a row of seven shapes at :data:`SPOT`, black on white."""
    picture = paper.copy()
    draw, (left, top, right, bottom) = ImageDraw.Draw(picture), SPOT
    ink = "black" if paper.getpixel((0, 0)) == (255, 255, 255) else "white"
    if kind == "word":
        draw.text(
            (left, bottom), "EXIT 24", font=face("DejaVuSans-Bold.ttf", 26), fill=ink, anchor="ls"
        )
    if kind == "one block":
        draw.rectangle((left, top, right - 2, bottom), fill=ink)
    for x in range(left, left + 7 * 16, 16):
        if kind == "bars":
            draw.rectangle((x, top, x + 5, bottom), fill=ink)
        if kind == "rings":
            draw.ellipse((x, top + 6, x + 13, bottom - 4), outline=ink, width=3)
        if kind == "crosses":
            draw.line((x, top + 4, x + 12, bottom - 4), fill=ink, width=3)
            draw.line((x + 12, top + 4, x, bottom - 4), fill=ink, width=3)
        if kind == "squares":
            draw.rectangle((x, top + 6, x + 11, top + 17), fill=ink)
        if kind == "dots":
            draw.ellipse((x, top + 8, x + 9, top + 17), fill=ink)
    return picture


def scenes(folder: Path) -> None:
    """Write 40 pictures for the detector: 30 with a word somewhere, 10 without."""
    rng, backs = np.random.default_rng(0), papers()
    folder.mkdir(parents=True)
    for number in range(40):
        picture = backs[number % 4].copy()
        font = face(FACES[number % 7], int(rng.integers(18, 32)))
        place = (int(rng.integers(5, 60)), int(rng.integers(10, 150)))
        ink = "black" if number % 4 == 0 else "white"
        if number < 30:
            ImageDraw.Draw(picture).text(place, SHORT[number], font=font, fill=ink)
        picture.save(folder / f"{number:02d}.png")


def line(text: str, name: str) -> Image.Image:
    """Return a line of text, centred in the input of the orientation classifier."""
    size = 26
    while face(name, size).getlength(text) > 184:
        size -= 1
    picture = Image.new("RGB", (192, 48), "white")
    ImageDraw.Draw(picture).text((96, 33), text, font=face(name, size), fill="black", anchor="ms")
    return picture


def lines(folder: Path) -> None:
    """Write each word upright and upside down, in folders named as the classes."""
    for turned in (0, 180):
        (folder / str(turned)).mkdir(parents=True)
        for number, word in enumerate(WORDS):
            picture = line(word, FACES[number % 7]).rotate(turned)
            picture.save(folder / str(turned) / f"{number:03d}.png")
