"""Quality and cost of embedders, side by side: retrieval by caption, search on the demo, speed.

    python -m benchmarks embedders --work W
    python -m benchmarks embedders --work W --embedders semlens/photo,open_clip/ViT-B-32/openai
    python -m benchmarks embedders --work W --quick --json

- **Stamps**: Tux Paint stamps, photographs and drawings with English captions (Debian, GPL-2). No
  embedder of semlens was trained on them, and no choice was made by them.
- **Held-out drawings**: emoji of several vendors, of concepts that were left out of all training.
  The choices of ``semlens/photo`` were made on them.

Text to image: a picture with the caption is among the first k of all pictures. Image to text: the
nearest caption is the picture's. Intervals are 95 % bootstrap intervals over captions.
On the demo: the best rank of a planted component (12 of 192) for words of its mark.

The pictures come from npm and Debian packages; the first run downloads and rasterises them
(300 MB, 15 minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import semlens as sl
from benchmarks.harness import ROOT, benchmark
from demo_world.captions import EVALUATION, HELD_OUT, write_captions
from demo_world.fetch import fetch
from demo_world.photo_features import captioned, photo_workspace
from demo_world.rasterise import load_pictures, rasterise
from demo_world.workspace import Workspace
from semlens.demo import walkthrough
from semlens.demo.bundled_images import DemoWorld
from semlens.embedders.embedder import Embedder

RECALL_AT = (1, 5, 10, 50)
DRAWS = 2000
"""Bootstrap samples of the captions."""
MARGIN = 0.9
"""Share of the white square that a picture fills."""
BATCH = 64


def on_white(pixels: np.ndarray) -> Image.Image:
    """Place an RGBA picture on a white square."""
    picture = Image.fromarray(pixels)
    side = round(max(picture.size) / MARGIN)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.convert("RGB")


def retrieval(embedder: Embedder, pixels: np.ndarray, captions: Sequence[str]) -> dict[str, Any]:
    """Embed pictures uint8[N h w 4] and captions; measure recall, and the cost of a picture."""
    names, concept = np.unique(captions, return_inverse=True)
    start = time.process_time()
    batches = (pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH))
    images = torch.cat([embedder.embed_images([on_white(p) for p in b]) for b in batches])
    milliseconds = 1000 * (time.process_time() - start) / len(pixels)
    texts = embedder.embed_texts(names.tolist())
    return {
        "pictures": len(pixels),
        "captions": len(names),
        **recalls((texts @ images.T).numpy(), concept),
        "cpu ms per picture": milliseconds,
    }


def recalls(similarity: np.ndarray, concept: np.ndarray) -> dict[str, Any]:
    """Return recall in both directions.

    Parameters
    ----------
    similarity
        float[Q N], of captions with pictures.
    concept
        int[N], the caption of each picture.
    """
    order = np.argsort(-similarity, axis=1, kind="stable")
    rank = (concept[order] == np.arange(len(similarity))[:, None]).argmax(1)
    drawn = np.random.default_rng(0).integers(0, len(rank), (DRAWS, len(rank)))
    figures: dict[str, Any] = {}
    for k in RECALL_AT:
        hit = rank < k
        low, high = np.quantile(hit[drawn].mean(1), (0.025, 0.975))
        figures[f"recall@{k}"] = {"value": hit.mean(), "low": low, "high": high}
    return {**figures, "image to text": (similarity.argmax(0) == concept).mean()}


EMBEDDERS = "semlens/demo,semlens/photo"
SETS = {"stamps": EVALUATION, "held-out drawings": HELD_OUT}
QUERIES = ("watermark", "watermark text", "text", "letters", "copyright", "logo")
QUICK_PICTURES = 60


def prepare(work: Workspace) -> None:
    """Download, rasterise and caption the pictures, unless that was done."""
    if not work.picture_index.exists():
        fetch(work)
        rasterise(work)
    if not work.captions.exists():
        write_captions(work)
    if not photo_workspace(work).picture_index.exists():
        rasterise(photo_workspace(work))


def pictures(work: Workspace, split: str) -> tuple[np.ndarray, list[str]]:
    """Return the pictures uint8[N 224 224 4] of a split, and the caption of each."""
    captions = json.loads(work.captions.read_text())
    pixels, _ = load_pictures(photo_workspace(work))
    entries = captioned(work, (split,))
    texts = [captions["texts"][captions["pictures"][row]["label"]] for _, _, row in entries]
    return pixels[[i for i, _, _ in entries]], texts


def on_the_demo(spec: str, folder: Path) -> dict[str, Any]:
    """Rank the planted components of the demo for words of its mark."""
    world = DemoWorld()
    path = folder / "demo.semlens"
    start = time.process_time()
    db = sl.open(path) if path.is_dir() else walkthrough.build_demo(folder, world, spec)
    seconds = time.process_time() - start
    planted = walkthrough.find_planted(db.model, world, db)
    hits = {query: db.search(query, top=db.manifest.rows) for query in QUERIES}
    return {
        "planted": len(planted.components),
        "ranks": {query: planted.rank(found) for query, found in hits.items()},
        "build, cpu seconds": seconds,
    }


_LOADING = """
import json, sys, time
start = time.process_time()
from semlens.embedders.load import load_embedder
embedder = load_embedder(sys.argv[1])
embedder.embed_texts(["dog"])
seconds = time.process_time() - start
from benchmarks.harness import peak_mib
print(json.dumps({"cpu seconds": seconds, "peak MiB": peak_mib(), "dim": embedder.dim}))
"""


def loading(spec: str) -> dict[str, float]:
    """Measure CPU time and memory to import, load and embed one text, in a new process."""
    run = [sys.executable, "-c", _LOADING, spec]
    paths = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(run, capture_output=True, check=True, text=True, env=environment)
    return json.loads(done.stdout)


@benchmark(
    minutes=20,
    quoted=("docs/embedders.md",),
    options={"--embedders": {"default": EMBEDDERS, "help": "SPECs"}},
)
def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure each embedder on each set, and on the demo."""
    work = Workspace(folder)
    prepare(work)
    result: dict[str, Any] = {}
    for spec in options.embedders.split(","):
        embedder = sl.load_embedder(spec)
        sets: dict[str, Any] = {}
        for name, split in SETS.items():
            pixels, captions = pictures(work, split)
            count = QUICK_PICTURES if options.quick else len(pixels)
            sets[name] = retrieval(embedder, pixels[:count], captions[:count])
        demo_folder = folder / f"demo-{spec.replace('/', '-')}"
        result[spec] = {
            "sets": sets,
            "demo": None if options.quick else on_the_demo(spec, demo_folder),
            "loading": loading(spec),
        }
    return {"embedders": result}
