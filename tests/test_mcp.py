"""Tools for agents: a real client of the protocol, and ``semlens mcp`` in a process of its own."""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import jsonschema
import numpy as np
import pytest
from conftest import assert_says, write_pictures
from mcp import ClientSession, MCPError, StdioServerParameters, stdio_client
from PIL import Image
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import DataError, RecipeError, SemlensError
from semlens.lenses.search.search import search
from semlens.mcp import server as mcp_server
from semlens.mcp.answer import limited
from semlens.mcp.image_access import ImageAccess
from semlens.mcp.progress_relay import Cancelled, ProgressRelay
from semlens.mcp.tool import Tool
from semlens.mcp.tools import tools as all_tools
from semlens.settings import settings_of

ROOT = Path(__file__).resolve().parents[1]
MODEL = '''
import os
import numpy as np
import torch
from torch import nn

print("the model is imported")


class Net(nn.Module):
    """Prints in every way that code of a user may."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 10, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(10, 4)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


def to_tensor(image):
    print("preprocessing")
    os.write(1, b"from a library\\n")
    small = np.asarray(image.resize((32, 32)), np.float32)
    return torch.from_numpy(small.copy()).permute(2, 0, 1) / 127.5 - 1


def make():
    os.system("echo from a child")
    return Net(), to_tensor, ["class0", "class1", "fruit", "other"]
'''


