"""Network Dissection: planted detectors, plain loops as oracles, and what chance finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from conftest import ColourEmbedder, LittleNet, assert_says, to_tensor, write_pictures
from PIL import Image
from scipy import stats
from segmented_world import COLOURS, ColourNet, centre, save, write_world
from torch.nn import functional

import semlens as sl
from semlens.demo.bundled_images import DemoWorld
from semlens.demo.mark_masks import mark_mask, write_mark_masks
from semlens.demo.walkthrough import find_planted
from semlens.errors import DataError, LayerError, RecipeError
from semlens.lenses.netdissect import score_thresholds
from semlens.lenses.netdissect.input_masks import InputMasks
from semlens.lenses.netdissect.mask_folder import load_masks
from semlens.lenses.netdissect.netdissect import find_overlap, find_thresholds
from semlens.lenses.netdissect.overlap import CellCounts, Overlap, orders_for, shifted_p_values
from semlens.lenses.netdissect.score_thresholds import UpperQuantile
from semlens.models.demo import DemoNet, preprocess
from semlens.models.subject import SubjectModel


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture(scope="module")
def db(world):
    model = SubjectModel(ColourNet(), centre, "centre 64", "python:colours", list("abc"))
    parts = (world / "db", model, world / "images", ColourEmbedder())
    sl.build(*parts, ["colours"], components="channels,nmf:3", examples=3, crop="none")
    return sl.build(*parts, ["coarse", "head"], examples=3, crop="none")


@pytest.fixture(scope="module")
def little(tmp_path_factory):
    """A signed layer of a random network, and masks of random rectangles in the images' sizes."""
    folder = tmp_path_factory.mktemp("little")
    write_pictures(folder / "images", 20)
    random = np.random.default_rng(1)
    for path in sorted((folder / "images").rglob("*.png")):
        width, height = Image.open(path).size
        label = np.zeros((height, width), np.uint8)
        for index in (1, 2):
            y, x = random.integers(0, height // 2), random.integers(0, width // 2)
            label[y : y + height // 2, x : x + width // 3] = index
        label[: height // 8] = 255
        save(folder / "masks" / path.relative_to(folder / "images"), label)
    (folder / "masks" / "classes.json").write_text('{"1": "box", "2": "window"}')
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    built = sl.build(
        folder / "db", model, folder / "images", ColourEmbedder(), ["second"], examples=3,
        crop="none",
    )  # fmt: skip
    return built, folder / "masks"


# -- planted truth ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["indexed", "folders"])
def test_a_channel_that_is_a_colour_is_a_detector_of_it(world, db, form):
    found = db.netdissect(world / form, "colours")
    frame = found.to_pandas().set_index("component")
    order = [found.names.index(colour) for colour in COLOURS]
    right = found.iou[:3, order]
    # squares that the crop cuts are cut in the masks as well: any shift would lower the IoU
    np.testing.assert_allclose(right, np.eye(3), atol=1e-12)
    for number, colour in enumerate(COLOURS):
        row = frame.loc[f"colours:{number}"]
        assert row["concept"] == colour
        assert row["detector"]
        assert row["expected"] < 0.02
    assert not frame.loc["colours:3", "detector"]
    assert found.concepts.set_index("concept")["detectors"].to_dict() == dict.fromkeys(COLOURS, 1)


def test_directions_of_a_dictionary_are_components(world, db):
    found = db.netdissect(world / "indexed", "colours@nmf", quantile=0.01)
    assert len(found.frame) == db.layer("colours@nmf").rows
    assert found.frame["component"].str.startswith("colours@nmf:").all()
    both = db.netdissect(world / "indexed", ["colours", "colours@nmf"], quantile=0.01)
    merged = both.frame.merge(found.frame, on="component", suffixes=("", "_alone"))
    assert len(merged) == len(found.frame)
    np.testing.assert_array_equal(merged["iou"], merged["iou_alone"])


def test_layers_without_a_map_are_left_out_or_refused(world, db):
    layers = {name.split(":")[0] for name in db.netdissect(world / "indexed").frame["component"]}
    assert {"colours", "coarse"} <= layers
    assert "head" not in layers
    with pytest.raises(LayerError) as error:
        db.netdissect(world / "indexed", "head")
    assert_says(error.value, "'head' has no map")


def test_plots_and_files(world, db, tmp_path):
    found = db.netdissect(world / "indexed", "colours", samples=12, within_classes=True)
    assert len(found.labelled.samples) == 12
    found.save(tmp_path / "n.png")
    found.save(tmp_path / "n.json")
    assert (tmp_path / "n.png").stat().st_size > 10_000
    assert "detectors of" in repr(found)


# -- oracles ----------------------------------------------------------------------------


def test_thresholds_iou_and_expected_iou_follow_plain_loops(little):
    db, folder = little
    found = db.netdissect(folder, quantile=0.05, resolution=20)
    labelled = found.labelled
    inputs = torch.stack([to_tensor(db.images.read(int(s))) for s in labelled.samples])
    maps = db.model.module.second(db.model.module.first(inputs)).detach().double()
    entry = db.layer("second")
    if entry.rows > entry.channels:
        maps = torch.cat([maps, -maps], 1)
    masks = labelled.masks_of(labelled.samples)
    big = functional.interpolate(maps, (20, 20), mode="bilinear", align_corners=False).numpy()
    frame = found.frame.sort_values("row").reset_index(drop=True)
    for c in range(maps.shape[1]):
        values = maps[:, c].numpy().ravel()
        threshold = np.quantile(values, 0.95, method="inverted_cdf")
        assert frame["threshold"][c] == pytest.approx(threshold, abs=1e-6)
        for k in range(2):
            own, other = [0.0, 0.0], [0.0, 0.0]
            total = sum(m.inside[m.concepts == k].sum() for m in masks)
            for i, j in itertools.product(range(len(masks)), repeat=2):
                mask = masks[j].inside[masks[j].concepts == k].any(0)
                on = (big[i, c] > threshold) & masks[j].valid
                sums = own if i == j else other
                sums[0] += (on & mask).sum()
                sums[1] += on.sum()
            assert found.iou[c, k] == pytest.approx(own[0] / (own[1] + total - own[0]))
            if k == found.names.index(frame["concept"][c]):
                both, on = (value / (len(masks) - 1) for value in other)
                assert frame["expected"][c] == pytest.approx(both / (on + total - both), rel=1e-5)


def test_the_streamed_quantile_is_exact(monkeypatch):
    random = np.random.default_rng(0)
    for count, share in ((1000, 0.005), (777, 0.013), (40, 0.5), (10, 0.001)):
        values = random.normal(size=(5, count)).astype(np.float32)
        values[1] = np.round(values[1])  # ties
        quantile = UpperQuantile(5, count, share)
        for part in np.array_split(values, 13, axis=1):
            if part.shape[1]:
                quantile.update(torch.from_numpy(part))
        got = quantile.result().numpy()
        ordered = np.sort(values, 1)[:, ::-1]
        np.testing.assert_array_equal(got, ordered[:, round(share * count - 0.499)])
        assert ((values > got[:, None]).mean(1) <= share + 1e-12).all()
        expected = np.quantile(values, 1 - share, axis=1, method="inverted_cdf")
        np.testing.assert_array_equal(got, expected)
    monkeypatch.setattr(score_thresholds, "MEMORY", 1000)
    with pytest.raises(RecipeError, match="GiB"):
        UpperQuantile(100, 1000, 0.5)


def test_results_do_not_depend_on_the_batches(little):
    db, folder = little
    one, other = (db.netdissect(folder, batch_size=size) for size in (3, 20))
    np.testing.assert_allclose(one.iou, other.iou, atol=2e-3)  # a float32 may pass its threshold


def random_cells(random, images, components, concepts, grid=(8, 8), related=0):
    """Cell counts of random blobs; the first components are on where the first concept is."""
    counts = CellCounts(components, concepts, grid)
    where = [blob(random, grid) for _ in range(images)]
    masks = []
    for i in range(images):
        inside = np.stack([where[i], *(blob(random, grid) for _ in range(concepts - 1))])
        valid = random.random(grid) < 0.9
        present = np.flatnonzero(random.random(concepts) < 0.7)
        masks.append(InputMasks(present, (inside & valid)[present], valid))
        on = np.stack([where[i] if c < related else blob(random, grid) for c in range(components)])
        chosen = np.flatnonzero(random.random(components) < 0.6)
        counts.add_components(np.full(len(chosen), i), chosen, on[chosen])
    counts.add_masks(0, masks)
    return counts, masks


def blob(random, grid):
    """Return a rectangle that is more often below: places are not independent of the null."""
    mask = np.zeros(grid, bool)
    y, x = int(random.beta(3, 1) * (grid[0] - 2)), random.integers(0, grid[1] - 2)
    mask[y : y + 3, x : x + 3] = True
    return mask


@pytest.mark.parametrize("groups", [np.zeros(12, int), np.arange(12) % 3])
def test_shifted_p_values_follow_plain_loops(groups):
    counts, masks = random_cells(np.random.default_rng(0), 12, 4, 3, related=1)
    got = shifted_p_values(counts, groups, 1, seed=5)
    random = np.random.default_rng(5)
    members = [random.permutation(np.flatnonzero(groups == g)) for g in range(groups.max() + 1)]
    rounds = 12 // len(members[0])
    shifts = [
        np.concatenate([random.permutation(len(own)) for _ in range(rounds)]) for own in members
    ]
    right = random.integers(12)
    on = counts.components.toarray().reshape(12, 4, 64)
    largest = np.zeros((12, 4))
    for number, c, k in itertools.product(range(12), range(4), range(3)):
        common = area = total = 0.0
        for own, shift in zip(members, shifts, strict=True):
            for place, image in enumerate(own):
                further = place + shift[number] - shift[right]
                mask = masks[own[further % len(own)]]
                inside = mask.of(k).ravel()
                common += (on[image, c] * inside).sum()
                area += (on[image, c] * mask.valid.ravel()).sum()
                total += inside.sum()
        largest[number, c] = max(largest[number, c], common / (area + total - common))
    expected = (largest >= largest[right] - 1e-12).mean(0)
    np.testing.assert_allclose(got, expected)
    assert got[0] < 0.2


# -- chance -----------------------------------------------------------------------------


def test_p_values_of_unrelated_maps_are_uniform():
    counts, _ = random_cells(np.random.default_rng(1), 60, 300, 3)
    p = shifted_p_values(counts, np.zeros(60, int), 3)
    # components share the masks, so that their p-values are dependent: a loose bound
    assert stats.kstest(p, "uniform").statistic < 0.12
    assert (p <= 0.05).mean() < 0.1


def test_the_false_discovery_rate_is_kept():
    random, alone = np.random.default_rng(2), np.zeros(40, int)
    false, wrong_shares, found = 0, [], []
    for _ in range(25):
        counts, _ = random_cells(random, 40, 12, 2)
        p = shifted_p_values(counts, alone, orders_for(12, 40, 0.05))
        false += bool((stats.false_discovery_control(p) <= 0.05).any())
        counts, _ = random_cells(random, 40, 12, 2, related=6)
        p = shifted_p_values(counts, alone, orders_for(12, 40, 0.05))
        detected = stats.false_discovery_control(p) <= 0.05
        wrong_shares.append(detected[6:].sum() / max(detected.sum(), 1))
        found.append(detected[:6].mean())
    # 25 worlds without any relation: 5 % give 1; more than 5 have a probability of 0.1 %
    assert false <= 5
    assert np.mean(wrong_shares) < 0.06
    assert np.mean(found) > 0.95


def test_what_only_follows_the_class_is_found_without_classes_only():
    """Half of the images have a concept somewhere, and maps are on somewhere in the same half."""
    random = np.random.default_rng(3)
    counts, groups = CellCounts(40, 1, (8, 8)), np.arange(60) % 2
    masks = []
    for i in range(60):
        shown = groups[i] == 1
        inside = blob(random, (8, 8))[None] if shown else np.zeros((0, 8, 8), bool)
        masks.append(InputMasks(np.arange(int(shown)), inside, np.ones((8, 8), bool)))
        chosen = np.arange(40) if shown else np.arange(0)
        on = np.stack([blob(random, (8, 8)) for _ in range(40)])[chosen]
        counts.add_components(np.full(len(chosen), i), chosen, on)
    counts.add_masks(0, masks)
    p = shifted_p_values(counts, np.zeros(60, int), 5)
    within = shifted_p_values(counts, groups, 5)
    assert (p < 0.05).mean() > 0.6
    assert (within < 0.05).mean() < 0.2


# -- what is refused -------------------------------------------------------------------


def test_folders_that_are_no_masks_are_refused(tmp_path, world, db):
    with pytest.raises(DataError, match="is not a folder"):
        load_masks(tmp_path / "missing")
    with pytest.raises(DataError, match="has no masks"):
        load_masks(tmp_path)
    (tmp_path / "classes.json").write_text("[")
    with pytest.raises(DataError, match="cannot be read"):
        load_masks(tmp_path)
    (tmp_path / "classes.json").write_text('["", "sky"]')
    with pytest.raises(DataError, match="masks of 0 images"):
        db.netdissect(tmp_path)
    save(tmp_path / "other" / "sky" / "elsewhere.png", np.ones((4, 4), np.uint8))
    with pytest.raises(DataError, match="mark no pixel"):
        db.netdissect(tmp_path / "other")
    with pytest.raises(RecipeError, match="quantile"):
        db.netdissect(world / "indexed", quantile=0.0)


def test_an_activation_that_is_not_finite_is_refused(little):
    db, folder = little
    labelled = db.netdissect(folder).labelled
    model = LittleNet()
    model.second.bias.data[3] = float("nan")
    object.__setattr__(db.model, "module", model)
    with pytest.raises(LayerError, match="not finite"):
        find_thresholds(labelled, ["second"], 0.005, 8)
    object.__setattr__(db.model, "module", LittleNet())


def test_a_component_that_is_never_on_has_no_overlap(little):
    db, folder = little
    labelled = db.netdissect(folder).labelled
    never = np.full(db.layer("second").rows, 1e9, np.float32)
    overlap = find_overlap(labelled, ["second"], never, 8)
    assert isinstance(overlap, Overlap)
    assert (overlap.iou == 0).all()
    assert (shifted_p_values(overlap.cells, np.zeros(20, int), 1) == 1).all()


# -- the demo ---------------------------------------------------------------------------


def test_the_mask_of_a_mark_is_where_images_with_and_without_it_differ():
    world = DemoWorld()
    picture = next(one for one in world.pictures if one.marked)
    mask = mark_mask(world, picture)
    marked, clean = (np.asarray(world.image(picture, v), int) for v in ("marked", "clean"))
    different = (np.abs(marked - clean) > 8).any(2)
    assert mask[different].all()
    near = np.pad(different, 4)  # a closing adds nothing that is further away
    windows = np.lib.stride_tricks.sliding_window_view(near, (9, 9)).any((2, 3))
    assert not mask[~windows].any()
    assert mask.sum() > different.sum()


@pytest.mark.slow
def test_planted_components_of_the_demo_are_detectors_and_random_ones_are_not(demo, tmp_path):
    world, db = DemoWorld(), sl.open(demo)
    assert write_mark_masks(world, tmp_path / "masks") == 136
    planted = {str(component) for component in find_planted(db.model, world, db).components}
    found = db.netdissect(tmp_path / "masks", samples=800)
    detectors = set(found.detectors["component"])
    assert len(planted) == 12
    assert len(detectors & planted) >= 11
    assert set(found.frame["component"].head(3)) & planted
    torch.manual_seed(0)
    model = SubjectModel(DemoNet().eval(), preprocess, "96 squash", "python:untrained")
    for path in (demo.parent / "images").rglob("test-*.webp"):
        copy = tmp_path / "images" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    control = sl.build(
        tmp_path / "db", model, tmp_path / "images", ColourEmbedder(), ["layer2", "layer3"],
        examples=3, reference=16, crop="none",
    )  # fmt: skip
    assert len(control.netdissect(tmp_path / "masks").detectors) < len(detectors) / 4
