"""Pruned graphs compared with directly traced graphs, and with sums computed by hand in float64."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor
from torch import nn

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import RelevanceError, StaleError
from semlens.lenses.graph.attribution_graph import prune_graph
from semlens.lenses.graph.relevance_trace import (
    GraphTrace,
    TracedLayer,
    reached_layers,
    trace_class,
)
from semlens.models.subject import SubjectModel
from semlens.types import Component

SAMPLES = [0, 2, 5, 8, 11]
LABELS = {Component("first", c): f"low {c % 2}" for c in range(5)} | {
    Component("second", c, s): f"high {c % 3}" for c in range(9) for s in (1, -1)
}


@pytest.fixture(scope="module")
def images(pictures):
    return ImageFolder(pictures)


@pytest.fixture(scope="module")
def subject():
    """Three layers, of which the middle one goes negative; class names that the data has."""
    net = LittleNet(seed=3)
    net.head = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))
    return SubjectModel(net, to_tensor, "32", "python:little", ["class0", "class1", *"cd"])


@pytest.fixture(scope="module")
def db(tmp_path_factory, subject, images):
    path = tmp_path_factory.mktemp("prune") / "db"
    layers = ["first", "second", "head.1"]
    return sl.build(path, subject, images, WordEmbedder(), layers, examples=2, crop="none")


@pytest.fixture(scope="module")
def trace(db):
    """Of every component: 6, 20 (both signs) and 8."""
    return trace_class(db, "class1", samples=SAMPLES, batch_size=2)


def assert_equal(pruned, traced):
    assert [node.id for node in pruned.nodes] == [node.id for node in traced.nodes]
    for one, other in zip(pruned.nodes, traced.nodes, strict=True):
        assert one.components == other.components
        assert one.label == other.label
        assert one.mean == pytest.approx(other.mean, abs=1e-6)
        assert one.maximum == pytest.approx(other.maximum, abs=1e-6)
    mine = {(edge.source, edge.target): edge.weight for edge in pruned.edges}
    theirs = {(edge.source, edge.target): edge.weight for edge in traced.edges}
    assert mine.keys() == theirs.keys()
    assert mine == pytest.approx(theirs, abs=2e-6)
    assert pruned.share_shown == pytest.approx(traced.share_shown, abs=2e-6)
    assert pruned.edges_shown == pytest.approx(traced.edges_shown, abs=5e-6)
    assert pruned.overall == pytest.approx(traced.overall, abs=5e-6)
    assert (pruned.rules, pruned.images, pruned.minimum, pruned.name, pruned.target) == (
        traced.rules, traced.images, traced.minimum, traced.name, traced.target,
    )  # fmt: skip


@pytest.mark.parametrize("labels", [None, LABELS])
@pytest.mark.parametrize(
    ("minimum", "top"), [(0.0, None), (0.06, None), (0.12, None), (0.0, 3), (0.05, 4), (0.9, None)]
)
def test_pruning_is_tracing_anew(db, trace, labels, minimum, top):
    traced = db.attribution_graph(1, labels, samples=SAMPLES, minimum=minimum, top=top)
    assert_equal(prune_graph(trace, db, labels, minimum=minimum, top=top), traced)


def test_some_layers_have_a_trace_of_their_own(db):
    layers = ["second", "first"]
    trace = trace_class(db, 0, samples=SAMPLES, layers=layers, max_components=4)
    assert [layer.name for layer in trace.layers] == ["first", "second"]
    assert [len(layer.indices) for layer in trace.layers] == [4, 4]
    traced = db.attribution_graph(0, LABELS, samples=SAMPLES, layers=layers, minimum=0.01, top=4)
    assert_equal(prune_graph(trace, db, LABELS, minimum=0.01, top=4), traced)


def made_up(seed, lower=5, upper=4, samples=3):
    """A trace with numbers of its own; nothing comes to the last sample."""
    random = np.random.default_rng(seed)

    def layer(name, count, came):
        share = random.normal(size=(samples, count))
        share /= np.abs(share).sum(1, keepdims=True)
        share[-1] = 0
        order = np.argsort(-np.abs(share).max(0), kind="stable")
        mass = np.abs(share).sum(1).astype(np.float32)
        return TracedLayer(name, order, share[:, order].astype(np.float32), mass, came)

    came = random.normal(scale=0.1, size=(samples, upper, lower)).astype(np.float32)
    came[-1] = 0
    none = np.zeros((samples, 0, upper), np.float32)
    layers = (layer("first", lower, came), layer("second", upper, none))
    return GraphTrace(1, tuple(range(samples)), "by hand", layers)


@pytest.mark.parametrize("seed", range(6))
def test_what_edges_explain_is_summed_by_hand(db, seed):
    trace = made_up(seed, lower=6, upper=20)
    minimum, top = 0.08, 5
    graph = prune_graph(trace, db, LABELS, minimum=minimum, top=top)
    low, high = trace.layers
    kept = {}
    for layer in trace.layers:
        strength = np.abs(layer.share.astype(np.float64)).max(0)
        kept[layer.name] = [k for k in range(len(strength)) if strength[k] >= minimum][:top]
        assert 0 < len(kept[layer.name]) < len(strength)
    explained, shown = 0.0, 0.0
    for s in range(3):
        total = sum(abs(float(v)) for v in low.share[s])
        missing = 0.0
        for k in range(len(low.indices)):
            own = float(low.share[s, k])
            came = (
                sum(float(low.received[s, a, k]) for a in kept["second"])
                if k in kept["first"]
                else 0
            )
            missing += abs(own - came)
        explained += (1 - missing) / 3 if total > 0 else 0.0
        shown += sum(abs(float(low.share[s, k])) for k in kept["first"]) / 3
    assert graph.edges_shown["first"] == pytest.approx(explained, abs=1e-6)
    assert graph.share_shown["first"] == pytest.approx(shown, abs=1e-6)

    def label(layer, k):
        component = db.component(db.layer(layer.name).first + int(layer.indices[k]))
        return f"{layer.name}/{LABELS.get(component, '?')}"

    sums = {}
    for a in kept["second"]:
        for k in kept["first"]:
            key = (label(high, a), label(low, k))
            sums[key] = sums.get(key, 0.0) + sum(float(low.received[s, a, k]) for s in range(3)) / 3
    found = {(e.source, e.target): e.weight for e in graph.edges if e.source != "target"}
    assert found == pytest.approx(sums, abs=1e-7)


def test_a_shallow_trace_refuses_what_it_does_not_hold(db):
    trace = trace_class(db, 1, samples=SAMPLES, max_components=3)
    least = max(float(layer.strength[-1]) for layer in trace.layers)
    assert len(prune_graph(trace, db, minimum=least + 1e-4).nodes) > 1  # nothing is left out
    with pytest.raises(RelevanceError) as caught:
        prune_graph(trace, db, minimum=0.0)
    assert_says(caught.value, "More than 3 components of 'first'", "top to be at most 3")
    with pytest.raises(RelevanceError):
        prune_graph(trace, db, minimum=0.0, top=4)
    assert [node.layer for node in prune_graph(trace, db, minimum=0.0, top=3).nodes].count(
        "first"
    ) == 3


def without_model(db):
    """The same database, that must not run its model."""
    fresh = sl.open(db.path)
    fresh.check_model = pytest.fail
    return fresh


def test_a_kept_trace_is_the_same(db, trace):
    again = trace_class(without_model(db), 1, samples=np.array(SAMPLES), layers=db.layers[::-1])
    assert (again.target, again.samples, again.rules) == (1, tuple(SAMPLES), trace.rules)
    for one, other in zip(again.layers, trace.layers, strict=True):
        assert one.name == other.name
        for part in ("indices", "share", "total", "received"):
            np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
            assert getattr(one, part).dtype == getattr(other, part).dtype
            assert getattr(one, part).shape == getattr(other, part).shape


def test_what_decides_a_trace_decides_the_table(db, trace):
    kept = set()
    for target, settings in (
        (1, {}), (2, {}), (1, {"samples": SAMPLES[:-1]}), (1, {"layers": ["first", "second"]}),
        (1, {"max_components": 7}),
    ):  # fmt: skip
        trace_class(db, target, **{"samples": SAMPLES, **settings})
        kept.add(len(db.list_analyses("graph-")))
    assert len(kept) >= 4  # the first is known from before, and others may be, too
    before = db.list_analyses("graph-")
    trace_class(without_model(db), "class1", samples=SAMPLES, max_components=7)
    assert db.list_analyses("graph-") == before


def test_only_images_that_are_used_are_verified(db, subject, pictures, tmp_path):
    moved = tmp_path / "moved"
    for number in SAMPLES:
        path = moved / db.sample(number).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((pictures / db.sample(number).path).read_bytes())
    elsewhere = sl.open(db.path, model=subject, images=moved)  # all others are missing
    graph = elsewhere.attribution_graph(1, None, samples=SAMPLES)
    path.write_bytes((pictures / db.sample(1).path).read_bytes())
    with pytest.raises(StaleError) as caught:
        elsewhere.attribution_graph(1, None, samples=SAMPLES)
    assert_says(caught.value, db.sample(SAMPLES[-1]).path, "has changed")
    assert graph.images == len(SAMPLES)


class Aside(LittleNet):
    """Runs a layer that the logits do not depend on."""

    def __init__(self):
        super().__init__()
        self.aside = nn.Conv2d(3, 5, 3)

    def forward(self, x):
        self.aside(x)
        return super().forward(x)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The captured pass of Aside")
def test_layers_that_relevance_does_not_reach_are_left_out(tmp_path, images, db):
    model = SubjectModel(Aside(), to_tensor, "32", "python:aside", ["class0", "class1", *"cd"])
    beside = sl.build(
        tmp_path / "db", model, images, WordEmbedder(), ["aside", "first"], examples=2,
        crop="none", relevance=True,
    )  # fmt: skip
    assert reached_layers(beside, 1, None) == ["first"]
    assert reached_layers(beside, 3, None) == beside.layers  # a class without samples
    assert [layer.name for layer in trace_class(beside, 1).layers] == ["first"]
    assert reached_layers(beside, 1, ["aside"]) == ["aside"]  # tracing it says what is wrong
    assert reached_layers(db, 1, None) == db.layers  # of which no relevance is known
