"""What holds in every database besides the shapes of its files: order, ranges and references."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from semlens.recipe import fingerprint
from semlens.store import file_names
from semlens.store.checked_files import BuildFiles
from semlens.store.manifest import LayerEntry, Manifest

UNIT_TOLERANCE = 5e-3
"""Largest deviation of a unit vector's length; half precision stays ten times below."""
Broken = tuple[str, str]
"""Name of a file, and what does not hold in it."""


@dataclass
class Invariants:
    """The checks of the files of a database that are as the build wrote them.

    Parameters
    ----------
    intact
        Names of these files; the others are left out.
    """

    files: BuildFiles
    manifest: Manifest
    intact: frozenset[str]
    _samples: pd.DataFrame | None = field(default=None, init=False)
    _boxes: list[np.ndarray] = field(default_factory=list[np.ndarray], init=False)

    def check(self) -> Iterator[Broken]:
        """Yield everything that does not hold."""
        if file_names.SAMPLES in self.intact:
            self._samples = self._table(file_names.SAMPLES)
            yield from _told(file_names.SAMPLES, self._check_samples(self._samples))
        for number, _ in enumerate(self.manifest.crops):
            if (name := file_names.crops_file(number)) in self.intact:
                yield from _told(name, self._check_crops(self.files.tensors(name)))
        if file_names.COMPONENTS in self.intact:
            components = self._table(file_names.COMPONENTS)
            yield from _told(file_names.COMPONENTS, self._check_components(components))
            for layer in self.manifest.layers:
                yield from self._check_layer(layer, components)
        if file_names.REFERENCE in self.intact:
            tensors = self.files.tensors(file_names.REFERENCE)
            yield from _told(file_names.REFERENCE, self._check_reference(tensors))
        yield from self._check_relevance()

    def _table(self, name: str) -> pd.DataFrame:
        return self.files.table(name).to_pandas()

    def _check_samples(self, frame: pd.DataFrame) -> Iterator[str | None]:
        manifest = self.manifest
        yield _unless(
            bool((frame["sample"] == np.arange(len(frame))).all()), "the samples are not in order"
        )
        yield _unless(bool(frame["path"].is_unique), "a path occurs twice")
        skipped = int(frame["error"].notna().to_numpy().sum())
        yield _unless(
            skipped == manifest.unreadable,
            f"{skipped} samples are skipped; the manifest says {manifest.unreadable}",
        )
        logits, classes = frame["logit"].dropna(), manifest.classes
        upper = np.iinfo(np.int32).max if classes is None else len(classes)
        yield _unless(_within(logits, 0, upper), f"a logit is not from 0 to {upper - 1}")
        yield _unless(
            fingerprint(frame["path"].tolist(), frame["sha256"].tolist())
            == manifest.data.fingerprint,
            "paths and hashes do not give the fingerprint of the data",
        )

    def _check_crops(self, tensors: Any) -> Iterator[str | None]:
        boxes = tensors["box"].numpy()
        self._boxes.append(boxes)
        yield _unless(_unit(tensors["vector"]), "a vector does not have unit length")
        yield _unless(self._readable(tensors["sample"]), "an image is not there")
        yield _unless(_valid(boxes), "a box is empty or negative")

    def _check_components(self, frame: pd.DataFrame) -> Iterator[str | None]:
        for layer in self.manifest.layers:
            part = frame.iloc[layer.first : layer.first + layer.rows]
            signs = layer.rows // layer.channels
            expected = layer.rows == signs * layer.channels and bool(
                (part["layer"] == layer.name).all()
                and (part["index"] == np.tile(np.arange(layer.channels), signs)).all()
                and (part["sign"] == np.repeat([1, -1][:signs], layer.channels)).all()
            )
            yield _unless(expected, f"its rows are not the components of '{layer.name}'")
        most = min(self.manifest.recipe.examples, self.manifest.samples)
        yield _unless(_within(frame["examples"], 0, most + 1), f"not 0 to {most} examples")
        yield _unless(_within(frame["samples"], 0, self.manifest.samples + 1), "too many samples")
        yield _unless(bool(frame["firing_rate"].dropna().between(0, 1).all()), "a rate beyond 1")

    def _check_layer(self, layer: LayerEntry, components: pd.DataFrame) -> Iterator[Broken]:
        used = components["examples"].iloc[layer.first : layer.first + layer.rows].to_numpy()
        if (name := file_names.examples_file(layer.name)) in self.intact:
            yield from _told(name, self._check_examples(self._table(name), layer, used))
        if (name := file_names.theta_file(layer.name)) in self.intact:
            given = self.files.tensors(name)["theta"].any(1).numpy()
            text = "a component has examples but no vector, or the reverse"
            yield from _told(name, iter([_unless(bool((given == (used > 0)).all()), text)]))
        if (name := file_names.reference_file(layer.name)) in self.intact:
            scale = self.files.tensors(name)["scale"]
            powers = bool((scale > 0).all() and (torch.frexp(scale)[0] == 0.5).all())
            yield from _told(name, iter([_unless(powers, "a scale is no power of two")]))

    def _check_examples(
        self, frame: pd.DataFrame, layer: LayerEntry, used: np.ndarray
    ) -> Iterator[str | None]:
        component, rank = frame["component"].to_numpy(), frame["rank"].to_numpy()
        yield _unless(
            _within(component, layer.first, layer.first + layer.rows)
            and bool((np.diff(component) >= 0).all()),
            "the components are not those of the layer, in order",
        )
        yield _unless(
            bool((rank == frame.groupby("component").cumcount()).all()), "the ranks have gaps"
        )
        yield _unless(self._readable(frame["sample"]), "an image is not there")
        cropped = frame[frame["crop"].notna()]
        counts = np.bincount(cropped["component"] - layer.first, minlength=layer.rows)
        yield _unless(
            np.array_equal(counts, used), "the number of examples is not that of components.parquet"
        )
        crops = np.asarray(cropped["crop"], np.int64)
        boxes = np.stack(cropped["box"].tolist()) if len(cropped) else np.zeros((0, 4), np.int32)
        known = np.concatenate(self._boxes) if self._boxes else np.zeros((0, 4), np.int32)
        if len(known) == sum(self.manifest.crops):  # no crops file is damaged
            yield _unless(
                _within(crops, 0, len(known)) and np.array_equal(known[crops], boxes),
                "an example refers to another crop",
            )

    def _check_reference(self, tensors: Any) -> Iterator[str | None]:
        samples = tensors["sample"].numpy()
        yield _unless(len(np.unique(samples)) == len(samples), "an image occurs twice")
        yield _unless(self._readable(samples), "an image is not there")
        yield _unless(_unit(tensors["vector"]), "a vector does not have unit length")

    def _check_relevance(self) -> Iterator[Broken]:
        if file_names.RELEVANCE_CLASSES not in self.intact:
            return
        counts = self._table(file_names.RELEVANCE_CLASSES)
        text = "a class occurs twice, or has no samples"
        good = bool(counts["class"].is_unique and (counts["samples"] > 0).all())
        yield from _told(file_names.RELEVANCE_CLASSES, iter([_unless(good, text)]))
        for layer in self.manifest.layers:
            if (name := file_names.relevance_file(layer.name)) in self.intact:
                yield from _told(name, _check_shares(self._table(name), layer, counts))

    def _readable(self, samples: Any) -> bool:
        """Return whether all of these images exist and were read."""
        numbers = np.asarray(samples, np.int64)
        if not _within(numbers, 0, self.manifest.samples):
            return False
        return self._samples is None or not bool(self._samples["error"].notna()[numbers].any())


