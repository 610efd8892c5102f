"""Download photographs from Debian packages and prepare the pairs of the example.

    python examples/carton/fetch_photographs.py carton

``apt-get download`` fetches five packages (330 MB; no root, nothing is installed): desktop
backgrounds, and the stamps of Tux Paint, cut-out photographs of animals, food and things. Each
stamp is placed on a background, because a white mark would not be seen on the white page of the
stamp. The backgrounds, and with them all photographs, are split into two halves, in which they
all are of the same size, 256 x 256 pixels: ``find`` is for finding channels, ``measure`` for
measuring what they do. In each half, ``plain`` holds the photographs, and a folder for each mark
of ``marks.py`` the same photographs with the mark (in ``find`` only those of the database).
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from marks import SIDE, insert, masks
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "efficientnet"))
from fetch_images import STAMPS, stamps, unpack, wallpapers  # noqa: E402

BACKGROUNDS = {
    "lomiri-wallpapers-16.04": (
        "aitzgorri", "bridge", "dragonfly", "free", "friends", "life", "picosdeeuropa",
        "picture_0b", "picture_1a", "seeding", "sunset", "wine",
    ),
    "lomiri-wallpapers-20.04": ("kleiber",),
    "mate-backgrounds": (
        "aqua", "blinds", "dune", "freshflower", "garden", "greenmeadow", "ladybird", "raindrops",
        "storm", "twowings", "yellowflower",
    ),
    "plasma-workspace-wallpapers": (
        "bythewater", "coldripple", "colorfulcups", "darkesthour", "eveningglow", "fallenleaf",
        "grey", "kite", "onestandsout", "path", "summer_1am",
    ),
}  # fmt: skip
"""The photographs among the desktop backgrounds; the others are drawings and patterns."""
SUBJECTS = ("animals", "food", "hobbies", "household", "plants", "sports", "vehicles")
"""Folders of stamps that are mostly photographs."""
COLOURS = 0.05
"""Distinct colours per pixel that a photograph has at least; drawings have fewer."""
OBJECT = 176
"""Longer side of a stamp in pixels."""
HALVES = ("find", "measure")
DATABASE = ("plain", "chinese", "kana-lines", "latin-lines")
"""The versions of the first half, which are the images of the database."""

Photograph = tuple[str, Image.Image]
"""Name, which ends in the name of the background, and picture."""


def is_photograph(stamp: Image.Image) -> bool:
    """Tell photographs from drawings by the number of their colours, in 64 levels."""
    pixels = np.asarray(stamp).reshape(-1, 4)
    opaque = pixels[pixels[:, 3] > 250, :3] // 4
    return len(np.unique(opaque, axis=0)) >= COLOURS * max(len(opaque), 500)


def load_stamp(path: Path) -> Image.Image:
    """Return a stamp whose longer side is ``OBJECT``."""
    with Image.open(path) as image:
        picture = image.convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    scale = OBJECT / max(picture.size)
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.LANCZOS)


def square(background: Image.Image, place: float, share: float = 1.0) -> Image.Image:
    """Return a square of ``share`` of the height, from ``place`` (0 to 1) of the width."""
    side = round(min(background.size) * share)
    left, top = (round((length - side) * place) for length in background.size)
    return background.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.LANCZOS)


def photographs(objects: dict[str, Image.Image], grounds: dict[str, Image.Image], seed: int
                ) -> Iterator[Photograph]:  # fmt: skip
    """List two squares of each background, and each object on a part of some background."""
    rng = np.random.default_rng(seed)
    for name, ground in grounds.items():
        yield f"left--on-{name}", square(ground, 0)
        yield f"right--on-{name}", square(ground, 1)
    for name, stamp in objects.items():
        ground = str(rng.choice(list(grounds)))
        scene = square(grounds[ground], float(rng.random()), float(rng.uniform(0.5, 1)))
        room = [SIDE - length for length in stamp.size]
        scene.paste(stamp, tuple(int(rng.integers(r // 4, r - r // 4 + 1)) for r in room), stamp)
        yield f"{name}--on-{ground}", scene


def background_of(name: str) -> str:
    """Return the background of a photograph, by its name."""
    return name.rsplit("--on-", 1)[-1]


def load_packages(work: Path, archives: Path | None) -> tuple[dict[str, Image.Image], ...]:
    """Return the photographs among the stamps and those among the backgrounds, by name."""
    listed = [(name, path) for name, path in stamps(unpack(STAMPS, work, archives))
              if name.split("-")[1] in SUBJECTS and not name.endswith("_mirror")
              and "cartoon" not in name]  # fmt: skip
    with ThreadPoolExecutor() as pool:
        loaded = list(pool.map(load_stamp, [path for _, path in listed]))
    objects = {name.removeprefix("stamp-"): picture
               for (name, _), picture in zip(listed, loaded, strict=True)
               if is_photograph(picture)}  # fmt: skip
    grounds: dict[str, Image.Image] = {}
    for package, motifs in BACKGROUNDS.items():
        for name, path in wallpapers(unpack(package, work, archives), package):
            motif = name.split("-", 2)[2].split("_by_")[0]
            if motif in motifs:
                picture = Image.open(path)
                picture.draft("RGB", (1024, 1024))
                grounds[f"{name.split('-')[1]}-{motif}"] = picture.convert("RGB")
    return objects, grounds


def write(folder: Path, half: str, photographs: list[Photograph]) -> None:
    """Write the photographs of one half, plain and with each mark."""
    layers = {name: layer for name, layer in masks().items() if half != "find" or name in DATABASE}
    for version in ("plain", *layers):
        (folder / half / version).mkdir(parents=True, exist_ok=True)

    def write_one(photograph: Photograph) -> None:
        name, picture = photograph
        picture.save(folder / half / "plain" / f"{name}.png", compress_level=1)
        for version, layer in layers.items():
            path = folder / half / version / f"{name}.png"
            insert(picture, layer).save(path, compress_level=1)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write_one, photographs))


def main() -> None:
    """Download, unpack, split and write."""
    parser = argparse.ArgumentParser(description="Prepare the photographs of the example.")
    parser.add_argument("folder", type=Path, help="where to put the photographs")
    parser.add_argument("--archives", type=Path, help="folder that already contains the packages")
    options = parser.parse_args()
    work = options.folder.with_name(options.folder.name + "-packages")
    work.mkdir(parents=True, exist_ok=True)
    objects, grounds = load_packages(work, options.archives)
    for number, half in enumerate(HALVES):
        # Every second background and stamp; related stamps are neighbours in the sorted list.
        parts = [dict(list(sorted(part.items()))[number::2]) for part in (objects, grounds)]
        pictures = list(photographs(*parts, seed=number))
        write(options.folder, half, pictures)
        print(f"{half}: {len(pictures)} photographs on {len(parts[1])} backgrounds")


if __name__ == "__main__":
    main()
