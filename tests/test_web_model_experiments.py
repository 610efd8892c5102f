"""The audit of all classes, and trials of the model, against the analysis called directly."""

from __future__ import annotations

import base64
import io
import shlex

import numpy as np
import pytest
import torch
from conftest import LittleNet, WordEmbedder, to_tensor, when_done, write_pictures
from fastapi.testclient import TestClient
from PIL import Image

import semlens as sl
from semlens.analysis.accuracy import LabelledImages, evaluate_model
from semlens.analysis.audit.model_test import model_test
from semlens.analysis.audit.sweep import audit_all
from semlens.analysis.concepts import Concept, ConceptSet
from semlens.analysis.correct.ablation_preview import preview_samples
from semlens.analysis.correct.artefact_sensitivity import ALL, accuracies, with_artefacts
from semlens.data.artefact import Hue, Patch, WithArtefact
from semlens.data.image_folder import ImageFolder
from semlens.models.subject import SubjectModel
from semlens.types import Component
from semlens.web.app import create_app

NAMES = ["vegetable", "ox", "zebra", "clock"]
CHOSEN = ["first:1", "second:0", "second:3"]


def little():
    # untrained, it would call every image the same: its logits are made to differ
    net = LittleNet()
    generator = torch.Generator().manual_seed(0)
    flat = (2 * torch.rand(64, 3, 1, 1, generator=generator) - 1).expand(64, 3, 32, 32)
    with torch.no_grad():
        logits = net(flat)
        net.head.bias -= logits.mean(0)
        net.head.weight /= logits.std(0)[:, None]
        net.head.bias /= logits.std(0)
    return SubjectModel(net, to_tensor, "32 bilinear", "python:little", NAMES)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trials")
    images = ImageFolder(write_pictures(folder / "images", 24))
    targets = [["vegetable", "ox", "clock"][i % 3] for i in range(len(images))]
    return sl.build(
        folder / "db", little(), images, WordEmbedder(), ["first", "second"], examples=4,
        crop="activation", relevance=True, targets=targets,
    )  # fmt: skip


@pytest.fixture
def db(built):
    folder = built.path / "analysis" / "audits"
    for file in folder.glob("*") if folder.is_dir() else ():
        file.unlink()
    return sl.open(built.path, model=little(), embedder=WordEmbedder())


@pytest.fixture
def client(db):
    return TestClient(create_app([db]), base_url="http://localhost")


def fetch(client, path, body=None, status=200, **params):
    """Ask until the work is done, as the page does."""
    method, path = "GET" if body is None else "POST", f"/api/v1/models/0/{path}"
    answer = when_done(lambda: client.request(method, path, json=body, params=params))
    assert answer.status_code == status, answer.text
    return answer.json()


def assert_error(error, *parts):
    text = f"{error['value']} {error['expected']} {error['remedy']}"
    for part in parts:
        assert part in text


def lists(valid, spurious, name, target):
    made = [Concept(one, (), "valid") for one in valid]
    made += [Concept(one, (), "spurious") for one in spurious]
    return ConceptSet(tuple(made), name, target=target)


# -- the sweep --------------------------------------------------------------------------------


def test_the_sweep_is_audit_all(client, db):
    """A saved audit's lists where there is one; else the bundled sets and the artefacts."""
    db.audits.add("clock", lists(["dog"], ["tree"], "older", None))
    latest = db.audits.add("clock", lists(["dog", "sea"], ["stone"], "mine", None))
    db.audits.add("vegetable", lists([], [], "empty", None))
    found = fetch(client, "sweep")
    vegetable = ConceptSet.load("demo-world/vegetable")
    marked = (*vegetable.concepts, *ConceptSet.load("artefacts").concepts)
    sets = [lists(["dog", "sea"], ["stone"], "mine", "clock"), ConceptSet.load("paper-ox")]
    sets += [ConceptSet(marked, "vegetable", "", vegetable.templates, "vegetable")]
    expected = audit_all(db, sets)
    by_name = {one["name"]: one for one in found["classes"]}
    assert set(by_name) == {"vegetable", "ox", "clock"}
    assert by_name["clock"]["audit"] == latest.id
    assert by_name["clock"]["sets"] == []
    assert by_name["vegetable"]["audit"] is None
    assert by_name["vegetable"]["sets"] == ["demo-world/vegetable", "artefacts"]
    assert by_name["ox"]["sets"] == ["paper-ox"]  # which names what is spurious itself
    for name in by_name:
        row = expected.frame.set_index("class").loc[name]
        for key in ("valid", "both", "spurious", "unexpected", "p_value"):
            assert by_name[name][key] == pytest.approx(row[key], abs=1e-12), (name, key)
        assert by_name[name]["alarm"] == bool(row["alarm"])
        assert by_name[name]["components"] == row["components"]
        assert by_name[name]["target"] == NAMES.index(name)
    assert [one["p_value"] for one in found["classes"]] == sorted(
        one["p_value"] for one in found["classes"]
    )
    assert found["without_concepts"] == 0


