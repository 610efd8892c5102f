"""A model that answers differently each time is refused by name; others are left alone."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor
from torch import nn

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import ModelError
from semlens.models.forward import logits
from semlens.models.inspection import (
    BatchDependenceWarning,
    check_reproducible,
    relative_difference,
)
from semlens.models.subject import SubjectModel
from semlens.stages.collect import layer_layouts


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 2)

    def features(self, x):
        return torch.relu(self.norm(self.conv(x)))

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


class DropsOut(Plain):
    def features(self, x):
        return nn.functional.dropout(super().features(x), 0.5, training=True)


class NoisyInput(Plain):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))


class Learns(Plain):
    def forward(self, x):
        with torch.no_grad():
            self.conv.weight.add_(0.01)
        return super().forward(x)


class KeepsTraining(Plain):
    def forward(self, x):
        self.norm.training = True
        return super().forward(x)


class ComparesWithMates(Plain):
    def features(self, x):
        features = self.conv(x)
        return torch.relu(features - features.mean(0, keepdim=True))


class Fails(Plain):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


def subject(module: nn.Module) -> SubjectModel:
    return SubjectModel(module, to_tensor, "32 bilinear")


def check(model: SubjectModel, layers=("conv",)) -> None:
    check_reproducible(model, layer_layouts(model, layers, "mean"), "mean")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (DropsOut(), "the output"),
        (NoisyInput(), "layer 'conv'"),
        (Learns(), "changes the weights"),
        (KeepsTraining(), "eval(): norm"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_models_without_one_answer_are_refused(module, says):
    with pytest.raises(ModelError) as error:
        check(subject(module))
    assert_says(error.value, says)


def test_the_first_module_that_differs_is_named():
    with pytest.raises(ModelError, match="from module 'fc' on"):
        check(subject(DropsOut()))


def test_a_model_that_looks_at_its_batch_is_warned_about():
    with pytest.warns(BatchDependenceWarning, match="the output"):
        check(subject(ComparesWithMates()))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("module", "layers"),
    [
        (Plain(), ["conv", "norm", "fc"]),
        (nn.Sequential(nn.Dropout(0.9), LittleNet()), ["1.first", "1.second"]),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), ["1"]),  # its output is no logits
    ],
    ids=["norm", "dropout", "map"],
)
def test_models_with_one_answer_pass(module, layers, dtype, training):
    model = subject(module.to(dtype).train(training))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(model, layers)
    assert module.training is training


def test_a_build_refuses_a_random_model_before_it_runs(tmp_path, pictures):
    with pytest.raises(ModelError, match="two answers"):
        sl.build(tmp_path / "db", subject(NoisyInput()), ImageFolder(pictures),
                 WordEmbedder(), ["conv"])  # fmt: skip
    assert not (tmp_path / "db" / "manifest.json").exists()


def test_a_model_that_ends_the_program_or_fails_later_is_an_error(pictures):
    for error in (SystemExit(3), OSError("gone"), MemoryError(), StopIteration()):
        with pytest.raises(ModelError, match=f"fails on a batch.*{type(error).__name__}"):
            check(subject(Fails(error)))
    images, calls = ImageFolder(pictures), []

    def prepare(image):
        calls.append(image.size)
        if len(calls) > 4:
            sys.exit(4)
        return to_tensor(image)

    model = SubjectModel(Plain(), prepare, "fails later")
    with pytest.raises(ModelError, match=r"preprocessing fails.*SystemExit\(4\)"):
        logits(model, images.read, range(8))


def test_one_text_is_no_list_of_classes():
    with pytest.raises(ModelError, match="classes are 'ab'"):
        SubjectModel(Plain(), to_tensor, "x", classes="ab")


def test_relative_difference():
    a = torch.tensor([[1.0, -4.0], [torch.nan, 0.0]])
    assert relative_difference(a, a) == 0
    assert relative_difference(a, a + torch.tensor([[0.0, 1.0], [0.0, 0.0]])) == 0.25
    assert relative_difference(a, a[:1]) == float("inf")
    assert relative_difference(torch.zeros(0), torch.zeros(0)) == 0
    assert relative_difference(torch.zeros(3), torch.zeros(3)) == 0
