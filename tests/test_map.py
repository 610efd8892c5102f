"""The map: labels, placement and neighbours in float64; what is kept, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import umap
from conftest import ColourEmbedder, LittleNet, WordEmbedder, assert_says, to_tensor
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.draw.map_colours import Groups, Queries, Scale
from semlens.draw.map_labels import MapPlace
from semlens.draw.map_plot import MapPicture, draw_map
from semlens.errors import ConceptError, DataError, LayerError, RecipeError, StaleError
from semlens.lenses.compare.component_sets import as_databases
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.describe.clusters import (
    compute_layout,
    default_count,
    describe_groups,
    find_clusters,
    interpolate_positions,
    nearest_existing,
    vote_clusters,
)
from semlens.lenses.query_embedding import LABEL_TEMPLATES, SEARCH_TEMPLATES
from semlens.store.atomic_files import save_sealed_table

LAYERS = ["first", "second"]
NAMES = ["dog", "green frog", "car", "tree", "sea", "dog"]
CONCEPTS = ConceptSet.of(NAMES)
COLUMNS = [
    "model", "component", "layer", "index", "sign", "x", "y", "cluster", "place", "place_label",
    "placed",
]  # fmt: skip


@pytest.fixture(scope="module")
def net():
    return sl.SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))


@pytest.fixture(scope="module")
def folder(pictures):
    return sl.ImageFolder(pictures)


@pytest.fixture(scope="module")
def base(tmp_path_factory, net, folder):
    path = tmp_path_factory.mktemp("map") / "one.semlens"
    sl.build(path, net, folder, WordEmbedder(), LAYERS, examples=6, relevance=True)
    return path


@pytest.fixture
def single(base, tmp_path, words):
    return sl.open(shutil.copytree(base, tmp_path / "one.semlens"), embedder=words)


@pytest.fixture(scope="module")
def other_base(tmp_path_factory, folder):
    path = tmp_path_factory.mktemp("map") / "two.semlens"
    net = sl.SubjectModel(LittleNet(3), to_tensor, "32 bilinear", "python:other", list("abcd"))
    sl.build(path, net, folder, WordEmbedder(), ["second"], examples=6)
    return path


@pytest.fixture
def other(other_base, tmp_path, words):
    return sl.open(shutil.copytree(other_base, tmp_path / "two.semlens"), embedder=words)


def cos(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def text_vector(words, text, templates):
    prompts = [template.replace("{}", text) for template in templates]
    return np.mean([words.embed_texts([p])[0].double().numpy() for p in prompts], axis=0)


def where(found):
    return found.frame[["x", "y"]].to_numpy()


def theta_of(db, frame):
    rows = [db.row(sl.Component.parse(name)) for name in frame["component"]]
    return db.theta[rows].astype(np.float64)


def kept_files(db, kind="map"):
    return sorted((db.path / "analysis").glob(f"{kind}-*.parquet"))


# -- what the map holds ---------------------------------------------------------------------


@pytest.mark.slow
def test_one_row_per_component_with_examples(single):
    found = single.concept_map(concepts=CONCEPTS)
    assert list(found.frame.columns) == COLUMNS
    rows = np.flatnonzero(single.has_examples)
    assert found.frame["component"].tolist() == [str(single.component(int(r))) for r in rows]
    assert set(found.frame["model"]) == {"one"}
    assert np.isfinite(where(found)).all()
    assert not found.frame["placed"].any()
    assert not found.reused
    assert len(found.clusters) == default_count(len(rows)) > 1
    part = single.concept_map(layers="second", concepts=None)
    assert set(part.frame["layer"]) == {"second"}


@pytest.mark.slow
def test_labels_are_the_concepts_of_the_largest_mean_score(single, words):
    asked = {"concepts": CONCEPTS, "label_method": "semantic-lens"}
    low = single.concept_map(**asked, threshold=-2.0, top_labels=4)
    threshold = float(np.median([values[1] for values in low.places["scores"]])) + 1e-4
    found = single.concept_map(**asked, threshold=threshold)
    null = text_vector(words, "", LABEL_TEMPLATES)
    theta = theta_of(single, found.frame)
    kept = 0
    for row in found.places.to_dict("records"):
        inside = (found.frame["place"] == row["place"]).to_numpy()
        values = {
            n: np.mean(
                [cos(one, text_vector(words, n, LABEL_TEMPLATES)) - cos(one, null)
                 for one in theta[inside]]
            )
            for n in NAMES
        }  # fmt: skip
        best = sorted((n for n in values if values[n] > threshold), key=lambda n: -values[n])
        best = best[: max(2, len(row["labels"]))]  # more where two places would be called alike
        assert row["size"] == inside.sum()
        assert row["labels"] == best
        np.testing.assert_allclose(row["scores"], [values[n] for n in best], atol=3e-6)
        assert set(found.frame.loc[inside, "place_label"]) == {", ".join(best) or None}
        middle = np.median(where(found)[inside], axis=0)
        nearest = np.square(where(found)[inside] - middle).sum(1).argmin()
        assert (row["x"], row["y"]) == tuple(where(found)[inside][nearest])
        kept += len(best)
    assert 0 < kept < 3 * len(found.places)
    assert len(set(map(tuple, found.places["labels"]))) == len(found.places)


def test_an_embedder_without_texts_gives_no_labels(tmp_path, net, folder):
    db = sl.build(tmp_path / "db", net, folder, ColourEmbedder(), ["first"], examples=4)
    found = db.concept_map()
    assert found.frame["place_label"].isna().all()
    assert "places" in repr(found)
    assert len(found.places) == len(found.clusters)


@pytest.mark.parametrize(
    ("components", "clusters"), [(1, 1), (15, 1), (16, 2), (480, 60), (9999, 60)]
)
def test_the_number_of_clusters_follows_the_number_of_components(components, clusters):
    assert default_count(components) == clusters


def planted(sizes, seed=0, noise=0.02):
    random = np.random.default_rng(seed)
    centres = np.eye(16)[: len(sizes)]
    truth = np.repeat(np.arange(len(sizes)), sizes)
    vectors = centres[truth] + noise * random.normal(size=(len(truth), 16))
    order = random.permutation(len(truth))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[order].astype(np.float32), truth[order]


@pytest.mark.parametrize("method", ["kmeans", "hdbscan"])
def test_planted_clusters_are_found_and_numbered_by_size(method):
    vectors, truth = planted([30, 20, 12, 8])
    found = find_clusters(vectors, method, 4 if method == "kmeans" else None, 0)
    kept = found >= 0
    assert kept.mean() > 0.95
    np.testing.assert_array_equal(found[kept], truth[kept])


def test_equal_and_few_vectors_have_clusters():
    same = np.tile(np.eye(8, dtype=np.float32)[:1], (20, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(find_clusters(same, "kmeans", 5, 0), np.zeros(20))
        np.testing.assert_array_equal(find_clusters(same[:3], "hdbscan", None, 0), -np.ones(3))
    assert len(describe_groups(np.zeros((20, 2), np.float32), -np.ones(20, int), [], "place")) == 0


# -- where components lie -------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 14, 15, 40])
@pytest.mark.parametrize("same", [False, True])
def test_few_or_equal_vectors_have_a_place(count, same):
    vectors = planted([1] * 16)[0][[0] * count if same else np.arange(count) % 16]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = compute_layout(vectors, 0)
    assert made.shape == (count, 2)
    assert np.isfinite(made).all()
    if count < 15 and same:
        np.testing.assert_array_equal(made, 0)


def test_two_and_three_vectors_keep_their_distances():
    vectors = planted([1, 1, 1])[0]
    for count in (2, 3):
        made = compute_layout(vectors[:count], 0).astype(np.float64)
        for i in range(count):
            for j in range(count):
                apart = np.linalg.norm(vectors[i].astype(np.float64) - vectors[j])
                assert np.linalg.norm(made[i] - made[j]) == pytest.approx(apart, abs=1e-5)


def test_threads_lay_out_one_after_the_other(monkeypatch):
    """Numba ends the process when two do so at once, where it has neither TBB nor OpenMP."""
    at_work, most = [], []

    class Slow:
        def __init__(self, **_):
            pass

        def fit_transform(self, units):
            at_work.append(1)
            most.append(len(at_work))
            time.sleep(0.05)
            at_work.pop()
            return units[:, :2]

    monkeypatch.setattr(umap, "UMAP", Slow)
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: compute_layout(vectors, 0), range(4)))
    assert most == [1, 1, 1, 1]
    for one in made:
        np.testing.assert_array_equal(one, vectors[:, :2])


def test_umap_keeps_planted_neighbourhoods_and_its_seed():
    vectors, truth = planted([25, 25, 25])
    made = compute_layout(vectors, 1)
    np.testing.assert_array_equal(made, compute_layout(vectors, 1))
    assert not np.array_equal(made, compute_layout(vectors, 2))
    distance = np.linalg.norm(made[:, None] - made[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (truth[distance.argmin(1)] == truth).mean() > 0.95


def expected_places(old, new, positions, clusters=None):
    """Inverse-distance weighted mean and vote, one component at a time, in float64."""
    made, votes = [], []
    for vector in new:
        away = np.array([max(1 - cos(vector, o), 0) for o in old])
        near = np.argsort(away, kind="stable")[:5]
        weight = 1 / (away[near] + 1e-6) ** 2
        made.append((weight[:, None] * positions[near]).sum(0) / weight.sum())
        if clusters is not None:
            totals = {c: weight[clusters[near] == c].sum() for c in clusters[near]}
            votes.append(max(totals, key=totals.__getitem__))
    return np.array(made), np.array(votes)


def test_placement_and_vote_by_the_nearest_five():
    random = np.random.default_rng(5)
    old, new = random.normal(size=(60, 12)), random.normal(size=(33, 12))
    old, new = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (old, new))
    positions, clusters = random.normal(size=(60, 2)), random.integers(0, 4, 60)
    places, weight = nearest_existing(old.astype(np.float32), new.astype(np.float32))
    made, votes = expected_places(old, new, positions, clusters)
    np.testing.assert_allclose(
        interpolate_positions(positions.astype(np.float32), places, weight), made, atol=1e-4
    )
    np.testing.assert_array_equal(vote_clusters(clusters, places, weight), votes)


def test_a_twin_lies_where_its_twin_lies_and_one_old_component_is_enough():
    vectors = planted([4, 4])[0]
    positions = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    made = interpolate_positions(positions, *nearest_existing(vectors, vectors[3:5]))
    np.testing.assert_allclose(made, positions[3:5], atol=1e-2)
    alone = interpolate_positions(positions[:1], *nearest_existing(vectors[:1], vectors))
    np.testing.assert_allclose(alone, np.tile(positions[:1], (8, 1)), atol=1e-6)


@pytest.mark.slow
def test_added_layers_are_placed_among_what_was_there(single, net, folder, words):
    before = single.concept_map(concepts=CONCEPTS)
    single = sl.build(single.path, net, folder, words, ["head"], examples=6)
    found = single.concept_map(concepts=CONCEPTS)
    new = (found.frame["layer"] == "head").to_numpy()
    assert found.reused
    assert found.placed == new.sum() > 0
    np.testing.assert_array_equal(found.frame["placed"], new)
    np.testing.assert_array_equal(where(found)[~new], where(before))
    np.testing.assert_array_equal(found.frame["cluster"][~new], before.frame["cluster"])
    theta = theta_of(single, found.frame)
    made, votes = expected_places(
        theta[~new], theta[new], where(before).astype(float), before.frame["cluster"].to_numpy()
    )
    np.testing.assert_allclose(where(found)[new], made, atol=2e-3)
    np.testing.assert_array_equal(found.frame["cluster"][new], votes)
    assert f"{new.sum()} new components were placed among {(~new).sum()}" in repr(found)
    assert found.clusters["size"].sum() == len(found)
    again = single.concept_map(concepts=CONCEPTS)  # the placed ones are kept, too
    pd.testing.assert_frame_equal(again.frame, found.frame)
    assert len(kept_files(single, "map")) == 2
    anew = single.concept_map(concepts=CONCEPTS, again=True)
    assert anew.placed == 0
    assert not anew.reused
    assert not np.array_equal(where(anew)[~new], where(before))


# -- what is kept ---------------------------------------------------------------------------


def shift(path):
    """Move what is kept by 100, so that it is known again."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    frame = table.to_pandas()
    frame["x"] += 100
    moved = table.set_column(table.schema.get_field_index("x"), "x", [frame["x"].to_numpy()])
    save_sealed_table(path, moved.replace_schema_metadata(table.schema.metadata))


