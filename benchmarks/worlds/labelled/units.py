"""Units of known content: what labels are judged by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32

from benchmarks.worlds.labelled.vectors import save_arrays
from semlens.lenses.labelling.evidence import Evidence

Kind = Literal["logit", "channel", "detector", "max", "sum", "noise", "unknown"]
"""Trained logits, channels of trained layers, hand-built detectors of one word, maxima and sums of
two or three detectors, units that no content activates, and units of a trained layer whose content
is not known: these are labelled with the others, and not judged."""
LENIENT = 0.8
"""A word is nearly right if this share of its images are images of a right word."""


@dataclass(frozen=True, eq=False)
class UnseenImages:
    """Images that no labelling method sees.

    Parameters
    ----------
    vectors
        float32[t d], of unit length.
    annotations
        bool[t q], which words are true of which images.
    readouts
        float32[t n], larger is stronger.
    """

    vectors: Float32[np.ndarray, "t d"]
    annotations: Bool[np.ndarray, "t q"]
    readouts: Float32[np.ndarray, "t n"]


@dataclass(frozen=True, eq=False)
class Units:
    """n units of one world, seen through one embedder: hand-built ones, or a trained layer.

    Parameters
    ----------
    world
        Name of the world.
    data
        "broad": pictures of everything; "narrow": of one domain.
    embedder
        Specification of the embedder.
    subject
        Architecture of the network that the units are of; "" for hand-built ones.
    words
        The vocabulary, q words.
    evidence
        What labelling methods see, with annotations of the reference sample.
    right
        bool[n q], the right words: synonyms of one word, or of each part of a mixture. None are
        right for noise and unknown units.
    """

    world: str
    data: Literal["broad", "narrow"]
    embedder: str
    subject: str
    words: tuple[str, ...]
    evidence: Evidence
    kind: tuple[Kind, ...]
    right: Bool[np.ndarray, "n q"]
    unseen: UnseenImages

    def __len__(self) -> int:
        """Return the number of units."""
        return len(self.kind)

    @property
    def nearly_right(self) -> Bool[np.ndarray, "n q"]:
        """Which words are right, or have images most of which are images of a right word."""
        images = self.unseen.annotations.astype(np.float32)
        found = (self.right.astype(np.float32) @ images.T) > 0  # [n t], images of the unit
        share = found.astype(np.float32) @ images / np.maximum(images.sum(0), 1)
        return self.right | (share >= LENIENT)


ABOUT = ("world", "data", "embedder", "subject")


def save_units(units: Units, path: Path) -> None:
    """Write units to an npz file."""
    evidence = {
        f"evidence.{name}": value
        for name in Evidence.__dataclass_fields__
        if (value := getattr(units.evidence, name)) is not None
    }
    unseen = {f"unseen.{n}": getattr(units.unseen, n) for n in UnseenImages.__dataclass_fields__}
    about = {name: np.array(getattr(units, name)) for name in ABOUT}
    save_arrays(
        path, words=np.array(units.words), kind=np.array(units.kind), right=units.right,
        **about, **evidence, **unseen,
    )  # fmt: skip


def read_units(path: Path) -> Units:
    """Read units from an npz file."""
    with np.load(path) as saved:
        arrays = dict(saved)
    parts: dict[str, dict[str, np.ndarray]] = {"evidence": {}, "unseen": {}}
    for name in [n for n in arrays if "." in n]:
        part, field = name.split(".")
        parts[part][field] = arrays.pop(name)
    evidence = parts["evidence"]
    if "population" in evidence:
        evidence["population"] = evidence["population"].item()
    about = {name: arrays[name].item() for name in ABOUT}
    return Units(
        **about,
        words=tuple(arrays["words"].tolist()),
        evidence=Evidence(**evidence),  # type: ignore[arg-type]
        kind=tuple(arrays["kind"].tolist()),
        right=arrays["right"],
        unseen=UnseenImages(**parts["unseen"]),
    )
