"""Dictionaries: their codes by formula, their fits, and a model that is read through them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import LittleNet, assert_says, to_tensor
from relevance_cases import noise, seeded
from scipy.optimize import linear_sum_assignment, nnls
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA
from torch import nn
from torch.nn import functional

from semlens.dictionaries.dictionary import Dictionary, DictionaryInfo
from semlens.dictionaries.fit import FITS, fit_directions
from semlens.dictionaries.operators import nonnegative_least_squares
from semlens.dictionaries.request import FITTED, head_dictionary, parse_components
from semlens.errors import LayerError, RecipeError
from semlens.models.ablation import pruned
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel
from semlens.models.with_dictionaries import with_dictionaries
from semlens.relevance.class_relevance import class_seed
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.make_engine import GradientEngine
from semlens.relevance.protocols import OUTPUT
from semlens.stages.collect import layer_layouts

INFO = DictionaryInfo("first", "nmf", "linear", channels_first=True)


def random(*shape: int, seed: int = 0, nonnegative: bool = False) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.abs() if nonnegative else values


def planted(count: int = 400, channels: int = 12, directions: int = 4, *, signed: bool = False):
    """Return sums of few directions with nonnegative codes, and the directions [k c]."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(directions, channels))
    rows = rows if signed else np.maximum(rows, 0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    codes = rng.exponential(size=(count, directions)) * (rng.random((count, directions)) < 0.4)
    return torch.from_numpy((codes @ rows).astype(np.float32)), rows


def recovered(dictionary: Dictionary, rows: np.ndarray) -> float:
    """Return the mean cosine of planted directions with those that match them best, one to one."""
    found = dictionary.decoder.double().numpy()
    cosines = rows @ (found / np.linalg.norm(found, axis=1, keepdims=True)).T
    return float(cosines[linear_sum_assignment(-cosines)].mean())


def infos(code: str, **options) -> DictionaryInfo:
    return DictionaryInfo("first", "sae", code, channels_first=False, **options)  # type: ignore[arg-type]


# --- codes


def test_nonnegative_codes_are_those_of_scipy_whatever_the_signs():
    for seed, nonnegative in ((0, True), (1, False), (2, False)):
        x = random(12, 9, seed=seed, nonnegative=nonnegative)
        directions = random(5, 9, seed=seed + 10, nonnegative=nonnegative)
        expected = [nnls(directions.T.double().numpy(), row)[0] for row in x.double().numpy()]
        found = nonnegative_least_squares(x, directions)
        np.testing.assert_allclose(found, expected, atol=2e-4)
        alone = torch.cat([nonnegative_least_squares(row[None], directions) for row in x])
        np.testing.assert_allclose(alone, found, atol=1e-6)  # no row depends on the others
    assert nonnegative_least_squares(torch.zeros(0, 9), directions).shape == (0, 5)


def test_nonnegative_codes_are_exact_where_directions_are_nearly_or_fully_dependent():
    """Coordinate descent needs thousands of sweeps between directions that nearly cancel."""
    x, opposed = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0], [-0.999, 0.0447]])
    expected = nnls(opposed.T.double().numpy(), x[0].double().numpy())[0]
    assert expected[1] > 22
    np.testing.assert_allclose(nonnegative_least_squares(x, opposed)[0], expected, rtol=1e-6)
    rng = np.random.default_rng(0)
    few = rng.normal(size=(4, 7))[rng.integers(0, 4, 18)] * rng.choice([-1, 1], (18, 1))
    cases = {
        "near": few + 1e-3 * rng.normal(size=few.shape),
        "repeated": few,
        "more than channels": rng.normal(size=(40, 7)),
        "with a zero": np.vstack([few[:5], np.zeros(7)]),
    }
    rows = rng.normal(size=(60, 7))
    for name, made in cases.items():
        codes = nonnegative_least_squares(torch.from_numpy(rows), torch.from_numpy(made)).numpy()
        assert (codes >= 0).all()
        least = [nnls(made.T, row, maxiter=5000)[1] for row in rows]
        left = np.linalg.norm(rows - codes @ made, axis=1)
        np.testing.assert_allclose(left, least, atol=1e-6, err_msg=name)
    damaged = torch.from_numpy(rows).index_fill(0, torch.tensor([3]), torch.nan)
    found = nonnegative_least_squares(damaged, torch.from_numpy(cases["near"]))
    assert found[3].isnan().all() and found[[2, 4]].isfinite().all()


