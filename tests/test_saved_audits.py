"""Saved audits: several writers, stale edits, crashes, and the way back as a concept set."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
import typing

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.embedders.load import load_embedder
from semlens.errors import (
    ConceptError,
    EditError,
    LayerError,
    RecipeError,
    RelevanceError,
    StaleError,
    StoreError,
)
from semlens.lenses.audit.audit import audit
from semlens.lenses.audit.audit_records import AuditChanges, AuditSettings, ListedConcept, Review
from semlens.lenses.audit.concept_alignment import MOST_CONCEPTS
from semlens.lenses.audit.saved_audits import SavedAudits
from semlens.lenses.concept_file import parse_upload, to_toml
from semlens.lenses.concepts import Concept, ConceptSet, bundled_names
from semlens.models.subject import SubjectModel
from semlens.settings import settings_of
from semlens.store.json_documents import JsonDocuments

LAYERS = ["first", "second"]
CONCEPTS = ConceptSet(
    (
        Concept("dog", (), "valid"),
        Concept("grey wolf", ("animals", "wild"), "valid"),
        Concept("tree", (), "spurious"),
        Concept("sea", ("scene",), "spurious"),
    ),
    "expected",
    "the test",
    ("{}", "a {}"),
)


def build(path, pictures, embedder):
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    targets = ["abd"[i % 3] for i in range(len(images))]
    return sl.build(path, subject, images, embedder, LAYERS, examples=4, relevance=True,
                    targets=targets, crop="activation")  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    return build(folder / "db", write_pictures(folder / "images", 24), WordEmbedder())


@pytest.fixture
def db(built):
    """The database with no audit yet: each test has its own folder of them."""
    audits = built.path / "analysis" / "audits"
    for file in audits.glob("*") if audits.is_dir() else ():
        file.unlink()
    return sl.open(built.path, embedder=WordEmbedder())


def texts(terms):
    return [term.text for term in terms]


# -- what is kept --------------------------------------------------------------------------------


def test_the_saved_settings_are_those_of_the_audit():
    of_audit = {
        name: (one.type, one.field.metadata, one.default)
        for name, one in settings_of(audit).items()
        if name not in ("target", "concepts", "background", "resamples")
    }
    saved = AuditSettings.model_fields
    assert list(of_audit) == list(saved)
    for name, (kind, limits, default) in of_audit.items():
        if name != "threshold":  # saved as a pair
            hint = typing.get_type_hints(AuditSettings, include_extras=True)[name]
            assert (hint.__origin__, saved[name].default) == (kind, default)
            assert [m for m in limits if m in saved[name].metadata] == limits


def test_an_audit_is_kept_with_everything_and_read_back(db):
    made = db.audits.add("b", CONCEPTS, name="first look", settings=AuditSettings(minimum=0.02))
    found = sl.open(db.path, embedder=WordEmbedder()).audits.get(1)
    assert found == made
    assert (found.id, found.revision, found.target, found.target_name) == (1, 1, 1, "b")
    assert found.concepts.concepts == CONCEPTS.concepts
    assert found.templates == CONCEPTS.templates
    assert found.sources == ("expected",)
    assert found.database == db.fingerprint
    assert found.version == sl.__version__
    assert db.audits.add(3, ConceptSet((), "none")).id == 2
    assert db.audits.numbers() == [1, 2]
    some = db.audits.add("b", {"valid": ["dog"], "spurious": {"scene": ["sea"]}})
    assert (texts(some.valid), texts(some.spurious)) == (["dog"], ["sea"])
    assert db.audits.add("b", ["audit:3", "artefacts"]).valid == some.valid
    assert [one.id for one in db.audits.readable()] == [1, 2, 3, 4]


def test_the_finding_is_that_of_the_audit(db):
    wanted = {"minimum": 0.02, "level": 0.2, "layers": ("second",), "seed": 3}
    made = db.audits.add("b", CONCEPTS, settings=AuditSettings(**wanted, threshold=(0.0, None)))
    found = db.audits.run(made.id, resamples=10)
    concepts = ConceptSet(CONCEPTS.concepts, "x", "", CONCEPTS.templates)
    plain = db.audit("b", concepts, **wanted, threshold=(0.0, None), resamples=10)
    assert found.frame.equals(plain.frame)
    assert found.shares.equals(plain.shares)
    assert found.p_value == plain.p_value


def test_edits_change_what_they_name_and_nothing_else(db):
    made = db.audits.add("b", CONCEPTS)
    second = db.audits.edit(
        1, 1, AuditChanges(name="other", spurious=(ListedConcept(text="stone"),))
    )
    assert (second.revision, second.name, texts(second.spurious)) == (2, "other", ["stone"])
    assert second.valid == made.valid
    third = db.audits.edit(1, 2, AuditChanges(settings=AuditSettings(threshold=(0.1, None))))
    assert third.settings.threshold == (0.1, None)
    assert texts(third.spurious) == ["stone"]
    assert db.audits.get(1) == third


def test_reviews_are_set_changed_and_taken_back_one_by_one(db):
    db.audits.add("b", CONCEPTS)
    db.audits.edit(
        1, 1, AuditChanges(reviews={"second:-3": Review(), "first:0": Review(note="a sky")})
    )
    found = db.audits.edit(1, 2, AuditChanges(reviews={"first:0": Review(status="dismissed")}))
    assert list(found.reviews) == ["first:0", "second:-3"]
    assert (found.reviews["first:0"].status, found.reviews["first:0"].note) == ("dismissed", "")
    assert found.reviews["second:-3"].when.endswith("+00:00")
    assert list(db.audits.edit(1, 3, AuditChanges(reviews={"first:0": None})).reviews) == [
        "second:-3"
    ]
    with pytest.raises(LayerError) as error:
        db.audits.edit(1, 4, AuditChanges(reviews={"first:99": Review()}))
    assert_says(error.value, "first:99", "0 to 5")


def test_a_number_is_never_given_again(db):
    for _ in range(3):
        db.audits.add("a", CONCEPTS)
    db.audits.remove(3, 1)
    assert db.audits.numbers() == [1, 2]
    assert db.audits.add("a", CONCEPTS).id == 4
    with pytest.raises(StoreError) as error:
        db.audits.get(3)
    assert_says(error.value, "no audit 3", "1, 2, 4", "Choose")


def test_images_of_concepts_stay_with_them(db, tmp_path):
    picture = next((db.path.parent / "images").glob("*/*.png"))
    concept = Concept("a brand", ("marks",), "spurious", (picture,))
    made = db.audits.add("b", ConceptSet((*CONCEPTS.concepts, concept), "with images"))
    assert made.image_concept("a brand").images == (str(picture.resolve()),)
    moved = db.audits.edit(1, 1, AuditChanges(valid=(made.image_concept("a brand"),), spurious=()))
    assert moved.concepts.concepts == (
        Concept("a brand", ("marks",), "valid", (picture.resolve(),)),
    )
    with pytest.raises(ConceptError) as error:
        made.image_concept("dog")
    assert_says(error.value, "no concept by image named 'dog'", "db.audits.add")


# -- several writers -----------------------------------------------------------------------------


def test_an_edit_of_an_older_revision_is_refused(db):
    db.audits.add("b", CONCEPTS)
    db.audits.edit(1, 1, AuditChanges(name="newer"))
    for attempt in (
        lambda: db.audits.edit(1, 1, AuditChanges(name="older")),
        lambda: db.audits.remove(1, 1),
        lambda: db.audits.edit(1, 3, AuditChanges(name="of the future")),
    ):
        with pytest.raises(EditError) as error:
            attempt()
        assert_says(error.value, "Audit 1 has been edited since", "revision 2", "Load the newer")
    assert db.audits.get(1).name == "newer"


def test_of_many_writers_none_loses_another_and_one_of_each_revision_wins(db):
    """Each of eight writers, with a database of its own, adds and edits the same audit."""
    db.audits.add("b", CONCEPTS)
    won, lost = [], []

    def write(number):
        mine = sl.open(db.path, embedder=WordEmbedder()).audits
        mine.add("a", CONCEPTS, name=f"of {number}")
        for _ in range(10):
            revision = mine.get(1).revision
            try:
                mine.edit(1, revision, AuditChanges(name=f"{number} at {revision}"))
                won.append(revision)
            except EditError:
                lost.append(revision)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) + len(lost) == 80
    assert sorted(won) == list(range(1, len(won) + 1))  # each revision was the base of one edit
    assert db.audits.get(1).revision == len(won) + 1
    names = {db.audits.get(number).name for number in db.audits.numbers()[1:]}
    assert names == {f"of {number}" for number in range(8)}
    assert db.audits.numbers() == list(range(1, 10))


WRITER = """
import sys
from pathlib import Path
from semlens.store.json_documents import JsonDocuments

