"""A finished database, read lazily: what grows with the images only a few rows at a time."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float16, Float32, Int64
from PIL import Image

from semlens.data.digests import content_digests
from semlens.data.images import Images
from semlens.data.prefetch import default_workers
from semlens.embedders.base import Embedder
from semlens.embedders.load import load_embedder
from semlens.errors import LayerError, StaleError, StoreError, nearest
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.progress import report
from semlens.recipe import fingerprint
from semlens.store import layout
from semlens.store.built_images import BuiltImages
from semlens.store.class_relevance import ClassRelevance
from semlens.store.derived import Derived
from semlens.store.examples import Example, Examples, Sample
from semlens.store.files import file_digest, load_table
from semlens.store.groups import RowGroups
from semlens.store.manifest import LayerEntry, Manifest
from semlens.store.once import once
from semlens.store.vectors import Vectors
from semlens.types import Component, Components, as_components, as_list


def data_fingerprint(ids: Sequence[str], digests: Sequence[str]) -> str:
    """Identify a data set by its ids and the hashes of its contents."""
    return fingerprint(list(ids), list(digests))


def _stale(kind: str, given: str, built: str) -> StaleError:
    return StaleError(
        f"The {kind} '{given}' is not the one of the database (its fingerprint differs).",
        f"Expected '{built}' with unchanged weights and preprocessing.",
        "Give that one, or build a new database.",
    )


class Database(Derived):
    """Everything that a build has left on disk, with its model, images and embedder.

    The three are loaded on first use by their SPECs, unless they are given, and verified against
    the build. A database never runs code: a model from ``FILE.py:CALLABLE`` has to be given.

    Parameters
    ----------
    path
        The database's folder.
    model, images, embedder
        Objects, or SPECs of where they are now, in place of those of the build.
    device
        Where the model and the embedder run, if they are loaded here.

    Raises
    ------
    StoreError
        If it is missing, unfinished, damaged or of another format.
    StaleError
        If a ``model`` or an ``embedder`` that is given is not the one of the build.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        model: SubjectModel | str | None = None,
        images: Images | str | Path | None = None,
        embedder: Embedder | str | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__(Path(path).expanduser())
        self.device = device
        self.manifest = Manifest.load(self.path)
        self._lazy = Examples(self.path, self.manifest)
        self._vectors = Vectors(self.path, self.manifest)
        self._relevance = ClassRelevance(self.path, self.manifest)
        self.sources = (model, images, embedder)
        """Model, images and embedder as they were given; None where the build says it."""
        if isinstance(model, SubjectModel):
            self.check_model(model)
        if isinstance(embedder, Embedder):
            self.check_embedder(embedder)

    # -- sources --------------------------------------------------------------------------

    @once
    def model(self) -> SubjectModel:
        """The subject model of the database, verified by its fingerprint."""
        model = self.sources[0]
        if not isinstance(model, SubjectModel):
            report("loading the model", 0, 1)
            spec = model or self.manifest.model.spec
            model = load_model(spec, device=self.device, run_files=self.sources[0] is not None)
            self.check_model(model)
            report("loading the model", 1, 1)
        return model

    @once
    def images(self) -> Images:
        """The images of the database; each one that is read is verified by its digest."""
        return BuiltImages(self, self.sources[1])

    @once
    def embedder(self) -> Embedder:
        """The foundation model of the database, verified by its fingerprint."""
        embedder = self.sources[2]
        if not isinstance(embedder, Embedder):
            report("loading the embedder", 0, 1)
            embedder = load_embedder(embedder or self.manifest.embedder.spec, device=self.device)
            self.check_embedder(embedder)
            report("loading the embedder", 1, 1)
        return embedder

    # -- identity -----------------------------------------------------------------------

    def check_model(self, model: SubjectModel) -> None:
        """Refuse a model with other weights or preprocessing than the database's."""
        if model.fingerprint != self.manifest.model.fingerprint:
            raise _stale("model", model.spec, self.manifest.model.spec)

    def check_embedder(self, embedder: Embedder) -> None:
        """Refuse probes of another foundation model: their vectors mean something else."""
        if embedder.fingerprint != self.manifest.embedder.fingerprint:
            raise _stale("embedder", embedder.spec, self.manifest.embedder.spec)

    def check_images(self, images: Images, digests: Sequence[str] | None = None) -> None:
        """Hash the images (or take their ``digests``) and refuse any that have changed."""
        if digests is None:
            digests = list(content_digests(images, default_workers()))
        if data_fingerprint(images.ids, digests) == self.manifest.data.fingerprint:
            return
        known = dict(zip(self.samples["path"], self.samples["sha256"], strict=True))
        now = dict(zip(images.ids, digests, strict=True))
        changed = sum(known[k] != now[k] for k in known.keys() & now.keys())
        raise StaleError(
            f"The data '{images.spec}' has changed since the build: {changed} images differ, "
            f"{len(now.keys() - known.keys())} are new, {len(known.keys() - now.keys())} missing.",
            f"Expected the images of '{self.manifest.data.spec}'.",
            "Restore them, or build a new database.",
        )

    def verify(self) -> list[str]:
        """Hash every file of the build and return those that are missing or changed."""
        return [
            name
            for name, digest in self.manifest.files.items()
            if not (self.path / name).is_file() or file_digest(self.path / name) != digest
        ]

    # -- components -----------------------------------------------------------------------

    @property
    def layers(self) -> list[str]:
        """Names of the layers, in row order."""
        return [layer.name for layer in self.manifest.layers]

    def layer(self, name: str) -> LayerEntry:
        """Return a layer's entry.

        Raises
        ------
        LayerError
            If the database does not have it.
        """
        entry = self.manifest.layer(name)
        if entry is None:
            raise LayerError(
                f"Layer '{name}' is not in the database '{self.path}'.",
                f"It has {nearest(name, self.layers, at_most=8)}.",
                f"Add it: semlens build {self.path} ... --layers {name}",
            )
        return entry

    def digests(self, layer: str) -> list[str]:
        """SHA-256 of a layer's vectors and of its examples: what is derived of it follows them."""
        files = self.manifest.files
        self.layer(layer)
        return [files[layout.theta_file(layer)], files[layout.examples_file(layer)]]

    def chosen(self, layers: str | Sequence[str] | None) -> list[str]:
        """Return the names of some layers, each once and in the order given, or of all.

        Raises
        ------
        LayerError
            If there is none, or the database lacks one.
        """
        if layers is None:
            return self.layers
        if not layers:
            raise LayerError("No layer was named.", "Expected at least one.", "Name one.")
        return [self.layer(name).name for name in dict.fromkeys(as_list(layers))]

    @once
    def components(self) -> pd.DataFrame:
        """One row per component; row number = row of theta."""
        table = load_table(self.path / layout.COMPONENTS)
        if table.num_rows < self.manifest.rows:
            raise StoreError(
                f"'{self.path / layout.COMPONENTS}' has {table.num_rows} rows.",
                f"The manifest says {self.manifest.rows}.",
                "Restore it, or build the database again.",
            )
        # an interrupted extension may have appended rows that no manifest speaks of yet
        return table.slice(0, self.manifest.rows).to_pandas()

    @once
    def samples(self) -> pd.DataFrame:
        """One row per sample: path, sha256, target, logit, error."""
        return load_table(self.path / layout.SAMPLES).to_pandas()

    def rows(self, layers: str | Sequence[str] | None = None) -> Int64[np.ndarray, " n"]:
        """Return the row numbers of some layers' components, or of all; each layer once."""
        entries = [self.layer(name) for name in self.chosen(layers)]
        return np.concatenate([np.arange(e.first, e.first + e.rows) for e in entries])

    def row(self, component: Component) -> int:
        """Return the row of a component.

        Raises
        ------
        LayerError
            If the database does not have it.
        """
        entry = self.layer(component.layer)
        place = component.index + (entry.channels if component.sign < 0 else 0)
        if component.index >= entry.channels or place >= entry.rows:
            signs = "both signs" if entry.rows > entry.channels else "sign +1 only"
            raise LayerError(
                f"Component '{component}' is not in the database.",
                f"Layer '{entry.name}' has components 0 to {entry.channels - 1}, {signs}.",
                "Choose one of them.",
            )
        return entry.first + place

    def rows_of(self, components: Components) -> list[int]:
        """Return the rows of components, however they are given.

        Raises
        ------
        LayerError
            If a name has another form, or the database does not have it.
        """
        return [self.row(component) for component in as_components(components)]

    def component(self, row: int) -> Component:
        """Return the component of a row.

        Raises
        ------
        LayerError
            If the database does not have it.
        """
        if not 0 <= row < self.manifest.rows:
            raise LayerError(
                f"Row {row} is not in the database '{self.path}'.",
                f"It has the rows 0 to {self.manifest.rows - 1}.",
                "Choose one of them.",
            )
        entry = self.manifest.layers[bisect.bisect_right(self._firsts, row) - 1]
        place = row - entry.first
        return Component(entry.name, place % entry.channels, -1 if place >= entry.channels else 1)

    def names(self, rows: Int64[np.ndarray, " n"] | None = None) -> list[str]:
        """Return the names of components, such as ``layer3:17``; of all by default."""
        if rows is None:
            rows = np.arange(self.manifest.rows)
        heads = [f"{e.name}:{sign}" for e in self.manifest.layers for sign in ("", "-")]
        channels = np.array([e.channels for e in self.manifest.layers])
        firsts = np.array(self._firsts)
        layer = np.searchsorted(firsts, rows, "right") - 1
        negative, index = np.divmod(rows - firsts[layer], channels[layer])
        parts = zip((2 * layer + negative).tolist(), index.tolist(), strict=True)
        return [f"{heads[head]}{place}" for head, place in parts]

    @once
    def _firsts(self) -> list[int]:
        return [entry.first for entry in self.manifest.layers]

    @property
    def alive(self) -> Bool[np.ndarray, " n"]:
        """Which components have at least one example, and so a vector."""
        return self.components["examples"].to_numpy() > 0

    # -- vectors and examples ---------------------------------------------------------------

    @once
    def theta(self) -> Float32[np.ndarray, "n d"]:
        """Concept vectors of all components (zeros where there is no example)."""
        return np.concatenate([part.float().numpy() for part in self._vectors.theta])

    def warm(self) -> None:
        """Read what the first search needs; the page of a server then need not wait for it."""
        _ = self.components, self._vectors.lengths

    def concept_vectors(self, rows: Sequence[int]) -> Float32[np.ndarray, "n d"]:
        """Return the concept vectors of some components, without loading theta."""
        return self._vectors.of_rows(rows)

    def cosines(
        self, probes: Float32[np.ndarray, "q d"], rows: Int64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, "n q"]:
        """Return cosine similarities of components with probes, without loading theta (Eq. 3)."""
        return self._vectors.cosines(probes, rows)

    @once
    def crop_vectors(self) -> Float16[np.ndarray, "u d"]:
        """Unit vectors of all unique crops."""
        parts = [crops["vector"].numpy() for crops in self._vectors.crops]
        return np.concatenate(parts) if parts else np.zeros((0, self.manifest.dim), np.float16)

    def vectors_of(self, crops: Sequence[int]) -> Float16[np.ndarray, "n d"]:
        """Return the unit vectors of some crops, without loading those of all."""
        return self._vectors.of_crops(crops)

    def examples(self, layer: str) -> pd.DataFrame:
        """Concept examples of a layer: component, rank, sample, activation, position, box, crop."""
        self.layer(layer)
        return load_table(self.path / layout.examples_file(layer)).to_pandas()

    def examples_of(self, row: int, count: int | None = None) -> list[Example]:
        """Concept examples of one component that speak for it, strongest first."""
        return self._lazy.of(self.component(row).layer, row, count)

    def crop_index(self, layer: str) -> tuple[Int64[np.ndarray, "c m"], Bool[np.ndarray, "c m"]]:
        """Return the crop of each example slot of a layer, and which slots are used."""
        entry = self.layer(layer)
        shape = (entry.rows, self.manifest.recipe.examples)
        index, used = np.zeros(shape, np.int64), np.zeros(shape, bool)
        table = load_table(self.path / layout.examples_file(layer), ["component", "rank", "crop"])
        table = table.filter(table["crop"].is_valid())
        row = table["component"].to_numpy() - entry.first
        rank = table["rank"].to_numpy()
        index[row, rank] = table["crop"].to_numpy()
        used[row, rank] = True
        return index, used

    def example_crops(
        self, layer: str
    ) -> tuple[Int64[np.ndarray, " e"], Int64[np.ndarray, " e"], Float32[np.ndarray, " e"]]:
        """Return component (row), crop and readout of every used example, strongest first."""
        if layer not in self._example_crops:
            self.layer(layer)
            columns = ["component", "crop", "activation"]
            table = load_table(self.path / layout.examples_file(layer), columns)
            table = table.filter(table["crop"].is_valid())
            self._example_crops[layer] = (
                table["component"].to_numpy().astype(np.int64),
                table["crop"].to_numpy().astype(np.int64),
                table["activation"].to_numpy().astype(np.float32),
            )
        return self._example_crops[layer]

    @once
    def crop_samples(self) -> Int64[np.ndarray, " u"]:
        """The sample that each unique crop was cut from."""
        parts = [crops["sample"].numpy() for crops in self._vectors.crops]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    @once
    def _example_crops(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        return {}

    def thumbnail(self, crop: int) -> bytes | None:
        """Return the WebP of a crop, or None when the database was built without."""
        return self._lazy.thumbnail(crop)

    def sample(self, number: int) -> Sample:
        """Return one sample, without reading all of them.

        Raises
        ------
        StoreError
            If there is none of this number.
        """
        return self._lazy.sample(number)

    def original(self, sample: int, data: str | Path | None = None) -> Image.Image:
        """Return the original image of a sample as upright RGB, verified by its own hash.

        The rest of the data is neither listed nor hashed, and nothing is downloaded.

        Parameters
        ----------
        data
            Where the data is now, if not where it was built from.

        Raises
        ------
        DataError
            If the data or the image is not there.
        StaleError
            If the image has changed since the build.
        """
        return self._lazy.original(sample, data)

    @property
    def groups(self) -> RowGroups:
        """What is read a few rows at a time, and how much of it is in memory."""
        return self._lazy.groups

    # -- class relevance ----------------------------------------------------------------------

    @property
    def relevance_classes(self) -> pd.DataFrame:
        """Classes that relevance is known for: class (logit), samples.

        Raises
        ------
        RelevanceError
            If the database was built without.
        """
        return self._relevance.classes

    def relevance(
        self, target: int | None = None, layers: str | Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return class relevance: component (row), class, mean, max.

        Both are shares of the layer's total of absolute values, in [-1, 1]; pairs under the
        manifest's floor are not kept.

        Raises
        ------
        RelevanceError
            If the database was built without, or not for this class.
        """
        return self._relevance.table(self.chosen(layers), target)
