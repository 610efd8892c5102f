"""Arrays as an answer, in the safetensors layout that the page reads without copying."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from fastapi import Response
from safetensors.numpy import save


def tensors(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> Response:
    """Return arrays by name, with texts about them."""
    # gzip takes longer than all the rest, and saves a twelfth
    headers = {"Content-Encoding": "identity"}
    content = save({name: np.ascontiguousarray(one) for name, one in arrays.items()}, metadata)
    return Response(content, headers=headers, media_type="application/octet-stream")
