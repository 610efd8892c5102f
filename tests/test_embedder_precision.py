"""Embedding in 16 bits: what it may change, what it must not, and embedders that it would ruin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import LittleNet, to_tensor, write_pictures
from PIL import Image
from torch import nn
from torch.backends.mha import get_fastpath_enabled

import semlens as sl
from semlens.embedders.embedder import LEAST_COSINE, Embedder, check_precision, embedding_in
from semlens.errors import EmbedderError, RecipeError
from semlens.lenses.describe.overview import describe_settings


class PatchEmbedder(Embedder):
    """A small ViT with PyTorch's own attention, which has a fused path in evaluation mode."""

    spec, fingerprint, dim, has_text = "python:patches", "c" * 64, 24, False

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 32, 8, 8)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
        self.head = nn.Linear(32, self.dim)

    def preprocess(self, image):
        return to_tensor(image.resize((32, 32)))

    def _images(self, batch):
        return self.head(self.blocks(self.patches(batch).flatten(2).transpose(1, 2)).mean(1))


class CancellingEmbedder(PatchEmbedder):
    """Its features are small differences of large numbers, which 16 bits do not hold."""

    def _images(self, batch):
        features = super()._images(batch)
        large = torch.cat([features + 1e3, torch.full_like(features, -1e3)], dim=1)
        eye = torch.eye(self.dim)
        return large @ torch.cat([eye, eye])


class OverflowingEmbedder(PatchEmbedder):
    """Its features exceed the largest number of float16, but not of bfloat16."""

    def _images(self, batch):
        return (super()._images(batch) * 1e5) @ torch.eye(self.dim)


@pytest.mark.parametrize(
    ("spec", "precision"),
    [
        ("patches", "bfloat16"), ("patches", "float16"), ("semlens/demo", "bfloat16"),
        ("semlens/demo", "float16"), ("semlens/photo", "float16"),
    ],
)  # fmt: skip
def test_vectors_are_nearly_those_of_32_bits(spec, precision, tmp_path):
    embedder = PatchEmbedder() if spec == "patches" else sl.load_embedder(spec)
    check_precision(embedder, precision)
    folder = write_pictures(tmp_path, 6)
    pictures = [Image.open(file).convert("RGB") for file in sorted(folder.rglob("*.png"))]
    exact = embedder.embed_images(pictures)
    with embedding_in(precision):
        rounded = embedder.embed_images(pictures)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)  # else nothing was computed in 16 bits
    assert float((exact * rounded).sum(1).min()) >= LEAST_COSINE
    # the null: vectors of different pictures would not pass
    different = exact @ exact.T
    assert float(different[~torch.eye(len(exact), dtype=torch.bool)].min()) < LEAST_COSINE


def test_embedders_that_16_bits_ruin_are_refused():
    with pytest.raises(EmbedderError, match=r"(?s)bfloat16.*0\.999.*float32"):
        check_precision(CancellingEmbedder(), "bfloat16")
    check_precision(OverflowingEmbedder(), "bfloat16")
    with pytest.raises(EmbedderError, match="float16"):
        check_precision(OverflowingEmbedder(), "float16")
    check_precision(CancellingEmbedder(), "float32")
    with pytest.raises(EmbedderError, match="semlens/photo"):  # it subtracts a mean
        check_precision(sl.load_embedder("semlens/photo"), "bfloat16")


def test_the_process_is_as_before():
    embedder, picture = PatchEmbedder(), Image.new("RGB", (32, 32), "red")
    before = embedder.embed_images([picture])
    with pytest.raises(KeyError), embedding_in("bfloat16"):
        assert torch.is_autocast_enabled("cpu")
        raise KeyError
    assert not torch.is_autocast_enabled("cpu")
    assert get_fastpath_enabled()
    assert torch.equal(embedder.embed_images([picture]), before)


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    images = write_pictures(folder / "images", 24)
    torch.manual_seed(0)
    model = sl.SubjectModel(LittleNet(), to_tensor, "1")
    return {
        precision: sl.build(
            folder / f"{precision}.semlens", model, images, PatchEmbedder(), ["first", "second"],
            examples=4, embedder_precision=precision,
        )
        for precision in ("float32", "bfloat16")
    }  # fmt: skip


def test_only_vectors_differ(databases):
    exact, rounded = databases.values()
    assert ("Embedding", "in bfloat16") in describe_settings(rounded.manifest)
    assert "Embedding" not in dict(describe_settings(exact.manifest))
    for row in range(exact.manifest.rows):
        assert [(e.sample, e.box, e.activation) for e in exact.examples_of(row)] == [
            (e.sample, e.box, e.activation) for e in rounded.examples_of(row)
        ]
    assert np.array_equal(exact.crop_boxes, rounded.crop_boxes)
    vectors, others = (np.asarray(db.crop_vectors, np.float64) for db in (exact, rounded))
    assert not np.array_equal(vectors, others)
    assert (vectors * others).sum(1).min() > LEAST_COSINE
    unlike = vectors @ vectors.T
    assert unlike.min() < LEAST_COSINE


def test_a_build_continues_in_its_own_precision(databases):
    db = databases["bfloat16"]
    model = sl.SubjectModel(LittleNet(), to_tensor, "1")
    model.module.load_state_dict(db.model.module.state_dict())
    with pytest.raises(RecipeError, match="embedder_precision"):
        sl.build(db.path, model, db.images, PatchEmbedder(), ["first"], examples=4)


def test_a_build_refuses_an_embedder_that_16_bits_ruin(tmp_path):
    images = write_pictures(tmp_path / "images", 8)
    model = sl.SubjectModel(LittleNet(), to_tensor, "1")
    with pytest.raises(EmbedderError, match="cosine"):
        sl.build(
            tmp_path / "x.semlens", model, images, CancellingEmbedder(), ["first"],
            examples=2, embedder_precision="bfloat16",
        )  # fmt: skip
    assert not (tmp_path / "x.semlens" / "manifest.json").exists()
