"""What ``--components`` asks for: a layer's own components, attention heads, or directions.

An attention head is a group of channels of what the attention's projection reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from semlens.dictionaries.dictionary import SEPARATOR, Dictionary, DictionaryInfo
from semlens.dictionaries.train_sae import SAE
from semlens.errors import LayerError, RecipeError, nearest, shortened

HEADS = "heads"
COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
"""Attributes of attention modules that hold their number of heads."""
PROJECTIONS = ("proj", "out_proj", "c_proj", "o_proj", "dense")
"""Names of the linear layer that mixes the heads' outputs."""


def head_dictionary(module: nn.Module, layer: str, heads: int | None = None) -> Dictionary:
    """Return the heads of the attention in a layer as a dictionary.

    The outputs of the heads lie side by side in the input of the projection that mixes them. The
    code of a head is the length of its output, at each token; its relevance is that of its
    channels.

    Parameters
    ----------
    module
        The model.
    layer
        An attention module, or a block that contains exactly one.
    heads
        Number of heads; by default what the attention module says.

    Raises
    ------
    LayerError
        If the layer has no such attention, or another number of heads.
    """
    found = {name: part for name, part in _projections(module).items() if _is_in(name[0], layer)}
    if len(found) != 1:
        owners = [owner for owner, _ in _projections(module)]
        raise LayerError(
            f"Layer '{layer}' has {len(found)} attention modules whose heads can be read.",
            f"Expected one: a module with its number of heads ({', '.join(COUNTS)}) and a linear "
            f"layer that mixes them ({', '.join(PROJECTIONS)}).",
            f"Choose one of {nearest(layer, owners)}." if owners
            else "Use the layer's own components.",
        )  # fmt: skip
    [((owner, name), projection)] = found.items()
    count, channels = _count(module.get_submodule(owner)) or 1, projection.in_features
    if heads not in (None, count) or channels % count:
        raise LayerError(
            f"{HEADS}:{heads} of layer '{layer}' does not fit {channels} channels.",
            f"Expected {count} heads, as the model has.",
            f"Use {HEADS}.",
        )
    groups = torch.eye(count).repeat_interleave(channels // count, 1)
    info = DictionaryInfo(layer, HEADS, "length", channels_first=False, input_of=name)
    return Dictionary(info, groups, groups)


def _projections(module: nn.Module) -> dict[tuple[str, str], nn.Linear]:
    """Return the projections by the names of the attention module and of themselves."""
    parts = dict(module.named_modules())
    found: dict[tuple[str, str], nn.Linear] = {}
    for owner, part in parts.items():
        # torch's own attention computes its projection without calling the module
        if not owner or _count(part) is None or isinstance(part, nn.MultiheadAttention):
            continue
        names = [f"{owner}.{name}" for name in PROJECTIONS]
        names.append(f"{owner.rpartition('.')[0]}.output.dense")  # older transformers
        for name in names:
            projection = parts.get(name)
            if isinstance(projection, nn.Linear):
                found[owner, name] = projection
    return found


def _is_in(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def _count(module: nn.Module) -> int | None:
    """Return the number of heads that a module says it has."""
    values = (getattr(module, name, None) for name in COUNTS)
    return next((value for value in values if type(value) is int and value > 0), None)


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
