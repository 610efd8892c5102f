"""The static site: what it holds is what the server answers, and it opens from disk."""

from __future__ import annotations

import base64
import json
import re
import shutil
from urllib.parse import unquote

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor, write_pictures
from fastapi.testclient import TestClient
from safetensors.torch import load
from typer.testing import CliRunner
from web_browser import settle

import semlens as sl
from semlens.cli.app import app as cli
from semlens.data.image_folder import ImageFolder
from semlens.errors import RelevanceError, ServeError
from semlens.lenses.describe.overview import notable_rows
from semlens.models.subject import SubjectModel
from semlens.progress import progress_listener
from semlens.web.app import create_app
from semlens.web.export_recorder import file_name, quote_component, request_path
from semlens.web.static_export import _find_classes, export_site, private_folders


def little(path, pictures, embedder):
    subject = SubjectModel(
        LittleNet().eval(), to_tensor, "32 bilinear", "python:little", list("abcd")
    )
    return sl.build(
        path, subject, ImageFolder(pictures), embedder, ["first", "second"],
        examples=5, relevance=True, targets=["a" if i % 2 else "b" for i in range(24)],
    )  # fmt: skip


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    return little(folder / "little.semlens", write_pictures(folder / "images", 24), WordEmbedder())


@pytest.fixture(scope="module")
def site(db, tmp_path_factory):
    seen = []
    folder = tmp_path_factory.mktemp("out") / "site"
    with progress_listener(lambda _, *told: seen.append(told)):
        made = export_site([db], folder, cards=7)
    assert seen[-1][0] == seen[-1][1]
    return made


def answers(site):
    """All answers of a site by their path, as its page would read them."""
    found = {}
    for path in sorted((site.folder / "data").glob("responses-*.js")):
        text = path.read_text("utf-8")
        found |= json.loads(re.fullmatch(r"semlensDeliver\((.*)\);\n", text, re.S)[1])
    return found


