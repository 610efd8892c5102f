"""Effects of ablations against hand-made forward passes, and relevance where it is the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor, write_pictures
from PIL import Image
from scipy.stats import sem, spearmanr
from scipy.stats import t as student
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.explain import effect as command
from semlens.cli.explain import explain as other_command
from semlens.data.image_folder import ImageFolder
from semlens.errors import (
    ConceptError,
    DataError,
    LayerError,
    RecipeError,
    RelevanceError,
    StoreError,
)
from semlens.lenses import effect as effects
from semlens.lenses.classes import class_samples, find_class
from semlens.lenses.concepts import ConceptSet
from semlens.models.ablation import batched_ablation, pruned
from semlens.models.forward import logits
from semlens.models.subject import SubjectModel
from semlens.types import Component

CLASSES = ["class0", "class1", "c", "d"]
LAYERS = ["first", "second"]
effect = sl.ConceptDatabase.effect


def little(net: nn.Module | None = None) -> SubjectModel:
    return SubjectModel(net or LittleNet(), to_tensor, "32 bilinear", "python:little", CLASSES)


@pytest.fixture(scope="module")
def model():
    return little()


@pytest.fixture(scope="module")
def db(tmp_path_factory, model, pictures):
    path = tmp_path_factory.mktemp("effect") / "db"
    return sl.build(path, model, ImageFolder(pictures), WordEmbedder(), LAYERS, examples=4)


def batch_of(model, images, samples):
    return model.batch([model.preprocess(images.read(int(i))) for i in samples])


def by_hand(net, x, target, first=None, second=None):
    """The class's logit of LittleNet with channels of its stages replaced: value by index."""
    with torch.no_grad():
        a = net.first(x).clone()
        for index, value in (first or {}).items():
            a[:, index] = value
        b = net.second(a)
        for index, value in (second or {}).items():
            b[:, index] = value
        return net.head(functional.relu(b).mean((2, 3)))[:, target].double().numpy()


@pytest.mark.slow
def test_behind_a_linear_head_effect_and_relevance_are_one(db, model, images):
    found = effect(db, 1, layer="second", rules="epsilon")
    assert len(found) == 10
    np.testing.assert_allclose(found.effect, found.relevance, atol=1e-5)
    assert found.rank_correlation == pytest.approx(1)
    # on one image, units that are equal up to rounding may change places
    assert found.interval == pytest.approx((1, 1), abs=0.005)
    assert found.name == "class1"
    assert list(found.samples) == [i for i in range(41) if "class1" in images.ids[i]]
    np.testing.assert_allclose(
        found.logit, logits(model, images.read, found.samples.tolist())[:, 1], atol=1e-5
    )
    size = np.abs(found.to_pandas()["relevance"].to_numpy())
    assert (np.diff(size) <= 1e-12).all()


def test_zero_and_mean_ablation_by_hand(db, model, images):
    everything = batch_of(model, images, range(41))
    mean = model.module.first(everything).mean((0, 2, 3)).double().detach()
    for replace in ("zero", "mean"):
        found = effect(db, 0, layer="first", replace=replace, samples=9, top=3)
        assert len(found) == 3
        assert len(found.samples) == 9
        x = batch_of(model, images, found.samples)
        whole = by_hand(model.module, x, 0)
        for place, (component,) in enumerate(found.units.values()):
            value = float(mean[component.index]) if replace == "mean" else 0.0
            changed = by_hand(model.module, x, 0, {component.index: value})
            np.testing.assert_allclose(found.effect[place], whole - changed, atol=1e-5)


def test_groups_across_layers_and_their_relevance(db, model, images):
    groups = {
        "both": [Component("first", 1), Component("second", 4)],
        "one": [Component("first", 1)],
        "other": [Component("second", 4, -1), Component("second", 4)],
    }
    found = effect(db, 1, groups, samples=7)
    x = batch_of(model, images, found.samples)
    whole = by_hand(model.module, x, 1)
    expected = {
        "both": by_hand(model.module, x, 1, {1: 0}, {4: 0}),
        "one": by_hand(model.module, x, 1, {1: 0}),
        "other": by_hand(model.module, x, 1, None, {4: 0}),
    }
    rows = {name: place for place, name in enumerate(found.units)}
    for name, changed in expected.items():
        np.testing.assert_allclose(found.effect[rows[name]], whole - changed, atol=1e-5)
    parts = found.relevance[rows["one"]] + found.relevance[rows["other"]]
    np.testing.assert_allclose(found.relevance[rows["both"]], parts, atol=1e-6)


