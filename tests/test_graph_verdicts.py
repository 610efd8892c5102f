"""Groups of a graph show the verdicts on all their members, by relevance and not by one of them."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from html import escape

import pytest
from conftest import LittleNet, build_vegetables, to_tensor
from hypothesis import given
from hypothesis import strategies as st

import semlens as sl
from semlens.draw.graph_layout import GraphNode, verdicts_text
from semlens.draw.graph_picture import draw_png
from semlens.draw.graph_scene import CARD
from semlens.draw.palette import NO_VERDICT, VERDICTS, rgb
from semlens.lenses.audit.saved_audits import review_as_spurious
from semlens.lenses.graph.graph_result import audited_verdicts, verdict_composition
from semlens.models.subject import SubjectModel

KINDS = [*VERDICTS, None]
SHARE = st.fractions(-1, 1, max_denominator=64)


@given(st.lists(st.tuples(SHARE, st.sampled_from(KINDS)), min_size=1, max_size=12))
def test_a_composition_is_the_sum_of_absolute_shares_by_hand(members):
    shares, verdicts = [one for one, _ in members], [kind for _, kind in members]
    found = verdict_composition([float(share) for share in shares], verdicts)
    total = sum((abs(share) for share in shares), Fraction(0))
    expected = {}
    for kind in KINDS:
        parts = [share for share, one in members if one == kind]
        amount = (
            sum(map(abs, parts), Fraction(0)) / total
            if total
            else Fraction(len(parts), len(members))
        )
        if amount:
            expected[kind or NO_VERDICT] = float(amount)
    assert found == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(1)


def test_one_valid_member_of_a_group_does_not_make_it_valid():
    found = verdict_composition([0.013, 0.2, 0.05], ["valid", "unexpected", "unexpected"])
    assert found["valid"] == pytest.approx(0.013 / 0.263)
    node = GraphNode("a/fruit", "a", "fruit", ("a:0", "a:1", "a:2"), 0.263, 0.3, verdicts=found)
    assert verdicts_text(node) == "95 % unexpected, 5 % valid"


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    names = ["vegetable", "ox", "clock", "d"]
    model = SubjectModel(LittleNet(seed=3), to_tensor, "32", "python:little", names)
    made = build_vegetables(tmp_path_factory.mktemp("verdicts"), model)
    made.label(sl.ConceptSet.of(["dog", "car", "tree"])).save_to_database("mine")
    made.audits.add("vegetable", {"valid": ["dog", "fur"], "spurious": ["car", "text"]})
    return made


@pytest.fixture(scope="module")
def graph(db):
    return db.attribution_graph("vegetable", minimum=0.0)


@pytest.mark.slow
def test_every_group_is_judged_by_all_its_members(db, graph):
    verdicts = audited_verdicts(db, 0)
    (saved,) = db.audits.readable()
    judged = db.audits.run(saved, resamples=0).frame
    assert verdicts == dict(zip(judged["component"], judged["verdict"], strict=True))
    # of single components, the share of a node is that of the component
    single = db.attribution_graph("vegetable", "none", minimum=0.0)
    share = {node.components[0]: node.mean for node in single.nodes[1:]}
    assert graph.nodes[0].verdicts is None
    groups = [node for node in graph.nodes[1:] if len(node.components) > 1]
    assert groups
    for node in groups:
        assert node.shares == pytest.approx([share[name] for name in node.components], abs=1e-6)
        total = sum(abs(share[name]) for name in node.components)
        for kind in (*VERDICTS, NO_VERDICT):
            of_kind = [
                abs(share[name])
                for name in node.components
                if verdicts.get(name, NO_VERDICT) == kind
            ]
            assert node.verdicts.get(kind, 0) == pytest.approx(sum(of_kind) / total, abs=1e-6)


@pytest.mark.slow
def test_the_json_and_the_table_have_the_compositions(graph, capsys):
    nodes = json.loads(json.dumps(graph.to_json()))["nodes"]
    assert [node["verdicts"] for node in nodes] == [node.verdicts for node in graph.nodes]
    from rich.console import Console

    Console(width=200).print(graph)
    assert "verdicts" in capsys.readouterr().out


def test_the_picture_has_a_stacked_bar_with_words(graph):
    svg = graph.svg()
    drawn = [float(width) for width in re.findall(r'class="v valid"[^>]*? width="([\d.]+)"', svg)]
    shares = [n.verdicts["valid"] for n in graph.nodes if n.verdicts and "valid" in n.verdicts]
    assert len(drawn) == len(shares) + 1  # and the legend
    assert all(0 < width <= CARD[0] for width in drawn)
    words = [verdicts_text(node) for node in graph.nodes if node.verdicts]
    assert all(f"verdicts, by relevance: {escape(text)}" in svg for text in words)
    colours = {colour for _, colour in draw_png(graph._scene()).getcolors(1 << 24)}
    assert rgb(VERDICTS["unexpected"]) in colours


def test_a_component_that_a_person_marked_is_spurious(db):
    name = next(name for name, kind in audited_verdicts(db, 0).items() if kind != "spurious")
    review_as_spurious(db, 0, [name])
    assert audited_verdicts(db, 0)[name] == "spurious"
    review_as_spurious(db, 0, [name], on=False)
    assert audited_verdicts(db, 0)[name] != "spurious"


def test_without_class_relevance_or_on_request_there_are_no_verdicts(db):
    plain = db.attribution_graph("vegetable", minimum=0.0, verdicts=False)
    assert {node.verdicts for node in plain.nodes} == {None}
    assert 'class="v' not in plain.svg()
