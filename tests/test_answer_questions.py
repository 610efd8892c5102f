"""Every question asks the answer of the model: one logit, several tensors, values, and NaN."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ColourEmbedder, assert_says
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import DataError, ModelError, RelevanceError, StaleError
from semlens.lenses.correct.ablation_preview import ablation_preview
from semlens.lenses.describe.overview import describe_settings, predict_classes
from semlens.lenses.explain import explain_without
from semlens.models.answer import NoPredictionWarning
from semlens.models.subject import SubjectModel

RED, BLUE = (255, 0, 0), (0, 0, 255)
PICTURES = [Image.new("RGB", (16, 16), RED if i % 2 else BLUE) for i in range(12)]
CLASSES = ["tumour" if i % 2 else "healthy" for i in range(12)]
SIGMOID = 1 / (1 + math.exp(5))


def to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.resize((16, 16)), np.float32)).permute(2, 0, 1) / 255


class Colours(nn.Module):
    """Logit 5 for a red picture and -5 for a blue one; rows of the head beyond are their opposite.

    Parameters
    ----------
    end
        What the module makes of features [b 3] and logits.
    """

    def __init__(self, width: int = 1, end=lambda features, z: z) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Linear(3, width)
        self.end = end
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(3)[:, :, None, None])
            self.conv.bias.zero_()
            self.head.weight.zero_()
            self.head.weight[0, 0] = 10
            self.head.bias.fill_(-5.0)
            if width > 1:
                self.head.weight[1, 2] = 10

    def forward(self, x: Tensor):
        features = self.relu(self.conv(x)).mean((2, 3))
        return self.end(features, self.head(features))


def subject(net: nn.Module, **options) -> SubjectModel:
    return SubjectModel(net.eval(), to_tensor, "1", **options)


@pytest.fixture
def build(tmp_path):
    def made(model: SubjectModel, name: str = "db", labels=CLASSES, **options):
        images = sl.ImageSequence(list(zip(PICTURES, labels, strict=True)))
        options = {"relevance": True, "crop": "none", "examples": 3, "thumbnails": False} | options
        return sl.build(tmp_path / name, model, images, ColourEmbedder(), ["relu"], **options)

    return made


pytestmark = pytest.mark.filterwarnings("ignore:With rules", "ignore:1 of 2 classes")


def test_one_logit_of_two_named_classes(build):
    model = subject(Colours(), classes=["healthy", "tumour"])
    db = build(model)
    accuracy = db.evaluate()
    assert accuracy.accuracy == 1.0
    assert accuracy.to_pandas()["class"].tolist() == ["healthy", "tumour"]
    blue, red, asked = (
        db.explain(picture, target, concepts=None)
        for picture, target in ((PICTURES[0], None), (PICTURES[1], None), (PICTURES[0], "tumour"))
    )
    assert (blue.target.name, red.target.name) == ("healthy", "tumour")
    assert blue.target.probability == pytest.approx(1 - SIGMOID)
    assert asked.target.probability == pytest.approx(SIGMOID)
    assert (asked.target.logit, asked.predicted.name) == (-5, "healthy")
    assert "probability 0.7 %; predicted: healthy, 99.3 %" in asked.headline
    effect = db.effect("tumour", ["relu:0"])
    np.testing.assert_allclose(effect.effect, 10, rtol=1e-5)
    np.testing.assert_allclose(effect.relevance, 10, rtol=1e-5)
    against = db.effect("healthy", ["relu:0"], samples=[1])
    np.testing.assert_allclose([against.effect, against.relevance], -10, rtol=1e-5)
    with sl.pruned(model, ["relu:0"]):
        assert db.evaluate().to_pandas()["recall"].tolist() == [1.0, 0.0]
    assert predict_classes(db)["predicted"].tolist() == [i % 2 for i in range(12)]
    test = db.model_test("tumour", spurious=PICTURES[:8:2], real=PICTURES[1::2])
    assert test.sets[0].auroc == 1.0
    assert test.sets[0].outputs.probability == pytest.approx([SIGMOID] * 4)
    assert db.model_test("healthy", spurious=PICTURES[1::2]).sets[0].auroc == 1.0
    preview = ablation_preview(db, "tumour", ["relu:0"], samples=range(12)).sets[0]
    assert preview.before.tolist() == [i % 2 for i in range(12)]
    assert preview.after.tolist() == [0] * 12
    assert preview.probability_before == pytest.approx([1 - SIGMOID] * 12)
    change = explain_without(db, PICTURES[1], ["relu:0"])
    assert (change.predicted_before.name, change.predicted_after.name) == ("tumour", "healthy")
    assert change.predicted_after.before == pytest.approx(SIGMOID)


def test_one_logit_without_two_names(build, tmp_path):
    db = build(subject(Colours(), classes=["tumour"]))
    assert db.manifest.classes == ["tumour", "not tumour"]
    found = db.explain(PICTURES[0], concepts=None)
    assert [(one.name, one.text) for one in found.scores] == [
        ("not tumour", "99.3 %"), ("tumour", "0.7 %")
    ]  # fmt: skip
    numbers = tmp_path / "classes.csv"
    numbers.write_text("healthy,0\ntumour,1\n")
    model = subject(Colours(), classes=None)
    named = build(model, "named", classes=numbers)
    assert named.manifest.classes == ["healthy", "tumour"]
    for reopened in (named, sl.open(tmp_path / "named", model=model, images=named.images)):
        assert reopened.evaluate().accuracy == 1.0
    numbers.write_text("healthy,1\ntumour,0\n")
    with pytest.raises(DataError) as error:
        build(model, "swapped", classes=numbers)
    assert_says(error.value, "stands for class 1 ('healthy')", "0 % of the images", "Swap")


def features_and_logits(features: Tensor, z: Tensor):
    return features, z


def test_the_second_tensor_of_two(build, tmp_path):
    net = Colours(2, features_and_logits)
    names = ["tumour", "healthy"]
    by_width = build(subject(net, classes=names))
    assert by_width.evaluate().accuracy == 1.0
    assert by_width.manifest.output.path == "1"
    assert by_width.manifest.output.declared is None
    for relevance in (True, False):
        with pytest.raises(ModelError) as error:
            build(subject(net), "open", relevance=relevance, classes=write_classes(tmp_path))
        assert_says(error.value, "0 [3], 1 [2]", "output=")
    model = subject(net, output=1)
    chosen = build(model, "chosen", classes=write_classes(tmp_path))
    assert chosen.evaluate().accuracy == 1.0
    assert (chosen.manifest.output.declared, chosen.manifest.output.task) == ("1", "multiclass")
    # what was built without the choice is opened with it; another one is another model
    assert sl.open(chosen.path, model=subject(net), images=chosen.images).evaluate().accuracy == 1
    with pytest.raises(StaleError):
        sl.open(chosen.path, model=subject(net, output=0))
    plain = build(subject(net), "plain", relevance=False)
    assert plain.manifest.output is None
    with pytest.raises(ModelError, match="Several tensors"):
        plain.explain(PICTURES[0], concepts=None)
    later = sl.open(plain.path, model=model, images=plain.images)
    assert later.explain(PICTURES[1], concepts=None).target.target == 0
    by_function = build(
        subject(net, output=lambda output: output[1]), "f", classes=write_classes(tmp_path)
    )
    assert by_function.manifest.output.declared.startswith("function ")
    assert by_function.evaluate().accuracy == 1.0


def write_classes(folder: Path) -> Path:
    path = folder / "two.csv"
    path.write_text("tumour,0\nhealthy,1\n")
    return path


def test_probabilities_and_labels(build):
    soft = build(subject(Colours(2, lambda f, z: z.softmax(1)), classes=["tumour", "healthy"]))
    found = soft.explain(PICTURES[1], concepts=None)
    assert (found.target.logit, found.target.probability) == (
        5,
        pytest.approx(1 / (1 + math.exp(-10))),
    )
    assert soft.manifest.relevance.rules != "gradient"
    assert "before the softmax" in dict(describe_settings(soft.manifest))["Output"]
    labels = subject(Colours(2), classes=["tumour", "healthy"], task="multilabel")
    db = build(labels, "labels")
    found = db.explain(PICTURES[1], concepts=None)
    assert [one.probability for one in found.scores] == pytest.approx([1 - SIGMOID, SIGMOID])
    assert db.evaluate().accuracy == 1.0
    with pytest.raises(ModelError, match="'multilabel'"):
        db.retrain(["hue"], settings=sl.Training(epochs=1))


def test_values_and_embeddings(build):
    with pytest.raises(ModelError, match="embedding, whose axes are no classes"):
        build(subject(Colours(2, lambda f, z: functional.normalize(f + 0.1))))
    with pytest.raises(ModelError, match="answers with values, not with classes"):
        build(subject(Colours(2), task="regression"))
    db = build(subject(Colours(2), task="regression"), relevance=False)
    with pytest.raises(ModelError, match="by its number"):
        db.explain(PICTURES[1], concepts=None)
    found = db.explain(PICTURES[1], 1, concepts=None)
    assert (found.target.probability, found.headline) == (None, "value -5.00")
    assert found.to_json()["target"]["probability"] is None
    assert db.effect(0, ["relu:0"], samples=[1]).effect.item() == pytest.approx(10, rel=1e-5)
    change = explain_without(db, PICTURES[1], ["relu:0"], 0).changes[0]
    assert (change.before, change.logit_before, change.logit_after) == (None, 5, -5)
    for question in (lambda: predict_classes(db), lambda: db.evaluate()):
        with pytest.raises((ModelError, DataError)):
            question()
    net = subject(Colours(2, lambda f, z: functional.normalize(f + 0.1)))
    vectors = build(net, "vectors", relevance=False)
    with pytest.raises(RelevanceError, match="no class '0'.*axes are no classes"):
        vectors.effect(0, ["relu:0"], samples=[1])
    assert vectors.contrast([0, 2, 4], [1, 3, 5], concepts=None).logits.empty
    one = build(subject(Colours(1), task="regression"), "one")
    assert one.explain(PICTURES[0], concepts=None).headline == "value -5.00"
    assert one.class_relevance(0, concepts=None).components[0] == sl.Component("relu", 0)


class Standardised(Colours):
    """An image of one grey has no spread: its logits are NaN."""

    def forward(self, x: Tensor):
        return super().forward((x - x.mean((1, 2, 3), True)) / x.std((1, 2, 3), keepdim=True))


def test_logits_that_are_not_numbers_are_no_prediction(build):
    labels = ["tumour" if i % 2 else "healthy" for i in range(11)] + ["tumour"]
    pictures = [*PICTURES[:11], Image.new("RGB", (16, 16), (90, 90, 90))]
    model = subject(Standardised(2), classes=["tumour", "healthy"])
    images = sl.ImageSequence(list(zip(pictures, labels, strict=True)))
    with pytest.warns(NoPredictionWarning, match="1 of 12 images"):
        found = sl.evaluate_model(model, images)
    assert found.predictions.tolist()[-1] == -1
    assert found.to_pandas()["recall"].tolist() == [pytest.approx(5 / 6), 1.0]


def run(*words: str) -> str:
    ended = CliRunner().invoke(app, words)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_the_commands_take_the_choice(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch, numpy as np\n"
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.conv = nn.Conv2d(3, 4, 1); self.head = nn.Linear(4, 2)\n"
        "    def forward(self, x):\n"
        "        f = self.conv(x).relu().mean((2, 3)); return {'a': f, 'b': self.head(f)}\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return Net(), lambda image: torch.from_numpy(\n"
        "        np.array(image.resize((8, 8)), np.float32)).permute(2, 0, 1)\n"
    )
    for i, picture in enumerate(PICTURES[:4]):
        picture.save(tmp_path / f"{i}.png")
    spec = f"{tmp_path}/net.py:make"
    text = run("layers", spec)
    assert "Several tensors" in text
    assert "output b" in run("layers", spec, "--output", "b")
    options = (
        "--data",
        str(tmp_path),
        "--layers",
        "conv",
        "--embedder",
        "semlens/demo",
        "--crop",
        "none",
    )
    run(
        "build",
        f"{tmp_path}/db",
        "--model",
        spec,
        *options,
        "--output",
        "b",
        "--task",
        "multilabel",
    )
    status = json.loads(run("status", f"{tmp_path}/db", "--json"))
    assert status["output"]["declared"] == "b"
    assert (status["output"]["task"], status["output"]["task_declared"]) == ("multilabel", True)
    db = sl.open(tmp_path / "db", model=spec)
    assert db.explain(PICTURES[0], concepts=None).target.probability < 1