def test_either_sign_names_the_whole_channel(db, model, images):
    found = effect(db, 0, [Component("second", 2), Component("second", 2, -1)], samples=5)
    # the two are batch mates: their sums may be rounded differently
    np.testing.assert_allclose(found.effect[0], found.effect[1], rtol=1e-5)
    np.testing.assert_allclose(found.relevance[0], found.relevance[1], rtol=1e-5)


def test_components_of_one_label_go_together(db, model, images):
    labels = db.label(ConceptSet.of(["dog", "cat"]), threshold=-1.0)
    found = effect(db, 0, layer="second", group_by="label", concepts=labels, samples=5)
    assert {word.removeprefix("mixed: ") for word in found.units} <= {"dog", "cat", "mixed"}
    for name, unit in found.units.items():
        assert {labels.of(component) for component in unit} == {name}
    members = [component for unit in found.units.values() for component in unit]
    assert len(members) == sum(db.component(int(r)).layer == "second" for r in labels.rows)
    for name, unit in found.units.items():
        assert {labels.of(component) for component in unit} == {name}
    given = [Component("first", i) for i in range(3)]
    some = effect(db, 0, given, group_by="label", concepts=labels, samples=5)
    assert sorted(c for unit in some.units.values() for c in unit) == given
    none = db.label(ConceptSet.of(["dog", "cat"]), threshold=2.0)
    for concepts in (none, None):
        with pytest.raises(ConceptError, match="label"):
            effect(db, 0, group_by="label", concepts=concepts)


