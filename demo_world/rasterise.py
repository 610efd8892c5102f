"""Conversion of all source drawings to square RGBA pictures with labels.

Emoji are matched to Unicode code points, so that drawings of several vendors belong to one concept.
Icon sets and clip art keep their own names.
"""

import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from demo_world.workspace import Workspace

EMOJI_SETS = ("noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "twemoji", "emojione")
ICON_SETS = {"flat-color-icons": "icon", "meteocons": "weather"}
COMPONENT_GROUP = 2  # emojibase's group of skin tones and hair: not pictures
NOT_A_KEYWORD = re.compile(
    r"clip ?art|unsorted|public domain|http|inkscape|svg|&|\bby\b|media|image|externalsource"
)


@dataclass(frozen=True)
class Picture:
    """Metadata of a source picture; drawings of the same thing share ``concept``."""

    source: str
    name: str
    label: str
    tags: list[str]
    group: str
    subgroup: str
    concept: str
    photograph: bool = False


def squash(text: str) -> str:
    """Return lower-case letters and digits only, to match names across vendors."""
    return re.sub(r"[^a-z0-9]", "", text.lower())


def plain_hex(code: str) -> str:
    """Return a code point sequence without the variation selector."""
    return code.lower().replace("-fe0f", "")


def render(svg: str) -> Image.Image:
    """Rasterise one SVG document."""
    import resvg_py  # only whoever rasterises needs it

    return Image.open(
        io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True)))
    )


