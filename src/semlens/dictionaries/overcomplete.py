"""Sparse autoencoders of ``overcomplete``: a state dict, and what it does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semlens.dictionaries.dictionary import Code, Dictionary, DictionaryInfo
from semlens.errors import RecipeError

SUFFIXES = (".pt", ".pth")
CODES: dict[str, Code] = {
    "SAE": "relu",
    "TopKSAE": "topk",
    "RATopKSAE": "topk",
    "BatchTopKSAE": "jumprelu",
    "JumpSAE": "jumprelu",
    "RAJumpSAE": "jumprelu",
}
"""Code by the name of the class."""
ENCODERS = (
    ("encoder.final_block.0.weight", "encoder.final_block.0.bias"),
    ("encoder.weight", "encoder.bias"),
)
"""Weight and bias of a linear encoder, and of one that was tied to the dictionary before."""
REMEDY = """Save it with these lines, which need no code to be run when it is read:
    sae.eval()
    more = {k: getattr(sae, k, None) for k in ("top_k", "running_threshold")}
    torch.save({"sae": type(sae).__name__, "dictionary": sae.get_dictionary(), **more,
                **sae.state_dict()}, "sae.pt")"""


def load_overcomplete(path: Path) -> Dictionary:
    """Read an autoencoder of overcomplete (Fel et al. 2025), which has no format of its own.

    A pickled autoencoder is refused, since to read it would run its code. The file holds the
    state dict, and the name of the class, ``dictionary``, ``top_k`` and ``running_threshold``,
    which are not in it. Codes are those of its evaluation mode; overcomplete has no decoder bias.

    Raises
    ------
    RecipeError
        If it is another file, or an autoencoder that does what semlens does not support.
    """
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # readers raise many types of errors
        raise _unreadable(path, "it does not load with weights_only=True") from error
    if not isinstance(saved, Mapping) or "sae" not in saved or "dictionary" not in saved:
        raise _unreadable(path, "it lacks 'sae' or 'dictionary'")
    code = CODES.get(str(saved["sae"]))
    if code is None:
        raise RecipeError(
            f"'{path}' is a {saved['sae']} of overcomplete.",
            f"Expected one of {', '.join(CODES)}.",
            "Train one of these, or use 'semlens fit'.",
        )
    decoder = saved["dictionary"].detach().float()
    encoder, bias = _encoder(saved, decoder, path)
    active = saved.get("top_k") if code == "topk" else None
    threshold = _threshold(saved, len(decoder)) if code == "jumprelu" else None
    if (code == "topk" and not active) or (code == "jumprelu" and threshold is None):
        raise _unreadable(path, "it lacks 'top_k', or the threshold")
    info = DictionaryInfo("", "sae", code, channels_first=False, active=active, error=True)
    return Dictionary(info, encoder, decoder, bias, threshold)


def _encoder(saved: Mapping[str, Any], decoder: Tensor, path: Path) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a linear encoder."""
    names = {name for name in saved if name.startswith("encoder.")}
    tied = {name for name in names if name.startswith("encoder.tied_to.")}
    for weight, bias in ENCODERS:
        if weight in names and names <= {weight, bias}:
            return saved[weight], saved.get(bias)
    if tied and names - tied <= {"encoder.bias"}:
        return decoder, saved.get("encoder.bias")
    raise RecipeError(
        f"The encoder of '{path}' has {', '.join(sorted(names)[:5]) or 'no weights'}.",
        "Expected one linear layer without normalisation.",
        "Train one with encoder_module='linear', or use 'semlens fit'.",
    )


def _threshold(saved: Mapping[str, Any], directions: int) -> Tensor | None:
    """Return the threshold of each direction: of JumpReLU, or the running one of BatchTopK."""
    if "thresholds" in saved:
        return saved["thresholds"].detach().exp()
    running = saved.get("running_threshold")
    return None if running is None else torch.full((directions,), float(running))


def _unreadable(path: Path, reason: str) -> RecipeError:
    return RecipeError(
        f"'{path}' cannot be read as an autoencoder of overcomplete ({reason}).",
        "Expected its state dict, with what is not in it.",
        REMEDY,
    )