documents = JsonDocuments(Path(sys.argv[1]), "audit")
documents.add({"text": "x" * 200_000})
while True:
    for revision in range(1, 10**9):
        documents.edit(1, revision, lambda one: {**one, "text": str(one["revision"]) * 200_000})
        print(revision, flush=True)
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_a_whole_document_and_no_lock(tmp_path):
    for trial in range(2):
        folder = tmp_path / str(trial)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3 + trial):
            process.stdout.readline()
        time.sleep(0.002 * trial)
        process.send_signal(signal.SIGKILL)
        process.wait()
        documents = JsonDocuments(folder, "audit")
        found = documents.read(1)
        revision = found["revision"]
        assert revision >= 3 + trial
        assert found["text"] == str(revision - 1) * 200_000
        assert documents.edit(1, revision, lambda one: one)["revision"] == revision + 1
        assert documents.add({})["id"] == 2


def test_a_full_disk_is_told_and_the_old_revision_stays(tmp_path):
    resource = pytest.importorskip("resource")
    documents = JsonDocuments(tmp_path, "audit")
    documents.add({"text": "small"})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(StoreError) as error:
            documents.edit(1, 1, lambda one: {"text": "large" * 5000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert_says(error.value, "cannot be written", "limit is reached")
    assert documents.read(1) == {"id": 1, "revision": 1, "text": "small"}


def test_where_nothing_can_be_written_edits_last_as_long_as_the_object(db):
    db.audits.add("b", CONCEPTS, name="on disk")
    audits = SavedAudits(db, keeps=False)
    assert not audits.keeps
    assert audits.add("a", CONCEPTS, name="in memory").id == 2
    assert audits.edit(1, 1, AuditChanges(name="edited")).revision == 2
    assert [audits.get(number).name for number in audits.numbers()] == ["edited", "in memory"]
    with pytest.raises(EditError):
        audits.edit(1, 1, AuditChanges(name="again"))
    audits.remove(1, 2)
    assert audits.numbers() == [2]
    with pytest.raises(StoreError, match="no audit 1"):
        audits.get(1)
    assert audits.add("a", CONCEPTS).id == 3
    assert db.audits.get(1).name == "on disk"
    assert db.audits.numbers() == [1]


def test_a_damaged_file_is_told_and_hides_no_other(db):
    for _ in range(3):
        db.audits.add("b", CONCEPTS)
    folder = db.path / "analysis" / "audits"
    (folder / "1.json").write_text('{"id": 1, "revi')
    document = json.loads((folder / "2.json").read_text())
    (folder / "2.json").write_text(json.dumps({**document, "mood": "?", "version": "99"}))
    with pytest.raises(StoreError) as error:
        db.audits.get(1)
    assert_says(error.value, "1.json", "cannot be read", "Restore")
    with pytest.raises(StoreError) as error:
        db.audits.get(2)
    assert_says(error.value, "saved audit 2", "'mood'", "not 99", "that version")
    assert db.audits.numbers() == [1, 2, 3]
    assert db.audits.get(3).name == "b"


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "kind", "parts"),
    [
        (AuditChanges(valid=(ListedConcept(text="TREE "),)), ConceptError,
         ["both valid and spurious: tree", "one side"]),
        (AuditChanges(valid=(ListedConcept(text=" "),)), ConceptError, ["1 to 200"]),
        (AuditChanges(valid=(ListedConcept(text="x" * 201),)), ConceptError,
         ["201 characters", "short phrase"]),
        (AuditChanges(valid=tuple(ListedConcept(text=f"w{i}") for i in range(MOST_CONCEPTS))),
         ConceptError, ["2002 concepts", "at most 2000"]),
        (AuditChanges(name=""), RecipeError, ["name is ''", "at least 1"]),
        (AuditChanges(settings=AuditSettings(layers=("third",))), LayerError, ["third", "first"]),
        (AuditChanges(reviews={"nothing": Review()}), LayerError, ["'nothing'"]),
    ],
)  # fmt: skip
def test_what_could_never_be_computed_is_not_kept(db, edit, kind, parts):
    made = db.audits.add("b", CONCEPTS)
    with pytest.raises(kind) as error:
        db.audits.edit(1, 1, edit)
    assert_says(error.value, *parts)
    assert db.audits.get(1) == made


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"minimum": 2}, ["minimum is '2'", "a number from 0 to 1"]),
        ({"level": 0}, ["level is '0'", "above 0 below 1"]),
        ({"threshold": (0.0, 3.0)}, ["threshold is '3.0'", "less than or equal to 2"]),
        ({"seed": -1}, ["seed is '-1'", "a whole number from 0"]),
        ({"mood": "?"}, ["no setting 'mood'"]),
    ],
)
def test_settings_are_those_of_an_audit(db, settings, parts):
    with pytest.raises(RecipeError) as error:
        AuditSettings(**settings)
    assert_says(error.value, *parts)
    db.audits.add("b", CONCEPTS)
    file = db.path / "analysis" / "audits" / "1.json"
    document = json.loads(file.read_text())
    assert set(document["settings"]) == {"layers", "minimum", "level", "threshold", "seed"}
    file.write_text(json.dumps({**document, "settings": {**document["settings"], **settings}}))
    with pytest.raises(RecipeError) as error:
        db.audits.get(1)
    assert_says(error.value, *parts)