def test_a_kept_map_is_used_and_other_settings_are_another_map(single):
    first = single.concept_map(concepts=None)
    (path,) = [file for file in kept_files(single) if "clusters" not in file.name]
    content = path.read_bytes()
    assert single.concept_map(concepts=None).reused
    assert path.read_bytes() == content
    shift(path)
    moved = path.read_bytes()
    np.testing.assert_allclose(
        where(single.concept_map(concepts=None)), where(first) + [100, 0], atol=1e-4
    )
    seeded = single.concept_map(concepts=None, seed=7)
    assert not seeded.reused
    assert where(seeded)[:, 0].max() < 90
    assert path.read_bytes() == moved
    anew = single.concept_map(concepts=None, again=True)
    assert not anew.reused
    np.testing.assert_array_equal(where(anew), where(first))
    assert single.concept_map(concepts=None).frame.equals(first.frame)


def test_positions_do_not_depend_on_the_clusters(single):
    a, b = single.concept_map(concepts=None), single.concept_map(concepts=None, clusters=3)
    np.testing.assert_array_equal(where(a), where(b))
    assert b.reused
    assert len(b.clusters) == 3


def test_a_kept_map_of_other_vectors_is_void(single):
    single.concept_map(concepts=None)
    (path,) = [file for file in kept_files(single) if "clusters" not in file.name]
    frame, origin = single.load_with_origin(path.stem)
    origin["layers"][0]["first"] = "0" * 64
    single.save_analysis(path.stem, frame, origin)
    assert not single.concept_map(concepts=None).reused


