"""Verdicts on all classes: kept in the database, and read again if the lists are the same."""

from __future__ import annotations

import os
import time

import numpy as np
import pandas as pd
import pytest
from conftest import (
    VEGETABLES,
    LittleNet,
    WordEmbedder,
    build_vegetables,
    to_tensor,
    when_done,
)
from fastapi.testclient import TestClient
from scipy.stats import false_discovery_control

import semlens as sl
from semlens.lenses.audit import verdicts as module
from semlens.lenses.audit.audit import audit
from semlens.lenses.audit.audit_records import AuditChanges, AuditSettings
from semlens.lenses.audit.class_audits import audit_all
from semlens.lenses.audit.verdicts import Verdicts, kept_verdicts
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.resolve_concepts import concepts_by_class
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app
from semlens.web.routes.verdicts import prepare_verdicts
from semlens.wording import CURLY

NAMES = VEGETABLES


def little():
    return SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", NAMES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_vegetables(tmp_path_factory.mktemp("verdicts"), little())


@pytest.fixture
def db(built):
    (built.path / "analysis" / f"{module.TABLE}.parquet").unlink(missing_ok=True)
    for file in (built.path / "analysis" / "audits").glob("*"):
        file.unlink()
    return sl.open(built.path, embedder=WordEmbedder())


@pytest.fixture
def audited(monkeypatch):
    """The classes that are audited, in order."""
    targets = []

    def counted(database, target, *arguments, **settings):
        targets.append(target)
        return original(database, target, *arguments, **settings)

    original = module.audit_class
    monkeypatch.setattr(module, "audit_class", counted)
    return targets


def find(db):
    return kept_verdicts(db, concepts_by_class(db)[0])


def lists(valid, spurious):
    made = [Concept(one, (), "valid") for one in valid]
    return ConceptSet((*made, *[Concept(one, (), "spurious") for one in spurious]), "mine")


@pytest.mark.slow
def test_they_are_the_audits_of_all_classes(db):
    found, expected = find(db), audit_all(db)
    frame = expected.frame.set_index("class")
    assert set(found.classes["name"]) == set(frame.index) == {"vegetable", "ox", "clock"}
    for row in found.classes.to_dict("records"):
        for key in ("valid", "both", "spurious", "unexpected", "p_value"):
            assert row[key] == pytest.approx(frame.loc[row["name"], key], abs=1e-12)
        stands = found.standing(row["target"])
        assert (stands.name, stands.kind) == (row["name"], frame.loc[row["name"], "standing"])
        assert stands.q_value == pytest.approx(frame.loc[row["name"], "q_value"], abs=1e-12)
        assert stands.sentence() == expected.audits[row["name"]].standing.sentence()
        result = expected.audits[row["name"]]
        rows = found.components[found.components["target"] == row["target"]]
        assert rows["component"].tolist() == result.frame["component"].tolist()
        assert rows["verdict"].tolist() == result.frame["verdict"].tolist()
        np.testing.assert_allclose(rows["weight"], result.weights, atol=1e-12)
        for verdict in ("valid", "spurious", "both", "unexpected"):
            share = rows.loc[rows["verdict"] == verdict, "weight"].sum()
            assert share == pytest.approx(result.share(verdict), abs=1e-9)
    assert [one.rank for one in found.standings] == sorted(one.rank for one in found.standings)
    unexpected = found.components["verdict"] == "unexpected"
    assert found.components.loc[unexpected, "concept"].isna().all()
    assert found.components.loc[~unexpected, "concept"].notna().all()


@pytest.mark.slow
def test_they_survive_a_restart(db, built, audited):
    first = find(db)
    assert audited == [0, 1, 3]
    again = find(sl.open(built.path))  # without an embedder: nothing is computed
    assert audited == [0, 1, 3]
    pd.testing.assert_frame_equal(again.classes, first.classes, check_dtype=False)
    pd.testing.assert_frame_equal(again.components, first.components, check_dtype=False)
    assert again.sentence() == first.sentence()


@pytest.mark.slow
def test_an_edited_list_is_audited_again_alone(db, audited):
    find(db)
    record = db.audits.add("clock", lists(["dog"], ["tree"]))
    before = find(db)
    assert audited == [0, 1, 3, 3]
    db.audits.edit(record.id, record.revision, AuditChanges(name="renamed"))
    find(db)
    assert len(audited) == 4  # the name does not matter
    settings = AuditSettings(threshold=(None, -2.0))
    db.audits.edit(record.id, record.revision + 1, AuditChanges(settings=settings))
    after = find(db)
    assert audited == [0, 1, 3, 3, 3]
    share = {"before": before, "after": after}
    for name, one in share.items():
        row = one.classes.set_index("name").loc["clock"]
        share[name] = row["spurious"] + row["both"]
    assert share["before"] < share["after"] == pytest.approx(1)
    db.audits.remove(record.id, record.revision + 2)
    find(db)
    assert audited == [0, 1, 3, 3, 3, 3]