def test_codes_of_autoencoders_are_their_formulas():
    x, encoder, bias = random(30, 7), random(11, 7, seed=1), random(11, seed=2)
    threshold = random(11, seed=3)
    products = x.double().numpy() @ encoder.double().numpy().T + bias.double().numpy()
    third = np.sort(products, axis=1)[:, -3:-2]
    expected = {
        "linear": products,
        "relu": np.maximum(products, 0),
        "jumprelu": products * (products > np.maximum(threshold.numpy(), 0)),
        "topk": np.maximum(products, 0) * (products >= third),
    }
    for code, values in expected.items():
        made = Dictionary(infos(code, active=3), encoder, encoder, bias, threshold)
        np.testing.assert_allclose(made(x), values, atol=1e-5, err_msg=code)


@pytest.mark.parametrize("code", ["linear", "relu", "topk", "nonnegative"])
def test_directions_and_error_add_up_to_the_activations(code):
    x = random(2, 7, 3, 4).double()
    made = Dictionary(
        DictionaryInfo("first", "sae", code, channels_first=True, active=2, error=True),
        random(5, 7, seed=1), random(5, 7, seed=2), random(5, seed=3) if code != "nonnegative"
        else None,
    ).double()  # fmt: skip
    codes = made(x)
    assert codes.shape == (2, 6, 3, 4) and (codes[:, -1] >= 0).all()
    np.testing.assert_allclose(made.decoded(codes, x), x, atol=1e-9)
    without = made.decoded(codes * torch.tensor([1.0] * 5 + [0]).view(6, 1, 1), x)
    plain = torch.einsum("bkhw,kc->bchw", codes[:, :5], made.decoder)
    np.testing.assert_allclose(without, plain, atol=1e-9)
    assert made.kinds == ["sae"] * 5 + ["error"]


@pytest.mark.parametrize(
    "form, channels_first", [((2, 6, 4, 4), True), ((2, 4, 4, 6), False), ((2, 9, 6), False)]
)
def test_codes_have_the_axes_of_the_layer(form, channels_first):
    x, directions = random(*form), random(3, 6, seed=1)
    made = Dictionary(
        DictionaryInfo("first", "pca", "linear", channels_first), directions, directions
    )
    codes = made(x)
    last = x.movedim(1, -1) if channels_first else x
    expected = last @ directions.T
    expected = expected.movedim(-1, 1) if channels_first else expected
    np.testing.assert_allclose(codes, expected, atol=1e-5)


# --- fits


def test_fitted_directions_agree_with_scikit_learn():
    x, _ = planted()
    pca = fit_directions("pca", x, 3, INFO)
    oracle = PCA(3, svd_solver="full").fit(x.double().numpy())
    np.testing.assert_allclose(pca.encode(x), oracle.transform(x.double().numpy()), atol=1e-4)
    assert pca.info.explained == pytest.approx(oracle.explained_variance_ratio_.sum(), abs=1e-5)

    nmf = fit_directions("nmf", x, 4, INFO)
    oracle = NMF(4, init="nndsvda", max_iter=4000, random_state=0)
    codes = oracle.fit_transform(x.numpy())
    left = np.square(x.numpy() - codes @ oracle.components_).sum() / x.square().sum().item()
    assert nmf.info.explained == pytest.approx(1 - left, abs=5e-3)
    assert (nmf.encode(x) >= 0).all() and (nmf.decoder >= 0).all()

    means = fit_directions("kmeans", x, 4, INFO)
    oracle = KMeans(4, n_init=4, random_state=0).fit(x.numpy())
    nearest = oracle.predict(x.numpy())
    codes = means.encode(x)
    assert ((codes > 0).sum(1) <= 1).all()
    active = codes.amax(1) > 0
    assert active.float().mean() > 0.7
    np.testing.assert_array_equal(codes.argmax(1)[active], nearest[active])
    for made in (pca, nmf, means):
        np.testing.assert_allclose(made.decoder.norm(dim=1), 1, atol=1e-5)
        assert (made.info.vectors, made.info.seed) == (400, 0)