def test_empty_lists_are_kept_and_have_no_finding(db):
    db.audits.add("b", ConceptSet((), "nothing yet"))
    with pytest.raises(ConceptError, match="no valid and no spurious"):
        db.audits.run(1)
    with pytest.raises(RelevanceError, match="Unknown class 'z'"):
        db.audits.add("z", CONCEPTS)


def test_a_database_that_has_changed_is_told(db):
    db.audits.add("b", CONCEPTS)
    file = db.path / "analysis" / "audits" / "1.json"
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "database": "0" * 64}))
    record = db.audits.get(1)
    assert record.database != db.fingerprint
    assert db.audits.edit(1, 1, AuditChanges(name="x")).database == "0" * 64
    assert db.audits.edit(1, 2, AuditChanges(update_build=True)).database == db.fingerprint
    file.write_text(json.dumps({**document, "target_name": "ox"}))
    with pytest.raises(StaleError) as error:
        db.audits.run(1)
    assert_says(error.value, "made for 'ox'", "class 1", "is now 'b'", "new audit")


# -- thresholds of the two sides -----------------------------------------------------------------


def test_each_side_has_its_own_threshold(db):
    concepts = ConceptSet(CONCEPTS.concepts, "mine")
    by_chance = db.audit("b", concepts, resamples=0)
    fixed = db.audit("b", concepts, resamples=0, threshold=0.05)
    mixed = db.audit("b", concepts, resamples=0, threshold=(0.05, None))
    assert mixed.frame["valid_threshold"].equals(fixed.frame["valid_threshold"])
    assert mixed.frame["spurious_threshold"].equals(by_chance.frame["spurious_threshold"])
    two = db.audit("b", concepts, resamples=0, threshold=(0.05, -0.05))
    for row in two.frame.to_dict("records"):
        sides = (row["valid"] > np.float32(0.05), row["spurious"] > np.float32(-0.05))
        wanted = {(True, True): "both", (True, False): "valid", (False, True): "spurious"}
        assert row["verdict"] == wanted.get(sides, "unexpected")
    assert db.audit("b", concepts, resamples=0, threshold=(0.05, 0.05)).frame.equals(fixed.frame)
    with pytest.raises(RecipeError, match="a pair of these"):
        db.audit("b", concepts, threshold=(0.0, float("nan")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        ((0.1, 0.2), ["valid concept above 0.1", "spurious concept above 0.2"]),
        ((0.1, None), ["valid concept above 0.1", "spurious concepts if its best"]),
        ((0.1, 0.1), ["with a concept above 0.1"]),
        (None, ["with concepts if its best"]),
    ],
)
def test_a_report_says_both_thresholds(db, threshold, said):
    found = db.audit("b", CONCEPTS, threshold=threshold, resamples=0)
    made = db.report("b", CONCEPTS, audit=found, concept_map=False, graph=False)
    assert_says(ValueError(made.html), *said)


