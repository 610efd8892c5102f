"""Concept vectors as a folder that TensorBoard's embedding projector opens."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64
from PIL import Image

from semlens.draw.example_picture import example_picture
from semlens.draw.figure import save_picture
from semlens.errors import LayerError, RecipeError
from semlens.lenses.labelling.component_labels import component_names
from semlens.progress import report_progress
from semlens.regular_files import user_path
from semlens.store.atomic_files import save_text, write_atomic
from semlens.store.reader import Database
from semlens.types import Layers

SIDE = 64
"""Side of a crop in the sprite, in pixels."""
TEXTURE = 8192
"""Largest side of a sprite, in pixels: that of a texture in WebGL."""
CONFIG, VECTORS, METADATA, SPRITE = (
    "projector_config.pbtxt", "vectors.tsv", "metadata.tsv", "sprite.png",
)  # fmt: skip


@dataclass(frozen=True)
class ProjectorFolder:
    """A folder that TensorBoard opens."""

    folder: Path
    components: int
    dim: int
    labels: str | None
    """Where the labels are from: ``saved:NAME`` or a concept set; None without labels."""
    crop: int | None
    """Side of a crop in the sprite, in pixels; None without a sprite."""


def save_projector(
    database: Database, folder: str | Path, layers: Layers = None, *, crops: bool = True
) -> ProjectorFolder:
    """Write concept vectors with labels and crops for ``tensorboard --logdir FOLDER``.

    Components without examples, which have no vector, are left out. The format is that of
    TensorBoard's projector: tab-separated vectors and metadata, a sprite with one square per
    component in row-major order, and a configuration that names the three.

    Parameters
    ----------
    folder
        New or existing folder; files of an earlier call are replaced.
    layers
        Names of layers; all by default.
    crops
        Whether to write the sprite, with the strongest example of each component.

    Raises
    ------
    LayerError
        If the database lacks a layer, or no component of the layers has examples.
    RecipeError
        If there are too many components for a sprite.
    DataError, StaleError
        If the database has no thumbnails, and its images are missing or have changed.
    """
    rows = database.rows(layers)
    rows = rows[database.has_examples[rows]]
    if not len(rows):
        raise LayerError(
            f"No component of {', '.join(database.layer_names(layers))} has examples.",
            "Expected some: the others have no vector.",
            "Choose other layers.",
        )
    columns = math.ceil(math.sqrt(len(rows)))
    side = min(SIDE, TEXTURE // columns)
    if crops and side < 8:
        raise RecipeError(
            f"There are {len(rows)} components, too many to show their crops.",
            f"Expected at most {(TEXTURE // 8) ** 2}: the side of a sprite is at most {TEXTURE}.",
            "Choose fewer layers, or leave out the crops.",
        )
    folder = user_path(folder)
    names = component_names(database, layers)
    frame = _metadata(database, rows, None if names is None else names.frame)
    vectors = database.concept_vectors(rows.tolist())
    write_atomic(folder / VECTORS, lambda part: _write_vectors(part, vectors))
    save_text(folder / METADATA, frame.to_csv(sep="\t", index=False, na_rep="", quoting=3))
    if crops:
        save_picture(_sprite(database, rows, side, columns), folder / SPRITE)
    else:
        (folder / SPRITE).unlink(missing_ok=True)
    # last, since TensorBoard reads the others by it
    save_text(folder / CONFIG, _config(database.name, vectors.shape, side if crops else None))
    labels = None if names is None else names.source
    return ProjectorFolder(
        folder, len(rows), database.manifest.dim, labels, side if crops else None
    )


def _metadata(
    database: Database, rows: Int64[np.ndarray, " n"], names: pd.DataFrame | None
) -> pd.DataFrame:
    """Return what the projector shows of a component, searches and colours by."""
    components = database.components.iloc[rows]
    labels = [None] * len(rows) if names is None else names["label"].iloc[rows].tolist()
    return pd.DataFrame(
        {
            "component": _cells(database.names(rows)),
            # without a label the projector would show nothing beside the point
            "label": _cells([text or "none" for text in labels]),
            "confidence": np.nan if names is None else names["confidence"].to_numpy()[rows],
            "layer": _cells(components["layer"].tolist()),
            "firing_rate": components["firing_rate"].to_numpy(),
            "maximum": components["maximum"].to_numpy(),
        }
    )


def _cells(texts: list[str]) -> list[str]:
    """Return texts without the characters that end a cell; the format has no quotes."""
    return [" ".join(text.replace('"', "'").split()) for text in texts]


def _write_vectors(path: Path, vectors: Float32[np.ndarray, "n d"]) -> None:
    # nine digits give every float32 back
    np.savetxt(path, vectors, fmt="%.9g", delimiter="\t")


def _sprite(
    database: Database, rows: Int64[np.ndarray, " n"], side: int, columns: int
) -> Image.Image:
    sprite = Image.new("RGB", (columns * side, math.ceil(len(rows) / columns) * side), "white")
    for place, row in enumerate(rows.tolist()):
        report_progress("drawing crops", place, len(rows))
        crop = example_picture(database, database.examples_of(row, 1)[0], side)
        sprite.paste(crop, (place % columns * side, place // columns * side))
    report_progress("drawing crops", len(rows), len(rows))
    return sprite


def _config(name: str, shape: tuple[int, ...], side: int | None) -> str:
    """Return a ``ProjectorConfig`` in protobuf's text format, whose strings are as in JSON."""
    lines = [
        f"tensor_name: {json.dumps(name, ensure_ascii=False)}",
        *(f"tensor_shape: {size}" for size in shape),
        f'tensor_path: "{VECTORS}"',
        f'metadata_path: "{METADATA}"',
    ]
    if side is not None:
        dims = f"single_image_dim: {side} single_image_dim: {side}"
        lines.append(f'sprite {{ image_path: "{SPRITE}" {dims} }}')
    return "embeddings {\n" + "".join(f"  {line}\n" for line in lines) + "}\n"
