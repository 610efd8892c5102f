"""The server itself: what it serves, background work, one embedder for all, start and end."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from conftest import (
    ColourEmbedder,
    LittleNet,
    WordEmbedder,
    assert_says,
    to_tensor,
)
from fastapi.testclient import TestClient
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app as command
from semlens.data.image_folder import ImageFolder
from semlens.embedders.load import embeds_texts
from semlens.errors import (
    BusyError,
    DataError,
    EmbedderError,
    ModelError,
    RecipeError,
    ServeError,
    StaleError,
)
from semlens.models.subject import SubjectModel
from semlens.progress import report_progress
from semlens.web import openapi
from semlens.web.app import API, create_app
from semlens.web.app_state import AppState
from semlens.web.connection import PORT, listen
from semlens.web.embedder import SharedEmbedder
from semlens.web.jobs import JobPending, JobQueue, JobStatus
from semlens.web.routes import map as laid
from semlens.web.serve import make_server, open_databases


def build(path: Path, pictures: Path, embedder, layers=("first", "second")) -> Path:
    subject = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    sl.build(path, subject, images, embedder, list(layers), examples=3)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """Databases of two embedders; 'demo' is of one that can be loaded again."""
    place = tmp_path_factory.mktemp("served")
    build(place / "one.semlens", pictures, WordEmbedder())
    build(place / "two.semlens", pictures, WordEmbedder(), ["second"])
    build(place / "colours.semlens", pictures, ColourEmbedder(1), ["first"])
    build(place / "demo.semlens", pictures, sl.load_embedder("semlens/demo"), ["first"])
    (place / "static").mkdir()
    (place / "static" / "index.html").write_text("<!doctype html><title>the page</title>")
    return place


@pytest.fixture
def static(folder: Path) -> Path:
    return folder / "static"


def client_of(*databases: sl.ConceptDatabase | Path, **settings) -> TestClient:
    return TestClient(create_app(databases, **settings), base_url="http://localhost")


# -- what is served --------------------------------------------------------------------


@pytest.mark.slow
def test_models_are_what_the_databases_say(folder: Path) -> None:
    paths = [folder / "one.semlens", folder / "colours.semlens", folder / "demo.semlens"]
    client = client_of(*paths)
    found = client.get(f"{API}/models").json()
    assert [m["name"] for m in found] == ["one", "colours", "demo"]
    assert [m["number"] for m in found] == [0, 1, 2]
    assert [m["has_text"] for m in found] == [False, False, True]  # python objects are not here
    for model, path in zip(found, paths, strict=True):
        manifest = json.loads((path / "manifest.json").read_text())
        table = sl.open(path).components
        assert model["model"] == manifest["model"]["spec"] == "python:little"
        assert model["embedder"] == manifest["embedder"]["spec"]
        assert model["data"] == manifest["data"]["spec"]
        assert (model["samples"], model["dim"]) == (manifest["samples"], manifest["dim"])
        assert model["components"] == len(table)
        assert model["classes"] == 4
        assert model["relevance"] is False
        assert model["fingerprint"] == sl.open(path).fingerprint
        for place, (layer, entry) in enumerate(
            zip(model["layers"], manifest["layers"], strict=True)
        ):
            part = table[table["layer"] == entry["name"]]
            assert layer["number"] == place
            assert (layer["name"], layer["first"]) == (entry["name"], part.index[0])
            assert (layer["components"], layer["channels"]) == (len(part), entry["channels"])
            assert layer["signs"] == ("both" if (part["sign"] < 0).any() else "+")
            assert layer["without_examples"] == (part["examples"] == 0).sum()
    assert {layer["signs"] for layer in found[0]["layers"]} == {"+", "both"}
    assert client.get(f"{API}/models/1").json() == found[1]


@pytest.mark.slow
def test_a_given_embedder_reads_texts(folder: Path) -> None:
    opened = sl.open(folder / "one.semlens", embedder=WordEmbedder())
    assert client_of(opened).get(f"{API}/models/0").json()["has_text"] is True


@pytest.mark.parametrize(
    "path", ["models/1", "models/1/components", "compare/pairs?a=0&b=1",
             "models/0/components/first:0/counterpart?other=1"],
)  # fmt: skip
def test_a_database_that_changes_while_it_is_served_is_refused(
    folder: Path, tmp_path: Path, path: str
) -> None:
    one, copy = (
        shutil.copytree(folder / name, tmp_path / name) for name in ("one.semlens", "two.semlens")
    )
    opened = [sl.open(one, embedder=WordEmbedder()), sl.open(copy, embedder=WordEmbedder())]
    client = client_of(*opened)
    manifest, build = copy / "manifest.json", (copy / "manifest.json").read_text()
    os.utime(manifest, ns=(1, 1))
    assert client.get(f"{API}/{path}").status_code in (200, 202)  # touched is not changed
    manifest.write_text(build + "\n")
    refused = client.get(f"{API}/{path}")
    assert refused.status_code == 409
    assert refused.json()["kind"] == "StaleError"
    assert str(copy) in refused.json()["value"]
    assert "Restart the server" in refused.json()["remedy"]
    assert client.get(f"{API}/models/0").status_code == 200
    manifest.unlink()
    assert client.get(f"{API}/{path}").status_code == 409
    manifest.write_text(build)
    assert client.get(f"{API}/{path}").status_code in (200, 202)


def test_unknown_models_are_not_there(folder: Path) -> None:
    client = client_of(folder / "one.semlens")
    answer = client.get(f"{API}/models/1")
    assert answer.status_code == 404
    assert answer.json() == {
        "kind": "ServeError",
        "value": "Unknown model 1.",
        "expected": "This server has 1, numbered from 0.",
        "remedy": "Choose one of them.",
    }
    wrong = client.get(f"{API}/models/x")
    assert wrong.status_code == 422
    assert wrong.json()["value"] == "Invalid 'm': 'x'."


@pytest.mark.slow
def test_every_route_answers_with_a_model_and_has_its_own_name() -> None:
    described = create_app([]).openapi()
    names = [
        operation["operationId"]
        for path in described["paths"].values()
        for operation in path.values()
    ]
    assert sorted(names) == sorted(set(names))
    assert {"ErrorResponse", "JobStatus", "ModelInfo"} <= set(described["components"]["schemas"])
    assert all(path.startswith(f"{API}/") for path in described["paths"])


@pytest.mark.slow
def test_the_description_is_printed_without_a_database(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["openapi"])
    runpy.run_path(openapi.__file__, run_name="__main__")  # as 'python -m' does
    assert f"{API}/models" in json.loads(capsys.readouterr().out)["paths"]


def test_importing_semlens_imports_no_server() -> None:
    heavy = ["fastapi", "uvicorn", "starlette", "torch"]
    code = f"import semlens, sys; print([m for m in {heavy} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "[]"


# -- the subject -----------------------------------------------------------------------


def test_the_subject_is_loaded_once_and_verified(folder: Path, subject: SubjectModel) -> None:
    path = folder / "one.semlens"
    served = AppState.of([sl.open(path, model=subject)]).models[0]
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: id(served.db.model), range(16)))
    assert found == {id(subject)}
    with served.run_model("A test"):
        assert served.db.model is subject
    bare = AppState.of([sl.open(path)]).models[0]
    with pytest.raises(ModelError) as lacking, bare.run_model("The model test"):
        _ = bare.db.model
    assert_says(
        lacking.value, "The model test needs the model", "python:little", f"serve {path} --model"
    )
    other = SubjectModel(LittleNet(seed=1), to_tensor, "32 bilinear", "python:little")
    with pytest.raises(StaleError) as caught:
        sl.open(path, model=other)
    assert_says(caught.value, "python:little", "fingerprint", "build a new database")


# -- one embedder for all --------------------------------------------------------------


def test_databases_of_one_embedder_share_it(folder: Path) -> None:
    names = ("one", "two", "colours")
    opened = [sl.open(folder / f"{name}.semlens") for name in names]
    opened[1] = sl.open(folder / "two.semlens", embedder=WordEmbedder())
    AppState.of(opened)
    one, two, colours = (db.embedder for db in opened)
    assert one is two
    assert colours is not one
    plain = sl.open(folder / "one.semlens", embedder=WordEmbedder()).search("red dog", top=5)
    assert opened[0].search("red dog", top=5).to_pandas().equals(plain.to_pandas())
    with pytest.raises(EmbedderError):
        opened[2].search("red dog")


def test_an_embedder_is_loaded_with_the_first_question_and_once(folder: Path) -> None:
    db = sl.open(folder / "demo.semlens")
    AppState.of([db])
    shared = db.embedder
    assert isinstance(shared, SharedEmbedder)
    assert (shared.has_text, shared.ready) == (True, False)
    texts = [f"text {number}" for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda text: shared.embed_texts([text]), texts))
    assert shared.ready
    assert len({id(shared.loaded()) for _ in range(3)}) == 1
    alone = sl.load_embedder("semlens/demo").embed_texts(texts)
    for place, vector in enumerate(found):
        assert (vector[0] - alone[place]).abs().max() < 1e-5


def test_an_embedder_that_is_not_here_says_so_and_the_rest_is_served(folder: Path) -> None:
    serving = AppState.of([sl.open(folder / "one.semlens")])
    serving.warm()
    client = client_of(serving.models[0].db)
    found = client.get(f"{API}/models/0").json()
    assert found["has_text"] is False
    assert "python:words" in found["embedder_error"]


def test_a_damaged_database_does_not_keep_the_others_cold(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder / "demo.semlens", tmp_path / "broken")
    damaged = bytearray((broken / "components.parquet").read_bytes())
    damaged[8] ^= 1
    (broken / "components.parquet").write_bytes(damaged)
    app = create_app([broken, folder / "demo.semlens"])
    app.state.semlens.warm()
    sound = app.state.semlens.models[1].db
    assert sound.embedder.ready
    assert "components" in vars(sound)
    client = TestClient(app, base_url="http://localhost")
    assert client.get(f"{API}/models/0/components/first:0").json()["kind"] == "StoreError"


def test_an_embedder_with_other_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    manifest = json.loads((folder / "demo.semlens" / "manifest.json").read_text())
    manifest["embedder"]["fingerprint"] = "0" * 64
    copy = shutil.copytree(folder / "demo.semlens", tmp_path / "copy")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    shared = SharedEmbedder(sl.open(copy))
    with pytest.raises(StaleError) as caught:
        shared.loaded()
    assert_says(caught.value, "semlens/demo", "fingerprint", "Use that one")
    assert shared.has_text is False


@pytest.mark.parametrize(
    ("spec", "texts"),
    [
        ("semlens/demo", True),
        ("open_clip/ViT-B-32/openai", True),
        ("python:words", False),
        ("transformers/no-such-folder/at-all", False),
        ("nonsense", False),
    ],
)
def test_whether_an_embedder_reads_texts_is_known_without_its_weights(
    spec: str, texts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert embeds_texts(spec) is texts


def test_transformers_tell_by_their_configuration(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    for name, kind, texts in (
        ("clip", transformers.CLIPConfig, True),
        ("dino", transformers.Dinov2Config, False),
    ):
        kind().save_pretrained(tmp_path / name)  # no weights there
        assert embeds_texts(f"transformers/{tmp_path / name}") is texts


# -- background work -------------------------------------------------------------------


def wait_for(work: JobQueue, key: str, make, what: str = "counting"):
    while True:
        try:
            return work.result(key, what, make)
        except JobPending:
            continue


def test_quick_work_is_returned_at_once_and_remembered() -> None:
    work, made = JobQueue(), []
    for _ in range(3):
        assert work.result("a", "adding", lambda: made.append(1) or len(made)) == 1
    assert work.result("b", "adding", lambda: made.append(1) or len(made)) == 2


def test_long_work_says_how_far_it_is_and_runs_once_for_all() -> None:
    work, go, begun, made = JobQueue(), threading.Event(), threading.Event(), []

    def make() -> str:
        made.append(1)
        report_progress("counting", 3, 7)
        begun.set()
        go.wait()
        return "done"

    def ask(_: int) -> JobStatus:
        with pytest.raises(JobPending) as caught:
            work.result("key", "counting sheep", make)
        return caught.value.status

    ask(0)
    begun.wait()
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(ask, range(8)))
    assert {(s.description, s.done, s.total) for s in states} == {("counting sheep", 3, 7)}
    assert min(s.seconds for s in states) >= 0.5
    go.set()
    assert wait_for(work, "key", make) == "done"
    assert made == [1]


def test_an_error_is_raised_once_and_then_it_is_tried_again() -> None:
    work, tries = JobQueue(), []

    def make() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise DataError("No image.", "Expected some.", "Add some.")
        return "there"

    with pytest.raises(DataError):
        work.result("key", "looking", make)
    assert work.result("key", "looking", make) == "there"


def test_a_finished_result_can_be_looked_up_without_making_it() -> None:
    work, go = JobQueue(), threading.Event()
    assert work.finished("key") is None
    with pytest.raises(JobPending):
        work.result("key", "waiting", lambda: go.wait() and "there")
    assert work.finished("key") is None
    go.set()
    assert wait_for(work, "key", lambda: "again") == "there"
    assert work.finished("key") == "there"
    with pytest.raises(ZeroDivisionError):
        work.result("other", "dividing", lambda: 1 / 0)
    assert work.finished("other") is None


def test_only_so_many_results_are_kept_and_none_is_lost_under_way() -> None:
    work, go = JobQueue(max_results=2), threading.Event()
    with pytest.raises(JobPending):
        work.result("slow", "waiting", lambda: go.wait() and "slow")
    for number in range(5):
        assert work.result(f"{number}", "counting", lambda n=number: n) == number
    assert work.result("4", "counting", lambda: "again") == 4
    assert work.result("0", "counting", lambda: "again") == "again"
    go.set()
    assert wait_for(work, "slow", lambda: "made twice") == "slow"


@pytest.mark.slow
def test_only_so_much_runs_at_once() -> None:
    work, go, running = JobQueue(parallel=2), threading.Event(), []
    for number in range(4):
        with pytest.raises(JobPending):
            work.result(f"{number}", "", lambda n=number: running.append(n) or go.wait())
    assert running == [0, 1]
    go.set()
    for number in range(4):
        wait_for(work, f"{number}", lambda: None)
    assert sorted(running) == [0, 1, 2, 3]


def test_short_work_does_not_wait_for_long_work() -> None:
    work, go = JobQueue(parallel=1), threading.Event()
    for number in range(2):
        with pytest.raises(JobPending):
            work.result(f"long {number}", "laying out", lambda: go.wait())
    assert work.result("short", "reading", lambda: 3, short=True) == 3
    go.set()


@pytest.mark.slow
def test_work_says_what_it_waits_for(folder: Path) -> None:
    served = AppState.of([sl.open(folder / "one.semlens")]).models[0]
    work, go, begun = JobQueue(parallel=2), threading.Event(), threading.Event()

    def use(purpose: str, then) -> str:
        with served.run_model(purpose):
            then()
        return purpose

    def first() -> str:
        return use("The swap", lambda: begun.set() or go.wait())

    def status(key: str, make) -> JobStatus:
        with pytest.raises(JobPending) as caught:
            work.result(key, key, make)
        return caught.value.status

    def second() -> str:
        begun.wait()
        return use("Before and after", lambda: None)

    assert status("swap", first).waiting is None
    assert status("repair", second).waiting == "the model (the swap)"
    assert status("graph", lambda: "traced").waiting == "other work on this server"
    go.set()
    assert wait_for(work, "repair", second, "repair") == "Before and after"
    assert wait_for(work, "graph", lambda: "traced", "graph") == "traced"


def test_few_large_results_are_kept() -> None:
    work = JobQueue(max_results=10, max_large=2)
    for number in range(4):
        work.result(f"large {number}", "", lambda n=number: n, large=True)
        work.result(f"small {number}", "", lambda n=number: n)
    again = {
        f"{size} {number}": work.result(f"{size} {number}", "", lambda: "again")
        for size in ("small", "large")
        for number in range(4)
    }
    assert [name for name, value in again.items() if value == "again"] == ["large 0", "large 1"]


@pytest.mark.slow
def test_no_more_work_is_taken_on_than_can_wait() -> None:
    work, go = JobQueue(parallel=1, max_pending=3), threading.Event()
    for number in range(3):
        with pytest.raises(JobPending):
            work.result(f"{number}", "", lambda: go.wait())
    with pytest.raises(BusyError) as caught:
        work.result("3", "", lambda: go.wait())
    assert_says(caught.value, "3 jobs", "fewer than 3", "Try again")
    with pytest.raises(JobPending):  # what is known is still answered
        work.result("0", "", lambda: go.wait())
    go.set()
    for number in range(3):
        assert wait_for(work, f"{number}", lambda: None)
    assert work.result("3", "", lambda: "there") == "there"


def test_work_is_answered_with_202_until_it_is_there(folder: Path) -> None:
    app, go = create_app([folder / "one.semlens"]), threading.Event()

    def slow() -> str:
        return app.state.semlens.jobs.result("slow", "thinking", lambda: str(go.wait()))

    app.router.add_api_route("/slow", slow)
    app.router.routes.insert(0, app.router.routes.pop())
    client = TestClient(app, base_url="http://localhost")
    answer = client.get("/slow")
    assert answer.status_code == 202
    assert answer.json().keys() == {"description", "done", "total", "seconds", "waiting"}
    assert answer.json()["description"] == "thinking"
    go.set()
    while client.get("/slow").status_code == 202:
        continue
    assert client.get("/slow").json() == "True"


@pytest.mark.slow
def test_maps_are_laid_out_before_anybody_asks(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = [
        sl.open(
            shutil.copytree(folder / f"{name}.semlens", tmp_path / name), embedder=WordEmbedder()
        )
        for name in ("one", "two")
    ]
    monkeypatch.setattr(laid, "SMALL", int(copies[1].has_examples.sum()))
    assert copies[0].has_examples.sum() > laid.SMALL
    app = create_app(copies)
    laid.prepare_maps(app.state.semlens)
    assert not list((tmp_path / "one" / "analysis").glob("map-*"))
    assert list((tmp_path / "two" / "analysis").glob("map-*"))
    client = TestClient(app, base_url="http://localhost")
    made = laid.labelled_map(app.state.semlens.models[1], app.state.semlens)  # raises nothing
    assert client.get(f"{API}/models/1/places").json()["components"] == len(made.map)


# -- start and end ---------------------------------------------------------------------


def test_a_taken_port_is_refused_if_asked_for_and_else_the_next_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(ServeError) as caught:
            listen("127.0.0.1", number)
        assert_says(caught.value, str(number), "in use", "Choose another port")
    first = listen("127.0.0.1", None)
    second = listen("127.0.0.1", None)
    assert PORT <= first.port < second.port
    first.socket.close()
    second.socket.close()


@pytest.mark.parametrize(
    ("host", "port", "said"),
    [
        ("203.0.113.9", 0, "another host"),
        ("no such name", 0, "another host"),
        ("127.0.0.1", 70_000, "another port"),
    ],
)
def test_a_place_that_cannot_be_listened_at_is_refused(host: str, port: int, said: str) -> None:
    with pytest.raises(ServeError) as caught:
        listen(host, port)
    assert_says(caught.value, host if said == "another host" else str(port), "Expected", said)


def test_the_address_is_one_that_can_be_opened(folder: Path, static: Path) -> None:
    path = folder / "one.semlens"
    for host, names, shown in (
        ("127.0.0.1", [], "http://127.0.0.1:"),
        ("localhost", [], "http://localhost:"),
        ("0.0.0.0", [], f"http://{socket.gethostname()}:"),
        ("0.0.0.0", ["lab.example"], "http://lab.example:"),
    ):
        server = make_server([path], host=host, port=0, names=names, static=static)
        assert server.url.startswith(shown)
        assert ("token=" in server.url) is (host == "0.0.0.0")
        server.stop()


def test_wrong_input_is_refused_before_the_start(folder: Path, static: Path) -> None:
    one, colours = folder / "one.semlens", folder / "colours.semlens"
    with pytest.raises(ServeError, match="No database"):
        make_server([], static=static)
    with pytest.raises(ServeError, match="given twice"):
        make_server([one, one], port=0, static=static)
    with pytest.raises(RecipeError, match="2 models were given for 1"):
        open_databases([one], models=["semlens/demo"] * 2)
    with pytest.raises(StaleError, match="python:colours"):
        open_databases([one], embedder=ColourEmbedder(1))
    with pytest.raises(ServeError, match="page is missing"):
        make_server([one], static=folder / "none")
    opened = open_databases([one, colours], embedder=ColourEmbedder(1))
    assert opened[1].embedder.spec == "python:colours"
    server = make_server(opened, port=0, static=static)
    assert [s.db.embedder.has_text for s in server.state.models] == [False, False]
    server.stop()


@pytest.mark.slow
def test_fifty_clients_at_once_are_answered(folder: Path, static: Path) -> None:
    paths = [folder / "demo.semlens", folder / "one.semlens"]
    with make_server(paths, port=0, static=static).start() as server:
        expected = httpx.get(f"{server.url}api/v1/models/0").json()["fingerprint"]

        def visit(number: int) -> set[int]:
            with httpx.Client(base_url=server.url, timeout=60) as client:
                answers = [client.get("/"), client.get("api/v1/models")]
                answers += [client.get(f"api/v1/models/{number % 2}") for _ in range(5)]
            assert answers[1].json()[0]["fingerprint"] == expected
            return {answer.status_code for answer in answers}

        with ThreadPoolExecutor(50) as pool:
            assert set().union(*pool.map(visit, range(50))) == {200}


def test_a_server_goes_on_from_an_event_loop(
    folder: Path, static: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook, where a loop runs already."""
    import asyncio

    import semlens.web.serve as module

    monkeypatch.setattr(module, "static_folder", lambda: static)

    async def cell() -> module.Server | None:
        return sl.serve(folder / "one.semlens", port=0, browser=False)

    with ThreadPoolExecutor(1) as pool:  # this thread may have the loop of a browser already
        server = pool.submit(lambda: asyncio.run(cell())).result()
    assert server is not None
    assert "one" in repr(server)
    with server:
        assert httpx.get(server.url).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url)