# -- concept sets as files -----------------------------------------------------------------------


WORDS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8
).filter(lambda text: text == text.strip() and text != "images")


@given(
    st.lists(
        st.tuples(
            WORDS,
            st.lists(WORDS, max_size=2).map(tuple),
            st.sampled_from(["concept", "valid", "spurious"]),
        ),
        min_size=1,
        max_size=6,
    ),
    WORDS,
    st.none() | WORDS,
)
def test_a_set_comes_back_from_toml(tmp_path_factory, entries, source, target):
    concepts = ConceptSet(tuple(Concept(*one) for one in entries), 'a "name"', source,
                          ("{}", "a\n{}"), target)  # fmt: skip
    file = tmp_path_factory.getbasetemp() / "round.toml"
    file.write_bytes(to_toml(concepts).encode())
    found = ConceptSet.load(file)
    assert (found.name, found.source) == (concepts.name, source)
    assert (found.target, found.templates) == (target, concepts.templates)
    for kind in ("concept", "valid", "spurious"):
        for path in {one.path for one in concepts.concepts}:
            mine, other = (
                [c for c in one.concepts if c.kind == kind and c.path == path]
                for one in (concepts, found)
            )
            assert mine == other
    assert len(found) == len(concepts)


def test_bundled_sets_and_images_come_back_from_toml(tmp_path):
    sets = [ConceptSet.load(name) for name in bundled_names()]
    sets.append(
        ConceptSet((Concept("mark", ("a b",), "valid", (tmp_path / "x.png",)),), "pictures")
    )
    for one in sets:
        (tmp_path / "set.toml").write_text(to_toml(one), "utf-8")
        assert ConceptSet.load(tmp_path / "set.toml") == one
    with pytest.raises(ConceptError, match="is empty"):
        to_toml(ConceptSet((), "none"))


