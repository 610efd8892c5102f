"""Contrast of two groups: against a plain forward pass, with planted marks, in all its forms."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor, write_pictures
from PIL import Image
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, RelevanceError
from semlens.lenses.contrast.contrast import contrast
from semlens.models.subject import SubjectModel

CLASSES = ["class0", "class1", "fruit", "other"]


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", CLASSES)
    return sl.build(
        tmp_path_factory.mktemp("contrast") / "db", model, ImageFolder(pictures), WordEmbedder(),
        ["first", "second"], examples=4, relevance=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Twelve photographs, plain and with a white square: pairs of equal names."""
    folder = tmp_path_factory.mktemp("groups")
    plain = ImageFolder(write_pictures(folder / "plain", 12, seed=7, classes=1))
    for sample, name in enumerate(plain.ids):
        image = plain.read(sample).copy()
        image.paste((255, 255, 255), (0, 0, image.width // 2, image.height // 2))
        path = (folder / "marked" / name).with_suffix(".webp")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, lossless=True)
    return folder / "marked", folder / "plain"


def forward(db, folder):
    """The mean of every channel by a plain hook, in the order of the rows, and the logits."""
    found: dict[str, torch.Tensor] = {}
    handles = [
        db.model.module.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: found.update({name: output.clone()})
        )
        for name in ("first", "second")
    ]
    images = ImageFolder(folder)
    batch = torch.stack([to_tensor(images.read(i)) for i in range(len(images))])
    with torch.no_grad():
        logits = db.model.module(batch)
    for handle in handles:
        handle.remove()
    means = [found[name].mean((2, 3)) for name in ("first", "second")]
    both = [m if db.layer(n).rows == m.shape[1] else torch.cat([m, -m], 1)
            for n, m in zip(("first", "second"), means, strict=True)]  # fmt: skip
    return torch.cat(both, 1).numpy(), logits.numpy()


def plain_auroc(a, b):
    return (np.sign(a[:, None] - b[None]) / 2 + 0.5).mean((0, 1))


@pytest.mark.slow
def test_aurocs_and_shifts_are_those_of_a_plain_forward_pass(db, groups):
    result = db.contrast(*groups, draws=200)
    (a, logits_a), (b, logits_b) = (forward(db, folder) for folder in groups)
    frame = result.frame.sort_values("row")
    assert frame["row"].tolist() == list(range(db.manifest.rows))
    assert frame["component"].tolist() == [str(db.component(row)) for row in frame["row"]]
    np.testing.assert_allclose(frame["auroc"], plain_auroc(a, b), atol=1e-6)
    distance = (result.frame["auroc"] - 0.5).abs()
    assert (distance.diff().dropna() <= 1e-12).all()
    logits = result.logits.sort_values("logit")
    np.testing.assert_allclose(logits["shift"], (logits_a - logits_b).mean(0), atol=1e-5)
    np.testing.assert_allclose(logits["auroc"], plain_auroc(logits_a, logits_b), atol=1e-6)
    assert result.logits["shift"].abs().is_monotonic_decreasing
    assert logits["class"].tolist() == CLASSES


@pytest.mark.slow
def test_images_of_equal_name_are_pairs(db, groups):
    marked, plain = groups
    result = contrast(db, marked, plain, draws=200)
    assert result.pairs == 12
    assert result.different > 0
    assert "12 pairs" in result.summary
    loose = contrast(db, [Image.open(p) for p in sorted(marked.rglob("*.webp"))], plain, draws=200)
    assert loose.pairs == 0
    assert loose.frame["auroc"].tolist() == pytest.approx(result.frame["auroc"].tolist())


def test_components_without_a_label_have_none_in_table_and_picture(db, groups, tmp_path):
    component = db.component(3)
    result = contrast(db, *groups, concepts={component: "square"}, draws=100)
    labels = dict(zip(result.frame["component"], result.frame["label"], strict=True))
    assert labels.pop(str(component)) == "square"
    assert set(labels.values()) == {None}
    texts = [label.get_text() for label in result.plot().axes[0].get_yticklabels()]
    assert any("(no label)" in text for text in texts)
    assert not any("nan" in text for text in texts)


def test_relevance_is_that_of_the_class_that_shifts_most_or_of_the_target(db, groups):
    result = contrast(db, *groups, target="class0", draws=100)
    stored = db.relevance(0).set_index("component")["mean"]
    for row, value in zip(result.frame["row"], result.frame["relevance"], strict=True):
        assert value == pytest.approx(stored.get(row, 0.0))
    largest = contrast(db, *groups, draws=100)
    assert largest.target == largest.logits["logit"].iloc[0]


def test_errors_are_compared_with_correct_predictions(db):
    logits = torch.cat([db.model.module(to_tensor(db.images.read(i))[None]) for i in range(41)])
    answers = logits.argmax(1).numpy()
    of_class = db.samples["target"].to_numpy()
    for name in ("class0", "class1"):
        right = answers[of_class == name] == CLASSES.index(name)
        if min(right.sum(), (~right).sum()) >= 2:
            result = contrast(db, errors=name, draws=100)
            assert result.a.samples == tuple(np.flatnonzero(of_class == name)[~right])
            assert result.b.samples == tuple(np.flatnonzero(of_class == name)[right])
            assert result.target == CLASSES.index(name)
        else:
            with pytest.raises(DataError) as error:
                contrast(db, errors=name)
            assert_says(error.value, f"{right.sum()} of {len(right)}", "at least 2", "Choose")