def header_and_data(content):
    """Header and data of safetensors; the order of its metadata differs each time."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


@pytest.mark.slow
def test_each_recorded_answer_is_the_servers(site, db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    found = answers(site)
    index = (site.folder / "data/index.js").read_text("utf-8")
    index = json.loads(re.fullmatch(r"window\.semlensExport=(.*);\n", index, re.S)[1])
    assert set(index["files"]) == set(found)
    assert len(found) > 60
    for path, recorded in found.items():
        answer = client.get(f"/api/v1/{path}")
        while answer.status_code == 202:
            answer = client.get(f"/api/v1/{path}")
        assert answer.status_code == 200, path
        if isinstance(recorded, str) and "/overview" not in path:
            assert header_and_data(base64.b64decode(recorded)) == header_and_data(answer.content), (
                path
            )
        else:
            now = json.loads(answer.text.replace(f"{db.path.parent}/", ""))
            if path.endswith("/places"):
                now["reused"] = recorded["reused"]  # by now the map is a kept one
            assert recorded == now, path
    tensors = load(base64.b64decode(found["models/0/map"]))
    assert sorted(tensors["row"].tolist()) == list(np.flatnonzero(db.has_examples))


def test_it_does_not_say_where_this_machine_keeps_its_files(site, db):
    client = TestClient(create_app([db]), base_url="http://localhost")
    assert str(db.path) in client.get("/api/v1/models/0/overview").text
    folders = [str(folder) for folder in private_folders([db])]
    assert str(db.path.parent) in folders
    for path in (site.folder / "data").rglob("*.*"):
        if path.suffix in {".js", ".html", ".csv", ".toml"}:
            assert not any(folder in path.read_text("utf-8") for folder in folders), path


def test_components_that_were_named_get_a_card(db, tmp_path):
    lowest = [db.component(int(row)) for row in np.flatnonzero(db.has_examples)[-3:]]
    site = export_site([db], tmp_path / "site", cards=1, components=lowest)
    assert {f"models/0/components/{quote_component(one)}" for one in lowest} <= set(answers(site))


@pytest.mark.slow
def test_cards_are_those_of_the_most_relevant_components(site, db):
    cards = [path for path in answers(site) if re.fullmatch(r"models/0/components/[^/]+", path)]
    rows = set()
    for path in cards:
        rows.add(db.row(sl.Component.parse(unquote(path.rpartition("/")[2]))))
    best = {row: 0.0 for row in np.flatnonzero(db.has_examples)}
    for record in db.relevance().to_dict("records"):
        if record["component"] in best:
            best[record["component"]] = max(best[record["component"]], abs(record["mean"]))
    expected = sorted(best, key=lambda row: (-best[row], row))[:7]
    assert rows >= set(expected) == set(notable_rows(db, 7))
    assert site.cards == len(rows)  # and those that the overview shows
    assert site.components == db.manifest.rows
    for path in cards:
        strip = site.folder / "data" / file_name(f"{path}/strip.webp?count=8")
        assert strip.read_bytes()[8:12] == b"WEBP"
        crops = {crop.name for crop in (strip.parent / "crops").iterdir()}
        count = len(answers(site)[path]["examples"])
        assert crops == {f"{place}-view-crop.webp" for place in range(count)}


def test_without_relevance_the_clearest_are_shown(db, tmp_path):
    bare = shutil.copytree(db.path, tmp_path / "bare.semlens")
    manifest = json.loads((bare / "manifest.json").read_text())
    manifest["relevance"] = None
    (bare / "manifest.json").write_text(json.dumps(manifest))
    opened = sl.open(bare, embedder=WordEmbedder())
    clear = opened.scores().frame["clarity"].to_numpy(float)
    alive = np.flatnonzero(opened.has_examples)
    expected = sorted(alive, key=lambda row: (-np.nan_to_num(clear[row], nan=-1), row))[:5]
    assert set(notable_rows(opened, 5)) == set(expected)
    assert list(notable_rows(opened, 10_000)) == list(alive)


def test_addresses_and_files_are_those_of_the_page():
    assert request_path("compare", b=1, a=0) == "compare?a=0&b=1"
    assert request_path("models") == "models"
    assert file_name("models/0/strip.webp?count=8") == "models/0/strip-count-8.webp"
    assert file_name("a/report.html") == "a/report.html"


@pytest.mark.slow
def test_another_folder_is_left_alone_and_an_export_is_replaced(db, site, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ServeError) as caught:
        export_site([db], tmp_path, cards=1)
    assert_says(caught.value, str(tmp_path), "empty folder", "another folder")
    assert (tmp_path / "mine.txt").read_text() == "precious"
    old = shutil.copytree(site.folder, tmp_path / "old")
    again = export_site([db], old, cards=1)
    assert 1 <= again.cards <= site.cards
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize("place", [".", "file", "file/below"])
def test_a_place_where_no_folder_can_be_is_refused(db, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if place != ".":
        (tmp_path / "file").write_text("precious")
    with pytest.raises(ServeError) as caught:
        export_site([db], place, cards=0)
    assert_says(
        caught.value, str(tmp_path), "Expected", "folder" if place == "." else "Choose another"
    )
    assert [path.name for path in tmp_path.iterdir()] == (["file"] if place != "." else [])


def test_a_class_of_a_graph_is_found_in_each_database_by_its_name(db, tmp_path):
    other = shutil.copytree(db.path, tmp_path / "other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["classes"] = ["x", "y", "b", "a"]
    (other / "manifest.json").write_text(json.dumps(manifest))
    both = [db, sl.open(other, embedder=WordEmbedder())]
    assert _find_classes(both, ["a", "c", 1]) == [[0, 2, 1], [3, 1]]
    with pytest.raises(RelevanceError) as caught:
        _find_classes(both, ["unicorn"])
    assert_says(caught.value, "'unicorn'", "Expected", "Choose")


@pytest.mark.slow
def test_on_the_command_line(tmp_path):
    copy = tmp_path / "little.semlens"
    little(copy, write_pictures(tmp_path / "images", 24), sl.load_embedder("semlens/demo"))
    words = ["db", "export", str(copy), "--out", str(tmp_path / "site"), "--cards", "3", "--json"]
    ended = CliRunner().invoke(cli, words)
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert told["cards"] >= 3
    assert told["bytes"] > 100_000
    assert told["left_out"] == {}
    wrong = CliRunner().invoke(cli, ["db", "export", str(copy), "--graph", "unicorn"])
    assert wrong.exit_code == 1
    assert "unicorn" in wrong.output


@pytest.mark.slow
def test_several_models_have_a_page_that_lists_them(db, tmp_path):
    other = little(
        tmp_path / "<i>other.semlens",
        write_pictures(tmp_path / "images", 24, seed=1),
        WordEmbedder(),
    )
    site = export_site([db, other], tmp_path / "site", cards=2)
    page = (site.folder / "models.html").read_text("utf-8")
    links = set(re.findall(r'href="index\.html#/m/([^"/]+)/overview"', page))
    models = answers(site)["models"]
    names = [model["name"] for model in models]
    assert {unquote(link) for link in links} == set(names)
    assert len(names) == 2
    assert page.count("24 images") == 2
    assert page.count("data:image/webp") >= 2
    assert "<i>" not in page
    assert str(tmp_path) not in page
    assert str(db.path.parent) not in page


@pytest.mark.timeout(900)
def test_it_opens_from_disk(seen_demo, tmp_path, page_at):
    copy = shutil.copytree(seen_demo, tmp_path / "demo.semlens")
    letters = [hit.component for hit in sl.open(copy).search("letter", top=5).hits]
    site = export_site([copy], tmp_path / "site", cards=10, components=letters, crops=5)
    home = (site.folder / "index.html").as_uri()
    page = page_at(f"{home}#/m/demo/search?q=letter")
    page.get_by_text("read-only copy of the page").first.wait_for()
    page.locator("main a", has_text=re.compile(r"layer\d:\d+")).first.click()
    card = page.locator("aside")
    card.get_by_text("strongest examples").wait_for()
    crop = card.locator("img").first
    crop.wait_for()
    assert crop.evaluate("image => image.decode().then(() => image.naturalWidth > 0)")
    page.goto(f"{home}#/m/demo/map")
    settle(page)
    page.locator("main canvas").first.wait_for()
    page.goto(f"{home}#/m/demo/components?sort=clarity&order=down")
    settle(page)
    clear = sl.open(copy).scores().frame["clarity"]
    first = page.locator("tbody tr a").first.inner_text()
    assert first.split()[-1] == str(sl.open(copy).component(int(clear.idxmax())))
    page.goto(f"{home}#/m/demo/explain?sample=0")  # needs a server, and is not offered
    page.get_by_text("This copy of the page has no server").wait_for()
    assert page.get_by_role("navigation").get_by_role("link", name="Explain").count() == 0