@pytest.mark.parametrize("kind, signed", [("nmf", False), ("semi-nmf", False), ("semi-nmf", True)])
def test_planted_directions_are_found_and_not_among_shuffled_activations(kind, signed):
    x, rows = planted(signed=signed)
    made = fit_directions(kind, x, len(rows), INFO)
    assert recovered(made, rows) > 0.93
    assert made.info.explained is not None and made.info.explained > 0.97
    rng = np.random.default_rng(1)  # each channel by itself: nothing is left to find
    shuffled = torch.from_numpy(np.stack([rng.permutation(c) for c in x.numpy().T], 1))
    control = fit_directions(kind, shuffled, len(rows), INFO)
    assert control.info.explained is not None
    assert control.info.explained < made.info.explained - 0.1
    assert recovered(control, rows) < 0.9


def test_fits_say_what_they_need():
    x = random(20, 6)
    with pytest.raises(LayerError) as caught:
        fit_directions("nmf", x, 2, INFO)
    assert_says(caught.value, "never negative", "semi-nmf")
    with pytest.raises(LayerError) as caught:
        fit_directions("pca", x, 7, INFO)
    assert_says(caught.value, "pca:7", "at most 6")
    with pytest.raises(LayerError) as caught:
        fit_directions("kmeans", x, 21, INFO)
    assert_says(caught.value, "more directions than vectors (20)")


def test_fingerprints_depend_on_what_determines_the_codes_only():
    x, _ = planted()
    made = fit_directions("nmf", x, 4, INFO, seed=0)
    same = Dictionary(made.info, made.encoder, made.decoder, made.bias, made.threshold)
    assert same.fingerprint == made.fingerprint
    other = Dictionary(made.info, made.encoder, made.decoder + 1e-6, made.bias, made.threshold)
    assert other.fingerprint != made.fingerprint


# --- a model that is read through dictionaries


class Tokens(nn.Module):
    """A transformer block whose attention has three heads, as timm's have."""

    def __init__(self) -> None:
        super().__init__()
        from timm.layers.attention import Attention  # noqa: PLC0415

        self.embed = nn.Conv2d(3, 12, 8, 8)
        self.attn = Attention(12, num_heads=3)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return self.head((tokens + self.attn(tokens)).mean(1))


def dictionaries_for(kind: str, module: nn.Module, x: torch.Tensor) -> tuple[nn.Module, Dictionary]:
    """Return a model with one dictionary on it."""
    if kind == "heads":
        made = head_dictionary(module, "attn")
    else:
        values = run_layers(module, x, ["first"], lambda _, out: out.clone())["first"]
        flat = values.movedim(1, -1).reshape(-1, 6)
        if kind in ("relu", "topk"):
            info = DictionaryInfo("first", "sae", kind, True, active=2, error=True)  # type: ignore[arg-type]
            made = Dictionary(info, random(9, 6, seed=3), random(9, 6, seed=4), random(9) / 10)
        else:
            made = fit_directions(kind, flat.float(), 3, INFO)
    return with_dictionaries(module, [made]), made


ALL_KINDS = ["nmf", "semi-nmf", "pca", "kmeans", "relu", "topk", "heads"]
FAST_LRP = {"nmf", "topk"}
"""Kinds whose capture for LRP, which takes seconds, is in the fast lane."""
CONSERVING = {"relu", "topk", "heads"}


@pytest.fixture(scope="module", params=ALL_KINDS)
def case(request):
    net = Tokens() if request.param == "heads" else LittleNet()
    net = seeded(net)
    x = noise(3, 3, 32, 32)
    return request.param, net, x, *dictionaries_for(request.param, net, x)


def test_reading_codes_does_not_change_the_model(case):
    _, net, x, both, made = case
    with torch.no_grad():
        torch.testing.assert_close(both(x), net(x), rtol=0, atol=0)
    values = run_layers(both, x, [made.info.name], lambda _, out: out.clone())
    assert values[made.info.name].shape[1 if made.info.channels_first else -1] == len(made.kinds)


