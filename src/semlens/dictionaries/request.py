"""What ``--components`` asks for: the layer's own components, or directions of some kind."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from semlens.dictionaries.attention_heads import KIND as HEADS
from semlens.dictionaries.dictionary import SEPARATOR
from semlens.dictionaries.train_sae import SAE
from semlens.errors import RecipeError, nearest, shortened

OWN = "channels"
"""The layer's own components: channels, units or token features."""
FITTED = ("nmf", "semi-nmf", "pca", "kmeans")
"""Kinds of :data:`semlens.dictionaries.fit.FITS`, which imports scikit-learn."""
CAV = "cav"
"""Concept activation vectors, which only a file has."""
KINDS = (*FITTED, SAE, HEADS, CAV)
EXPECTED = (
    f"Expected '{OWN}', '{HEADS}', KIND:NUMBER or KIND:FILE with a kind of "
    f"{', '.join(KINDS)}, separated by commas."
)


@dataclass(frozen=True)
class DictionaryRequest:
    """Directions of a kind: so many to be fitted, those of a file, or all heads of an attention."""

    kind: str
    directions: int | None = None
    file: Path | None = None

    def name(self, layer: str) -> str:
        """Return the name under which a layer's directions are stored."""
        return f"{layer}{SEPARATOR}{self.kind}"

    def __str__(self) -> str:
        """Return the text that :func:`parse_components` reads."""
        if self.file is None and self.directions is None:
            return self.kind
        return f"{self.kind}:{self.directions if self.file is None else self.file}"


def parse_components(components: str | Sequence[str]) -> tuple[bool, list[DictionaryRequest]]:
    """Return whether a layer's own components are wanted, and the dictionaries.

    Raises
    ------
    RecipeError
        If a text has another form, or a kind is named twice.
    """
    texts = components.split(",") if isinstance(components, str) else list(components)
    names = [text.strip() for text in texts]
    requests = [_parse(name) for name in names if name != OWN]
    kinds = [request.kind for request in requests]
    if not names or len(set(kinds)) < len(kinds):
        raise RecipeError(
            f"The components are '{shortened(','.join(names))}'.",
            f"{EXPECTED} Each kind once.",
            "Build the other one into a database of its own.",
        )
    return OWN in names, requests


def _parse(text: str) -> DictionaryRequest:
    kind, _, rest = text.partition(":")
    if text == HEADS:
        return DictionaryRequest(kind)
    if kind not in KINDS or not rest:
        nearest_kinds = "" if kind in KINDS else f" The nearest are {nearest(kind, (OWN, *KINDS))}."
        raise RecipeError(
            f"'{shortened(text)}' does not name components.",
            f"{EXPECTED}{nearest_kinds}",
            "Try nmf:16.",
        )
    if re.fullmatch(r"[0-9]{1,7}", rest) is None:
        return DictionaryRequest(kind, file=Path(rest))
    if int(rest) < 1:
        raise RecipeError(f"'{text}' has no directions.", "Expected at least one.", "Try nmf:16.")
    if kind == CAV:
        raise RecipeError(
            f"'{text}' gives a number of directions.",
            "Expected the file of concept activation vectors.",
            "Write one with 'semlens concepts tcav --save-cavs', and pass cav:FILE.",
        )
    return DictionaryRequest(kind, directions=int(rest))
