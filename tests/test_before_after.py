"""Before and after: an artefact cut out of components' examples, against a plain loop."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import (
    VEGETABLES,
    LittleNet,
    WordEmbedder,
    build_vegetables,
    plain_colours,
    spread_logits,
    to_tensor,
    when_done,
)
from fastapi.testclient import TestClient
from PIL import Image

import semlens as sl
from semlens.data.artefact import artefact_seed, insert_drawn
from semlens.errors import DataError
from semlens.lenses.audit.audit_records import AuditChanges, Review
from semlens.lenses.audit.saved_audits import review_as_spurious
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.correct import cav
from semlens.lenses.correct import mark as mark_module
from semlens.lenses.correct.ablation_preview import (
    TRACED,
    AblationPreview,
    Predictions,
    RateChange,
    Step,
    ablation_preview,
    by_relevance,
    next_components,
    preview_samples,
)
from semlens.lenses.correct.before_after import before_after
from semlens.lenses.correct.mark import find_mark
from semlens.lenses.graph.relevance_trace import component_shares, make_job
from semlens.models.subject import SubjectModel
from semlens.types import Component
from semlens.web.app import create_app
from semlens.web.routes import before_after as route

NAMES = VEGETABLES
CHOSEN = [Component("second", 0, 1), Component("second", 3, 1), Component("first", 1, 1)]


def little():
    net = spread_logits(LittleNet(), plain_colours())
    return SubjectModel(net, to_tensor, "32 bilinear", "python:little", NAMES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_vegetables(tmp_path_factory.mktemp("before"), little())


@pytest.fixture
def db(built):
    for file in (built.path / "analysis").rglob("*"):
        if file.is_file():
            file.unlink()
    return sl.open(built.path, model=little(), embedder=WordEmbedder())


@pytest.mark.slow
def test_a_class_has_its_share_of_the_images(db):
    samples, right = preview_samples(db, 3, per_class=4, at_most=6)
    assert (right == 3).sum() == 4  # the class itself is not cut
    assert sorted((right == c).sum() for c in (0, 1)) == [1, 1]
    assert len(set(samples.tolist())) == 6
    again, _ = preview_samples(db, 3, per_class=4, at_most=6)
    other, _ = preview_samples(db, 3, per_class=4, at_most=6, seed=1)
    assert samples.tolist() == again.tolist() != other.tolist()
    everything, _ = preview_samples(db, 3)
    assert everything.tolist() == list(range(24))


def predict(db, image, zeroed=()):
    """The probabilities of one image, with channels set to zero by hand."""
    net = db.model.module.eval()
    x = to_tensor(image)[None]
    with torch.no_grad():
        first = net.first(x)
        for component in zeroed:
            if component.layer == "first":
                first[:, component.index] = 0
        second = net.second(first)
        for component in zeroed:
            if component.layer == "second":
                second[:, component.index] = 0
        return net.head(torch.relu(second).mean((2, 3))).softmax(1)[0].numpy()


def test_the_numbers_are_those_of_a_plain_loop(db):
    result = before_after(db, "vegetable", CHOSEN, per_class=6, seed=3)
    preview, target = result.preview, 0
    pieces = result.mark.pieces.images
    for position, sample in enumerate(preview.samples.tolist()):
        plain = db.images.read(sample)
        # the piece is drawn by the sample's own seed, and blended where it was
        rng = np.random.default_rng(artefact_seed(3, sample))
        piece = pieces[int(rng.integers(len(pieces)))].resize(plain.size, Image.Resampling.BILINEAR)
        colours, alpha = np.asarray(piece.convert("RGB"), float), np.asarray(piece)[..., 3:] / 255
        marked = np.rint(np.asarray(plain, float) * (1 - alpha) + colours * alpha)
        marked = Image.fromarray(marked.astype(np.uint8))
        for image, predictions in ((plain, result.unmarked), (marked, result.marked)):
            for zeroed, classes, probabilities in (
                ((), predictions.before, predictions.probability_before),
                (CHOSEN, predictions.after, predictions.probability_after),
            ):
                expected = predict(db, image, zeroed)
                assert probabilities[position] == pytest.approx(expected.max(), abs=5e-3)
                if np.diff(np.sort(expected)[-2:])[0] > 0.02:  # not a tie by rounding
                    assert classes[position] == expected.argmax()
    others = preview.right != target
    taken = preview.mistaken(result.marked)
    assert taken.before == (result.marked.before == target)[others].mean()
    assert taken.after == (result.marked.after == target)[others].mean()
    assert result.effect.after == taken.before


@pytest.mark.slow
def test_the_same_seed_gives_the_same_images(db):
    first, again = (before_after(db, 0, CHOSEN, per_class=4) for _ in range(2))
    shown = first.shown(first.marked, 8)
    np.testing.assert_array_equal(shown, again.shown(again.marked, 8))
    assert np.isin(shown, np.flatnonzero(first.candidates(first.marked))).all()
    for position in shown[:2]:
        one, two = (r.picture(r.marked, int(position)) for r in (first, again))
        assert one.tobytes() == two.tobytes()


RIGHT = np.repeat([0, 1, 2], 40)


@pytest.fixture(scope="module")
def real(built):
    return before_after(sl.open(built.path, model=little()), 0, CHOSEN, per_class=2)


def made(real, marked_before, marked_after, clean_before, clean_after, control=0, mark=True):
    """A result with the given numbers of other images that are taken for the class (of 80)."""

    def taken(count):
        predicted = RIGHT.copy()
        predicted[40 : 40 + count] = 0
        return predicted

    def predictions(name, before, after):
        ones = np.ones(120, np.float32)
        return Predictions(name, before, after, ones, ones)

    clean = predictions("clean", clean_before, clean_after)
    sets = (clean, predictions("mark", taken(marked_before), taken(marked_after)))
    preview = AblationPreview(0, tuple(CHOSEN), np.arange(120), RIGHT, sets[: 1 + mark])
    return replace(
        real,
        preview=preview,
        mark=real.mark if mark else None,
        control=(taken(control) == 0) if mark else None,
        reason="No mark can be cut out: It is everywhere.",
        steps=(),
    )


def wrong(count):
    predicted = RIGHT.copy()
    predicted[:count] = 2
    return predicted


def test_the_finding_says_what_the_numbers_say(real):
    helps = made(real, 60, 4, RIGHT, RIGHT)
    assert helps.works and helps.helps and not helps.costs
    assert helps.finding == (
        "With the mark, the model takes 75 % of other images for 'vegetable'; without the 3 "
        "components, 5 %."
    )
    assert helps.cost == "No prediction on 120 unmarked images changes."

    nothing = made(real, 60, 60, RIGHT, RIGHT)
    assert nothing.works and not nothing.helps
    assert "still 75 %: removing them does not repair it" in nothing.finding

    no_effect = made(real, 4, 0, RIGHT, RIGHT, control=4)
    assert not no_effect.works and not no_effect.helps
    assert "does not make the model see 'vegetable' in other images (5 %" in no_effect.finding

    no_mark = made(real, 0, 0, RIGHT, wrong(3), mark=False)
    assert no_mark.marked is None and not no_mark.works
    assert no_mark.finding == "No mark can be cut out: It is everywhere."

    harms = made(real, 60, 4, RIGHT, wrong(20))
    assert harms.costs
    assert harms.cost == (
        "Price: 16.7 points of accuracy on unmarked images, 100.0 % to 83.3 % (20 of 120 "
        "predictions change)."
    )
    little_harm = made(real, 60, 4, RIGHT, wrong(1))
    assert not little_harm.costs  # one of 120 may be chance
    assert little_harm.cost.startswith("On unmarked images, accuracy goes from 100.0 % to 99.2 %")


def test_the_shown_images_are_those_that_the_mark_turns(real):
    result = made(real, 60, 4, RIGHT, RIGHT)
    shown = result.shown(result.marked, 8)
    assert len(set(shown.tolist())) == 8
    assert ((shown >= 40) & (shown < 100)).all()
    counts = np.bincount(RIGHT[shown])  # evenly over the classes, none of the class itself
    assert counts[0] == 0 and counts[1] == counts[2] == 4
    correct = result.marked.after[shown] == RIGHT[shown]
    assert (np.diff(correct.astype(int)) <= 0).all()  # the restored ones come first
    assert len(result.shown(result.unmarked, 8)) == 0
    changed = made(real, 60, 4, RIGHT, wrong(5))
    assert sorted(changed.shown(changed.unmarked, 8)) == [0, 1, 2, 3, 4]


def test_what_cannot_be_cut_out_is_said(db, monkeypatch):
    monkeypatch.setattr(cav, "MIN_SAMPLES", 1000)  # there are 24 images
    with pytest.raises(DataError, match="No mark can be cut out: There are"):
        find_mark(db, 0, CHOSEN)
    result = before_after(db, 0, CHOSEN, per_class=2)
    assert result.mark is None and result.marked is None
    assert result.finding.startswith("No mark can be cut out: There are")
    assert len(result.unmarked.before) == 6


def lists(valid, spurious):
    made = [Concept(one, (), "valid") for one in valid]
    return ConceptSet((*made, *[Concept(one, (), "spurious") for one in spurious]), "mine")


def get(client, path, status=200):
    answer = when_done(lambda: client.get(f"/api/v1/models/0/{path}"), seconds=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_what_is_kept_and_what_comes_with_the_mark_is_said(real):
    clean = made(real, 60, 4, RIGHT, RIGHT)
    assert clean.kept == pytest.approx(4 / 60)
    assert clean.caution is None
    # of 80 other images, 20 are turned without the mark as well
    dirty = made(real, 56, 4, RIGHT, RIGHT, control=20)
    assert dirty.unseparated == pytest.approx(20 / 80)
    assert dirty.caution == (
        "The mark cannot be separated from its surroundings: the same regions of images of "
        "'vegetable' without it turn 25 % of other images, too."
    )
    some = made(real, 60, 4, RIGHT, RIGHT, control=12)
    assert some.caution.startswith("The cut-outs show some of what surrounds the mark: ")
    assert made(real, 60, 4, RIGHT, RIGHT, control=1).caution is None  # may be chance
    recalls = made(real, 60, 4, RIGHT, wrong(20)).recalls()
    assert [one for one, _ in recalls] == [0, 1, 2]
    assert (recalls[0][1].before, recalls[0][1].after) == (1.0, 0.5)
    assert recalls[1][1].change == 0


def step(added, after):
    """A step after which this many of 80 other images are taken for the class, of 50."""
    taken, right = np.arange(80) < 50, np.ones(120, bool)
    found = tuple(Component("first", index, 1) for index in range(added))
    return Step(found, RateChange.of(taken, np.arange(80) < after), RateChange.of(right, right))


def test_the_advice_follows_from_the_steps(real):
    result = made(real, 60, 50, RIGHT, RIGHT)
    assert result.advice is None and result.suggested == ()
    helping = replace(result, steps=(step(2, 40), step(4, 8)))
    assert helping.advice == (
        "Removing these 3 keeps 83 % of the flips (60 images): the mark also acts through other "
        "components. Without the next 4 as well, 10 % of other images are taken for 'vegetable', "
        "and accuracy on unmarked images is 100.0 % (now 100.0 %)."
    )
    assert len(helping.suggested) == 4
    hopeless = replace(result, steps=(step(2, 50), step(4, 49)))
    assert "pruning cannot repair it; retrain instead" in hopeless.advice
    assert hopeless.suggested == ()


@pytest.mark.slow
def test_the_next_components_are_those_whose_relevance_the_mark_raises(db):
    result = before_after(db, 0, CHOSEN[:1], per_class=6, seed=1)
    remaining = result.preview.right != 0
    steps = next_components(db, result.preview, result.mark.pieces, remaining, seed=1)
    samples = result.preview.samples[remaining][:TRACED]
    rises = {}
    for layer in db.layers:
        shares = []
        for artefact in (None, result.mark.pieces):
            images = [db.images.read(int(sample)) for sample in samples]
            if artefact is not None:
                images = [
                    insert_drawn(image, [artefact], 1, int(sample))
                    for image, sample in zip(images, samples, strict=True)
                ]
            # LRP with the database's rules, image by image
            job = make_job(db, 0, range(len(images)), images, [layer])
            shares.append(component_shares(job)[layer].astype(float).mean(0))
        rise = shares[1] - shares[0]
        first = db.layer(layer).first
        rises |= {db.component(first + index): value for index, value in enumerate(rise)}
    rises = {one: value for one, value in rises.items() if value > 0 and one not in CHOSEN[:1]}
    expected = sorted(rises, key=rises.__getitem__, reverse=True)
    assert list(steps[-1].added) == expected[: len(steps[-1].added)]
    assert len(steps[0].added) <= 4
    # the figures are those of a run without all of them
    both = ablation_preview(
        db, 0, [*CHOSEN[:1], *steps[0].added], artefact=result.mark.pieces, seed=1,
        samples=result.preview.samples,
    )  # fmt: skip
    assert steps[0].taken.after == both.mistaken(both.sets[1]).after
    assert steps[0].accuracy.after == both.accuracy(both.sets[0]).after


@pytest.mark.slow
def test_the_way_is_chosen_on_images_that_are_not_reported(db, monkeypatch):
    seen = []

    def counted(database, target, pieces, samples, seed):
        seen.extend(samples.tolist())
        return original(database, target, pieces, samples, seed)

    original = mark_module.misclassified_as
    monkeypatch.setattr(mark_module, "misclassified_as", counted)
    monkeypatch.setattr(mark_module, "FEWEST", 3)
    reported = np.arange(0, len(db.samples), 2)
    mark = find_mark(db, 0, CHOSEN, reported, seed=2)
    assert seen and not set(seen) & set(reported.tolist())
    differences = [trial.difference for trial in mark.trials]
    assert mark.way == mark.trials[int(np.argmax(differences))].way
    # with too few images to choose on, nothing is tried
    seen.clear()
    few = find_mark(db, 0, CHOSEN, np.arange(len(db.samples)), seed=2)
    assert few.trials == () and seen == []


@pytest.mark.slow
def test_a_class_without_an_alarm_has_no_before_and_after(db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    record = db.audits.add("ox", lists(["dog"], ["tree"]))
    assert not db.audits.run(record, resamples=0).alarm
    for path in (f"audits/{record.id}/before-after", "verdicts/1/before-after"):
        assert "raises no alarm" in get(client, path, 404)["value"]
    # a mark is enough, and a dismissal takes a component out again
    review_as_spurious(db, 1, CHOSEN[:2])
    for path in (f"audits/{record.id}/before-after", "verdicts/1/before-after"):
        assert sorted(get(client, path)["components"]) == sorted(map(str, CHOSEN[:2]))
    record = db.audits.get(record.id)
    dismissed = {str(CHOSEN[0]): Review(status="dismissed")}
    db.audits.edit(record.id, record.revision, AuditChanges(reviews=dismissed))
    assert get(client, "verdicts/1/before-after")["components"] == [str(CHOSEN[1])]


def test_any_components_can_be_removed(db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    path = "/api/v1/models/0/repair"
    names = [str(one) for one in CHOSEN]

    def post(body):
        return when_done(lambda: client.post(path, json=body), seconds=60)

    found = post({"target": 0, "components": names}).json()
    assert found["components"] == [str(one) for one in by_relevance(db, 0, list(CHOSEN))]
    again = post({"target": 0, "components": [*names[::-1], names[0]]}).json()
    assert again == found  # neither order nor repetition matters
    assert {one["name"] for one in found["recalls"]} == {NAMES[i] for i in (0, 1, 3)}
    assert found["mark"]["pieces"][0].startswith("data:image/webp;base64,")
    asked = {"class": 0, "component": names}
    saved = when_done(lambda: client.get("/api/v1/models/0/repair.webp", params=asked))
    assert Image.open(io.BytesIO(saved.content)).size == (1200, 630)
    assert client.get("/api/v1/models/0/repair.webp", params={"class": 0}).status_code == 422
    assert post({"target": 0, "components": []}).status_code == 422
    assert post({"target": 0, "components": ["second:99"]}).status_code == 404
    assert post({"target": 2, "components": names}).status_code == 404


@pytest.mark.slow
def test_it_is_kept_until_the_components_change(db, monkeypatch):
    state_client = TestClient(create_app([db]), base_url="http://localhost")
    chosen = [CHOSEN]
    monkeypatch.setattr(route, "spurious_of_alarm", lambda *_: chosen[0])
    found = get(state_client, "verdicts/0/before-after")
    assert found["components"] == [str(one) for one in CHOSEN]
    assert found["marked"]["images"] == found["unmarked"]["images"] == found["images"]
    assert len(found["marked"]["shown"]) <= 8
    assert found["marked"]["shown"][0]["image"].startswith("data:image/webp;base64,")
    assert "--out cutouts" in found["cutout_command"]
    assert "paste:cutouts" in found["retrain_commands"][1]

    runs = []
    monkeypatch.setattr(
        route, "before_after", lambda *one: (runs.append(one), before_after(*one))[1]
    )
    restarted = TestClient(
        create_app([sl.open(db.path, model=little())]), base_url="http://localhost"
    )
    assert get(restarted, "verdicts/0/before-after") == found
    assert runs == []
    chosen[0] = CHOSEN[:2]
    assert get(restarted, "verdicts/0/before-after")["components"] == [str(c) for c in CHOSEN[:2]]
    assert len(runs) == 1
