"""Checks of evidence: shapes that fit, and values that every method can rely on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from semlens.errors import ConceptError

if TYPE_CHECKING:
    from semlens.lenses.labelling.evidence import Evidence

_ROWS = 8192
"""Vectors that are checked in one step."""
_LENGTH = 0.01
"""Largest deviation of a unit vector's length from 1; 16-bit vectors deviate by 0.001."""


def check_evidence(evidence: Evidence) -> None:
    """Check shapes and values of all fields.

    Raises
    ------
    ConceptError
        If shapes do not fit, or values are not finite, not sorted or not of unit length.
    """
    null = None if evidence.null is None else evidence.null[None]
    vectors = {
        "words": evidence.words, "images": evidence.images, "null": null,
        "background": evidence.background, "reference": evidence.reference,
    }  # fmt: skip
    for name, rows in vectors.items():
        if rows is not None:
            _check_unit_vectors(name, rows, evidence.words.shape[1])
    _check_examples(evidence)
    _check_reference(evidence)
    _check_overlap(evidence)


def _check_unit_vectors(name: str, rows: np.ndarray, dim: int) -> None:
    if rows.ndim != 2 or rows.shape[1] != dim or not len(rows):
        raise _invalid(
            f"'{name}' is of shape {rows.shape}.", f"Expected at least one vector of {dim} values."
        )
    for start in range(0, len(rows), _ROWS):
        block = rows[start : start + _ROWS].astype(np.float32)
        length = np.sqrt(np.einsum("nd,nd->n", block, block))
        bad = np.flatnonzero(~(np.abs(length - 1) <= _LENGTH))  # also true of NaN
        if len(bad):
            raise _invalid(
                f"Vector {start + bad[0]} of '{name}' has length {length[bad[0]]:.3g}.",
                "Expected finite vectors of length 1.",
                "Divide each vector by its length.",
            )


def _check_examples(evidence: Evidence) -> None:
    n, m = evidence.examples.shape
    counts = evidence.counts
    if evidence.readouts.shape != (n, m) or counts.shape != (n,):
        raise _invalid(
            f"'examples', 'readouts' and 'counts' are of shapes {evidence.examples.shape}, "
            f"{evidence.readouts.shape} and {counts.shape}.",
            "Expected [n m], [n m] and [n] for n components with up to m examples.",
        )
    if n and not 1 <= counts.min() <= counts.max() <= m:
        raise _invalid(
            f"'counts' has values from {counts.min()} to {counts.max()}.",
            f"Expected 1 to {m} examples of each component.",
            "Leave out components without examples.",
        )
    used = evidence.used()
    rows, readouts = evidence.examples[used], evidence.readouts[used]
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(evidence.images):
        raise _invalid(
            f"'examples' has rows from {rows.min()} to {rows.max()}.",
            f"Expected rows of the {len(evidence.images)} images.",
        )
    if not np.isfinite(readouts).all():
        raise _invalid("'readouts' has values that are not finite.", "Expected numbers.")
    if (np.diff(evidence.readouts, axis=1) > 0)[used[:, 1:]].any():
        raise _invalid("'readouts' increases in a row.", "Expected the strongest first.")


def _check_reference(evidence: Evidence) -> None:
    sample, readouts = evidence.reference, evidence.reference_readouts
    marks = evidence.annotations
    if (sample is None) != (readouts is None):
        raise _invalid(
            f"There are {'readouts' if sample is None else 'vectors'} of a reference sample, "
            f"but no {'vectors' if sample is None else 'readouts'}.",
            "Expected both, or neither.",
        )
    if sample is not None and readouts is not None:
        expected = len(sample), len(evidence)
        if readouts.shape != expected:
            raise _invalid(
                f"'reference_readouts' is of shape {readouts.shape}.",
                f"Expected {expected}: images of the sample by components.",
            )
        if not np.isfinite(readouts).all():
            raise _invalid(
                "'reference_readouts' has values that are not finite.", "Expected numbers."
            )
    if marks is not None and (sample is None or marks.shape != (len(sample), evidence.shape[1])):
        raise _invalid(
            f"'annotations' is of shape {marks.shape}.",
            "Expected images of the reference sample by words.",
        )


def _check_overlap(evidence: Evidence) -> None:
    places, population = evidence.in_reference, evidence.population
    size = 0 if evidence.reference is None else len(evidence.reference)
    if places is not None:
        if places.shape != evidence.examples.shape:
            raise _invalid(
                f"'in_reference' is of shape {places.shape}.",
                f"Expected {evidence.examples.shape}: components by examples.",
            )
        rows = places[evidence.used()]
        if len(rows) and not -1 <= rows.min() <= rows.max() < size:
            raise _invalid(
                f"'in_reference' has rows from {rows.min()} to {rows.max()}.",
                f"Expected rows of the {size} images of the reference sample, or -1.",
            )
    if population is not None and population < size:
        raise _invalid(
            f"'population' is {population}.",
            f"Expected at least the {size} images of the reference sample drawn from it.",
        )


def _invalid(value: str, expected: str, remedy: str = "Pass arrays that fit.") -> ConceptError:
    return ConceptError(value, expected, remedy)
