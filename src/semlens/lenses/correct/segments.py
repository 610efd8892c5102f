"""Soft cut-outs of an artefact from the images that carry it, to insert it into others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float32
from PIL import Image
from rich.console import Group
from rich.text import Text

from semlens.data.artefact_rendering import SUFFIXES, blend
from semlens.data.images import Images
from semlens.data.pieces import Pieces
from semlens.draw.heatmap_mask import overlay, project_heatmap
from semlens.draw.text_table import rich_table
from semlens.errors import RelevanceError, StoreError
from semlens.figures import FigureSpec, PictureRow, Pictures
from semlens.lens import lens
from semlens.lenses.arguments import Components
from semlens.lenses.correct.cav import (
    ConceptActivationVector,
    cav_heatmap,
    concept_vector,
    soft_masks,
)
from semlens.lenses.result import Result
from semlens.models.preprocess_geometry import Geometry
from semlens.progress import report_progress
from semlens.regular_files import user_path
from semlens.relevance.conditional_heatmaps import pairs_per_pass
from semlens.relevance.make_engine import engine_for
from semlens.relevance.protocols import RelevanceEngine
from semlens.settings import setting
from semlens.store.atomic_files import save_text, write_atomic
from semlens.store.reader import Database
from semlens.types import Box, Component

SHOWN = 6
"""Number of cut-outs in the plot."""
PIECE_SIZE = 512
"""Largest side of a cut-out that is held in memory, in pixels."""
SOURCES = "sources.json"
"""File that describes the cut-outs of a folder."""


@dataclass(frozen=True, eq=False, repr=False)
class Segment:
    """One cut-out: a soft mask of the artefact in one image.

    Parameters
    ----------
    sample, path, target
        Number, id and class of the image.
    score
        Dot product of the image's readouts and the concept vector.
    heat
        float32[h w], relevance of the concept vector by input pixel.
    soft
        float32[h w], the mask in input pixels, from 0 to 1.
    geometry
        Maps input pixels to original pixels.
    """

    sample: int
    path: str
    target: str | None
    score: float
    heat: Float32[np.ndarray, "h w"]
    soft: Float32[np.ndarray, "h w"]
    geometry: Geometry

    @cached_property
    def mask(self) -> Float32[np.ndarray, "height width"]:
        """M of the paper's Eq. 4, in original pixels; zero outside the model's input."""
        return np.clip(self.in_original(self.soft), 0, 1)

    def in_original(
        self, values: Float32[np.ndarray, "h w"]
    ) -> Float32[np.ndarray, "height width"]:
        """Resample values from input pixels to original pixels."""
        size = self.geometry.width, self.geometry.height
        return project_heatmap(values, self.geometry, Box(0, 0, *size), size)


@dataclass(frozen=True, eq=False, repr=False)
class Segments(Result):
    """Cut-outs of one artefact, highest score first.

    Parameters
    ----------
    components
        Components that respond to the artefact.
    vector
        The concept activation vector that was localised.
    rules
        Name of the relevance rules.
    images
        The images of the cut-outs.
    clean
        Samples without the artefact, for the plot.
    """

    components: tuple[Component, ...]
    vector: ConceptActivationVector
    rules: str
    cutouts: tuple[Segment, ...]
    images: Images
    clean: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of cut-outs."""
        return len(self.cutouts)

    def picture(self, index: int) -> Image.Image:
        """Return a cut-out as an RGBA image, with the mask as alpha channel."""
        segment = self.cutouts[index]
        return rgba(self.images.read(segment.sample), segment.mask)

    def inserted(self, index: int, image: Image.Image) -> Image.Image:
        """Return an image with a cut-out inserted at its original position (F.2.3, Eq. 4)."""
        segment = self.cutouts[index]
        source = self.images.read(segment.sample).resize(image.size, Image.Resampling.BILINEAR)
        mask = Image.fromarray(segment.mask).resize(image.size, Image.Resampling.BILINEAR)
        return blend(image, source, np.asarray(mask, np.float32))

    def artefact(self) -> Pieces:
        """Return the cut-outs as an artefact to insert into other images."""
        pieces = [self.picture(number) for number in range(len(self))]
        for piece in pieces:
            piece.thumbnail((PIECE_SIZE, PIECE_SIZE))
        return Pieces(", ".join(map(str, self.components)), tuple(pieces))

    def write(self, folder: str | Path) -> list[Path]:
        """Write each cut-out as an RGBA PNG, and ``sources.json``, into an empty folder.

        Raises
        ------
        StoreError
            If the folder contains images, or cannot be written to.
        """
        folder = check_folder(folder)
        paths = [folder / f"{number:03d}.png" for number in range(len(self))]
        for number, path in enumerate(paths):
            picture = self.picture(number)
            write_atomic(path, lambda target, picture=picture: picture.save(target, "PNG"))
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=2) + "\n"
        save_text(folder / SOURCES, text)
        return paths

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per cut-out; ``area`` is the mean of the mask."""
        return pd.DataFrame(
            [
                (f"{i:03d}.png", c.sample, c.path, c.target, c.score, float(c.mask.mean()))
                for i, c in enumerate(self.cutouts)
            ],
            columns=["file", "sample", "path", "target", "score", "area"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for JSON; masks are left out."""
        return {
            "components": [str(component) for component in self.components],
            "layer": self.vector.layer,
            "rules": self.rules,
            "separation": self.vector.separation,
            "positives": len(self.vector.positives),
            "negatives": len(self.vector.negatives),
            "data": self.images.spec,
            "cutouts": self.to_pandas().to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return each image, its heatmap and mask, and the artefact inserted into a clean image."""
        clean = cycle([self.images.read(sample) for sample in self.clean])
        rows: dict[str, list[Image.Image]] = {}
        for number, (cutout, image) in enumerate(zip(self.cutouts[:SHOWN], clean, strict=False)):
            source = self.images.read(cutout.sample).convert("RGB")
            mask = Image.fromarray(np.rint(255 * cutout.mask).astype(np.uint8))
            pictures = {
                "image": source,
                "relevance": overlay(source, cutout.in_original(cutout.heat)),
                "mask": mask.convert("RGB"),
                "cut-out": Image.composite(source, Image.new("RGB", source.size, "white"), mask),
                "clean image": image,
                "inserted": self.inserted(number, image),
            }
            for name, picture in pictures.items():
                rows.setdefault(name, []).append(picture)
        panel = Pictures("", [PictureRow(pictures, name) for name, pictures in rows.items()])
        return FigureSpec(self._title, [panel])

    @property
    def _title(self) -> str:
        return f"Cut-outs of what {', '.join(map(str, self.components))} respond to"

    def __rich__(self) -> Group:
        """Return the cut-outs as a table, and the quality of the concept vector."""
        vector = self.vector
        return Group(
            rich_table(self.to_pandas().drop(columns="sample"), self._title),
            Text(
                f"Concept vector of {vector.layer}: cross-validated AUROC {vector.separation:.3f} "
                f"({len(vector.positives)} positives, {len(vector.negatives)} negatives)."
            ),
        )


def rgba(image: Image.Image, mask: Float32[np.ndarray, "height width"]) -> Image.Image:
    """Return an image with a mask as alpha channel."""
    alpha = np.rint(255 * mask[:, :, None]).astype(np.uint8)
    # black outside the mask, for smaller files
    colours = np.asarray(image) * (alpha > 0)
    return Image.fromarray(np.concatenate([colours, alpha], axis=2))


@lens("model", "images", group="Correct", command="", local=True)
def cut_out(
    database: Database,
    components: Components,
    *,
    layer: Annotated[
        str | None, setting("Layer of the concept vector [deepest layer of the components].")
    ] = None,
    count: Annotated[int, setting("Maximum number of cut-outs.", ge=1)] = 20,
    positives: Sequence[int] | None = None,
    negatives: Sequence[int] | None = None,
    rules: Annotated[
        str | None, setting("Relevance rules: a preset, gradient or auto [the database's].")
    ] = None,
    seed: Annotated[int, setting("Seed for drawing samples without the artefact.", ge=0)] = 0,
) -> Segments:
    """Localise an artefact in images that show it, and cut it out with a soft mask.

    Parameters
    ----------
    components
        Components that respond to the artefact, such as the hits of a search for it.
    count
        Maximum number of cut-outs; the samples with the highest scores are used.
    positives, negatives, seed
        See :func:`semlens.lenses.correct.cav.concept_vector`.

    Raises
    ------
    LayerError
        If no component is given, or one is not in the database.
    DataError
        If there are too few samples.
    RelevanceError
        If no image has positive relevance for the concept vector.
    """
    layer_names = (
        list(dict.fromkeys(component.layer for component in components))
        if layer is None
        else [database.layer(layer).name]
    )
    model, recipe = database.model, database.manifest.recipe
    readable = int(np.flatnonzero(database.samples["error"].isna())[0])
    size = model.prepare(database.images.read(readable)).shape[-2:]
    engine = engine_for(model, layer_names, rules or recipe.rules, size)
    vector = concept_vector(
        database, components, engine.sort_layers(layer_names)[-1],
        positives=positives, negatives=negatives, seed=seed,
    )  # fmt: skip
    strongest = np.argsort(-vector.score, kind="stable")[:count].tolist()
    segments = tuple(_localised(database, engine, vector, strongest))
    if not segments:
        raise RelevanceError(
            f"No image has positive relevance for the concept vector of '{vector.layer}'.",
            "Expected samples that show what the components respond to.",
            "Choose other components, or another layer.",
        )
    clean = vector.negatives[::-1][:SHOWN]  # the last ones belong to other classes
    return Segments(
        tuple(components),
        vector,
        engine.rules.name,
        segments,
        database.images,
        tuple(clean.tolist()),
    )


def _localised(
    database: Database,
    engine: RelevanceEngine,
    vector: ConceptActivationVector,
    indices: Sequence[int],
) -> Iterator[Segment]:
    """Yield cut-outs of some positives, except those without positive relevance.

    Parameters
    ----------
    indices
        Indices into ``vector.positives``.
    """
    model, images, table = database.model, database.images, database.samples
    geometry, readout = model.geometry(), database.manifest.recipe.readout
    step = min(pairs_per_pass(engine, vector.layer), 32)
    for start in range(0, len(indices), step):
        chunk = indices[start : start + step]
        samples = [int(vector.positives[index]) for index in chunk]
        pictures = [images.read(sample) for sample in samples]
        inputs = model.batch([model.prepare(picture) for picture in pictures])
        heat = cav_heatmap(engine, inputs, vector, readout)
        soft = soft_masks(heat)
        for row, (index, sample) in enumerate(zip(chunk, samples, strict=True)):
            if float(soft[row].max()) > 0:
                path, target = table.iloc[sample][["path", "target"]]
                yield Segment(
                    sample,
                    path,
                    target if isinstance(target, str) else None,
                    float(vector.score[index]),
                    heat[row].numpy(),
                    soft[row].numpy(),
                    geometry(*pictures[row].size),
                )
        report_progress("cutting out", start + len(chunk), len(indices))


def check_folder(folder: str | Path) -> Path:
    """Check that cut-outs can be written to a folder, before long work begins.

    Raises
    ------
    StoreError
        If the folder contains images, which would mix with the new ones, or is a file.
    """
    folder = user_path(folder)
    has_pictures = folder.is_dir() and any(p.suffix.lower() in SUFFIXES for p in folder.iterdir())
    if has_pictures or folder.is_file():
        raise StoreError(
            f"'{folder}' {'already contains images' if has_pictures else 'is a file'}.",
            "Expected an empty or new folder for the cut-outs.",
            "Choose another folder.",
        )
    return folder
