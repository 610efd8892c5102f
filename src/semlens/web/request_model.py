"""Base of the models of request bodies: JSON types are taken as they are."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


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