def test_a_row_of_the_sweep_is_the_audit_that_it_begins(client, db):
    row = next(one for one in fetch(client, "sweep")["classes"] if one["name"] == "vegetable")
    body = {"target": row["target"], "from_sets": row["sets"]}
    begun = fetch(client, "audits", body, 201)
    found = fetch(client, f"audits/{begun['id']}/result")
    shares = {
        one["verdict"]: one["by_relevance"] for one in found["shares"] if one["layer"] == "all"
    }
    for verdict, share in shares.items():
        assert row[verdict] == pytest.approx(share, abs=1e-12)
    assert row["p_value"] == found["p_value"]
    # and from now on it is that audit
    row = next(one for one in fetch(client, "sweep")["classes"] if one["name"] == "vegetable")
    assert row["audit"] == begun["id"]


def test_a_list_that_is_too_long_costs_one_class_only(client, db):
    texts = [f"word {i}" for i in range(60)]
    db.audits.add("clock", lists(texts, ["tree"], "long", None))
    found = fetch(client, "sweep")
    assert {one["name"] for one in found["classes"]} == {"vegetable", "ox"}
    assert list(found["skipped"]) == ["clock"]
    assert "too small for a set of 60" in found["skipped"]["clock"]
    assert_error(fetch(client, "sweep", status=400, sets=["audit:1"]), "too small for a set of 60")


def test_named_sets_are_for_their_classes(client, db):
    found = fetch(client, "sweep", sets=["demo-world", "artefacts"])
    sets = [ConceptSet.load("demo-world/vegetable"), ConceptSet.load("demo-world/clock")]
    expected = audit_all(db, [*sets, ConceptSet.load("artefacts")]).frame.set_index("class")
    assert {one["name"] for one in found["classes"]} == {"vegetable", "clock"}
    for one in found["classes"]:
        assert one["spurious"] == pytest.approx(expected.loc[one["name"], "spurious"], abs=1e-12)
    assert "aircraft" in found["skipped"]
    assert found["without_concepts"] == 1
    everywhere = fetch(client, "sweep", sets=["artefacts"])
    assert {one["name"] for one in everywhere["classes"]} == {"vegetable", "ox", "clock"}


@pytest.mark.parametrize("name", ["paper-oks", "/etc/passwd", "audit:7", "."])
def test_the_sweep_names_no_files(client, name):
    answer = client.get("/api/v1/models/0/sweep", params={"sets": [name]})
    assert 400 <= answer.status_code < 500
    assert_error(answer.json(), name.removeprefix("audit:"))


def test_without_relevance_the_sweep_says_so(tmp_path):
    images = ImageFolder(write_pictures(tmp_path / "images", 6))
    made = sl.build(tmp_path / "db", little(), images, WordEmbedder(), ["first"], examples=2)
    plain = TestClient(create_app([made]), base_url="http://localhost")
    assert_error(fetch(plain, "sweep", status=400), "relevance")


# -- without components -----------------------------------------------------------------------


