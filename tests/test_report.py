"""A report: one safe file that needs nothing, says what was found, and what was not."""

from __future__ import annotations

import datetime
import json
import shlex
import shutil
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from importlib.metadata import EntryPoint

import pandas as pd
import pytest
import typer
from conftest import (
    ColourEmbedder,
    LittleNet,
    WordEmbedder,
    assert_says,
    to_tensor,
    write_pictures,
)
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.artefact import load_artefact
from semlens.data.image_folder import ImageFolder
from semlens.draw.graph_layout import verdicts_text
from semlens.errors import ConceptError, DataError, RecipeError, RelevanceError, StoreError
from semlens.figures import FigureSpec, Series, Values
from semlens.lens import lens
from semlens.lenses.accuracy import LabelledImages
from semlens.lenses.arguments import Class
from semlens.lenses.audit.audit_records import AuditSettings
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.correct.artefact_sensitivity import accuracies, with_artefacts
from semlens.lenses.report import lens_sections as lens_sections_module
from semlens.lenses.report.closing_sections import reproduce
from semlens.lenses.report.correction_sections import (
    read_model_test,
    read_sensitivity,
)
from semlens.lenses.report.lens_sections import lens_sections
from semlens.lenses.report.section_parts import SkippedSection
from semlens.lenses.result import Result
from semlens.lenses.result import Section as ResultSection
from semlens.lenses.swap.swap_result import Swap
from semlens.models.subject import SubjectModel
from semlens.progress import progress_listener
from semlens.store.reader import Database

LAYERS = ["first", "second"]
DATE = datetime.date(2026, 1, 31)
CONCEPTS = ConceptSet(
    tuple(Concept(name, (), "valid") for name in ("dog", "green frog", "fur"))
    + tuple(Concept(name, (), "spurious") for name in ("car", "tree", "text")),
    "expected",
    "the test",
)
OF_LENSES = [one.name for one in lens_sections([])]
ON_REQUEST = [one.name for one in lens_sections([]) if one.on_request]
SECTIONS = [
    "audit", "unexpected", "graph", "map", "examples", "repair", "test", "correction", *OF_LENSES,
    "overview", "identity", "limits", "reproduce",
]  # fmt: skip
NO_MAP = SkippedSection("UMAP is tested elsewhere.")


def report(db, target, concepts, **settings):
    """A report without its slow parts, unless they are given."""
    settings = {
        "concept_map": NO_MAP, "graph": False, "before_after": False, "date": DATE, **settings
    }  # fmt: skip
    return db.report(target, concepts, **settings)


def little(names="abcd"):
    return SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list(names))


def make(path, pictures, embedder, names=("a", "b", "c", "d"), **settings):
    images = ImageFolder(pictures)
    targets = [names[(0, 1, 3)[i % 3]] for i in range(len(images))]
    settings = {"examples": 6, "relevance": True, "targets": targets, **settings}
    return sl.build(path, little(names), images, embedder, LAYERS, **settings)


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    return make(tmp_path_factory.mktemp("report") / "db", pictures, WordEmbedder())


@pytest.fixture(scope="module")
def audit(db):
    return db.audit("b", CONCEPTS, resamples=20)


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, html):
        super().__init__()
        self.found, self.text, self.open = [], {}, []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("img", "meta"):
            self.open.append(tag)
        if tag == "section":
            self.section = dict(attrs)["id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data):
        key = getattr(self, "section", "head")
        self.text[key] = self.text.get(key, "") + data

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def check_page(html):
    """Refuse a page that could ask for anything, run anything, or not be read aloud."""
    page = Page(html)
    assert page.open == []
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "iframe", "object", "embed", "link", "form", "base", "svg"}
    for tag, attrs in page.found:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for name in ("src", "href", "srcset", "action", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:image/", "#")), (tag, value)
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'; img-src data:")
    assert page.all("html")[0]["lang"] == "en"
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a")} == {a["id"] for a in page.all("section")}
    assert all(image["alt"].strip() for image in page.all("img"))
    assert tags >= {"h1", "h2", "nav", "main", "caption"}
    assert len(page.all("h1")) == 1
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in head for head in page.all("th"))
    return page


