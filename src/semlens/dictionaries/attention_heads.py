"""Attention heads as components: groups of channels of what an attention's projection reads."""

from __future__ import annotations

import torch
from torch import nn

from semlens.dictionaries.dictionary import Dictionary, DictionaryInfo
from semlens.errors import LayerError, nearest

KIND = "heads"
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
            f"{KIND}:{heads} of layer '{layer}' does not fit {channels} channels.",
            f"Expected {count} heads, as the model has.",
            f"Use {KIND}.",
        )
    groups = torch.eye(count).repeat_interleave(channels // count, 1)
    info = DictionaryInfo(layer, KIND, "length", channels_first=False, input_of=name)
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
