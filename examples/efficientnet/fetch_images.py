"""Download photographs and clip art from Debian packages and prepare a folder of images.

    python examples/efficientnet/fetch_images.py efficientnet-images

``apt-get download`` fetches the packages (500 MB; no root, nothing is installed), ``dpkg-deb``
unpacks them next to the folder, and each image is written as a JPEG of at most 512 pixels. An
image with transparency (most stamps and all clip art) is placed on a white square with a margin,
so that the model's centre crop does not cut it off; on a black one if white hides it, as it hides
the translucent white backgrounds of MATE. File names are derived from those in the packages.
"""

import argparse
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from PIL import Image, ImageStat

SIZE = 512
"""Longer side in pixels."""
CLIP_ART = 700
"""Number of pieces of clip art sampled from the 6,900, with a fixed seed."""
MAX_PIXELS = 20_000_000
"""Larger clip art is skipped: some of it was rasterised at 600 million pixels."""
VISIBLE = 1.0
"""Standard deviation of the grey levels (0 to 255) from which an image is not blank."""
STAMPS = "tuxpaint-stamps-default"
CLIP_ART_PACKAGE = "openclipart-png"
WALLPAPERS = (
    "gnome-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "ukui-wallpapers",
)
CLIP_ART_FOLDERS = ("animals", "buildings", "food", "people", "plants", "recreation", "tools",
                    "transportation")  # fmt: skip
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

Picture = tuple[str, Path]
"""Name of the prepared file without its extension, and the source file."""


def unpack(package: str, work: Path, archives: Path | None) -> Path:
    """Download and unpack a Debian package below ``work`` and return its ``usr/share``."""
    folder = work / package
    share = folder / "usr" / "share"
    if share.is_dir():
        return share
    folders = [archives, work] if archives else [work]
    debs = [path for place in folders for path in sorted(place.glob(f"{package}_*.deb"))]
    if not debs:
        subprocess.run(["apt-get", "download", "-q", package], cwd=work, check=True)
        debs = sorted(work.glob(f"{package}_*.deb"))
    with tempfile.TemporaryDirectory(dir=work) as partial:
        subprocess.run(["dpkg-deb", "-x", str(debs[0]), partial], check=True)
        (Path(partial) / "usr").rename(_parent(folder) / "usr")
    return share


def _parent(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pictures(folder: Path) -> list[Path]:
    """List the image files below a folder."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def stamps(share: Path) -> Iterator[Picture]:
    """List Tux Paint's stamps: photographs with transparency, drawings, letters and signs."""
    root = share / "tuxpaint" / "stamps"
    for path in pictures(root):
        yield slug("stamp", path.relative_to(root)), path


def wallpapers(share: Path, package: str) -> Iterator[Picture]:
    """List desktop backgrounds, the largest file of each motif."""
    largest: dict[str, Path] = {}
    for path in pictures(share):
        if path.stem == "screenshot" or "images_dark" in path.parts or path.stem.endswith("-d"):
            continue
        motif = path.parts[-4] if "contents" in path.parts else path.stem.split("_3840")[0]
        motif = motif.split("_5640")[0].removesuffix("-l")
        if motif not in largest or path.stat().st_size > largest[motif].stat().st_size:
            largest[motif] = path
    for motif, path in sorted(largest.items()):
        yield slug("wallpaper", Path(package.split("-")[0]) / f"{motif}.x"), path


def clip_art(share: Path) -> Iterator[Picture]:
    """List a seeded sample of the Open Clip Art Library."""
    root = share / "openclipart" / "png"
    files = [p for name in CLIP_ART_FOLDERS for p in pictures(root / name)]
    random.Random(0).shuffle(files)
    small = (path for path in files if pixels(path) <= MAX_PIXELS)
    for path in sorted(islice(small, CLIP_ART)):
        yield slug("clipart", path.relative_to(root)), path


def pixels(path: Path) -> int:
    """Return the number of pixels of a PNG, read from its header."""
    with path.open("rb") as file:
        head = file.read(24)
    return int.from_bytes(head[16:20], "big") * int.from_bytes(head[20:24], "big")


def slug(kind: str, path: Path) -> str:
    """Return a file name of kind and path, in ASCII letters and digits."""
    text = "-".join((kind, *path.with_suffix("").parts))
    return re.sub(r"[^A-Za-z0-9-]+", "_", text).lower()


def prepare(source: Path, target: Path) -> None:
    """Write one image as a JPEG of at most ``SIZE`` pixels; transparent ones on a square."""
    with Image.open(source) as image:
        transparent = "A" in image.getbands() or "transparency" in image.info
        picture = image.convert("RGBA" if transparent else "RGB")
    picture.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    if transparent:
        square = on_square(picture, "white")
        blank = ImageStat.Stat(square.convert("L")).stddev[0] < VISIBLE
        picture = on_square(picture, "black") if blank else square
    picture.save(target, quality=90)


def on_square(picture: Image.Image, colour: str) -> Image.Image:
    """Place a transparent picture in the middle of a square with a margin."""
    side = round(max(picture.size) * 256 / 224)
    square = Image.new("RGBA", (side, side), colour)
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.convert("RGB")


def main() -> None:
    """Download, unpack and prepare the images."""
    parser = argparse.ArgumentParser(description="Prepare the images of the example.")
    parser.add_argument("folder", type=Path, help="where to put the images")
    parser.add_argument("--archives", type=Path, help="folder that already contains the packages")
    options = parser.parse_args()
    work = options.folder.with_name(options.folder.name + "-packages")
    work.mkdir(parents=True, exist_ok=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    archives: Path | None = options.archives
    images = list(stamps(unpack(STAMPS, work, archives)))
    for package in WALLPAPERS:
        images += wallpapers(unpack(package, work, archives), package)
    images += clip_art(unpack(CLIP_ART_PACKAGE, work, archives))
    jobs = [(source, options.folder / f"{name}.jpg") for name, source in images]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda job: prepare(*job), jobs))
    print(f"{len(jobs)} images in {options.folder}")


if __name__ == "__main__":
    main()
