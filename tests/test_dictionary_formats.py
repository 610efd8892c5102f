"""Autoencoders that were trained elsewhere: the files of SAELens and overcomplete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_says
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from semlens.dictionaries.dictionary import Dictionary, DictionaryInfo
from semlens.errors import RecipeError
from semlens.store.dictionary_files import load_dictionary, save_dictionary

CHANNELS, LATENTS, K = 12, 30, 5


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = 1 + 2 * random(50, CHANNELS, seed=9)


def in_float64(weights: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.double().numpy() for name, value in weights.items()}


def k_largest(values: np.ndarray) -> np.ndarray:
    """ReLU of the K largest of each row, otherwise 0."""
    kept = np.zeros_like(values)
    for row, out in zip(values, kept, strict=True):
        largest = np.argsort(-row)[:K]
        out[largest] = np.maximum(row[largest], 0)
    return kept


def assert_sums_up(dictionary: Dictionary) -> None:
    x = X.double()
    torch.testing.assert_close(dictionary.decode(dictionary.encode(x), x), x, rtol=0, atol=1e-12)


# -- SAELens --------------------------------------------------------------------------------


def write_saelens(folder: Path, architecture: str, **settings: Any) -> dict[str, np.ndarray]:
    """Write what ``SAE.save_model`` of sae-lens 6.54 writes; return its weights."""
    folder.mkdir()
    config = {
        "d_in": CHANNELS, "d_sae": LATENTS, "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.1.hook_resid_post"},
        **({"k": K, "rescale_acts_by_decoder_norm": False} if architecture == "topk" else {}),
        **settings, "architecture": architecture,
    }  # fmt: skip
    weights = {
        "W_dec": random(LATENTS, CHANNELS, seed=1), "W_enc": random(CHANNELS, LATENTS, seed=2),
        "b_dec": random(CHANNELS, seed=3), "b_enc": random(LATENTS, seed=4),
    }  # fmt: skip
    if architecture == "jumprelu":
        weights["threshold"] = random(LATENTS, seed=5).abs()
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(weights, folder / "sae_weights.safetensors")
    return in_float64(weights)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("standard", {}),
        ("standard", {"apply_b_dec_to_input": False}),
        ("topk", {}),
        ("topk", {"rescale_acts_by_decoder_norm": True}),
        ("jumprelu", {}),
    ],
)
def test_codes_of_saelens_are_those_of_its_formulas(tmp_path, architecture, settings):
    w = write_saelens(tmp_path / "sae", architecture, **settings)
    dictionary = load_dictionary(tmp_path / "sae")
    centre = w["b_dec"] * settings.get("apply_b_dec_to_input", True)
    products = (X.double().numpy() - centre) @ w["W_enc"] + w["b_enc"]
    lengths = np.linalg.norm(w["W_dec"], axis=1)
    rescaled = settings.get("rescale_acts_by_decoder_norm", False)
    codes = {
        "standard": lambda: np.maximum(products, 0),
        "topk": lambda: k_largest(products * lengths if rescaled else products),
        "jumprelu": lambda: np.maximum(products, 0) * (products > w["threshold"]),
    }[architecture]()
    added = codes / lengths @ w["W_dec"] if rescaled else codes @ w["W_dec"]
    found = dictionary.encode(X)
    np.testing.assert_allclose(found[:, :-1], codes, atol=1e-4)
    np.testing.assert_allclose(found[:, :-1] @ dictionary.decoder, added, atol=1e-4)
    # the error is what no latent adds: with the decoder bias
    left = np.linalg.norm(X.numpy() - added, axis=1)
    np.testing.assert_allclose(found[:, -1], left, rtol=1e-4)
    assert dictionary.info.layer == "blocks.1.hook_resid_post"
    assert dictionary.info.model is None
    assert_sums_up(dictionary)


def test_what_saelens_does_and_semlens_does_not_is_refused(tmp_path):
    write_saelens(tmp_path / "norm", "standard", normalize_activations="layer_norm")
    with pytest.raises(RecipeError) as error:
        load_dictionary(tmp_path / "norm")
    assert_says(error.value, "'layer_norm'", "without normalisation", "Fold")
    write_saelens(tmp_path / "gated", "gated")
    with pytest.raises(RecipeError) as error:
        load_dictionary(tmp_path / "gated")
    assert_says(error.value, "'gated'", "standard, topk, jumprelu")


HOSTILE_SETTINGS: dict[str, str] = {
    "[]": "valid dictionary", "null": "valid dictionary", "3": "valid dictionary",
    '"x"': "valid dictionary", "{": "Expecting", '{"k": "many"}': "k: ", '{"k": 0}': "k: ",
    '{"k": 1e400}': "not finite", '{"k": Infinity}': "not finite", '{"k": -1}': "k: ",
    '{"k": 1.5}': "k: ", '{"k": [1]}': "k: ", '{"k": 31}': "31 of 30 latents",
    '{"k": null}': "how many latents", '{"activation_fn_kwargs": [1]}': "activation_fn_kwargs",
    '{"activation_fn_kwargs": {"k": {}}}': "kwargs.k", '{"hook_name": 3}': "hook_name",
    '{"hook_name": "\\ud800"}': "no Unicode", '{"metadata": [1]}': "metadata",
    '{"architecture": ["topk"]}': "architecture", '{"normalize_activations": {}}': "normalize",
    '{"apply_b_dec_to_input": []}': "apply_b_dec", '{"k": 5, "k": 6}': "'k' is there twice",
    '{"architecture": "jumprelu"}': "has no threshold", "[" * 100_000: "levels",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "part"), HOSTILE_SETTINGS.items(), ids=range(len(HOSTILE_SETTINGS))
)
def test_settings_of_saelens_are_checked(tmp_path, text, part):
    write_saelens(tmp_path / "sae", "topk")
    usual = '{"architecture": "topk", '
    if text.startswith('{"') and "architecture" not in text:
        text = usual + text[1:]
    (tmp_path / "sae" / "cfg.json").write_text(text)
    with pytest.raises(RecipeError) as error:
        load_dictionary(tmp_path / "sae")
    assert_says(error.value, part)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("W_enc", random(LATENTS, CHANNELS, seed=1), "cannot be read"),
        ("W_enc", random(CHANNELS, seed=1), ""),
        ("W_dec", random(LATENTS, seed=1), ""),
        ("W_dec", random(LATENTS, CHANNELS, seed=1) * float("nan"), "decoder holds NaN"),
        ("b_enc", torch.full((LATENTS,), float("inf")), "bias holds NaN or infinite"),
        ("b_enc", random(3, seed=1), ""),
        ("b_dec", random(3, seed=1), ""),
        ("b_dec", random(0, seed=1), ""),
        ("threshold", random(3, seed=1), "do not fit"),
    ],
    ids=range(9),
)
def test_weights_of_saelens_are_checked(tmp_path, name, value, part):
    write_saelens(tmp_path / "sae", "jumprelu")
    weights = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    save_file({**weights, name: value}, tmp_path / "sae" / "sae_weights.safetensors")
    with pytest.raises(RecipeError) as error:
        load_dictionary(tmp_path / "sae")
    assert_says(error.value, part)


@pytest.mark.parametrize(
    ("name", "more", "part"),
    [
        ("SAE", {"dictionary": [[1.0]]}, "decoder is a list"),
        ("SAE", {"dictionary": random(CHANNELS, seed=1)}, "do not fit"),
        ("SAE", {"dictionary": random(3, 4, 5, seed=1)}, "do not fit"),
        ("SAE", {"dictionary": torch.zeros(0, CHANNELS)}, "do not fit"),
        ("SAE", {"dictionary": torch.full((LATENTS, CHANNELS), torch.nan)}, "decoder holds NaN"),
        ("SAE", {"dictionary": torch.zeros(LATENTS, CHANNELS, dtype=torch.int64)}, "torch.int64"),
        ("SAE", {"encoder.final_block.0.weight": [1.0]}, "encoder is a list"),
        ("SAE", {"encoder.final_block.0.weight": random(3, 4, seed=1)}, "do not fit"),
        ("SAE", {"encoder.final_block.0.bias": "x"}, "bias is a str"),
        ("SAE", {"encoder.final_block.0.bias": torch.tensor(0.0)}, "do not fit"),
        ("TopKSAE", {"top_k": "many"}, "many of 30"),
        ("TopKSAE", {"top_k": 1e400}, "inf of 30"),
        ("TopKSAE", {"top_k": -1}, "-1 of 30"),
        ("TopKSAE", {"top_k": 31}, "31 of 30"),
        ("TopKSAE", {"top_k": [5]}, "[5] of 30"),
        ("JumpSAE", {}, "lacks"),
        ("JumpSAE", {"thresholds": [0.1]}, "threshold is no number"),
        ("JumpSAE", {"thresholds": random(3, seed=1)}, "do not fit"),
        ("JumpSAE", {"thresholds": torch.full((LATENTS,), 1e30)}, "threshold holds NaN or inf"),
        ("BatchTopKSAE", {"running_threshold": "x"}, "threshold is no number"),
        ("BatchTopKSAE", {"running_threshold": float("nan")}, "threshold holds NaN"),
        ("BatchTopKSAE", {"running_threshold": X}, "threshold is no number"),
        ("SAE", {"sae": ["SAE"]}, "is a ['SAE']"),
    ],
    ids=range(23),
)
def test_state_dicts_of_overcomplete_are_checked(tmp_path, name, more, part):
    write_overcomplete(tmp_path / "sae.pt", name, **more)
    with pytest.raises(RecipeError) as error:
        load_dictionary(tmp_path / "sae.pt")
    assert_says(error.value, part)


def test_a_tensor_that_claims_more_values_than_the_file_has_is_refused(tmp_path):
    write_overcomplete(tmp_path / "sae.pt", "SAE")
    state = torch.load(tmp_path / "sae.pt", weights_only=True)
    state["dictionary"] = torch.zeros(1).expand(10**6, 10**6)
    torch.save(state, tmp_path / "sae.pt")
    with pytest.raises(RecipeError, match="1000000000000 values that the file does not have"):
        load_dictionary(tmp_path / "sae.pt")


def test_odd_keys_beside_the_weights_are_no_obstacle(tmp_path):
    write_overcomplete(tmp_path / "sae.pt", "SAE")
    state = torch.load(tmp_path / "sae.pt", weights_only=True)
    torch.save({3: "an odd key", None: 1, **state}, tmp_path / "sae.pt")
    assert load_dictionary(tmp_path / "sae.pt").directions == LATENTS


# -- overcomplete ---------------------------------------------------------------------------


def write_overcomplete(path: Path, name: str, **more: Any) -> dict[str, np.ndarray]:
    """Write the lines of docs/sae.md for a class of overcomplete 0.3; return its weights."""
    weights = {
        "encoder.final_block.0.weight": random(LATENTS, CHANNELS, seed=2),
        "encoder.final_block.0.bias": random(LATENTS, seed=4),
        "dictionary._weights": 3 * random(LATENTS, CHANNELS, seed=1),
        "dictionary.multiplier": torch.tensor(0.5),
        "dictionary": nn.Parameter(random(LATENTS, CHANNELS, seed=1)),
    }
    tensors = {key: value for key, value in more.items() if isinstance(value, Tensor)}
    torch.save({"sae": name, "top_k": None, "running_threshold": None, **weights, **more}, path)
    return in_float64({k: v.detach() for k, v in {**weights, **tensors}.items()})


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("SAE", {}),
        ("TopKSAE", {"top_k": K}),
        ("RATopKSAE", {"top_k": K}),
        ("BatchTopKSAE", {"top_k": 500, "running_threshold": torch.tensor(2.5)}),
        ("JumpSAE", {"thresholds": random(LATENTS, seed=5)}),
    ],
)
def test_codes_of_overcomplete_are_those_of_its_formulas(tmp_path, name, more):
    w = write_overcomplete(tmp_path / "sae.pt", name, **more)
    dictionary = load_dictionary(tmp_path / "sae.pt")
    products = X.double().numpy() @ w["encoder.final_block.0.weight"].T
    products += w["encoder.final_block.0.bias"]
    above = np.maximum(products, 0)
    codes = {
        "SAE": lambda: above,
        "TopKSAE": lambda: k_largest(products),
        "RATopKSAE": lambda: k_largest(products),
        "BatchTopKSAE": lambda: above * (above >= 2.5),
        "JumpSAE": lambda: above * (above >= np.exp(w["thresholds"])),
    }[name]()
    found = dictionary.encode(X)
    np.testing.assert_allclose(found[:, :-1], codes, atol=1e-4)
    np.testing.assert_array_equal(dictionary.decoder, w["dictionary"].astype(np.float32))
    assert_sums_up(dictionary)


def test_tied_and_untied_encoders_are_read(tmp_path):
    state = {"dictionary": random(LATENTS, CHANNELS, seed=1), "encoder.bias": random(30, seed=4)}
    products = X @ state["dictionary"].T + state["encoder.bias"]
    for key in ("encoder.tied_to._weights", "encoder.weight"):
        file = tmp_path / f"{key}.pt"
        torch.save({"sae": "SAE", **state, key: state["dictionary"]}, file)
        torch.testing.assert_close(load_dictionary(file).encode(X)[:, :-1], products.relu())


class Touch:
    """What runs code when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.file,)


