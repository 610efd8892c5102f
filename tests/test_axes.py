"""What the axes of sequences are: positions with their grid, or channels, in any network."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import timm
import torch
from conftest import assert_says
from PIL import Image
from torch import Tensor, nn

import semlens as sl
from semlens.errors import LayerError
from semlens.models.forward import readouts
from semlens.models.subject import SubjectModel
from semlens.relevance.conditional_heatmaps import conditional_heatmaps
from semlens.relevance.make_engine import GradientEngine


def subject(module: nn.Module, height: int, width: int, **options) -> SubjectModel:
    def preprocess(image: Image.Image) -> Tensor:
        pixels = np.asarray(image.convert("RGB").resize((width, height)), np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1

    torch.manual_seed(0)
    return SubjectModel(module.eval(), preprocess, f"{height}x{width}", **options)


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    random = np.random.default_rng(seed)
    return [
        Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)).resize((48, 48))
        for _ in range(count)
    ]


class Flat(nn.Module):
    """Maps that are flattened to [b c l], as in front of one-dimensional layers."""

    def __init__(self, patch: int = 8, channels: int = 5, *, mixing: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels + 1, patch, patch)
        self.conv = nn.Conv1d(channels + 1, channels, 1)
        norms = [nn.BatchNorm1d(channels), *([nn.InstanceNorm1d(channels)] if mixing else [])]
        self.norms = nn.Sequential(*norms)
        self.drop, self.act = nn.Dropout1d(), nn.ReLU()
        self.pool = nn.MaxPool1d(2)
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.drop(self.norms(self.conv(self.stem(x).flatten(2)))))
        return self.head(self.pool(x).mean(2))


class Mixer(nn.Module):
    """A dense layer over positions, then one over channels."""

    def __init__(self, positions: int, channels: int, patch: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, patch, patch)
        self.norm = nn.LayerNorm(channels)
        self.up, self.act, self.down = nn.Linear(positions, 20), nn.GELU(), nn.Linear(20, positions)
        self.channels = nn.Linear(channels, 3 * channels)
        self.head = nn.Linear(3 * channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.down(self.act(self.up(self.norm(x).transpose(1, 2)))).transpose(1, 2)
        return self.head(self.channels(x).mean(1))


class Encoder(nn.Module):
    """A transformer's layers on patches; ``first`` puts positions before images."""

    def __init__(self, patch: int, channels: int = 8, *, first: bool = False, tail: int = 0):
        super().__init__()
        self.first, self.tail = first, tail
        self.stem = nn.Conv2d(3, channels, patch, patch)
        make = functools.partial(nn.TransformerEncoderLayer, channels, 2, 16, 0.0)
        self.one, self.two = make(batch_first=not first), make(batch_first=not first)
        self.head = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2)
        x = x.permute(2, 0, 1) if self.first else x.transpose(1, 2)
        x = torch.cat([x, x.new_ones(len(x), self.tail, x.shape[2])], 1) if self.tail else x
        return self.head(self.two(self.one(x)).mean(0 if self.first else 1))


