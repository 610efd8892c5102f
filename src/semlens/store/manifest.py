"""The manifest of a database; written last, so that it only exists for complete databases."""

from __future__ import annotations

import re
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from semlens.dictionaries.dictionary import DictionaryInfo
from semlens.documents import first_problem, parse_json
from semlens.errors import RecipeError, StoreError, shortened
from semlens.models.activations import Form
from semlens.models.answer import Task
from semlens.recipe import FORMAT, Recipe
from semlens.regular_files import is_file, is_folder, read_text
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
    """Readouts per sample: one per channel, or if the signs differ in them, one per component."""
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
    rank_rules: str | None = None
    """Relevance rules by which its samples are ranked; None: they are ranked by activation."""
    without_box: int | None = None
    """Examples that are whole images because no box of the user is at the component's peak; None
    for another crop."""
    reference: LayerReference | None = None
    dictionary: DictionaryInfo | None = None
    """The directions whose codes are its components; None for the layer's own components."""


class RelevanceEntry(_Entry):
    """How class relevance was computed."""

    rules: str
    """Name of the rules; ``gradient`` if the LRP rules did not cover the model."""
    targets: Literal["classes", "predictions"]
    """Whether samples were explained for their own class or for the predicted one."""
    floor: float
    """Shares that are smaller on every sample and on average are not stored."""


class Extendable(_Entry):
    """What an extension must have in common with the build."""

    batch_size: int
    device: str
    """Type of the device."""

    def whole(self, samples: int) -> range:
        """Return the samples of all batches but an incomplete last one."""
        return range(samples // self.batch_size * self.batch_size)


class _Format(BaseModel):
    """The part of a manifest that every version of semlens can read."""

    format: int


class OutputEntry(_Entry):
    """Which tensor of the model's output answers, and what it is."""

    declared: str | None
    """The key, index or function that was given; None: it was found by name or width."""
    path: str
    """Keys and indices that lead to it; empty if the output is the tensor."""
    task: Task
    task_declared: bool
    """Whether the task was given, not measured."""
    scores: int
    """Number of classes, labels or values."""
    positive: int
    """Of one logit, the class that it stands for."""
    summary: str
    """What the model answers with, in one sentence."""


class Manifest(_Entry):
    """The manifest of a database: its inputs, settings, layers and files."""

    format: int = FORMAT
    model: Source
    data: Source
    embedder: Source
    vectors: str | None = None
    """SHA-256 of the file of vectors that took the place of the image tower."""
    boxes: Source | None = None
    """File of the boxes to which examples are cropped; its identity is that of the boxes."""
    recipe: Recipe
    output: OutputEntry | None = None
    """None for a model that has no row of values per image."""
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
    extendable: Extendable | None = None
    """Set if the folder ``state`` has what an extension continues from."""
    files: dict[str, str]
    """SHA-256 by relative path of every file but this one."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Manifest:
        """Refuse files elsewhere, and layers whose rows do not follow each other.

        Components would be misnamed.
        """
        for file in map(PurePosixPath, self.files):
            if file.is_absolute() or ".." in file.parts:
                raise ValueError(f"the file '{file}' leads out of the folder")
        names = [layer.name for layer in self.layers]
        if not names or len(set(names)) < len(names):
            raise ValueError("expected at least one layer, and each once")
        first = 0
        for layer in self.layers:
            if layer.first != first or not 0 < layer.rows <= 2 * layer.channels:
                raise ValueError(
                    f"layer '{layer.name}' has rows {layer.first} to {layer.first + layer.rows}, "
                    f"but starts at row {first} and has {layer.channels} channels"
                )
            first += layer.rows
        return self

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
        if not is_file(path):
            unfinished = is_folder(database / PARTIAL) or is_file(database / LOCK)
            what = "an unfinished" if unfinished else "not a"
            raise StoreError(
                f"'{shortened(database)}' is {what} database.",
                f"Expected a folder with {MANIFEST_NAME}.",
                "Run the same build again: it resumes."
                if unfinished
                else "Check the path, or build a database with 'semlens build'.",
            )
        try:
            text = read_text(path)
            written = _Format.model_validate(parse_json(text)).format
            if written == FORMAT:
                return cls.model_validate_json(text)
        except (OSError, ValueError, RecipeError) as error:
            raise StoreError(
                f"'{path}' cannot be read ({first_problem(error)}).",
                f"Expected a manifest of format {FORMAT}.",
                "Restore it, or remove the database and build it again.",
            ) from error
        raise StoreError(
            f"'{database}' has format {written}.",
            f"This version of semlens reads format {FORMAT}.",
            "Build it again, or use the version of semlens that wrote it.",
        )


# after the start, a colon, an equals sign, a quote or the name of a library; not that of a URL
_PATH = re.compile(r"""(^|[:="]|\b\w+/)(/(?!/)[^:"]+|[A-Za-z]:[\\/][^:"]+)""")


def absolute_paths(spec: str) -> list[str]:
    """Return the absolute paths in a SPEC.

    Examples
    --------
    >>> absolute_paths("vectors//home/ada/clip.parquet:open_clip/ViT-B-32//home/ada/clip.pt")
    ['/home/ada/clip.parquet', '/home/ada/clip.pt']
    """
    return [match[2] for match in _PATH.finditer(spec)]


def public_spec(spec: str) -> str:
    """Return a SPEC with the last part of each absolute path in it instead of the path.

    Examples
    --------
    >>> public_spec("torchvision/resnet18:/home/ada/r18.pth")
    'torchvision/resnet18:r18.pth'
    >>> public_spec("s3://bucket/photos")
    's3://bucket/photos'
    """

    def last(match: re.Match[str]) -> str:
        kind: type[PurePath] = PurePosixPath if match[2].startswith("/") else PureWindowsPath
        return match[1] + kind(match[2]).name

    return _PATH.sub(last, spec)