@pytest.mark.slow
def test_all_sections_stand_there_with_what_was_found(db, audit):
    found = report(db, "b", CONCEPTS, audit=audit)
    page = check_page(found.html)
    assert [a["id"] for a in page.all("section")] == SECTIONS
    assert found.to_pandas()["section"].tolist() == SECTIONS
    head, identity = page.text["head"], page.text["identity"]
    assert "2026-01-31" in head
    assert sl.__version__ in head
    assert found.page.sentence in head
    manifest = db.manifest
    for source in (manifest.model, manifest.data, manifest.embedder):
        assert source.spec in identity
        assert source.fingerprint in identity
    assert db.fingerprint in identity
    assert "dog, green frog, fur" in identity
    assert "car, tree, text" in identity
    told = page.text["audit"]
    for row in audit.shares.to_dict("records"):
        assert f"{100 * row['by_relevance']:.1f} %" in told
    for row in audit.frame.head(12).to_dict("records"):
        assert row["component"] in told
        assert f"{100 * row['mean']:.1f} %" in told
        if row["valid_concept"] is not None:
            assert f"{row['valid']:+.3f}" in told
    for row in db.scores().per_layer().to_dict("records"):
        assert f"{row['clarity']:.3f}" in page.text["overview"]
    examples = page.text["examples"]
    first = db.row(sl.Component.parse(audit.frame["component"][0]))
    assert all(e.path in examples for e in db.examples_of(first))


@pytest.mark.slow
def test_the_verdict_follows_the_audit(db, audit):
    found = report(db, "b", CONCEPTS, audit=audit)
    assert found.page.verdict.text == audit.standing.word
    assert audit.standing.sentence() in found.page.sentence
    assert f"{audit.p_value:.3f}" in found.page.sentence
    assert audit.standing.shares() in found.page.sentence
    assert f"{100 * audit.share('unexpected'):.0f} %" in found.page.sentence
    valid = db.audit("b", CONCEPTS.of_kind("valid"), resamples=0)
    one_side = report(db, "b", CONCEPTS, audit=valid)
    assert "has no spurious concepts on its list" in one_side.page.sentence
    assert one_side.page.verdict.kind == "open"


@pytest.mark.slow
def test_unexpected_components_are_those_of_the_audit(db, audit):
    found = report(db, "b", CONCEPTS, audit=audit, shown=99)
    told = check_page(found.html).text["unexpected"]
    names = [str(component) for component in audit.unexpected]
    assert names
    others = set(audit.frame["component"]) - set(names)
    assert all(name in told for name in names)
    assert not any(f"{name}\n" in told or f">{name}<" in told for name in others)
    described = db.unexpected("b", CONCEPTS, components=audit.unexpected)
    assert described.components == names
    assert described.threshold is None


