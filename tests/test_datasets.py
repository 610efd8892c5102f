"""Data sets of Python objects and of Hugging Face, and how a SPEC names data."""

from __future__ import annotations

from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import assert_says, colours, encoded
from PIL import Image
from torchvision.datasets import FakeData
from torchvision.datasets import ImageFolder as TorchvisionFolder

from semlens.data.huggingface import HuggingFaceImages
from semlens.data.image_folder import ImageFolder
from semlens.data.image_sequence import ImageSequence
from semlens.data.images import content_digest
from semlens.data.load import load_images
from semlens.errors import DataError, ImageError


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours(seed=seed)).save(path)


def test_a_sequence_of_every_kind_of_item(tmp_path):
    array = colours()
    save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    items = [Image.fromarray(array), tmp_path / "x.png", str(tmp_path / "x.png"), data, array]
    images = ImageSequence(items, name="mixed")
    assert images.spec == "python:mixed"
    assert images.ids == list("01234")
    assert images.targets is None
    for sample in range(5):
        np.testing.assert_array_equal(np.asarray(images.read(sample)), array)
    assert images.digest(1) == images.digest(2) == images.digest(3)
    assert images.digest(0) == images.digest(4) != images.digest(1)
    odd = ImageSequence([array[:, :, 0], array[:, :, :1], np.dstack([array, array[:, :, 0] * 0])])
    assert odd.read(0).tobytes() == odd.read(1).tobytes()
    assert (np.asarray(odd.read(2)) == 255).all()  # alpha 0 over white
    assert len(ImageSequence([array] * 11).ids[0]) == 2


def test_palettes_and_orientation_count_in_the_digest():
    plain = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    other = plain.copy()
    plain.putpalette([0, 0, 0, 255, 0, 0])
    other.putpalette([0, 0, 0, 0, 255, 0])
    images = ImageSequence([plain, other])
    assert images.digest(0) != images.digest(1)
    assert content_digest(Image.new("RGB", (2, 3))) != content_digest(Image.new("RGB", (3, 2)))


def test_a_damaged_item_of_a_sequence_is_an_image_error(tmp_path):
    data = encoded(Image.fromarray(colours(64, 64)), "PNG")
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    images = ImageSequence([Image.open(tmp_path / "cut.png"), tmp_path / "gone.png"])
    for sample, part in ((0, "Cannot decode"), (1, "Cannot read")):
        with pytest.raises(ImageError, match=part):
            images.read(sample)
        with pytest.raises(ImageError, match=part):
            images.digest(sample)


def test_classes_of_a_sequence():
    picture = Image.new("RGB", (4, 4))
    assert ImageSequence([(picture, 1), (picture, 0)]).targets == ["1", "0"]
    assert ImageSequence([(picture, 1), (picture, 0)], classes=["a", "b"]).targets == ["b", "a"]
    assert ImageSequence([(picture, "x"), (picture, "y")]).targets == ["x", "y"]
    assert ImageSequence([(picture, torch.tensor(1))], classes=["a", "b"]).targets == ["b"]
    assert ImageSequence([(picture, np.int64(1))], classes=["a", "b"]).targets == ["b"]
    missing = ImageSequence([(picture, -1), (picture, 0)], classes=["a", "b"])
    assert missing.targets == ["(no label)", "a"]  # not the last class
    assert ImageSequence([(picture, {"box": 1})]).targets is None
    with pytest.raises(DataError) as caught:
        ImageSequence([(picture, 2)], classes=["a", "b"])
    assert_says(caught.value, "class index 2", "Expected 0 to 1", "name for every class")


def test_torchvision_data_sets(tmp_path):
    for i, name in enumerate(("cat/1.png", "dog/2.png", "dog/3.png")):
        save(tmp_path / name, seed=i)
    folder = TorchvisionFolder(tmp_path)
    images = ImageSequence(folder)
    assert images.targets == ["cat", "dog", "dog"]
    assert images.read(2).tobytes() == ImageFolder(tmp_path).read(2).tobytes()
    reads = []
    folder.loader = lambda path: reads.append(path) or Image.open(path).convert("RGB")
    subset = ImageSequence(torch.utils.data.Subset(folder, [2, 0]))
    assert subset.targets == ["dog", "cat"]
    assert len(reads) <= 1  # the classes are listed: no image but the first is opened
    fake = ImageSequence(FakeData(5, (3, 8, 8), num_classes=3))
    assert len(fake.targets) == 5
    assert fake.read(0).size == (8, 8)

    class Synonyms(list):
        targets = torch.tensor([1, 0])
        classes = [("crane", "Grus"), ("tench", "Tinca tinca")]

    pictures = Synonyms([Image.new("RGB", (4, 4))] * 2)
    assert ImageSequence(pictures).targets == ["tench", "crane"]
    pictures.wnids = ["n02012849", "n01440764"]
    assert ImageSequence(pictures).targets == ["n01440764", "n02012849"]


