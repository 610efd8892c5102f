"""Attribution graphs against a computation by hand, component by component, in float64."""

from __future__ import annotations

import contextlib
import functools
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from conftest import LittleNet, to_tensor, write_pictures
from PIL import Image
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.explain import graph
from semlens.draw.encode_images import fit_text
from semlens.draw.graph_layout import MAX_CARDS, GraphEdge, GraphHeading, GraphNode, layout_graph
from semlens.draw.graph_ordering import crossing_weight, order_by_barycentre
from semlens.draw.graph_picture import draw_png, draw_svg
from semlens.draw.graph_scene import CARD
from semlens.errors import DataError, RelevanceError, StoreError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.graph.graph_result import UNLABELLED
from semlens.models.subject import SubjectModel
from semlens.progress import progress_listener
from semlens.relevance.presets import EPSILON_PLUS_FLAT, preset
from semlens.types import Component

LAYERS = ["first", "second"]
attribution_graph = functools.partial(sl.ConceptDatabase.attribution_graph, concepts=None)
SAMPLES = [0, 2, 5, 8, 11]
PLAIN = preset(EPSILON_PLUS_FLAT, conv="epsilon", epsilon=1e-12)
"""Gradient times input between the layers of a net of ReLUs, which can be done by hand."""


@pytest.fixture
def without_bias():
    """A net in which relevance is conserved."""
    net = LittleNet(seed=3)
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.bias = None
    return SubjectModel(net, to_tensor, "32 bilinear", "python:little", ["class0", "class1", *"cd"])


@pytest.fixture
def db(tmp_path, without_bias, images, words):
    return sl.build(tmp_path / "db", without_bias, images, words, LAYERS, examples=4, crop="none")


def by_hand(model, images, samples, target):
    """Relevance of each component, and of each lower one from each upper one alone.

    Returns
    -------
    tuple
        float64[s 6], float64[s 20] (both signs) and float64[s 20 6].
    """
    net = LittleNet()
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.bias = None
    net.load_state_dict(model.module.state_dict())
    net = net.double()
    found = []
    for sample in samples:
        x = to_tensor(images.read(sample))[None].double()
        low = net.first(x).detach().requires_grad_()
        high = net.second(low)
        top = high.detach().requires_grad_()
        logit = net.head(functional.relu(top).mean((2, 3)))[0, target]
        (gradient,) = torch.autograd.grad(logit, top)
        positive = high.detach() >= 0
        parts = [positive & (torch.arange(10) == c)[None, :, None, None] for c in range(10)]
        parts += [~positive & (torch.arange(10) == c)[None, :, None, None] for c in range(10)]
        upper = torch.stack([(gradient * high.detach() * part).sum() for part in parts])
        edges = []
        for part in parts:
            (back,) = torch.autograd.grad(high, low, gradient * part, retain_graph=True)
            edges.append((back * low).sum((0, 2, 3)).detach())
        edges = torch.stack(edges)
        found.append((edges.sum(0), upper, edges))
    return tuple(torch.stack(parts).numpy() for parts in zip(*found, strict=True))


@pytest.mark.slow
def test_nodes_and_edges_are_those_of_a_computation_by_hand(db, without_bias, images):
    assert db.layer("second").rows == 20  # both signs
    places = {Component("first", c): f"low {c % 2}" for c in range(5)}
    places |= {Component("second", c, s): f"high {c % 3}" for c in range(9) for s in (1, -1)}
    graph = attribution_graph(
        db, 1, concepts=places, samples=SAMPLES, minimum=0.08, rules=PLAIN, batch_size=2
    )  # fmt: skip
    low, high, edges = by_hand(without_bias, images, SAMPLES, 1)
    share = {"first": low, "second": high}
    total = {name: np.abs(values).sum(1, keepdims=True) for name, values in share.items()}
    share = {name: values / total[name] for name, values in share.items()}
    groups: dict[str, dict[str, list[int]]] = {"first": {}, "second": {}}
    for name, values in share.items():
        for place in np.flatnonzero(np.abs(values).max(0) >= 0.08):
            component = db.component(db.layer(name).first + int(place))
            label = places.get(component, UNLABELLED)
            groups[name].setdefault(label, []).append(int(place))
        kept = sorted(place for part in groups[name].values() for place in part)
        assert 0 < len(kept) < values.shape[1]
        shown = np.abs(values[:, kept]).sum(1).mean()
        assert graph.share_shown[name] == pytest.approx(shown, abs=1e-5)
    nodes = {node.id: node for node in graph.nodes}
    assert nodes["target"].label == "class1"
    for name, found in groups.items():
        for label, members in found.items():
            node = nodes.pop(f"{name}/{label}")
            together = share[name][:, members].sum(1)
            assert node.mean == pytest.approx(together.mean(), abs=1e-5)
            assert abs(node.maximum) == pytest.approx(np.abs(together).max(), abs=1e-5)
            first = db.layer(name).first
            assert set(node.components) == {str(db.component(first + p)) for p in members}
    assert set(nodes) == {"target"}
    weights = {(edge.source, edge.target): edge.weight for edge in graph.edges}
    relative = edges / total["first"][:, :, None]
    for above, uppers in groups["second"].items():
        mean = share["second"][:, uppers].sum(1).mean()
        assert weights.pop(("target", f"second/{above}")) == pytest.approx(mean, abs=1e-5)
        for below, lowers in groups["first"].items():
            expected = relative[:, uppers][:, :, lowers].sum((1, 2)).mean()
            found = weights.pop((f"second/{above}", f"first/{below}"))
            assert found == pytest.approx(expected, abs=1e-5)
    assert not weights
    upper = [place for part in groups["second"].values() for place in part]
    lower = [place for part in groups["first"].values() for place in part]
    arrived = np.zeros_like(share["first"])
    arrived[:, lower] = relative[:, upper].sum(1)[:, lower]
    missing = np.abs(share["first"] - arrived).sum(1).mean()
    assert graph.edges_shown["first"] == pytest.approx(1 - missing, abs=1e-5)