def test_groups_may_be_numbers_lists_and_the_rest_of_the_database(db, tmp_path):
    paths = db.images.ids
    result = contrast(db, [0, 1, 2, 3], draws=100)
    assert result.a.samples == (0, 1, 2, 3)
    assert result.b.samples == tuple(range(4, 41))
    (tmp_path / "a.txt").write_text("\n".join([paths[5], paths[3], ""]))
    pd.DataFrame({"path": paths[10:14]}).to_csv(tmp_path / "b.csv", index=False)
    result = contrast(db, tmp_path / "a.txt", str(tmp_path / "b.csv"), draws=100)
    assert (result.a.name, result.b.name) == ("a", "b")
    assert result.a.samples == (3, 5)
    assert result.b.samples == (10, 11, 12, 13)


def test_groups_may_be_values_of_a_metadata_column(db, tmp_path):
    frame = pd.DataFrame({"path": db.images.ids, "site": [1, 2, 3, 1] * 10 + [3]})
    frame.to_csv(tmp_path / "meta.csv", index=False)
    both = contrast(db, "1", "2", metadata=tmp_path / "meta.csv", column="site", draws=100)
    assert both.a.samples == tuple(np.flatnonzero(frame["site"] == 1))
    assert both.b.samples == tuple(np.flatnonzero(frame["site"] == 2))
    assert both.a.name == "site is 1"
    rest = contrast(db, 1, metadata=frame, column="site", draws=100)
    assert rest.b.samples == tuple(np.flatnonzero(frame["site"] != 1))
    assert rest.b.name == "site is not 1"


@pytest.mark.parametrize(
    ("arguments", "kind", "parts"),
    [
        ({}, DataError, ["no group", "two groups", "errors="]),
        ({"a": [0, 99]}, DataError, ["no image 99", "0 to 40"]),
        ({"a": [0]}, DataError, ["1 images", "at least 2"]),
        ({"a": [0, 1, 2], "b": [2, 3]}, DataError, ["1 images are in both"]),
        ({"a": "nowhere"}, DataError, ["'nowhere'", "folder"]),
        ({"errors": "dog"}, RelevanceError, ["dog"]),
        ({"a": "x", "metadata": "no.csv", "column": "c"}, DataError, ["no.csv", ".parquet"]),
    ],
)  # fmt: skip
def test_bad_groups_are_refused(db, arguments, kind, parts):
    with pytest.raises(kind) as error:
        contrast(db, **arguments)
    assert_says(error.value, *parts)


def test_lists_and_metadata_that_do_not_fit_are_refused(db, tmp_path):
    (tmp_path / "a.txt").write_text("nowhere.png\n")
    with pytest.raises(DataError) as error:
        contrast(db, tmp_path / "a.txt")
    assert_says(error.value, "1 of 1", "nowhere.png", db.images.ids[0])
    (tmp_path / "a.csv").write_text("file\nnowhere.png\n")
    with pytest.raises(DataError) as error:
        contrast(db, tmp_path / "a.csv")
    assert_says(error.value, "no column 'path'", "file")
    frame = pd.DataFrame({"path": db.images.ids, "site": "north"})
    with pytest.raises(DataError) as error:
        contrast(db, "south", metadata=frame, column="site")
    assert_says(error.value, "south", "north")
    with pytest.raises(DataError) as error:
        contrast(db, "north", metadata=frame, column="sight")
    assert_says(error.value, "sight", "site")


@pytest.mark.slow
def test_a_result_is_a_table_a_picture_and_text(db, groups, tmp_path):
    result = contrast(db, *groups, draws=100)
    for name in ("c.png", "c.svg", "c.csv", "c.json"):
        result.save(tmp_path / name)
    assert Image.open(tmp_path / "c.png").width > 900
    assert len(pd.read_csv(tmp_path / "c.csv")) == db.manifest.rows
    assert "stronger in marked" in repr(result)
    assert [str(c) for c in result.components] == result.frame["component"].tolist()
    single = contrast(db, *groups, layers="first", concepts=None, draws=100)
    assert {c.layer for c in single.components} == {"first"}
    assert single.frame["label"].isna().all()


MODEL = """
from conftest import LittleNet, to_tensor

def make():
    return LittleNet(), to_tensor, ["class0", "class1", "fruit", "other"]
"""


@pytest.mark.slow
def test_the_command_prints_components_and_logits(groups, pictures, tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    spec = f"{tmp_path / 'model.py'}:make"
    db = sl.build(
        tmp_path / "db", spec, pictures, "semlens/demo", ["first"], examples=2, crop="none"
    )
    arguments = ["contrast", str(db.path), "--model", spec, "--a", str(groups[0]), "--b",
                 str(groups[1]), "--concepts", "none", "--draws", "100", "--json"]  # fmt: skip
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 0, ended.output
    printed = json.loads(ended.stdout)
    assert printed["pairs"] == 12
    assert list(printed["components"][0]) == [
        "component", "label", "auroc", "low", "high", "p_value", "relevance"
    ]  # fmt: skip
    assert list(printed["logits"][0]) == [
        "logit", "class", "shift", "auroc", "low", "high", "p_value"
    ]  # fmt: skip
    ended = CliRunner().invoke(app, [*arguments[:4], "--a", str(groups[0] / "none")])
    assert ended.exit_code == 1
    assert "is not a folder" in ended.output
