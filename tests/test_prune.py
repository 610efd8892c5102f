"""Pruned weights against the hooks that set the same components to zero."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LittleNet, assert_says, to_tensor
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import DataError, LayerError, ModelError
from semlens.lenses.correct.component_files import read_components
from semlens.lenses.correct.prune import prune_weights
from semlens.models.hooks import evaluating
from semlens.types import Component


def filled(module: nn.Module) -> nn.Module:
    """Give batch norms statistics that are not the identity."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.running_mean, -0.5, 0.0), (part.running_var, 0.5, 2.0),
                (part.weight, 0.5, 1.5), (part.bias, 0.3, 1.0),
            ):  # fmt: skip
                size = torch.rand(tensor.shape, generator=generator)
                tensor.data.copy_(size * (high - low) + low)
    return module.eval()


class Vgg(nn.Module):
    """Convolutions with batch norm, max pooling, and two dense layers behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
            nn.MaxPool2d(4), nn.Conv2d(6, 8, 3, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(4),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32, 10), nn.ReLU(), nn.Dropout(),
                                  nn.Linear(10, 4))  # fmt: skip

    def forward(self, x):
        return self.head(self.features(x))


class Block(nn.Module):
    """A residual block with a plain shortcut, or with a convolution in it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.short(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 3, 4, 1)
        self.first, self.second, self.third = Block(6, 8), Block(8, 8), Block(8, 8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.third(self.second(self.first(self.stem(x)))).mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 12, 8, 8)
        self.norm, self.last = nn.LayerNorm(12), nn.LayerNorm(12)
        self.fc1, self.act, self.fc2 = nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12)
        self.stream, self.head = nn.Identity(), nn.Linear(12, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.stream(x + self.fc2(self.act(self.fc1(self.norm(x)))))
        return self.head(self.last(x)[:, 0])


class Gated(nn.Module):
    """A depthwise convolution and a gate from the mean, as in mobile networks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Hardswish())
        self.deep = nn.Sequential(
            nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.gate = nn.Conv2d(8, 8, 1)
        self.out = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.deep(self.wide(x))
        x = x * torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(x, 1)))
        return self.out(x).mean((2, 3))


def wrapped(module: nn.Module) -> sl.SubjectModel:
    return sl.SubjectModel(filled(module), to_tensor, "32 bilinear", "python:x", list("abcd"))


def check(module: nn.Module, names: list[str], to: float = 0.0) -> set[tuple[str, str]]:
    """Load the pruned weights into a second module, and compare it with the hooks."""
    model = wrapped(module)
    components = [Component.parse(name) for name in names]
    values = dict.fromkeys(components, to)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    state, edits = prune_weights(model, components, values)
    assert all(torch.equal(before[k], v) for k, v in model.module.state_dict().items())
    batch = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 2
    with torch.no_grad(), evaluating(model.module):
        plain = model.module(batch)
        with sl.pruned(model, components, values):
            expected = model.module(batch)
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in before.items()}
        model.module.load_state_dict(state)
        torch.testing.assert_close(model.module(batch), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-4)
    assert {e.tensor for e in edits} == {
        name for name in before if not torch.equal(before[name], state[name])
    }
    return {(edit.tensor, edit.way) for edit in edits}


def test_a_plain_network() -> None:
    assert check(LittleNet(), ["first:2", "first:4"]) == {("second.weight", "reader")}
    assert check(LittleNet(), ["second:3", "first:0"]) == {
        ("second.weight", "reader"), ("head.weight", "reader"),
    }  # fmt: skip


@pytest.mark.slow
def test_pooling_flatten_and_groups() -> None:
    assert check(Vgg(), ["features.3:1"]) == {("features.4.weight", "reader")}
    assert check(Vgg(), ["features.6:5"]) == {("head.1.weight", "reader")}
    assert check(Vgg(), ["features.7:2", "head.2:1"]) == {
        ("head.1.weight", "reader"), ("head.4.weight", "reader"),
    }  # fmt: skip


@pytest.mark.slow
def test_what_batch_norm_makes_of_zero_is_not_zero() -> None:
    # zero behind the convolution is a constant behind the norm, which padding would not have
    assert check(Vgg(), ["features.0:1"]) == {
        ("features.0.weight", "producer"), ("features.0.bias", "producer"),
    }  # fmt: skip
    # the dense layer behind it has no padding: its bias takes the constant over
    assert check(Vgg(), ["features.4:5"]) == {
        ("head.1.weight", "reader"),
        ("head.1.bias", "reader"),
    }


@pytest.mark.slow
def test_residual_blocks() -> None:
    assert check(Residual(), ["third:5"]) == {("fc.weight", "reader")}
    assert check(Residual(), ["second.conv1:2"]) == {("second.conv1.weight", "producer")}
    assert check(Residual(), ["second.bn2:2"]) == {
        ("second.bn2.weight", "producer"), ("second.bn2.bias", "producer"),
    }  # fmt: skip
    assert check(Residual(), ["first:1"]) == {
        ("first.bn2.weight", "producer"), ("first.bn2.bias", "producer"),
        ("first.short.weight", "producer"), ("first.short.bias", "producer"),
    }  # fmt: skip


@pytest.mark.slow
def test_units_of_a_transformer() -> None:
    assert check(Transformer(), ["act:7", "act:3"]) == {("fc2.weight", "reader")}
    assert check(Transformer(), ["fc1:7"]) == {("fc2.weight", "reader")}
    assert check(Transformer(), ["last:4"]) == {("head.weight", "reader")}


@pytest.mark.slow
def test_depthwise_convolutions_and_gates() -> None:
    assert check(Gated(), ["deep:3"]) == {("gate.weight", "reader"), ("out.weight", "reader")}
    # its own filter reads it, and has no other channel to spare
    assert check(Gated(), ["wide:3"]) == {("deep.0.weight", "reader")}


@pytest.mark.slow
def test_other_values_than_zero() -> None:
    assert ("fc.bias", "reader") in check(Residual(), ["third:5"], to=0.7)
    assert ("fc2.bias", "reader") in check(Transformer(), ["act:7"], to=-0.3)
    with pytest.raises(ModelError) as error:
        check(Residual(), ["second:1"], to=0.7)
    assert_says(error.value, "second:1", "reads second", "hooks")


def test_the_output_itself() -> None:
    found = check(LittleNet(), ["head:2"])
    assert found == {("head.weight", "producer"), ("head.bias", "producer")}


@pytest.mark.slow
def test_what_only_hooks_can_do_is_refused() -> None:
    model = wrapped(Residual())
    with pytest.raises(ModelError) as error:
        sl.pruned_state(model, [Component("second", 1)])
    assert_says(error.value, "second:1", "'add' in 'third' reads second", "semlens.pruned")
    model = wrapped(Transformer())
    with pytest.raises(ModelError) as error:
        sl.pruned_state(model, [Component("stream", 1)])
    assert_says(error.value, "stream:1", "'layer_norm' in 'last' reads stream", "semlens.pruned")


class Forked(nn.Module):
    """Its pass cannot be captured: it branches on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        return (y if float(y.sum()) > 0 else -y).mean((2, 3))


def test_a_pass_that_cannot_be_captured_is_refused() -> None:
    with pytest.raises(ModelError) as error:
        sl.pruned_state(wrapped(Forked()), [Component("conv", 1)])
    assert_says(error.value, "conv:1", "captured", "semlens.pruned")


def test_wrong_components(subject) -> None:
    with pytest.raises(LayerError, match="No component is given"):
        sl.pruned_state(subject, [])
    with pytest.raises(LayerError, match="Component 99"):
        sl.pruned_state(subject, [Component("first", 99)])
    with pytest.raises(LayerError, match="frist"):
        sl.pruned_state(subject, [Component("frist", 1)])


@pytest.mark.slow
def test_components_in_every_form(tmp_path, subject, images, words) -> None:
    expected = sl.pruned_state(subject, [Component("first", 1), Component("first", 2)])
    db = sl.build(tmp_path / "db", subject, images, words, ["first"], examples=4)
    found = db.prune(["first:1", "first:2"])
    for state in (sl.pruned_state(subject, ["first:1", "first:2"]), found.state):
        assert all(torch.equal(expected[name], value) for name, value in state.items())
    batch = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        with sl.pruned(subject, "first:1", {"first:1": 0.5}):
            one = subject.module(batch)
        with sl.pruned(subject, [Component("first", 1)], {Component("first", 1): 0.5}):
            assert torch.equal(one, subject.module(batch))
    hits = db.search("dog", top=1)
    state = sl.pruned_state(subject, hits)
    assert {edit.layer for edit in db.prune(hits).edits} == {"first"}
    assert any(not torch.equal(state[k], v) for k, v in subject.module.state_dict().items())
    assert found.to_json()["weights"] is None
    better = found.save_weights(tmp_path / "p.safetensors")
    assert better.spec == f"{subject.spec}:weights={tmp_path / 'p.safetensors'}"
    assert better.fingerprint == found.model.fingerprint != subject.fingerprint
    for name in ("pruned.png", "pruned.csv", "pruned.json"):
        found.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 20
    with pytest.raises(LayerError, match="first:99"):
        db.prune("first:99")


def test_components_from_files(tmp_path) -> None:
    audit = tmp_path / "audit.json"
    audit.write_text(json.dumps({
        "class": "ox",
        "components": [
            {"component": "first:1", "verdict": "spurious"},
            {"layer": "second", "index": 3, "sign": -1, "verdict": "spurious"},
            {"component": "first:2", "verdict": "valid"},
        ],
    }))  # fmt: skip
    assert read_components(audit) == [Component("first", 1), Component("second", 3, -1)]
    assert read_components(audit, "valid") == [Component("first", 2)]
    with pytest.raises(DataError, match="verdict 'both'"):
        read_components(audit, "both")
    lines = tmp_path / "list.txt"
    lines.write_text("first:1\nsecond:-4\n")
    assert read_components(lines) == [Component("first", 1), Component("second", 4, -1)]
    table = tmp_path / "hits.csv"
    table.write_text("rank,layer,index,sign\n1,first,5,1\n")
    assert read_components(table) == [Component("first", 5)]
    with pytest.raises(DataError, match="Cannot read"):
        read_components(tmp_path / "nothing.json")


@pytest.mark.parametrize("name", ["contrast.json", "contrast.csv"])
def test_components_of_a_contrast_are_chosen_by_their_auroc(tmp_path, name) -> None:
    frame = pd.DataFrame(
        {"component": ["first:1", "first:2", "first:3"], "auroc": [0.95, 0.9, 0.1]}
    )
    file = tmp_path / name
    if name.endswith("json"):  # the logits of a contrast have an AUROC, too
        logits = [{"logit": 3, "class": "c", "auroc": 0.99}]
        file.write_text(json.dumps({"components": frame.to_dict("records"), "logits": logits}))
    else:
        frame.to_csv(file)
    assert len(read_components(file)) == 3
    assert read_components(file, auroc=0.9) == [Component("first", 1), Component("first", 2)]
    with pytest.raises(DataError, match=r"no components with an AUROC of at least 0\.99"):
        read_components(file, auroc=0.99)


def test_entries_without_an_auroc_do_not_pass_a_threshold(tmp_path) -> None:
    lines = tmp_path / "list.txt"
    lines.write_text("first:1\n")
    with pytest.raises(DataError, match="AUROC"):
        read_components(lines, auroc=0.0)


@pytest.fixture
def code(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(__import__('pathlib').Path(__file__).parent)!r})\n"
        "from conftest import LittleNet, to_tensor\n"
        "def make():\n    return LittleNet(), to_tensor, list('abcd')\n"
    )
    return f"{file}:make"


