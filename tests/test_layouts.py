"""Which axes of a layer's output are its channels, which layers a model has, and detectors."""

from __future__ import annotations

import pytest
import torch
from conftest import LittleNet, assert_says, to_tensor
from PIL import Image
from torch import nn

import semlens as sl
from semlens.errors import LayerError, ModelError, RelevanceError
from semlens.models.ablation import pruned
from semlens.models.activations import Axes, measure_layout
from semlens.models.axes import find_axes
from semlens.models.forward import logits, readouts
from semlens.models.output_tensor import find_tensor
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import class_relevance
from semlens.relevance.conditional_heatmaps import conditional_heatmaps
from semlens.relevance.conservation import check_conservation
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.make_engine import GradientEngine, engine_for
from semlens.types import Component

WIDE = (56, 48)


class Last(nn.Module):
    """A block that keeps its channels last, as those of Swin."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dense, self.act = nn.Linear(channels, channels), nn.ReLU()

    def forward(self, x):
        return self.act(x + self.dense(x))


class Mixed(nn.Module):
    """Maps with channels first, then last, of any size; ``fixed`` takes one size only."""

    def __init__(self, channels: int, fixed: tuple[int, int] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fixed = fixed
        self.stem = nn.Conv2d(3, channels, 8, 8, bias=False)
        self.first = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.ReLU())
        self.block = Last(channels)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        if self.fixed and tuple(x.shape[-2:]) != self.fixed:
            raise ValueError(f"Expected images of {self.fixed}.")
        x = self.block(self.first(self.stem(x)).permute(0, 2, 3, 1))
        return self.head(x.mean((1, 2)))


def subject_of(module, height, width, **options):
    def preprocess(image):
        return to_tensor(image.resize((32, 32)))[:, :1, :1] * torch.linspace(
            0.1, 1, height * width
        ).reshape(1, height, width)

    return SubjectModel(module.eval(), preprocess, f"{height}x{width}", **options)


@pytest.mark.parametrize("fixed", [None, WIDE])
@pytest.mark.parametrize("channels", [768, 7, 6, 12])
def test_maps_that_are_not_square_are_read_as_the_module_means_them(channels, fixed):
    """[b 7 6 768] has 768 channels, and [b 7 7 6], with c = h, is a convolution's."""
    model = subject_of(Mixed(channels, fixed), *WIDE)
    if fixed and channels in (6, 7):  # shapes of which both readings fit, and no other size
        found = model.axes(["stem", "first", "block", "block.dense"])
        assert found["stem"].order == "channels_first"
        assert found["block.dense"].order == "channels_last"
        return
    forms = sl.layers(model).layouts
    for name in ("stem", "first", "first.0", "first.1"):
        form = forms[name]
        assert (form.form, form.components, form.height, form.width) == ("map", channels, 7, 6)
    for name in ("block", "block.dense", "block.act"):
        form = forms[name]
        assert (form.form, form.components, form.height, form.width) == ("map-last", channels, 7, 6)


@pytest.mark.slow
def test_a_convolution_with_as_many_channels_as_rows_is_no_map_that_comes_last():
    """[2 8 8 10]: every part of the program reads 8 channels of 8 x 10."""
    module = Mixed(8)
    model = subject_of(module, 64, 80)
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        value = module.first(module.stem(x))
    assert value.shape == (2, 8, 8, 10)
    images = [Image.new("RGB", (40, 40), (90, 10, 200))]
    inputs = model.preprocess(images[0])[None]
    with torch.no_grad():
        expected = module.first(module.stem(inputs)).mean((2, 3)).numpy()
    got = readouts(model, images.__getitem__, [0], ["first"])["first"]
    assert got == pytest.approx(expected, abs=1e-6)
    seen = []
    module.first.register_forward_hook(lambda *_: None)
    with pruned(model, [Component("first", 3)]):
        hook = module.block.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        module(x)
        hook.remove()
    assert float(seen[0][..., 3].detach().abs().max()) == 0  # the channel, and no row of the map
    assert float(seen[0][:, 3].detach().abs().max()) > 0
    for make in (LRPEngine, GradientEngine):
        engine = make(module, x, ["first"])
        assert class_relevance(engine, x, torch.tensor([0, 1]))["first"].shape == (2, 8)
        assert engine.trace(x).layout("first").components == 8


@pytest.mark.slow
def test_of_a_layer_that_nothing_tells_the_layout_is_asked_for(tmp_path, embedder):
    model = subject_of(Mixed(8, (64, 64)), 64, 64)
    images = sl.ImageSequence([Image.new("RGB", (32, 32), (40 * i, 0, 90)) for i in range(3)])
    options = {"examples": 2, "thumbnails": False, "crop": "none"}
    found = sl.layers(model)
    notes = found.to_pandas().set_index("layer")["note"]
    assert found.layouts["block"] is None and "layout" in notes["block"]
    assert found.layouts["stem"].form == "map"  # a convolution says so itself
    with pytest.raises(LayerError) as caught:
        sl.build(tmp_path / "db", model, images, embedder, ["block"], **options)
    assert_says(caught.value, "block", "first or last", "layout=")
    for layout, form in (("channels_first", "map"), ("channels_last", "map-last")):
        db = sl.build(
            tmp_path / layout, model, images, embedder, ["block", "stem"], layout=layout, **options
        )
        assert [layer.form for layer in db.manifest.layers] == [form, "map"]
        assert db.manifest.recipe.layout == layout
    told = subject_of(Mixed(8, (64, 64)), 64, 64, layout="channels_last")
    engine = engine_for(told, ["block"])
    assert engine.trace(told.example).layout("block").form == "map-last"


