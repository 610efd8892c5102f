"""The planted truth, end to end: what `semlens demo` prints must be so."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import when_done
from fastapi.testclient import TestClient
from PIL import Image
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.demo.bundled_images import DemoWorld
from semlens.lenses.statistics.intervals import auroc
from semlens.models.forward import logits, readouts
from semlens.web.app import API, create_app


def test_the_object_has_what_it_promises(demo_run):
    folder, printed = demo_run
    assert Path(printed["database"]) == (folder / "demo.semlens").resolve()
    assert Path(printed["page"]).is_file()
    assert printed["target"] == "vegetable"
    assert printed["seconds"] > 0
    assert {"clean", "watermarked", "pruned_clean", "pruned_watermarked"} <= set(
        printed["accuracy"]
    )


def test_a_planted_component_is_found_and_pruning_helps(demo_run):
    _, printed = demo_run
    assert printed["planted_rank"] <= 3
    accuracy = printed["accuracy"]
    assert accuracy["watermarked"] < accuracy["clean"] - 0.1
    assert accuracy["pruned_watermarked"] > accuracy["watermarked"] + 0.1
    assert accuracy["pruned_clean"] > accuracy["clean"] - 0.15
    called = accuracy["called_target"]
    assert called["watermarked"] > called["clean"] + 0.1


def test_borders_find_the_planted_class_and_no_other(demo_run):
    _, printed = demo_run
    assert printed["border_swap"]["detected"] == ["vegetable"]
    assert printed["border_swap"]["adjusted"] < 0.05


def test_planted_components_and_accuracy_against_plain_code(demo_run):
    """Without the story's code: pixels, the bare module, a loop."""
    folder, printed = demo_run
    world = DemoWorld()
    model = sl.load_model("semlens/demo")
    marked, clean = world.images("test", "marked"), world.images("test", "clean")
    kept = {}
    handle = model.module.layer3.register_forward_hook(lambda _, __, out: kept.update(x=out))
    values, answers = {}, {}
    for name, images in (("marked", marked), ("clean", clean)):
        batch = torch.stack([model.preprocess(images.read(i)) for i in range(len(images))])
        with torch.no_grad():
            answers[name] = model.module.eval()(batch).argmax(1).numpy()
        values[name] = kept["x"].mean((2, 3)).double().numpy()
    handle.remove()
    areas = auroc(values["marked"], values["clean"])
    planted = {f"layer3:{k}" for k in np.flatnonzero(areas >= 0.9)}
    assert planted == {name for name in printed["planted"] if name.startswith("layer3")}
    truth = np.array([world.classes.index(name) for name in clean.targets])
    assert printed["accuracy"]["clean"] == pytest.approx((answers["clean"] == truth).mean())
    assert printed["accuracy"]["watermarked"] == pytest.approx((answers["marked"] == truth).mean())


def test_the_database_equals_a_full_sort_of_all_readouts(demo_run):
    folder, _ = demo_run
    images = sl.ImageFolder(folder / "images")
    found = readouts(sl.load_model("semlens/demo"), images.read, range(len(images)), ["layer2"])
    components = pd.read_parquet(folder / "demo.semlens" / "components.parquet")
    frame = pd.read_parquet(folder / "demo.semlens" / "examples" / "layer2.parquet")
    for row in components.index[components["layer"] == "layer2"]:
        values = found["layer2"][:, components["index"][row]]
        best = np.sort(values)[::-1][:30]
        mine = frame[frame["component"] == row].sort_values("rank")
        np.testing.assert_allclose(mine["activation"], best, atol=1e-5)
        np.testing.assert_allclose(values[mine["sample"]], best, atol=1e-5)


def test_the_images_on_disk_are_the_world_as_it_is(demo_run):
    folder, _ = demo_run
    world = DemoWorld()
    marked = [p for p in world.pictures if p.marked]
    share = len(marked) / sum(p.target == world.target for p in world.pictures)
    assert {p.target for p in marked} == {world.target}
    assert share == pytest.approx(world.marked_share, abs=0.02)
    for picture in (marked[0], world.pictures[0]):
        path = folder / "images" / Path(picture.path).relative_to("images")
        np.testing.assert_array_equal(
            np.asarray(Image.open(path).convert("RGB")), np.asarray(world.image(picture))
        )
    with_mark, without = (np.asarray(world.image(marked[0], v)) for v in ("marked", "clean"))
    changed = (with_mark != without).any(2).mean()
    assert 0.01 < changed < 0.5


