"""Files of dictionaries: safetensors with a header of ours, and the formats of other libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, BeforeValidator, PositiveInt, TypeAdapter
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from semlens.dictionaries.dictionary import Code, Dictionary, DictionaryInfo
from semlens.documents import first_problem, parse_json, read_json
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
        settings = SaeLensSettings.model_validate(read_json(folder / CONFIG))
        weights = load_file(folder / WEIGHTS)
        encoder, decoder = weights["W_enc"].T.float(), weights["W_dec"].float()
        encoder_bias, decoder_bias = weights["b_enc"].float(), weights["b_dec"].float()
        if settings.apply_b_dec_to_input:
            encoder_bias = encoder_bias - encoder @ decoder_bias
    except Exception as error:  # readers raise many types of errors
        raise RecipeError(
            f"'{folder}' cannot be read as an autoencoder of SAELens ({first_problem(error)}).",
            f"Expected {CONFIG} with its settings, and {WEIGHTS} with W_enc [c k], W_dec [k c], "
            "b_enc [k] and b_dec [c].",
            "Save it again with SAE.save_model.",
        ) from error
    code = _code(settings, folder)
    info = DictionaryInfo(
        settings.hook_name or settings.metadata.hook_name or "",
        "sae",
        code,
        channels_first=False,
        active=settings.active if code == "topk" else None,
        error=True,
    )
    if code == "topk" and settings.rescale_acts_by_decoder_norm:  # ranked by what they add
        lengths = decoder.norm(dim=1).clamp_min(1e-12)
        encoder, encoder_bias = encoder * lengths[:, None], encoder_bias * lengths
        decoder = decoder / lengths[:, None]
    return checked_dictionary(
        info, encoder, decoder, encoder_bias, weights.get("threshold"), folder / WEIGHTS
    )


class _Metadata(BaseModel):
    hook_name: str | None = None


class _Arguments(BaseModel):
    k: PositiveInt | None = None


class SaeLensSettings(BaseModel):
    """What is read of the configuration of SAELens; in older files some of it is elsewhere."""

    architecture: str = "standard"
    activation_fn_str: str | None = None
    activation_fn_kwargs: _Arguments | None = None
    k: PositiveInt | None = None
    normalize_activations: str | None = "none"
    apply_b_dec_to_input: bool = True
    rescale_acts_by_decoder_norm: bool = False
    hook_name: str | None = None
    metadata: Annotated[_Metadata, BeforeValidator(lambda value: value or {})] = _Metadata()

    @property
    def active(self) -> int | None:
        """Number of active latents per position."""
        return self.k or (self.activation_fn_kwargs and self.activation_fn_kwargs.k)


def _code(settings: SaeLensSettings, folder: Path) -> Code:
    """Return how the codes are computed."""
    architecture = settings.architecture
    if architecture == "standard" and settings.activation_fn_str == "topk":
        architecture = "topk"
    normalised = settings.normalize_activations
    if architecture not in CODES or normalised not in ("none", None):
        raise RecipeError(
            f"The autoencoder '{folder}' has the architecture '{shortened(architecture)}' and "
            f"normalises activations by '{shortened(normalised)}'.",
            f"Expected one of {', '.join(CODES)}, without normalisation.",
            "Fold the normalisation into its weights, or train one with 'semlens db fit'.",
        )
    if architecture == "topk" and not settings.active:
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
    if not isinstance(saved, Mapping) or not {"sae", "dictionary"} <= saved.keys():
        raise _unreadable(path, "it lacks 'sae' or 'dictionary'")
    code = LATENTS.get(str(saved["sae"]))
    if code is None:
        raise RecipeError(
            f"'{path}' is a {shortened(saved['sae'])} of overcomplete.",
            f"Expected one of {', '.join(LATENTS)}.",
            "Train one of these, or use 'semlens db fit'.",
        )
    encoder, bias = _encoder(saved, path)
    active = saved.get("top_k") if code == "topk" else None
    threshold = _threshold(saved, path) if code == "jumprelu" else None
    if (code == "topk" and not active) or (code == "jumprelu" and threshold is None):
        raise _unreadable(path, "it lacks 'top_k', or the threshold")
    info = DictionaryInfo("", "sae", code, channels_first=False, active=active, error=True)
    return checked_dictionary(info, encoder, saved["dictionary"], bias, threshold, path)


def _encoder(saved: Mapping[Any, Any], path: Path) -> tuple[Any, Any]:
    """Return weight and bias of a linear encoder."""
    names = {name for name in saved if isinstance(name, str) and name.startswith("encoder.")}
    tied = {name for name in names if name.startswith("encoder.tied_to.")}
    for weight, bias in ENCODERS:
        if weight in names and names <= {weight, bias}:
            return saved[weight], saved.get(bias)
    if tied and names - tied <= {"encoder.bias"}:
        return saved["dictionary"], saved.get("encoder.bias")
    raise RecipeError(
        f"The encoder of '{path}' has {shortened(', '.join(sorted(names)[:5])) or 'no weights'}.",
        "Expected one linear layer without normalisation.",
        "Train one with encoder_module='linear', or use 'semlens db fit'.",
    )


def _threshold(saved: Mapping[Any, Any], path: Path) -> Tensor | None:
    """Return the thresholds of JumpReLU, or the running one of BatchTopK for each direction."""
    try:
        if "thresholds" in saved:
            return saved["thresholds"].detach().exp()
        running = saved.get("running_threshold")
        return None if running is None else torch.full((len(saved["dictionary"]),), float(running))
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(path, f"its threshold is no number ({reason_of(error)})") from error


def _unreadable(path: Path, reason: str) -> RecipeError:
    return RecipeError(
        f"'{path}' cannot be read as an autoencoder of overcomplete ({reason}).",
        "Expected its state dict, with what is not in it.",
        REMEDY,
    )


def checked_dictionary(
    info: DictionaryInfo, encoder: Any, decoder: Any, bias: Any, threshold: Any, path: str | Path
) -> Dictionary:
    """Return a dictionary of what was read from a file.

    Raises
    ------
    RecipeError
        If these are no finite tensors of fitting shapes, a file claims more values than it has, or
        the threshold of JumpReLU or the number of active latents is missing.
    """
    given: dict[str, Any] = {
        "encoder": encoder, "decoder": decoder, "bias": bias, "threshold": threshold,
    }  # fmt: skip
    optional = ("bias", "threshold")
    tensors: dict[str, Any] = {
        n: value for n, value in given.items() if value is not None or n not in optional
    }
    problem = next(filter(None, (_problem(*item) for item in tensors.items())), None)
    if problem is None:
        shapes = {name: list(value.shape) for name, value in tensors.items()}
        found = shapes["decoder"]
        expected = {"encoder": found, "decoder": found, "bias": found[:1], "threshold": found[:1]}
        if len(found) != 2 or 0 in found or any(s != expected[n] for n, s in shapes.items()):
            problem = f"the shapes {', '.join(f'{n} {s}' for n, s in shapes.items())} do not fit"
        elif info.code in _WITH_THRESHOLD and threshold is None:
            problem = f"the code '{info.code}' has no threshold"
        elif info.code == "topk" and not (
            isinstance(info.active, int) and 1 <= info.active <= found[0]
        ):
            problem = f"{shortened(info.active, 40)} of {found[0]} latents are active"
    if problem is not None:
        raise RecipeError(
            f"The dictionary '{shortened(path)}' cannot be used: {problem}.",
            "Expected finite floating-point tensors, encoder and decoder [k c], bias and threshold "
            "[k], with a threshold for JumpReLU, and from 1 to k active latents for TopK.",
            "Save it again, or train one with 'semlens db fit'.",
        )
    return Dictionary(info, **tensors)


_WITH_THRESHOLD = ("jumprelu", "nearest")


def _problem(name: str, value: Any) -> str | None:
    """Return what is wrong with a tensor of a dictionary."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_sparse:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        return f"the {name} is a {kind}"
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return f"the {name} claims {value.numel()} values that the file does not have"
    if not value.isfinite().all():
        return f"the {name} holds NaN or infinite values"
    return None


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
        info = _INFO.validate_python(parse_json(text))
    except ValueError as error:
        raise _not_a_dictionary(path, "its header does not describe one") from error
    return checked_dictionary(info, **tensors, path=path)


def _not_a_dictionary(path: str | Path, reason: str) -> RecipeError:
    return RecipeError(
        f"'{shortened(str(path))}' is not a file of directions ({reason}).",
        f"Expected a file that semlens wrote, a folder of SAELens with {CONFIG}, or a state dict "
        "of overcomplete that ends in .pt.",
        "Check the path; 'semlens db fit' makes such a file.",
    )