def test_a_trial_is_evaluate_with_and_without(client, db, built):
    subject, images = little(), db.images
    components = [Component.parse(name) for name in CHOSEN]
    body = {"target": 1, "components": CHOSEN, "artefact": {"kind": "patch", "strength": 0.5}}
    found = fetch(client, "experiments/ablation", {**body, "per_class": 5, "at_most": 12})
    logits = [NAMES.index(["vegetable", "ox", "clock"][i % 3]) for i in range(24)]
    samples, right = preview_samples(db, 1, 5, 12)
    assert found["images"] == len(samples) == 12
    assert found["classes"] == 3
    assert right.tolist() == [logits[i] for i in samples]
    marked = WithArtefact(images, Patch(size=0.5))
    for one, source in zip(found["sets"], (images, marked), strict=True):
        before = evaluate_model(subject, source, logits, samples.tolist())
        with sl.pruned(subject, components):
            after = evaluate_model(subject, source, logits, samples.tolist())
        assert one["accuracy"]["before"] == before.accuracy
        assert one["accuracy"]["after"] == after.accuracy
        mine = before.targets == 1
        assert one["recall"]["before"] == (before.predictions[mine] == 1).mean()
        assert one["recall"]["after"] == (after.predictions[mine] == 1).mean()
        assert one["recall"]["images"] == 5
        assert one["false_positive_rate"]["before"] == (before.predictions[~mine] == 1).mean()
        assert one["false_positive_rate"]["after"] == (after.predictions[~mine] == 1).mean()
        differ = np.flatnonzero(before.predictions != after.predictions)
        assert one["changed"] == len(differ)
        assert {shown["sample"] for shown in one["examples"]} <= set(samples[differ].tolist())
        assert len(one["examples"]) == min(12, len(differ))
        hit, was = after.predictions == after.targets, before.predictions == before.targets
        assert (one["fixed"], one["broken"]) == ((hit & ~was).sum(), (was & ~hit).sum())
    clean = {"clean": LabelledImages.of(images, subject, logits, samples.tolist())}
    table = accuracies(
        {"vanilla": subject}, with_artefacts(clean, [Patch(size=0.5)]), prune=components
    ).frame.query("`class` == @ALL")  # fmt: skip
    assert table["accuracy"].tolist() == [
        one["accuracy"][when] for when in ("before", "after") for one in found["sets"]
    ]
    assert ALL == "all"


def test_what_has_changed_is_shown_as_the_model_saw_it(client, db):
    body = {"target": 1, "components": [f"second:{i}" for i in range(4)]}
    body["artefact"] = {"kind": "hue", "colour": "#ff0000", "strength": 0.9}
    found = fetch(client, "experiments/ablation", body)
    clean, red = found["sets"]
    assert clean["examples"], "nothing has changed: the test would show nothing"
    for one, tinted in ((clean, False), (red, True)):
        for shown in one["examples"]:
            kind, _, data = shown["image"].partition(",")
            assert kind == "data:image/webp;base64"
            picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
            assert (picture[..., 0].min() > 200) == tinted
            assert shown["before"] != shown["after"]
            assert shown["path"] == db.sample(shown["sample"]).path


def test_the_trial_writes_nothing_and_says_how_to(client, db, built):
    before = sorted(path for path in built.path.rglob("*") if path.is_file())
    found = fetch(client, "experiments/ablation", {"target": 1, "components": CHOSEN})
    assert sorted(path for path in built.path.rglob("*") if path.is_file()) == before
    words = shlex.split(found["prune_command"])
    assert words[:3] == ["semlens", "prune", str(built.path)]
    assert words[3:6] == CHOSEN
    assert words[6:] == ["--out", "pruned.safetensors"]
    assert [shlex.split(one)[1] for one in found["retrain_commands"]] == ["affected", "retrain"]


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


