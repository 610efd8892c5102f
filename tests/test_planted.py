"""The planted worlds: marks, the cache, the family of tests, and what counts as found."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from benchmarks.cases.planted import detectors, retraining
from benchmarks.cases.planted.detectors import holm, judge, summarise
from benchmarks.worlds import cache as planted_cache
from benchmarks.worlds import planted as worlds
from demo_world.marks import MarkSpec, draw_marks
from semlens.data.artefact import load_artefact
from semlens.lenses.concepts import load_sets
from semlens.lenses.swap.parts import border_region

ALL = (*worlds.DEVELOPMENT, *worlds.HELD_OUT)


def opacity(kind: str, **settings) -> list[np.ndarray]:
    marks = draw_marks(MarkSpec(kind, count=8, **settings), None, 0)
    assert {(mark.mode, mark.size) for mark in marks} == {("RGBA", (96, 96))}
    return [np.asarray(mark)[..., 3] for mark in marks]


def test_a_border_is_opaque_along_all_edges_and_nowhere_else():
    for alpha in opacity("border"):
        inside = np.zeros((96, 96), bool)
        inside[8:-8, 8:-8] = True
        assert (alpha[inside] == 0).all()
        edges = np.concatenate([alpha[:5].ravel(), alpha[-5:].ravel(), alpha[:, :5].ravel()])
        assert (edges == 240).all()


def test_a_cast_is_even_and_a_background_leaves_the_middle_out():
    for alpha in opacity("cast"):
        assert alpha.min() == alpha.max() > 0
    for alpha in opacity("background"):
        assert (alpha[32:64, 32:64] == 0).all()
        assert min(alpha[0, 0], alpha[0, 95], alpha[95, 0], alpha[95, 95]) >= 190


def test_a_sticker_can_be_kept_in_the_middle():
    for alpha in opacity("patch", **worlds.STICKER):
        rows, columns = np.nonzero(alpha)
        for place in (rows, columns):
            assert place.min() >= 33
            assert place.max() <= 65
            assert place.max() - place.min() >= 24


def test_text_needs_no_font_file():
    for alpha in opacity("text", font="", texts=("bildwelt",), band=(68, 79)):
        assert alpha[:66].max() == 0
        assert np.count_nonzero(alpha > 100) > 50
    with pytest.raises(ValueError, match="work folder"):
        draw_marks(MarkSpec("text", font="lato/Lato-Bold.ttf"), None, 0)


def test_worlds_cover_classes_kinds_and_architectures_in_both_halves():
    for half in (worlds.DEVELOPMENT, worlds.HELD_OUT):
        assert len({world.mark.kind for world in half}) == 6
        assert set(Counter(world.architecture for world in half).values()) == {2}
    assert {world.target for world in ALL} == set(worlds.bundled().classes)
    assert [world.held_out for world in ALL] == [False] * 6 + [True] * 6
    assert len({(world.seed, world.name) for world in (*ALL, *worlds.CONTROLS)}) == 15
    categories = {c.category for s in load_sets("artefacts") for c in s.concepts}
    assert {detectors.CATEGORY[world.mark.kind] for world in ALL} <= categories


@pytest.mark.parametrize("planted", [ALL[0], ALL[9], worlds.CONTROLS[0]], ids=lambda w: w.name)
def test_a_world_marks_the_target_only_and_starts_from_clean_images(planted):
    world, demo = worlds.make_world(planted), worlds.bundled()
    marked = [picture for picture in world.pictures if picture.marked]
    assert {picture.target for picture in marked} == ({planted.target} - {None})
    assert planted.target is None or 0.6 * 190 < len(marked) < 0.8 * 190
    for ours, theirs in list(zip(world.pictures, demo.pictures, strict=True))[::400]:
        clean = demo.image(theirs, "clean")
        assert world.image(ours, "clean").tobytes() == clean.tobytes()
        changed = np.asarray(world.image(ours, "marked"), int) != np.asarray(clean, int)
        opaque = np.asarray(world.marks[ours.mark])[..., 3] > 0
        assert not changed.any(-1)[~opaque].any()
        assert changed.any() == (planted.target is not None)


# -- the cache ------------------------------------------------------------------------------------


def test_a_result_is_computed_once_per_key_and_not_kept_when_killed(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"count": len(calls)}

    path = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt):
        planted_cache.remembered(path, "a", compute)
    assert not path.exists()
    assert planted_cache.remembered(path, "a", compute) == {"count": 2}
    assert planted_cache.remembered(path, "a", compute) == {"count": 2}
    assert planted_cache.remembered(path, "b", compute) == {"count": 3}


def test_a_subject_is_trained_once_and_half_a_file_is_none(tmp_path):
    planted = worlds.replace(ALL[0], steps=2)
    world = worlds.make_world(planted, 2)
    folder = planted_cache.world_folder(tmp_path, planted)
    (folder / ".subject.safetensors.part").mkdir(parents=True)
    (folder / ".subject.safetensors.part/new.part").write_bytes(b"killed here")
    first = planted_cache.trained_subject(planted, world, folder)
    written = (folder / "subject.safetensors").stat().st_mtime_ns
    again = planted_cache.trained_subject(planted, world, folder)
    assert (folder / "subject.safetensors").stat().st_mtime_ns == written
    assert first.fingerprint == again.fingerprint
    assert [path.name for path in folder.iterdir()] == ["subject.safetensors"]
    assert planted_cache.world_folder(tmp_path, worlds.replace(planted, seed=99)) != folder


# -- the family of tests --------------------------------------------------------------------------


def border(width):
    return border_region(96, 96, width).numpy()


def slow_holm(p_values, level):
    """Return what Holm's procedure rejects, step by step."""
    rejected, left = set(), sorted(range(len(p_values)), key=lambda i: p_values[i])
    while left and p_values[left[0]] < level / len(left):
        rejected.add(left.pop(0))
    return rejected


