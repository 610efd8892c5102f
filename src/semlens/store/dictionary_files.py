"""Files of dictionaries: safetensors, with what they are in the header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open

from semlens.dictionaries.dictionary import Dictionary, DictionaryInfo
from semlens.dictionaries.sae_formats import CONFIG, SUFFIXES, load_overcomplete, load_saelens
from semlens.errors import RecipeError, shortened
from semlens.regular_files import is_file, is_folder, user_path
from semlens.store.atomic_files import save_tensors

KEY = "semlens_dictionary"
"""Key of the description in the header."""
TENSORS = ("encoder", "decoder", "bias", "threshold")

_INFO = TypeAdapter(DictionaryInfo)


def header(dictionary: Dictionary) -> dict[str, str]:
    """Return the header of a dictionary's file."""
    return {KEY: json.dumps(asdict(dictionary.info))}


def save_dictionary(path: Path, dictionary: Dictionary) -> None:
    """Write a dictionary, atomically; errors as for any file of a database."""
    save_tensors(path, dictionary.tensors(), header(dictionary))


def load_dictionary(path: str | Path) -> Dictionary:
    """Read a dictionary: a file that semlens wrote, a folder of SAELens, or overcomplete's state.

    Raises
    ------
    RecipeError
        If it is none of these.
    """
    place = user_path(path)
    if is_folder(place) and is_file(place / CONFIG):
        return load_saelens(place)
    if place.suffix in SUFFIXES and is_file(place):
        return load_overcomplete(place)
    try:
        with safe_open(place, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in TENSORS} if text \
                else {}  # fmt: skip
    except Exception as error:  # the reader raises many types of errors
        raise _not_a_dictionary(path, str(error).splitlines()[0]) from error
    if text is None:
        raise _not_a_dictionary(path, "its header does not describe one")
    try:
        info = _INFO.validate_json(text)
    except ValidationError as error:
        raise _not_a_dictionary(path, "its header does not describe one") from error
    shape = tensors["decoder"].shape
    fits = tensors["encoder"].shape == shape and len(shape) == 2 and 0 not in shape
    if not fits or any(tensors[name].shape != shape[:1] for name in ("bias", "threshold")):
        raise _not_a_dictionary(path, "its tensors do not fit together")
    return Dictionary(info, **tensors)


def _not_a_dictionary(path: str | Path, reason: str) -> RecipeError:
    return RecipeError(
        f"'{shortened(str(path))}' is not a file of directions ({reason}).",
        f"Expected a file that semlens wrote, a folder of SAELens with {CONFIG}, or a state dict "
        "of overcomplete that ends in .pt.",
        "Check the path; 'semlens db fit' makes such a file.",
    )