def test_tensors_and_other_items_are_refused():
    for items, met in (
        ([torch.zeros(3, 8, 8)], "Item 0 is a Tensor of torch.float32 and shape [3, 8, 8]"),
        ([(torch.zeros(3, 8, 8), 1)], "Item 0 is a Tensor"),
        ([np.zeros((8, 8, 3), np.float32)], "ndarray of float32"),
        ([np.zeros((5, 8, 8), np.uint8)], "shape [5, 8, 8]"),
        (FakeData(2, (3, 8, 8), transform=lambda x: torch.zeros(3)), "Item 0 is a Tensor"),
    ):
        with pytest.raises(DataError) as caught:
            ImageSequence(items)
        assert_says(caught.value, met, "Expected a raw image", "Remove the transform")
    with pytest.raises(DataError, match="HuggingFaceImages"):
        ImageSequence([{"image": Image.new("RGB", (4, 4))}])
    with pytest.raises(DataError, match="empty"):
        ImageSequence([])


def rows(count: int = 3, **more) -> datasets.Dataset:
    data = {
        "image": [Image.fromarray(colours(seed=i)) for i in range(count)],
        "label": [i % 2 for i in range(count)],
        **more,
    }
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    features |= {name: datasets.Image() for name in more}
    return datasets.Dataset.from_dict(data, features=datasets.Features(features))


def test_a_hugging_face_data_set_on_disk(tmp_path):
    rows().save_to_disk(tmp_path / "one")
    images = load_images(tmp_path / "one")
    assert isinstance(images, HuggingFaceImages)
    assert images.spec == f"datasets/{tmp_path / 'one'}"
    assert images.ids == ["0", "1", "2"]
    assert images.targets == ["cat", "dog", "cat"]
    np.testing.assert_array_equal(np.asarray(images.read(1)), colours(seed=1))
    again = load_images(images.spec)
    assert [again.digest(i) for i in range(3)] == [images.digest(i) for i in range(3)]
    assert len({images.digest(i) for i in range(3)}) == 3
    with pytest.raises(DataError, match="has no split 'train'"):
        load_images(f"datasets/{tmp_path / 'one'}:train")


def test_splits_of_a_hugging_face_data_set(tmp_path):
    folder = tmp_path / "two"
    datasets.DatasetDict({"train": rows(3), "test": rows(2)}).save_to_disk(folder)
    assert len(load_images(f"datasets/{folder}:test")) == 2
    for spec, met in (
        (str(folder), "has splits"),
        (f"datasets/{folder}:val", "Unknown split 'val' of"),
    ):
        with pytest.raises(DataError) as caught:
            load_images(spec)
        assert_says(caught.value, met, "The splits are train, test", f"datasets/{folder}:train")
    datasets.DatasetDict({"only": rows(2)}).save_to_disk(tmp_path / "single")
    assert len(load_images(tmp_path / "single")) == 2


def test_columns_of_a_hugging_face_data_set(tmp_path):
    pair = rows(2, mask=[Image.new("RGB", (3, 3))] * 2)
    with pytest.raises(DataError) as caught:
        HuggingFaceImages(pair)
    assert_says(caught.value, "2 image columns (image, mask)", "exactly one", "column=")
    assert HuggingFaceImages(pair, column="mask").read(0).size == (3, 3)
    with pytest.raises(DataError, match="no column 'picture'.*It has image, label"):
        HuggingFaceImages(pair, column="picture")
    with pytest.raises(DataError, match="0 image columns"):
        HuggingFaceImages(datasets.Dataset.from_dict({"text": ["a"]}))
    with pytest.raises(DataError, match="no row"):
        HuggingFaceImages(rows(0))
    texts = datasets.Dataset.from_dict({"image": pair["image"][:], "kind": ["a", "b"]})
    assert HuggingFaceImages(texts).targets is None
    assert HuggingFaceImages(texts, target_column="kind").targets == ["a", "b"]


def test_missing_labels_and_images_of_a_hugging_face_data_set(tmp_path):
    (tmp_path / "x.png").write_bytes(encoded(Image.fromarray(colours()), "PNG"))
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    data = {
        "image": [str(tmp_path / "x.png"), None, str(tmp_path / "gone.png")],
        "label": [1, -1, None],
    }
    images = HuggingFaceImages(
        datasets.Dataset.from_dict(data, features=datasets.Features(features))
    )
    assert images.targets == ["dog", "(no label)", "(no label)"]
    np.testing.assert_array_equal(np.asarray(images.read(0)), colours())
    for sample, part in ((1, "Row 1 has no image"), (2, "Cannot read")):
        with pytest.raises(ImageError, match=part):
            images.digest(sample)


def test_specs(tmp_path, monkeypatch):
    save(tmp_path / "pictures" / "1.png")
    assert isinstance(load_images(tmp_path / "pictures"), ImageFolder)
    assert len(load_images(str(tmp_path / "pictures"))) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_images("~/pictures").spec == str(tmp_path / "pictures")
    with pytest.raises(DataError) as caught:
        load_images("python:mine")
    assert_says(caught.value, "'python:mine' was a Python object", "images=")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        load_images("datasets/nobody/nothing")
    assert_says(caught.value, "dataset 'nobody/nothing'", "hub id or a folder", "network")