def test_a_pickled_autoencoder_is_refused_and_its_code_is_not_run(tmp_path):
    torch.save(Touch(tmp_path / "ran"), tmp_path / "sae.pt")
    with pytest.raises(RecipeError) as error:
        load_dictionary(tmp_path / "sae.pt")
    assert_says(error.value, "weights_only=True", "state dict", "sae.eval()", "sae.state_dict()")
    assert not (tmp_path / "ran").exists()


def test_files_of_overcomplete_that_do_not_say_enough_are_refused(tmp_path):
    file = tmp_path / "sae.pt"
    for name, more, parts in (
        ("MpSAE", {}, ("a MpSAE", "TopKSAE", "semlens db fit")),
        ("TopKSAE", {}, ("lacks 'top_k'",)),
        ("BatchTopKSAE", {"top_k": 9}, ("lacks 'top_k', or the threshold",)),
        ("SAE", {"encoder.final_block.1.running_mean": X}, ("running_mean", "one linear layer")),
    ):
        write_overcomplete(file, name, **more)
        with pytest.raises(RecipeError) as error:
            load_dictionary(file)
        assert_says(error.value, *parts)
    torch.save({"encoder.weight": X}, file)  # a plain state dict may be of any class
    with pytest.raises(RecipeError) as error:
        load_dictionary(file)
    assert_says(error.value, "lacks 'sae'", '"sae": type(sae).__name__')


# -- semlens --------------------------------------------------------------------------------


def test_a_file_of_semlens_is_read_as_it_was_written(tmp_path):
    info = DictionaryInfo(
        "layer", "sae", "topk", channels_first=True, active=4, error=True, seed=3, model="m",
        data="d", vectors=7, explained=0.5, mean_active=3.5, dead=2,
    )  # fmt: skip
    written = Dictionary(
        info, random(9, 5, seed=0), random(9, 5, seed=1), random(9, seed=2), random(9, seed=3)
    )
    save_dictionary(tmp_path / "sae.safetensors", written)
    read = load_dictionary(tmp_path / "sae.safetensors")
    assert (read.info, read.fingerprint) == (info, written.fingerprint)
    torch.testing.assert_close(read.encode(X[:, :5]), written.encode(X[:, :5]), rtol=0, atol=0)
