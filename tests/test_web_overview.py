"""The overview: counts and histograms against loops, and every warning by bringing it about."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, to_tensor, when_done, write_pictures
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app as cli
from semlens.data.image_folder import ImageFolder
from semlens.errors import EmbedderError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe.database_warnings import build_command, database_warnings
from semlens.lenses.describe.overview import class_table, describe_settings
from semlens.lenses.describe.score_distribution import distributions
from semlens.lenses.labelling.senses import split_component
from semlens.lenses.search.suggested import GENERAL, suggested_queries
from semlens.models.subject import SubjectModel
from semlens.store.manifest import Manifest
from semlens.web.app import create_app

LAYERS = ["first", "second"]
MEASURES = ("clarity", "redundancy", "polysemanticity")


def make(path, pictures, embedder=None, **settings):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    targets = ["abd"[i % 3] for i in range(len(images))]
    given = {"examples": 6, "relevance": True, "targets": targets, **settings}
    return sl.build(path, subject, images, embedder or WordEmbedder(), LAYERS, **given)


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    return make(tmp_path_factory.mktemp("overview") / "db", pictures)


def fetch(client, path):
    found = when_done(lambda: client.get(f"/api/v1/models/0/{path}"))
    assert found.status_code == 200, found.text
    return found.json()


def with_specs(db, **changes):
    """The same database whose manifest names other things: no test may need a hub."""
    made = db.manifest.model_dump(mode="json")
    for key, spec in changes.items():
        made[key]["spec"] = spec
    made = Manifest.model_validate(made)
    made.save(db.path)
    return sl.open(db.path, embedder=WordEmbedder())


def copy(db, tmp_path, **changes):
    shutil.copytree(db.path, tmp_path / "copy.semlens")
    return with_specs(sl.open(tmp_path / "copy.semlens", embedder=WordEmbedder()), **changes)


def of_kind(found, kind):
    return next((warning for warning in found if warning.kind == kind), None)


# -- counts, settings, queries ------------------------------------------------------------------


@pytest.mark.slow
def test_overview_counts_what_the_database_holds(db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    found = fetch(client, "overview")
    assert found["counts"] == {
        "components": 26,
        "without_examples": sum(not db.examples_of(row) for row in range(26)),
        "samples": 41,
        "unreadable": 0,
        "crops": len(db.crop_vectors),
        "classes": 4,
    }
    assert [layer["name"] for layer in found["layers"]] == LAYERS
    assert [layer["components"] for layer in found["layers"]] == [6, 20]
    assert [layer["signs"] for layer in found["layers"]] == ["+", "both"]
    expected = [("a", 14), ("b", 14), ("d", 13)]
    assert [(one["name"], one["samples"]) for one in found["classes"]] == expected
    assert [one["target"] for one in found["classes"]] == [0, 1, 3]
    assert found["model"]["fingerprint"] == db.manifest.model.fingerprint
    settings = found["settings"]
    assert settings["Readout"].startswith("mean over space")
    assert "6 strongest" in settings["Examples"]
    assert "41 random images" in settings["Reference"]
    assert "sample's own class" in settings["Relevance"]


def test_unreadable_samples_are_of_no_class(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 12)
    (folder / "class0" / "000.png").write_bytes(b"no picture")
    db = make(tmp_path / "db", folder)
    assert class_table(db)["samples"].tolist() == [3, 4, 4]
    warning = of_kind(database_warnings(db, ready=True, texts=True), "unreadable")
    assert "1 image could not be read" in warning.text
    assert "class0/000.png" in warning.text
    assert warning.command == f"semlens status {db.path}"


@pytest.mark.slow
def test_settings_tell_what_was_chosen(db):
    made = db.manifest.model_copy(
        update={
            "recipe": db.manifest.recipe.model_copy(
                update={"readout": "cls", "aggregate": "median", "signs": "both"}
            ),
            "relevance": None,
        }
    )
    settings = dict(describe_settings(made))
    assert "class token" in settings["Readout"]
    assert "median" in settings["Concept vector"]
    assert "negative" in settings["Signs"]
    assert "Relevance" not in settings


@pytest.mark.slow
def test_suggested_searches_have_hits(db):
    with TestClient(create_app([db]), base_url="http://localhost") as client:
        found = fetch(client, "suggested-queries")
    assert len({one["text"].casefold() for one in found}) == len(found) <= 8
    for one in found:
        assert db.search(one["text"], top=1).above_noise
    tried = [(word, "general") for word in GENERAL] + [(name, "class") for name in "abd"]
    hits = [word for word, _ in tried if db.search(word, top=1).above_noise]
    assert {one["text"] for one in found} == set(hits[:8])


@pytest.mark.slow
def test_without_texts_the_frequent_labels_are_suggested(db, pictures, tmp_path):
    bare = make(tmp_path / "bare", pictures, ColourEmbedder())
    frame = db.label(ConceptSet.of(["x"]), threshold=-2.0).to_pandas()
    frame["label"] = [["Stripes", "dog", "dog", None, "cat"][i % 5] for i in range(len(frame))]
    bare.save_analysis("labels-mine", frame)
    assert [(one.text, one.origin) for one in suggested_queries(bare)] == [
        ("dog", "label"),
        ("Stripes", "label"),
        ("cat", "label"),
    ]


def test_the_most_polysemantic_have_two_senses(db):
    with TestClient(create_app([db]), base_url="http://localhost") as client:
        found = fetch(client, "polysemantic")
    values = db.scores().frame["polysemanticity"].to_numpy(float)
    order = [row for row in np.argsort(-values, kind="stable") if np.isfinite(values[row])]
    real = [row for row in order[:20] if split_component(db, int(row)).real][:5]
    assert [one["row"] for one in found["components"]] == real
    assert [one["component"] for one in found["components"]] == [
        str(db.component(int(row))) for row in real
    ]
    assert found["tested"] <= 20 and found["examples"] == 6


# -- distributions ------------------------------------------------------------------------------


def plain_counts(values, edges):
    return [
        sum(low <= value < high for value in values)
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]


def check_distribution(found, frame, layers):
    for one in found:
        edges = list(one.edges)
        assert all(a < b for a, b in zip(edges[:-1], edges[1:], strict=True))
        assert [spread.layer for spread in one.layers] == layers
        for spread in one.layers:
            part = frame.loc[frame["layer"] == spread.layer, one.measure]
            values = sorted(float(v) for v in part if not np.isnan(v))
            assert list(spread.counts) == plain_counts(values, edges)
            assert sum(spread.counts) == len(values) == spread.components
            if values:
                assert spread.mean == pytest.approx(sum(values) / len(values))
                for share, got in zip((0.25, 0.5, 0.75), spread.quartiles, strict=True):
                    place = share * (len(values) - 1)
                    low, high = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
                    assert got == pytest.approx(low + (place % 1) * (high - low))
            else:
                assert (spread.mean, spread.quartiles) == (None, None)


def test_distributions_count_every_component_once(db):
    frame = db.scores().to_pandas()
    check_distribution(distributions(frame), frame, LAYERS)


@pytest.mark.parametrize("span", [0, 1e-4, 0.3, 2])
def test_distributions_of_values_on_and_beside_edges(span):
    random = np.random.default_rng(0)
    count = 400
    values = -0.15 + span * random.integers(0, 41, count) / 40
    frame = pd.DataFrame({"layer": ["u"] * 200 + ["v"] * 200})
    frame["clarity"] = values
    frame["redundancy"] = values.astype(np.float32)
    frame["polysemanticity"] = np.where(np.arange(count) < 200, np.nan, values)
    found = distributions(frame)
    check_distribution(found, frame, ["u", "v"])
    assert all(len(one.edges) <= 43 for one in found)


def test_distributions_of_nothing():
    frame = pd.DataFrame({"layer": ["u"] * 3, **{m: [np.nan] * 3 for m in MEASURES}})
    check_distribution(distributions(frame), frame, ["u"])


def test_scores_of_the_page_are_the_databases(db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    found = fetch(client, "scores")
    assert [one["measure"] for one in found] == list(MEASURES)
    assert [one["meaning"]["better"] for one in found] == ["high", "low", "low"]
    means = db.scores().per_layer()
    for one in found:
        assert "Eq" in one["meaning"]["equation"]
        assert [layer["layer"] for layer in one["layers"]] == LAYERS
        assert [layer["mean"] for layer in one["layers"]] == pytest.approx(
            means[one["measure"]].tolist(), abs=1e-6
        )
    # a bin opens the table with just its components
    clarity = found[0]
    place = int(np.argmax(clarity["layers"][1]["counts"]))
    low, high = clarity["edges"][place : place + 2]
    page = fetch(client, f"components?layer={LAYERS[1]}&measure=clarity&low={low}&high={high}")
    assert page["total"] == clarity["layers"][1]["counts"][place] > 0


# -- warnings -----------------------------------------------------------------------------------


def test_a_sound_database_has_no_warning(db):
    assert database_warnings(db, ready=True, texts=True) == []


def test_python_embedder_that_is_not_given(db):
    warning = of_kind(database_warnings(sl.open(db.path)), "embedder")
    assert "Python object" in warning.text
    assert "semlens.open(" in warning.command


def test_failed_and_missing_embedders(db, tmp_path):
    failure = EmbedderError("The embedder 'x' has other weights.", "Expected x.", "Give that one.")
    moved = copy(db, tmp_path, embedder=f"open_clip/ViT-B-32/{tmp_path}/weights.pt")
    warning = of_kind(database_warnings(moved), "embedder")
    assert f"no longer at '{tmp_path}/weights.pt'" in warning.text
    assert warning.command == f"semlens serve {moved.path} --embedder NEW_PLACE"
    assert (
        of_kind(database_warnings(sl.open(moved.path, embedder="semlens/demo")), "embedder") is None
    )
    (tmp_path / "weights.pt").write_bytes(b"")
    assert of_kind(database_warnings(moved), "embedder") is None
    warning = of_kind(database_warnings(moved, failure=failure), "embedder")
    assert warning.text.startswith("The embedder 'x' has other weights: new searches")
    assert warning.remedy == "Give that one."


@pytest.mark.slow
def test_embedder_without_texts(tmp_path, pictures):
    db = make(tmp_path / "db.semlens", pictures, ColourEmbedder())
    warning = of_kind(database_warnings(db, ready=True, texts=db.embedder.has_text), "texts")
    assert "reads no texts" in warning.text
    assert warning.command is None  # the model was a Python object
    made = db.manifest.model_dump(mode="json")
    made["model"]["spec"] = "timm/resnet18:random=0"
    Manifest.model_validate(made).save(db.path)
    named = sl.open(db.path, embedder=ColourEmbedder())
    command = of_kind(database_warnings(named, ready=True, texts=False), "texts").command
    assert "--embedder open_clip/MobileCLIP-S2/datacompdr" in command
    assert f"semlens build {tmp_path}/db-text.semlens --model timm/resnet18:random=0" in command


def test_images_that_moved_or_changed(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 20)
    db = make(tmp_path / "db", folder)
    assert database_warnings(db, ready=True, texts=True) == []
    first = folder / "class0" / "000.png"
    first.write_bytes(first.read_bytes() + b" ")
    warning = of_kind(database_warnings(db, ready=True, texts=True), "data")
    assert "1 of 16 images" in warning.text
    assert "class0/000.png" in warning.text
    moved = folder.rename(tmp_path / "elsewhere")
    warning = of_kind(database_warnings(db, ready=True, texts=True), "data")
    assert f"no longer at '{folder}'" in warning.text
    assert warning.command == f"semlens serve {db.path} --data NEW_PLACE"
    first = moved / "class0" / "000.png"
    first.write_bytes(first.read_bytes()[:-1])
    assert database_warnings(sl.open(db.path, images=str(moved)), ready=True, texts=True) == []
    of_python = with_specs(db, data="python:list")
    assert (
        "Python object"
        in of_kind(database_warnings(of_python, ready=True, texts=True), "data").text
    )


@pytest.mark.slow
def test_missing_relevance_names_the_command_that_adds_it(tmp_path):
    folder = write_pictures(tmp_path / "p", 30, classes=12)
    db = sl.build(
        tmp_path / "db", "semlens/demo", folder, "semlens/demo", ["layer3"], examples=4, crop="none"
    )
    found = database_warnings(db, ready=True, texts=True)
    assert [warning.kind for warning in found] == ["relevance"]
    words = shlex.split(found[0].command)
    assert words[:3] == ["semlens", "build", str(db.path)]
    assert {"--relevance", "--examples", "--crop"} <= set(words)
    assert "--readout" not in words
    done = CliRunner().invoke(cli, words[1:])
    assert done.exit_code == 0, done.output
    assert database_warnings(sl.open(db.path), ready=True, texts=True) == []


def test_gradient_relevance_thumbnails_and_unfinished_layers(db, tmp_path):
    other = copy(db, tmp_path, model="timm/resnet18", embedder="semlens/demo")
    made = other.manifest.model_dump(mode="json")
    made["relevance"]["rules"] = "gradient"
    made["recipe"]["thumbnails"] = False
    made["layers"][1]["not_finite"] = 3
    del made["files"]["relevance/second.parquet"]
    Manifest.model_validate(made).save(other.path)
    (other.path / "partial").mkdir()
    found = database_warnings(sl.open(other.path, embedder=WordEmbedder()), ready=False)
    kinds = {warning.kind: warning for warning in found}
    assert set(kinds) == {"layers", "not_finite", "relevance", "thumbnails"}
    assert "for second" in kinds["relevance"].text
    assert "--layers first,second,FURTHER_LAYERS" in kinds["layers"].command
    assert "'second'" in kinds["not_finite"].text
    assert "3 images" in kinds["not_finite"].text
    assert "--no-thumbnails" in kinds["relevance"].command
    command = kinds["thumbnails"].command
    assert "--no-thumbnails" not in command
    assert f"build {tmp_path}/copy-thumbnails.semlens" in command
    assert command.endswith("--thumbnails")
    made["files"]["relevance/second.parquet"] = "0"
    Manifest.model_validate(made).save(other.path)
    found = database_warnings(sl.open(other.path, embedder=WordEmbedder()))
    assert "gradient" in of_kind(found, "rules").text


def test_command_keeps_unusual_settings_and_quotes(db, tmp_path):
    other = copy(db, tmp_path, model="timm/resnet18", data="/a b/c", embedder="semlens/demo")
    made = other.manifest.model_dump(mode="json")
    made["recipe"].update(readout="max", crop_threshold=0.2, signs="both")
    Manifest.model_validate(made).save(other.path)
    other = sl.open(other.path, embedder=WordEmbedder())
    words = shlex.split(build_command(other, "--relevance", path=Path("/x y")))
    assert words == [
        "semlens", "build", "/x y", "--model", "timm/resnet18", "--data", "/a b/c",
        "--embedder", "semlens/demo", "--layers", "first,second", "--examples", "6",
        "--readout", "max", "--signs", "both", "--crop-threshold", "0.2", "--relevance",
    ]  # fmt: skip
    assert build_command(db) is None