def test_pruning_is_undone_and_only_touches_the_components(demo_run):
    model = sl.load_model("semlens/demo")
    images = DemoWorld().images("test", "clean")
    before = logits(model, images.read, range(40))
    with sl.pruned(model, [sl.Component("layer3", 5)]):
        during = logits(model, images.read, range(40))
        values = readouts(model, images.read, range(40), ["layer3"])["layer3"]
    head = model.module.fc.weight[:, 5].detach().numpy()
    without = readouts(model, images.read, range(40), ["layer3"])["layer3"][:, 5]
    np.testing.assert_allclose(before - during, without[:, None] * head, atol=1e-4)
    assert values.shape == (40, 128)
    np.testing.assert_array_equal(before, logits(model, images.read, range(40)))


def test_the_page_and_notebook_views_hold_pictures_and_nothing_from_elsewhere(demo_run):
    folder, printed = demo_run
    page = (folder / "index.html").read_text()
    assert page.count("data:image/webp") > 100
    assert "http://" not in page
    assert "https://" not in page
    assert f"rank {printed['planted_rank']}" in page
    db = sl.open(folder / "demo.semlens")
    assert db._repr_html_().count("<img") > 10
    hits = db.search("watermark", top=3)
    assert hits._repr_html_().count("<img") > 20
    assert hits.plot().size[1] > 300
    assert db.label(layers=["layer2"])._repr_html_().count("<img") > 50
    assert repr(db).startswith("ConceptDatabase")


def test_search_finds_what_the_pictures_show(demo_run):
    """Not the planted one: classes of the world, found by name among all components."""
    folder, _ = demo_run
    db = sl.open(folder / "demo.semlens")
    targets = db.samples["target"].to_numpy()
    agree = []
    for name in ("clock", "smiling face", "drink", "fruit"):
        best = db.search(name, top=1, layers=["layer3"])[0]
        shown = targets[[e.sample for e in db.examples_of(best.row)]]
        agree.append((shown == name).mean())
    assert np.mean(agree) > 0.4  # one in twelve by chance


def test_the_corrected_model_has_a_database_to_compare_with(demo_run):
    folder, printed = demo_run
    before, after = sl.open(folder / "demo.semlens"), sl.open(printed["corrected"])
    assert after.manifest.model.fingerprint != before.manifest.model.fingerprint
    assert after.manifest.embedder.fingerprint == before.manifest.embedder.fingerprint
    # the file alone is the pruned model, as hooks prune it
    images, some = sl.ImageFolder(folder / "images"), range(0, 2280, 200)
    with sl.pruned(before.model, list(printed["planted"])):
        expected = logits(before.model, images.read, some)
    np.testing.assert_allclose(logits(after.model, images.read, some), expected, atol=1e-4)
    client = TestClient(create_app([before.path, after.path]), base_url="http://127.0.0.1")
    with client:
        ask = functools.partial(client.get, f"{API}/compare", params={"a": 0, "b": 1})
        compared = when_done(ask)
    assert compared.status_code == 200
    assert 100 < compared.json()["matched"] <= 192


def test_the_first_page_has_its_answer_at_once(demo_run, monkeypatch):
    """The audit of all classes and the suggested searches are read, not computed."""
    folder, _ = demo_run

    def refuse(*_, **__):
        raise AssertionError("a class is audited again")

    monkeypatch.setattr("semlens.lenses.audit.verdicts.audit_class", refuse)
    with TestClient(create_app([folder / "demo.semlens"]), base_url="http://127.0.0.1") as client:
        swept = when_done(functools.partial(client.get, f"{API}/models/0/sweep"))
    assert [one["name"] for one in swept.json()["classes"]][0] == "vegetable"
    assert len(swept.json()["classes"]) == 12


def test_the_second_run_uses_what_the_first_one_made(demo_run):
    folder, printed = demo_run
    before = (folder / "demo.semlens" / "manifest.json").stat().st_mtime_ns
    ended = CliRunner().invoke(app, ["demo", "--out", str(folder)], env={"COLUMNS": "120"})
    assert ended.exit_code == 0
    assert (folder / "demo.semlens" / "manifest.json").stat().st_mtime_ns == before
    assert "How interpretable" in ended.stdout
    assert f"at rank {printed['planted_rank']}" in " ".join(ended.stdout.split())