@dataclass
class Client:
    """A session with a server; its calls wait for the answer."""

    portal: anyio.from_thread.BlockingPortal
    session: ClientSession
    folder: Path

    def call(self, name: str, **arguments: Any) -> Any:
        return self.portal.call(self.session.call_tool, name, arguments)

    def values(self, name: str, **arguments: Any) -> dict[str, Any]:
        answer = self.call(name, **arguments)
        assert not answer.is_error, answer.content
        return answer.structured_content

    def error(self, name: str, **arguments: Any) -> str:
        answer = self.call(name, **arguments)
        assert answer.is_error and len(answer.content) == 1
        assert set(answer.structured_content) == {"error", "value", "expected", "remedy"}
        return answer.content[0].text


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two databases, whose sources can be loaded anywhere, and a folder of images."""
    folder = tmp_path_factory.mktemp("mcp")
    (folder / "model.py").write_text(MODEL)
    write_pictures(folder / "pictures", 12)
    for name, layers in (("one", ["first", "second"]), ("two", ["second"])):
        database = sl.build(
            folder / f"{name}.semlens", f"{folder / 'model.py'}:make", folder / "pictures",
            "semlens/demo", layers, examples=4, reference=8, crop="none", relevance=name == "one",
        )  # fmt: skip
        database.label(["fruit", "letters", "face"]).save_to_database("mine")
    write_pictures(folder / "secret", 3, seed=5, classes=1)
    write_pictures(folder / "allowed" / "a", 4, seed=1, classes=1)
    write_pictures(folder / "allowed" / "b", 4, seed=2, classes=1)
    (folder / "allowed" / "link.png").symlink_to(folder / "secret/class0/000.png")
    (folder / "allowed" / "escaping").mkdir()
    (folder / "allowed" / "escaping" / "out").symlink_to(folder / "secret")
    (folder / "allowed" / "circle.png").symlink_to(folder / "allowed" / "circle.png")
    (folder / "allowed" / "no-picture.png").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def db(built: Path) -> sl.ConceptDatabase:
    return sl.open(built / "one.semlens", model=f"{built / 'model.py'}:make")


@pytest.fixture(scope="module")
def client(built: Path) -> Iterator[Client]:
    """A client of ``semlens mcp`` with both databases; the wire is recorded."""
    spec = f"{built / 'model.py'}:make"
    command = [
        sys.executable, "-m", "semlens.cli", "mcp", "one.semlens", "two.semlens", "--images",
        "allowed", "--model", spec, "--model", spec,
    ]  # fmt: skip
    server = StdioServerParameters(
        command="/bin/sh",
        args=["-c", f"{shlex.join(command)} 2>printed | tee wire"],
        cwd=built,
        env={"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )
    with anyio.from_thread.start_blocking_portal() as portal:
        transport = portal.wrap_async_context_manager(stdio_client(server))
        with transport as (read, write):
            with portal.wrap_async_context_manager(ClientSession(read, write)) as session:
                portal.call(session.initialize)
                yield Client(portal, session, built)


def _whole(wire: Path) -> str:
    """The wire up to the end of a line: ``tee`` writes to the file after the client has it."""
    end = time.monotonic() + 10
    while not (text := wire.read_text()).endswith("\n") and time.monotonic() < end:
        time.sleep(0.01)
    return text


def picture_of(answer: Any) -> Image.Image:
    content = next(part for part in answer.content if part.type == "image")
    image = Image.open(io.BytesIO(base64.b64decode(content.data, validate=True)))
    assert content.mime_type == f"image/{image.format.lower()}"
    image.load()
    return image


@pytest.mark.slow
def test_every_line_that_is_no_message_is_answered(built: Path) -> None:
    command = [sys.executable, "-m", "semlens.cli", "mcp", "one.semlens"]
    asked = '{"jsonrpc": "2.0", "id": %s, "method": "tools/call", "params": {"name": "%s"}}'
    lines = [
        asked % (1, r"\ud800"), asked % ('"two"', r"\udfff"), "[" * 100_000, "no JSON",
        '{"jsonrpc": "2.0", "id": 5}', asked % (r'"\ud800"', "x"), asked % (7, "overview"),
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=built, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    ) as server:  # fmt: skip
        output, _ = server.communicate("".join(f"{line}\n" for line in lines), timeout=60)
    answers = [json.loads(line) for line in output.splitlines()]
    assert [one["id"] for one in answers] == [1, "two", None, None, 5, None, 7]
    codes = [one["error"]["code"] for one in answers[:-1]]
    assert codes == [-32700, -32700, -32700, -32700, -32600, -32700]
    for one in answers[:-1]:
        message = one["error"]["message"]
        assert "cannot be read" in message and "Expected" in message and "Correct it" in message


# -- what is offered ----------------------------------------------------------------------------


def test_tools_are_listed_with_valid_schemas(client: Client) -> None:
    tools = client.portal.call(client.session.list_tools).tools
    assert [tool.name for tool in tools] == list(all_tools())
    for tool in tools:
        jsonschema.Draft202012Validator.check_schema(tool.input_schema)
        described = tool.input_schema["properties"].values()
        assert all(argument["description"] for argument in described), tool.name
        assert tool.description and tool.annotations.read_only_hint


def test_a_search_needs_words_only() -> None:
    required = {name: tool.schema["required"] for name, tool in all_tools().items()}
    assert required == {
        "overview": [], "search": ["query"], "component": ["component"], "explain": ["image"],
        "audit": [], "effect": ["target"], "contrast": [], "compare": [],
    }  # fmt: skip


def test_defaults_bounds_and_help_are_those_of_the_question() -> None:
    offered = all_tools()["search"].schema["properties"]["top"]
    setting = settings_of(search)["top"]
    assert offered == {
        "type": "integer", "default": setting.default, "minimum": 0,
        "description": setting.field.description,
    }  # fmt: skip


def test_no_argument_takes_the_path_of_any_file() -> None:
    """Settings that do are left out; images are checked, names of sets are looked up."""
    free = {"metadata", "column", "concepts", "background", "templates", "rules"}
    for name, tool in all_tools().items():
        assert not free & set(tool.schema["properties"]), name


# -- answers ------------------------------------------------------------------------------------

CALLS: dict[str, dict[str, Any]] = {
    "overview": {},
    "search": {"query": "red fruit"},
    "component": {"component": "second:3"},
    "explain": {"image": 3, "top": 2},
    "audit": {"target": "class0", "valid": ["fruit"], "spurious": ["letters"], "resamples": 5},
    "effect": {"target": "class1", "top": 3},
    "contrast": {"a": "a", "b": "b", "draws": 100},
    "compare": {},
}


@pytest.mark.parametrize("name", all_tools())
def test_every_tool_answers_with_text_numbers_and_a_picture(client: Client, name: str) -> None:
    answer = client.call(name, **CALLS[name])
    assert not answer.is_error, answer.content
    assert len(answer.content[0].text) > 100
    assert answer.structured_content and json.dumps(answer.structured_content, allow_nan=False)
    assert 100 < max(picture_of(answer).size) <= 1200


def test_a_picture_can_be_left_out(client: Client) -> None:
    answer = client.call("search", **CALLS["search"], picture=False)
    assert [part.type for part in answer.content] == ["text"]


def test_numbers_are_those_of_the_questions(client: Client, db: sl.ConceptDatabase) -> None:
    hits = client.values("search", query=["red fruit", "leaf"], without="clock", top=4)["hits"]
    expected = db.search("red fruit", "leaf", without="clock", top=4)
    assert [hit["component"] for hit in hits] == [str(c) for c in expected.components]
    assert [h["alignment"] for h in hits] == pytest.approx([h.alignment for h in expected.hits])

    found = client.values("effect", target="class1", components=["second:1", "first:0"])
    effects = db.effect("class1", ["second:1", "first:0"]).to_pandas()
    assert [row["effect"] for row in found["effects"]] == pytest.approx(effects["effect"].tolist())

    picture = db.original(5)
    explained = client.values(
        "explain", image=db.sample(5).path, layers="second", ablated=["first:2"]
    )
    same = db.explain(picture, layers=["second"], without=["first:2"])
    assert list(explained["layers"]) == ["second"] and explained["without"] == ["first:2"]
    shown = [item["relevance"] for item in explained["layers"]["second"]]
    assert shown == pytest.approx(same.to_pandas()["relevance"].tolist(), rel=1e-4)


def test_groups_are_folders_lists_and_samples(
    client: Client, db: sl.ConceptDatabase, built: Path
) -> None:
    folders = client.values("contrast", a="a", b="b", draws=100, layers="second", rows=50)
    same = db.contrast(built / "allowed/a", built / "allowed/b", draws=100, layers="second")
    assert folders["groups"]["a"] == {"name": "a", "images": 4}
    assert folders["pairs"] == 4
    auroc = {row["component"]: row["auroc"] for row in folders["components"]}
    assert auroc == pytest.approx(same.frame.set_index("component")["auroc"].to_dict())
    listed = [f"a/class0/{i:03d}.png" for i in range(4)]
    mixed = client.values("contrast", a=[*listed[:2], 0], b=listed[2:], draws=100)
    assert [group["images"] for group in mixed["groups"].values()] == [3, 2]
    numbers = client.values("effect", target=0, images=[0, 2, db.sample(4).path], top=1)
    assert numbers["samples"] == [0, 2, 4]


def test_a_card_says_what_the_database_holds(client: Client, db: sl.ConceptDatabase) -> None:
    values = client.values("component", component="first:1", examples=3, rows=100)
    row = int(db.rows_of("first:1")[0])
    assert [e["sample"] for e in values["examples"]] == [e.sample for e in db.examples_of(row, 3)]
    statistics = {one["name"]: one["value"] for one in values["statistics"]}
    assert statistics["mean"] == pytest.approx(db.components["mean"].iloc[row])
    vectors = db.concept_vectors(range(len(db.components))).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors[row]
    cosines[row] = -1
    nearest = values["neighbours"][0]
    assert nearest["cosine"] == pytest.approx(np.nanmax(cosines), abs=1e-3)
    found = int(db.rows_of(nearest["component"])[0])  # of several equal ones any
    assert cosines[found] == pytest.approx(np.nanmax(cosines), abs=1e-6)


def test_an_overview_names_databases_classes_and_images(client: Client) -> None:
    values = client.values("overview", rows=100)
    assert values["databases"] == ["one", "two"]
    assert [layer["layer"] for layer in values["layers"]] == ["first", "second"]
    assert {(c["name"], c["samples"]) for c in values["classes"]} == {("class0", 6), ("class1", 6)}
    assert "a/class0/000.png" in values["images"]  # and no link that leaves the folder
    assert {name.partition("/")[0] for name in values["images"]} <= {
        "a",
        "b",
        "circle.png",
        "no-picture.png",
    }
    other = client.values("overview", database="two")
    assert any("relevance" in warning["text"] for warning in other["warnings"])


def test_long_lists_are_cut_and_say_so(client: Client) -> None:
    values = client.values("contrast", a="a", b="b", draws=100, rows=4)
    assert len(values["components"]) == 4 and values["left_out"] == {"components": 12}
    assert limited({"a": [[1, 2, 3], [4]], "b": {"c": [5, 6, 7]}}, 2) == (
        {"a": [[1, 2], [4]], "b": {"c": [5, 6]}}, {"a": 1, "b.c": 1},
    )  # fmt: skip


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("component", {"component": "third:1"}, ["LayerError", "third", "first", "'overview'"]),
        ("component", {"component": "second:99"}, ["LayerError", "99"]),
        ("component", {"component": "nonsense"}, ["LayerError", "nonsense", "LAYER:INDEX"]),
        ("search", {"query": "x", "database": "three"}, ["'three'", "one, two"]),
        ("search", {"query": "x", "topp": 3}, ["'topp'", "top"]),
        ("search", {}, ["'query'", "missing"]),
        ("search", {"query": "x", "top": -1}, ["top is '-1'", "from 0"]),
        ("search", {"query": ""}, ["ConceptError"]),
        ("explain", {"image": 12}, ["no sample 12", "0 to 11"]),
        ("explain", {"image": "allowed/nothing.png"}, ["There is no image"]),
        ("explain", {"image": "no-picture.png"}, ["ImageError", "no-picture.png"]),
        ("explain", {"image": "circle.png"}, ["There is no image 'circle.png'"]),
        ("explain", {"image": 0, "target": "class7"}, ["RelevanceError", "class7", "'overview'"]),
        ("audit", {"target": 0, "concept_sets": ["../model.py"]}, ["ConceptError", "model.py"]),
        ("audit", {"target": "class0", "database": "two", "valid": ["a"]}, ["RelevanceError"]),
        ("effect", {"target": "fruit"}, ["DataError", "no samples"]),
        ("contrast", {}, ["There is no group of images"]),
        ("contrast", {"a": [1, 2], "b": [2, 3]}, ["1 images are in both groups"]),
        ("compare", {"databases": ["one", "one"]}, ["given twice"]),
    ],
)  # fmt: skip
def test_errors_say_what_the_caller_can_do(
    client: Client, name: str, arguments: dict[str, Any], says: list[str]
) -> None:
    text = client.error(name, **arguments)
    assert all(part in text for part in says), text
    assert len(text.splitlines()) >= 4


def test_an_unknown_tool_is_an_error_of_the_protocol(client: Client) -> None:
    with pytest.raises(MCPError, match="no tool 'paint'.*overview, search"):
        client.call("paint")


@pytest.mark.parametrize(
    "image",
    [
        "../secret/class0/000.png", "a/../../secret/class0/000.png", "link.png",
        "escaping/out/class0/000.png", "/etc/passwd", "{folder}/secret/class0/000.png",
        "../secret/class0/missing.png", "..",
    ],
)  # fmt: skip
def test_images_outside_the_folder_are_refused(client: Client, built: Path, image: str) -> None:
    image = image.format(folder=built)
    for name, arguments in (
        ("explain", {"image": image}),
        ("contrast", {"a": [image, 1], "b": "b"}),
        ("contrast", {"a": image, "b": "b"}),
        ("effect", {"target": 0, "images": [image]}),
    ):
        # the same words whether there is such a file or not
        assert "is outside the folder of images" in client.error(name, **arguments), (name, image)


def test_a_folder_with_a_link_that_leaves_it_is_refused(client: Client) -> None:
    assert "is outside the folder" in client.error("contrast", a="escaping", b="b")


@pytest.mark.parametrize("image", ["https://example.org/a.png", "s3://bucket/a", "file:///etc/hosts",
                                   "~/a.png", "nul\0byte", "a" * 5000])  # fmt: skip
def test_an_image_is_a_path_and_nothing_else(
    built: Path, db: sl.ConceptDatabase, image: str
) -> None:
    with pytest.raises(SemlensError) as error:
        ImageAccess.of(built / "allowed").read(db, image)
    assert_says(error.value, "There is no image")


def test_without_a_folder_only_samples_are_read(db: sl.ConceptDatabase, built: Path) -> None:
    access = ImageAccess.of(None)
    for name in (str(built / "allowed/a/class0/000.png"), "a/class0/000.png", "."):
        with pytest.raises(DataError, match="the user allowed no other images"):
            access.read(db, name)
        with pytest.raises(DataError, match="the user allowed no other images"):
            access.group(db, name)
    picture, name = access.read(db, "7")
    assert name == db.sample(7).path and picture.size == db.original(7).size
    assert access.listed() == ()
    with pytest.raises(DataError, match="is not a folder"):
        ImageAccess.of(built / "model.py")


# -- the protocol -------------------------------------------------------------------------------


def test_only_the_protocol_goes_to_standard_output(client: Client) -> None:
    assert not client.call("explain", image="a/class0/000.png").is_error
    lines = _whole(client.folder / "wire").splitlines()
    assert len(lines) >= 2
    assert all(json.loads(line)["jsonrpc"] == "2.0" for line in lines)
    printed = (client.folder / "printed").read_text()
    for noise in ("the model is imported", "preprocessing", "from a library", "from a child"):
        assert noise in printed


def test_progress_is_told_and_only_grows(client: Client) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def listen(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    async def ask() -> Any:
        arguments = {**CALLS["audit"], "resamples": 40_000}  # longer than an interval
        return await client.session.call_tool("audit", arguments, progress_callback=listen)

    assert not client.portal.call(ask).is_error
    done = [one[0] for one in told]
    assert done and done == sorted(set(done))
    assert all(total is not None and count <= total for count, total, _ in told)
    assert "resampling examples" in [message for *_, message in told]


def test_a_call_that_is_cancelled_stops(client: Client) -> None:
    async def give_up() -> None:
        with anyio.move_on_after(1):
            await client.session.call_tool("audit", {**CALLS["audit"], "resamples": 3_000_000})

    async def next_call() -> Any:
        with anyio.fail_after(60):
            return await client.session.call_tool("overview", {"picture": False})

    client.portal.call(give_up)  # its answer would take many minutes
    assert not client.portal.call(next_call).is_error


def test_stages_add_up() -> None:
    sent: list[tuple[float, float | None, str | None]] = []

    class Session:
        async def report_progress(self, progress, total=None, message=None) -> None:
            sent.append((progress, total, message))

    async def work() -> ProgressRelay:
        relay = ProgressRelay(Session())
        async with anyio.create_task_group() as group:
            group.start_soon(relay.send)
            for stage, done, total in (("a", 1, 2), ("a", 2, 2), ("b", 1, 4), ("b", 1, 9)):
                relay(stage, done, total)
                await anyio.sleep(0.3)
            group.cancel_scope.cancel()
        return relay

    relay = anyio.run(work)
    assert sent == [(1, 2, "a"), (2, 2, "a"), (3, 6, "b")]
    with pytest.raises(Cancelled):
        relay("b", 2, 9)


def answer_of(answer: Callable[..., Any], name: str = "search") -> Any:
    """What the server returns for a tool of its own."""
    tool = Tool("odd", "", all_tools()[name].model, answer)
    return mcp_server._answer(tool, {}, ImageAccess(), {"query": "x", "picture": False})


def test_a_bug_is_an_error_that_names_no_detail(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(call: object) -> Any:
        raise KeyError("a secret")

    answer = answer_of(fails)
    assert answer.is_error and "bug in semlens" in answer.content[0].text
    assert "a secret" not in answer.model_dump_json()
    printed = capsys.readouterr()
    assert "a secret" in printed.err and not printed.out


def test_notices_of_semlens_are_part_of_the_answer(db: sl.ConceptDatabase) -> None:
    class Odd(UserWarning):
        pass

    Odd.__module__ = "semlens.odd"

    def warns(call: object) -> Any:
        warnings.warn("mind this", Odd, stacklevel=1)
        warnings.warn("of another package", UserWarning, stacklevel=1)
        return db.search("fruit", top=1)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        answer = answer_of(warns)
    assert answer.structured_content["notices"] == ["mind this"]
    assert answer.content[0].text.endswith("Notice: mind this")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, built: Path) -> None:
    monkeypatch.setattr("semlens.cli.mcp.find_spec", lambda name: None)
    ended = CliRunner().invoke(app, ["mcp", str(built / "one.semlens")])
    assert ended.exit_code == 1 and not ended.stdout
    assert_says(Exception(ended.stderr), "'mcp'", "not installed", "pip install 'semlens[mcp]'")


def test_tools_check_arguments_without_the_protocol() -> None:
    with pytest.raises(RecipeError, match="rows is '3'. Expected a whole number from 4 to 1000"):
        all_tools()["overview"].check({"rows": 3})
    assert all_tools()["overview"].check({})["rows"] == 20


# -- documentation ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_transcript_of_the_page_is_what_the_script_writes(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls and verdicts; digits may differ between machines."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    script = importlib.import_module("agents_transcript")
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "2")
    with ThreadPoolExecutor(1) as pool:  # a browser of another test may hold a loop in this thread
        written = pool.submit(anyio.run, script.run, str(demo), tmp_path).result()

    def steps(text: str) -> list[str]:
        return re.findall(r"^(?:\*\*[^*]+\*\*|[a-z]+ \{.*)", text, re.M)

    page = (ROOT / "docs/agents.md").read_text("utf-8").partition(script.START)[2]
    assert steps(written) == steps(page.partition(script.END)[0]) and len(steps(written)) > 12
    assert {path.stem for path in tmp_path.iterdir()} == {"agents-component", "agents-contrast"}