@pytest.mark.parametrize(
    ("text", "file", "parts"),
    [
        ("valid = [", "a.toml", ["'a' cannot be read", "[concepts]"]),
        ("[]", "a.json", ["is empty"]),
        ("x", "a.exe", ["'a.exe' is not a concept set", ".toml, .json, .csv"]),
        ("x", "toml", ["'toml' is not a concept set"]),
        ('valid = [{name = "x", images = ["/etc/passwd"]}]', "a.toml", ["by image: x", "texts"]),
    ],
)
def test_a_file_that_is_handed_in_wrongly_is_refused(text, file, parts):
    with pytest.raises(ConceptError) as error:
        parse_upload(text, file)
    assert_says(error.value, *parts)


def test_files_that_are_handed_in_are_read():
    assert parse_upload("valid = ['dog']", "my ox.toml").name == "my ox"
    assert parse_upload("concept,kind\ndog,valid\n", "a.CSV").concepts[0].kind == "valid"


# -- command line --------------------------------------------------------------------------------


def run(*words):
    words = [str(word) for word in words]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["semlens", *words])
        return CliRunner().invoke(app, words)


@pytest.mark.slow
def test_commands_use_a_saved_audit(tmp_path):
    pictures = write_pictures(tmp_path / "images", 12)
    db = build(tmp_path / "db", pictures, load_embedder("semlens/demo"))
    db.audits.add("b", CONCEPTS, name="mine", settings=AuditSettings(threshold=(0.0, None)))
    db.audits.edit(1, 1, AuditChanges(reviews={"second:1": Review(note="a <b>leaf</b>")}))
    answer = run("audit", db.path, "--saved", 1, "--json", "--resamples", 5)
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert found["class"] == "b"
    assert found["settings"]["threshold"] == [0.0, None]
    plain = db.audits.run(1, resamples=5)
    assert [one["verdict"] for one in found["components"]] == plain.frame["verdict"].to_list()

    out = tmp_path / "report.html"
    answer = run("report", db.path, "--saved", 1, "--save", out, "--no-concept-map", "--no-graph")
    assert answer.exit_code == 0, answer.output
    page = out.read_text("utf-8")
    assert "Review by people" in page
    assert "a &lt;b&gt;leaf&lt;/b&gt;" in page
    assert f"semlens report {db.path} --saved 1" in page

    for words, said in (
        (("--target", "b"), "--saved and --target"),
        (("--threshold", "0"), "--saved and --threshold"),
        (("--concepts", "artefacts"), "--saved and --concepts"),
    ):
        for command in ("audit", "report"):
            answer = run(command, db.path, "--saved", 1, *words)
            assert answer.exit_code == 1
            assert said in answer.stderr
    assert "no audit 7" in run("audit", db.path, "--saved", 7).stderr
