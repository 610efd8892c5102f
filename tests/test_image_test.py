"""The test on images that decides on an alarm, against plain loops, and where it cannot be run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from test_class_contrast import BACKGROUND, CLASSES, SPURIOUS, draw

import semlens as sl
from semlens.lenses.audit.class_contrast import LayerExcess, carriers, contrast_carriers
from semlens.lenses.audit.image_test import OF_OTHERS, OTHERS, decide_on_images
from semlens.lenses.concepts import Concept
from semlens.lenses.swap.effect import FACTOR, MARGIN
from semlens.lenses.swap.pairs import plan_swap
from semlens.lenses.swap.parts import BLUR, relevant_regions
from semlens.relevance.heatmap_boxes import upsample_and_blur

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    return sl.build(
        tmp_path_factory.mktemp("db") / "db", *draw(tmp_path_factory.mktemp("hues"), CLASSES, 8),
        ["hues"], examples=6, crop="activation", relevance=True,
    )  # fmt: skip


BLUE = CLASSES.index("blue")
PINK = Concept("pink", kind="spurious")


def plain_candidates(db, samples, target, components):
    """The pixels with as much relevance through components as the 5 % with most; ties count."""
    regions = []
    for sample in samples:
        found = db.explain(db.images.read(int(sample)), target, top=16).layers["hues"]
        heat = np.zeros((32, 32))
        heat += sum(one.heat for one in found if one.component in components)
        smooth = upsample_and_blur(torch.tensor(heat)[None].float(), 32, 32, BLUR)[0].numpy()
        least = np.sort(smooth.ravel())[-round(0.05 * smooth.size)]
        regions.append((smooth >= least * (1 - 1e-5)) & (smooth > 0))
    return np.stack(regions)


def test_regions_are_those_with_most_relevance_through_the_components(db):
    components = contrast_carriers(db, BLUE, PINK)
    for target in (BLUE, 1):
        samples = plan_swap(db, [target], 8, OTHERS, 0).pairs[0].donors
        regions = relevant_regions(db, samples, BLUE, 0.05, None, 5, components).numpy()
        candidates = plain_candidates(db, samples, BLUE, components)
        assert not (regions & ~candidates).any()
        least = np.minimum(round(0.05 * 32 * 32), candidates.sum((1, 2)))
        np.testing.assert_array_equal(regions.sum((1, 2)), least)


def test_it_is_a_paired_test_of_what_the_concepts_components_see(db):
    components = contrast_carriers(db, BLUE, PINK)
    assert {one.index % 8 for one in components} <= {7, BLUE}  # two channels per colour
    assert 7 in {one.index % 8 for one in components}
    found = decide_on_images(db, BLUE, "pink", components)
    plan = plan_swap(db, [BLUE], 128, OTHERS, 0, OF_OTHERS)
    gains, spreads = {}, {}
    for pairs in plan.pairs:
        count = pairs.different_donors  # later ones repeat
        donors = pairs.donors[:count]
        regions = relevant_regions(db, donors, pairs.target, 0.05, None, 32, components)
        receivers, donors, third = (
            torch.stack([db.model.prepare(db.images.read(int(sample))) for sample in samples])
            for samples in (pairs.receivers, pairs.donors, pairs.third)
        )
        where = regions[np.arange(len(donors)) % count][:, None]
        with torch.no_grad():
            logits = [
                db.model.module(torch.where(where, source, receivers)).double().numpy()
                for source in (donors, third)
            ]
        with_own, with_third = (of_source[:, pairs.target] for of_source in logits)
        rise = with_own - with_third
        gains[pairs.target] = np.array([rise[i::count].mean() for i in range(count)])
        spreads[pairs.target] = with_third.std()
    own, scale = gains.pop(BLUE), np.median(list(spreads.values()))
    others = np.mean([one.mean() for one in gains.values()])
    assert found.gain == pytest.approx(float(own.mean()), rel=1e-4)
    assert found.excess == pytest.approx((own.mean() - others) / scale, rel=1e-3)
    assert found.images == 8
    weight = FACTOR if others > 0 else 1.0
    variance = own.var(ddof=1) / 8
    variance += (weight / len(gains)) ** 2 * sum(g.var(ddof=1) / len(g) for g in gains.values())
    score = (own.mean() - weight * others - MARGIN * scale) / np.sqrt(variance)
    # Welch's, or larger by the correction for skewness
    assert stats.norm.sf(score) <= found.p_value < 0.01


def test_regions_of_some_components_are_where_these_see_something(db):
    """Of blue images, the sticker is pink: regions through pink channels lie on it."""
    paths = [db.sample(i).path for i in range(8 * len(CLASSES))]
    samples = np.array([i for i, path in enumerate(paths) if path.startswith("blue/")])
    pink = [db.component(row) for row in (7, 15)]
    regions = relevant_regions(db, samples, BLUE, 0.05, None, 4, pink).numpy()
    for sample, region in zip(samples, regions, strict=True):
        pixels = np.asarray(db.images.read(int(sample)))[region].astype(int)
        assert (pixels[:, 0] > pixels[:, 1] + 60).mean() > 0.8  # pink is red and blue


def test_carriers_make_up_half_of_what_the_contrast_gains():
    excess = [np.array([[3.0], [1], [-4]]), np.array([[2.0], [2], [2], [-6]])]
    first = [0, 3]
    layers = [
        LayerExcess(np.arange(start, start + len(one)), one, one)
        for start, one in zip(first, excess, strict=True)
    ]
    # the second layer adds 2 + 4 + 6 = 12, of which 6 is half; the first 3
    alignments = [np.array([1.0, -2, 5]), np.array([1.0, 2, 3, -6])]
    assert carriers(layers, alignments) == [5]
    assert carriers(layers, [np.array([9.0, 1, 0]), np.array([0.0, 0, 0, 1])]) == [0]


def test_without_the_images_nothing_is_decided_and_the_class_is_suspicious(db, tmp_path):
    settings = {"background": BACKGROUND, "resamples": 0}
    sure = db.audit("blue", SPURIOUS, **settings)
    assert sure.alarm and sure.evidence == "images"
    assert sure.to_json()["images"]["images"] == 8
    missing = sl.open(db.path, model=db.model, images=str(tmp_path / "gone"), embedder=db.embedder)
    components = [db.component(15)]  # not those whose result the database keeps
    found = decide_on_images(missing, BLUE, "pink", components)
    assert found.images == 0 and found.reason and np.isnan(found.p_value)
    unsure = replace(sure, images=found, others=[], experiments=[])
    assert unsure.standing.kind == "suspicion" and unsure.evidence == "contrast"
    assert "could not be tested on images" in unsure.sentence
    assert unsure.p_value == pytest.approx(sure.summary["p_value"].min())


def test_it_is_run_once(db, monkeypatch):
    components = contrast_carriers(db, BLUE, PINK)
    first = decide_on_images(db, BLUE, "pink", components)
    monkeypatch.setattr(type(db.model.module), "forward", None)
    assert decide_on_images(db, BLUE, "pink", components) == first