@pytest.mark.slow
def test_the_command_writes_weights_that_load_again(tmp_path, code, images, words) -> None:
    model = sl.load_model(code)
    db = sl.build(tmp_path / "db", model, images, words, ["first"], examples=4)
    out = tmp_path / "pruned.safetensors"
    result = CliRunner().invoke(
        app,
        [
            "correct",
            "prune",
            str(db.path),
            "first:2",
            "first:3",
            "--save",
            str(out),
            "--model",
            code,
        ]
        + ["--json"],
    )
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["components"] == ["first:2", "first:3"]
    assert said["edits"] == [
        {"layer": "first", "tensor": "second.weight", "way": "reader", "entries": 2}
    ]
    again = sl.load_model(said["model"])
    assert again.spec == f"{code}:weights={out}"
    assert sl.load_model(code, weights=out).fingerprint == again.fingerprint != model.fingerprint
    second = sl.build(tmp_path / "second", again, images, words, ["first"], examples=4)
    more = [
        "correct",
        "prune",
        str(second.path),
        "first:1",
        "--save",
        str(tmp_path / "b.safetensors"),
    ]
    result = CliRunner().invoke(app, [*more, "--model", said["model"], "--json"])
    assert result.exit_code == 0, result.output
    assert sl.load_model(json.loads(result.stdout)["model"]).spec == (
        f"{code}:weights={tmp_path / 'b.safetensors'}"
    )
    batch = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), sl.pruned(model, [Component("first", 2), Component("first", 3)]):
        np.testing.assert_allclose(again.module(batch), model.module(batch), atol=1e-6)
    result = CliRunner().invoke(app, ["correct", "prune", str(db.path), "--model", code])
    assert result.exit_code == 1
    assert "No component is given" in result.stderr
    result = CliRunner().invoke(
        app, ["correct", "prune", str(db.path), "first:1", "--save", "x.pt", "--model", code]
    )
    assert result.exit_code == 1
    assert ".safetensors" in result.stderr


def test_weights_of_another_model_are_refused(tmp_path, code) -> None:
    from semlens.lenses.correct.corrected_model import save_weights

    path = save_weights(tmp_path / "other.safetensors", Vgg().state_dict())
    with pytest.raises(ModelError, match="do not fit LittleNet"):
        sl.load_model(code, weights=path)
    with pytest.raises(ModelError, match="not a file"):
        sl.load_model(f"{code}:weights={tmp_path / 'nothing.safetensors'}")
    with pytest.raises(ModelError, match="not a file"):  # and not the weights of before
        sl.load_model(f"{code}:weights=")


def test_a_prefix_that_the_module_has_itself_stays(tmp_path) -> None:
    from semlens.lenses.correct.corrected_model import save_weights, with_weights

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = LittleNet(3)

        def forward(self, x):
            return self.model(x)

    source, other = Outer(), Outer()
    nn.init.zeros_(other.model.head.weight)
    path = save_weights(tmp_path / "outer.safetensors", source.state_dict())
    loaded = with_weights(wrapped(other), path)
    assert torch.equal(loaded.module.model.head.weight, source.model.head.weight)
    assert not other.model.head.weight.any()