class Shortcut(nn.Module):
    """A layer with a way around it: its output alone does not decide what follows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(3, 5, 3, 4, 1)
        self.branch = nn.Conv2d(5, 5, 3, 1, 1)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = functional.relu(self.stem(x))
        return self.head((x + self.branch(x)).mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 2, 6])
def test_a_shortcut_past_the_layer_is_noticed(tmp_path, images, words, samples):
    model = little(Shortcut())
    db = sl.build(tmp_path / "db", model, images, words, ["branch"], examples=4)
    found = effect(db, 0, samples=samples)
    x = batch_of(model, images, found.samples)
    whole = logits(model, images.read, found.samples.tolist())[:, 0]
    for place, unit in enumerate(found.units.values()):
        with pruned(model, unit), torch.no_grad():
            changed = model.module(x)[:, 0].numpy()
        np.testing.assert_allclose(found.effect[place], whole - changed, atol=1e-5)


def test_the_part_before_the_layer_runs_once_for_all_ablations(db, model, images):
    runs = []
    handle = model.module.first.register_forward_hook(lambda *_: runs.append(1))
    before = model.module.training
    effect(db, 1, layer="second", samples=20)
    handle.remove()
    # per batch one pass for the logit and one for all ten channels; a few to prove the way
    assert len(runs) < 20
    assert model.module.training == before


def test_pruned_sets_values_and_fanned_makes_versions(model, images):
    x = batch_of(model, images, range(3))
    with pruned(model, [Component("first", 2)], {Component("first", 2): 0.7}):
        with torch.no_grad():
            once = model.module(x)[:, 3].double().numpy()
    np.testing.assert_allclose(once, by_hand(model.module, x, 3, {2: 0.7}), atol=1e-6)
    with batched_ablation(model, "first", [{}, {2: 0.7}, {0: 0.0, 1: -1.0}]), torch.no_grad():
        fan = model.module(x)[:, 3].double().numpy().reshape(3, 3)
    np.testing.assert_allclose(fan[0], by_hand(model.module, x, 3), atol=1e-6)
    np.testing.assert_allclose(fan[1], once, atol=1e-6)
    np.testing.assert_allclose(fan[2], by_hand(model.module, x, 3, {0: 0, 1: -1}), atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(
            model.module(x)[:, 3].double().numpy(), by_hand(model.module, x, 3), atol=1e-6
        )


def test_the_rank_correlation_is_spearmans(db, model, images):
    found = effect(db, 0, layer="first", samples=12)
    frame = found.to_pandas()
    expected = spearmanr(frame["relevance"], frame["effect"]).statistic
    assert found.rank_correlation == pytest.approx(expected)
    columns = zip(found.relevance.T, found.effect.T, strict=True)
    by_image = [spearmanr(*one).statistic for one in columns]
    assert found.on_image == pytest.approx(np.nanmean(by_image))
    varied = np.array(by_image)[~np.isnan(by_image)]
    expected = student.interval(0.95, len(varied) - 1, varied.mean(), sem(varied))
    assert found.interval == pytest.approx(np.clip(expected, -1, 1))
    low, high = found.interval
    assert -1 <= low <= high <= 1
    again = effect(db, 0, layer="first", samples=12)
    assert again.interval == found.interval
    error = found.effect.std(axis=1, ddof=1) / np.sqrt(12)
    np.testing.assert_allclose(frame["effect_error"], error)


def test_two_components_have_no_rank_correlation(db, model, images):
    found = effect(db, 0, [Component("first", 0), Component("first", 1)])
    assert np.isnan(found.rank_correlation)
    assert "three" in found.summary()
    ties = effects.correlations(np.zeros((4, 5)), np.ones((4, 5)))
    assert np.isnan([ties[0], ties[1], *ties[2]]).all()


def test_samples_of_a_class(tmp_path, model, words):
    folder = write_pictures(tmp_path / "pictures", 12)
    (folder / "class0" / "002.png").write_bytes(b"not an image")
    db = sl.build(tmp_path / "db", model, ImageFolder(folder), words, ["first"], examples=2)
    paths = db.samples["path"].to_numpy()
    mine = class_samples(db, 0)
    assert list(paths[mine]) == [f"class0/{i:03d}.png" for i in (0, 4, 6, 8, 10)]
    assert list(class_samples(db, 0, 3)) == [mine[0], mine[2], mine[4]]
    with pytest.raises(DataError) as error:
        class_samples(db, 2)
    assert_says(error.value, "'c'", "class0", "Choose one of them")


def test_classes_by_name_and_number(db):
    assert find_class(db, "class1") == 1
    assert find_class(db, "3") == find_class(db, 3) == 3
    for wrong in ("clas1", "4", "-1"):
        with pytest.raises(RelevanceError) as error:
            find_class(db, wrong)
        assert_says(error.value, wrong, "0 to 3", "class")


def test_a_number_is_a_logit_where_names_are_numbers(tmp_path, images, words):
    digits = SubjectModel(
        LittleNet(), to_tensor, "32 bilinear", "python:digits", ["0", "1", "10", "2"]
    )
    db = sl.build(tmp_path / "db", digits, images, words, ["first"], examples=2)
    assert [find_class(db, number) for number in (2, 3)] == [2, 3]
    assert [find_class(db, name) for name in ("2", "10", "3")] == [3, 2, 3]


def test_any_class_on_any_images(db, model, images, pictures):
    with pytest.raises(DataError) as error:
        effect(db, "c")  # which no sample has
    assert_says(error.value, "'c'", "samples=")
    found = effect(db, "c", "second:1", samples=[1, 4, 6])
    assert (found.target, found.samples.tolist()) == (2, [1, 4, 6])
    x = batch_of(model, images, [1, 4, 6])
    expected = by_hand(model.module, x, 2) - by_hand(model.module, x, 2, None, {1: 0})
    np.testing.assert_allclose(found.effect[0], expected, atol=1e-5)
    files = [pictures / images.ids[i] for i in (1, 4, 6)]
    elsewhere = effect(db, "c", "second:1", images=files)
    np.testing.assert_allclose(elsewhere.effect, found.effect, atol=1e-6)
    assert elsewhere.samples.tolist() == [0, 1, 2]
    one = effect(db, 2, ["second:1"], images=images.read(4))
    np.testing.assert_allclose(one.effect[0], found.effect[0, 1:2], atol=1e-6)
    two = effect(db, 2, ["second:1"], images=images, samples=[4, 6])
    np.testing.assert_allclose(two.effect[0], found.effect[0, 1:], atol=1e-6)


def test_components_are_taken_as_in_every_question(db):
    expected = effect(db, "class0", [Component("first", i) for i in range(3)], samples=3)
    hits = db.search("dog", layers="first", top=2)
    for given in (
        [f"first:{i}" for i in range(3)],
        {f"first:{i}": [f"first:{i}"] for i in range(3)},
    ):
        assert effect(db, 0, given, samples=3).to_json() == expected.to_json()
    assert set(effect(db, 0, hits, samples=3).units) == {str(c) for c in hits.components}


def test_errors_say_what_to_do(tmp_path, db, model, images, words):
    with pytest.raises(RecipeError, match="zero or mean"):
        effect(db, 0, replace="blank")
    with pytest.raises(LayerError, match="0 to 5"):
        effect(db, 0, [Component("first", 6)])
    with pytest.raises(LayerError, match="thirst"):
        effect(db, 0, layer="thirst")
    with pytest.raises(LayerError, match="no component"):
        effect(db, 0, {"empty": []})
    with pytest.raises(DataError, match="at least one"):
        effect(db, 0, samples=[])
    strongest = sl.build(
        tmp_path / "max", model, images, words, ["first"], examples=2, readout="max"
    )
    with pytest.raises(RelevanceError, match="readout 'mean'"):
        effect(strongest, 0, replace="mean")


def test_results_can_be_kept(tmp_path, db, model, images):
    found = effect(db, 0, layer="first", samples=4, top=4)
    found.save(tmp_path / "effects.csv")
    lines = (tmp_path / "effects.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("unit,components,relevance,effect")
    found.save(tmp_path / "effects.png")
    assert Image.open(tmp_path / "effects.png").width > 500
    with pytest.raises(StoreError, match=".csv"):
        found.save(tmp_path / "effects.xlsx")
    assert "class0" in repr(found)
    printed = json.loads(json.dumps(found.to_json()))
    assert len(printed["effects"]) == 4
    assert printed["samples"] == found.samples.tolist()


MODEL = """
import torch
from torch import nn
from torchvision.transforms import functional as F

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 15 * 15, 2))
    return net, lambda image: F.to_tensor(F.resize(image, [32, 32])), ["class0", "class1"]