@pytest.mark.slow
def test_a_read_only_folder_and_a_damaged_file_are_no_obstacle(db, audited):
    expected = find(db).classes
    file = db.path / "analysis" / f"{module.TABLE}.parquet"
    file.write_bytes(b"no table")
    pd.testing.assert_frame_equal(find(db).classes, expected, check_dtype=False)
    assert len(audited) == 6
    file.unlink()
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    file.parent.chmod(0o500)
    try:
        pd.testing.assert_frame_equal(find(db).classes, expected, check_dtype=False)
        assert not file.exists()
    finally:
        file.parent.chmod(0o700)


@pytest.mark.slow
def test_an_audit_alone_is_corrected_for_the_kept_ones(db):
    alone = audit(db, "ox", resamples=0).standing
    assert (alone.tested, np.isnan(alone.q_value)) == (1, True)
    assert "tested alone" in alone.sentence()
    kept = {one.name: one for one in find(db).standings}
    among = audit(db, "ox", resamples=0)
    assert repr(among.standing) == repr(kept["ox"])  # not a number is unlike itself
    assert among.standing.sentence() in among.sentence
    # other lists: its own p-value, and those of the other classes
    other = audit(db, "ox", lists(["dog"], ["sea"]), resamples=0).standing
    p = [other.p_value, *(one.p_value for name, one in kept.items() if name != "ox")]
    assert other.q_value == pytest.approx(false_discovery_control(p)[0])
    # another class was edited since: its p-value is out of date
    db.audits.add("clock", lists(["dog"], ["tree"]))
    assert audit(db, "ox", resamples=0).standing.tested == 1


def test_without_classes_the_sentence_says_why():
    nothing = Verdicts(pd.DataFrame(), (), pd.DataFrame(), {"ox": "Too long."})
    assert nothing.sentence() == "No class was audited. Too long."


def get(client, path, status=200):
    answer = when_done(lambda: client.get(f"/api/v1/models/0/{path}"))
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_server_audits_in_the_background(db, audited):
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    app = create_app([db])
    prepare_verdicts(app.state.semlens)
    assert audited == [0, 1, 3]
    client = TestClient(app, base_url="http://localhost")
    sweep = client.get("/api/v1/models/0/sweep")  # without waiting
    assert sweep.status_code == 200
    assert sweep.json()["sentence"] == find(db).sentence(CURLY)
    assert audited == [0, 1, 3]
    # and the process runs at its usual priority
    assert os.getpriority(os.PRIO_PROCESS, 0) == priority


@pytest.mark.slow
def test_verdicts_of_a_class(db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    record = db.audits.add("ox", lists(["dog"], ["tree", "sea"]))
    found = get(client, "verdicts/1")
    assert (found["target"], found["name"], found["audit"]) == (1, "ox", record.id)
    result = db.audits.run(record.id)
    assert [(one["component"], one["verdict"]) for one in found["components"]] == list(
        zip(result.frame["component"], result.frame["verdict"], strict=True)
    )
    assert found["standing"]["p_value"] == pytest.approx(result.p_value)
    row = next(one for one in get(client, "sweep")["classes"] if one["name"] == "ox")
    # one standing: of all classes, of the class, of its audit, and in the list of audits
    assert row["standing"] == found["standing"]
    assert get(client, f"audits/{record.id}/standing") == found["standing"]
    assert get(client, "audit-summaries")[0]["standing"] == found["standing"]
    assert found["standing"]["sentence"] == result.standing.sentence(CURLY)
    assert found["standing"]["tested"] == 3
    spurious = [one for one in found["components"] if one["verdict"] == "spurious"]
    assert row["strongest"] == spurious[:6]
    get(client, "verdicts/2", 404)  # zebra has no images
    get(client, "verdicts/99", 404)


def test_a_class_that_cannot_be_audited_says_why(db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    db.audits.add("clock", lists([f"word {i}" for i in range(60)], ["tree"]))
    found = get(client, "verdicts/3")
    assert found["components"] == []
    assert found["standing"] is None
    assert "too small for a set of 60" in found["reason"]
    assert "too small for a set of 60" in get(client, "sweep")["skipped"]["clock"]


@pytest.mark.slow
def test_without_texts_there_are_no_verdicts(tmp_path, images, embedder, audited):
    made = sl.build(
        tmp_path / "db", little(), images, embedder, ["first"], examples=2, relevance=True,
        targets=[NAMES[i % 2] for i in range(len(images))],
    )  # fmt: skip
    app = create_app([made])
    start = time.monotonic()
    prepare_verdicts(app.state.semlens)
    assert time.monotonic() - start < 0.5
    client = TestClient(app, base_url="http://localhost")
    found = get(client, "sweep")
    assert found["classes"] == []
    assert "cannot embed texts" in found["sentence"]
    assert "cannot embed texts" in get(client, "verdicts/0")["reason"]
    assert audited == []
