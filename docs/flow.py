"""Draw how semlens works, for the README and the architecture page: docs/images/how-it-works.svg.

    python docs/flow.py --demo semlens-demo/demo.semlens

Images, crops and the map are those of the demo's database.  The file follows the reader's light
or dark theme and loads nothing.
"""

from __future__ import annotations

import argparse
import base64
import io
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import escape

from PIL import Image

import semlens as sl

TARGET = Path(__file__).parent / "images" / "how-it-works.svg"
COMPONENT = "layer2:30"
LABELS = 7
"""So many clusters of the map are named at most."""
WIDTH, HEIGHT = 1000, 366
STEPS = (26, 262, 498, 748)
"""Left edges of the four steps."""

STYLE = """
  text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1f2328 }
  .page { fill: #ffffff; stroke: #d1d9e0 }
  .title { font-size: 17px; font-weight: 600 }
  .soft { fill: #59636e; font-size: 13px }
  .small { fill: #59636e; font-size: 11.5px }
  .box { fill: #f6f8fa; stroke: #d1d9e0 }
  .line { stroke: #818b98; stroke-width: 2; fill: none }
  .head { fill: #818b98 }
  .edge { stroke: #d1d9e0; stroke-width: 1; opacity: .5 }
  .unit { fill: #c3ccd5 }
  .mark { fill: #c2410c; stroke: none }
  .frame { fill: none; stroke: #c2410c; stroke-width: 2 }
  .dot { fill: #4a7fb5; fill-opacity: .55 }
  .named { paint-order: stroke; stroke: #f6f8fa; stroke-width: 4px; font-size: 12px }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .page { fill: #0d1117; stroke: #30363d }
    .soft, .small { fill: #9198a1 }
    .box { fill: #161b22; stroke: #30363d }
    .line { stroke: #6e7681 } .head { fill: #6e7681 }
    .edge { stroke: #3d444d }
    .unit { fill: #4a525c }
    .mark { fill: #f0883e } .frame { stroke: #f0883e }
    .dot { fill: #79b8ff }
    .named { stroke: #161b22 }
  }
"""


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, required=True, help="Database of 'semlens demo'.")
    demo = parser.parse_args().demo
    TARGET.write_text(draw(sl.open(demo, images=demo.parent / "images")), "utf-8")


