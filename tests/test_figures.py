"""Figures as data: each form in JSON, and drawn where its numbers say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

import semlens as sl
from semlens.draw.example_sheet import example_pictures
from semlens.draw.figure import SERIES, figure_png
from semlens.draw.figures import CROPS, TONES, draw_figure
from semlens.draw.palette import AGAINST, FOR
from semlens.figures import (
    ComponentRow,
    Components,
    Distribution,
    Distributions,
    Edge,
    FigureSpec,
    Graph,
    Matrix,
    Node,
    PictureRow,
    Pictures,
    Point,
    Scatter,
    Series,
    Values,
    figure_json,
)


@pytest.fixture
def db(tmp_path, subject, images, embedder):
    return sl.build(tmp_path / "db", subject, images, embedder, ["first"], examples=6)


def drawn(panel, database=None):
    figure = draw_figure(FigureSpec("What is seen", [panel]), database)
    assert figure.get_suptitle() == "What is seen"
    (axes, *_) = figure.axes
    assert axes.get_title(loc="left") == panel.title
    assert figure_png(figure).startswith(b"\x89PNG")
    return axes


def dots(axes):
    """Return places and colours of single points."""
    lines = [line for line in axes.lines if line.get_marker() == "o"]
    return [(line.get_xdata()[0], line.get_ydata()[0], to_hex(line.get_color())) for line in lines]


def written(axes):
    return {text.get_text() for text in axes.texts}


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_components_are_drawn_with_crops_value_interval_tone_and_note(db):
    first, second = (db.component(row) for row in (3, 0))
    rows = [
        ComponentRow(first, 0.9, "red borders", 0.8, 0.95, "for", "p 0.001"),
        ComponentRow(second, 0.2, tone="against"),
    ]
    axes = drawn(Components("Separation", rows, "AUROC", 0.5, (0, 1)), db)
    assert dots(axes) == [(0.9, 0, FOR), (0.2, 1, AGAINST)]
    spans = [list(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 2]
    assert spans == [[0.8, 0.95], [0.5, 0.2]]  # an interval, and from the reference to the value
    assert ticks(axes.yaxis) == [f"red borders\n{first}", str(second)]
    assert (axes.get_xlim(), axes.get_xlabel()) == ((0, 1), "AUROC")
    assert "p 0.001" in written(axes)
    crops = [artist for artist in axes.get_children() if isinstance(artist, AnnotationBbox)]
    assert len(crops) == 2 * CROPS
    pictures = [box.get_data() for crop in crops for box in crop.findobj(OffsetImage)]
    expected = [np.asarray(p) for row in (3, 0) for p in example_pictures(db, row, CROPS, True)]
    assert all(np.array_equal(*pair) for pair in zip(pictures, expected, strict=True))
    assert [crop.xy[1] for crop in crops] == [0] * CROPS + [1] * CROPS


def test_components_without_a_database_have_no_crops(db):
    axes = drawn(Components("Values", [ComponentRow(db.component(1), None)], "relevance"))
    assert dots(axes) == []
    assert not [artist for artist in axes.get_children() if isinstance(artist, AnnotationBbox)]


def test_series_are_bars_side_by_side_or_points_with_intervals():
    bars = [Series([1.5, None], "15 %", notes=["detected", ""]), Series([2.0, -0.5], "25 %")]
    axes = drawn(Values("Gains", ["tench", "shark"], bars, "rise of the logit"))
    assert [bar.get_width() for bar in axes.patches] == [1.5, 2.0, -0.5]
    middles = [bar.get_y() + bar.get_height() / 2 for bar in axes.patches]
    np.testing.assert_allclose(middles, [-0.19, 0.19, 1.19])
    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [SERIES[0], SERIES[1], SERIES[1]]
    assert ticks(axes.yaxis) == ["tench", "shark"]
    assert "detected" in written(axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["15 %", "25 %"]
    points = Series([0.6], low=[0.5], high=[0.7], tones=["weak"])
    axes = drawn(Values("Accuracy", ["model"], [points], "accuracy", 0.5, (0, 1)))
    assert dots(axes) == [(0.6, 0, TONES["weak"])]
    assert axes.get_legend() is None


def test_stacked_series_are_parts_of_one_bar_in_the_colours_of_verdicts():
    parts = [Series([0.5, 0.2], "valid"), Series([0.3, 0.8], "spurious")]
    axes = drawn(Values("Shares", ["layer3", "layer4"], parts, "share", stacked=True))
    spans = [(bar.get_x(), bar.get_width(), to_hex(bar.get_facecolor())) for bar in axes.patches]
    valid, spurious = TONES["valid"], TONES["spurious"]
    expected = [(0, 0.5, valid), (0.5, 0.3, spurious), (0, 0.2, valid), (0.2, 0.8, spurious)]
    np.testing.assert_allclose([span[:2] for span in spans], [span[:2] for span in expected])
    assert [span[2] for span in spans] == [span[2] for span in expected]
    assert {"50 %", "30 %", "20 %", "80 %"} == written(axes)


def test_points_are_drawn_by_group_with_areas_labels_and_errors():
    points = [
        Point(0.1, 0.2, "a", "valid", 1.0, label="grass"),
        Point(0.3, -0.4, "b", "spurious", 4.0, x_error=0.05, y_error=0.1),
    ]
    axes = drawn(Scatter("Alignment", points, "valid", "spurious", 0.0, 0.0, diagonal=True))
    first, second = (c for c in axes.collections if isinstance(c, PathCollection))
    np.testing.assert_allclose([*first.get_offsets(), *second.get_offsets()],
                               [(0.1, 0.2), (0.3, -0.4)])  # fmt: skip
    assert second.get_sizes()[0] == 4 * first.get_sizes()[0]
    assert to_hex(first.get_facecolor()[0]) == TONES["valid"]
    assert written(axes) == {"grass"}
    bars = [c.get_segments()[0] for c in axes.collections if isinstance(c, LineCollection)]
    np.testing.assert_allclose(bars, [[(0.25, -0.4), (0.35, -0.4)], [(0.3, -0.5), (0.3, -0.3)]])
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["valid (1)", "spurious (1)"]


def test_joined_points_are_a_curve_per_group():
    points = [Point(x, x * k, group=f"set {k}") for k in (1, 2) for x in (0, 1, 2)]
    axes = drawn(Scatter("Curves", points, "epoch", "accuracy", joined=True))
    assert [list(line.get_ydata()) for line in axes.lines] == [[0, 1, 2], [0, 2, 4]]


def test_a_matrix_shows_its_values_and_leaves_out_missing_ones():
    axes = drawn(
        Matrix("Similarity", ["a", "b"], ["c", "d"], [[1.0, None], [-0.25, 0.5]], "cosine")
    )
    (mesh,) = axes.images
    np.testing.assert_array_equal(mesh.get_array().filled(np.nan), [[1.0, np.nan], [-0.25, 0.5]])
    assert mesh.get_clim() == (-1.0, 1.0)  # signed: zero is the middle of the colours
    assert written(axes) == {"1.00", "-0.25", "0.50"}
    assert (ticks(axes.yaxis), ticks(axes.xaxis)) == (["a", "b"], ["c", "d"])


def test_distributions_are_histograms_each_as_high_as_its_row():
    groups = [
        Distribution("real", [0, 1, 2], [1, 3], 1.6, "valid"),
        Distribution("plain", [0, 2], [5]),
    ]
    axes = drawn(Distributions("Logits", groups, "logit", 1.0))
    heights = [patch.get_data().baseline - patch.get_data().values for patch in axes.patches]
    np.testing.assert_allclose(np.concatenate(heights), [0.26, 0.78, 0.78])
    assert ticks(axes.yaxis) == ["real\nn = 4", "plain\nn = 5"]
    assert [1.6, 1.6] in [list(line.get_xdata()) for line in axes.lines]


def test_a_graph_has_its_nodes_in_columns_and_edges_by_sign_and_strength():
    nodes = [Node("class", 0), Node("fish", 1, label="30 %", tone="valid"), Node("hands", 1)]
    axes = drawn(Graph("Graph", nodes, [Edge(0, 1, 0.4), Edge(2, 0, -0.1)]))
    corners = [(box.get_x(), box.get_y()) for box in axes.patches]
    np.testing.assert_allclose(corners, [(-0.38, 0.64), (0.62, 0.14), (0.62, 1.14)])
    strong, weak = axes.lines
    assert (to_hex(strong.get_color()), to_hex(weak.get_color())) == (FOR, AGAINST)
    np.testing.assert_allclose([strong.get_linewidth(), weak.get_linewidth()], [6, 1.5])
    assert {"class", "fish", "30 %", "hands"} <= written(axes)


def test_pictures_are_drawn_in_rows_with_captions_and_texts():
    colours = [Image.new("RGB", (40, 20), c) for c in ("red", "green", "blue")]
    rows = [
        PictureRow(colours[:2], "before", "2 images", ["r", "g"]),
        PictureRow(colours[2:], "after"),
    ]
    axes = drawn(Pictures("Pasted", rows))
    assert [tuple(i.get_array()[0, 0]) for i in axes.images] == [
        (255, 0, 0),
        (0, 128, 0),
        (0, 0, 255),
    ]
    centres = [np.mean(np.reshape(i.get_extent(), (2, 2)), 1) for i in axes.images]
    np.testing.assert_allclose(centres, [(0.5, 0), (1.5, 0), (0.5, 1.25)])
    assert written(axes) == {"2 images", "r", "g"}
    assert ticks(axes.yaxis) == ["before", "after"]


def test_empty_panels_and_a_figure_without_panels_are_drawn():
    empty = [
        Components("none", [], "x"), Values("none", [], [], "x"), Scatter("none", [], "x", "y"),
        Matrix("none", [], [], [], "x"), Distributions("none", [], "x"), Graph("none", [], []),
        Pictures("none", []),
    ]  # fmt: skip
    for panels in ([], *([panel] for panel in empty)):
        figure_png(draw_figure(FigureSpec("nothing", panels), None))


def test_panels_share_columns_and_figures_become_json(db):
    row = ComponentRow(db.component(0), 0.5)
    picture = PictureRow([Image.new("RGB", (4, 4), "red")], "red")
    spec = FigureSpec("Two", [Components("c", [row], "x"), Pictures("p", [picture])], columns=2)
    first, second = draw_figure(spec, None).axes
    assert first.get_subplotspec().rowspan == second.get_subplotspec().rowspan
    plain = json.loads(json.dumps(figure_json(spec)))
    assert [panel["form"] for panel in plain["panels"]] == ["components", "pictures"]
    assert plain["panels"][0]["rows"][0]["value"] == 0.5
    assert plain["panels"][1]["rows"][0]["pictures"][0].startswith("data:image/webp;base64,")
