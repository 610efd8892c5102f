"""Sparse autoencoders: losses, training on planted directions, dead latents, offset and error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from conftest import LittleNet, assert_says
from emulated_accelerator import emulated_accelerator
from torch import Tensor
from torch.nn import functional

from semlens.dictionaries.dictionary import Dictionary, DictionaryInfo
from semlens.dictionaries.train_sae import (
    SHRINKAGE,
    SaeTraining,
    SparseAutoencoder,
    resample,
    train_sae,
)
from semlens.errors import RecipeError
from semlens.models.with_dictionaries import with_dictionaries
from semlens.relevance.class_relevance import class_seed, component_relevance
from semlens.relevance.make_engine import make_engine
from semlens.relevance.protocols import OUTPUT

INFO = DictionaryInfo("first", "sae", "relu", channels_first=True)


def batches(x: Tensor, size: int = 128, seed: int = 0) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield x[torch.randint(len(x), (size,), generator=generator)]


def planted(active: int, *, shift: float = 0.0, count: int = 20_000) -> tuple[Tensor, Tensor]:
    """Vectors that are sums of a few of 32 known directions in 24 channels, and the directions."""
    generator = torch.Generator().manual_seed(99)
    directions = functional.normalize(torch.randn(32, 24, generator=generator), dim=1)
    used = torch.rand(count, 32, generator=generator).topk(active, 1).indices
    amounts = 0.5 + torch.rand(count, active, generator=generator)
    codes = torch.zeros(count, 32).scatter_(1, used, amounts)
    return codes @ directions + shift, directions


def recovered(directions: Tensor, found: Tensor) -> float:
    """Mean over the known directions of the largest cosine with one that was found."""
    return float((directions @ functional.normalize(found, dim=1).T).amax(1).mean())


def trained(x: Tensor, latents: int = 40, seed: int = 0, **settings) -> Dictionary:
    values = {"train_vectors": 2**16, "step_vectors": 128, "learning_rate": 5e-3, **settings}
    return train_sae(batches(x), x[:4096], latents, INFO, SaeTraining(**values), seed)


def in_float64(dictionary: Dictionary) -> tuple[np.ndarray, ...]:
    names = ("encoder", "decoder", "bias")
    return tuple(getattr(dictionary, name).double().numpy() for name in names)


# -- losses ---------------------------------------------------------------------------------


def little(active: int | None) -> tuple[SparseAutoencoder, Tensor]:
    generator = torch.Generator().manual_seed(3)
    autoencoder = SparseAutoencoder(
        torch.randn(9, 5, generator=generator), torch.randn(5, generator=generator), active
    ).double()
    autoencoder.keep_unit_length()
    with torch.no_grad():
        autoencoder.encoder += 0.3 * torch.randn(9, 5, generator=generator)
        autoencoder.bias += 0.3 * torch.randn(9, generator=generator)
    return autoencoder, torch.randn(40, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("active", [None, 3])
def test_codes_and_losses_are_those_of_the_papers(active):
    autoencoder, x = little(active)
    found = autoencoder.encode(x)
    loss = float(autoencoder.loss(x, found, 0.25).detach())
    encoder, decoder, bias, centre = (
        getattr(autoencoder, name).detach().numpy()
        for name in ("encoder", "decoder", "bias", "centre")
    )
    total = 0.0
    for row, codes in zip(x.numpy(), found.detach().numpy(), strict=True):
        products = encoder @ (row - centre) + bias
        expected = np.where(products > 0, products, 0)
        if active is not None:
            expected[np.argsort(-products)[active:]] = 0
        np.testing.assert_allclose(codes, expected, atol=1e-12)
        error = row - (expected @ decoder + centre)
        total += (error**2).sum() + (0 if active is not None else 0.25 * expected.sum())
    assert loss == pytest.approx(total / len(x), rel=1e-12)
    np.testing.assert_allclose(np.linalg.norm(decoder, axis=1), 1, atol=1e-12)


def test_the_gradient_of_directions_does_not_change_their_length():
    autoencoder, x = little(3)
    autoencoder.loss(x, autoencoder.encode(x), 0.0).backward()
    before = autoencoder.decoder.grad.clone()
    autoencoder.project_gradient()
    along = (autoencoder.decoder.grad * autoencoder.decoder).sum(1)
    assert float(along.abs().max().detach()) < 1e-12
    # what is left is the rest of the gradient, unchanged
    removed = before - autoencoder.decoder.grad
    cosines = functional.cosine_similarity(removed, autoencoder.decoder, dim=1).abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


# -- planted directions ---------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["topk", "vanilla"])
def test_known_directions_are_recovered(variant):
    x, directions = planted(active=2)
    dictionary = trained(x, variant=variant, active=2)
    assert recovered(directions, dictionary.decoder) > 0.95
    chance = recovered(directions, torch.randn(40, 24, generator=torch.Generator().manual_seed(5)))
    assert chance < 0.5  # a random dictionary
    generator = torch.Generator().manual_seed(6)
    columns = [column[torch.randperm(len(x), generator=generator)] for column in x.T]
    shuffled = trained(torch.stack(columns, 1), variant=variant, active=2)
    # the same channels, which no longer vary together
    assert recovered(directions, shuffled.decoder) < 0.55
    assert shuffled.info.explained < dictionary.info.explained - 0.15


def test_codes_of_a_recovered_direction_are_its_amounts():
    x, directions = planted(active=1, shift=2.0)
    dictionary = trained(x, latents=32, active=1, train_vectors=2**15)
    which = (directions @ dictionary.decoder.T).argmax(1)
    codes = dictionary.encode(x)[:, which]
    amounts = (x - 2.0) @ directions.T
    used = amounts.argmax(1)
    rows = torch.arange(len(x))
    agreement = np.corrcoef(codes[rows, used].numpy(), amounts[rows, used].numpy())[0, 1]
    assert agreement > 0.9
    assert float((codes.argmax(1) == used).float().mean()) > 0.95


def test_resampling_brings_dead_latents_to_life():
    x, directions = planted(active=1)
    settings = {"active": 1, "train_vectors": 2**15}
    alive = trained(x, latents=32, **settings)
    without = trained(x, latents=32, resample=False, **settings)
    assert without.info.dead >= 6
    assert alive.info.dead <= 1
    assert recovered(directions, alive.decoder) > 0.97
    assert recovered(directions, without.decoder) < 0.93
    assert alive.info.explained > without.info.explained + 0.05


@pytest.mark.parametrize("active", [None, 2])
def test_a_resampled_latent_points_at_a_badly_reconstructed_vector(active):
    autoencoder, x = little(active)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-3)
    autoencoder.loss(x, autoencoder.encode(x), 0.1).backward()
    optimizer.step()
    x = torch.cat([x * 1e-3 + autoencoder.centre.detach(), 50 * x[:1]])  # only the last is far off
    dead = torch.zeros(9, dtype=torch.bool)
    dead[4] = True
    before = {name: value.detach().clone() for name, value in autoencoder.named_parameters()}
    resample(autoencoder, dead, x, optimizer, torch.Generator().manual_seed(0))
    wanted = functional.normalize(x[-1] - autoencoder.centre.detach(), dim=0)
    torch.testing.assert_close(autoencoder.decoder[4].detach(), wanted)
    length = before["encoder"][~dead].norm(dim=1).mean()
    share = SHRINKAGE if active is None else 1.0
    torch.testing.assert_close(autoencoder.encoder[4].detach(), wanted * share * length)
    assert float(autoencoder.bias[4].detach()) == 0
    for name, value in autoencoder.named_parameters():
        if name != "centre":
            torch.testing.assert_close(value[~dead].detach(), before[name][~dead])
            moments = optimizer.state[value]
            assert not moments["exp_avg"][4].any()
            assert moments["exp_avg"][~dead].any()


def test_a_seed_gives_the_same_autoencoder_and_another_one_does_not():
    x, _ = planted(active=3, count=5000)
    settings = {"train_vectors": 2**12, "active": 3}
    first, again, other = (trained(x, seed=seed, **settings) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert first.info == again.info


@pytest.mark.parametrize("variant", ["topk", "vanilla"])
def test_the_description_agrees_with_plain_equations(variant):
    x, _ = planted(active=3, shift=1.5, count=6000)
    dictionary = trained(x, variant=variant, active=3, train_vectors=2**14)
    encoder, decoder, bias = in_float64(dictionary)
    rows = x[:4096].double().numpy()
    products = rows @ encoder.T + bias
    codes = np.maximum(products, 0)
    if variant == "topk":
        lowest = np.sort(products, 1)[:, -3:-2]
        codes = np.where(products >= lowest, codes, 0)
    info = dictionary.info
    assert info.mean_active == pytest.approx((codes > 0).sum(1).mean(), abs=0.01)
    assert abs(info.dead - int((codes == 0).all(0).sum())) <= 1
    # the decoder bias is what the best constant is close to, so that it may be fitted here
    left = rows - codes @ decoder
    left -= left.mean(0)
    variance = ((rows - rows.mean(0)) ** 2).sum()
    assert info.explained == pytest.approx(1 - (left**2).sum() / variance, abs=0.01)
    assert info.explained <= 1 - (left**2).sum() / variance + 1e-6
    assert (info.code, info.active) == (("topk", 3) if variant == "topk" else ("relu", None))
    assert (info.vectors, info.error, info.seed) == (2**14, True, 0)


def briefly_trained(device: str) -> Dictionary:
    x, _ = planted(active=1, count=4000)
    training = SaeTraining(active=1, train_vectors=128 * 40, step_vectors=128)
    with emulated_accelerator(float64=False) if device != "cpu" else nullcontext():
        return train_sae(batches(x), x[:1000], 32, INFO, training, device=device)


@pytest.mark.slow
def test_it_is_trained_on_a_device_as_on_the_cpu():
    # in a new process: PyTorch counts devices at the first backward pass
    with get_context("spawn").Pool(1) as pool:
        found = pool.apply(briefly_trained, ["emulated:0"])
    expected = briefly_trained("cpu")
    torch.testing.assert_close(found.decoder, expected.decoder, rtol=1e-4, atol=1e-5)
    assert found.decoder.device == torch.device("cpu")
    assert found.info == expected.info


# -- offset and error -----------------------------------------------------------------------


def with_offset(active: int | None, channels: int = 6, latents: int = 8) -> Dictionary:
    generator = torch.Generator().manual_seed(2)
    autoencoder = SparseAutoencoder(
        torch.randn(latents, channels, generator=generator),
        0.5 + torch.rand(channels, generator=generator), active,
    )  # fmt: skip
    code = "relu" if active is None else "topk"
    info = DictionaryInfo("first", "sae", code, channels_first=True, active=active, error=True)
    return autoencoder.dictionary(info, scale=0.7)


@pytest.mark.parametrize("active", [None, 2])
def test_directions_and_error_add_up_to_the_activations(active):
    dictionary = with_offset(active)
    x = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    values = dictionary.encode(x)
    torch.testing.assert_close(dictionary.decode(values, x), x, rtol=0, atol=1e-14)
    error = x - values[:, :-1] @ dictionary.decoder.double()
    torch.testing.assert_close(values[:, -1], error.norm(dim=1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("active", [None, 2])
def test_a_dictionary_has_the_codes_of_the_autoencoder_that_it_is_of(active):
    autoencoder, x = little(active)
    dictionary = autoencoder.float().dictionary(INFO if active is None else DictionaryInfo(
        "first", "sae", "topk", channels_first=True, active=active), scale=2.5)  # fmt: skip
    x = x.float()
    torch.testing.assert_close(dictionary.encode(2.5 * x), 2.5 * autoencoder.encode(x).detach())


@pytest.mark.filterwarnings("ignore:With rules")  # a little net of random weights
@pytest.mark.parametrize(("active", "rules"), [(2, "auto"), (None, "gradient")])
def test_relevance_of_latents_and_error_sums_to_that_of_the_layer(subject, active, rules):
    dictionary = with_offset(active)
    model = with_dictionaries(subject.module, [dictionary])
    inputs = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(7)) * 2 - 1
    engine = make_engine(model, inputs, ["first", "first@sae"], rules=rules)
    trace = engine.trace(inputs)
    target = torch.tensor([0, 1, 2])
    result = trace.backward({OUTPUT: class_seed(trace, target[None])}, ["first", "first@sae"])
    of_layer, of_codes = (
        component_relevance(trace, name, result.layers[name])[0].sum(1)
        for name in ("first", "first@sae")
    )
    assert of_codes.shape[1] == dictionary.directions + 1
    torch.testing.assert_close(of_codes.sum(1), of_layer.sum(1), rtol=1e-3, atol=1e-5)
    # and neither all in the error, nor all in the latents
    assert (of_codes[:, -1].abs() > 1e-4).all()
    assert (of_codes[:, :-1].abs().sum(1) > 1e-4).all()
    # the relevance of the layer is that of the model without dictionary
    bare = make_engine(LittleNet(), inputs, ["first"], rules=rules).trace(inputs)
    plain = bare.backward({OUTPUT: class_seed(bare, target[None])}, ["first"])
    expected = component_relevance(bare, "first", plain.layers["first"])[0].sum(1)
    torch.testing.assert_close(of_layer, expected, rtol=1e-4, atol=1e-6)


# -- settings -------------------------------------------------------------------------------


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(RecipeError) as error:
        SaeTraining(active=9).active_of(8)
    assert_says(error.value, "9 active latents", "at most 8", "more latents")
    with pytest.raises(RecipeError) as error:
        SaeTraining(learning_rate=0)
    assert_says(error.value, "learning_rate is '0'", "above 0 to 1")
    assert [SaeTraining().active_of(latents) for latents in (2, 64, 256, 4096)] == [2, 4, 16, 32]


def test_a_learning_rate_that_is_too_large_shows_in_what_is_explained():
    x, _ = planted(active=1, count=2000)
    worse = trained(x, train_vectors=2**14, learning_rate=1.0)
    assert all(torch.isfinite(value).all() for value in worse.tensors().values())
    assert worse.info.explained < 0.5 < trained(x, train_vectors=2**14, active=1).info.explained


def test_constant_activations_give_an_autoencoder_that_says_nothing():
    x = torch.full((100, 4), 3.0)
    dictionary = trained(x, latents=8, train_vectors=2**10)
    assert torch.isfinite(dictionary.decoder).all()
    values = dictionary.encode(x)
    torch.testing.assert_close(dictionary.decode(values, x), x)
