"""Draw the picture of the example from its folder and figures.json.

    python examples/carton/figure.py carton figures.json docs/images/carton.webp

Only photographs are shown whose licences permit it (CC BY 4.0 and CC0): those of lomiri-wallpapers
in ``SHOWN``, without a stamp.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from marks import SIDE
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "efficientnet"))
from fetch_photographs import DATABASE  # noqa: E402
from marks import font_file  # noqa: E402
from measure import CARTON  # noqa: E402
from model import make  # noqa: E402

from semlens.draw.figure import SERIES, SOFT, styled  # noqa: E402

SHOWN = ("aitzgorri", "friends", "life", "picosdeeuropa", "picture_0b", "picture_1a", "seeding",
         "sunset", "wine")  # fmt: skip
"""By Aitzol Berasategi, Trevor Freespace, Jakub Mede (CC BY 4.0) and Clemens Engelhardt (CC0)."""
COLUMNS = 5
BARS = {
    "chinese": "Chinese",
    "other-chinese": "other Chinese",
    "shuffled": "its tiles, shuffled",
    "kana-lines": "kana",
    "strokes": "random strokes",
    "latin-lines": "Latin",
}
GREY = "#c3ccd8"


class Network:
    """The network, with the map of ``bn2``."""

    def __init__(self) -> None:
        self.module, self.preprocess, self.classes = make()
        self.module.get_submodule("bn2").register_forward_hook(self._keep)
        self._map = torch.empty(0)

    def _keep(self, _module: object, _inputs: object, output: torch.Tensor) -> None:
        self._map = output

    def __call__(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        """Return logits [1000] and the map [1280, 7, 7]."""
        with torch.inference_mode():
            logits = self.module(self.preprocess(image)[None])[0]
        return logits.numpy(), self._map[0].numpy()


def seen(path: Path) -> Image.Image:
    """Return the part of a photograph that the network sees."""
    edge = (SIDE - 224) // 2
    return Image.open(path).convert("RGB").crop((edge, edge, SIDE - edge, SIDE - edge))


def darken(image: Image.Image, response: np.ndarray) -> Image.Image:
    """Darken where a channel responds with less than half of its maximum."""
    weak = Image.fromarray(response).resize(image.size, Image.Resampling.BICUBIC)
    light = np.clip(np.asarray(weak) / max(response.max(), 1e-9) * 2, 0.25, 1)
    return Image.fromarray((np.asarray(image) * light[..., None]).astype(np.uint8))


def typical(folder: Path, network: Network) -> list[tuple[Image.Image, float, int]]:
    """Return the photograph with the median rise of carton, plain and marked; logit and place."""
    pairs: list[list[tuple[Image.Image, float, int]]] = []
    for name in (f"{side}--on-lomiri-{name}.png" for side in ("left", "right") for name in SHOWN):
        paths = [folder / "measure" / version / name for version in ("plain", "chinese")]
        if paths[0].exists():
            answers = [network(Image.open(path).convert("RGB"))[0] for path in paths]
            places = [int((logits > logits[CARTON]).sum()) + 1 for logits in answers]
            values = [float(logits[CARTON]) for logits in answers]
            pairs.append(list(zip(map(seen, paths), values, places, strict=True)))
    return sorted(pairs, key=lambda pair: pair[1][1] - pair[0][1])[len(pairs) // 2]


def strongest(folder: Path, network: Network, channels: list[int]) -> dict[int, list[Image.Image]]:
    """Return the photographs on which each channel is strongest, darkened where it is silent."""
    names = [f"{side}--on-lomiri-{name}.png" for side in ("left", "right") for name in SHOWN]
    paths = [folder / "find" / version / name for version in DATABASE for name in names]
    paths = [path for path in paths if path.exists()]  # the other half holds the others
    maps = [network(Image.open(path).convert("RGB"))[1] for path in paths]
    pictures: dict[int, list[Image.Image]] = {}
    for channel in channels:
        level = np.array([one[channel].mean() for one in maps])
        first = (-level).argsort(kind="stable")[:COLUMNS]
        pictures[channel] = [darken(seen(paths[i]), maps[i][channel]) for i in first]
    return pictures


def bars(axes: Axes, figures: dict[str, Any]) -> None:
    """Draw the rise of carton by mark: original, pruned, and pruned at random."""
    count = len(figures["contrast"])
    kinds = {
        "original": [figures["effects"][mark]["rise"] for mark in BARS],
        f"{count} random channels pruned": [[figures["random_rises"][m]] * 3 for m in BARS],
        f"the {count} channels pruned": [figures["effects_pruned"][m]["rise"] for m in BARS],
    }
    at = np.arange(len(BARS))
    for number, (kind, values) in enumerate(kinds.items()):
        middle, low, high = np.array(values).T
        axes.barh(at + 0.26 * (number - 1), middle, 0.25, label=kind,
                  color=(SERIES[1], GREY, SERIES[0])[number])  # fmt: skip
        if number != 1:
            axes.errorbar(middle, at + 0.26 * (number - 1), xerr=[middle - low, high - middle],
                          fmt="none", ecolor=SOFT, elinewidth=0.8)  # fmt: skip
    axes.set_yticks(at, list(BARS.values()))
    axes.invert_yaxis()
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.set_xlabel("rise of the carton logit (95 % interval)")
    axes.legend(loc="lower right")
    axes.grid(axis="x")


@styled
def draw(folder: Path, figures: dict[str, Any]) -> Figure:
    """Draw photograph, channels and bars."""
    font_manager.fontManager.addfont(str(font_file()))
    network = Network()
    figure = Figure(figsize=(12.6, 4.1))
    left, middle, right = figure.subfigures(1, 3, width_ratios=(2.1, 5.4, 4.9))
    for axes, (image, logit, place) in zip(left.subplots(2, 1), typical(folder, network),
                                           strict=True):  # fmt: skip
        axes.imshow(image)
        axes.set_axis_off()
        axes.set_title(f"carton: {logit:.1f}, place {place}", fontsize=9)
    left.suptitle("Plain, and marked")
    names = [row["component"] for row in figures["contrast"][:3]]
    channels = [int(name.split(":")[1]) for name in names]
    rows = strongest(folder, network, channels)
    grid = middle.subplots(len(channels), COLUMNS)
    for axes_row, (channel, pictures), row in zip(
        grid, rows.items(), figures["contrast"], strict=False
    ):
        for axes, picture in zip(axes_row, pictures, strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
        held = figures["held_out"]["chinese"][row["component"]]
        axes_row[0].set_title(
            f"bn2:{channel}, AUROC {held:.2f} on held-out photographs", fontsize=9
        )
    middle.suptitle("What the channels react to")
    left.subplots_adjust(left=0.05, right=0.95, top=0.84, bottom=0.02, hspace=0.16)
    middle.subplots_adjust(left=0.02, right=0.98, top=0.84, bottom=0.02, wspace=0.03, hspace=0.22)
    axes = right.add_axes((0.26, 0.13, 0.71, 0.75))
    bars(axes, figures)
    right.suptitle("How much carton rises")
    return figure


def main() -> None:
    """Write the picture."""
    folder, json_file, out = map(Path, sys.argv[1:])
    figure = draw(folder.resolve(), json.loads(json_file.read_text("utf-8")))
    figure.canvas.draw()
    png = out.with_suffix(".png")
    figure.savefig(png, dpi=130)
    Image.open(png).convert("RGB").save(out, quality=88, method=6)
    if png != out:
        png.unlink()


if __name__ == "__main__":
    main()
