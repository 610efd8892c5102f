"""Foundation models from small local checkpoints in the real formats, and a build with one."""

from __future__ import annotations

import json

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
import transformers
from conftest import write_pictures
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

import semlens as sl
from semlens.embedders.load import load_embedder
from semlens.errors import EmbedderError

WORDS = ["a", "photo", "of", "red", "blue", "dog", "ox", "water", "mark", "the"]
SMALL = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
TEXTS = ["red dog", "a photo of the blue ox", "", "water mark " * 40, "of"]


def assert_says(error: BaseException, *parts: str) -> None:
    for part in parts:
        assert part in str(error), (part, str(error))


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def word_tokenizer(end: str) -> Tokenizer:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "<unk>", *WORDS, end])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"<s> $A {end}", special_tokens=[("<s>", 1), (end, vocabulary[end])]
    )
    return tokenizer


def clip_folder(folder, seed=0):
    """CLIP as its authors save it: config, safetensors, image processor, tokenizer."""
    torch.manual_seed(seed)
    text = {**SMALL, "vocab_size": 14, "max_position_embeddings": 12, "eos_token_id": 13}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer("</s>"), pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def siglip_folder(folder, seed=0):
    torch.manual_seed(seed)
    text = {**SMALL, "vocab_size": 14, "max_position_embeddings": 16, "projection_size": 24}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    transformers.SiglipModel(config).save_pretrained(folder)
    transformers.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_tokenizer("</s>"), pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def dino_folder(folder, seed=0):
    torch.manual_seed(seed)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    transformers.BitImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


