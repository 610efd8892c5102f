"""Search over HTTP: what the analysis finds, by words, image, components and number."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, encoded, to_tensor, when_done
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import ServeError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.search.label_search import search_labels
from semlens.lenses.search.query import Query, make_query
from semlens.lenses.search.search import alignments
from semlens.models.subject import SubjectModel
from semlens.web.app import create_app
from semlens.web.app_state import QueryCache

LAYERS = ["first", "second"]
RED = Image.new("RGB", (40, 30), (220, 20, 20))


@pytest.fixture(scope="module")
def databases(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("search")
    module = LittleNet()
    module.first[0].weight.data[2] = 0  # one component without examples
    module.first[0].bias.data[2] = -1
    subject = SubjectModel(module, to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    words = sl.build(folder / "words", subject, images, WordEmbedder(), LAYERS, examples=6)
    labels = words.label(ConceptSet.of(["dog", "green frog", "car"]), threshold=-2.0)
    labels.save_to_database("mine")
    colours = sl.build(folder / "colours", subject, images, ColourEmbedder(3), LAYERS, examples=6)
    # labels of the same components, made elsewhere
    replace(labels, database=colours).save_to_database("other")
    bare = folder / "bare"
    shutil.copytree(colours.path, bare)
    shutil.rmtree(bare / "analysis")
    return [words, colours, sl.open(bare, embedder=ColourEmbedder(3))]


@pytest.fixture(scope="module")
def app(databases):
    return create_app(databases)


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.fixture
def fetch(client):
    def request(path, method="GET", model=0, status=200, **options):
        answer = when_done(
            lambda: client.request(method, f"/api/v1/models/{model}/{path}", **options)
        )
        assert answer.status_code == status, answer.text
        kind = answer.headers["content-type"]
        return answer.json() if kind == "application/json" else load(answer.content)

    return request


def same(answer, hits, db):
    assert answer["mode"] == "vector"
    assert answer["notice"] is None
    assert answer["query"] == hits.query
    assert answer["searched"] == hits.searched
    assert answer["scale"] == hits.scale
    assert len(answer["hits"]) == len(hits)
    for found, hit in zip(answer["hits"], hits.hits, strict=True):
        assert (found["rank"], found["row"], found["component"]) == (
            hit.rank, hit.row, str(hit.component),
        )  # fmt: skip
        for name in ("alignment", "cosine", "noise"):
            assert found[name] == pytest.approx(getattr(hit, name), abs=1e-6)


@pytest.mark.slow
def test_words(fetch, databases):
    db = databases[0]
    same(fetch("search?q=dog&k=7"), db.search("dog", top=7), db)
    answer = fetch("search?q=dog&q=green frog&without=car&without=tree&layer=second&k=200")
    hits = db.search("dog", "green frog", without=["car", "tree"], layers=["second"], top=200)
    same(answer, hits, db)
    assert answer["cursor"] is None
    assert answer["query_id"] is None


@pytest.mark.slow
def test_without_a_comparison_hits_are_ranked_by_alignment(fetch, databases):
    db = databases[0]
    answer = fetch("search?q=dog&k=200&compare=false")
    values = alignments(db, make_query(db, "dog"))
    order = np.argsort(-values[~np.isnan(values)], kind="stable")
    rows = np.flatnonzero(~np.isnan(values))[order]
    assert [hit["row"] for hit in answer["hits"]] == rows.tolist()
    assert [hit["alignment"] for hit in answer["hits"]] == pytest.approx(values[rows].tolist())
    assert {(hit["noise"], hit["above_noise"]) for hit in answer["hits"]} == {(None, None)}
    assert (answer["above_noise"], answer["scale"]) == (None, None)


def test_hits_carry_the_kept_labels(fetch, databases):
    db = databases[0]
    table = db.load_analysis("labels-mine")
    known = {
        str(sl.Component(*who)): label
        for *who, label in table[["layer", "index", "sign", "label"]].values.tolist()
    }
    answer = fetch("search?q=dog&k=200")
    found = {hit["component"]: hit["label"] for hit in answer["hits"]}
    for name, label in known.items():
        assert label in found[name].removeprefix("unsure: ").rstrip("?").split(" / ")
    plain = fetch("search/image", "POST", 2, content=encoded(RED, "PNG"))
    assert {hit["label"] for hit in plain["hits"]} == {None}


def test_a_cursor_leads_through_all_hits(fetch, databases):
    every = fetch("search?q=dog&k=200")["hits"]
    found, cursor = [], ""
    for _ in range(20):
        page = fetch(f"search?q=dog&k=6{cursor}")
        found += page["hits"]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert found == every
    assert len(every) == 25


def test_an_image_and_its_number(fetch, databases):
    db = databases[0]
    content = encoded(RED, "PNG")
    answer = fetch("search/image?k=5", "POST", content=content)
    same(answer, db.search(images=[RED], top=5), db)
    number = answer["query_id"]
    page = fetch(f"search?query_id={number}&k=5&cursor={answer['cursor']}")
    same(page, db.search(images=[RED], top=5, offset=5), db)
    assert page["query_id"] == number
    alone = fetch(f"search?query_id={number}&k=3&layer=first")
    same(alone, db.search(images=[RED], top=3, layers=["first"]), db)
    mixed = fetch("search/image?k=5&q=dog&without=car&layer=second", "POST", content=content)
    same(mixed, db.search("dog", images=[RED], without=["car"], top=5, layers=["second"]), db)


def test_more_like_these(fetch, databases):
    db = databases[0]
    terms = {"like": ["second:1", "second:6"], "unlike": ["second:-4"], "k": 6}
    answer = fetch("search/components", "POST", json=terms)
    chosen = {"like": ["second:1", "second:6"], "unlike": ["second:-4"]}
    same(answer, db.search(**chosen, top=6), db)
    rest = fetch(f"search?query_id={answer['query_id']}&k=200&cursor=6")
    same(rest, db.search(**chosen, top=200, offset=6), db)
    assert not {7, 12, 20} & {hit["row"] for hit in answer["hits"] + rest["hits"]}
    mixed = {"like": ["second:1"], "q": ["dog"], "without": ["car"], "layers": ["first"], "k": 4}
    hits = db.search("dog", like=["second:1"], without=["car"], layers=["first"], top=4)
    same(fetch("search/components", "POST", json=mixed), hits, db)


def test_similarity_of_all_components(fetch, databases, words):
    db = databases[0]
    expected = alignments(db, make_query(db, "dog", without="car"))
    found = fetch("similarity?q=dog&without=car")
    assert list(found) == ["alignment"]
    assert found["alignment"].dtype == np.float32
    np.testing.assert_allclose(found["alignment"], expected, atol=1e-6)
    assert np.flatnonzero(np.isnan(found["alignment"])).tolist() == [2]
    answer = fetch("search/components", "POST", json={"like": ["second:1"], "k": 200})
    values = fetch(f"similarity?query_id={answer['query_id']}")["alignment"]
    for hit in answer["hits"]:
        assert values[hit["row"]] == pytest.approx(hit["alignment"], abs=1e-6)


def test_an_embedder_without_texts_searches_labels(fetch, databases):
    db = databases[1]
    assert not db.embedder.has_text
    answer = fetch("search?q=frog&k=2", model=1)
    found = search_labels(db, ["frog"], top=2)
    assert found.total > 2
    assert answer["mode"] == "label"
    assert "python:colours" in answer["notice"]
    assert (answer["query"], answer["searched"]) == ("frog", 25)
    assert [(h["rank"], h["row"], h["label"]) for h in answer["hits"]] == [
        (hit.rank, hit.row, hit.label) for hit in found.hits
    ]
    assert {(h["cosine"], h["noise"]) for h in answer["hits"]} == {(None, None)}
    assert answer["scale"] is None
    assert answer["cursor"] == "2"
    rest = fetch("search?q=frog&k=200&cursor=2", model=1)
    assert len(rest["hits"]) == found.total - 2
    assert rest["cursor"] is None
    by_image = fetch("search/image?k=4", "POST", 1, content=encoded(RED, "PNG"))
    same(by_image, db.search(images=[RED], top=4), db)
    like = fetch("search/components", "POST", 1, json={"like": ["second:1"], "k": 4})
    same(like, db.search(like=["second:1"], top=4), db)


def test_without_labels_the_remedy_is_said(fetch, databases):
    found = fetch("search?q=frog", model=2, status=400)
    assert found["kind"] == "ConceptError"
    assert "no saved labels" in found["value"]
    assert "semlens label" in found["remedy"]
    found = fetch("similarity?q=frog", model=2, status=400)
    assert found["kind"] == "EmbedderError"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("search", 400, "query is empty"),
        ("search?q=%20", 400, "is empty"),
        ("search?q=dog&layer=7", 404, "Layer '7' is not in"),
        ("search?q=dog&k=0", 422, "'k': '0'"),
        ("search?q=dog&k=9999", 422, "'k': '9999'"),
        ("search?q=dog&cursor=-3", 422, "'cursor': '-3'"),
        ("search?q=" + "x" * 201, 422, "Invalid 'q.0'"),
        ("search?" + "q=x&" * 17, 422, "Invalid 'q'"),
        ("search?query_id=99999", 404, "99999 are no longer known"),
        ("search?query_id=1&q=dog", 400, "combined with words"),
        ("similarity", 400, "query is empty"),
    ],
)
def test_wrong_questions(fetch, path, status, words):
    found = fetch(path, status=status)
    assert words in found["value"]
    assert found["expected"]
    assert found["remedy"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"like": []}, 400, "query is empty"),
        ({"like": ["first:999"]}, 404, "'first:999' is not in"),
        ({"like": ["first:2"]}, 400, "first:2"),
        ({"like": ["a"]}, 404, "'a' does not name a component"),
        ({"like": "second:1"}, 422, "like"),
        ({"like": ["first:1"], "layers": ["no"]}, 404, "Layer 'no' is not in"),
    ],
)
def test_wrong_components(fetch, body, status, words):
    assert words in fetch("search/components", "POST", status=status, json=body)["value"]


def test_numbers_are_of_one_model(fetch):
    number = fetch("search/components", "POST", json={"like": ["second:1"]})["query_id"]
    found = fetch(f"search?query_id={number}", model=1, status=404)
    assert "no longer known" in found["value"]
    assert found["remedy"] == "Search again."


def test_numbers_are_forgotten_in_the_order_of_use(databases):
    probes = QueryCache(size=2)
    queries = [Query(str(i), make_query(databases[0], "dog").positive) for i in range(3)]
    first, second = (probes.add(0, query) for query in queries[:2])
    assert probes.get(0, first) is queries[0]
    third = probes.add(0, queries[2])
    assert probes.get(0, first) is queries[0]
    assert probes.get(0, third) is queries[2]
    with pytest.raises(ServeError, match="no longer known"):
        probes.get(0, second)


@pytest.mark.slow
def test_many_at_once_get_their_own_answers(fetch):
    names = ["dog", "car", "green frog", "tree", "sky", "wheel"] * 4
    alone = {name: fetch(f"search?q={name}&k=5") for name in set(names)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: fetch(f"search?q={name}&k=5"), names))
    assert [json.dumps(one) for one in found] == [json.dumps(alone[name]) for name in names]
