"""Collection against a full sort of all readouts, for every readout and layer form."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import LittleNet, to_tensor
from torch import nn

from semlens.data.image_sequence import ImageSequence
from semlens.errors import LayerError
from semlens.models.activations import Axes, compute_readouts, measure_layout
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel
from semlens.stages.collect import Collected, collect, layer_layouts
from semlens.stages.select_examples import select_examples

LAYERS = ["first", "second", "head"]


REFERENCE = [3, 40, 6, 7, 21, 0]


def gather(subject, images, batch_size=7, edges=None, readout="mean", signs="auto", m=9):
    forms = layer_layouts(subject, LAYERS, readout)
    total = -(-len(images) // batch_size)
    merged = None
    edges = edges or [0, total]
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        part = collect(
            subject, images, forms, range(start, stop), examples=m, readout=readout,
            signs=signs, batch_size=batch_size, reference=REFERENCE,
        )  # fmt: skip
        merged = part if merged is None else merged.merge(part)
    return merged, [select_examples(merged, form, signs) for form in forms]


def oracle(subject, images, layer, readout):
    """Raw readouts float64[n c], one image at a time, from clones of the layer's output."""
    kept = {}
    find = dict(subject.module.named_modules())[layer]
    handle = find.register_forward_hook(lambda _, __, out: kept.update(out=out.clone().double()))
    rows = []
    for i in range(len(images)):
        with torch.no_grad():
            subject.module.eval()(subject.preprocess(images.read(i))[None])
        out = kept["out"][0].flatten(1) if kept["out"].ndim == 4 else kept["out"][0][:, None]
        rows.append((out.mean(1) if readout == "mean" else out.amax(1)).numpy())
        if readout == "max":
            rows[-1] = np.stack([out.amax(1).numpy(), out.amin(1).numpy()])
        else:
            rows[-1] = np.stack([rows[-1], rows[-1]])
    handle.remove()
    return np.stack(rows)


@pytest.mark.parametrize("readout", ["mean", "max"])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_examples_equal_a_full_sort(subject, images, readout, batch_size):
    _, layers = gather(subject, images, batch_size, readout=readout)
    assert [set(layer.sign.tolist()) for layer in layers] == [{1}, {1, -1}, {1, -1}]
    for layer in layers:
        raw = oracle(subject, images, layer.layout.name, readout)
        for row, (index, sign) in enumerate(zip(layer.index, layer.sign, strict=True)):
            values = raw[:, 0 if sign > 0 else 1, index]
            best = np.sort(-sign * values)[:9] * -sign
            np.testing.assert_allclose(layer.activation[row], best, atol=1e-5)
            chosen = layer.top.sample[row].numpy()
            np.testing.assert_allclose(values[chosen], best, atol=1e-5)


@pytest.mark.parametrize("edges", [[0, 6], [0, 1, 6], [0, 2, 3, 4, 6], [0, 1, 2, 3, 4, 5, 6]])
def test_any_shards_give_the_same_bytes(subject, images, edges):
    whole, _ = gather(subject, images)
    parts, _ = gather(subject, images, edges=edges)
    for name in LAYERS:
        assert torch.equal(whole.layers[name].top.key, parts.layers[name].top.key)
        assert torch.equal(whole.layers[name].top.position, parts.layers[name].top.position)
        for field, value in vars(whole.layers[name].moments.total()).items():
            assert torch.equal(value, getattr(parts.layers[name].moments.total(), field))
        rows, again = whole.layers[name].reference, parts.layers[name].reference
        assert set(rows.rows) == set(again.rows) == set(REFERENCE)
        assert torch.equal(rows.stack(REFERENCE), again.stack(REFERENCE))


@pytest.mark.parametrize("readout", ["mean", "max"])
def test_readouts_of_reference_samples_equal_single_passes(subject, images, readout):
    whole, _ = gather(subject, images, readout=readout)
    for name in LAYERS:
        raw = oracle(subject, images, name, readout)[REFERENCE]
        expected = np.concatenate([raw[:, 0], raw[:, 1]], 1) if readout == "max" else raw[:, 0]
        np.testing.assert_allclose(
            whole.layers[name].reference.stack(REFERENCE), expected, atol=1e-5
        )


def test_collected_survives_its_file(subject, images):
    whole, _ = gather(subject, images, readout="max")
    again = Collected.from_tensors(whole.tensors(), LAYERS)
    tensors, expected = again.tensors(), whole.tensors()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


def test_a_second_pass_starts_at_sample_zero(subject, images):
    first, _ = gather(subject, images)
    second, _ = gather(subject, images)
    assert torch.equal(first.layers["second"].top.key, second.layers["second"].top.key)
    assert int(second.layers["second"].top.sample.max()) < len(images)


