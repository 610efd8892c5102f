"""Unexpected components against plain loops over the database's own tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from conftest import (
    ColourEmbedder,
    LittleNet,
    WordEmbedder,
    assert_says,
    to_tensor,
    write_pictures,
)
from PIL import Image
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import (
    ConceptError,
    EmbedderError,
    LayerError,
    RelevanceError,
    StoreError,
)
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.query_embedding import LABEL_TEMPLATES
from semlens.models.subject import SubjectModel

LAYERS = ["first", "second"]
NAMES = ["dog", "green frog", "car", "tree"]
CONCEPTS = ConceptSet.of(NAMES)


def make(path, pictures, embedder, **settings):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    targets = ["abd"[i % 3] for i in range(len(images))]
    settings = {"examples": 6, "relevance": True, "targets": targets, **settings}
    return sl.build(path, subject, images, embedder, LAYERS, **settings)


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    return make(tmp_path_factory.mktemp("unexpected") / "db", pictures, WordEmbedder())


def alignments(db, words):
    """Alignment of every component with every concept, one cosine at a time."""

    def embed(text):
        prompts = [template.replace("{}", text) for template in LABEL_TEMPLATES]
        return np.mean([words.embed_texts([p])[0].double().numpy() for p in prompts], axis=0)

    def cos(a, b):
        return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

    null = embed("")
    return {
        int(row): [cos(db.theta[row].astype(np.float64), embed(name))
                   - cos(db.theta[row].astype(np.float64), null) for name in NAMES]
        for row in np.flatnonzero(db.has_examples)
    }  # fmt: skip


def median(db, words):
    """A threshold that divides the components."""
    return float(np.median([max(values) for values in alignments(db, words).values()]))


@pytest.mark.slow
def test_unexpected_are_the_relevant_ones_at_or_below_the_threshold(db, words):
    limit = median(db, words)
    found = db.unexpected("b", CONCEPTS, threshold=limit, minimum=0.05)
    best = alignments(db, words)
    records = db.relevance(1).to_dict("records")
    relevant = [r for r in records if r["max"] >= 0.05 and r["component"] in best]
    expected = [r for r in relevant if max(best[r["component"]]) <= limit]
    expected.sort(key=lambda r: (-r["mean"], r["component"]))
    assert 0 < len(expected) < len(relevant)
    assert found.components == [str(db.component(r["component"])) for r in expected]
    assert (found.relevant, found.total) == (len(relevant), len(expected))
    for row, record in zip(found.frame.to_dict("records"), expected, strict=True):
        values = best[record["component"]]
        order = np.argsort(values)[::-1][:3]
        assert row["nearest"] == [NAMES[i] for i in order]
        assert row["scores"] == pytest.approx([values[i] for i in order], abs=2e-6)
        assert (row["mean"], row["max"]) == (record["mean"], record["max"])
    for line in found.layers.to_dict("records"):
        inside = [r for r in relevant if db.component(r["component"]).layer == line["layer"]]
        total = sum(max(r["mean"], 0) for r in inside)
        part = sum(max(r["mean"], 0) for r in inside if max(best[r["component"]]) <= limit)
        assert line["relevant"] == len(inside)
        assert line["relevance_share"] == pytest.approx(part / total if total else 0)


@pytest.mark.slow
def test_the_classes_that_a_component_drives(db, words):
    found = db.unexpected("b", CONCEPTS, threshold=9.0, minimum=0.0)
    everything = db.relevance()
    for row in found.frame.to_dict("records"):
        number = db.row(sl.Component.parse(row["component"]))
        mine = everything[everything["component"] == number]
        mine = mine.sort_values("mean", ascending=False).to_dict("records")
        told = found.classes[found.classes["component"] == row["component"]]
        assert told["mean"].tolist() == [r["mean"] for r in mine]
        assert dict(zip(told["logit"], told["class"], strict=True)) == {
            r["class"]: "abcd"[r["class"]] for r in mine
        }
        speaking = [r for r in mine if r["mean"] > 0]
        assert row["classes"] == len(speaking)
        places = [i for i, r in enumerate(speaking, 1) if r["class"] == 1]
        if not places:
            assert pd.isna(row["class_rank"])
            assert row["class_share"] == 0
            continue
        own = speaking[places[0] - 1]["mean"]
        assert row["class_rank"] == places[0]
        assert row["class_share"] == pytest.approx(own / sum(r["mean"] for r in speaking), rel=1e-5)


def test_the_files_behind_a_component(db, tmp_path):
    found = db.unexpected("b", CONCEPTS, threshold=9.0, minimum=0.0)
    samples = db.samples
    scores = db.scores().frame
    for row in found.frame.to_dict("records"):
        number = db.row(sl.Component.parse(row["component"]))
        examples = db.examples_of(number)
        told = found.files[found.files["component"] == row["component"]]
        assert told["path"].tolist() == [e.path for e in examples]
        assert told["activation"].tolist() == [e.activation for e in examples]
        kinds = [samples["target"][e.sample] for e in examples]
        assert told["class"].tolist() == kinds
        assert row["of_class"] == kinds.count("b")
        most = max(kinds.count(kind) for kind in kinds)
        assert row["examples_show"].startswith(f"{most} of {len(kinds)} '")
        assert row["clarity"] == pytest.approx(scores["clarity"][number], abs=1e-5, nan_ok=True)
    found.save_files(tmp_path / "files.csv")
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "files.csv")[["component", "rank", "path"]],
        found.files[["component", "rank", "path"]],
    )
    with pytest.raises(StoreError):
        found.save_files(tmp_path / "files.txt")


@pytest.mark.parametrize("method", ["semantic-lens", "vote-examples"])
def test_they_are_those_without_a_label(db, method):
    labels = db.label(CONCEPTS, method=method)
    best = dict(zip(labels.rows.tolist(), labels.score[:, 0].tolist(), strict=True))
    least = dict(zip(labels.rows.tolist(), labels.thresholds.tolist(), strict=True))
    relevance = db.relevance(1)
    relevant = set(relevance.loc[relevance["max"] >= 0, "component"])
    for threshold in (None, 0.0):
        found = db.unexpected("b", CONCEPTS, minimum=0.0, threshold=threshold, method=method)
        assert found.method == labels.method
        assert {db.row(sl.Component.parse(name)) for name in found.components} == {
            row for row, value in best.items()
            if value <= (least[row] if threshold is None else threshold) and row in relevant
        }  # fmt: skip
        assert found.threshold == threshold


def test_layers_and_top(db):
    one = db.unexpected("b", CONCEPTS, threshold=9.0, layers=["second"], minimum=0.0)
    assert set(one.frame["layer"]) == {"second"}
    first = db.unexpected("b", CONCEPTS, threshold=9.0, layers=["second"], minimum=0.0, top=2)
    assert first.components == one.components[:2]
    assert first.total == one.total > 2
    with pytest.raises(LayerError):
        db.unexpected("b", CONCEPTS, layers=["secnd"])


def test_a_layer_that_is_named_twice_counts_once(db):
    found = db.unexpected("a", CONCEPTS, layers=["second", "second"], threshold=1.0)
    once = db.unexpected("a", CONCEPTS, layers=["second"], threshold=1.0)
    pd.testing.assert_frame_equal(found.frame, once.frame)
    pd.testing.assert_frame_equal(found.layers, once.layers)
    assert len(db.rows(["second", "first", "second"])) == len(db.rows())
    with pytest.raises(LayerError, match="No layer is named"):
        db.unexpected("a", CONCEPTS, layers=[])


@pytest.mark.slow
def test_a_picture_takes_names_as_they_are(tmp_path, words):
    names = ["$x_$", "[/b]", "c", "d"]
    folder = write_pictures(tmp_path / "pictures", 12)
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", names)
    targets = [names[i % 2] for i in range(12)]
    db = sl.build(tmp_path / "$y_$ [b]", subject, ImageFolder(folder), words, LAYERS, examples=3,
                  relevance=True, targets=targets)  # fmt: skip
    found = db.unexpected("$x_$", CONCEPTS, threshold=1.0)
    found.save(tmp_path / "found.png")
    db.concept_map(clusters=2).save(tmp_path / "map.png")
    assert "[/b]" in repr(found)


def test_nothing_unexpected_is_an_answer(db, tmp_path):
    found = db.unexpected("b", CONCEPTS, threshold=-9.0)
    assert len(found) == 0
    assert " are described by concepts of" in found.summary()
    assert " are described by concepts of" in repr(found)
    assert found.to_json()["components"] == []
    found.save(tmp_path / "none.png")
    found.save(tmp_path / "none.csv")
    nobody = db.unexpected("b", CONCEPTS, minimum=1.0)
    assert nobody.relevant == 0
    assert nobody.summary() == "No component has 100.0% of the relevance for 'b'."


@pytest.mark.slow
def test_a_component_of_no_other_class_and_unknown_samples(tmp_path, pictures, words):
    targets = ["b" if i % 4 == 0 else "elsewhere" for i in range(41)]
    db = make(tmp_path / "db", pictures, words, targets=targets)
    found = db.unexpected("b", CONCEPTS, threshold=9.0, minimum=0.0)
    assert set(found.classes["class"]) == {"b"}
    assert set(found.files["class"]) <= {"b", "elsewhere"}
    assert "elsewhere" in set(found.files["class"])
    speaks = found.frame["mean"] > 0
    assert (found.frame.loc[speaks, "class_share"] == 1).all()


@pytest.mark.slow
def test_a_database_without_relevance_says_the_command(tmp_path, pictures, words):
    db = make(tmp_path / "db", pictures, words, relevance=False)
    with pytest.raises(RelevanceError) as error:
        db.unexpected("b", CONCEPTS)
    assert_says(error.value, "no class relevance", "semlens build", "--relevance")


def test_wrong_classes_sets_and_embedders(db, tmp_path):
    with pytest.raises(RelevanceError, match="Unknown class 'x'"):
        db.unexpected("x", CONCEPTS)
    with pytest.raises(RelevanceError, match="no relevance for class 2"):
        db.unexpected("c", CONCEPTS)
    with pytest.raises(ConceptError, match="neither a file"):
        db.unexpected("b", tmp_path / "none.toml")


@pytest.mark.slow
def test_an_embedder_without_texts(tmp_path, pictures):
    db = make(tmp_path / "db", pictures, ColourEmbedder())
    with pytest.raises(EmbedderError) as error:
        db.unexpected("b", CONCEPTS)
    assert_says(error.value, "python:colours", "embeds images only")
    path = next(pictures.rglob("*.png"))
    (tmp_path / "set.json").write_text(
        json.dumps({"concepts": [{"name": "one", "images": [str(path)]}]})
    )
    above_noise = len(db.unexpected("b", tmp_path / "set.json", minimum=0.0))
    found = db.unexpected("b", tmp_path / "set.json", threshold=2.0, minimum=0.0)
    assert 0 < above_noise <= len(found)
    one = db.embedder.embed_images([Image.open(path)])[0].double().numpy()
    for name, told in zip(found.components, found.frame["scores"], strict=True):
        theta = db.theta[db.row(sl.Component.parse(name))].astype(np.float64)
        cosine = float(theta @ one / np.linalg.norm(theta) / np.linalg.norm(one))
        assert told == pytest.approx([cosine], abs=2e-6)


@pytest.mark.slow
def test_the_plot_and_the_files(db, tmp_path):
    found = db.unexpected("b", CONCEPTS, threshold=9.0, minimum=0.0)
    for end in ("png", "svg", "pdf", "csv", "parquet", "json"):
        found.save(tmp_path / f"found.{end}")
        assert (tmp_path / f"found.{end}").stat().st_size > 100
    text = (tmp_path / "found.svg").read_text()
    assert found.components[0] in text
    assert "more)" in text
    again = db.unexpected(1, CONCEPTS, threshold=9.0, minimum=0.0)
    again.save(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "found.png").read_bytes()


@pytest.mark.slow
def test_a_database_without_thumbnails_still_draws(tmp_path, pictures, words):
    db = make(tmp_path / "db", pictures, words, thumbnails=False)
    found = db.unexpected("b", CONCEPTS, threshold=9.0)
    found.save(tmp_path / "found.svg")
    assert "no thumbnails" in (tmp_path / "found.svg").read_text()


@pytest.mark.slow
def test_the_command(tmp_path):
    for place, name in enumerate(("mammal", "drink")):
        write_pictures(tmp_path / "pictures", 4, seed=place, classes=1)
        (tmp_path / "pictures" / "class0").rename(tmp_path / "pictures" / name)
    db = sl.build(
        tmp_path / "db", "semlens/demo", tmp_path / "pictures", "semlens/demo", ["layer3"],
        examples=3, crop="none", relevance=True,
    )  # fmt: skip
    concepts = tmp_path / "set.toml"
    concepts.write_text(f"concepts = {NAMES}")
    arguments = [
        "classes", "unexpected", str(db.path), "--target", "drink", "--concepts", str(concepts),
        "--threshold", "9", "--files", str(tmp_path / "files.csv"),
    ]  # fmt: skip
    run = CliRunner().invoke(app, [*arguments, "--json"])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)
    found = db.unexpected("drink", concepts, threshold=9.0)
    assert [part["component"] for part in told["components"]] == found.components
    assert told["target"] == {"logit": 5, "name": "drink"}
    assert len(told["components"][0]["files"]) == found.frame["examples"][0]
    assert told["components"][0]["classes"][0].keys() == {"class", "logit", "mean", "max"}
    assert len((tmp_path / "files.csv").read_text().splitlines()) == 1 + len(found.files)
    shown = CliRunner().invoke(app, [*arguments, "--top", "3", "--save", str(tmp_path / "a.png")])
    assert shown.exit_code == 0
    assert "components that matter for 'drink'" in " ".join(shown.stdout.split())
    assert (tmp_path / "a.png").is_file()
    wrong = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "files.txt")])
    assert wrong.exit_code == 1