def open_clip_folder(folder, seed=0):
    """A folder as open_clip pushes it to a hub."""
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    tower = {"layers": 2, "width": 64, "patch_size": 8, "image_size": 32, "head_width": 32}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    config = {"embed_dim": 32, "vision_cfg": tower, "text_cfg": text}
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "resize_mode": "squash"}
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    model = open_clip.model.CLIP(**config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


KINDS = {
    "clip": (clip_folder, "transformers", 20),
    "siglip": (siglip_folder, "transformers", 24),
    "dino": (dino_folder, "transformers", 24),
    "open_clip": (open_clip_folder, "open_clip", 32),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("embedders")
    return {name: make(root / name) for name, (make, _, _) in KINDS.items()}


def load(folders, name):
    return load_embedder(f"{KINDS[name][1]}/{folders[name]}")


def pictures():
    random = np.random.default_rng(0)
    sizes = [(40, 30), (20, 60), (9, 9), (32, 32), (100, 41)]
    return [Image.fromarray(random.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.mark.parametrize("name", KINDS)
def test_images_become_unit_vectors_the_same_alone_and_in_a_batch(folders, name):
    embedder = load(folders, name)
    assert embedder.dim == KINDS[name][2]
    vectors = embedder.embed_images(pictures())
    assert vectors.shape == (5, embedder.dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    alone = torch.cat([embedder.embed_images([picture]) for picture in pictures()])
    torch.testing.assert_close(vectors, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(vectors, embedder.embed_images(pictures(), 2), atol=1e-6, rtol=0)
    assert (vectors @ vectors.T).fill_diagonal_(0).max() < 0.99999  # they see the images
    assert embedder.embed_images([]).shape == (0, embedder.dim)


@pytest.mark.parametrize("name", ["clip", "siglip", "open_clip"])
def test_texts_become_unit_vectors_the_same_alone_and_in_a_batch(folders, name):
    embedder = load(folders, name)
    assert embedder.has_text
    vectors = embedder.embed_texts(TEXTS)
    assert vectors.shape == (5, embedder.dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    alone = torch.cat([embedder.embed_texts([text]) for text in TEXTS])
    torch.testing.assert_close(vectors, alone, atol=1e-6, rtol=0)
    assert (vectors @ vectors.T).fill_diagonal_(0).max() < 0.99999
    assert embedder.embed_texts([]).shape == (0, embedder.dim)


def test_clip_is_what_transformers_itself_computes(folders):
    model = transformers.CLIPModel.from_pretrained(folders["clip"]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders["clip"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["clip"])
    tokens = tokenizer(["red dog", "the ox"], padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=processor(images=pictures(), return_tensors="pt")["pixel_values"],
        )
    embedder = load(folders, "clip")
    torch.testing.assert_close(embedder.embed_texts(["red dog", "the ox"]), output.text_embeds)
    torch.testing.assert_close(embedder.embed_images(pictures()), output.image_embeds)


def test_siglip_reads_texts_padded_to_the_full_length_without_a_mask(folders):
    model = transformers.SiglipModel.from_pretrained(folders["siglip"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["siglip"])
    ids = tokenizer(["red ox"], padding="max_length", max_length=16, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = model.text_model(input_ids=ids).pooler_output
    expected = torch.nn.functional.normalize(expected, dim=-1)
    torch.testing.assert_close(load(folders, "siglip").embed_texts(["red ox"]), expected)


def test_dinov2_gives_the_class_token_after_the_last_norm(folders):
    embedder = load(folders, "dino")
    module = transformers.AutoModel.from_pretrained(folders["dino"]).eval()
    batch = torch.stack([embedder.preprocess(p) for p in pictures()])
    with torch.no_grad():
        expected = module(pixel_values=batch).last_hidden_state[:, 0]
    expected = torch.nn.functional.normalize(expected, dim=-1)
    torch.testing.assert_close(embedder.embed_images(pictures()), expected)


def test_an_encoder_without_class_token_is_pooled(tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    transformers.ResNetModel(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    assert load_embedder(f"transformers/{tmp_path}").dim == 16


def test_an_image_only_embedder_asked_for_text_says_what_to_do(folders):
    embedder = load(folders, "dino")
    assert not embedder.has_text
    with pytest.raises(EmbedderError) as caught:
        embedder.embed_texts(["dog"])
    assert_says(caught.value, f"{folders['dino']}' has no text tower", "embeds images only")
    assert_says(caught.value, "Search by image", "image-text embedder")


@pytest.mark.parametrize("name", KINDS)
def test_the_fingerprint_is_of_the_weights_and_not_of_the_place(folders, name, tmp_path):
    make, library, _ = KINDS[name]
    first = load(folders, name)
    assert load_embedder(first.spec).fingerprint == first.fingerprint
    assert load_embedder(f"{library}/{make(tmp_path / 'copy')}").fingerprint == first.fingerprint
    assert load_embedder(f"{library}/{make(tmp_path / 'b', 1)}").fingerprint != first.fingerprint


def test_a_relative_folder_is_kept_as_an_absolute_one(folders, monkeypatch):
    for name in ("dino", "open_clip"):
        monkeypatch.chdir(folders[name].parent)
        embedder = load_embedder(f"{KINDS[name][1]}/{name}")
        assert embedder.spec == f"{KINDS[name][1]}/{folders[name]}"


def test_the_open_clip_preprocessing_counts_in_the_fingerprint(tmp_path):
    folder = open_clip_folder(tmp_path / "m")
    before = load_embedder(f"open_clip/{folder}").fingerprint
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.48, 0.46, 0.41]
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert load_embedder(f"open_clip/{folder}").fingerprint != before


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("nothing", ["Unknown embedder 'nothing'", "open_clip/MODEL/PRETRAINED", "MobileC"]),
        ("clip/ViT-B-32", ["Unknown embedder", "transformers/ID-or-dir", "recommended"]),
        ("open_clip/ViT-Q-32/openai", ["'ViT-Q-32'", "nearest models are ViT-", "list_models"]),
        ("open_clip/ViT-B-32/nope", ["'nope' of ViT-B-32", "openai", "path of a checkpoint"]),
        ("open_clip/ViT-B-32", ["Unknown weights '' of ViT-B-32", "laion2b_s34b_b79k", "Use one"]),
        (
            "open_clip/RN50/openai",
            ["Cannot load the embedder", "reachable hub", "semlens/demo"],
        ),
        ("transformers/nobody/no", ["Cannot load the embedder", "reachable hub", "checkpoint"]),
    ],
)
def test_wrong_specs_and_a_hub_out_of_reach(spec, parts, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # open_clip's cache
    with pytest.raises(EmbedderError) as caught:
        load_embedder(spec)
    assert_says(caught.value, *parts)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    folder = dino_folder(tmp_path / "dino")
    state = transformers.AutoModel.from_pretrained(folder).state_dict()
    kept = {k: v for k, v in state.items() if "layer.1." not in k}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(EmbedderError) as caught:
        load_embedder(f"transformers/{folder}")
    assert_says(caught.value, "lack", "layer.1.", "config.json describes", "complete")
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(EmbedderError, match="Cannot load.*Use a local checkpoint"):
        load_embedder(f"transformers/{folder}")


@pytest.mark.slow
def test_a_build_with_real_models_and_a_search_by_text(tmp_path, folders):
    pictures = write_pictures(tmp_path / "pictures", 4)
    model = sl.load_model("torchvision/resnet18", random_weights=0)
    embedder = load(folders, "clip")
    db = sl.build(tmp_path / "db", model, pictures, embedder, ["layer1"], examples=3)
    hits = sl.open(tmp_path / "db").search("red dog", top=5)  # loads the embedder by its SPEC
    assert len(hits.hits) == 5
    theta = torch.from_numpy(np.asarray(db.theta, np.float32))
    assert theta.shape == (64, 20)
    assert db.model.fingerprint == model.fingerprint
    assert sl.open(tmp_path / "db").manifest.model.spec == "torchvision/resnet18:random=0"
    image_only = load(folders, "dino")
    db = sl.build(
        tmp_path / "images", model, pictures, image_only, ["conv1"], crop="none", examples=2
    )
    with pytest.raises(EmbedderError, match="has no text tower"):
        db.search("red dog")
    assert len(db.search(images=[Image.new("RGB", (20, 20), "red")], top=4).hits) == 4
