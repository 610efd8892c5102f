"""Files of dictionaries: safetensors with a header of ours, and the formats of other libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from semlens.dictionaries.dictionary import Code, Dictionary, DictionaryInfo
from semlens.errors import RecipeError, reason_of, shortened
from semlens.regular_files import is_file, is_folder, user_path
from semlens.store.atomic_files import save_tensors

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
            "Fold the normalisation into its weights, or train one with 'semlens db fit'.",
        )
    if architecture == "topk" and _active(settings) < 1:
        raise RecipeError(
            f"The configuration of '{folder}' does not say how many latents are active.",
            "Expected the number k.",
            f"Add it to {CONFIG}.",
        )
    return CODES[architecture]


SUFFIXES = (".pt", ".pth")
LATENTS: dict[str, Code] = {
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
    code = LATENTS.get(str(saved["sae"]))
    if code is None:
        raise RecipeError(
            f"'{path}' is a {saved['sae']} of overcomplete.",
            f"Expected one of {', '.join(LATENTS)}.",
            "Train one of these, or use 'semlens db fit'.",
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
        "Train one with encoder_module='linear', or use 'semlens db fit'.",
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
        raise _not_a_dictionary(path, reason_of(error)) from error
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
