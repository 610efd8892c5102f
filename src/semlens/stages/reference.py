"""The stored form of the readouts on the reference samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float16, Float32
from torch import Tensor

from semlens.streaming.statistics import SampleReadouts

_CHUNK = 1024
"""Components that are converted at a time."""
_TOP_EXPONENT = 15
"""Scaled values lie below 2^15; the largest float16 is just below 2^16."""
_SMALLEST_EXPONENT = -126
"""Of a float32 that is not subnormal."""
_LARGEST_HALF = 2**15 - 2**4
"""The float16 before 2^15, which times the largest scale would overflow in float32."""


def reference_readouts(
    readouts: SampleReadouts, samples: Sequence[int], columns: int
) -> tuple[dict[str, Tensor], list[int]]:
    """Return the first ``columns`` readouts of some samples as ``readout`` and ``scale``.

    Returns
    -------
    tuple
        The tensors, and the rows of ``samples`` on which some readout is not finite. There, all
        readouts are zero.
    """
    not_finite = [
        row
        for row, sample in enumerate(samples)
        if not torch.isfinite(readouts.rows[sample][:columns]).all()
    ]
    readout = torch.empty(columns, len(samples), dtype=torch.float16)
    scale = torch.empty(columns)
    for start in range(0, columns, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, columns))
        values = readouts.stack(samples, chunk)
        values[not_finite] = 0
        readout[chunk], scale[chunk] = scale_to_half(values.T)
    return {"readout": readout, "scale": scale}, not_finite


def scale_to_half(
    values: Float32[Tensor, "c s"],
) -> tuple[Float16[Tensor, "c s"], Float32[Tensor, " c"]]:
    """Divide each component's values by a power of two, so that none overflows in float16.

    The product of both results differs from the values by at most 2^-11 of the value, or 2^-39 of
    the component's largest absolute value, whichever is larger. Zeros stay zeros, and the order of
    a component's values is kept, except that close ones may become equal.
    """
    array = values.numpy()
    largest = np.abs(array).max(axis=1, initial=0)
    exponent = np.maximum(np.frexp(largest)[1] - _TOP_EXPONENT, _SMALLEST_EXPONENT)
    scaled = np.ldexp(array, -exponent[:, None]).clip(-_LARGEST_HALF, _LARGEST_HALF)
    scale = np.ldexp(np.float32(1), exponent)
    return torch.from_numpy(scaled.astype(np.float16)), torch.from_numpy(scale)
