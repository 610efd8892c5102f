"""The table of docs/targets.md, cell by cell: what each question does with each kind of target."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import WordEmbedder, to_tensor, write_pictures
from target_models import CLASSES, Classifier, Detector, Segmenter, Suppressed
from torch import nn

import semlens as sl
from semlens.cli.command import QuestionContext
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, ModelError, RelevanceError
from semlens.lenses.class_relevance import class_relevance
from semlens.models.ablation import pruned
from semlens.models.forward import run_output
from semlens.models.target import Target
from semlens.types import Component

PAGE = Path(__file__).parents[1] / "docs/targets.md"
LAYERS = ["first", "second"]
FUNCTION = sl.Target.function(lambda output: output["out"][:, 1].square().mean((1, 2)), "1")
TARGETS = {
    "class": (Classifier, "dog"),
    "difference": (Classifier, "dog - cat"),
    "sum": (Classifier, "dog + bus"),
    "similar": (None, "similar:red bus"),
    "region": (Segmenter, "region:dog@4,4,28,28"),
    "box": (Detector, "box:bus@4,4,12,12"),
    "function": (Segmenter, FUNCTION),
}
QUESTIONS = {
    "explain": lambda db, t: db.explain(db.images.read(0), t, concepts=None),
    "relevance": lambda db, t: db.class_relevance(t, samples=[0, 1], concepts=None),
    "graph": lambda db, t: db.attribution_graph(t, None, samples=[0, 1]),
    "effect": lambda db, t: db.effect(t, samples=[0, 1], top=3, concepts=None),
    "reliance": lambda db, t: db.reliance(t, "patch:red", count=8),
    "prototypes": lambda db, t: db.prototypes(t, number=1, samples=list(range(30)), concepts=None),
    "contrast": lambda db, t: db.contrast([0, 1], [2, 3], target=t, draws=100, concepts=None),
    "audit": lambda db, t: db.audit(
        t, concepts=sl.ConceptSet.of(name="c", valid=["dog"], spurious=["bus"])
    ),
    "swap": lambda db, t: db.swap(t, part="colour", count=8, reference=5),
    "test": lambda db, t: db.model_test(t, artefacts=["hue"], count=4),
}


class Embedding(nn.Module):
    """The image tower of :class:`WordEmbedder` as a model with layers."""

    def __init__(self) -> None:
        super().__init__()
        matrix = WordEmbedder().matrix
        self.first = nn.Conv2d(3, 3, 1, bias=False)
        self.second = nn.Linear(48, 24)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(3)[..., None, None])
            self.second.weight.copy_(matrix.T)
            self.second.bias.copy_(-0.5 * matrix.sum(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).flatten(1))


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    """A database for each model, of images of five classes."""
    folder = tmp_path_factory.mktemp("targets")
    images = ImageFolder(write_pictures(folder / "images", 30, classes=5))
    embedder = WordEmbedder()
    found = {}
    names = [*CLASSES, "tree"]
    for make in (Classifier, Segmenter, Detector, None):
        options = {}
        if make is None:
            model = sl.SubjectModel(Embedding(), embedder.preprocess, "v", task="embedding")
        elif make is Classifier:
            model = sl.SubjectModel(make(width=5), to_tensor, "v", classes=names)
            of_image = [names[int(target.removeprefix("class"))] for target in images.targets]
            options = {"relevance": True, "targets": of_image}
        else:
            model = sl.SubjectModel(make(), to_tensor, "v", classes=CLASSES)
        found[make] = sl.build(
            folder / f"{make and make.__name__}", model, images, embedder, LAYERS, examples=3,
            crop="activation", **options,
        )  # fmt: skip
    return found


def cells():
    section = PAGE.read_text().partition("## Which question")[2].partition("\n## ")[0]
    lines = section.splitlines()
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines if line.startswith("|")]
    header, _, *body = rows
    return [
        (row[0], name, cell) for row in body for name, cell in zip(header[1:], row[1:], strict=True)
    ]


def test_the_table_has_all_targets_and_questions():
    found = cells()
    assert {kind for kind, _, _ in found} == set(TARGETS)
    assert {name for _, name, _ in found} == set(QUESTIONS)
    assert {cell for _, _, cell in found} == {"yes", "no"}


@pytest.mark.parametrize(("kind", "question", "cell"), cells())
@pytest.mark.filterwarnings("ignore")
def test_each_cell(databases, kind, question, cell):
    make, target = TARGETS[kind]
    db = databases[make]
    if cell == "yes":
        result = QUESTIONS[question](db, target)
        assert result.to_json()
        return
    with pytest.raises((RelevanceError, ModelError)) as caught:
        QUESTIONS[question](db, target)
    assert "is not a class, but another target" in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_an_explanation_has_the_targets_value_and_no_probability(databases):
    for kind, (make, text) in TARGETS.items():
        db = databases[make]
        picture = db.images.read(0)
        found = db.explain(picture, text, concepts=None)
        with torch.no_grad():
            output = run_output(db.model, db.model.batch([db.model.prepare(picture)]))
        target = (
            Target.parse(text, CLASSES) if isinstance(text, str) and kind != "similar" else text
        )
        if kind == "similar":
            vector = db.embedder.embed_texts(["red bus"])[0]
            expected = torch.cosine_similarity(output.scores, vector[None])
        else:
            target = Target.parse(text, CLASSES) if isinstance(text, str) else text
            expected = target.value(output)
        assert found.target.logit == pytest.approx(float(expected), abs=1e-5)
        assert (found.target.probability is None) == (kind != "class")
        assert found.target.name == str(text)


@pytest.mark.filterwarnings("ignore")
def test_an_effect_holds_the_region_of_the_intact_model(databases):
    db = databases[Segmenter]
    samples = list(range(6))
    batch = db.model.batch([db.model.prepare(db.images.read(i)) for i in samples])
    with torch.no_grad():
        intact = db.model.module(batch)["out"]
        most = int(intact.argmax(1).flatten().mode().values)
        component = Component("second", 3)
        with pruned(db.model, [component]):
            without = db.model.module(batch)["out"]
    region = intact.argmax(1) == most
    expected = [
        float((a[most][r] - b[most][r]).mean()) if r.any() else 0.0
        for a, b, r in zip(intact, without, region, strict=True)
    ]
    found = db.effect(f"region:{most}", [component], samples=samples, concepts=None)
    assert np.abs(expected).max() > 1e-4
    assert found.effect[0] == pytest.approx(expected, abs=1e-5)
    assert found.target is None and found.name == f"region:{most}"


@pytest.mark.filterwarnings("ignore")
def test_explaining_without_a_component_is_that_of_the_model_without_it(databases):
    db = databases[Detector]
    picture, component = db.images.read(1), Component("second", 2)
    batch = db.model.batch([db.model.prepare(picture)])
    target = Target.parse("box:bus@17", CLASSES)
    with torch.no_grad(), pruned(db.model, [component]):
        expected = float(target.value(db.model.module(batch)))
    found = db.explain(picture, "box:bus@17", concepts=None, without=[component])
    assert found.target.logit == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["region", "box", "difference"])
def test_a_contrast_has_the_shift_and_the_relevance_of_the_target(databases, kind):
    make, text = TARGETS[kind]
    db, groups = databases[make], ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10])
    found = db.contrast(*groups, target=text, draws=100, concepts=None)
    target = Target.parse(text, [*CLASSES, "tree"])

    def values(samples):
        batch = db.model.batch([db.model.prepare(db.images.read(i)) for i in samples])
        with torch.no_grad():
            return target.value(run_output(db.model, batch)).double().numpy()

    a, b = (values(samples) for samples in groups)
    assert np.abs(a.mean() - b.mean()) > 1e-4
    assert found.shift.shift == pytest.approx(a.mean() - b.mean(), abs=1e-5)
    assert found.shift.auroc == pytest.approx((a[:, None] > b).mean())
    assert found.target is None and found.to_json()["target"]["name"] == text
    assert f"'{text}' shifts by {a.mean() - b.mean():+.2f}" in repr(found)
    shares = [class_relevance(db, text, samples=s, concepts=None, top=40) for s in groups]
    shares = [one.frame.set_index("component")["mean"] for one in shares]
    relevance = found.frame.set_index("component")["relevance"]
    expected = (shares[0] + shares[1]) / 2
    assert relevance[expected.index].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)
    assert expected.abs().max() > 0.01


def test_what_an_image_does_not_have_is_refused(databases):
    db = databases[Segmenter]
    batch = db.model.batch([db.model.prepare(db.images.read(0))])
    predicted = db.model.module(batch)["out"].argmax(1)
    absent = next(c for c in range(4) if not (predicted == c).any())
    with pytest.raises(RelevanceError, match="whatever the output is"):
        db.explain(db.images.read(0), f"region:{absent}", concepts=None)
    with pytest.raises(ModelError, match="region:CLASS"):
        db.explain(db.images.read(0), concepts=None)


def test_a_text_in_another_space_has_no_similarity(databases):
    db = databases[Classifier]
    with pytest.raises(RelevanceError, match="has no direction in another space"):
        db.explain(db.images.read(0), "similar:red bus", concepts=None)


def test_a_text_executes_no_file_but_the_command_line_does(databases, tmp_path):
    db = databases[Segmenter]
    own = tmp_path / "own.py"
    own.write_text("def second(output):\n    return output['out'][:, 1].mean((1, 2))\n")
    with pytest.raises(RelevanceError, match="executes no file"):
        db.explain(db.images.read(0), f"{own}:second", concepts=None)
    options = {"target": f"{own}:second", "top": 3}
    asked = QuestionContext([], class_relevance, options, {}, [], False)
    target = asked.settings["target"]
    assert asked.settings["top"] == 3 and target == sl.Target.parse(f"{own}:second")
    found = db.class_relevance(target, samples=[0, 1], concepts=None)
    assert found.name == "own.py:second"


@pytest.mark.parametrize("make", [Segmenter, Detector])
def test_weights_are_pruned_as_hooks_do_it(databases, make):
    """Without an answer, all tensors of the output are compared."""
    db, component = databases[make], Component("second", 2)
    result = db.prune([component])
    batch = db.model.example
    with torch.no_grad():
        with pruned(db.model, [component]):
            expected = db.model.module(batch)
        found = result.model.module(batch)
        intact = db.model.module(batch)
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-5)
    assert any(not torch.allclose(found[name], intact[name], atol=1e-5) for name in found)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [Segmenter, Detector])
def test_corrections_take_components_and_those_that_need_classes_say_so(databases, make):
    db = databases[make]
    assert db.affected(["second:2"]).to_json()
    assert db.cut_out(["second:2"], count=2).to_json()
    labelled = db.images
    pairs = [(labelled.read(i), CLASSES[i % 4]) for i in range(len(labelled))]
    images = sl.ImageSequence(pairs)
    for ask in (db.retrain, db.sensitivity):
        with pytest.raises((DataError, ModelError)) as caught:
            ask(["patch:red"])
        assert re.search("true classes|needs? a classifier|not logits", str(caught.value))
        with pytest.raises(ModelError) as caught:
            ask(["patch:red"], images=images)
        assert "not logits" in str(caught.value)


def test_boxes_after_suppression_are_not_pruned_by_weights():
    model = sl.SubjectModel(Suppressed(), to_tensor, "v", classes=CLASSES)
    with pytest.raises(ModelError, match="after suppression"):
        sl.pruned_state(model, ["second:2"])
