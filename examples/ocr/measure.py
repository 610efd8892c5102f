"""What two networks of a deployed text reader rely on, measured without a hub.

    pip install '.[onnx]' && pip install --no-deps rapidocr-onnxruntime
    python examples/ocr/measure.py ocr --json figures.json

``ocr`` is a new folder for the pictures, the models and their databases.
"""

from __future__ import annotations

import argparse
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pictures
import torch
from PIL import Image

import semlens as sl
from semlens.draw.example_picture import example_picture
from semlens.models.forward import compare_ablated, run_output, run_scores

DETECTOR, PYRAMID = "ch_PP-OCRv4_det_infer.onnx", "p2o_Add_270"
CLASSIFIER, BOTTLENECK = "ch_ppocr_mobile_v2.0_cls_infer.onnx", "BatchNormalization_27"
SHOWN = ("word", "squares")
"""What is explained of what the detector finds."""
LARGEST, RANDOM = 4, 50
"""Most components that are removed at once, and how many random sets they are compared with."""
FOUND = 0.3
"""Probability from which the detector counts a pixel as text, as in its configuration."""


def main() -> None:
    """Build both databases, measure, and print or save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="Where to save the picture of the gallery.")
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    models = copied_models(given.folder)
    shown: list[Image.Image] = []
    figures = {
        "detector": detector(given.folder, models[0], shown),
        "orientation": orientation(given.folder, models[1], shown),
    }
    print(json.dumps(figures, indent=2))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))
    if given.picture:
        picture_of(shown).save(given.picture, quality=88)


def copied_models(folder: Path) -> list[sl.SubjectModel]:
    """Copy the models of the package, with the preprocessing that its configuration says.

    The detector ends in a sigmoid. The copy ends before it, so that relevance starts at logits.
    """
    spec = find_spec("rapidocr_onnxruntime")
    if spec is None or spec.origin is None:
        raise SystemExit("Run: pip install --no-deps rapidocr-onnxruntime")
    source = Path(spec.origin).parent / "models"
    graph = onnx.load(source / DETECTOR).graph
    end = [node for node in graph.node if node.op_type == "Sigmoid"][-1].input[0]
    onnx.utils.extract_model(source / DETECTOR, folder / "detector.onnx", ["x"], [end])
    shutil.copy(source / CLASSIFIER, folder / "orientation.onnx")
    common = {"crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "squash"}
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    settings = {
        "detector": common | half | {"input_size": [3, 192, 192], "classes": ["text"]},
        "orientation": common | half | {"input_size": [3, 48, 192], "classes": ["0", "180"]},
    }
    for name, values in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return [sl.load_model(f"onnx/{folder.resolve()}/{name}.onnx") for name in settings]


def detector(folder: Path, model: sl.SubjectModel, shown: list[Image.Image]) -> dict[str, Any]:
    """Return what the detector finds, and which components of a pyramid level it relies on."""
    pictures.scenes(folder / "scenes")
    db = sl.build(
        folder / "detector.semlens", model, folder / "scenes", sl.load_embedder("semlens/demo"),
        [PYRAMID], examples=6, readout="max",
    )  # fmt: skip
    left, top, right, bottom = pictures.SPOT
    target, white = f"region:text@{left},{top},{right},{bottom}", pictures.papers()[0]
    drawn = {kind: pictures.pattern(kind, white) for kind in pictures.PATTERNS}
    inputs = model.batch([model.prepare(picture) for picture in drawn.values()])

    def found(maps: torch.Tensor) -> list[int]:
        return (maps.sigmoid() > FOUND).sum((1, 2, 3)).tolist()

    with torch.inference_mode():
        before = dict(zip(drawn, found(run_output(model, inputs).result), strict=True))
    relied = {kind: db.explain(drawn[kind], target, top=6, concepts=None) for kind in SHOWN}
    own = [item.component.index for item in relied["word"].layers[PYRAMID] if item.share > 0]
    own = list(dict.fromkeys(own))[:LARGEST]
    others = [channel for channel in range(db.layer(PYRAMID).channels) if channel not in own]
    pair = torch.stack([inputs[list(drawn).index(kind)] for kind in SHOWN])

    def areas_without(channels: list[int]) -> list[int]:
        components = [sl.Component(PYRAMID, channel) for channel in channels]
        with torch.inference_mode(), sl.pruned(model, components):
            return found(run_output(model, pair).result)

    draw, removed = np.random.default_rng(0), []
    for count in range(1, LARGEST + 1):
        random = [
            areas_without(draw.choice(others, count, replace=False).tolist()) for _ in range(RANDOM)
        ]
        removed.append(
            {
                "components": [f"{PYRAMID}:{channel}" for channel in own[:count]],
                "left": dict(zip(SHOWN, areas_without(own[:count]), strict=True)),
                "random_median": dict(zip(SHOWN, np.median(random, 0).tolist(), strict=True)),
                "random_least": dict(zip(SHOWN, np.min(random, 0).tolist(), strict=True)),
            }
        )
    shown += [_mapped(model, picture).crop((24, 66, 152, 118)) for picture in drawn.values()]
    return {
        "pixels_found": before,
        "relies_on": {
            kind: [
                {"component": str(item.component), "share": round(item.share, 3)}
                for item in explained.layers[PYRAMID]
            ]
            for kind, explained in relied.items()
        },
        "pixels_left_without": removed,
    }


def _mapped(model: sl.SubjectModel, picture: Image.Image) -> Image.Image:
    """Return a picture in which what counts as text is red."""
    with torch.inference_mode():
        maps = run_output(model, model.batch([model.prepare(picture)])).result[0, 0].sigmoid()
    pixels = np.asarray(picture).copy()
    pixels[maps.numpy() > FOUND] = pixels[maps.numpy() > FOUND] // 2 + np.uint8([110, 20, 20])
    return Image.fromarray(pixels)


def orientation(folder: Path, model: sl.SubjectModel, shown: list[Image.Image]) -> dict[str, Any]:
    """Return which lines are read upside down, and the component that this depends on."""
    pictures.lines(folder / "lines")
    db = sl.build(
        folder / "orientation.semlens", model, folder / "lines",
        sl.load_embedder(f"self:{BOTTLENECK}", model=model), [BOTTLENECK], examples=6,
        readout="max",
    )  # fmt: skip

    def batch(images: list[Image.Image]) -> torch.Tensor:
        return model.batch([model.prepare(image) for image in images])

    def margin(scores: torch.Tensor) -> torch.Tensor:
        return scores[:, 1] - scores[:, 0]  # positive: upside down

    rails = [pictures.line("T" * 7, name) for name in pictures.FACES[:5]]
    words = [db.images.read(sample) for sample in range(len(db.images))]
    truth = torch.tensor([name == "180" for name in db.samples["target"]])
    given, all_words = batch(rails), batch(words)
    with torch.inference_mode():
        before = margin(run_scores(model, given))
        turned = margin(run_scores(model, batch([rail.rotate(180) for rail in rails])))
        accuracy = ((margin(run_scores(model, all_words)) > 0) == truth).double().mean()
    drops = []
    for channel in range(db.layer(BOTTLENECK).channels):
        after = compare_ablated(model, given, [sl.Component(BOTTLENECK, channel)])[1]
        drops.append(float((before - margin(after)).mean()))
    explained = db.explain(rails[0], "180", top=4, concepts=None)
    channel = explained.layers[BOTTLENECK][0].component.index
    kept = compare_ablated(model, all_words, [sl.Component(BOTTLENECK, channel)])[1]
    shown += [rails[0], rails[0].rotate(180)]
    for item in explained.layers[BOTTLENECK][:2]:
        examples = db.examples_of(db.row(item.component))
        shown += [example_picture(db, example, 128) for example in examples]
    return {
        "accuracy_on_words": round(float(accuracy), 3),
        "rails_of_T": {
            "called_upside_down": int((before > 0).sum()),
            "turned_called_upright": int((turned < 0).sum()),
            "of": len(rails),
            "mean_margin": round(float(before.mean()), 2),
        },
        "relies_on": [
            {"component": str(item.component), "share": round(item.share, 3)}
            for item in explained.layers[BOTTLENECK]
        ],
        "margin_lost_without": {
            "channel": channel,
            "loses": round(drops[channel], 2),
            "rank": 1 + sum(drop > drops[channel] for drop in drops),
            "median_of_all": round(float(np.median(drops)), 2),
            "channels": len(drops),
        },
        "accuracy_without_it": round(float(((margin(kept) > 0) == truth).double().mean()), 3),
    }


def picture_of(shown: list[Image.Image]) -> Image.Image:
    """Return the patterns, the line of T's both ways, and examples of two components."""
    patterns, rails, examples = shown[:7], shown[7:9], shown[9:]
    width = 7 * 136
    canvas = Image.new("RGB", (width, 60 + 132 + 84), "white")
    for place, picture in enumerate(patterns):
        canvas.paste(picture, (place * 136 + 4, 4))
    for place, picture in enumerate(rails):
        canvas.paste(picture.resize((460, 115)), (place * 480 + 4, 66))
    for place, picture in enumerate(examples):
        canvas.paste(picture.resize((76, 76)), (place * 78 + 4 + 8 * (place // 6), 194))
    return canvas


if __name__ == "__main__":
    torch.set_num_threads(max(torch.get_num_threads() // 2, 1))
    main()