def test_nothing_is_lost_when_everything_is_kept(db, without_bias, images):
    graph = attribution_graph(db, 0, samples=SAMPLES, minimum=0.0, rules=PLAIN)
    assert len(graph.nodes) == 1 + 6 + 20  # each component is a group of its own
    assert graph.share_shown == pytest.approx({"first": 1, "second": 1}, abs=1e-5)
    assert graph.edges_shown == pytest.approx({"first": 1, "second": 1}, abs=1e-5)
    assert graph.overall == pytest.approx(1, abs=1e-5)
    for node in graph.nodes[1:]:
        arriving = sum(edge.weight for edge in graph.edges if edge.target == node.id)
        assert arriving == pytest.approx(node.mean, abs=1e-5)
    share = sum(node.mean for node in graph.nodes if node.layer == "first")
    low, _, _ = by_hand(without_bias, images, SAMPLES, 0)
    assert share == pytest.approx((low.sum(1) / np.abs(low).sum(1)).mean(), abs=1e-5)


@pytest.mark.parametrize("rules", ["epsilon-plus-flat", "gradient"])
def test_batches_and_chunks_change_nothing(db, monkeypatch, rules):
    seen: list[tuple[str, int, int]] = []

    def ask(batch_size, chunk):
        monkeypatch.setattr("semlens.lenses.graph.relevance_trace.pairs_per_pass", lambda *_: chunk)
        with progress_listener(lambda *state: seen.append(state)):
            return attribution_graph(db, 2, samples=SAMPLES, rules=rules, batch_size=batch_size)

    whole, parts = ask(5, 1000), ask(2, 4)
    assert [node.id for node in whole.nodes] == [node.id for node in parts.nodes]
    for one, other in zip(whole.edges, parts.edges, strict=True):
        assert (one.source, one.target) == (other.source, other.target)
        assert one.weight == pytest.approx(other.weight, abs=1e-6)
    assert seen[-1] == ("connections", 5, 5)
    assert ("relevance", 4, 5) in seen


def test_one_image_and_top_and_the_layer_order(db, images, pictures):
    picture = images.read(3)
    graph = attribution_graph(
        db, "class0", images=[picture], layers=["second", "first"], top=2, minimum=0.0
    )
    assert graph.layers == ["first", "second"]
    assert graph.images == 1
    assert [len([n for n in graph.nodes if n.layer == name]) for name in LAYERS] == [2, 2]
    for node in graph.nodes:
        assert node.mean == pytest.approx(node.maximum)
    single = attribution_graph(db, 0, images=picture, layers="second")
    assert {edge.source for edge in single.edges} == {"target"}
    for same in (pictures / images.ids[3], images):
        other = attribution_graph(db, 0, images=same, samples=[0] if same != images else [3])
        assert other.to_json() == attribution_graph(db, 0, images=picture).to_json()


def test_any_class_on_any_samples(db):
    with pytest.raises(DataError, match="samples="):
        attribution_graph(db, "c")  # which no sample has
    graph = attribution_graph(db, "c", samples=[0, 1])
    assert (graph.target, graph.name, graph.images) == (2, "c", 2)