def draw(db: sl.ConceptDatabase) -> str:
    """Return the picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>How semlens works</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="page" x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="12"/>',
        *_network(),
        *_examples(db),
        *_space(db),
        *_questions(),
        *(_arrow(x - 34, 176) for x in STEPS[1:]),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _head(step: int, title: str, *lines: str) -> list[str]:
    x = STEPS[step]
    below = [_text(x, 322 + 20 * number, line, "soft") for number, line in enumerate(lines)]
    return [_text(x, 46, title, "title"), *below]


def _network() -> list[str]:
    """Draw a network whose one component is marked."""
    drawn = _head(0, "1  Collect", "Run your model on your", "images, once for all layers.")
    layers = [
        [(STEPS[0] + 13 + 52 * layer, 176 + 28 * (unit - (count - 1) / 2)) for unit in range(count)]
        for layer, count in enumerate((4, 6, 7, 5))
    ]
    for lower, upper in pairwise(layers):
        drawn += [
            f'<path class="edge" d="M{a} {b:g}L{c} {d:g}"/>' for a, b in lower for c, d in upper
        ]
    marked = layers[2][2]
    for point in (point for layer in layers for point in layer):
        kind, radius = ("mark", 9) if point == marked else ("unit", 7)
        drawn.append(f'<circle class="{kind}" cx="{point[0]}" cy="{point[1]:g}" r="{radius}"/>')
    drawn.append(_text(STEPS[0] + 92, 292, f"a component: {COMPONENT}", "small", "middle"))
    return drawn


def _examples(db: sl.ConceptDatabase) -> list[str]:
    """Draw the strongest examples of the component, and where it reacts in them."""
    x, size, gap = STEPS[1], 84, 12
    drawn = _head(
        1, "2  Attribute", "Keep the images that activate", "it most; find where it reacts."
    )
    row = db.row(sl.Component.parse(COMPONENT))
    for place, example in enumerate(db.examples_of(row)[:4]):
        image = db.original(example.sample)
        left = x + (place % 2) * (size + gap)
        top = 86 + (place // 2) * (size + gap)
        drawn.append(_picture(image, left, top, size))
        box = example.box
        scale = size / image.width, size / image.height
        drawn.append(
            f'<rect class="frame" x="{left + box.left * scale[0]:.1f}" '
            f'y="{top + box.top * scale[1]:.1f}" rx="2" '
            f'width="{(box.right - box.left) * scale[0]:.1f}" '
            f'height="{(box.bottom - box.top) * scale[1]:.1f}"/>'
        )
    drawn.append(_text(x + size + gap / 2, 292, "its strongest examples", "small", "middle"))
    return drawn


def _space(db: sl.ConceptDatabase) -> list[str]:
    """Draw the map of all components, with the names of clusters, and the component."""
    x, top, side = STEPS[2], 78, 196
    drawn = _head(2, "3  Embed", "A CLIP-like model places them", "in one space with words.")
    drawn.append(f'<rect class="box" x="{x}" y="{top}" width="{side}" height="{side}" rx="8"/>')
    known = db.concept_map()
    frame = known.to_pandas()
    low, high = frame[["x", "y"]].min(), frame[["x", "y"]].max()

    def place(across: float, up: float) -> tuple[float, float]:
        right = (across - low["x"]) / (high["x"] - low["x"])
        above = (up - low["y"]) / (high["y"] - low["y"])
        return x + 18 + right * (side - 36), top + side - 18 - above * (side - 36)

    marked = (0.0, 0.0)
    for name, across, up in zip(frame["component"], frame["x"], frame["y"], strict=True):
        point = place(across, up)
        marked = point if name == COMPONENT else marked
        drawn.append(f'<circle class="dot" cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="3"/>')
    drawn.append(f'<circle class="mark" cx="{marked[0]:.1f}" cy="{marked[1]:.1f}" r="5"/>')
    named: list[tuple[float, float]] = []
    for cluster in known.clusters.to_dict("records"):
        point = place(cluster["x"], cluster["y"])
        apart = all(abs(point[1] - y) > 16 or abs(point[0] - x) > 90 for x, y in named)
        if apart and len(named) < LABELS:
            named.append(point)
            anchor, aside = ("end", -13) if point[0] > x + side / 2 else ("start", 13)
            label = str(cluster["labels"][0])
            drawn.append(_text(point[0] + aside, point[1] + 4, label, "named", anchor))
    drawn.append(_text(x + side / 2, 292, "all components, by meaning", "small", "middle"))
    return drawn


def _questions() -> list[str]:
    """List what can be asked of the database."""
    x, width = STEPS[3], 226
    drawn = _head(3, "4  Ask", "In Python, on the command line", "or in the browser.")
    asked = (
        ("Search", "by text or by image"),
        ("Describe", "labels, map, categories"),
        ("Explain", "a prediction, a class"),
        ("Compare", "models, checkpoints"),
        ("Audit", "valid or spurious?"),
        ("Correct", "prune, retrain, measure"),
    )
    for place, (name, example) in enumerate(asked):
        top = 78 + 33 * place
        drawn.append(f'<rect class="box" x="{x}" y="{top}" width="{width}" height="28" rx="6"/>')
        drawn.append(_text(x + 10, top + 19, name))
        drawn.append(_text(x + 80, top + 19, example, "small"))
    drawn.append(_text(x + width / 2, 292, "the concept database", "small", "middle"))
    return drawn


def _arrow(x: float, y: float) -> str:
    return (
        f'<path class="line" d="M{x} {y}h16"/>'
        f'<path class="head" d="M{x + 15} {y - 6}l10 6l-10 6z"/>'
    )


def _picture(image: Image.Image, left: float, top: float, size: int) -> str:
    small = image.convert("RGB").resize((2 * size, 2 * size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    place = f'x="{left}" y="{top}" width="{size}" height="{size}"'
    return f'<image {place} href="data:image/webp;base64,{data}"/>'


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
    )


if __name__ == "__main__":
    main()
