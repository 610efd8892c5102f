"""The contract of a subject model; transformers models and the user's own files; the survey."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import transformers
from conftest import LittleNet, to_tensor
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from semlens.errors import ModelError
from semlens.models.hooks import run_layers
from semlens.models.inspection import layers
from semlens.models.load import load_model
from semlens.models.subject import PreparedSample, SubjectModel, batch_inputs, input_pictures

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


def assert_says(error: BaseException, *parts: str) -> None:
    for part in parts:
        assert part in str(error), (part, str(error))


def saved(folder, model, processor):
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def vit_processor(side=32):
    return transformers.ViTImageProcessor(size={"height": side, "width": side})


def dino_processor():
    return transformers.BitImageProcessor(
        size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}
    )


def test_transformers_vit_classifier(tmp_path):
    names = {0: "cat", 1: "dog", 2: "great white shark"}
    config = transformers.ViTConfig(**SMALL, id2label=names)
    module = saved(
        tmp_path / "vit", transformers.ViTForImageClassification(config), vit_processor()
    )
    model = load_model(f"transformers/{tmp_path / 'vit'}")
    assert model.classes == ["cat", "dog", "great white shark"]
    batch = model.batch([model.preprocess(Image.new("RGB", (50, 40), (90, 10, 200)))])
    assert batch.shape == (1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.module(batch).logits, module(batch).logits)
    forms = layers(model).layouts
    tokens = [form for form in forms.values() if form.form == "tokens" and form.components == 24]
    assert all((form.height, form.width, form.prefix) in ((4, 4, 1), (4, 4, 0)) for form in tokens)
    assert forms["classifier"].components == 3
    (tmp_path / "vit").rename(tmp_path / "moved")
    assert load_model(f"transformers/{tmp_path / 'moved'}").fingerprint == model.fingerprint


def test_transformers_resnet_and_unnamed_classes(tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4, layer_type="basic"
    )
    saved(tmp_path, transformers.ResNetForImageClassification(config), vit_processor())
    model = load_model(f"transformers/{tmp_path}")
    assert model.classes is None  # LABEL_0 ... is no name
    forms = layers(model).layouts
    assert forms["resnet.encoder.stages.1"].form == "map"
    assert forms["resnet.encoder.stages.1"].components == 16


def test_transformers_dinov2_and_a_bare_vit_without_a_pooler(tmp_path):
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    saved(tmp_path / "dino", transformers.Dinov2Model(config), dino_processor())
    model = load_model(f"transformers/{tmp_path / 'dino'}")
    assert model.classes is None
    last = layers(model).layouts["layernorm"]
    assert (last.components, last.height, last.prefix) == (24, 4, 1)
    bare = transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=False)
    saved(tmp_path / "vit", bare, vit_processor())
    spec = f"transformers/{tmp_path / 'vit'}"
    assert load_model(spec).fingerprint == load_model(spec).fingerprint
    assert load_model(spec, random_weights=1).fingerprint != load_model(spec).fingerprint
    again = load_model(load_model(spec, random_weights=1).spec)
    assert again.fingerprint == load_model(spec, random_weights=1).fingerprint


def test_incomplete_transformers_folders(tmp_path):
    config = transformers.ViTConfig(**SMALL)
    saved(tmp_path, transformers.ViTForImageClassification(config), vit_processor())
    state = transformers.ViTForImageClassification(config).state_dict()
    from safetensors.torch import save_file

    save_file(
        {k: v for k, v in state.items() if "encoder" not in k and "layers" not in k},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ModelError) as caught:
        load_model(f"transformers/{tmp_path}")
    assert_says(caught.value, "lack", "(first: ", "its config.json describes", "complete")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match="cannot be downloaded.*Use a local checkpoint"):
        load_model(f"transformers/{tmp_path}")


FILE = """
import torch
from neighbour import SIDE
from torchvision.transforms.functional import pil_to_tensor

def preprocess(image):
    return pil_to_tensor(image.resize((SIDE, SIDE))) / 255

def make():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    return module.train(), preprocess

def with_classes():
    return (*make(), ["a", "b", "c", "d"])

def half():
    return make()[0], 3

def broken():
    return 1 / 0

