"""Marks: components that a person calls spurious for a class, saved as reviews of its audits."""

from __future__ import annotations

import contextlib
import threading
import time

import numpy as np
import pytest
from conftest import VEGETABLES, LittleNet, WordEmbedder, build_vegetables, to_tensor, when_done
from fastapi.testclient import TestClient
from filelock import FileLock

import semlens as sl
from semlens.errors import BusyError, EditError, LayerError
from semlens.lenses.audit.audit_records import AuditChanges, Review
from semlens.lenses.audit.saved_audits import review_as_spurious, reviewed_as_spurious
from semlens.models.subject import SubjectModel
from semlens.store import json_documents
from semlens.types import Component
from semlens.web.app import create_app

FIRST, SECOND = "second:0", "second:3"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", VEGETABLES)
    return build_vegetables(tmp_path_factory.mktemp("marks"), subject)


@pytest.fixture
def db(built):
    for file in (built.path / "analysis" / "audits").glob("*"):
        file.unlink()
    return sl.open(built.path, embedder=WordEmbedder())


@pytest.mark.slow
def test_a_mark_is_saved_in_an_audit_with_the_lists_of_the_class(db):
    record = review_as_spurious(db, 0, [Component("second", 0, 1), SECOND])
    assert reviewed_as_spurious(db, 0) == [FIRST, SECOND]
    assert reviewed_as_spurious(db, 1) == []
    assert record.target == 0 and len(record.concepts) > 0
    assert {one.status for one in record.reviews.values()} == {"spurious"}
    again = review_as_spurious(db, 0, [FIRST])  # in the same audit
    assert (again.id, db.audits.numbers()) == (record.id, [record.id])

    after = review_as_spurious(db, 0, [FIRST], on=False)
    assert after.id == record.id and list(after.reviews) == [SECOND]
    assert reviewed_as_spurious(db, 0) == [SECOND]
    assert review_as_spurious(db, 0, [FIRST], on=False) is None
    with pytest.raises(LayerError):
        review_as_spurious(db, 0, ["second:99"])


def test_the_latest_review_of_all_audits_counts_and_notes_are_kept(db):
    old = db.audits.add("vegetable", ["artefacts"])
    spurious = Review(status="spurious", note="letters", when="2026-01-01T00:00:00+00:00")
    old = db.audits.edit(old.id, old.revision, AuditChanges(reviews={FIRST: spurious}))
    new = db.audits.add("vegetable", ["artefacts"])
    assert reviewed_as_spurious(db, 0) == [FIRST]
    harmless = Review(status="dismissed", when="2026-02-01T00:00:00+00:00")
    new = db.audits.edit(new.id, new.revision, AuditChanges(reviews={FIRST: harmless}))
    assert reviewed_as_spurious(db, 0) == []
    # a mark replaces the dismissal; taking it back leaves a mark in no audit
    assert review_as_spurious(db, 0, [FIRST]).id == new.id
    review_as_spurious(db, 0, [FIRST], on=False)
    assert reviewed_as_spurious(db, 0) == []
    assert db.audits.get(old.id).reviews[FIRST].note == "letters"
    assert FIRST not in db.audits.get(new.id).reviews


def test_others_meanwhile_are_no_obstacle_and_a_lock_that_stays_is_an_error(db, monkeypatch):
    record = review_as_spurious(db, 0, [FIRST])
    ended, edits = threading.Event(), []

    def rename():
        theirs = sl.open(db.path, embedder=WordEmbedder()).audits
        while not ended.is_set():
            with contextlib.suppress(EditError):
                revision = theirs.get(record.id).revision
                edits.append(theirs.edit(record.id, revision, AuditChanges(name=f"{revision}")))

    thread = threading.Thread(target=rename)
    thread.start()
    marks = [f"second:{index}" for index in range(1, 6)]
    try:
        until = time.monotonic() + 60
        while not edits and time.monotonic() < until:  # the other is at work
            time.sleep(0.01)
        for name in marks:
            assert review_as_spurious(db, 0, [name]).id == record.id
    finally:
        ended.set()
        thread.join()
    assert edits and sorted(reviewed_as_spurious(db, 0)) == sorted([FIRST, *marks])
    monkeypatch.setattr(json_documents, "LOCK_TIMEOUT", 0.1)
    with FileLock(db.path / "analysis" / "audits" / ".lock"), pytest.raises(BusyError):
        review_as_spurious(db, 0, ["second:0"])


def test_first_marks_at_the_same_time_are_in_one_audit(db):
    databases = [db, sl.open(db.path, embedder=WordEmbedder())]  # as two servers have it
    names = list(db.names(np.arange(6)))
    barrier, failures = threading.Barrier(24), []

    def mark(number):
        barrier.wait()
        try:
            review_as_spurious(databases[number % 2], 0, [names[number % 6]])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=mark, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    (only,) = db.audits.numbers()
    assert sorted(reviewed_as_spurious(db, 0)) == sorted(names)
    assert db.audits.get(only).revision == 25
    assert len(db.audits.get(only).concepts) > 0


def test_marks_over_http(db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    path = "/api/v1/models/0/marks/0"
    empty = {"target": 0, "name": "vegetable", "components": [], "audit": None}
    assert client.get(path).json() == empty
    saved = client.put(path, json={"components": [FIRST], "spurious": True}).json()
    assert saved["components"] == [FIRST] and saved["audit"] == db.audits.numbers()[0]
    assert client.get(path).json() == saved
    assert client.put(path, json={"components": [FIRST], "spurious": False}).json()["audit"]
    assert client.get(path).json() == empty
    assert client.put(path, json={"components": [], "spurious": True}).status_code == 422
    assert client.get("/api/v1/models/0/marks/2").status_code == 404  # no relevance


@pytest.mark.slow
def test_a_marked_component_is_spurious_in_the_verdicts(db):
    client = TestClient(create_app([db]), base_url="http://localhost")

    def get(path):
        return when_done(lambda: client.get(f"/api/v1/models/0/{path}")).json()

    before = get("verdicts/0")
    assert not any(one["marked"] for one in before["components"])
    chosen = next(one for one in before["components"] if one["verdict"] != "spurious")
    review_as_spurious(db, 0, [chosen["component"]])
    after = get("verdicts/0")
    one = next(c for c in after["components"] if c["component"] == chosen["component"])
    assert one == {**chosen, "verdict": "spurious", "marked": True, "audited": chosen["verdict"]}
    same = [c for c in after["components"] if c["component"] != chosen["component"]]
    assert same == [c for c in before["components"] if c["component"] != chosen["component"]]
    # the statistics are those of the lists
    assert after["standing"] == before["standing"]
    row = next(entry for entry in get("sweep")["classes"] if entry["target"] == 0)
    assert chosen["component"] in [entry["component"] for entry in row["strongest"]]
    assert get("verdicts/1") == get("verdicts/1")
