"""Matched controls of an inserted sign: the same place and extent, without the sign."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from semlens.data.artefact import Artefact
from semlens.errors import DataError

LARGE = 0.25
"""Share of an image from which a sign is a change of the image rather than a mark on it."""
Pixels = UInt8[np.ndarray, "h w 3"]


CONTROLS = ("covered", "scrambled")
"""What the sign is compared with."""


def variants(image: Image.Image, artefact: Artefact, seed: int) -> dict[str, Image.Image]:
    """Return an image as it is, with the sign, and with each control in its place.

    ``plain``
        The image.
    ``sign``
        The image with the artefact.
    ``covered``
        What the artefact covers is filled with the mean colour of the rest of the image. If the
        artefact changes more than a quarter of the image, it is the image as it is.
    ``scrambled``
        As many pixels change, at random places in the artefact's bounding box, to its colours in
        random order, each moved by half of its range (modulo). If the artefact changes more than a
        quarter of the image, what it adds to the pixels is added in random order, with red, green
        and blue exchanged.

    Raises
    ------
    DataError
        If the artefact changes the size of the image.
    """
    plain, sign = np.asarray(image), np.asarray(artefact.insert(image, seed))
    if sign.shape != plain.shape:
        raise DataError(
            f"The artefact '{artefact.name}' returns an image of {sign.shape}.",
            f"Expected {plain.shape}, as the image that it is inserted into.",
            "Correct its insert function.",
        )
    # where an image shows the sign already, it changes the negative of the image
    negative = 255 - plain
    on_negative = np.asarray(artefact.insert(Image.fromarray(negative), seed))
    changed = ((sign != plain) | (on_negative != negative)).any(2)
    rng = np.random.default_rng((seed, 1))
    if changed.mean() > LARGE:
        covered, scrambled = plain, _scrambled_change(plain, sign, changed, rng)
    else:
        covered, scrambled = _covered(plain, changed), _scattered(plain, sign, changed, rng)
    found = {"plain": plain, "sign": sign, "covered": covered, "scrambled": scrambled}
    return {name: Image.fromarray(pixels) for name, pixels in found.items()}


def _covered(plain: Pixels, changed: Bool[np.ndarray, "h w"]) -> Pixels:
    covered = plain.copy()
    covered[changed] = plain[~changed].mean(0).round().astype(np.uint8)
    return covered


def _scattered(
    plain: Pixels, sign: Pixels, changed: Bool[np.ndarray, "h w"], rng: np.random.Generator
) -> Pixels:
    scattered = plain.copy()
    if not changed.any():
        return scattered
    rows, columns = (np.flatnonzero(changed.any(axis)) for axis in (1, 0))
    box = scattered[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    colours = sign[changed] + np.uint8(128)
    places = rng.permutation(box.shape[0] * box.shape[1])[: len(colours)]
    box[np.unravel_index(places, box.shape[:2])] = colours
    return scattered


def _scrambled_change(
    plain: Pixels, sign: Pixels, changed: Bool[np.ndarray, "h w"], rng: np.random.Generator
) -> Pixels:
    change = sign[changed].astype(np.int16) - plain[changed]
    scrambled = plain.astype(np.int16)
    scrambled[changed] += rng.permutation(np.roll(change, 1, axis=1))
    return scrambled.clip(0, 255).astype(np.uint8)