def test_labels_of_a_concept_set_make_the_groups(db):
    concepts = ConceptSet.of(["dog", "car"])
    middle = float(np.median(db.label(concepts).score[:, 0]))
    labels = db.label(concepts, threshold=middle)
    graph = db.attribution_graph(1, labels, samples=4)
    assert graph.images == 4
    given = {UNLABELLED, *(name for name in labels.names if name)}
    assert {node.label for node in graph.nodes[1:]} <= given
    assert {name.removeprefix("mixed: ") for name in given} <= {"dog", "car", "mixed", UNLABELLED}
    assert UNLABELLED in {node.label for node in graph.nodes}
    for node in graph.nodes[1:]:
        for name in node.components:
            assert (labels.of(Component.parse(name)) or UNLABELLED) == node.label
    same = db.attribution_graph("class1", ["dog", "car"], threshold=middle, samples=4)
    assert same.to_json() == graph.to_json()


def test_wrong_questions(db):
    with pytest.raises(RelevanceError, match="from 0 to 3"):
        attribution_graph(db, 9, samples=[0])
    with pytest.raises(DataError, match="no image"):
        attribution_graph(db, 0, images=[])


class Aside(LittleNet):
    """Runs a layer that the logits do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        self.aside(x)
        return super().forward(x)


def test_a_layer_beside_the_way_to_the_logits_is_named(tmp_path, images, words):
    model = SubjectModel(Aside(), to_tensor, "32", "python:aside")
    db = sl.build(
        tmp_path / "db", model, images, words, ["first", "aside"], examples=2, crop="none"
    )
    with pytest.raises(RelevanceError, match="aside"):
        attribution_graph(db, 0, samples=[0], rules="gradient")


@pytest.mark.slow
def test_results_go_to_json_pandas_and_pictures(db, tmp_path):
    graph = attribution_graph(db, 1, samples=SAMPLES)
    value = json.loads(json.dumps(graph.to_json()))
    assert {"nodes", "edges", "share_shown"} <= set(value)
    assert set(value["share_shown"]) == {"layers", "edges", "overall"}
    nodes, edges = graph.to_pandas(), graph.edges_to_pandas()
    assert (len(nodes), len(edges)) == (len(graph.nodes), len(graph.edges))
    assert "class1" in repr(graph)
    for name in ("graph.json", "graph.svg", "graph.png"):
        graph.save(tmp_path / name)
    assert json.loads((tmp_path / "graph.json").read_text()) == value
    root = ElementTree.parse(tmp_path / "graph.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}g")) == len(graph.nodes)
    pictures = [image.attrib["href"] for image in root.iter(f"{space}image")]
    assert all(href.startswith("data:image/webp;base64,") for href in pictures)
    assert len(pictures) == len(graph.nodes)  # every group has an example, the class an image
    assert f"the lines show {100 * graph.overall:.0f} %" in " ".join(root.itertext())
    drawn = Image.open(tmp_path / "graph.png")
    assert drawn.width == pytest.approx(2 * float(root.attrib["width"]), abs=1)
    assert len(drawn.convert("L").getcolors()) > 50
    with pytest.raises(StoreError, match="svg"):
        graph.save(tmp_path / "graph.pdf")


@pytest.fixture
def command():
    """The command in an application of its own."""
    app = typer.Typer(callback=lambda: None)
    app.command("graph")(graph)

    def run(*arguments, check=0, cwd=Path()):
        with contextlib.chdir(cwd), pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "200")
            ended = CliRunner().invoke(app, ["graph", *map(str, arguments)])
        assert ended.exit_code == check, ended.output
        return ended.stdout, ended.stderr

    return run


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A database whose model, images and embedder can be loaded by their SPECs."""
    folder = tmp_path_factory.mktemp("graph")
    for name in ("mammal", "drink"):
        write_pictures(folder / "pictures", 4, seed=len(name), classes=1)
        (folder / "pictures" / "class0").rename(folder / "pictures" / name)
    sl.build(
        folder / "db", "semlens/demo", folder / "pictures", "semlens/demo",
        ["layer2", "layer3"], examples=3, crop="none",
    )  # fmt: skip
    return folder


