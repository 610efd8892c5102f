"""Answers that are no JSON: arrays, and files to save, with names that any header takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from fastapi import Response
from safetensors.numpy import save

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for the beginning of a formula, perhaps after it is cut off."""


def download(text: str, kind: str, name: str) -> Response:
    """Answer with a text as a file of a name and a type such as ``text/csv``."""
    return Response(text, media_type=f"{kind}; charset=utf-8", headers=named_file(name))


def named_file(name: str) -> dict[str, str]:
    """Return the header that names a file; of the name, what every system and header takes.

    Names come from folders and audits, and may hold quotes, line breaks and any letters.
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    return {"Content-Disposition": f'attachment; filename="{plain}"'}


def csv(frame: pd.DataFrame, header: bool = True) -> str:
    """Write a table as CSV in which a spreadsheet runs no text as a formula.

    Labels, notes and names of classes are anybody's words.
    """
    texts = {
        name: [_plain(value) for value in column]
        for name, column in frame.items()
        if not pd.api.types.is_numeric_dtype(column)
    }
    return frame.assign(**{str(name): texts[name] for name in texts}).to_csv(
        index=False, header=header
    )


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def tensors(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> Response:
    """Answer with arrays by name and texts about them, as safetensors: read without copying."""
    # gzip takes longer than all the rest, and saves a twelfth
    headers = {"Content-Encoding": "identity"}
    content = save({name: np.ascontiguousarray(one) for name, one in arrays.items()}, metadata)
    return Response(content, headers=headers, media_type="application/octet-stream")
