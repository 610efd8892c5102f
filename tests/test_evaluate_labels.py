"""Labels judged on folders of one's own."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, to_tensor
from PIL import Image
from sklearn.metrics import roc_auc_score

import semlens as sl
from semlens.errors import DataError, EmbedderError, RecipeError
from semlens.lenses.labelling.known_content import LabelledFolders, folder_responses
from semlens.models.subject import SubjectModel

COLOURS = {"red": (230, 30, 30), "Green_leaf": (30, 220, 40), "blue": (40, 40, 235)}
WORDS = ["RED", "house", "tree", "car", "blue sky"]


def write_colours(folder, count=14):
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(np.array(colour) + rng.normal(0, 25, (20, 20, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def database(tmp_path_factory, colours):
    return build(tmp_path_factory.mktemp("labels"), colours, WordEmbedder(), reference=32)


def build(folder, images, embedder, reference=0):
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    return sl.build(
        folder / "db.semlens", model, images, embedder, ["first", "second"], examples=6,
        reference=reference, crop="none",
    )  # fmt: skip


def test_labels_are_right_where_they_are_the_folders_name(database, colours):
    found = database.evaluate_labels(colours, sl.ConceptSet.of(WORDS), methods=["semantic-lens"])
    # RED is known in another case; the other names are added
    assert found.words == len(WORDS) + 2 and found.folders == 3 and found.images == 42
    vocabulary = sl.ConceptSet.of([*WORDS, "Green leaf", "blue"])
    labels = database.label(vocabulary, method="semantic-lens", candidates=5)
    position = {database.component(int(row)): i for i, row in enumerate(labels.rows)}
    exact, top5 = [], []
    for _, one in found.components.iterrows():
        at = position[sl.Component.parse(one["component"])]
        names = [vocabulary.concepts[i].name for i in labels.concept[at]]
        assert one["semantic-lens"] == names[0]
        exact.append(names[0].casefold() == one["folder"].casefold())
        top5.append(one["folder"].casefold() in [name.casefold() for name in names])
    row = found.to_pandas().set_index("method").loc["semantic-lens"]
    assert row["exact"] == pytest.approx(np.mean(exact))
    assert row["top5"] == pytest.approx(np.mean(top5))
    assert row["exact_low"] <= row["exact"] <= row["exact_high"]


def test_methods_are_compared_with_the_ceiling(database, colours, tmp_path):
    found = database.evaluate_labels(colours, sl.ConceptSet.of(WORDS))
    names = ["vote", "semantic-lens", "clip-dissect", "csp", "random", "ceiling"]
    assert found.to_pandas()["method"].tolist() == names
    values = json.loads((_saved(found, tmp_path / "labels.json")).read_text())
    assert [one["method"] for one in values["methods"]] == names
    assert values["searched"] >= len(values["components"]) > 1
    assert {"component", "folder", "auroc", *names} <= set(values["components"][0])
    (panel,) = found.figure().panels
    assert panel.names == names
    assert [len(series.values) for series in panel.series] == 2 * [len(names)]
    assert len(found.plot().axes) == 1
    assert "ceiling" in str(found) and f"{found.words} words" in str(found)
    simulation = found.to_pandas()["simulation"]
    assert simulation.between(-1, 1).all()


def _saved(result, path):
    result.save(path)
    return path


def test_components_of_known_content_by_a_plain_count():
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], [12, 20, 40])
    readouts = rng.normal(size=(72, 30)).astype(np.float32)
    readouts[:, :9] += 2 * (targets[:, None] == np.arange(9) % 3)
    readouts[:, 9] = 0  # all tied
    auroc, precision, folder = folder_responses(readouts, targets)
    for column in range(30):
        values = [roc_auc_score(targets == k, readouts[:, column]) for k in range(3)]
        assert auroc[column] == pytest.approx(max(values))
        assert folder[column] == np.argmax(values)
        count = min((targets == folder[column]).sum(), 30)
        best = np.argsort(-readouts[:, column], kind="stable")[:count]
        if column != 9:
            assert precision[column] == pytest.approx((targets[best] == folder[column]).mean())
    assert folder[:9].tolist() == [0, 1, 2] * 3
    assert precision[9] == 0  # all images tie: those of other folders come first


def test_what_is_missing_is_said(database, colours, pictures, tmp_path):
    one = tmp_path / "one"
    (one / "red").mkdir(parents=True)
    for name in range(3):
        Image.new("RGB", (8, 8)).save(one / "red" / f"{name}.png")
    with pytest.raises(DataError, match=r"1 folders of images, and few images in 'red' \(3\)"):
        database.evaluate_labels(one)
    with pytest.raises(DataError, match="The largest AUROC is"):
        database.evaluate_labels(pictures, auroc=0.99)  # noise in both folders
    with pytest.raises(RecipeError, match="no labelling method 'votes'"):
        database.evaluate_labels(colours, methods="votes")
    plain = build(tmp_path, colours, ColourEmbedder())
    with pytest.raises(EmbedderError, match="reads no texts"):
        plain.evaluate_labels(colours)


def test_without_a_reference_sample_examples_vote(colours, tmp_path):
    db = build(tmp_path, colours, WordEmbedder())
    found = db.evaluate_labels(colours, sl.ConceptSet.of(WORDS), auroc=0.6, precision=0.0)
    assert found.frame["method"].tolist()[0] == "vote-examples"
    assert "csp" not in found.frame["method"].tolist()


def test_names_of_folders_are_words(colours):
    folders = LabelledFolders.of(colours)
    assert folders.names == ("Green leaf", "blue", "red")