ViT = functools.partial(timm.create_model, "vit_tiny_patch16_224", embed_dim=48, num_heads=2)
BLOCKS = ("pos_drop", "blocks.0", "blocks.0.norm1", "blocks.0.attn", "blocks.1.mlp", "norm")
CASES = {
    "a ViT that is not square": (
        lambda: ViT(img_size=(256, 128), depth=2), (256, 128),
        {**dict.fromkeys(BLOCKS, ("tokens", 48, 16, 8, 1)),
         "patch_embed": ("tokens", 48, 16, 8, 0),
         "blocks.1.mlp.fc1": ("tokens", 192, 16, 8, 1)},
    ),
    "one without a class token and with as many channels as positions": (
        lambda: ViT(img_size=(64, 48), patch_size=8, depth=2, class_token=False, global_pool="avg"),
        (64, 48),
        dict.fromkeys(BLOCKS, ("tokens", 48, 8, 6, 0)),
    ),
    "one with two tokens before the grid": (
        lambda: timm.create_model("deit_tiny_distilled_patch16_224", depth=2, img_size=(64, 96)),
        (64, 96),
        dict.fromkeys(BLOCKS, ("tokens", 192, 4, 6, 2)),
    ),
    "one with registers": (
        lambda: timm.create_model(
            "vit_small_patch14_reg4_dinov2", img_size=(56, 70), depth=2, embed_dim=48, num_heads=2
        ),
        (56, 70),
        dict.fromkeys(BLOCKS, ("tokens", 48, 4, 5, 5)),
    ),
    "class tokens that come late": (
        lambda: timm.create_model("cait_xxs24_224", depth=2, img_size=(64, 96)), (64, 96),
        {"blocks.1": ("tokens", 192, 4, 6, 0),
         "blocks_token_only.0.norm1": ("tokens", 192, 4, 6, 1)},
    ),
    "one-dimensional layers": (
        Flat, (48, 32),
        {"stem": ("map", 6, 6, 4, 0), "pool": ("sequence", 5, 0, 0, 0),
         **dict.fromkeys(("conv", "norms.0", "norms.1", "drop", "act"), ("sequence", 5, 6, 4, 0))},
    ),
    "one-dimensional layers with as many channels as positions": (
        lambda: Flat(8, 24), (48, 32),
        dict.fromkeys(("conv", "norms.0", "norms.1", "drop", "act"), ("sequence", 24, 6, 4, 0)),
    ),
    "a mixer": (
        lambda: Mixer(24, 10, 8), (48, 32),
        {"norm": ("tokens", 10, 6, 4, 0), "up": ("sequence", 10, 0, 0, 0),
         "act": ("sequence", 10, 0, 0, 0), "down": ("sequence", 10, 6, 4, 0),
         "channels": ("tokens", 30, 6, 4, 0)},
    ),
    "blocks without a layer before them": (
        lambda: Encoder(8), (48, 32),
        {"one": ("tokens", 8, 6, 4, 0), "two": ("tokens", 8, 6, 4, 0),
         "two.linear1": ("tokens", 16, 6, 4, 0)},
    ),
    "pooled tokens": (
        lambda: timm.create_model("pvt_v2_b0"), (64, 96),
        {"stages.0.blocks.0.norm1": ("tokens", 32, 16, 24, 0),
         "stages.0.blocks.0.attn.norm": ("tokens", 32, 2, 3, 0),
         "stages.1.blocks.0": ("tokens", 64, 8, 12, 0)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_sequences_are_read_as_the_network_means_them(case):
    make, size, expected = CASES[case]
    found = sl.layers(subject(make(), *size)).layouts
    for name, right in expected.items():
        form = found[name]
        got = (form.form, form.components, form.height, form.width, form.prefix)
        assert got == right, name


def test_attention_is_no_map():
    found = sl.layers(subject(ViT(img_size=(256, 128), depth=1), 256, 128)).layouts
    assert found["blocks.0.attn.q_norm"] is None  # [b heads 129 24]: nearly the images' aspect


def test_equal_sizes_without_any_evidence_are_asked_for():
    """After layers that mix all positions, [b 24 24] may be either."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.last = nn.Conv2d(3, 24, 8, 8), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).flatten(2) @ torch.ones(24, 24)
            return self.last(x.transpose(1, 2) + x).mean(1)

    found = sl.layers(subject(Turned(), 48, 32))
    assert found.layouts["last"] is None
    assert "set layout" in found.to_pandas().set_index("layer").loc["last", "note"]
    told = subject(Turned(), 48, 32, layout="channels_first")
    assert sl.layers(told).layouts["last"].form == "sequence"


@pytest.mark.parametrize("size", [(48, 48), (32, 48), (96, 96)])
def test_positions_before_images_are_refused_and_not_listed(tmp_path, embedder, size):
    model = subject(Encoder(12, first=True), *size)
    assert "one" not in sl.layers(model).layouts
    with pytest.raises(LayerError) as caught:
        sl.build(
            tmp_path / "db", model, sl.ImageSequence(pictures(4)), embedder, ["one"], crop="none"
        )
    assert_says(caught.value, "for one image", "first axis", "positions first")


def test_tokens_after_the_grid_leave_it_unknown():
    found = sl.layers(subject(Encoder(8, tail=20), 48, 32)).layouts["one"]
    assert (found.form, found.components, found.height) == ("tokens", 8, 0)


def test_what_is_listed_can_be_read_and_nothing_else():
    for case in ("one-dimensional layers", "a mixer", "blocks without a layer before them"):
        make, size, _ = CASES[case]
        model = subject(make(), *size)
        listed = sl.layers(model)
        inputs = model.example[:2]
        for name, layout in listed.layouts.items():
            if layout is None or listed.table.set_index("layer").loc[name, "runs"] > 1:
                continue
            images = [Image.new("RGB", (9, 9), (k, 50, 90)) for k in (0, 200)]
            values = readouts(model, images.__getitem__, [0, 1], [name])[name]
            assert values.shape == (len(inputs), layout.components), name


def test_channels_of_a_sequence_are_ranked_pruned_and_explained(tmp_path, embedder):
    model = subject(Flat(mixing=False), 48, 48)
    images = pictures(20)
    db = sl.build(
        tmp_path / "db", model, sl.ImageSequence(images), embedder, ["conv", "act"], examples=4,
        crop="activation",
    )  # fmt: skip
    assert db.layer("conv").channels == 5
    inputs = torch.stack([model.preprocess(image) for image in images])
    values = {}
    hook = model.module.conv.register_forward_hook(lambda _, __, out: values.update(conv=out))
    with torch.no_grad():
        before = model.module(inputs)
    hook.remove()
    mean = values["conv"].mean(2)
    for channel in range(5):
        right = mean[:, channel].topk(4).indices.tolist()
        assert [e.sample for e in db.examples_of(db.row(sl.Component("conv", channel)))] == right

    def zeroed(_, __, out):
        out = out.clone()
        out[:, 2] = 0
        return out

    hook = model.module.conv.register_forward_hook(zeroed)
    with torch.no_grad():
        right = model.module(inputs)
    hook.remove()
    with sl.pruned(model, ["conv:2"]), torch.no_grad():
        assert torch.allclose(model.module(inputs), right, atol=1e-6)
    state = db.prune(["conv:2"]).model.module
    with torch.no_grad():
        assert torch.allclose(state(inputs), right, atol=1e-5)
    assert not torch.allclose(before, right, atol=1e-3)


def test_relevance_of_a_channel_of_a_sequence_is_the_gradient_times_input():
    model = subject(Flat(), 48, 48)
    inputs = model.example[:2].clone().requires_grad_()
    engine = GradientEngine(model.module, inputs.detach(), ["conv"])
    pairs = torch.tensor([0, 1]), torch.tensor([3, 1]), torch.tensor([1, 1])
    found = conditional_heatmaps(engine, inputs.detach(), "conv", *pairs)
    value = model.module.conv(model.module.stem(inputs).flatten(2))
    for image, channel in ((0, 3), (1, 1)):
        peak = value[image, channel].argmax()
        gradient = torch.autograd.grad(value[image, channel, peak], inputs, retain_graph=True)[0]
        right = (gradient[image] * inputs[image]).sum(0) / value[image, channel, peak].abs()
        got = found[image]
        scale = right.abs().max()
        assert torch.allclose(got / got.abs().max(), (right / scale).detach(), atol=1e-4)