@pytest.mark.parametrize(
    ("change", "status", "parts"),
    [
        ({"components": []}, 404, ["No component is given"]),
        ({"components": ["third:1"]}, 404, ["third"]),
        ({"components": ["first:99"]}, 404, ["99"]),
        ({"components": ["nonsense"]}, 404, ["nonsense", "LAYER:INDEX"]),
        ({"target": 2}, 400, ["zebra", "no samples"]),
        ({"target": -1}, 422, ["target"]),
        ({"per_class": 0}, 422, ["per_class"]),
        ({"at_most": 10_000}, 422, ["at_most"]),
        ({"seed": -1}, 422, ["seed"]),
        ({"artefact": {"kind": "paste", "path": "/etc"}}, 422, ["artefact"]),
        ({"artefact": {"kind": "text", "words": "x", "font": "/etc/passwd"}}, 422, ["font"]),
        ({"artefact": {"kind": "text", "words": "  "}}, 400, ["words"]),
        ({"artefact": {"kind": "hue", "colour": "no colour"}}, 400, ["no colour"]),
        ({"artefact": {"kind": "patch", "strength": 7}}, 400, ["7"]),
    ],
)
def test_bad_trials_are_refused(client, change, status, parts):
    body = {"target": 1, "components": CHOSEN, **change}
    assert_error(fetch(client, "experiments/ablation", body, status), *parts)


# -- against artefacts ------------------------------------------------------------------------


def test_the_test_is_model_test(client, db):
    artefacts = [{"kind": "hue", "strength": 0.6}, {"kind": "patch", "colour": "blue"}]
    body = {"target": 1, "artefacts": artefacts, "count": 7, "seed": 3}
    found = fetch(client, "experiments/model-test", body)
    expected = model_test(
        db, 1, count=7, seed=3,
        artefacts=[Hue(opacity=0.6), Patch(colour=(0, 0, 255))],
    )  # fmt: skip
    assert found["name"] == "ox"
    assert found["real"]["logits"] == pytest.approx(expected.real.logit.tolist())
    assert [one["name"] for one in found["sets"]] == ["hue", "patch", "all artefacts"]
    for one, other in zip(found["sets"], expected.sets, strict=True):
        assert one["auroc"] == other.auroc
        assert tuple(one["interval"]) == other.interval
        assert one["auroc_without"] == other.auroc_without
        assert one["scores"]["top1"] == other.outputs.top(1)
        assert one["scores"]["logits"] == pytest.approx(other.outputs.logit.tolist())
        assert one["without"]["images"] == 7


@pytest.mark.parametrize(
    ("change", "status", "parts"),
    [
        ({"artefacts": []}, 422, ["artefacts"]),
        ({"artefacts": [{"kind": "paste"}]}, 422, ["kind"]),
        ({"artefacts": [{"kind": "text"}]}, 400, ["words"]),
        ({"target": 2}, 400, ["zebra", "no samples"]),
        ({"count": 5000}, 422, ["count"]),
    ],
)
def test_bad_tests_are_refused(client, change, status, parts):
    body = {"target": 1, "artefacts": [{"kind": "hue"}], **change}
    assert_error(fetch(client, "experiments/model-test", body, status), *parts)


def test_without_the_model_it_says_how_to_serve_it(db):
    bare = sl.open(db.path, embedder=WordEmbedder())
    nobody = TestClient(create_app([bare]), base_url="http://localhost")
    for path, body in (
        ("experiments/ablation", {"target": 1, "components": CHOSEN}),
        ("experiments/model-test", {"target": 1, "artefacts": [{"kind": "hue"}]}),
    ):
        assert_error(
            fetch(nobody, path, body, 400), "python:little", f"serve {db.path} --model SPEC"
        )


def test_without_the_images_it_says_so(db):
    gone = sl.open(db.path, model=little(), images=str(db.path / "no-such-folder"))
    client = TestClient(create_app([gone]), base_url="http://localhost")
    assert_error(
        fetch(client, "experiments/ablation", {"target": 1, "components": CHOSEN}, 400),
        "no-such-folder",
    )


def test_the_report_has_the_graph_and_the_last_test_of_the_model(client, db):
    made = db.audits.add("ox", lists(["dog"], ["tree"], "mine", None))

    def report():
        path = f"/api/v1/models/0/audits/{made.id}/report.html"
        return when_done(lambda: client.get(path)).text

    before = report()
    assert "No model test was requested" in before
    assert "lines the relevance that flows between them" in before
    fetch(
        client,
        "experiments/model-test",
        {"target": 1, "artefacts": [{"kind": "stripes"}], "count": 6},
    )
    after = report()
    assert "No model test was requested" not in after
    assert "stripes" in after