def test_a_code_that_is_removed_takes_its_direction_with_it(case):
    kind, net, x, both, made = case
    subject = SubjectModel(both.float(), to_tensor, "32", "python:x", list("abcd"))
    x = x.float()
    with pruned(subject, [f"{made.info.name}:1"]), torch.no_grad():
        found = both(x)
    with torch.no_grad():
        if kind == "heads":

            def drop(_, inputs):
                return inputs[0] * (torch.arange(12) // 4 != 1)

            handle = net.float().attn.proj.register_forward_pre_hook(drop)
            expected = net(x)
            handle.remove()
        else:

            def take(_, __, out):
                code = made(out)[:, 1:2]
                return out - code * made.decoder[1].view(1, -1, 1, 1)

            handle = net.float().first.register_forward_hook(take)
            expected = net(x)
            handle.remove()
        assert (expected - net(x)).abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    net.double(), both.double()


@pytest.mark.parametrize(
    "case, engine_type",
    [
        pytest.param(
            kind, engine, id=f"{kind}-{engine.__name__}",
            marks=[pytest.mark.slow] if engine is LRPEngine and kind not in FAST_LRP else [],
        )
        for kind in ALL_KINDS
        for engine in (LRPEngine, GradientEngine)
    ],
    indirect=["case"],
)  # fmt: skip
def test_relevance_of_codes_is_that_of_what_they_add(case, engine_type):
    """Without a dictionary, the signal at the layer is known: a code's share is z (signal D)."""
    kind, net, x, both, made = case
    layer = made.info.layer
    name, classes = made.info.name, torch.tensor([[0, 1, 2]])
    read = "attn.proj" if kind == "heads" else layer
    plain, engine = engine_type(net, x, [read]), engine_type(both, x, [name, read])

    def back(chosen, *layers):
        trace = chosen.trace(x)
        return trace, trace.backward({OUTPUT: class_seed(trace, classes)}, layers)

    trace, found = back(engine, name, read)
    _, expected = back(plain, read)
    torch.testing.assert_close(found.heatmaps, expected.heatmaps, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.layers[read], expected.layers[read], rtol=1e-5, atol=1e-9)
    axis = 2 if made.info.channels_first else -1
    codes, signal = trace.values[name], found.layers[name]
    relevance = (signal * codes).movedim(axis, -1)
    if kind == "heads":
        return  # the projection's input is no layer: compared in the next test
    layer_signal = expected.layers[read].movedim(2, -1)
    directions = torch.einsum("nbhwc,kc->nbhwk", layer_signal, made.decoder.to(layer_signal))
    k = made.directions
    shares = directions * codes.movedim(1, -1)[..., :k]
    # the stabiliser of the epsilon rule, 1e-6, is all that they may differ by
    torch.testing.assert_close(relevance[..., :k], shares, rtol=1e-3, atol=2e-6)
    if kind in CONSERVING:
        whole = (layer_signal * trace.values[read].movedim(1, -1)).sum(-1)
        torch.testing.assert_close(relevance.sum(-1), whole, rtol=1e-4, atol=1e-7)


def test_relevance_of_a_head_is_that_of_its_channels():
    net, x = seeded(Tokens()), noise(3, 3, 32, 32)
    both = with_dictionaries(net, [head_dictionary(net, "attn")])
    engine = LRPEngine(both, x, ["attn@heads"])
    trace = engine.trace(x, keep_all=True)
    seed = {OUTPUT: class_seed(trace, torch.tensor([[0, 1, 2]]))}
    found = trace.backward(seed, ["attn@heads"]).layers["attn@heads"][0]
    # the input of the projection as a layer of its own: an identity before it
    spaced = seeded(Tokens())
    spaced.load_state_dict(net.state_dict())
    spaced.attn.norm = nn.Hardtanh(-1e9, 1e9)  # an operation, so that the graph has its node
    plain = LRPEngine(spaced, x, ["attn.norm"])
    other = plain.trace(x)
    signal = other.backward(seed, ["attn.norm"]).layers["attn.norm"][0]
    channels = signal * other.values["attn.norm"]
    torch.testing.assert_close(
        found * trace.values["attn@heads"], channels.unflatten(-1, (3, 4)).sum(-1),
        rtol=1e-5, atol=1e-9,
    )  # fmt: skip
    lengths = other.values["attn.norm"].unflatten(-1, (3, 4)).norm(dim=-1)
    torch.testing.assert_close(trace.values["attn@heads"], lengths)


def test_heads_are_found_in_timm_and_transformers_and_refused_elsewhere():
    import timm  # noqa: PLC0415
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel  # noqa: PLC0415

    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
            "image_size": 32, "patch_size": 8}  # fmt: skip
    vit = ViTModel(ViTConfig(**size, intermediate_size=24))
    dino = Dinov2Model(Dinov2Config(**size))
    small = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2)
    for model, layer in ((vit, "layers.1"), (dino, "encoder.layer.1"), (small, "blocks.1")):
        if layer not in dict(model.named_modules()):  # another version of transformers
            layer = f"encoder.{layer}".replace("layers", "layer")
        made = head_dictionary(model, layer)
        assert made.directions == 3 and made.info.input_of.startswith(layer)
        both, x = with_dictionaries(model, [made]), torch.randn(2, 3, 32, 32)
        [codes] = run_layers(both, x, [made.info.name], lambda _, out: out).values()
        assert codes.shape[::2] == (2, 3) and (codes > 0).all()
    with pytest.raises(LayerError) as caught:
        head_dictionary(small, "blocks.1", 4)
    assert_says(caught.value, "Expected 3 heads")
    with pytest.raises(LayerError) as caught:
        head_dictionary(small, "blocks")
    assert_says(caught.value, "2 attention modules", "Choose one of", "blocks.0.attn")
    for module, layer in ((LittleNet(), "first"), (nn.Transformer(12, 3, 1, 1, 12), "encoder")):
        with pytest.raises(LayerError) as caught:
            head_dictionary(module, layer)
        assert_says(caught.value, "0 attention modules", "own components")


