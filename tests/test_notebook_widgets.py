"""The kernel's side of the widgets: what is sent, and what happens with what the page sends."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import traitlets
from conftest import VEGETABLES, LittleNet, assert_says, build_vegetables, to_tensor
from matplotlib.colors import to_rgb
from PIL import Image

import semlens as sl
from semlens.draw.example_picture import example_webp
from semlens.errors import ConceptError, LayerError, RecipeError, ServeError
from semlens.models.subject import SubjectModel
from semlens.notebook.card_widget import MOST
from semlens.types import Component


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> sl.ConceptDatabase:
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", VEGETABLES)
    return build_vegetables(tmp_path_factory.mktemp("widgets"), model)


@pytest.fixture
def view(db):
    return db.map_widget("first", concepts=None)  # so few that no UMAP is needed


def asked(widget, content) -> list[tuple[dict, list[bytes]]]:
    """Return what a widget answers to a message of the page."""
    answers: list[tuple[dict, list[bytes]]] = []
    widget.send = lambda content, buffers: answers.append((content, buffers))
    widget._handle_custom_msg(content, [])
    return answers


def test_the_page_gets_the_map_of_the_database(db, view):
    state = view.get_state()
    found = db.concept_map(layers="first", concepts=None)
    points = np.frombuffer(state["_points"], "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(points, found.atlas.points)
    assert state["_names"] == found.frame["component"].astype(str).tolist()
    assert [str(db.component(row)) for row in state["_rows"]] == state["_names"]
    assert state["selected"] == [] and state["colour"] == "layer"
    assert sum(len(str(v)) for v in state.values()) < 100_000  # no picture is in it


def test_colours_are_those_of_the_legend_and_follow_the_measure(view):
    rgb = np.frombuffer(view._look["points"], np.uint8).reshape(-1, 3)
    ((name, colour),) = view._look["legend"]["names"]
    assert name == "first"
    np.testing.assert_allclose(rgb / 255, [to_rgb(colour)] * 6, atol=1 / 255)
    view.set_state({"colour": "clarity"})  # as the page's menu does
    clarity = view.database.scores("first").frame["clarity"].to_numpy()
    light = np.frombuffer(view._look["points"], np.uint8).reshape(-1, 3).astype(float).sum(1)
    assert (np.diff(light[np.argsort(clarity)]) <= 0).all()  # the clearer, the darker
    assert light.max() - light.min() > 300
    legend = view._look["legend"]
    assert (legend["low"], legend["high"]) == (f"{clarity.min():.2f}", f"{clarity.max():.2f}")


def test_any_colouring_of_the_map_becomes_a_choice(view):
    view.colour_by("query", "red", "blue")
    assert view.colour == "query: red, blue" == view._choices[-1]
    assert [name for name, _ in view._look["legend"]["names"]] == ["red", "blue"]
    view.colour = "layer"
    view.colour = "query: red, blue"
    assert view._look["colour"] == "query: red, blue"
    view.colour_by("relevance", "ox")
    assert view._look["legend"]["title"] == "share of relevance for 'ox'"
    for colour in ("hue", "query"):
        with pytest.raises(ConceptError):
            view.colour = colour
    with pytest.raises(ConceptError):
        view.colour_by("relevance")
    assert view.colour == "relevance: ox"


def test_crops_are_sent_when_they_are_asked_for(db, view):
    ((content, crops),) = asked(view, {"type": "crops", "row": 3, "count": 2})
    assert content == {"type": "crops", "row": 3, "count": 2}
    assert crops == [example_webp(db, example) for example in db.examples_of(3, 2)]
    assert Image.open(io.BytesIO(crops[0])).format == "WEBP"
    ((_, crops),) = asked(view, {"type": "crops", "row": 3, "count": 10**9})
    assert len(crops) == len(db.examples_of(3)) <= MOST
    ((_, crops),) = asked(view, {"type": "crops", "row": 3})
    assert len(crops) == 1


@pytest.mark.parametrize("row", [-1, 26, 10**12, 1.5, True, "3", None, [3]])
def test_no_crops_of_what_is_no_component(view, row):
    ((content, crops),) = asked(view, {"type": "crops", "row": row, "count": 2})
    assert content["error"] == "There is no such component." and not crops


@pytest.mark.parametrize("content", [None, "crops", [], {}, {"type": "delete", "row": 1}])
def test_other_messages_are_ignored(view, content):
    assert asked(view, content) == []


def test_without_thumbnails_crops_come_from_the_images_or_say_what_is_missing(db, tmp_path):
    model, images = db.model, sl.ImageFolder(db.manifest.data.spec)
    built = sl.build(
        tmp_path / "db", model, images, db.embedder, ["first"], examples=2, thumbnails=False
    )
    view = built.map_widget(concepts=None)
    ((content, crops),) = asked(view, {"type": "crops", "row": 0, "count": 2})
    assert len(crops) == 2 and "error" not in content
    lost = sl.open(built.path, model=model, embedder=db.embedder, images=str(tmp_path / "nowhere"))
    ((content, crops),) = asked(lost.map_widget(concepts=None), {"type": "crops", "row": 0})
    assert "nowhere' is not a folder" in content["error"] and not crops


def test_what_the_page_selects_are_components(view):
    view.set_state({"selected": ["first:2", "first:0"]})
    assert view.selected == (Component("first", 2), Component("first", 0))
    assert view.get_state("selected") == {"selected": ["first:2", "first:0"]}
    for wrong, error in ((["second:1"], RecipeError), (["<b>"], LayerError)):
        with pytest.raises(error):
            view.selected = wrong
    assert len(view.selected) == 2
    view.selected = "first:5"
    assert view.selected == (Component("first", 5),)


def test_hits_are_selected_as_far_as_they_are_on_the_map(db, view):
    hits = db.search("red", top=26)
    view.select(hits)
    assert view.selected == tuple(c for c in hits.components if c.layer == "first")


def test_a_card_follows_the_selection(db, view):
    card = view.card()
    assert card.component is None and card._card is None
    view.set_state({"selected": ["first:2", "first:4"]})
    assert card.component == Component("first", 4)
    assert card._card["row"] == 4
    view.set_state({"selected": []})
    assert card._card is None


def test_a_card_has_the_values_of_the_component(db):
    widget = db.card_widget("first:4")
    printed = db.card("first:4")
    frame = printed.to_pandas().set_index("name")
    values = {value["name"]: value for value in widget._card["values"]}
    components = db.components.iloc[4]
    scores = db.scores("first").frame
    for name in ("firing_rate", "maximum", "mean", "std"):
        assert values[name]["value"] == frame.loc[name, "value"] == pytest.approx(components[name])
    for name in ("clarity", "redundancy", "polysemanticity"):
        assert values[name]["value"] == pytest.approx(scores[name].iloc[4])
        assert values[name]["below"] == pytest.approx((scores[name] < scores[name].iloc[4]).mean())
    for share in widget._card["classes"]:
        logit = VEGETABLES.index(share["class"])
        relevance = db.relevance(logit).set_index("component")["mean"]
        assert share["mean"] == pytest.approx(relevance[4])
    ((_, crops),) = asked(widget, {"type": "crops", "row": 4, "count": 3})
    assert len(crops) == 3
    widget.component = "first:1"
    assert widget._card["component"] == "first:1"
    with pytest.raises(LayerError):
        widget.component = "first:99"
    assert widget.component == Component("first", 1)


def test_a_card_is_text_picture_and_file(db, tmp_path):
    card = db.card("first:4")
    assert "first:4" in repr(card) and "clarity" in repr(card)
    assert "data:image/webp" in card._repr_html_()
    card.save(tmp_path / "card.json")
    card.save(tmp_path / "card.png")
    with pytest.raises(LayerError):
        db.card("first:99")


def test_labels_are_the_saved_ones(db):
    assert set(db.map_widget("first", concepts=None)._labels) == {""}
    labels = db.label(["red", "blue"], threshold=-2.0, method="semantic-lens")
    labels.save_to_database("words")
    view = db.map_widget("first", concepts=None)
    assert view._labels == [labels.of(name) for name in view._names]
    assert db.card("first:4").label == labels.of("first:4")


def test_maps_of_several_databases_are_refused(db, tmp_path):
    from semlens.notebook.map_widget import MapWidget

    images = sl.ImageFolder(db.manifest.data.spec)
    other = sl.build(tmp_path / "db", db.model, images, db.embedder, ["first"], examples=2)
    both = db.concept_map(other, layers="first", concepts=None)
    with pytest.raises(RecipeError) as error:
        MapWidget(both)
    assert_says(error.value, "2 databases")


def test_without_the_extra_the_error_says_what_to_install(db, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    for make in (db.map_widget, db.card_widget):
        with pytest.raises(ServeError) as error:
            make()
        assert_says(error.value, "anywidget", "not installed", "pip install 'semlens[notebook]'")


def test_traits_are_documented(view):
    for name in ("selected", "colour"):
        trait = view.traits()[name]
        assert isinstance(trait, traitlets.TraitType) and trait.help
