"""What people have in Python: modules, tensors and float arrays, loaders, and pickled results."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from conftest import LittleNet, assert_says, build_vegetables, colours, spread_logits, to_tensor
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models
from torchvision.transforms import v2

import semlens as sl
from semlens.data.load import as_images
from semlens.errors import ConceptError, DataError, ImageError, LayerError, ModelError
from semlens.models.load import as_model

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
PIXELS = colours(9, 7)
"""uint8 [9 7 3]."""


def test_arrays_of_any_type_order_and_range_are_the_same_picture():
    shares = PIXELS / 255
    normalised = ((shares - MEAN) / STD).transpose(2, 0, 1)
    ends = (-MEAN / STD).tolist(), ((1 - MEAN) / STD).tolist()
    bright = torch.from_numpy(shares).permute(2, 0, 1)
    for array, value_range in (
        (PIXELS, None),
        (PIXELS.transpose(2, 0, 1), None),
        (torch.from_numpy(PIXELS), None),
        (torch.from_numpy(PIXELS).permute(2, 0, 1), None),
        (PIXELS.astype(np.int64), (0, 255)),
        (shares, (0, 1)),
        (bright.float(), (0.0, 1.0)),
        (bright.half().requires_grad_(), (0, 1)),
        (2 * bright - 1, (-1, 1)),
        (1 - bright, (1, 0)),  # 0 is white, as in a radiograph
        (normalised, ends),
        (torch.from_numpy(normalised).float(), ends),
    ):
        near = np.asarray(sl.as_picture(array, value_range)).astype(int) - PIXELS
        assert np.abs(near).max() <= (1 if array.dtype == torch.half else 0), value_range
        images = sl.ImageSequence([array], value_range=value_range)
        np.testing.assert_array_equal(images.read(0), sl.as_picture(array, value_range))


def test_grey_alpha_and_whole_arrays():
    grey = sl.as_picture(torch.linspace(0, 1, 10).view(1, 2, 5), (0, 1))
    expected = np.rint(np.linspace(0, 255, 10)).reshape(2, 5)
    np.testing.assert_array_equal(np.asarray(grey), np.stack([expected] * 3, -1))
    clear = np.dstack([PIXELS / 255, np.zeros((9, 7))])
    assert (np.asarray(sl.as_picture(clear, (0, 1))) == 255).all()  # alpha 0 over white
    batch = torch.from_numpy(np.stack([PIXELS] * 4)).permute(0, 3, 1, 2)
    data = TensorDataset(batch / 255, torch.tensor([2, 0, 1, 1]))
    images = sl.ImageSequence(data, value_range=(0, 1), classes=["a", "b", "c"])
    assert images.targets == ["c", "a", "b", "b"]
    np.testing.assert_array_equal(np.asarray(images.read(3)), PIXELS)
    np.testing.assert_array_equal(np.asarray(as_images(batch).read(3)), PIXELS)
    assert as_images(np.zeros((5, 9, 7), np.uint8)).read(4).size == (7, 9)  # greys
    several = TensorDataset(batch, torch.eye(4))
    assert as_images(several).targets is None  # a vector is no class


def test_an_array_that_may_be_several_things_is_refused_and_the_option_named():
    small = torch.rand(3, 9, 3)
    with pytest.raises(ImageError) as caught:
        sl.as_picture(small, (0, 1))
    assert_says(caught.value, "shape [3, 9, 3]", "first or its last", "layout='channels_first'")
    assert sl.as_picture(small, (0, 1), "channels_first").size == (3, 9)
    assert sl.as_picture(small, (0, 1), "channels_last").size == (9, 3)
    assert sl.as_picture(np.zeros((3, 9, 3), np.uint8)).size == (9, 3)  # as ever: [h w 3]
    with pytest.raises(DataError, match="may be one image.*Pass a list"):
        as_images(PIXELS)


@pytest.mark.parametrize(
    ("array", "value_range", "says"),
    [
        (torch.rand(3, 9, 7), None, ["torch.float32", "values from", "value_range=(black, white)"]),
        (np.zeros((9, 7), bool), None, ["ndarray of bool", "value_range"]),
        (PIXELS.astype(np.int32), None, ["int32", "with values from 0 to"]),
        (PIXELS / 255, (-1, 0.5), ["has values from 0", "black, -1, and white, 0.5"]),
        (np.full((9, 7), np.nan), (0, 1), ["values from nan"]),
        (PIXELS / 255, (0, 0), ["value_range is (0, 0)", "two different numbers"]),
        (PIXELS / 255, ([0, 0], [1, 1]), ["value_range is ([0, 0]", "lists of 3 numbers"]),
        (torch.rand(1, 3, 9, 7), (0, 1), ["shape [1, 3, 9, 7]", "batch[0]"]),
        (torch.rand(5, 9, 7), (0, 1), ["shape [5, 9, 7]", "[h w c] or [c h w]"]),
        (np.zeros((0, 7)), (0, 1), ["shape [0, 7]"]),
        (PIXELS * 1j, (0, 1), ["complex128", "real numbers"]),
    ],
)  # fmt: skip
def test_an_array_without_a_meaning_is_refused(array, value_range, says):
    with pytest.raises(ImageError) as caught:
        sl.as_picture(array, value_range)
    assert_says(caught.value, *says)
    with pytest.raises(DataError) as caught:
        sl.ImageSequence([array], value_range=value_range)
    assert_says(caught.value, *says)


def test_loaders_are_refused_with_what_to_pass():
    data = TensorDataset(torch.rand(4, 3, 9, 7), torch.arange(4))
    for take in (as_images, sl.ImageSequence):
        with pytest.raises(DataError) as caught:
            take(DataLoader(data, batch_size=2))
        assert_says(caught.value, "a DataLoader", "Pass loader.dataset", "value_range=")
        with pytest.raises(DataError) as caught:
            take(data)
        assert_says(caught.value, "Item 0", "semlens.ImageSequence", "Remove the transform")
        with pytest.raises(DataError, match="a generator, without a length"):
            take(PIXELS for _ in range(3))


def test_a_module_of_timm_brings_its_preprocessing():
    module = timm.create_model("resnet10t").train()
    subject = as_model(module)
    assert subject.spec == "python:ResNet"
    assert module.training  # it is not changed
    picture = Image.fromarray(colours(200, 300))
    config = timm.data.resolve_model_data_config(module)
    transform = timm.data.create_transform(**config, is_training=False)
    assert torch.equal(subject.prepare(picture), transform(picture))
    other = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=1)
    with pytest.raises(ModelError) as caught:  # its configuration says 224
        as_model(other)
    assert_says(caught.value, "VisionTransformer", "[1, 3, 224, 224]", "(module, preprocess)")


def test_a_module_of_torchvision_is_known_by_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    tags = models.SqueezeNet1_1_Weights
    module = models.squeezenet1_1()
    with pytest.raises(ModelError) as caught:
        as_model(module)
    assert_says(caught.value, "SqueezeNet", "none of the published", f"{tags.IMAGENET1K_V1}.trans")
    file = tmp_path / "checkpoints" / Path(tags.IMAGENET1K_V1.url).name
    file.parent.mkdir()
    torch.save(module.state_dict(), file)
    subject = as_model(module)
    assert subject.classes[:2] == ["tench", "goldfish"]
    picture = Image.fromarray(colours(200, 300))
    assert torch.equal(subject.prepare(picture), tags.IMAGENET1K_V1.transforms()(picture))
    with torch.no_grad():
        module.classifier[1].bias += 0.1  # fine-tuned: with any normalisation
    with pytest.raises(ModelError, match="none of the published"):
        as_model(module)


def test_a_module_of_transformers_is_known_by_its_folder(tmp_path):
    config = transformers.ResNetConfig(
        depths=[1, 1], hidden_sizes=[8, 8], embedding_size=8, id2label={0: "cat", 1: "dog"}
    )
    module = transformers.ResNetForImageClassification(config)
    with pytest.raises(ModelError, match="does not say how an image"):
        as_model(module)
    module.save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 40}).save_pretrained(tmp_path)
    subject = as_model(transformers.ResNetForImageClassification.from_pretrained(tmp_path))
    assert list(subject.classes) == ["cat", "dog"]
    again = sl.load_model(f"transformers/{tmp_path}")
    picture = Image.fromarray(colours(60, 90))
    assert torch.equal(subject.prepare(picture), again.prepare(picture))
    assert subject.fingerprint == again.fingerprint


def test_other_modules_need_their_preprocessing():
    for model, says in (
        (nn.Sequential(nn.Conv2d(3, 4, 3)), ["a Sequential", "(module, preprocess)"]),
        ((LittleNet(),), ["(LittleNet)", "(module, preprocess[, classes])"]),
        ((LittleNet(), "resize"), ["(LittleNet, str)"]),
    ):
        with pytest.raises(ModelError) as caught:
            as_model(model)
        assert_says(caught.value, *says)


def test_a_preprocessing_is_identified_by_what_it_does():
    def composed(size: int, mean: float = 0.5) -> v2.Compose:
        scale = v2.ToDtype(torch.float32, scale=True)
        return v2.Compose(
            [v2.Resize((size, size)), v2.ToImage(), scale, v2.Normalize([mean] * 3, [0.5] * 3)]
        )

    module = LittleNet()
    first = as_model((module, composed(32)))
    assert first.fingerprint == as_model((module, composed(32))).fingerprint
    known = {first.fingerprint}
    large = v2.Lambda(lambda image: image.crop((0, 0, min(image.width, 500), image.height)))
    for other in (composed(40), composed(32, 0.45), v2.Compose([large, composed(32)])):
        known.add(as_model((module, other)).fingerprint)
    assert len(known) == 4


@pytest.fixture(scope="module")
def vegetables(tmp_path_factory):
    net = LittleNet()
    spread_logits(net, torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return build_vegetables(tmp_path_factory.mktemp("inputs"), (net, to_tensor))


def test_an_array_is_explained_and_searched_like_its_picture(vegetables):
    picture = vegetables.images.read(3)
    array = np.asarray(picture)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    expected = vegetables.explain(picture, 1)
    for given in (array, tensor, sl.as_picture(tensor / 255, (0, 1))):
        found = vegetables.explain(given, 1)
        assert found.name == "image"
        assert found.to_json() == expected.to_json()
    with pytest.raises(ConceptError, match=r"value_range=\(black, white\)"):
        vegetables.explain(tensor / 255)
    hits = vegetables.search(images=picture).to_pandas()
    assert vegetables.search(images=tensor).to_pandas().equals(hits)
    assert vegetables.search(images=[array]).to_pandas().equals(hits)
    both = vegetables.search(images=torch.stack([tensor, tensor])).to_pandas()
    assert both["component"].equals(hits["component"])


def test_a_component_by_its_name(vegetables):
    card = vegetables["second:7"]
    assert card.component == sl.Component("second", 7)
    assert vegetables[card.component].to_pandas().equals(card.to_pandas())
    for name in ("second:99", "second", 7):
        with pytest.raises(LayerError):
            vegetables[name]


def test_a_pickled_database_is_opened_again(vegetables):
    copied = pickle.loads(pickle.dumps(vegetables))
    assert type(copied) is sl.ConceptDatabase
    assert copied.location == vegetables.location
    assert copied.components.equals(vegetables.components)
    np.testing.assert_array_equal(copied.images.read(5), vegetables.images.read(5))
    with pytest.raises(ModelError, match="Python object"):
        _ = copied.model
    hits = vegetables.search(like="second:1")
    assert pickle.loads(pickle.dumps(hits)).to_json() == hits.to_json()
    explained = vegetables.explain(vegetables.images.read(0), 1)
    again = pickle.loads(pickle.dumps(explained))
    assert again.to_json() == explained.to_json()
    np.testing.assert_array_equal(np.asarray(again.plot()), np.asarray(explained.plot()))


def test_a_database_takes_the_same_inputs_when_it_is_opened(vegetables):
    pictures = [vegetables.images.read(i) for i in range(len(vegetables.images))]
    net = vegetables.model.module
    opened = sl.open(vegetables.path, model=(net, to_tensor))
    assert opened.model.fingerprint == vegetables.model.fingerprint
    with pytest.raises(DataError, match="holds 24 samples, not those of the database"):
        _ = sl.open(vegetables.path, images=pictures).images
    assert len(sl.layers((net, to_tensor)).to_pandas()) == len(sl.layers(vegetables.model).table)
