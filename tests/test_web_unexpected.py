"""Routes behind the overview and the page of unexpected components, against the library."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import WordEmbedder, when_done
from fastapi.testclient import TestClient
from PIL import Image, ImageOps
from test_web_overview import make

from semlens.lenses.classes import class_samples
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.web.app import create_app

CONCEPTS = ConceptSet(
    tuple(Concept(name, (), "valid") for name in ("dog", "green frog"))
    + tuple(Concept(name, (), "spurious") for name in ("car", "text")),
    "expected",
    "the test",
)


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    return make(tmp_path_factory.mktemp("unexpected") / "db", pictures)


@pytest.fixture
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


def fetch(client, path):
    return when_done(lambda: client.get(f"/api/v1/models/0/{path}"))


@pytest.mark.slow
def test_a_strip_shows_images_of_the_class(db, client):
    found = fetch(client, "classes/1/strip.webp?count=3")
    picture = Image.open(io.BytesIO(found.content)).convert("RGB")
    assert picture.size == (3 * 96, 96)
    for place, sample in enumerate(class_samples(db, 1, 3).tolist()):
        expected = ImageOps.fit(db.images.read(sample), (96, 96))
        shown = picture.crop((96 * place, 0, 96 * (place + 1), 96))
        # WebP is lossy, above all in the colours of single pixels
        small = (np.asarray(one.resize((12, 12), Image.Resampling.BOX), float)
                 for one in (shown, expected))  # fmt: skip
        assert abs(np.subtract(*small)).mean() < 8


def test_a_class_without_images_has_no_strip(client):
    found = fetch(client, "classes/2/strip.webp")
    assert found.status_code == 404
    assert "has no samples" in found.json()["value"]


def test_the_first_numbers_of_a_vector(db, client):
    row = int(np.flatnonzero(db.has_examples)[0])
    found = fetch(client, f"components/{db.component(row)}/vector?count=5").json()
    assert found["dimensions"] == db.manifest.dim
    np.testing.assert_allclose(found["values"], db.concept_vectors([row])[0][:5], rtol=1e-6)


@pytest.mark.slow
def test_unexpected_components_are_those_of_the_audit(db, client):
    record = db.audits.add("b", CONCEPTS)
    audit = db.audits.run(record)
    expected = db.unexpected("b", record.concepts, components=audit.unexpected)
    found = fetch(client, "classes/1/unexpected?k=4").json()
    assert found["audited"]
    assert found["total"] == expected.total == len(audit.unexpected) > 0
    assert [one["component"] for one in found["components"]] == expected.components[:4]
    for one, row in zip(found["components"], expected.frame.to_dict("records"), strict=False):
        assert one["mean"] == pytest.approx(row["mean"])
        assert [near["concept"] for near in one["nearest"]] == row["nearest"]
        classes = expected.classes[expected.classes["component"] == one["component"]]
        means = dict(zip(classes["logit"], classes["mean"], strict=True))
        assert {driven["target"] for driven in one["classes"]} >= {1}
        for driven in one["classes"]:
            assert driven["mean"] == pytest.approx(means[driven["target"]])
        files = expected.files[expected.files["component"] == one["component"]]
        assert [file["path"] for file in one["files"]] == files["path"].tolist()[:8]
    db.audits.remove(record.id, record.revision)


def test_a_class_without_lists_is_compared_with_a_vocabulary(db, client):
    record = db.audits.add("b", CONCEPTS)  # where no class has lists, all have the artefacts
    expected = db.unexpected("a", top=3)
    found = fetch(client, "classes/0/unexpected?k=3").json()
    db.audits.remove(record.id, record.revision)
    assert not found["audited"]
    assert found["sentence"] == expected.summary()
    assert [one["component"] for one in found["components"]] == expected.components


@pytest.mark.slow
def test_a_database_without_relevance_says_how_to_add_it(tmp_path, pictures):
    db = make(tmp_path / "db", pictures, WordEmbedder(), relevance=False)
    client = TestClient(create_app([db]), base_url="http://localhost")
    found = fetch(client, "classes/0/unexpected")
    assert found.status_code == 422 or found.status_code == 404 or found.status_code == 400
    assert "no class relevance" in found.json()["value"]
