"""Places and their picture: planted and random clusters, contrast of colours, room for crops."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.path import Path as Outline
from scipy.spatial import Delaunay
from sklearn.manifold import trustworthiness

from semlens.draw.figure import PAPER
from semlens.draw.map_colours import (
    DARK_PAPER,
    LEAST_CONTRAST,
    OPACITY,
    contrast,
    oklab,
    place_colours,
)
from semlens.lenses.describe.atlas import FEW, fit, make_atlas, outlines
from semlens.lenses.describe.clusters import find_clusters
from semlens.lenses.describe.label_clusters import ClusterScores, merge_clusters, side_by_side

CSS = Path(__file__).resolve().parents[1] / "web/src/app.css"


def blob(x, y, count=20, width=1.0, seed=0):
    random = np.random.default_rng([seed, count, round(10 * x), round(10 * y)])
    return (np.array([x, y]) + width * random.uniform(-1, 1, (count, 2))).astype(np.float32)


def scores(cluster, names, *best):
    """Scores of clusters: 1 for the best label, 0.7 for the second, below the threshold else."""
    sizes = np.bincount(cluster[cluster >= 0], minlength=len(best))
    means = np.full((len(best), len(names)), -1.0)
    for number, own in enumerate(best):
        for rank, name in enumerate(own):
            means[number, names.index(name)] = 1 - 0.3 * rank
    return ClusterScores(tuple(names), means * sizes[:, None], 0.1 * sizes, sizes)


NAMES = ["clock", "watch", "dog", "sea"]


def merged(blobs, best, top=2):
    positions = np.vstack(blobs)
    cluster = np.repeat(np.arange(len(blobs)), [len(points) for points in blobs])
    return merge_clusters(positions, cluster, scores(cluster, NAMES, *best), top)


# -- places ---------------------------------------------------------------------------------


def test_halves_of_a_region_with_one_label_are_one_place():
    place, labels = merged(
        [blob(0, 0), blob(2, 0, 12), blob(20, 0, 30)],
        [["clock", "watch"], ["clock", "watch"], ["dog"]],
    )
    assert place[0] == place[1] != place[2]
    assert place.tolist() == [0, 0, 1]  # 32 components, then 30
    assert list(labels[0]) == ["clock", "watch"]
    assert labels[0]["clock"] == pytest.approx(1.0)


def test_labels_in_another_order_are_the_same_meaning_but_one_shared_word_is_not():
    place, _ = merged([blob(0, 0), blob(2, 0)], [["clock", "watch"], ["watch", "clock"]])
    assert place.tolist() == [0, 0]
    place, _ = merged([blob(0, 0), blob(2, 0)], [["clock", "watch"], ["watch", "dog"]])
    assert sorted(place.tolist()) == [0, 1]


def test_the_same_label_far_away_is_another_place_with_a_longer_name():
    place, labels = merged(
        [blob(0, 0, 30), blob(9, 0), blob(4.5, 0)],
        [["clock", "watch", "sea"], ["clock", "watch", "dog"], ["sea"]],
    )
    assert sorted(place.tolist()) == [0, 1, 2]
    assert [list(own) for own in labels] == [["clock", "watch"], ["clock", "watch", "dog"], ["sea"]]


def test_merging_goes_on_along_a_chain_and_outliers_do_not_bridge():
    chain = [blob(2.2 * i, 0, 15, seed=i) for i in range(5)]
    place, labels = merged(chain, [["dog"]] * 5)
    assert set(place.tolist()) == {0}
    assert len(labels) == 1
    stray = np.vstack([blob(0, 0, 40), [[20, 0]]]).astype(np.float32)
    assert not side_by_side(stray, blob(20, 0, 40))
    assert side_by_side(blob(0, 0, 40), blob(2, 0, 40))


def test_clusters_without_labels_are_never_merged():
    place, labels = merged([blob(0, 0), blob(1, 0), blob(0, 1)], [[], [], []])
    assert sorted(place.tolist()) == [0, 1, 2]
    assert labels == [{}, {}, {}]


@pytest.mark.slow
def test_random_points_give_no_invented_places():
    """Labels do not exceed the noise; even with labels, only clusters that touch may merge."""
    random = np.random.default_rng(0)
    positions = random.uniform(0, 1, (600, 2)).astype(np.float32)
    cluster = find_clusters(positions, "kmeans", 40, 0)
    names = [f"word {i}" for i in range(500)]
    nothing = ClusterScores(
        tuple(names), random.normal(0, 0.1, (40, 500)), np.ones(40) * np.bincount(cluster),
        np.bincount(cluster),
    )  # fmt: skip
    place, labels = merge_clusters(positions, cluster, nothing, 2)
    assert len(set(place.tolist())) == 40
    assert not any(labels)
    atlas = make_atlas(positions, place[cluster], ["" for _ in labels])
    assert not any(atlas.hulls)
    assert np.isnan(atlas.names).all()
    # with the same label by chance, only clusters that touch would be merged
    corners = Delaunay(positions).simplices
    edges = cluster[np.vstack([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [0, 2]]])]
    touching = {(int(a), int(b)) for a, b in np.sort(edges, axis=1) if a != b}
    pairs = [
        (a, b)
        for a in range(40)
        for b in range(a + 1, 40)
        if side_by_side(positions[cluster == a], positions[cluster == b])
    ]
    assert len(pairs) > 40
    assert len(set(pairs) - touching) <= 0.1 * len(pairs)


# -- colours --------------------------------------------------------------------------------


def luminance(colour):
    """WCAG 2.2, on its own."""
    parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize("count", [1, 2, 7, 15, 24, 60, 150])
def test_places_stand_out_from_the_paper_in_both_themes(count):
    random = np.random.default_rng(count)
    colours = place_colours(random.normal(size=(count, 2)).astype(np.float32), np.arange(count) + 1)
    assert len({colour.light for colour in colours}) == count
    assert len({colour.dark for colour in colours}) == count
    for light, dark in colours:
        for colour, paper in ((light, PAPER), (dark, DARK_PAPER)):
            painted = [
                OPACITY * own + (1 - OPACITY) * ground
                for own, ground in zip(to_rgb(colour), to_rgb(paper), strict=True)
            ]
            ends = sorted([luminance(painted), luminance(to_rgb(paper))])
            ratio = (ends[1] + 0.05) / (ends[0] + 0.05)
            assert ratio >= LEAST_CONTRAST == 3
            assert contrast(colour, paper, OPACITY) == pytest.approx(ratio)


def test_neighbouring_places_differ():
    """More than places do on average: the mean distance to the nearest four is larger."""
    random = np.random.default_rng(3)
    positions = random.uniform(0, 1, (24, 2)).astype(np.float32)
    colours = place_colours(positions, random.integers(1, 50, 24))
    for theme in (0, 1):
        lab = np.array([oklab(np.asarray(to_rgb(colour[theme]))) for colour in colours])
        differ = np.linalg.norm(lab[:, None] - lab[None], axis=2)
        away = np.linalg.norm(positions[:, None] - positions[None], axis=2)
        np.fill_diagonal(away, np.inf)
        near = np.argsort(away, axis=1)[:, :4]
        of_neighbours = np.take_along_axis(differ, near, axis=1)
        assert of_neighbours.min() > 0.04  # a just noticeable difference is about 0.02
        assert of_neighbours.mean() > differ[np.triu_indices(24, 1)].mean()


def test_the_papers_are_those_of_the_page():
    match = re.search(r"--paper: light-dark\((#\w+), (#\w+)\)", CSS.read_text("utf-8"))
    assert match is not None
    assert match.groups() == (PAPER, DARK_PAPER)


# -- the picture ----------------------------------------------------------------------------


def regions(count=150, seed=0):
    random = np.random.default_rng(seed)
    place = np.sort(random.integers(0, 8, count))
    centres = random.uniform(0, 12, (8, 2))
    return (centres[place] + random.normal(0, 0.4, (count, 2))).astype(np.float32), place


@pytest.mark.slow
def test_each_component_and_each_name_has_room():
    positions, place = regions()
    names = [f"label {i}, another" for i in range(8)]
    atlas = make_atlas(positions, place, names)
    assert atlas.spread
    apart = np.abs(atlas.points[:, None] - atlas.points[None]).max(2)
    np.fill_diagonal(apart, np.inf)
    assert apart.min() > 0.8  # of the side of a crop
    assert (apart.min(1) < 0.9).mean() < 0.05
    for i, name in enumerate(atlas.names):
        half = np.array([0.23 * len(names[i]) / 2, 0.34])
        inside = (np.abs(atlas.points - name) < half + 0.4).all(1)
        assert not inside.any()
        for other in atlas.names[:i]:
            assert (np.abs(name - other) >= 2 * half - 0.01).any()
        nearest = np.linalg.norm(np.maximum(np.abs(atlas.points - name) - half, 0), axis=1).argmin()
        assert place[nearest] == i


@pytest.mark.slow
def test_neighbourhoods_are_kept():
    positions, place = regions()
    atlas = make_atlas(positions, place, ["a"] * 8)
    assert trustworthiness(positions, atlas.points, n_neighbors=8) > 0.95
    # the order along the axes of the largest extent is kept while empty stretches are shortened
    stretched = positions.astype(float)
    turned = fit(positions)
    centred = stretched - stretched.mean(0)
    axes = np.linalg.svd(centred, full_matrices=False)[2]
    for axis in range(2):
        order = np.argsort(turned[:, axis])
        along = (centred @ axes[axis])[order]
        assert (np.diff(along) >= -1e-5).all() or (np.diff(along) <= 1e-5).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, FEW + 1])
def test_few_equal_and_many_components_have_a_picture(count):
    same = make_atlas(np.zeros((count, 2), np.float32), np.zeros(count, np.int64), ["a"][:count])
    assert np.isfinite(same.points).all()
    if 1 < count <= FEW:
        apart = np.abs(same.points[:, None] - same.points[None]).max(2)
        assert (apart[np.triu_indices(count, 1)] > 0.8).all()
    positions, place = regions(max(count, 8))
    many = make_atlas(positions[:count], np.zeros(count, np.int64), ["a"][:count])
    assert many.spread == (1 < count <= FEW)
    assert len(many.medoids) == min(count, 1)


def test_outlines_hold_their_places_and_do_not_overlap():
    points = np.vstack([blob(0, 0, 60), blob(3, 0, 60, seed=1), [[30, 0]]]).astype(np.float32)
    place = np.repeat([0, 1, 0], [60, 60, 1])
    first, second = outlines(points, place, [0, 1], 0.5)
    inside = np.zeros((2, len(points)), bool)
    grid = np.stack(np.meshgrid(np.linspace(-3, 6, 80), np.linspace(-3, 3, 60)), -1).reshape(-1, 2)
    on_grid = np.zeros((2, len(grid)), bool)
    for k, rings in enumerate((first, second)):
        for ring in rings:
            inside[k] ^= Outline(ring).contains_points(points)
            on_grid[k] ^= Outline(ring).contains_points(grid)
    assert inside[0][:60].mean() > 0.85
    assert inside[1][60:120].mean() > 0.85
    assert not inside[0][120]  # a stray component has no island of its own
    assert not (inside[0] & inside[1]).any()
    assert on_grid.any(1).all()
    assert not (on_grid[0] & on_grid[1]).any()
