"""The planted worlds of labels: what is drawn, what is true of it, and what units respond to."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from benchmarks.worlds.labelled.concepts import GENERAL, SYNONYMS, side, simplified, words_of
from benchmarks.worlds.labelled.detectors import HandBuilt, draw_units, hand_built_units, readouts
from benchmarks.worlds.labelled.scenes import WORLDS, LabelWorld, WorldImages, draw_images
from benchmarks.worlds.labelled.units import read_units, save_units
from benchmarks.worlds.labelled.vectors import Vectors
from benchmarks.worlds.labelled.worlds import with_gap
from demo_world.rasterise import Picture
from demo_world.scenes import BACKGROUNDS, COLOURS, OVERLAYS, SceneStyle, draw_scenes

LABELS = {
    "animal-mammal": "dog|dog face|cat|fox|wolf|tiger|lion|rabbit|otter|camel|two-hump camel",
    "animal-bird": "eagle|owl|duck|swan|parrot|penguin",
    "food-fruit": "banana|lemon|lime|mango|peach|pear",
    "transport-ground": "bus|oncoming bus|taxi|tractor|train|tram",
    "tool": "axe|hammer|wrench|ladder",
}
GROUP = {"animal": "animals-nature", "food": "food-drink", "transport": "travel-places"}
VENDORS = "noto", "twemoji", "fluent-emoji", "emojione"


def pictures() -> tuple[np.ndarray, list[Picture]]:
    """Draw each emoji as a disc of its own colour; vendors differ in its size."""
    rng = np.random.default_rng(0)
    records: list[Picture] = []
    pixels: list[np.ndarray] = []
    distance = np.hypot(*(np.mgrid[:96, :96] - 47.5))
    for subgroup, labels in LABELS.items():
        for label in labels.split("|"):
            colour = rng.integers(0, 255, 3)
            for number, vendor in enumerate(VENDORS):
                group = GROUP.get(subgroup.split("-")[0], "objects")
                records.append(Picture(vendor, label, label, [], group, subgroup, f"e:{label}"))
                inside = distance < 30 + 4 * number
                rgb = np.broadcast_to(colour, (96, 96, 3))
                pixels.append(np.dstack([rgb, 255 * inside]).astype(np.uint8))
    return np.stack(pixels), records


@lru_cache
def world(opened_once: bool = False) -> WorldImages:
    """Draw a small world."""
    name = "fresh" if opened_once else "dev"
    spec = LabelWorld(name, "broad", opened_once, seed=3, words=300, probe=240, unseen=120)
    return draw_images(spec, *pictures(), lambda word: {"vehicle"} if word == "bus" else set())


def vectors(images: WorldImages) -> Vectors:
    """Return random unit vectors."""
    rng = np.random.default_rng(0)
    counts = len(images.words), 1, len(images.probe), len(images.unseen)
    drawn = [rng.standard_normal((n, 16)).astype(np.float32) for n in counts]
    words, null, probe, unseen = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in drawn)
    return Vectors(words, null[0], probe, unseen)


def column(images: WorldImages, word: str) -> np.ndarray:
    """Return which probe images a word is true of."""
    return images.probe.true[:, images.words.index(word)]


@pytest.mark.slow
def test_annotations_are_what_was_drawn() -> None:
    images = world()
    scenes = images.probe.scenes
    names = list(COLOURS)
    for row in range(len(scenes)):
        drawn = [images.shown[scenes.main[row]]]
        drawn += [images.shown[scenes.second[row]]] if scenes.second[row] >= 0 else []
        expected = {word for d in drawn for word in words_of(d.concept, d.kind)}
        found = {images.words[i] for i in np.flatnonzero(images.probe.true[row])}
        about = found - expected
        assert expected <= found
        overlay = OVERLAYS[scenes.overlay[row]] if scenes.overlay[row] >= 0 else ""
        assert ("text" in about) == ("writing" in about) == (overlay == "text")
        assert ("border" in about) == (overlay == "frame")
        assert ("striped background" in about) == (BACKGROUNDS[scenes.background[row]] == "striped")
        coloured = {f"{names[c]} background" for c in scenes.colours[row]}
        backgrounds = {w for w in about if w.split()[0] in names and w.endswith("background")}
        assert backgrounds == (set() if overlay in ("tint", "grayscale") else coloured)


def test_pixels_show_the_annotated_background() -> None:
    images = world()
    scenes = images.probe.scenes
    plain = (scenes.background == BACKGROUNDS.index("solid")) & (scenes.overlay == -1)
    rows = np.flatnonzero(plain & (scenes.size < 0.8))
    borders = np.concatenate([images.probe.pixels[rows, 0], images.probe.pixels[rows, -1]], 1)
    named = np.array(list(COLOURS.values()))
    nearest = np.abs(np.median(borders, 1)[:, None] - named).sum(2).argmin(1)
    assert (nearest == scenes.colours[rows, 0]).mean() > 0.9
    grey = images.probe.pixels[column(images, "grayscale")]
    assert (grey == grey[..., :1]).all()


def test_overlays_change_pixels_everywhere_they_are_said_to_be() -> None:
    picture = np.zeros((1, 96, 96, 4), np.uint8)
    for number, name in enumerate(OVERLAYS):
        shares = tuple(float(i == number) for i in range(len(OVERLAYS)))
        style = SceneStyle(overlays=shares, backgrounds=(1.0, 0.0, 0.0, 0.0))
        scenes = draw_scenes(picture, np.zeros(8, int), np.full(8, -1), style, 1)
        assert (scenes.overlay == number).all()
        changed = [len(np.unique(scene.reshape(-1, 3), axis=0)) > 1 for scene in scenes.pixels]
        assert all(changed) == (name in ("text", "frame", "stripes"))


def test_no_unseen_image_is_in_the_probe_and_no_design_is_in_both() -> None:
    images = world()
    digests = [{s.tobytes() for s in split.pixels} for split in (images.probe, images.unseen)]
    assert not digests[0] & digests[1]
    designs = [
        {images.shown[row].design for row in (*split.scenes.main, *split.scenes.second) if row >= 0}
        for split in (images.probe, images.unseen)
    ]
    assert designs[0]
    assert designs[1]
    assert not designs[0] & designs[1]


def test_words_that_are_true_of_the_same_images_are_synonyms() -> None:
    images = world()
    text, writing, frame = (images.words.index(w) for w in ("text", "writing", "border"))
    right = images.right([text])
    assert right[writing]
    assert not right[frame]
    true = np.concatenate([images.probe.true, images.unseen.true])
    for word in np.flatnonzero(true.any(0)):
        same = (true == true[:, [word]]).all(0)
        assert (images.right([int(word)]) == same).all()
    nowhere = np.flatnonzero(~true.any(0))
    assert len(nowhere) > 50
    assert images.right([int(nowhere[0])]).sum() == 1


def test_distractors_are_not_what_images_show() -> None:
    images = world()
    shown = {d.concept for d in images.shown}
    assert ("vehicle" in images.words) == ("bus" not in shown or column(images, "vehicle").any())
    assert len(set(images.words)) == len(images.words) <= 300
    for word in ("dog", "animal"):  # of paper's vocabulary too
        if word in images.words:
            assert column(images, word).any() or word not in shown


def test_labels_are_simplified() -> None:
    pairs = {
        "cat face": "cat", "half past": "half past", "three o’clock": "clock face",
        "man running: facing right": "person running", "woman artist": "artist",
        "women with bunny ears": "person with bunny ears", "person: red hair": "red hair",
        "oncoming taxi": "taxi", "backhand index pointing left": "pointing hand",
    }  # fmt: skip
    assert {label: simplified(label) for label in pairs} == pairs
    assert {"dog", "animal", "mammal"} <= set(words_of("dog", "animal-mammal"))
    assert "animal" not in set(words_of("feather", "animal-bird"))


@pytest.mark.slow
def test_no_word_is_right_in_both_halves() -> None:
    right = []
    for opened_once in (False, True):
        images = world(opened_once)
        right.append({images.words[i] for i in np.flatnonzero(images.may_be_right)})
        for unit in draw_units(images, {"detector": 20, "sum": 4}):
            named = np.flatnonzero(images.right([part.word for part in unit.parts]))
            assert {images.words[i] for i in named} <= right[-1]
    assert right[0]
    assert right[1]
    assert not right[0] & right[1]
    shown = [{d.concept for d in world(opened).shown} for opened in (False, True)]
    assert not shown[0] & shown[1]
    assert not set(GENERAL["development"]) & set(GENERAL["fresh"])
    assert not set(SYNONYMS.values()) & set(SYNONYMS)


def test_the_worlds_that_are_opened_once_differ_in_everything() -> None:
    fresh = [spec for spec in WORLDS if spec.opened_once]
    others = [spec for spec in WORLDS if not spec.opened_once]
    assert {spec.data for spec in fresh} == {spec.data for spec in others} == {"broad", "narrow"}
    assert not {spec.seed for spec in fresh} & {spec.seed for spec in others}
    assert all(a.style != b.style for a in fresh for b in others)
    assert {spec.half for spec in fresh} == {"fresh"}
    assert side("dog", "animals-nature") in ("development", "fresh")


def test_detectors_respond_to_their_word_and_noise_to_nothing() -> None:
    images = world()
    word = images.words.index("animal")
    rng = np.random.default_rng(0)
    clean = replace(
        HandBuilt.draw("detector", [word], rng), leak=0.0, noise=0.01, threshold=0.0, signed=True
    )
    clean = replace(clean, parts=(replace(clean.parts[0], similar=0.0, missed=0.0),))
    true = column(images, "animal")
    found = readouts(clean, images, images.probe)
    assert found[true].min() > found[~true].max()
    units = [replace(HandBuilt.draw("noise", [], rng), signed=True) for _ in range(400)]
    noise = np.stack([readouts(unit, images, images.probe) for unit in units], 1)
    ranks = noise.argsort(0).argsort(0)
    difference = ranks[true].mean(0) - ranks[~true].mean(0)
    deviation = difference.std() / np.sqrt(len(units))
    assert abs(difference.mean()) < 4 * deviation
    assert difference.std() == pytest.approx(  # that of the rank test under the null
        np.sqrt(len(true) ** 2 * (len(true) + 1) / (12 * true.sum() * (~true).sum())), rel=0.2
    )


def test_units_are_consistent_and_survive_a_file(tmp_path: Path) -> None:
    images = world()
    units = hand_built_units(images, vectors(images), "random")
    evidence = units.evidence
    assert evidence.reference_readouts is not None
    assert evidence.in_reference is not None
    assert evidence.annotations is not None
    for unit in range(0, len(units), 7):
        places = evidence.in_reference[unit, : evidence.counts[unit]]
        known = places >= 0
        np.testing.assert_array_equal(
            evidence.readouts[unit, : len(places)][known],
            evidence.reference_readouts[places[known], unit],
        )
        rows = evidence.examples[unit, : len(places)][known]
        assert evidence.reference is not None
        np.testing.assert_array_equal(evidence.images[rows], evidence.reference[places[known]])
    noise = np.array(units.kind) == "noise"
    assert not units.right[noise].any()
    assert units.right[~noise].any(1).all()
    save_units(units, tmp_path / "units.npz")
    again = read_units(tmp_path / "units.npz")
    assert again.kind == units.kind
    assert again.words == units.words
    assert again.evidence.population == len(images.probe)
    np.testing.assert_array_equal(again.right, units.right)
    np.testing.assert_array_equal(again.evidence.images, evidence.images)
    np.testing.assert_array_equal(again.unseen.readouts, units.unseen.readouts)


def test_a_gap_keeps_what_distinguishes_images() -> None:
    images = world()
    units = hand_built_units(images, vectors(images), "random")
    same, far = with_gap(units, 0.0), with_gap(units, 3.0)
    np.testing.assert_array_equal(same.evidence.words, units.evidence.words)
    before, after = units.unseen.vectors, far.unseen.vectors
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)
    cosines = after @ after.T
    assert cosines.min() > 0.6
    assert np.abs(after @ far.evidence.words.T).max() < cosines.min()
    assert far.evidence.null is not None
    assert far.evidence.reference is not None
    assert (far.evidence.null @ far.evidence.words.T).min() > 0.6
    centred = after - after.mean(0)
    original = before - before.mean(0)
    upper = np.triu_indices(len(before), 1)
    assert np.corrcoef((centred @ centred.T)[upper], (original @ original.T)[upper])[0, 1] > 0.9
