"""Cut an artefact out of the images that carry it, to put it into others."""

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

from semlens.analysis.correct.cav import (
    ConceptActivationVector,
    cav_heatmap,
    concept_vector,
    soft_masks,
)
from semlens.analysis.correct.component_files import chosen_components
from semlens.analysis.result import Chart, Result
from semlens.data.artefact_rendering import SUFFIXES, blend
from semlens.data.images import Images
from semlens.draw.heatmap_mask import onto
from semlens.draw.text_table import rich_table
from semlens.errors import RelevanceError, StoreError
from semlens.models.geometry import Geometry
from semlens.progress import report
from semlens.relevance.conditional_heatmaps import pairs_per_pass
from semlens.relevance.make_engine import engine_for
from semlens.relevance.protocols import RelevanceEngine
from semlens.settings import question, setting
from semlens.store.atomic_files import save_text, write_atomic
from semlens.store.reader import Database
from semlens.types import Box, Component, Components

SHOWN = 6
"""Cut-outs in the picture."""
SOURCES = "sources.json"
"""Says where the cut-outs of a folder come from."""


@dataclass(frozen=True, eq=False, repr=False)
class Segment:
    """One artefact and where it lies.

    Parameters
    ----------
    sample, path, target
        The image: its number, id and class.
    score
        Dot product of its readouts and the concept vector.
    heat
        float32[h w], relevance of the vector by input pixel.
    soft
        float32[h w], the mask in input pixels, from 0 to 1.
    geometry
        From input pixels to original ones.
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
        """M of the paper's Eq. 4, in original pixels; zero where the model does not look."""
        return np.clip(self.original(self.soft), 0, 1)

    def original(self, values: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "height width"]:
        """Return values by input pixel in original pixels."""
        size = self.geometry.width, self.geometry.height
        return onto(values, self.geometry, Box(0, 0, *size), size)