def test_heads_of_windows_are_refused():
    from timm.models import SwinTransformer  # noqa: PLC0415

    swin = SwinTransformer(
        img_size=32, patch_size=4, embed_dim=12, depths=(1,), num_heads=(3,), window_size=4
    )
    subject = SubjectModel(swin, to_tensor, "32", "python:swin", list("abcd"))
    heads = head_dictionary(swin, "layers.0.blocks.0")
    with pytest.raises(LayerError) as caught:
        layer_layouts(subject.with_dictionaries([heads]), [heads.info.name], "mean")
    assert_says(caught.value, "for one image", "windows")


def test_a_layer_without_attention_has_no_heads():
    with pytest.raises(LayerError) as caught:
        head_dictionary(LittleNet(), "first")
    assert_says(caught.value, "0 attention modules", "own components")


def test_codes_of_other_channels_are_refused():
    net = LittleNet()
    both = with_dictionaries(net, [Dictionary(INFO, random(3, 7), random(3, 7))])
    with pytest.raises(LayerError) as caught:
        both(torch.randn(1, 3, 32, 32))
    assert_says(caught.value, "7 channels", "first")


# --- requests


def test_requests_are_read():
    own, requests = parse_components("channels, nmf:6,sae:some/file.safetensors,heads")
    assert own and [str(r) for r in requests] == ["nmf:6", "sae:some/file.safetensors", "heads"]
    assert [r.name("layer4") for r in requests] == ["layer4@nmf", "layer4@sae", "layer4@heads"]
    assert parse_components(["pca:2"]) == (False, parse_components("pca:2")[1])
    assert parse_components("channels") == (True, [])
    assert (*FITS,) == FITTED


@pytest.mark.parametrize(
    "text, parts",
    [
        ("nmf", ["'nmf'", "KIND:NUMBER", "nmf:16"]),
        ("nmg:3", ["nmg:3", "nmf"]),
        ("nmf:0", ["no directions"]),
        ("nmf:3,nmf:4", ["Each kind once"]),
        ("", ["''"]),
    ],
)
def test_requests_that_make_no_sense_are_refused(text, parts):
    with pytest.raises(RecipeError) as caught:
        parse_components(text)
    assert_says(caught.value, *parts)


def test_gradients_of_a_model_with_dictionaries_are_those_of_the_model():
    net = seeded(LittleNet())
    x = noise(2, 3, 32, 32).requires_grad_()
    both, _ = dictionaries_for("topk", net, x.detach())
    expected = torch.autograd.grad(functional.softmax(net(x), -1)[:, 0].sum(), x)[0]
    found = torch.autograd.grad(functional.softmax(both(x), -1)[:, 0].sum(), x)[0]
    torch.testing.assert_close(found, expected)