number = 3
"""


@pytest.fixture
def user_file(tmp_path):
    (tmp_path / "neighbour.py").write_text("SIDE = 20")
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_the_users_own_file(user_file, monkeypatch):
    model = load_model(f"{user_file}:make")
    assert model.preprocess(Image.new("RGB", (9, 9))).shape == (3, 20, 20)
    assert not model.module.training
    assert load_model(f"{user_file}:with_classes").classes == list("abcd")
    monkeypatch.chdir(user_file.parent)
    assert load_model("mine.py:make").spec == f"{user_file}:make"
    assert load_model("mine.py:make").fingerprint == model.fingerprint
    user_file.write_text(FILE + "# another thought\n")
    assert load_model(f"{user_file}:make").fingerprint != model.fingerprint


def test_code_is_run_only_when_it_is_asked_for(user_file):
    user_file.write_text("raise SystemExit('code ran')")
    with pytest.raises(ModelError) as caught:
        load_model(f"{user_file}:make", run_files=False)
    assert_says(
        caught.value,
        "which is Python code",
        "never runs code",
        f"model='{user_file}:make' (--model)",
    )


@pytest.mark.parametrize(
    ("name", "met"),
    [
        ("absent", "has no callable 'absent'"),
        ("number", "has no callable 'number'"),
        ("preprocess", "fails (TypeError"),
        ("broken", "fails (ZeroDivisionError"),
        ("half", "returned (Sequential, int)"),
    ],
)
def test_user_files_that_are_not_as_described(user_file, name, met):
    with pytest.raises(ModelError) as caught:
        load_model(f"{user_file}:{name}")
    assert_says(caught.value, met, "returns (module, preprocess[, classes])")
    with pytest.raises(
        ModelError, match="is not a file.*Expected FILE.py:CALLABLE.*Check the path"
    ):
        load_model(f"{user_file.parent / 'gone.py'}:make")


def test_the_fingerprint_is_of_weights_architecture_and_preprocessing():
    one = SubjectModel(LittleNet(), to_tensor, "v")
    assert SubjectModel(LittleNet(), to_tensor, "v").fingerprint == one.fingerprint
    assert SubjectModel(LittleNet(seed=1), to_tensor, "v").fingerprint != one.fingerprint
    assert SubjectModel(LittleNet(), to_tensor, "w").fingerprint != one.fingerprint
    other = LittleNet()
    other.first[1] = nn.LeakyReLU()  # no weight differs
    assert SubjectModel(other, to_tensor, "v").fingerprint != one.fingerprint
    with torch.no_grad():
        one.module.head.bias[0] += 1e-6
    assert SubjectModel(LittleNet(), to_tensor, "v").fingerprint != one.fingerprint


SCALE = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


def python_random(image):
    return to_tensor(image) * random.choice([1, 1, 1, 2])


def numpy_random(image):
    return to_tensor(image) + float(np.random.rand() < 0.2)


@pytest.mark.parametrize(
    "preprocess",
    [
        v2.Compose([v2.RandomResizedCrop(32), *SCALE]),
        v2.Compose([v2.Resize((32, 32)), v2.RandomHorizontalFlip(), *SCALE]),
        v2.Compose([v2.Resize((32, 32)), *SCALE, v2.RandomErasing(0.2)]),
        python_random,
        numpy_random,
    ],
)
def test_random_preprocessing_is_refused(preprocess):
    for seed in range(4):  # also where two results happen to be equal
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        with pytest.raises(ModelError) as caught:
            SubjectModel(LittleNet(), preprocess, "v")
        assert_says(
            caught.value, "different results for the same image", "deterministic", "without random"
        )


def test_wrong_preprocessing_is_refused():
    for preprocess, met in (
        (lambda image: image, "returns Image"),
        (lambda image: to_tensor(image)[None], "returns [1, 3, 32, 32]"),
        (lambda image: to_tensor(image).long(), "returns [3, 32, 32]"),
        (lambda image: np.asarray(image), "returns ndarray"),
        (lambda image: 1 / 0, "fails on an RGB image of 131 x 97 pixels (ZeroDivisionError"),
    ):
        with pytest.raises(ModelError) as caught:
            SubjectModel(LittleNet(), preprocess, "v")
        assert_says(caught.value, met, "float tensor [3 h w]")


def test_tensors_of_several_shapes_are_refused():
    model = SubjectModel(LittleNet(), v2.Compose([v2.Resize(32), *SCALE]), "v")
    inputs = [model.preprocess(Image.new("RGB", size)) for size in ((40, 40), (80, 40))]
    with pytest.raises(ModelError) as caught:
        model.batch(inputs)
    assert_says(caught.value, "shapes [(3, 32, 32), (3, 32, 64)]", "one shape", "Add a resize")


def test_inputs_take_the_precision_of_the_model():
    model = SubjectModel(LittleNet().double(), lambda i: to_tensor(i).half(), "v")
    assert model.batch([model.preprocess(Image.new("RGB", (40, 40)))]).dtype == torch.float64


@pytest.mark.slow
def test_wrappers_are_taken_off_and_torchscript_is_refused():
    plain = SubjectModel(LittleNet(), to_tensor, "v")
    for wrap in (nn.DataParallel, torch.compile, lambda m: nn.DataParallel(torch.compile(m))):
        model = SubjectModel(wrap(LittleNet()), to_tensor, "v")
        assert model.fingerprint == plain.fingerprint
        batch = model.batch([model.preprocess(Image.new("RGB", (40, 40), (200, 10, 90)))])
        found = run_layers(model.module, batch, ["first"], lambda _, out: out.clone())
        assert found["first"].shape == (1, 6, 16, 16)
    with pytest.raises(ModelError) as caught:
        SubjectModel(torch.jit.trace(LittleNet(), torch.zeros(1, 3, 32, 32)), to_tensor, "v")
    assert_says(caught.value, "TorchScript", "plain module", "scripted or traced from")


def test_the_survey_is_in_running_order_and_leaves_the_model_as_it_was():
    module = LittleNet()
    module.train()
    module.first.eval()
    module.unused = nn.Linear(3, 3)
    found = layers(SubjectModel(module, to_tensor, "v"))
    assert list(found.layouts) == ["first.0", "first.1", "first", "second", "head"]
    kinds = found.to_pandas()["module"].tolist()
    assert kinds == ["Conv2d", "ReLU", "Sequential", "Conv2d", "Linear"]
    assert set(found.to_pandas()["runs"]) == {1}
    assert module.training and module.head.training and not module.first[0].training
    assert not any(m._forward_hooks for m in module.modules())


def test_survey_of_timm_vit_and_swin():
    vit = load_model("timm/test_vit", random_weights=0)
    forms = layers(vit).layouts
    block = forms["blocks.1"]
    assert (block.form, block.components, block.height, block.prefix) == ("tokens", 64, 10, 1)
    assert forms["head"].form == "units"
    import timm

    module = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=24, depths=(1, 1),
        num_heads=(2, 2), num_classes=3,
    )  # fmt: skip
    swin = SubjectModel(module, v2.Compose([v2.Resize((64, 64)), *SCALE]), "v")
    forms = layers(swin).layouts
    assert forms["layers.0"].form == forms["layers.1"].form == "map-last"
    assert (forms["layers.0"].components, forms["layers.0"].height) == (24, 16)
    assert (forms["layers.1"].components, forms["layers.1"].width) == (48, 8)


class Viewing(nn.Module):
    """Reshapes a map with ``view``, as older code does: it fails where channels are last."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return x.view(len(x), -1)


