"""Sparse autoencoders in the format of SAELens: ``cfg.json`` beside ``sae_weights.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from semlens.dictionaries.dictionary import Code, Dictionary, DictionaryInfo
from semlens.errors import RecipeError

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"

CODES: dict[str, Code] = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
"""Code by the architecture that the configuration names."""


def load_saelens(folder: Path) -> Dictionary:
    """Read an autoencoder of SAELens (Bloom et al. 2024).

    Its layer is the ``hook_name`` of the configuration.

    Raises
    ------
    RecipeError
        If a file is missing or damaged, or the autoencoder does what semlens does not support.
    """
    try:
        settings: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        weights = load_file(folder / WEIGHTS)
        encoder, decoder = weights["W_enc"].T.float(), weights["W_dec"].float()
        encoder_bias, decoder_bias = weights["b_enc"].float(), weights["b_dec"].float()
    except Exception as error:  # readers raise many types of errors
        raise RecipeError(
            f"'{folder}' cannot be read as an autoencoder of SAELens ({error!r}).",
            f"Expected {CONFIG} and {WEIGHTS} with W_enc, W_dec, b_enc and b_dec.",
            "Save it again with SAE.save_model.",
        ) from error
    code = _code(settings, folder)
    if settings.get("apply_b_dec_to_input", True):
        encoder_bias = encoder_bias - encoder @ decoder_bias
    info = DictionaryInfo(
        str(settings.get("hook_name") or _metadata(settings).get("hook_name") or ""),
        "sae",
        code,
        channels_first=False,
        active=_active(settings) if code == "topk" else None,
        error=True,
    )
    threshold: Tensor | None = weights.get("threshold")
    rescaled = settings.get("rescale_acts_by_decoder_norm", False)
    if code == "topk" and rescaled:  # ranked by the length of what they add
        lengths = decoder.norm(dim=1).clamp_min(1e-12)
        encoder, encoder_bias = encoder * lengths[:, None], encoder_bias * lengths
        decoder = decoder / lengths[:, None]
    return Dictionary(info, encoder, decoder, encoder_bias, threshold)


def _metadata(settings: dict[str, Any]) -> dict[str, Any]:
    found = settings.get("metadata")
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _active(settings: dict[str, Any]) -> int:
    """Return the number of active latents: at the top in recent files, or in the arguments."""
    arguments: dict[str, Any] = settings.get("activation_fn_kwargs") or {}
    return int(settings.get("k") or arguments.get("k") or 0)


def _code(settings: dict[str, Any], folder: Path) -> Code:
    """Return how the codes are computed."""
    architecture = str(settings.get("architecture", "standard"))
    if architecture == "standard" and settings.get("activation_fn_str") == "topk":
        architecture = "topk"
    normalised = settings.get("normalize_activations", "none")
    if architecture not in CODES or normalised not in ("none", None):
        raise RecipeError(
            f"The autoencoder '{folder}' has the architecture '{architecture}' and normalises "
            f"activations by '{normalised}'.",
            f"Expected one of {', '.join(CODES)}, without normalisation.",
            "Fold the normalisation into its weights, or train one with 'semlens fit'.",
        )
    if architecture == "topk" and _active(settings) < 1:
        raise RecipeError(
            f"The configuration of '{folder}' does not say how many latents are active.",
            "Expected the number k.",
            f"Add it to {CONFIG}.",
        )
    return CODES[architecture]