def test_position_is_the_peak(subject, images):
    _, layers = gather(subject, images)
    layer = layers[1]
    for row in (0, 3, 12, 17):
        sample = int(layer.top.sample[row, 0])
        inputs = subject.preprocess(images.read(sample))[None]
        found = run_layers(subject.module, inputs, ["second"], lambda _, out: out.clone())
        values = found["second"][0, layer.index[row]].flatten() * int(layer.sign[row])
        np.testing.assert_allclose(values[layer.top.position[row, 0]], values.max(), atol=1e-6)


def test_the_model_is_left_as_it_was(subject, images):
    subject.module.train()
    subject.module.first.eval()
    before = copy.deepcopy(subject.module.state_dict())
    attributes = {n: set(vars(m)) for n, m in subject.module.named_modules()}
    gather(subject, images)
    modes = [m.training for m in subject.module.modules()]
    assert modes == [True, False, False, False, True, True]
    assert attributes == {n: set(vars(m)) for n, m in subject.module.named_modules()}
    assert all(not m._forward_hooks for m in subject.module.modules())
    assert all(torch.equal(v, before[k]) for k, v in subject.module.state_dict().items())


def test_hooks_are_removed_on_errors(subject):
    def broken(_, __):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        run_layers(subject.module, torch.zeros(1, 3, 32, 32), ["first"], broken)
    assert all(not m._forward_hooks for m in subject.module.modules())


def test_in_place_operations_do_not_reach_the_readout(images):
    """The convolution of ``first`` is followed by an in-place ReLU, yet is read before it."""
    model = SubjectModel(LittleNet(), to_tensor, "v")
    forms = layer_layouts(model, ["first.0"], "mean")
    found = collect(model, images, forms, range(0, 6), examples=3, readout="mean", batch_size=7)
    assert float(found.layers["first.0"].moments.total().minimum.min()) < 0


def test_signs_can_be_chosen(subject, images):
    _, layers = gather(subject, images, signs="positive")
    assert all((layer.sign == 1).all() for layer in layers)
    _, layers = gather(subject, images, signs="both")
    assert len(layers[0].index) == 12


class NanNet(nn.Module):
    def __init__(self, limit: float):
        super().__init__()
        self.limit = limit
        self.out = nn.Identity()

    def forward(self, x):
        y = x.mean((2, 3))
        return self.out(torch.where(y > self.limit, torch.nan, y))


def test_not_finite_readouts_are_counted_and_take_no_slot():
    pictures = [np.full((8, 8, 3), v, np.uint8) for v in (10, 60, 110, 160, 210)]
    model = SubjectModel(NanNet(0.0), to_tensor, "v")
    forms = layer_layouts(model, ["out"], "mean")
    found = collect(
        model, ImageSequence(pictures), forms, range(0, 3), examples=4, readout="mean",
        batch_size=2,
    )  # fmt: skip
    assert found.layers["out"].not_finite == (3, 4)
    layer = select_examples(found, forms[0], "positive")
    assert layer.top.count.tolist() == [3, 3, 3]
    assert layer.top.sample[0, :3].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("shape", "form", "components"),
    [((2, 5), "units", 5), ((2, 17, 8), "tokens", 8), ((2, 8, 17), "sequence", 8),
     ((2, 6, 7, 7), "map", 6), ((2, 7, 7, 6), "map-last", 6)],
)  # fmt: skip
def test_forms_and_their_readouts(shape, form, components):
    output = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
    order = {"tokens": Axes("channels_last"), "sequence": Axes("channels_first")}.get(form)
    measured = measure_layout("layer", (output, None), order)
    assert (measured.form, measured.components) == (form, components)
    axes = {"units": (), "tokens": (1,), "sequence": (2,), "map": (2, 3), "map-last": (1, 2)}[form]
    expected = output.mean(axes) if axes else output
    got = compute_readouts(measured, (output, None), "mean")
    torch.testing.assert_close(got.value, expected)
    torch.testing.assert_close(got.peak[0], output.amax(axes) if axes else output)
    torch.testing.assert_close(got.peak[1], -(output.amin(axes) if axes else output))


def test_class_token_readout():
    output = torch.randn(3, 17, 8)
    form = measure_layout("blocks.1", output, Axes("channels_last", 1, 4, 4))
    assert (form.prefix, form.height, form.width) == (1, 4, 4)
    torch.testing.assert_close(compute_readouts(form, output, "cls").value, output[:, 0])
    with pytest.raises(LayerError, match="no class token"):
        compute_readouts(
            measure_layout("conv", torch.randn(1, 3, 4, 4)), torch.randn(1, 3, 4, 4), "cls"
        )


def test_wrong_layer_names_the_nearest(subject):
    with pytest.raises(LayerError) as error:
        layer_layouts(subject, ["secnd"], "mean")
    assert "'secnd'" in error.value.value
    assert "second" in error.value.expected
    assert "semlens layers" in error.value.remedy
