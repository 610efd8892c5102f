"""Loading subject models: every SPEC, every refusal, on real files in the real formats."""

from __future__ import annotations

import pickle
import socket
import time

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from semlens.errors import ModelError
from semlens.models.load import load_model

IMAGENET_FILE = "resnet18-f37072fd.pth"  # the name that torchvision's hub gives V1


def assert_says(error: BaseException, *parts: str) -> None:
    for part in parts:
        assert part in str(error), (part, str(error))


@pytest.fixture(scope="session")
def resnet():
    torch.manual_seed(5)
    return torchvision.models.resnet18(num_classes=7).eval()


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """No network, and no cache of someone's earlier downloads."""

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def picture(width=90, height=60):
    return Image.effect_mandelbrot((width, height), (-2, -1, 1, 1), 50).convert("RGB")


def same_logits(model, module):
    inputs = model.batch([model.preprocess(picture())])
    with torch.no_grad():
        torch.testing.assert_close(model.module(inputs), module(inputs), rtol=0, atol=0)


@pytest.mark.slow
def test_torchvision_checkpoints_of_every_form(tmp_path, resnet):
    state = resnet.state_dict()
    forms = {
        "plain.pth": state,
        "nested.pt": {"epoch": 3, "state_dict": state},
        "parallel.pt": {"model": {f"module.{k}": v for k, v in state.items()}},
        "compiled.pt": {f"_orig_mod.module.{k}": v for k, v in state.items()},
    }
    for name, content in forms.items():
        torch.save(content, tmp_path / name)
    save_file(state, tmp_path / "weights.safetensors")
    prints = set()
    for name in (*forms, "weights.safetensors"):
        model = load_model(f"torchvision/resnet18:{tmp_path / name}")
        same_logits(model, resnet)
        assert model.classes is None  # 7 logits of which nobody told the names
        assert not model.module.training
        prints.add(model.fingerprint)
    assert len(prints) == 1
    assert model.preprocess(picture()).shape == (3, 224, 224)


@pytest.mark.slow
def test_a_relative_path_is_kept_as_an_absolute_one(tmp_path, monkeypatch, resnet):
    save_file(resnet.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.chdir(tmp_path)
    model = load_model("torchvision/resnet18:w.safetensors")
    monkeypatch.chdir("/")
    assert model.spec == f"torchvision/resnet18:{tmp_path / 'w.safetensors'}"
    assert load_model(model.spec).fingerprint == model.fingerprint


@pytest.mark.slow
def test_a_file_named_like_the_official_one_brings_its_preset_and_classes(tmp_path):
    module = torchvision.models.resnet18()
    torch.save(module.state_dict(), tmp_path / IMAGENET_FILE)
    model = load_model(f"torchvision/resnet18:{tmp_path / IMAGENET_FILE}")
    assert len(model.classes) == len(model.synsets) == 1000
    assert model.classes[0] == "tench" and model.synsets[0] == "n01440764"
    torch.save(module.state_dict(), tmp_path / "mine.pth")
    other = load_model(f"torchvision/resnet18:{tmp_path / 'mine.pth'}")
    assert other.classes is None
    assert other.fingerprint == model.fingerprint


def test_the_head_is_sized_by_its_own_rows_whatever_the_order_of_the_file(tmp_path):
    """Safetensors sorts by name: the last matrix of ConvNeXt is not its classifier."""
    module = torchvision.models.mobilenet_v3_small(num_classes=5)
    save_file(module.state_dict(), tmp_path / "m.safetensors")
    model = load_model(f"torchvision/mobilenet_v3_small:{tmp_path / 'm.safetensors'}")
    assert model.module.classifier[-1].out_features == 5
    module = timm.create_model("test_convnext", num_classes=6)
    save_file(module.state_dict(), tmp_path / "c.safetensors")
    model = load_model(f"timm/test_convnext:{tmp_path / 'c.safetensors'}")
    assert model.module.num_classes == 6


def test_the_library_default_is_a_fixed_preprocessing_per_tag(tmp_path, resnet):
    save_file(resnet.state_dict(), tmp_path / "w.safetensors")
    model = load_model(f"torchvision/resnet18:{tmp_path / 'w.safetensors'}")
    preset = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    torch.testing.assert_close(model.preprocess(picture()), preset(picture()))


def test_checkpoints_that_do_not_fit(tmp_path, resnet):
    save_file(resnet.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError) as caught:
        load_model(f"torchvision/resnet50:{tmp_path / 'w.safetensors'}")
    assert_says(caught.value, "do not fit ResNet", "missing (first:", "same names and shapes")
    assert_says(caught.value, "Use the architecture")
    with pytest.raises(ModelError, match="do not fit VisionTransformer"):
        load_model(f"timm/test_vit:{tmp_path / 'w.safetensors'}")


class Evil:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def containing_itself(*names: str) -> dict[str, object]:
    content: dict[str, object] = {"weight": torch.zeros(3)}
    content.update({name: content for name in names})
    return content


def test_files_that_are_no_weights(tmp_path, capsys):
    path = tmp_path / "w.pt"
    cases = {
        "pickled code": lambda: torch.save({"a": Evil()}, path),
        "plain pickle": lambda: path.write_bytes(pickle.dumps(Evil())),
        "whole module": lambda: torch.save(torch.nn.Linear(2, 2), path),
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("hello"),
        "list": lambda: torch.save([torch.zeros(3)], path),
        "numbers": lambda: torch.save({"epoch": 3}, path),
        "itself": lambda: torch.save(containing_itself("state_dict"), path),
        "itself below": lambda: torch.save(
            {"model": containing_itself("state_dict", "model")}, path
        ),
        "odd keys": lambda: torch.save({3: torch.zeros(3), None: torch.zeros(3)}, path),
        "odd keys below": lambda: torch.save({"model": {("a", 1): torch.zeros(3)}}, path),
    }
    for name, write in cases.items():
        write()
        with pytest.raises(ModelError) as caught:
            load_model(f"torchvision/resnet18:{path}")
        assert_says(caught.value, "w.pt' ", "Expected", "torch.save(model.state_dict(), PATH)")
        assert "ran" not in capsys.readouterr().out, name
    (tmp_path / "w.safetensors").write_bytes(b"\x00" * 50)
    with pytest.raises(ModelError, match="cannot be read as weights.*Expected safetensors"):
        load_model(f"torchvision/resnet18:{tmp_path / 'w.safetensors'}")


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (
            "torchvision/resnet18",
            ["does not name weights", "IMAGENET1K_V1", "random_weights=SEED (--random-weights)"],
        ),
        ("torchvision/resnet50:V7", ["'V7' of resnet50", "IMAGENET1K_V2", "path of a checkpoint"]),
        ("torchvision/resnet18:no/such.pt", ["neither a tag nor a file", "IMAGENET1K_V1", "path"]),
        ("torchvision/resnet19:DEFAULT", ["'resnet19' is not", "resnet18", "list_models"]),
        ("timm/resnet18:nope", ["'nope' of resnet18", "a1_in1k", "path of a checkpoint"]),
        ("timm/resnet18.nope", ["'nope' of resnet18", "a1_in1k", "path of a checkpoint"]),
        ("timm/resnet_18", ["'resnet_18' is not a timm model", "resnet18", "list_models"]),
        ("resnet18", ["'resnet18' is not a model SPEC", "torchvision/NAME:WEIGHTS", "--help"]),
        ("keras/resnet18", ["not a model SPEC", "timm/NAME", "--help"]),
        ("", ["'' is not a model SPEC", "FILE.py:CALLABLE", "--help"]),
    ],
)
def test_wrong_specs_say_what_would_be_right(spec, parts):
    with pytest.raises(ModelError) as caught:
        load_model(spec)
    assert_says(caught.value, *parts)