@dataclass(frozen=True, eq=False, repr=False)
class Segments(Result):
    """Cut-outs of one artefact, the clearest first.

    Parameters
    ----------
    components
        Those that the artefact is known by.
    vector
        The direction by which it was found.
    rules
        Name of the relevance rules.
    images
        What they are cut out of.
    clean
        Samples that do not show the artefact, for the picture.
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

    def picture(self, number: int) -> Image.Image:
        """Return a cut-out as RGBA: the image, its mask as alpha."""
        cutout = self.cutouts[number]
        alpha = np.rint(255 * cutout.mask[:, :, None]).astype(np.uint8)
        # colours under no mask would only make the file larger
        colours = np.asarray(self.images.read(cutout.sample)) * (alpha > 0)
        return Image.fromarray(np.concatenate([colours, alpha], axis=2))

    def inserted(self, number: int, image: Image.Image) -> Image.Image:
        """Return an image with a cut-out at its place (paper, F.2.3, Eq. 4)."""
        cutout = self.cutouts[number]
        source = self.images.read(cutout.sample).resize(image.size, Image.Resampling.BILINEAR)
        mask = Image.fromarray(cutout.mask).resize(image.size, Image.Resampling.BILINEAR)
        return blend(image, source, np.asarray(mask, np.float32))

    def write(self, folder: str | Path) -> list[Path]:
        """Write each cut-out as an RGBA PNG, and ``sources.json``, into an empty folder.

        Raises
        ------
        StoreError
            If the folder holds pictures already, or cannot be written to.
        """
        folder = check_folder(folder)
        paths = [folder / f"{number:03d}.png" for number in range(len(self))]
        for number, path in enumerate(paths):
            picture = self.picture(number)
            write_atomic(path, lambda part, made=picture: made.save(part, "PNG"))
        text = json.dumps(self.to_json(), ensure_ascii=False, indent=2) + "\n"
        save_text(folder / SOURCES, text)
        return paths

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per cut-out; area is the mask's mean."""
        return pd.DataFrame(
            [
                (f"{i:03d}.png", c.sample, c.path, c.target, c.score, float(c.mask.mean()))
                for i, c in enumerate(self.cutouts)
            ],
            columns=["file", "sample", "path", "target", "score", "area"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program; masks are left out."""
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

    def plot(self) -> Chart:
        """Draw the image, the heatmap, the mask, and the artefact in a clean image."""
        from semlens.draw.correct_plots import SegmentColumn, cutout_figure

        clean = cycle([self.images.read(sample) for sample in self.clean])
        columns = [
            SegmentColumn(
                cutout.path,
                self.images.read(cutout.sample),
                cutout.original(cutout.heat),
                cutout.mask,
                image,
                self.inserted(number, image),
            )
            for number, (cutout, image) in enumerate(zip(self.cutouts[:SHOWN], clean, strict=False))
        ]
        return cutout_figure(columns, self._title)

    @property
    def _title(self) -> str:
        return f"What {', '.join(map(str, self.components))} react to, cut out"

    def __rich__(self) -> Group:
        """Return what a terminal shows."""
        vector = self.vector
        return Group(
            rich_table(self.to_pandas().drop(columns="sample"), self._title),
            Text(
                f"Concept vector of {vector.layer}: AUROC {vector.separation:.3f} on samples left "
                f"out ({len(vector.positives)} with it, {len(vector.negatives)} without)."
            ),
        )


@question("model", "images")
def cut_out(
    database: Database,
    components: Components,
    *,
    layer: Annotated[
        str | None, setting("Layer of the concept vector [the deepest of the components].")
    ] = None,
    count: Annotated[int, setting("Cut-outs at most.", ge=1)] = 20,
    positives: Sequence[int] | None = None,
    negatives: Sequence[int] | None = None,
    rules: Annotated[
        str | None, setting("Relevance rules: a preset, gradient or auto [the database's].")
    ] = None,
    seed: Annotated[int, setting("Of the draw of samples without the artefact.", ge=0)] = 0,
) -> Segments:
    """Localise an artefact in images that show it, and cut it out by a soft mask.

    Parameters
    ----------
    components
        Those that stand for the artefact, such as the hits of a search for it.
    count
        Of cut-outs; those of the samples that score highest.
    positives, negatives, seed
        As for :func:`semlens.analysis.correct.cav.concept_vector`.

    Raises
    ------
    LayerError
        If no component is named, or the database does not have one.
    DataError
        If there are too few samples to learn from.
    RelevanceError
        If no image has relevance for the vector.
    """
    chosen = chosen_components(components, database)
    names = (
        list(dict.fromkeys(component.layer for component in chosen))
        if layer is None
        else [database.layer(layer).name]
    )
    model, recipe = database.model, database.manifest.recipe
    readable = int(np.flatnonzero(database.samples["error"].isna())[0])
    size = model.preprocess(database.images.read(readable)).shape[-2:]
    engine = engine_for(model, names, rules or recipe.rules, size)
    vector = concept_vector(
        database, chosen, engine.sort_layers(names)[-1],
        positives=positives, negatives=negatives, seed=seed,
    )  # fmt: skip
    best = np.argsort(-vector.score, kind="stable")[:count].tolist()
    found = tuple(_localised(database, engine, vector, best))
    if not found:
        raise RelevanceError(
            f"No image has positive relevance for the concept vector of '{vector.layer}'.",
            "Expected samples that show what the components react to.",
            "Choose other components, or another layer.",
        )
    clean = vector.negatives[::-1][:SHOWN]  # the last are of other classes
    return Segments(
        tuple(chosen), vector, engine.rules.name, found, database.images, tuple(clean.tolist())
    )


def _localised(
    database: Database,
    engine: RelevanceEngine,
    vector: ConceptActivationVector,
    chosen: Sequence[int],
) -> Iterator[Segment]:
    """Yield cut-outs of some of the positives; those without positive relevance are left out."""
    model, images, table = database.model, database.images, database.samples
    geometry, readout = model.geometry(), database.manifest.recipe.readout
    step = min(pairs_per_pass(engine, vector.layer), 32)
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        samples = [int(vector.positives[place]) for place in part]
        pictures = [images.read(sample) for sample in samples]
        inputs = model.batch([model.preprocess(picture) for picture in pictures])
        heat = cav_heatmap(engine, inputs, vector, readout)
        soft = soft_masks(heat)
        for row, (place, sample) in enumerate(zip(part, samples, strict=True)):
            if float(soft[row].max()) > 0:
                path, target = table.iloc[sample][["path", "target"]]
                yield Segment(
                    sample,
                    path,
                    target if isinstance(target, str) else None,
                    float(vector.score[place]),
                    heat[row].numpy(),
                    soft[row].numpy(),
                    geometry(*pictures[row].size),
                )
        report("cutting out", start + len(part), len(chosen))


def check_folder(folder: str | Path) -> Path:
    """Refuse a folder that holds pictures, before the work begins: old and new would mix.

    Raises
    ------
    StoreError
        If it does, or is a file.
    """
    folder = Path(folder).expanduser()
    held = folder.is_dir() and any(p.suffix.lower() in SUFFIXES for p in folder.iterdir())
    if held or folder.is_file():
        raise StoreError(
            f"'{folder}' {'holds pictures already' if held else 'is a file'}.",
            "Expected an empty or new folder for the cut-outs.",
            "Name another one.",
        )
    return folder
