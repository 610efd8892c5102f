"""The comparison of labelling methods: what is measured, remembered and compared."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from benchmarks.cases.labels import benchmark as labels
from benchmarks.cases.labels import cells as label_cells
from benchmarks.cases.labels import scores as label_scores
from benchmarks.cases.labels.benchmark import synthetic_sources
from benchmarks.cases.labels.cells import GAPS, Job, Source, measure_world
from benchmarks.cases.labels.hits import judged
from benchmarks.cases.labels.methods import REFERENCES, STUDY, ceiling
from benchmarks.cases.labels.plot import draw_methods
from benchmarks.harness.registry import load_benchmark
from benchmarks.worlds.labelled import worlds as label_worlds
from benchmarks.worlds.labelled.scenes import WORLDS
from benchmarks.worlds.labelled.synthetic import EMBEDDERS, synthetic_units
from semlens.lenses.labelling.registry import BUILT_IN, make_labeller

NAMES = ("vote", "semantic-lens", "semantic-lens-centred")


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    methods = {name: BUILT_IN[name] for name in NAMES}
    job = Job(EMBEDDERS, methods, "vote", folder)
    return job, [cell for source in synthetic_sources()[:3] for cell in measure_world(source, job)]


@pytest.mark.slow
def test_every_world_is_measured_in_every_regime(cells):
    _, found = cells
    assert len(found) == 3 * len(EMBEDDERS) * len(GAPS)
    for cell in found:
        assert set(cell.hits) == {*NAMES, *REFERENCES}
        assert len(cell.kinds) == len(cell.truths) == len(cell.hits["vote"].exact) == 26


@pytest.mark.slow
def test_hits_are_those_of_the_scores(cells):
    _, found = cells
    cell = next(c for c in found if (c.regime.embedder, c.regime.gap) == (EMBEDDERS[1], "none"))
    units = synthetic_units(cell.world, "broad", 0, EMBEDDERS[1])[0]
    best = BUILT_IN["vote"].scores(units.evidence).argmax(1)
    right = units.right[np.arange(len(units)), best][judged(units)]
    np.testing.assert_array_equal(cell.hits["vote"].exact, right)


def test_a_run_goes_on_where_it_was_and_sees_changes(cells, monkeypatch):
    job, found = cells
    source, timed = synthetic_sources()[0], label_scores.cpu_timed

    def only_new(method, evidence):
        assert method.model_dump().get("kappa") == 1.0
        return timed(method, evidence)

    monkeypatch.setattr(label_scores, "cpu_timed", only_new)
    again = measure_world(source, job)
    for one, other in zip(again, found, strict=False):
        assert one.seconds == other.seconds
        np.testing.assert_array_equal(one.hits["vote"].exact, other.hits["vote"].exact)
    changed = Job(job.embedders, {**job.methods, "vote": make_labeller("vote", kappa=1.0)},
                  "vote", job.folder, secondary=False)  # fmt: skip
    measure_world(source, changed)
    with pytest.raises(AssertionError):
        measure_world(synthetic_sources()[3], job)


def test_embedders_must_see_the_same_units(tmp_path):
    def load(embedder):
        return synthetic_units("one", "broad", EMBEDDERS.index(embedder), embedder)

    job = Job(EMBEDDERS, {"vote": BUILT_IN["vote"]}, "vote", tmp_path)
    with pytest.raises(ValueError, match="Expected the same units and unseen images"):
        measure_world(Source("one", opened_once=False, load=load), job)


def test_the_ceiling_is_about_units_that_are_active_on_the_right_images_only():
    units = synthetic_units("one", "broad", 0, EMBEDDERS[0])[0]
    rows = judged(units)
    evidence, place = ceiling(units, rows)
    marks = np.concatenate([units.evidence.annotations, units.unseen.annotations])
    for row, component in zip(rows, place, strict=True):
        shown = marks[:, units.right[row]].any(1)
        np.testing.assert_array_equal(evidence.reference_readouts[:, component] > 0, shown)
        examples = evidence.examples[component, : evidence.counts[component]]
        assert shown[examples].all()
        assert len(examples) == min(shown.sum(), evidence.examples.shape[1])


def test_figures_are_means_over_units_then_regimes_of_worlds_opened_once(cells):
    job, found = cells
    result = labels.compare(found, job.methods, draws=200)
    assert (result["judged_on"], result["default"]) == ("opened once", "vote")
    once = [cell for cell in found if cell.opened_once]
    assert len(result["worlds"]) == len(found) > len(once)
    for one in result["methods"]:
        shares = [cell.hits[one["name"]].exact.mean() for cell in once]  # a world per regime
        assert one["primary"] == pytest.approx(np.mean(shares))
        assert one["low"] <= one["primary"] <= one["high"]
        assert one["primary"] <= one["lenient"]
        assert one["seconds"] > 0
    primary = {one["name"]: one["primary"] for one in result["methods"]}
    assert list(primary.values()) == sorted(primary.values(), reverse=True)
    assert {one["name"] for one in result["paired"]} == set(NAMES) - {"vote"}
    for one in result["paired"]:
        assert one["difference"] == pytest.approx(primary["vote"] - primary[one["name"]])
        assert np.mean([r["difference"] for r in one["regimes"]]) == pytest.approx(
            one["difference"]
        )
    assert {one["name"] for one in result["references"]} == set(REFERENCES)

    both = labels.compare([c for c in found if not c.opened_once], job.methods, draws=200)
    assert both["judged_on"] == "development"


def test_the_output_has_measures_faithfulness_and_a_ceiling(cells, capsys, tmp_path):
    job, found = cells
    result = labels.compare(found, job.methods, draws=200)
    measures = {one["name"]: one for one in result["secondary"]["measures"]}
    assert {"simulation", "simulation, other embedder", "phi", "auc", "mad", "f1", "iou"} <= set(
        measures
    )
    for one in measures.values():
        assert all(0 <= one[key] <= 1 for key in ("missing", "extra", "prefers_right"))
    assert measures["pearson"]["prefers_right"] > 0.9
    phi = {one["name"]: one["trained"]["mean"] for one in result["faithfulness"]}
    assert phi["random"] < 0.5 < phi["vote"]
    assert {one["embedder"] for one in result["ceiling"]} == set(EMBEDDERS)
    assert all(0.8 < one["primary"] <= 1 for one in result["ceiling"])
    load_benchmark("labels").show(result)
    assert "faithfulness" in capsys.readouterr().out
    draw_methods(result, tmp_path / "labels.png")
    assert (tmp_path / "labels.png").stat().st_size > 1000


def test_a_study_opens_development_worlds_only():
    found = labels.chosen_worlds(synthetic_sources(), [], study=True)
    assert [source.opened_once for source in found] == [False, False]
    assert len(labels.chosen_worlds(synthetic_sources(), [])) == 4
    assert [s.world for s in labels.chosen_worlds(synthetic_sources(), ["once-broad"])] == [
        "once-broad"
    ]
    with pytest.raises(SystemExit, match="may not open once-broad"):
        labels.chosen_worlds(synthetic_sources(), ["once-broad"], study=True)
    with pytest.raises(SystemExit, match="There is no world 'other'"):
        labels.chosen_worlds(synthetic_sources(), ["other"])


def test_all_methods_are_compared_and_the_default_always():
    every = labels.chosen_methods([])
    assert set(every) == set(BUILT_IN) - set(REFERENCES)
    assert list(labels.chosen_methods(["csp"])) == [labels.DEFAULT_METHOD, "csp"]
    assert labels.DEFAULT_METHOD in STUDY


def test_variants_of_a_study_score_every_word():
    units = synthetic_units("one", "broad", 0, EMBEDDERS[0])[0]
    for name in ("soft-wpmi fitted", "vote + soft-wpmi", "vote + semantic-lens-centred, ranks"):
        best = STUDY[name].scores(units.evidence).argmax(1)
        rows = judged(units)
        assert units.right[rows, best[rows]].mean() > 0.6, name


def test_source_pictures_are_fetched_only_if_units_are_not_in_the_cache(tmp_path, monkeypatch):
    def fetch(work):
        raise RuntimeError("fetching")

    monkeypatch.setattr(label_worlds, "prepare", fetch)
    world = label_worlds.CachedWorld(WORLDS[0], tmp_path, tmp_path)
    assert not world.is_made("semlens/demo")
    with pytest.raises(RuntimeError, match="fetching"):
        label_worlds.make_all(WORLDS[:1], ["semlens/demo"], tmp_path, tmp_path)
    made = []
    monkeypatch.setattr(
        label_worlds.CachedWorld, "_remembered", lambda _, name, make: made.append(name)
    )
    world.units("semlens/demo")
    world.folder.mkdir()
    for name in made:
        (world.folder / name).touch()
    label_worlds.make_all(WORLDS[:1], ["semlens/demo"], tmp_path, tmp_path)


def test_worlds_can_be_sent_to_a_process():
    import pickle

    for source in synthetic_sources():
        copy = pickle.loads(pickle.dumps(source))  # noqa: S301 - our own
        assert isinstance(copy.load, partial)
        assert label_cells.GAPS["none"] == 0