SCRIPT = """
import sys, time
import torch
from pathlib import Path
from semlens.cli.serve import run
from semlens.web.serve import make_server
from semlens.web.jobs import JobPending

server = make_server([sys.argv[1]], port=0, static=Path(sys.argv[2]))

def work():
    if len(sys.argv) == 3:
        time.sleep(10**6)
    while True:
        torch.ones(500, 500) @ torch.ones(500, 500)

try:
    server.state.jobs.result("endless", "working", work)
except JobPending:
    pass
run(server, browser=False, as_json=True)
"""


@pytest.fixture(params=["waits", "computes"])
def process(folder: Path, static: Path, request) -> Iterator[subprocess.Popen[str]]:
    """A server with endless work under way, in a process of its own."""
    extra = ["computes"] if request.param == "computes" else []
    arguments = [sys.executable, "-c", SCRIPT, folder / "demo.semlens", static, *extra]
    started = subprocess.Popen(
        list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield started
    started.kill()
    started.wait()


@pytest.mark.slow
def test_ctrl_c_ends_it_at_once_and_quietly_while_work_is_under_way(process) -> None:
    assert process.stdout is not None
    told = json.loads(process.stdout.readline())
    assert told["models"] == ["demo"]
    assert httpx.get(told["url"], timeout=60).status_code == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out == ""
    assert "Traceback" not in err
    assert "Error" not in err


def test_the_command_reports_what_is_wrong(folder: Path) -> None:
    run = CliRunner()
    missing = run.invoke(command, ["serve", str(folder / "none.semlens"), "--no-browser"])
    assert missing.exit_code == 1
    assert "StoreError" in missing.output
    wrong = run.invoke(command, ["serve", str(folder / "one.semlens"), "--port", "70000"])
    assert wrong.exit_code == 2
