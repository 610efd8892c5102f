"""Border swap and contrast on the server, against the analysis called directly."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
import torch
from conftest import WordEmbedder, spread_logits, to_tensor, when_done, write_pictures
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load
from test_border_swap import CLASSES, Surroundings

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app


def untrained(images):
    batch = torch.stack([to_tensor(images.read(i)) for i in range(len(images))])
    return spread_logits(Surroundings(), batch)


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    images = ImageFolder(write_pictures(folder / "images", 105, classes=len(CLASSES)))
    model = SubjectModel(untrained(images), to_tensor, "32 bilinear", "python:s", CLASSES)
    return sl.build(
        folder / "db", model, images, WordEmbedder(), ["features"], examples=3, crop="none",
        relevance=True,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_kept(db):
    for file in (db.path / "analysis").glob("swap.parquet"):
        file.unlink()


@pytest.fixture
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


def fetch(client, path, status=200, **params):
    """Ask until the work is done, as the page does."""
    answer = when_done(lambda: client.get(f"/api/v1/models/0/{path}", params=params))
    assert answer.status_code == status, answer.text
    return answer


def records(found):
    """Return the rows of the table of a result."""
    names = [column["name"] for column in found["table"]["columns"]]
    return [dict(zip(names, row, strict=True)) for row in found["table"]["rows"]]


def panel(found, form):
    """Return the only panel of a form."""
    (panel,) = (one for one in found["figure"]["panels"] if one["form"] == form)
    return panel


@pytest.fixture(scope="module")
def mistaken(db):
    """A class of which some images are right and some are wrong."""
    logits = np.stack([
        db.model.module(to_tensor(db.images.read(i))[None]).detach().numpy()[0] for i in range(105)
    ])  # fmt: skip
    right = [CLASSES[k] for k in logits.argmax(1)] == db.samples["target"].to_numpy()
    by_class = db.samples.assign(right=right).groupby("target")["right"].agg(["sum", "count"])
    fit = by_class[(by_class["sum"] >= 2) & (by_class["count"] - by_class["sum"] >= 2)]
    return CLASSES.index(fit.index[0])


@pytest.mark.slow
def test_a_border_swap_is_that_of_python(client, db):
    found = fetch(client, "experiments/swaps/border").json()
    expected = db.swap(part="border")
    assert found["detected"] == expected.detected
    assert (found["classes"], found["images"]) == (len(CLASSES), expected.images["border"])
    rows = records(found)
    assert len(rows) == len(expected.frame)
    for row, record in zip(rows, expected.frame.to_dict("records"), strict=True):
        assert (row["class"], row["logit"]) == (record["class"], record["logit"])
        assert row["size"] == record["size"]
        for key in ("gain", "p_value", "adjusted"):
            assert row[key] == pytest.approx(record[key]), key
        assert row["detected"] == bool(record["detected"])
    before, after = panel(found, "pictures")["rows"]
    assert len(before["pictures"]) == len(after["pictures"]) == len(expected.pasted["border"])
    picture = base64.b64decode(after["pictures"][0].partition(",")[2])
    assert Image.open(io.BytesIO(picture)).size == expected.pasted["border"][0][1].size
    one = fetch(client, "experiments/swaps/border", **{"class": 2}).json()
    assert {row["logit"] for row in records(one)} == {2}
    # it is kept: another server shows it without the model
    kept = fetch(client, "experiments/swaps").json()
    assert kept == [{"kind": "border", "targets": list(range(len(CLASSES)))}]


@pytest.mark.slow
def test_each_experiment_counts_in_the_correction(client, db):
    alone = fetch(client, "experiments/swaps/border").json()
    colours = fetch(client, "experiments/swaps/colour").json()
    both = fetch(client, "experiments/swaps/border").json()
    assert (alone["tests"], alone["experiments"]) == (2 * len(CLASSES), 1)
    assert (both["tests"], both["experiments"]) == (3 * len(CLASSES), 2)
    assert colours["tests"] == both["tests"]
    for row in [*records(both), *records(colours)]:
        assert row["adjusted"] == pytest.approx(min(1, row["p_value"] * both["tests"]))
        assert row["detected"] == (row["adjusted"] < 0.05)


@pytest.mark.slow
def test_a_contrast_is_that_of_python_and_colours_the_map(client, db, mistaken):
    found = fetch(client, "experiments/contrast", **{"class": mistaken}).json()
    expected = db.contrast(errors=mistaken)
    assert (found["errors"], found["correct"]) == (len(expected.a), len(expected.b))
    assert (found["components"], found["different"]) == (len(expected.frame), expected.different)
    expected_rows = expected.frame.to_dict("records")
    for row, record in zip(records(found), expected_rows, strict=True):
        assert row["component"] == record["component"]
        for key in ("auroc", "low", "high", "p_value", "relevance"):
            assert row[key] == pytest.approx(record[key]), key
    logits = panel(found, "values")
    shifts = zip(logits["names"], logits["series"][0]["values"], strict=True)
    for (name, shift), record in zip(shifts, expected.logits.to_dict("records"), strict=False):
        assert (name, shift) == (record["class"], pytest.approx(record["shift"]))

    content = fetch(client, "colours", by="contrast", **{"class": mistaken}).content
    auroc = expected.frame.set_index("row")["auroc"]
    values = [auroc[row] - 0.5 for row in np.flatnonzero(db.has_examples)]
    np.testing.assert_allclose(load(content)["value"], values, atol=1e-6)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert header["signed"] == "true"
    assert f"errors on {CLASSES[mistaken]}" in header["title"]


@pytest.mark.slow
def test_what_was_run_on_the_page_stands_in_the_report(db, mistaken):
    client = TestClient(create_app([db]), base_url="http://localhost")
    body = {"target": mistaken, "from_sets": ["artefacts"]}
    number = client.post("/api/v1/models/0/audits", json=body).json()["id"]
    path = f"audits/{number}/report.html"
    assert "No swap was requested" in fetch(client, path).text
    fetch(client, "experiments/swaps/border")
    fetch(client, "experiments/contrast", **{"class": mistaken})
    text = fetch(client, path).text
    assert "No swap was requested" not in text
    assert f"Borders of images of &#39;{CLASSES[mistaken]}&#39;" in text
    contrast = db.contrast(errors=mistaken)
    assert f"{contrast.different} of {len(contrast.frame)} components differ" in text


@pytest.mark.parametrize(
    ("path", "params", "status", "part"),
    [
        ("experiments/contrast", {}, 422, "class"),
        ("experiments/contrast", {"class": 99}, 400, "99"),
        ("experiments/swaps/border", {"class": 99}, 400, "99"),
        ("colours", {"by": "contrast"}, 400, "no class"),
    ],
)
def test_requests_that_cannot_be_answered(client, path, params, status, part):
    error = fetch(client, path, status, **params).json()
    assert part in f"{error['value']} {error['expected']}"


@pytest.mark.slow
def test_a_class_without_errors_says_so(client, db, mistaken):
    logits = {CLASSES.index(name) for name in set(db.samples["target"])}
    answers = {
        target: when_done(
            lambda target=target: client.get(
                "/api/v1/models/0/experiments/contrast", params={"class": target}
            )
        )
        for target in logits
    }
    refused = [answer for answer in answers.values() if answer.status_code != 200]
    assert answers[mistaken].status_code == 200
    assert refused
    assert all("right" in answer.json()["value"] for answer in refused)