@pytest.mark.slow
def test_the_command_writes_json_a_table_and_a_picture(built, command):
    (built / "few.json").write_text('["fur", "wheel", "glass", "brick", "leaf"]')
    few = ("--concepts", "few.json")
    value = json.loads(command("db", "--target", "mammal", *few, "--json", cwd=built)[0])
    assert value["target"] == {"logit": 0, "name": "mammal"}
    assert value["images"] == 4
    assert {node["layer"] for node in value["nodes"]} == {"", "layer2", "layer3"}
    assert not (built / "mammal.svg").exists()
    out, err = command("db", "--target", "0", "--samples", 2, "--layers", "layer3", *few, cwd=built)
    assert "'mammal', 2 images" in out
    assert "layer3: " in out
    assert "layer2" not in out
    assert "connections show" in out
    assert "mammal.svg" in err
    ElementTree.parse(built / "mammal.svg")
    picture = next((built / "pictures").rglob("*.png"))
    command(
        "db", "--target", "drink", "--image", picture, "--concepts", "none", "--top", 5,
        "--save", "one.png", cwd=built,
    )  # fmt: skip
    assert Image.open(built / "one.png").width > 1000


@pytest.mark.slow
def test_the_command_takes_saved_labels(built, command):
    db = sl.open(built / "db")
    db.label(ConceptSet.of(["dog", "car"]), threshold=-1.0).save_to_database("mine")
    value = json.loads(
        command("db", "--target", "mammal", "--labels", "mine", "--json", cwd=built)[0]
    )
    assert {node["label"] for node in value["nodes"]} == {"mammal", "dog", "car"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--target", "mamal"], ["'mamal'", "mammal", "index from 0 to 11"]),
        (["--target", "clock"], ["'clock' has no samples", "drink", "mammal"]),
        (["--target", "0", "--labels", "x"], ["no saved labels 'x'", "semlens label"]),
        (["--target", "0", "--concepts", "x"], ["ConceptError", "'x'"]),
        (["--target", "0", "--save", "x.pdf"], ["x.pdf", ".svg"]),
        (["--target", "0", "--layers", "layer9"], ["'layer9'", "It has"]),
        (["--target", "0", "--image", "x.png"], ["x.png", "cannot be read"]),
    ],
)
def test_the_command_names_what_is_wrong(built, command, arguments, parts):
    said = command("db", *arguments, check=1, cwd=built)[1]
    for part in parts:
        assert part in said


def little(nodes, edges):
    made = [GraphNode("target", "", "an <odd> & long class", (), 1.0, 1.0)]
    made += [GraphNode(f"{n}/{i}", n, f"g{i}", (f"{n}:{i}",), s, s) for n, i, s in nodes]
    return made, [GraphEdge(*edge) for edge in edges]


def test_a_crowded_layer_is_joined_to_one_more_box():
    nodes, edges = little(
        [("a", i, 0.9 / (i + 2)) for i in range(20)] + [("b", 0, -0.5)],
        [("target", "b/0", -0.5)] + [("b/0", f"a/{i}", -0.1) for i in range(20)],
    )
    shown = {"a": 0.5, "b": 0.6}
    heading = GraphHeading("an <odd> & long class", 1, 0.01, shown, shown, 0.5)
    scene = layout_graph(nodes, edges, heading, {})
    assert len(scene.cards) == MAX_CARDS + 2
    more = next(card for card in scene.cards if card.merged)
    assert more.texts[0].text == "+9 more"
    assert more.y == max(card.y for card in scene.cards)  # below the others
    ends = {curve.ends for curve in scene.curves if curve.ends}
    assert len(ends) == MAX_CARDS + 1
    against = next(card for card in scene.cards if card.texts[0].text == "g0" and card.against)
    assert all(curve.against for curve in scene.curves if curve.ends)
    assert against.x > more.x
    for one in scene.cards:
        for other in scene.cards:
            apart = one.x != other.x or abs(one.y - other.y) >= CARD[1]
            assert one is other or apart
    ElementTree.fromstring(draw_svg(scene))  # the odd name is escaped
    assert draw_png(scene).size == (round(2 * scene.width), round(2 * scene.height))


def test_an_empty_layer_can_be_drawn():
    nodes, _ = little([], [])
    heading = GraphHeading("x", 3, 0.9, {"a": 0.0}, {"a": 0.0}, 0.0)
    ElementTree.fromstring(draw_svg(layout_graph(nodes, [], heading, {})))
    draw_png(layout_graph(nodes, [], heading, {}))


def test_the_order_has_no_needless_crossings():
    columns = [["a", "b", "c"], ["x", "y", "z"]]
    links = {("x", "c"): 1.0, ("y", "a"): 1.0, ("z", "b"): -1.0}
    assert crossing_weight(columns, links) == 2
    assert crossing_weight(order_by_barycentre(columns, links), links) == 0
    assert order_by_barycentre(columns, {}) == columns


def test_long_texts_are_cut():
    assert fit_text("grass", 14.0, 200.0) == "grass"
    assert fit_text("a very long label indeed", 14.0, 60.0).endswith("…")