def _check_shares(
    frame: pd.DataFrame, layer: LayerEntry, counts: pd.DataFrame
) -> Iterator[str | None]:
    yield _unless(
        _within(frame["component"], layer.first, layer.first + layer.rows),
        "a component is not of the layer",
    )
    yield _unless(
        bool(frame["class"].isin(counts["class"]).all()), "a class is not in relevance.parquet"
    )
    yield _unless(not frame.duplicated(["component", "class"]).any(), "a pair occurs twice")
    share = frame[["mean", "max"]].abs().to_numpy()
    yield _unless(bool((share <= 1 + 1e-5).all()), "a share is above 1")


def _told(name: str, problems: Iterator[str | None]) -> Iterator[Broken]:
    return ((name, problem) for problem in problems if problem is not None)


def _unless(holds: bool, problem: str) -> str | None:
    return None if holds else problem


def _within(values: Any, lower: int, upper: int) -> bool:
    """Return whether all values are from ``lower`` to below ``upper``."""
    array = np.asarray(values)
    return bool(((array >= lower) & (array < upper)).all())


def _unit(vectors: Tensor) -> bool:
    return bool(((vectors.float().norm(dim=1) - 1).abs() <= UNIT_TOLERANCE).all())


def _valid(boxes: np.ndarray) -> bool:
    left, top, right, bottom = boxes.T
    return bool(((left >= 0) & (top >= 0) & (left < right) & (top < bottom)).all())