def fit(image: Image.Image, size: int) -> np.ndarray | None:
    """Crop to the opaque pixels and centre on a transparent square canvas; None if empty."""
    image = image.convert("RGBA")
    box = image.getchannel("A").getbbox()
    if box is None:
        return None
    image = image.crop(box)
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size))
    canvas.paste(image, ((size - width) // 2, (size - height) // 2))
    pixels = np.array(canvas)
    return pixels if (pixels[..., 3] > 128).mean() >= 0.03 else None


class EmojiNames:
    """Finds the Unicode emoji that a vendor's icon draws."""

    def __init__(self, npm: Path) -> None:
        base = npm / "emojibase-data"
        groups = json.loads((base / "meta" / "groups.json").read_text())
        self.groups: dict[str, str] = groups["groups"]
        self.subgroups: dict[str, str] = groups["subgroups"]
        entries = json.loads((base / "en" / "data.json").read_text())
        self.entries = {
            plain_hex(e["hexcode"]): e
            for e in entries
            if e.get("group") is not None and e["group"] != COMPONENT_GROUP
        }
        self.by_squashed: dict[str, str] = {}
        for code, entry in self.entries.items():
            self.by_squashed.setdefault(squash(entry["label"]), code)
        for file in sorted((base / "en" / "shortcodes").glob("*.json")):
            for code, names in json.loads(file.read_text()).items():
                for name in [names] if isinstance(names, str) else names:
                    if plain_hex(code) in self.entries:
                        self.by_squashed.setdefault(squash(name), plain_hex(code))
        self.by_name: dict[str, str] = {}
        for vendor in ("noto", "twemoji", "fluent-emoji-flat"):
            file = npm / "@iconify-json" / vendor / "chars.json"
            for code, name in json.loads(file.read_text()).items():
                if plain_hex(code) in self.entries:
                    self.by_name.setdefault(name, plain_hex(code))

    def find(self, icon: str) -> str | None:
        """Return the code point sequence of a vendor's icon name, if it is an emoji."""
        return self.by_name.get(icon) or self.by_squashed.get(squash(icon))


def icon_documents(npm: Path, vendor: str, side: int) -> Iterator[tuple[str, str]]:
    """Yield the names and SVG documents of an Iconify set."""
    data = json.loads((npm / "@iconify-json" / vendor / "icons.json").read_text())
    for name, icon in data["icons"].items():
        left, top = icon.get("left", 0), icon.get("top", 0)
        width = icon.get("width", data.get("width", 16))
        height = icon.get("height", data.get("height", 16))
        yield (
            name,
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{side}" height="{side}">'
            f"{icon['body']}</svg>",
        )


def emoji_pictures(npm: Path, names: EmojiNames, side: int) -> Iterator[tuple[Picture, str]]:
    """Yield every vendor's drawing of every emoji."""
    for vendor in EMOJI_SETS:
        seen: set[str] = set()
        for name, svg in icon_documents(npm, vendor, side):
            code = names.find(name)
            if code is None or code in seen:
                continue
            seen.add(code)
            entry = names.entries[code]
            yield (
                Picture(
                    vendor,
                    name,
                    entry["label"],
                    entry.get("tags", []),
                    names.groups[str(entry["group"])],
                    names.subgroups[str(entry["subgroup"])],
                    f"emoji:{code}",
                ),
                svg,
            )


def icon_pictures(npm: Path, side: int) -> Iterator[tuple[Picture, str]]:
    """Yield icons that are not emoji."""
    for vendor, kind in ICON_SETS.items():
        for name, svg in icon_documents(npm, vendor, side):
            label = re.sub(r"-?(fill|\d+)$", "", name).replace("-", " ").strip()
            subgroup = "weather icon" if kind == "weather" else "icon"
            yield Picture(vendor, name, label, [kind], "icon", subgroup, f"icon:{label}"), svg


def clip_art_words(svg: str, stem: str) -> tuple[str, list[str]]:
    """Return label and keywords of an Open Clip Art drawing, from metadata or file name."""
    work = re.search(r"<cc:Work.*?</cc:Work>", svg, re.S)
    metadata = work.group(0) if work else ""
    match = re.search(r"<dc:title>(.*?)</dc:title>", metadata, re.S)
    title = match.group(1).strip() if match else ""
    match = re.search(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>", metadata, re.S)
    creator = match.group(1).lower() if match else ""
    keywords = (k.strip().lower() for k in re.findall(r"<rdf:li>(.*?)</rdf:li>", metadata, re.S))
    keywords = [
        k
        for k in keywords
        if k and len(k) < 30 and k not in creator and not NOT_A_KEYWORD.search(k)
    ]
    if not 3 <= len(title) < 60:
        title = re.sub(r"(_[^_]*)?_?\d*$", "", stem)
    label = re.sub(r"[_\-]+", " ", title).lower()
    label = re.sub(r"&\w+;|[^a-z0-9' ]", " ", label)
    label = re.sub(r" ?\b\d+$", "", re.sub(r"\s+", " ", label).strip())
    return label, [k for k in dict.fromkeys(keywords) if k != label][:6]


def clip_art(root: Path) -> Iterator[tuple[Picture, str]]:
    """Yield the drawings of Debian's Open Clip Art library below 600 kB."""
    for path in sorted(root.rglob("*.svg")):
        relative = path.relative_to(root)
        if "stars" in relative.parts and not path.stem.endswith("0step"):
            continue
        too_many_alike = re.match(r"(70a|plastik|hotel_icon_coll)", path.stem)
        if too_many_alike or path.stat().st_size >= 600_000:
            continue
        svg = path.read_text(errors="ignore")
        label, keywords = clip_art_words(svg, path.stem)
        if len(label) < 3:
            continue
        folders = [
            part.replace("_", " ")
            for part in relative.parts[:-1]
            if part not in ("unsorted", "special", "icons", "computer") and "theme" not in part
        ]
        folder = folders[-1] if folders else ""
        concept = f"clipart:{label}"
        yield (
            Picture("openclipart", str(relative), label, keywords, "clipart", folder, concept),
            str(path),
        )


def stamps(root: Path) -> Iterator[tuple[Picture, Path]]:
    """Yield Tux Paint stamps with a caption, mostly photographs; for evaluation only."""
    for path in sorted(root.rglob("*.png")):
        text = path.with_suffix(".txt")
        if "alphabets" in path.parts or not text.exists():
            continue
        lines = text.read_text(errors="ignore").splitlines()
        label = re.sub(r"^(a|an|the) ", "", lines[0].strip().rstrip(".!").lower()) if lines else ""
        if not label:
            continue
        name = str(path.relative_to(root))
        photograph = "cartoon" not in name and "symbols" not in name
        yield Picture("tuxpaint", name, label, [], "stamp", path.parent.name, f"stamp:{label}",
                      photograph), path  # fmt: skip


def reduced(image: Image.Image, size: int) -> Image.Image:
    """Reduce a large image to about three times the final size."""
    if max(image.size) > 6.25 * size:
        image.thumbnail((round(3.125 * size), round(3.125 * size)))
    return image


def drawings(work: Workspace) -> Iterator[tuple[Picture, Image.Image]]:
    """Yield all source pictures in a fixed order, except those that cannot be rasterised."""
    share = work.debian / "usr" / "share"
    side = round(work.size * 7 / 6)
    documents = [
        emoji_pictures(work.npm, EmojiNames(work.npm), side),
        icon_pictures(work.npm, side),
    ]
    for source in documents:
        for picture, svg in source:
            yield picture, render(svg)
    import resvg_py  # as in render

    for picture, path in clip_art(share / "openclipart" / "svg"):
        try:
            raster = resvg_py.svg_to_bytes(
                svg_path=path, width=round(work.size * 4 / 3), skip_system_fonts=True
            )
            image = Image.open(io.BytesIO(bytes(raster)))
        except (ValueError, OSError):
            continue
        yield picture, reduced(image, work.size)
    for picture, path in stamps(share / "tuxpaint" / "stamps"):
        yield picture, reduced(Image.open(path).convert("RGBA"), work.size)


def rasterise(work: Workspace) -> None:
    """Write the pictures and their records."""
    start = time.time()
    pixels: list[np.ndarray] = []
    records: list[Picture] = []
    for picture, image in drawings(work):
        fitted = fit(image, work.size)
        if fitted is not None:
            pixels.append(fitted)
            records.append(picture)
        if len(records) % 1000 == 0:
            print(f"{len(records)} pictures, {time.time() - start:.0f} s", flush=True)
    np.save(work.pictures, np.stack(pixels))
    work.picture_index.write_text(json.dumps([asdict(r) for r in records]))
    print(f"{len(records)} pictures, {time.time() - start:.0f} s")


def load_pictures(work: Workspace) -> tuple[np.ndarray, list[Picture]]:
    """Load the pictures, memory-mapped uint8[N size size 4], and their records."""
    records = [Picture(**r) for r in json.loads(work.picture_index.read_text())]
    return np.load(work.pictures, mmap_mode="r"), records
