"""Responses other than JSON: arrays as safetensors, and files to download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from fastapi import Response
from pydantic import BaseModel, ConfigDict, model_validator
from safetensors.numpy import save

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Characters with which a spreadsheet formula may start, also after trimming."""


def download(text: str, media_type: str, name: str) -> Response:
    """Return a text as a file to download, with a media type such as ``text/csv``."""
    return Response(text, media_type=f"{media_type}; charset=utf-8", headers=attachment(name))


def attachment(name: str) -> dict[str, str]:
    """Return the header that names a file, reduced to safe ASCII characters.

    Names come from folders and audits, and may contain quotes and line breaks.
    """
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in name)
    return {"Content-Disposition": f'attachment; filename="{plain}"'}


def csv(frame: pd.DataFrame, header: bool = True) -> str:
    """Return a table as CSV in which a spreadsheet does not run text as a formula.

    Labels, notes and class names are untrusted.
    """
    texts = {
        name: [_escape_formula(value) for value in column]
        for name, column in frame.items()
        if not pd.api.types.is_numeric_dtype(column)
    }
    return frame.assign(**{str(name): texts[name] for name in texts}).to_csv(
        index=False, header=header
    )


def _escape_formula(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def tensors(arrays: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> Response:
    """Return named arrays as safetensors, which the page reads without copying."""
    # not compressed: gzip is slow and saves only a twelfth
    headers = {"Content-Encoding": "identity"}
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata)
    return Response(content, headers=headers, media_type="application/octet-stream")


class WholeText(BaseModel):
    """A model without texts that hold half a character, which JSON allows and UTF-8 does not."""

    @model_validator(mode="before")
    @classmethod
    def _check_characters(cls, values: Any) -> Any:
        try:
            json.dumps(values, ensure_ascii=False, default=str).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("a text holds half a character (a lone surrogate)") from error
        return values


class RequestModel(WholeText):
    """A request body: ``true`` and ``"5"`` are not numbers, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
