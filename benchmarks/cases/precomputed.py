"""What vectors of a file save: the same build with and without the image tower of the embedder.

    python -m benchmarks precomputed               # two minutes

Some images of the demo are embedded once and written to a file, as a team would have it. Examples
are whole images. CPU seconds are of the last stage, which crops and embeds, with and without
thumbnails, for which the images of examples are decoded in any case.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import semlens as sl
from benchmarks.harness import StageClock, benchmark, log
from semlens.data.images import Images
from semlens.demo import walkthrough
from semlens.demo.bundled_images import DemoWorld

IMAGES, QUICK_IMAGES = 600, 48


class FirstImages(Images):
    """The first images of a source, still encoded."""

    def __init__(self, source: Images, count: int) -> None:
        self._source = source
        self.spec = source.spec
        self.ids = list(source.ids)[:count]

    def content(self, sample: int) -> bytes | Image.Image:
        """Return the content of an image."""
        return self._source.content(sample)


def write_vectors(images: Images, embedder: sl.Embedder, path: Path) -> None:
    """Embed all images whole, and write the file."""
    blocks: list[np.ndarray] = []
    for start in range(0, len(images), 64):
        some = [images.read(i) for i in range(start, min(start + 64, len(images)))]
        blocks.append(embedder.embed_images(some).numpy())
    vectors = pa.array(np.concatenate(blocks).tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"image": list(images.ids), "vector": vectors}), path)


def build(folder: Path, images: Images, spec: str, *, thumbnails: bool) -> dict[str, Any]:
    """Build a database; return it with the CPU seconds of its stages."""
    clock = StageClock()
    db = sl.build(
        folder, "semlens/demo", images, spec, walkthrough.LAYERS, crop="none",
        thumbnails=thumbnails, progress=clock,
    )  # fmt: skip
    spent = clock.read()
    stage = sum(spent.get(f"{step}/cpu_seconds", 0.0) for step in ("crop", "embed"))
    log(f"{folder.name}: {stage:.1f} s")
    return {"theta": db.theta, "vectors": len(db.crop_vectors), "seconds": stage}


@benchmark(
    minutes=2,
    quoted=("docs/embedders.md",),
    options={"--embedder": {"default": "semlens/photo", "help": "SPEC of the embedder"}},
)
def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build with and without the file."""
    DemoWorld().unpack(folder / "images")
    source = sl.load_images(str(folder / "images"))
    count = QUICK_IMAGES if options.quick else IMAGES
    images = FirstImages(source, count)
    file, spec = folder / "vectors.parquet", options.embedder
    write_vectors(images, sl.load_embedder(spec), file)
    cases: list[dict[str, Any]] = []
    for thumbnails in (True, False):
        kind = "thumbnails" if thumbnails else "plain"
        plain = build(folder / f"{kind}.semlens", images, spec, thumbnails=thumbnails)
        given = build(
            folder / f"{kind}-file.semlens", images, f"vectors/{file}:{spec}", thumbnails=thumbnails
        )
        difference = float(np.abs(plain["theta"] - given["theta"]).max())
        cases.append(
            {
                "thumbnails": thumbnails,
                "embedded": plain["seconds"],
                "from the file": given["seconds"],
                "vectors": plain["vectors"],
                "largest difference": difference,
            }
        )
    return {"embedder": spec, "images": len(images), "cases": cases}