def test_a_database_that_cannot_be_written_works(single, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    before = sorted(single.path.rglob("*"))
    first = single.concept_map(concepts=CONCEPTS)
    assert sorted(single.path.rglob("*")) == before
    second = single.concept_map(concepts=CONCEPTS)
    assert not second.reused
    np.testing.assert_array_equal(where(first), where(second))


def test_a_table_with_an_origin_is_no_table_of_the_build(single):
    frame = pd.DataFrame({"a": [1]})
    single.save_analysis("mine", frame, {"from": 3})
    assert single.load_analysis("mine") is None
    assert single.load_with_origin("mine")[1] == {"from": 3}
    single.save_analysis("theirs", frame)
    assert single.load_with_origin("theirs") is None
    assert single.load_analysis("theirs").equals(frame)


# -- several databases ----------------------------------------------------------------------


@pytest.mark.slow
def test_several_databases_share_one_space(single, other, net, folder, words):
    found = single.concept_map(other, concepts=None)
    assert list(found.frame["model"].unique()) == ["one", "two"]
    assert len(found) == single.has_examples.sum() + other.has_examples.sum()
    assert len(kept_files(single)) == 2
    assert not kept_files(other)
    assert isinstance(found.colouring, Groups)
    assert found.colouring.names == ("one", "two")
    assert single.concept_map(other, concepts=None).reused
    single = sl.build(single.path, net, folder, words, ["head"], examples=6)
    grown = single.concept_map(other, concepts=None)
    assert set(grown.frame.loc[grown.frame["placed"], "layer"]) == {"head"}
    old = ~grown.frame["placed"].to_numpy()
    np.testing.assert_array_equal(where(grown)[old], where(found))
    part = single.concept_map(other, layers=["second"], concepts=None)
    assert set(part.frame["layer"]) == {"second"}
    with pytest.raises(LayerError) as error:
        single.concept_map(other, layers=["first"])
    assert_says(error.value, "two.semlens'", "none of the layers first", "second")


def test_databases_that_are_called_alike_are_told_apart(single, base):
    found = single.concept_map(sl.open(base, embedder=single.embedder), concepts=None)
    names = found.frame["model"].unique()
    assert len(names) == 2
    assert all(name.endswith("/one") for name in names)


def test_foreign_embedders_and_doubles_are_refused(single, tmp_path, net, folder):
    foreign = tmp_path / "x.semlens"
    foreign = sl.build(foreign, net, folder, ColourEmbedder(seed=1), ["first"], examples=3)
    with pytest.raises(StaleError) as error:
        single.concept_map(foreign)
    assert_says(
        error.value,
        "one.semlens' was embedded by 'python:words'",
        "by 'python:colours'",
        "with the embedder 'python:words'",
    )
    assert "x.semlens'" in str(error.value)
    with pytest.raises(StaleError, match="embedder"):
        sl.open(single.path, embedder=ColourEmbedder(seed=1))
    with pytest.raises(RecipeError, match="given twice"):
        single.concept_map(single)
    with pytest.raises(RecipeError, match="No database"):
        sl.ConceptDatabase.concept_map([])
    with pytest.raises(RecipeError, match="'paper-ox' is not a database"):
        as_databases(single, ["paper-ox"])


@pytest.mark.parametrize(
    ("settings", "kind", "parts"),
    [
        ({"layers": ["frist"]}, LayerError, ("frist", "first")),
        ({"layers": []}, LayerError, ("No layer",)),
        ({"clusters": 0}, RecipeError, ("0 clusters", "Expected 1 to")),
        ({"clusters": 1000}, RecipeError, ("1000 clusters",)),
        ({"clusters": 3, "method": "hdbscan"}, RecipeError, ("HDBSCAN", "kmeans")),
        ({"seed": -1}, RecipeError, ("-1", "from 0 to 4294967295")),
        ({"seed": 2**32}, RecipeError, ("4294967296",)),
        ({"method": "means"}, RecipeError, ("'means'", "kmeans or hdbscan")),
    ],
)
def test_wrong_settings(single, settings, kind, parts):
    with pytest.raises(kind) as error:
        single.concept_map(concepts=None, **settings)
    assert_says(error.value, *parts)


# -- colours --------------------------------------------------------------------------------


def test_query_colours_are_alignments(single, words):
    found = single.concept_map(concepts=None).coloured("query", "dog", "sea")
    assert isinstance(found.colouring, Queries)
    null = text_vector(words, "", SEARCH_TEMPLATES)
    frame = found.to_pandas()
    for text in ("dog", "sea"):
        vector = text_vector(words, text, SEARCH_TEMPLATES)
        expected = [cos(theta, vector) - cos(theta, null) for theta in theta_of(single, frame)]
        np.testing.assert_allclose(frame[f"alignment: {text}"], expected, atol=2e-6)


def test_measures_relevance_and_groups(single):
    found = single.concept_map(concepts=None)
    scores = single.scores().to_pandas()[single.has_examples]
    for measure in ("clarity", "redundancy", "polysemanticity"):
        values = found.coloured(measure).to_pandas()[measure]
        np.testing.assert_allclose(values, scores[measure], atol=1e-6)
    table = single.relevance()
    target = int(table["class"].iloc[0])
    coloured = found.coloured("relevance", target)
    assert isinstance(coloured.colouring, Scale)
    share = table[table["class"] == target].set_index("component")["mean"]
    expected = [share.get(int(row), 0.0) for row in np.flatnonzero(single.has_examples)]
    np.testing.assert_allclose(coloured.to_pandas()["relevance"], expected, atol=1e-7)
    assert np.count_nonzero(expected) > 0
    assert found.coloured("layer").colouring.names == ("first", "second")
    np.testing.assert_array_equal(found.coloured("place").colouring.group, found.frame["place"])


def test_a_contrast_colours_by_auroc_minus_one_half(single, net, folder, words, tmp_path):
    db = sl.open(single.path, model=net, images=folder, embedder=words)
    contrast = db.contrast(range(6), range(6, 12), concepts=None, draws=100)
    found = db.concept_map(concepts=None)
    coloured = found.coloured("contrast", contrast)
    assert isinstance(coloured.colouring, Scale)
    low, high = coloured.colouring.limits
    assert (low, coloured.colouring.signed) == (-high, True)
    auroc = contrast.frame.set_index("component")["auroc"]
    frame = coloured.to_pandas()
    np.testing.assert_allclose(frame["contrast"], auroc[frame["component"]] - 0.5, atol=1e-6)
    # from a file; components of other layers have no value
    part = db.contrast(range(6), range(6, 12), layers="second", concepts=None, draws=100)
    part.save(tmp_path / "contrast.json")
    frame = found.coloured("contrast", tmp_path / "contrast.json").to_pandas()
    np.testing.assert_array_equal(frame["contrast"].isna(), frame["layer"] == "first")
    known = frame[frame["layer"] == "second"]
    np.testing.assert_allclose(known["contrast"], auroc[known["component"]] - 0.5, atol=1e-6)
    (tmp_path / "other.json").write_text('{"groups": {}, "components": [{"component": "x"}]}')
    with pytest.raises(DataError, match="another format"):
        found.coloured("contrast", tmp_path / "other.json")
    rows = '[{"component": "conv9:3", "auroc": 0.9}]'
    (tmp_path / "other.json").write_text(f'{{"groups": {{}}, "components": {rows}}}')
    with pytest.raises(ConceptError, match="not of the components"):
        found.coloured("contrast", tmp_path / "other.json")


@pytest.mark.parametrize(
    ("values", "part"),
    [
        (("contrast",), "0 contrasts"),
        (("hue",), "cannot be coloured by 'hue'"),
        (("query",), "needs a query"),
        (("relevance",), "0 classes"),
        (("relevance", "a", "b"), "2 classes"),
        (("layer", "dog"), "takes no values, but got 'dog'"),
    ],
)
def test_wrong_colours(single, values, part):
    found = single.concept_map(concepts=None)
    with pytest.raises(ConceptError) as error:
        found.coloured(*values)
    assert_says(error.value, part)


# -- pictures -------------------------------------------------------------------------------


def crowd(count, seed=0, named=90):
    random = np.random.default_rng(seed)
    points = random.normal(size=(count, 2)).astype(np.float32)
    places = [
        MapPlace(f"a long name, number {i}", float(x), float(y), i)
        for i, (x, y) in enumerate(points[:named])
    ]
    return MapPicture(points, places, np.arange(len(places)))


def test_names_do_not_touch_and_the_hidden_are_counted():
    figure = draw_map(crowd(600), Groups("layer", ("a",), np.zeros(600, np.int64)), "crowd")
    (axes,) = figure.axes
    boxes = [text.get_window_extent() for text in axes.texts]
    frame = axes.get_window_extent()
    assert 10 < len(boxes) < 90
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert frame.contains(*box.min)
        assert frame.contains(*box.max)
    hidden = 90 - len(boxes)
    assert f"{hidden} of 90 places" in axes.get_xlabel()


def test_a_name_moves_to_where_it_covers_no_point():
    points = np.asarray([[0, 0], [0.2, 0.1], [-0.2, 0.1], [9, 4], [-9, -4]], np.float32)
    square = np.asarray([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    picture = MapPicture(points, [MapPlace("dog", 0.0, 0.0, 3, "#000", [square])], np.zeros(1, int))
    figure = draw_map(picture, Groups("layer", ("a",), np.zeros(5, np.int64)), "one", ["A note."])
    (axes,) = figure.axes
    (text,) = axes.texts
    box = text.get_window_extent()
    pixels = axes.transData.transform(points)
    assert not any(box.contains(*pixel) for pixel in pixels)
    # beside its outline, not far from it
    low, high = axes.transData.transform([[-1, -1], [1, 1]])
    assert box.x0 < high[0] + box.height
    assert box.x1 > low[0] - box.height
    assert box.y0 < high[1] + box.height
    assert box.y1 > low[1] - box.height
    assert axes.get_xlabel() == "A note."


def test_crops_are_drawn_at_points_and_overlap_neither_each_other_nor_names():
    from PIL import Image

    picture = crowd(900, named=12)
    asked = []

    def crop(index):
        asked.append(index)
        return Image.new("RGB", (96, 96), "red")

    picture = MapPicture(picture.points, picture.places, picture.medoids, crop=crop)
    figure = draw_map(picture, Groups("layer", ("a",), np.zeros(900, np.int64)), "crops")
    (axes,) = figure.axes
    assert 20 < len(asked) <= 90
    assert len(set(asked) & set(range(12))) >= 4  # the middles of places come first
    names = [text.get_window_extent() for text in axes.texts]
    frames = axes.collections[-1].get_paths()
    boxes = [axes.transData.transform_bbox(path.get_extents()) for path in frames]
    assert len(boxes) == len(asked)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(name) for name in names)
        shrunk = box.shrunk(0.98, 0.98)
        assert not any(shrunk.overlaps(other) for other in boxes[:i])


def test_the_map_shows_a_crop_of_each_component(single):
    found = single.concept_map(concepts=CONCEPTS)
    (axes,) = found.plot().axes
    assert len(axes.images) == 1
    assert len(axes.collections[-1].get_paths()) == len(found)
    named = sum(bool(labels) for labels in found.places["labels"])
    assert len(axes.texts) == named


@pytest.mark.parametrize(
    "colouring",
    [
        Groups("layer", tuple("abcdefghij"), np.arange(20_000) % 11 - 1, ordered=True),
        Queries(("dog", "sea"), np.linspace(-1, 1, 40_000, dtype=np.float32).reshape(-1, 2)),
        Scale("clarity", np.where(np.arange(20_000) % 7, np.float32(0.5), np.float32(np.nan))),
        Scale("relevance", np.linspace(-1, 1, 20_000, dtype=np.float32), True, True),
        Scale("clarity", np.full(20_000, np.nan, np.float32)),
    ],
)
def test_many_points_are_pixels_in_a_vector_file(colouring):
    from semlens.draw.figure import figure_svg

    figure = draw_map(crowd(20_000, named=3), colouring, "many")
    text = figure_svg(figure)
    assert "<image" in text
    assert len(text) < 2_000_000
    assert len(figure.axes[0].texts) == 3


# -- command --------------------------------------------------------------------------------


@pytest.fixture
def run(single, monkeypatch):
    # the embedder of these tests exists in this process only: its SPEC cannot be loaded
    monkeypatch.setattr("semlens.store.reader.load_for_database", lambda *_, **__: single.embedder)

    def call(*words):
        return CliRunner().invoke(app, ["map", str(single.path), *map(str, words)])

    return call


@pytest.mark.slow
def test_the_command_prints_clusters_and_writes_files(run, single, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    result = run("--embedder", "words")
    assert result.exit_code == 0, result.output
    assert_says(AssertionError(result.output), "place", "size", "add --save map.png")
    assert set(tmp_path.iterdir()) == before
    files = [tmp_path / f"map{end}" for end in (".png", ".svg", ".csv", ".json")]
    saves = [word for file in files for word in ("--save", file)]
    result = run("--embedder", "words", "--query", "dog", "--query", "sea", "--json", *saves)
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value["reused"] is True
    assert len(value["components"]) == single.has_examples.sum()
    assert "alignment: sea" in value["components"][0]
    assert value["clusters"][0]["size"] >= value["clusters"][-1]["size"]
    assert all(file.stat().st_size > 500 for file in files)
    assert list(pd.read_csv(files[2]).columns)[: len(COLUMNS)] == COLUMNS


def test_the_command_takes_clusters_seed_and_no_concepts(run, single):
    result = run(
        "--layer", "second", "--concepts", "none", "--clusters", 2, "--seed", 4, "--again",
        "--color", "clarity", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert len(value["clusters"]) == 2
    assert value["seed"] == 4
    assert {part["place_label"] for part in value["components"]} == {None}
    assert all("clarity" in part for part in value["components"])
    found = run("--concepts", "none", "--method", "hdbscan", "--json")
    assert json.loads(found.stdout)["method"] == "hdbscan"


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (("--color", "layer", "--query", "dog"), "--color query"),
        (("--query", "dog", "--target", "1"), "--color relevance"),
        (("--color", "query", "--target", "1"), "--target cannot be used"),
        (("--color", "relevance", "--query", "ox"), "--query cannot be used"),
        (("--color", "query"), "Give at least one"),
        (("--color", "relevance"), "0 classes"),
        (("--color", "layer", "--contrast", "c.json"), "--color contrast"),
        (("--color", "contrast"), "0 contrasts"),
        (("--contrast", "nothing.json", "--concepts", "none"), "semlens contrast ... --save"),
        (("--save", "map.html"), ".png"),
        (("--target", "zebra", "--concepts", "none"), "Unknown class 'zebra'"),
    ],
)
def test_wrong_options(run, given, part):
    result = run(*given)
    assert result.exit_code == 1
    assert part in result.stderr