def test_holm_rejects_what_its_steps_reject():
    random = np.random.default_rng(0)
    for _ in range(200):
        p = random.beta(0.3, 2, size=int(random.integers(1, 40)))
        adjusted = holm(p)
        assert set(np.flatnonzero(adjusted < 0.05)) == slow_holm(p.tolist(), 0.05)


def test_worlds_without_a_mark_raise_false_alarms_in_at_most_five_per_cent():
    random = np.random.default_rng(1)
    world = worlds.make_world(worlds.CONTROLS[0], 1)
    alarms = 0
    for _ in range(2000):
        evidence = {name: said(dict.fromkeys(world.classes)) for name in ("a", "b", "c")}
        for one in evidence.values():
            for name in world.classes:
                one.findings[name] = detectors.Finding(random.random())
        alarms += judge(world, None, evidence)["false_alarms"] > 0
    assert alarms / 2000 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def said(findings):
    return detectors.Evidence(dict(findings), lambda name: [])


def test_found_is_the_right_class_and_what_is_said_of_it_is_right():
    planted = worlds.DEVELOPMENT[3]  # a border
    world = worlds.make_world(planted, 1)
    other = next(name for name in world.classes if name != planted.target)

    def record(finding, **more):
        findings = {name: detectors.Finding(0.9) for name in world.classes}
        return judge(
            world, planted.target, {"a": said({**findings, **more, planted.target: finding})}
        )

    assert record(detectors.Finding(1e-4, "picture frame", "frame"))["found"]
    assert not record(detectors.Finding(1e-4, "watermark", "text"))["found"]
    assert not record(detectors.Finding(0.02, "picture frame", "frame"))["found"]  # of 12 tests
    assert record(detectors.Finding(1e-4, region=border(0.15)))["found"]
    alarmed = record(detectors.Finding(0.9), **{other: detectors.Finding(1e-5)})
    assert (alarmed["found"], alarmed["false_alarms"]) == (False, pytest.approx(1 / 11))
    assert alarmed["detectors"]["a"]["detected"] == [other]


@pytest.mark.parametrize(("index", "share"), [(1, 0.0), (3, 1.0), (4, 1.0)])
def test_a_border_overlaps_a_frame_and_a_cast_but_no_sticker(index, share):
    mark = detectors.mark_region(worlds.make_world(worlds.DEVELOPMENT[index]))
    ring = border(0.15)
    assert ring.sum() == 96**2 - 68**2
    assert detectors.overlap(ring, mark) == share
    assert detectors.overlap(mark, np.zeros_like(mark)) == 0


def test_cut_outs_are_pasted_where_they_were(tmp_path):
    class Database:
        class images:
            read = staticmethod(lambda sample: Image.new("RGB", (48, 48), (0, 10 * sample, 0)))

    detectors.cut_out(Database, [3, 7], border(0.25), tmp_path)
    pasted = load_artefact(f"paste:{tmp_path}").insert(Image.new("RGB", (48, 48)), 1)
    green = np.asarray(pasted)[..., 1]
    assert (green[12:36, 12:36] == 0).all()
    assert set(np.unique(green[:12])) <= {30, 70}
    assert green[:12].min() > 0


def test_the_summary_counts_worlds():
    world = {"found": True, "false_alarms": 0.0, "null_classes": 11, "drop_removed": 0.9}
    missed = {"found": False, "false_alarms": 1 / 11, "null_classes": 11, "drop_removed": None}
    control = {"false_alarms": 0.0, "null_classes": 12}
    summary = summarise([world, missed], [control])
    assert summary["pooled_false_alarms"] == pytest.approx(1 / 34)
    assert (summary["found"]["count"], summary["found"]["of"]) == (1, 2)
    assert (summary["with_false_alarms"]["count"], summary["with_false_alarms"]["of"]) == (1, 3)
    assert summary["found"]["low"] == pytest.approx(1 - 0.975**0.5)  # 1 of 2, Clopper-Pearson


# -- retraining -----------------------------------------------------------------------------------


@pytest.mark.parametrize("category", sorted(set(detectors.CATEGORY.values())))
def test_hand_made_artefacts_can_be_inserted(tmp_path, category):
    finding = detectors.Finding(0.0, "concept", category)
    specs = retraining.hand_made(finding, "blue", tmp_path / "drawn")
    image = Image.new("RGB", (96, 96), (128, 128, 128))
    assert specs
    for spec in specs:
        changed = np.asarray(load_artefact(spec).insert(image, 0)) != 128
        assert changed.any()
        if category in retraining.DRAWN:
            assert not changed[46:50, 46:50].any()
            assert changed[0, 0].any()