class Striding(nn.Module):
    """Reads memory in its order, so that the format changes the result."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(3 * 32 * 32, 4)

    def forward(self, x):
        flat = x.as_strided((len(x), 3 * 32 * 32), (3 * 32 * 32, 1), 0)
        return self.dense(flat)


class Noisy(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) + torch.rand(len(x), 3)


@pytest.mark.parametrize(
    ("module", "accepted"),
    [(LittleNet(), True), (Viewing(), False), (Striding(), False), (Noisy(), False),
     (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)), True)],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_channels_are_last_only_where_that_changes_nothing(module, accepted):
    model = SubjectModel(module, to_tensor, "32")
    assert model.takes_channels_last == accepted
    item = PreparedSample(0, model.prepare(Image.new("RGB", (20, 20), "red")))
    inputs = batch_inputs(model, [item, item])
    assert inputs.is_contiguous(memory_format=torch.channels_last) == accepted
    run_layers(model.module, inputs, [], lambda *_: None)


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_pictures_of_inputs_without_three_channels_are_grey(channels):
    def preprocess(image):
        x = to_tensor(image.convert("L").convert("RGB"))
        return torch.cat([x, -x])[:channels] if channels > 1 else 3 * x[:1] - 1

    values = np.linspace(0, 255, 24).astype(np.uint8).reshape(4, 6)
    image = Image.fromarray(values).convert("RGB").resize((60, 40), Image.Resampling.NEAREST)
    (shown,) = input_pictures(SubjectModel(nn.Identity(), preprocess, "v"), preprocess(image)[None])
    expected = (255 * (to_tensor(image) + 1) / 2).round().permute(1, 2, 0).numpy()
    assert np.abs(np.asarray(shown, int) - expected).max() <= 1