"""


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = write_pictures(tmp_path / "pictures", 10)
    spec = tmp_path / "model.py"
    spec.write_text(MODEL)
    subject = sl.load_model(f"{spec}:make", run_files=True)
    sl.build(
        tmp_path / "db", subject, ImageFolder(folder), sl.load_embedder("semlens/demo"), ["1"],
        examples=3,
    )  # fmt: skip
    app = typer.Typer()
    app.command("effect")(command)
    app.command("explain")(other_command)  # with one command typer takes no name

    def run(*arguments, code=0):
        ended = CliRunner().invoke(app, ["effect", str(tmp_path / "db"), *map(str, arguments)])
        assert ended.exit_code == code, (ended.output, ended.exception)
        return ended.stdout, ended.stderr

    base = ("--model", f"{spec}:make", "--target", "class1", "--samples", 4)
    printed = json.loads(run(*base, "--top", 3, "--json", "--save", tmp_path / "a.csv")[0])
    assert len(printed["effects"]) == 3
    assert printed["class"] == "class1"
    assert (tmp_path / "a.csv").is_file()
    out, _ = run(*base, "--components", "1:0,1:2", "--with", "mean")
    assert "1:2" in out
    assert "rank correlation" in out
    for wrong, said in (
        (("--target", "nonsense"), "class0"),
        (("--target", "class1", "--components", "1:9"), "0 to 3"),
        (("--target", "class1", "--save", "a.txt"), ".csv"),
        (("--target", "class1", "--group-by", "label", "--concepts", "none"), "group_by"),
        (("--target", "class1", "--group-by", "label"), "None of 4 components has a label"),
    ):
        assert said in run("--model", f"{spec}:make", *wrong, code=1)[1]