def test_bare_outputs_are_read_by_their_square_or_not_at_all():
    for shape in ((1, 7, 6, 768), (1, 8, 8, 8), (1, 8, 9, 10)):
        with pytest.raises(LayerError, match="may come first or last"):
            measure_layout("layer", torch.zeros(*shape))
    assert measure_layout("layer", torch.zeros(1, 8, 8, 10)).form == "map-last"
    order = Axes("channels_first")
    assert measure_layout("layer", torch.zeros(1, 8, 8, 10), order).form == "map"
    with pytest.raises(LayerError, match="may come first or last"):
        measure_layout("layer", torch.zeros(1, 16, 16))


def test_types_come_before_the_given_layout_and_norms_of_maps_are_not_mistaken():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm((4, 4, 4)), nn.ReLU()).eval()
    found = find_axes(net, torch.randn(1, 3, 4, 4), ["0", "1", "2"], "channels_last")
    orders = [axes.order for axes in found.values()]
    assert orders == ["channels_first", "channels_last", "channels_last"]
    found = find_axes(net, torch.randn(1, 3, 4, 4), ["0", "1", "2"])
    assert [axes.order for axes in found.values()] == ["channels_first", "unknown", "unknown"]


# -- which layers there are ---------------------------------------------------------------------


class Tokens(LittleNet):
    """With a pooled token of its own, which has no place in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(10, 10, 1), nn.ReLU()) for _ in "ab")
        self.pooled = nn.Linear(10, 10)

    def forward(self, x):
        x = self.second(self.first(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.pooled(x.flatten(2).mean(2)[:, None])[:, 0])


def test_layers_say_what_to_choose_and_what_to_mind():
    found = sl.layers(SubjectModel(Tokens().eval(), to_tensor, "v"))
    table = found.to_pandas().set_index("layer")
    assert table.index[table["block"]].tolist() == ["blocks.0", "blocks.1"]
    assert table.loc["first", ["form", "shape", "components", "map"]].tolist() == [
        "map", "6 x 16 x 16", 6, "16 x 16",
    ]  # fmt: skip
    assert "without a grid" in table.loc["pooled", "note"]
    assert table.loc["first", "note"] == ""
    assert "pooled" in repr(found) and list(found.layouts) == list(table.index)
    demo = sl.layers("semlens/demo").to_pandas()
    assert demo.loc[demo["block"], "layer"].tolist() == ["layer1", "layer2", "layer3"]


@pytest.mark.parametrize("crop", ["crp", "activation", "auto"])
def test_tokens_without_a_grid_are_cropped_by_relevance_or_not_at_all(
    tmp_path, images, embedder, crop
):
    model = SubjectModel(Tokens().eval(), to_tensor, "v")
    options = {"examples": 2, "thumbnails": False, "crop": crop}
    db = sl.build(tmp_path / "db", model, images, embedder, ["pooled"], **options)
    sizes = {images.read(i).size for i in range(len(images))}
    whole = [
        (left, top) == (0, 0) and (right, bottom) in sizes
        for left, top, right, bottom in db.examples("pooled")["box"]
    ]
    assert all(whole) == (crop != "crp")


def test_relevance_of_a_token_without_a_grid_starts_at_the_token():
    net, x = Tokens().eval(), torch.randn(2, 3, 32, 32)
    pairs = torch.tensor([0, 1]), torch.tensor([2, 2]), torch.tensor([1, -1])
    found = conditional_heatmaps(LRPEngine(net, x, ["pooled"], "epsilon"), x, "pooled", *pairs)
    assert found.shape == (2, 32, 32)
    with torch.no_grad():
        maps = net.blocks[1](net.blocks[0](net.second(net.first(x))))
        value = net.pooled(maps.flatten(2).mean(2))
    assert torch.equal(found.sum((1, 2)) > 0, value[:, 2] * torch.tensor([1, -1]) > 0)


# -- detectors ----------------------------------------------------------------------------------


class Detector(LittleNet):
    """Puts out boxes, as many as images: the worst case for a guess."""

    def forward(self, x):
        scores = super().forward(x)
        return [{"boxes": one.repeat(len(x), 1), "labels": one.argmax()[None]} for one in scores]


class Boxes(LittleNet):
    def forward(self, x):
        return {"boxes": super().forward(x), "scores": x.mean((1, 2, 3))}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Detector, Boxes])
def test_detectors_have_no_logits_and_all_say_so(tmp_path, images, embedder, kind):
    model = SubjectModel(kind().eval(), to_tensor, "v")
    x = model.example[:2]
    with pytest.raises(ModelError) as caught:
        logits(model, images.read, [0, 1])
    assert_says(caught.value, "not logits", "need a classifier")
    with pytest.raises(ModelError):
        engine_for(model, ["second"], classes=True)
    for rules in ("epsilon", "gradient"):
        engine = engine_for(model, ["second"], rules)
        for verb in (
            lambda e: check_conservation(e, x),
            lambda e: class_relevance(e, x, torch.tensor([0, 1])),
        ):
            with pytest.raises(RelevanceError) as caught:
                verb(engine)
            assert_says(caught.value, "not logits", "need a classifier")
    options = {"examples": 2, "thumbnails": False}
    with pytest.raises(ModelError):
        sl.build(tmp_path / "no", model, images, embedder, ["second"], relevance=True, **options)
    db = sl.build(tmp_path / "db", model, images, embedder, ["second"], crop="crp", **options)
    assert db.manifest.layers[0].crop == "crp"  # what does not need classes works


def test_logits_by_name_are_found():
    scores = torch.randn(2, 5)
    for output in ({"loss": torch.zeros(()), "logits": scores}, (scores, torch.zeros(2, 3))):
        assert find_tensor(output, 2, None, list("abcde"))(output) is scores
    with pytest.raises(ModelError, match="boxes"):
        find_tensor([{"boxes": scores}], 2, None, None)