@pytest.mark.slow
def test_the_same_report_twice_is_the_same_file(db, tmp_path):
    fewer = CONCEPTS.of_kind("spurious")
    for name in ("one.html", "two.html"):
        report(db, "b", fewer, shown=3).save(tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


@pytest.mark.slow
def test_the_date_is_today_unless_it_is_given(db):
    found = report(db, "c", CONCEPTS, date=None)
    assert datetime.date.today().isoformat() in found.page.created


BAD = "<script>alert(1)</script>"


@pytest.mark.slow
def test_names_of_classes_files_and_concepts_are_harmless(tmp_path, words):
    folder = write_pictures(tmp_path / "pictures", 12)
    for place, path in enumerate(sorted(folder.rglob("*.png"))):
        path.rename(path.with_name(f'{place}"><script>alert(1)<img onerror=x>.png'))
    db = make(tmp_path / "db", folder, words, names=("a", BAD, "c", '" onload="x'))
    concepts = ConceptSet(
        (Concept(BAD, (), "valid"), Concept("{{ 7 * 7 }} car", (), "spurious")), BAD, BAD
    )
    found = report(
        db, BAD, concepts, concept_map=SkippedSection(BAD), graph=SkippedSection("<b>x</b>"),
        audit=db.audit(BAD, concepts, resamples=0, threshold=-2.0), command=["semlens", BAD],
    )  # fmt: skip
    page = check_page(found.html)
    assert BAD in page.text["head"]
    assert "{{ 7 * 7 }} car" in page.text["audit"]
    assert "49 car" not in found.html
    assert any('"><script>alert(1)<img onerror=x>.png' in a["alt"] for a in page.all("img"))
    assert "<b>x</b>" in page.text["graph"]
    assert BAD not in found._repr_html_()


@pytest.mark.slow
def test_parts_that_cannot_be_made_say_why(tmp_path, pictures, words):
    db = make(tmp_path / "db", pictures, words, relevance=False, thumbnails=False)
    found = report(db, "b", CONCEPTS)
    page = check_page(found.html)
    table = found.to_pandas().set_index("section")
    assert table["made"].to_dict() == {
        key: key in ("identity", "overview", "limits", "reproduce") for key in SECTIONS
    }
    for key in ("audit", "unexpected", "examples"):
        assert "no class relevance" in table["reason"][key]
        assert "--relevance" in page.text[key]
    assert found.page.verdict.text == "No verdict"
    assert "UMAP is tested elsewhere." in page.text["map"]
    assert "an artefact to insert" in page.text["test"]
    limits = page.text["limits"]
    for key in ("map", "audit", "graph", "test", "correction"):
        assert table["reason"][key] in limits
    assert "Missing sections" in found.__repr__()
    with pytest.raises(RelevanceError, match="no audit"):
        found.plot()


@pytest.mark.slow
def test_a_database_without_thumbnails_or_texts(tmp_path, pictures):
    db = make(tmp_path / "db", pictures, ColourEmbedder(), thumbnails=False)
    found = report(db, "b", CONCEPTS)
    table = found.to_pandas().set_index("section")
    assert "images only" in table["reason"]["audit"] + table["reason"]["unexpected"]
    check_page(found.html)


def test_concepts_without_sides_give_no_audit_but_unexpected_components(db):
    found = report(db, "b", ConceptSet.of(["dog", "car"]))
    table = found.to_pandas().set_index("section")
    assert "no valid and no spurious concepts" in table["reason"]["audit"]
    assert table["made"]["unexpected"]
    assert "above noise" in check_page(found.html).text["unexpected"]


@pytest.fixture(scope="module")
def sections(db, pictures):
    """A graph, a test and a correction of the little model."""
    images, model = ImageFolder(pictures), little()
    graph = db.attribution_graph(1, db.label(CONCEPTS), samples=[1, 4])
    patch = load_artefact("patch:255,0,0")
    test = db.model_test(1, artefacts=[patch])
    targets = [(0, 1, 3)[i % 3] for i in range(len(images))]
    other = SubjectModel(LittleNet(3), to_tensor, "32 bilinear", "python:other", list("abcd"))
    clean = {"clean": LabelledImages.of(images, model, targets)}
    correction = accuracies({"before": model, "after": other}, with_artefacts(clean, [patch]))
    return graph, test, correction


@pytest.mark.slow
def test_graph_test_and_correction_are_shown(db, audit, sections):
    graph, test, correction = sections
    found = report(
        db, "b", CONCEPTS, audit=audit, graph=graph, model_test=test,
        sensitivity=correction,
    )  # fmt: skip
    page = check_page(found.html)
    assert found.to_pandas().set_index("section")["made"].drop(["map", "repair", *ON_REQUEST]).all()
    one = test.sets[0]
    assert f"{one.auroc:.3f} ({one.interval[0]:.3f} to {one.interval[1]:.3f})" in page.text["test"]
    assert f"{100 * one.outputs.top(1):.1f} %" in page.text["test"]
    for row in correction.frame[correction.frame["class"] == "all"].to_dict("records"):
        assert f"{100 * row['accuracy']:.1f} %" in page.text["correction"]
    assert found.page.more[0] in page.text["head"]
    assert f"{one.auroc:.3f}" in found.page.more[0]
    assert "before" in found.page.more[1]
    assert f"{100 * graph.overall:.0f} %" in page.text["graph"]
    limits = page.text["limits"]
    assert "has no model test" not in limits
    assert "Tested: patch" in limits
    assert "trained on them" in limits


@pytest.mark.slow
def test_a_report_makes_its_graph_and_its_test(db, audit, sections, tmp_path):
    seen = []
    with progress_listener(lambda *told: seen.append(told)):
        found = db.report("b", CONCEPTS, artefacts="patch:255,0,0", concept_map=False, date=DATE)
    assert {what for what, _, _ in seen} >= {"report", "resampling examples", "with patch"}
    assert [done for what, done, _ in seen if what == "report"] == list(range(7 + len(OF_LENSES)))
    page = check_page(found.html)
    made = found.to_pandas().set_index("section")["made"]
    assert made[~made].index.tolist() == ["map", "repair", "correction", *ON_REQUEST]
    assert "The map was not requested." in page.text["map"]
    one = sections[1].sets[0]
    assert f"{one.auroc:.3f} ({one.interval[0]:.3f} to {one.interval[1]:.3f})" in page.text["test"]
    # the graph is of the class's samples, by name, with the verdicts of the audit
    samples = [i for i in range(len(db.samples)) if db.samples["logit"][i] == 1]
    verdicts = dict(zip(audit.frame["component"], audit.frame["verdict"], strict=True))
    graph = db.attribution_graph(1, samples=samples, verdicts=verdicts)
    for node in sorted(graph.nodes[1:], key=lambda node: -node.mean)[:5]:
        assert f"{node.label}" in page.text["graph"]
        assert verdicts_text(node) in page.text["graph"]
    assert f"{100 * graph.overall:.0f} % of the relevance" in found.html
    other = db.report(
        "b",
        CONCEPTS,
        audit=audit,
        graph=graph,
        model_test=sections[1],
        concept_map=False,
        date=DATE,
    )
    assert check_page(other.html).text["graph"] == page.text["graph"]


@pytest.mark.slow
def test_a_saved_audit_is_a_report(db):
    wanted = {"minimum": 0.02, "layers": ["second"], "threshold": (0.0, None), "seed": 2}
    kept = db.audits.add("b", CONCEPTS, settings=AuditSettings(**wanted))
    found = report(db, None, None, saved=kept.id)
    assert "Review by people" in found.html
    plain = db.audit("b", CONCEPTS, **wanted)
    assert found.audit.frame.drop(columns="marked").equals(plain.frame)
    assert found.audit.p_value == plain.p_value
    assert found.html == report(db, None, None, saved=kept, audit=plain).html


@pytest.mark.slow
def test_saved_results_read_back_say_the_same(db, audit, sections, tmp_path):
    _, test, correction = sections
    test.save(tmp_path / "test.json")
    correction.save(tmp_path / "evaluate.json")
    read = read_sensitivity(tmp_path / "evaluate.json")
    pd.testing.assert_frame_equal(read.frame, correction.frame, check_exact=False, rtol=1e-12)
    live, saved = (
        report(
            db, "b", CONCEPTS, audit=audit, model_test=one,
            sensitivity=two,
        )
        for one, two in (
            (test, correction),
            (read_model_test(tmp_path / "test.json", "b"), read),
        )
    )  # fmt: skip
    assert saved.page.more == live.page.more
    assert check_page(saved.html).text["correction"] == check_page(live.html).text["correction"]


@pytest.mark.parametrize(
    "text", ["[", "[1]", "{}", '{"class": "b", "model": "m", "real": {}, "sets": [{"set": "x"}]}',
             '{"rows": []}', '{"rows": [{"model": "x"}]}'],
)  # fmt: skip
def test_saved_results_of_another_kind_are_refused(tmp_path, text):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(DataError) as error:
        read_model_test(tmp_path / "wrong.json", "b")
    assert_says(error.value, "wrong.json", "semlens classes model-test")
    with pytest.raises(DataError) as error:
        read_sensitivity(tmp_path / "wrong.json")
    assert_says(error.value, "wrong.json", "semlens correct sensitivity")
    with pytest.raises(DataError, match=r"none\.json"):
        read_sensitivity(tmp_path / "none.json")


def test_a_saved_test_of_another_class_is_refused(sections, tmp_path):
    sections[1].save(tmp_path / "test.json")
    with pytest.raises(DataError) as error:
        read_model_test(tmp_path / "test.json", "a")
    assert_says(error.value, "'b'", "'a'")


@pytest.mark.slow
def test_limits_are_those_of_this_report(db):
    few = db.audit("b", CONCEPTS, layers=["second"], threshold=0.0, resamples=0)
    text = check_page(report(db, "b", CONCEPTS, audit=few).html).text["limits"]
    assert "fixed threshold" in text
    assert "No examples were resampled" in text
    assert "14 of them of 'b'" in text
    assert "are few" in text
    assert "3 valid and 3 spurious" in text
    calibrated = db.audit("b", CONCEPTS, resamples=20)
    text = check_page(report(db, "b", CONCEPTS, audit=calibrated).html).text["limits"]
    unsure = int((calibrated.frame["certainty"] < 0.9).sum())
    assert f"{unsure} of {len(calibrated.frame)} verdicts" in text
    assert "paper-vocabulary" in text


def test_the_build_command_has_the_recipe(db, tmp_path, pictures, words):
    other = make(
        tmp_path / "db", pictures, words, relevance=False, thumbnails=False, crop="none",
        readout="max",
    )  # fmt: skip
    group = typer.main.get_command(app)
    command = group.get_command(typer.Context(group), "build")
    parsed = []
    for made in (db, other):
        named = shutil.copytree(made.path, tmp_path / f"named{len(parsed)}")
        manifest = json.loads((named / "manifest.json").read_text())
        for source, spec in (("model", "timm/x"), ("data", "/a b"), ("embedder", "semlens/demo")):
            manifest[source]["spec"] = spec
        (named / "manifest.json").write_text(json.dumps(manifest))
        _, commands, _ = reproduce(sl.open(named, embedder=words), ["semlens"], "1").blocks
        line = shlex.split(commands.lines[0])
        parsed.append(command.make_context("build", line[2:]).params)
        assert line[2] == named.name
    first, second = parsed
    assert (first["relevance"], bool(second["relevance"])) == (True, False)
    assert (first["examples"], first["layers"]) == (6, "first,second")
    assert second["thumbnails"] is False
    assert (second["crop"], second["readout"]) == ("none", "max")
    # objects of Python have no command, and the report says so
    text, commands, _ = reproduce(db, ["semlens", "report"], "1").blocks
    assert "built in Python" in text.text
    assert commands.lines == ["semlens report"]


def border_swap_of(*rows):
    names = ["class", "logit", "part", "size", "gain", "p_value", "adjusted", "detected"]
    components = ["class", "part", "size", "component", "carried", "named"]
    return Swap(
        pd.DataFrame(rows, columns=names), pd.DataFrame(columns=components), {"border": 64}, 2
    )


@pytest.mark.slow
def test_borders_of_the_class_are_told_in_a_sentence_and_a_table(db, audit):
    rows = [
        ("a", 0, "border", 0.15, 4.2, 0.0004, 0.0016, True),
        ("a", 0, "border", 0.25, 3.0, 0.01, 0.04, True),
        ("b", 1, "border", 0.25, 0.31, 0.3, 1.0, False),
        ("b", 1, "border", 0.15, -0.2, 0.5, 1.0, False),
    ]
    found = report(db, "b", CONCEPTS, audit=audit, results={"swap": border_swap_of(*rows)})
    page = check_page(found.html)
    text = page.text["swap"]
    assert "change its logit by +0.31 on average (border 25 %)" in " ".join(text.split())
    assert "within the range of the other classes" in text
    assert "adjusted p = 1.000" in text
    for part in ("4.200", "0.0016", "-0.200", "marks in the middle"):
        assert part in text
    assert border_swap_of(*rows).section("b").sentences[0] in page.text["head"]
    (detected,) = border_swap_of(*rows).section("a").sentences
    assert "relies on its surroundings (adjusted p = 0.0016)" in detected
    (untested,) = border_swap_of(*rows).section("c").sentences
    assert "'c' was not among the classes tested" in untested
    # run by the report: this database has images of too few classes
    missing = report(db, "b", CONCEPTS, audit=audit, run=["swap"]).to_pandas()
    assert "images of 3 classes" in missing.set_index("section")["reason"]["swap"]


def test_a_lens_of_another_package_has_a_section(db, monkeypatch):
    """The report knows no lens by name: a declared title is enough."""

    @lens(group="Describe", report="How many components are there?")
    def counted(database: Database, target: Class) -> Counted:
        """Count."""
        return Counted(database, target)

    point = EntryPoint("counted", "test_report:counted", "semlens.lenses")
    monkeypatch.setitem(globals(), "counted", counted)
    monkeypatch.setattr(lens_sections_module, "registered", lambda: {"counted": point})
    monkeypatch.setattr(lens_sections_module, "load_lens", lambda name: globals()[name])
    found = report(db, "b", CONCEPTS)
    text = " ".join(check_page(found.html).text["counted"].split())
    for part in ("How many components are there?", "For class 1 there are 26", "A count", "0.125"):
        assert part in text
    assert "For class 1 there are 26" in found.page.more[0]
    picture = next(i for i in check_page(found.html).all("img") if "Counted" in i["alt"])
    assert "Counted. first 6.00, second 20.00." in picture["alt"]


@dataclass(frozen=True, repr=False)
class Counted(Result):
    database: Database
    target: int

    def to_json(self):
        return {"count": self.database.manifest.rows}

    def section(self, target=None):
        series = Series(self.database.components["layer"].value_counts()[LAYERS].tolist())
        figure = FigureSpec("Counted", [Values("", LAYERS, [series], "components")])
        table = pd.DataFrame({"layer": LAYERS, "share": [0.125, 0.5]})
        sentence = f"For class {self.target} there are {self.database.manifest.rows} in '{target}'."
        return ResultSection([sentence], figure, table, "A count is no measure.")

    def __rich__(self):
        return "counted"


@pytest.mark.slow
def test_a_contrast_lists_components_and_logits(db, audit):
    contrast = db.contrast(range(6), range(6, 14), draws=100)
    found = report(db, "b", CONCEPTS, audit=audit, results={"contrast": contrast}, shown=4)
    page = check_page(found.html)
    text = " ".join(page.text["contrast"].split())
    assert f"{contrast.different} of 26 components differ" in text
    for row in contrast.frame.head(4).to_dict("records"):
        assert row["component"] in text
        assert f"{row['auroc']:.3f}{row['low']:.3f}{row['high']:.3f}" in text  # three cells
    assert contrast.frame["component"][4] not in text
    assert f"{contrast.logits['shift'][0]:+.2f}" in text
    assert "does not show which of the differences matters to a decision" in text
    errors = replace(contrast, errors=True).section("b").limits
    assert "does not show which of the differences causes the errors" in errors


@pytest.mark.slow
def test_bad_input(db, tmp_path):
    with pytest.raises(RelevanceError, match="Unknown class 'x'"):
        report(db, "x", CONCEPTS)
    with pytest.raises(StoreError, match=r"\.html"):
        report(db, "b", CONCEPTS).save(tmp_path / "report.pdf")
    with pytest.raises(RecipeError, match="YYYY-MM-DD"):
        report(db, "b", CONCEPTS, date="31.1.2026")
    with pytest.raises(RecipeError, match="saved audit and a class"):
        report(db, "b", CONCEPTS, saved=1)
    with pytest.raises(RecipeError) as error:
        report(db, "b", CONCEPTS, run=["swop"])
    assert_says(error.value, "swop", "swap", "Correct the name")


def test_a_class_without_samples_still_gets_a_report(db):
    found = report(db, "c", CONCEPTS)
    table = found.to_pandas().set_index("section")
    assert "no relevance for class 2" in table["reason"]["audit"]
    check_page(found.html)


MODEL = """
import torch
from torch import nn
from torchvision.transforms import functional as F

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 15 * 15, 2))
    return net, lambda image: F.to_tensor(F.resize(image, [32, 32])), ["class0", "class1"]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A database whose model, images and embedder can be loaded by their SPECs."""
    folder = tmp_path_factory.mktemp("command")
    write_pictures(folder / "pictures", 12)
    (folder / "model.py").write_text(MODEL)
    sl.build(
        folder / "db", f"{folder / 'model.py'}:make", folder / "pictures", "semlens/demo", ["1"],
        examples=3, crop="none", relevance=True,
    )  # fmt: skip
    (folder / "set.toml").write_text(
        'target = "class1"\nvalid = ["bottle", "glass"]\nspurious = ["watermark", "letters"]\n'
    )
    return folder


def run(*arguments, check=0):
    words = ["report", *map(str, arguments)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["semlens", *words])
        ended = CliRunner().invoke(app, words)
    assert ended.exit_code == check, ended.output
    return ended


@pytest.mark.slow
def test_the_command(built):
    file = built / "report.html"
    arguments = [
        built / "db", "--concepts", built / "set.toml", "--save", file, "--artefact", "hue",
        "--date", "2026-01-31", "--shown", "3", "--model", f"{built / 'model.py'}:make", "--json",
    ]  # fmt: skip
    told = json.loads(run(*arguments).stdout)
    assert told["target"] == {"logit": 1, "name": "class1"}
    assert told["file"] == str(file)
    made = {part["section"]: part["made"] for part in told["sections"]}
    assert [key for key, done in made.items() if not done] == ["repair", "correction", *ON_REQUEST]
    page = check_page(file.read_text("utf-8"))
    pictures = [a for a in page.all("img") if a["alt"].startswith("Map of ")]
    assert len(pictures) == 1
    assert "relevance for 'class1'" in pictures[0]["alt"]
    assert pictures[0]["src"].startswith("data:image/svg+xml;base64,")
    command = page.text["reproduce"]
    line = next(line for line in command.splitlines() if line.startswith("semlens report"))
    typed = shlex.split(line)
    assert typed[2:] == [str(word) for word in arguments]
    assert "semlens/demo is a small embedder" in page.text["limits"]


@pytest.mark.slow
def test_the_command_says_what_it_lacks(built):
    file = built / "r.html"
    ended = run(
        built / "db", "--concepts", built / "set.toml", "--save", file, "--no-graph",
        "--no-concept-map",
        "--artefact", "hue", "--data", built / "nowhere", "--model", f"{built / 'model.py'}:make",
    )  # fmt: skip
    assert "Missing sections" in ended.stdout
    page = check_page(file.read_text("utf-8"))
    assert "The graph was not requested." in page.text["graph"]
    assert "The map was not requested." in page.text["map"]
    assert "nowhere" in page.text["test"]
    assert "has no model test" in page.text["limits"]


def test_wrong_commands_end_before_the_work(built):
    path, concepts = built / "db", ("--concepts", built / "set.toml")
    assert "There is no concept set" in run(path, check=1).stderr
    assert "YYYY-MM-DD" in run(path, *concepts, "--date", "31.1.2026", check=1).stderr
    assert ".html" in run(path, *concepts, "--save", "report.pdf", check=1).stderr
    assert "Unknown class" in run(path, *concepts, "--target", "ox", check=1).stderr
    assert "Unknown artefact" in run(path, *concepts, "--artefact", "dirt", check=1).stderr
    assert "none.json" in run(path, *concepts, "--model-test", "none.json", check=1).stderr
    assert "layer9" in run(path, *concepts, "--layer", "layer9", check=1).stderr
    (built / "any.toml").write_text('valid = ["bottle"]\nspurious = ["letters"]\n')
    assert "name no class" in run(path, "--concepts", built / "any.toml", check=1).stderr
    with pytest.raises(ConceptError):
        ConceptSet.load(built / "none.toml")


@pytest.mark.parametrize(
    "text",
    ['{"rows": [1]}', '{"class": "a", "model": "m", "real": 1, "sets": [2]}', '{"sets": [{}]}'],
)
def test_results_that_are_none(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match="has another format"):
        read_sensitivity(path)
    with pytest.raises(DataError, match="has another format"):
        read_model_test(path, "a")
