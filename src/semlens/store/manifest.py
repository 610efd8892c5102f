"""The manifest of a database; written last, so that it only exists for complete databases."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from semlens.errors import RecipeError, StoreError
from semlens.models.activations import Form
from semlens.recipe import FORMAT, Recipe
from semlens.store.atomic_files import save_text
from semlens.store.file_names import LOCK, PARTIAL
from semlens.types import Crop

MANIFEST_NAME = "manifest.json"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Entry):
    """A model, data set or embedder: how to load it again, and its identity."""

    spec: str
    fingerprint: str


class LayerReference(_Entry):
    """The readouts of one layer on the reference samples."""

    columns: int
    """Readouts per sample: one per channel, or with the readout ``max`` one per component."""
    samples: int
    """The first samples of ``reference.safetensors``: all, or fewer in a layer that was added."""
    not_finite: list[int]
    """Those on which a readout is NaN or infinite; zeros are stored in their place."""


class LayerEntry(_Entry):
    """One layer: its rows in ``components.parquet`` are ``first`` to ``first + rows - 1``."""

    name: str
    form: Form
    channels: int
    height: int
    width: int
    prefix: int
    first: int
    rows: int
    lowest: float | None
    """Smallest activation; below zero the layer counts as signed."""
    not_finite: int
    """Samples on which some component was NaN or infinite."""
    crop: Crop
    """How its examples were cropped; never ``auto``."""
    reference: LayerReference | None = None


class RelevanceEntry(_Entry):
    """How class relevance was computed."""

    rules: str
    """Name of the rules; ``gradient`` if the LRP rules did not cover the model."""
    targets: Literal["classes", "predictions"]
    """Whether samples were explained for their own class or for the predicted one."""
    floor: float
    """Shares that are smaller on every sample and on average are not stored."""


class Manifest(_Entry):
    """The manifest of a database: its inputs, settings, layers and files."""

    format: int = FORMAT
    model: Source
    data: Source
    embedder: Source
    recipe: Recipe
    classes: list[str] | None
    samples: int
    unreadable: int
    dim: int
    layers: list[LayerEntry]
    relevance: RelevanceEntry | None = None
    crops: list[int]
    """Vectors in each file ``vectors/crops/NNNN.safetensors``."""
    reference: int = 0
    """Number of reference samples with a vector."""
    files: dict[str, str]
    """SHA-256 by relative path of every file but this one."""

    @property
    def rows(self) -> int:
        """Number of components."""
        return sum(layer.rows for layer in self.layers)

    @property
    def reference_rows(self) -> list[int]:
        """Rows of ``reference.safetensors`` whose readouts are finite in every layer."""
        layers = [layer.reference for layer in self.layers if layer.reference is not None]
        count = min((layer.samples for layer in layers), default=0)
        not_finite = {row for layer in layers for row in layer.not_finite}
        return [row for row in range(count) if row not in not_finite]

    def save(self, database: Path) -> None:
        """Write the manifest into the folder of the database."""
        save_text(database / MANIFEST_NAME, self.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, database: Path) -> Manifest:
        """Read the manifest of a database.

        Raises
        ------
        StoreError
            If the folder is not a finished database, or has another format.
        """
        path = database / MANIFEST_NAME
        if not path.is_file():
            unfinished = (database / PARTIAL).is_dir() or (database / LOCK).is_file()
            raise StoreError(
                f"'{database}' is {'an unfinished' if unfinished else 'not a'} database.",
                f"Expected a folder with {MANIFEST_NAME}.",
                "Run the same build again: it resumes."
                if unfinished
                else "Check the path, or build a database with 'semlens build'.",
            )
        try:
            manifest = cls.model_validate_json(path.read_text("utf-8"))
        except (ValidationError, RecipeError) as error:
            raise StoreError(
                f"'{path}' cannot be read ({str(error).splitlines()[0]}).",
                f"Expected a manifest of format {FORMAT}.",
                "Restore it, or remove the database and build it again.",
            ) from error
        if manifest.format != FORMAT:
            raise StoreError(
                f"'{database}' has format {manifest.format}.",
                f"This version of semlens reads format {FORMAT}.",
                "Build it again, or use the version of semlens that wrote it.",
            )
        return manifest