@pytest.mark.parametrize(
    "spec",
    [
        "torchvision/resnet18:IMAGENET1K_V1",
        "torchvision/resnet18:DEFAULT",
        "timm/test_vit.r160_in1k",
        "timm/test_vit",
        "transformers/nobody/nothing",
    ],
)
def test_a_hub_out_of_reach_is_an_error_with_a_remedy_and_soon(spec):
    start = time.monotonic()
    with pytest.raises(ModelError) as caught:
        load_model(spec)
    assert_says(caught.value, f"'{spec}' cannot be downloaded (", "reachable hub", ":PATH")
    assert time.monotonic() - start < 15


@pytest.mark.parametrize("name", ["torchvision/squeezenet1_1", "timm/test_resnet"])
def test_random_weights_are_those_of_their_seed(name):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    model = load_model(name, random_weights=7)
    assert torch.equal(torch.get_rng_state(), before)  # the user's own randomness goes on
    assert model.spec == f"{name}:random=7"
    assert model.classes is None
    torch.rand(3)
    assert load_model(name, random_weights=7).fingerprint == model.fingerprint
    assert load_model(model.spec).fingerprint == model.fingerprint
    assert load_model(name, random_weights=8).fingerprint != model.fingerprint


@pytest.mark.parametrize(
    "spec",
    ["torchvision/resnet18:IMAGENET1K_V1", "timm/resnet18:a1_in1k", "semlens/demo", "m.py:f"],
)
def test_random_weights_and_weights_exclude_each_other(spec):
    with pytest.raises(ModelError) as caught:
        load_model(spec, random_weights=3)
    assert_says(caught.value, "seed 3", f"'{spec}' has its own weights", "one or the other")
    assert_says(caught.value, "Omit random_weights (--random-weights)")


def test_timm_checkpoints(tmp_path):
    torch.manual_seed(1)
    module = timm.create_model("test_vit", num_classes=1000).eval()
    save_file(module.state_dict(), tmp_path / "vit.safetensors")
    plain = load_model(f"timm/test_vit:{tmp_path / 'vit.safetensors'}")
    same_logits(plain, module)
    assert plain.classes is None
    tagged = load_model(f"timm/test_vit.r160_in1k:{tmp_path / 'vit.safetensors'}")
    assert tagged.classes[0] == "tench" and tagged.synsets[0] == "n01440764"
    assert tagged.fingerprint == plain.fingerprint
    assert plain.preprocess(picture()).shape == (3, 160, 160)
    for logits in (4, 0):
        module = timm.create_model("test_vit", num_classes=logits).eval()
        torch.save({"state_dict": module.state_dict()}, tmp_path / "vit.pt")
        same_logits(load_model(f"timm/test_vit:{tmp_path / 'vit.pt'}"), module)


def test_the_fingerprint_follows_the_printed_digits_of_nothing(tmp_path):
    model = load_model("timm/test_resnet", random_weights=0)
    torch.set_printoptions(precision=1)
    try:
        assert load_model("timm/test_resnet", random_weights=0).version == model.version
    finally:
        torch.set_printoptions(profile="default")
