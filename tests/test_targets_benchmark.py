"""The benchmark of planted signs: its worlds, what it counts, and worlds of others."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.cases.targets.benchmark import alarms, finding
from benchmarks.cases.targets.stranger import load_world
from benchmarks.harness.registry import load_benchmark
from benchmarks.worlds.targets import KINDS, SIGNS, SIZE, Net, draw, loss, prepared

WORLD = """
import numpy as np
import torch
from PIL import Image
from torch import nn

import semlens as sl


class Corner(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, -1, -1], [0, 1, 0]])[..., None, None])
            self.first.bias.zero_()

    def forward(self, x):
        return self.first(x).relu().flatten(2).mean(2)


def prepare(image):
    return torch.from_numpy(np.asarray(image.resize((16, 16)), np.float32)).permute(2, 0, 1) / 255


def red(image, seed):
    pixels = np.array(image)
    pixels[:3, :3] = (255, 0, 0)
    return Image.fromarray(pixels)


def world():
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 190, (12, 1, 1, 3)) + rng.integers(-60, 60, (12, 16, 16, 3))
    images = [Image.fromarray(one) for one in ground.astype(np.uint8)]
    model = sl.SubjectModel(Corner(), prepare, "1", task="regression")
    return {"model": model, "images": images, "embedder": "semlens/demo", "target": 0, "sign": red,
            "nulls": [1], "kind": "mine"}
"""


def run(*options: str):
    found = load_benchmark("targets")
    return found.run(found.parser().parse_args(["--json", *options]))


def test_every_kind_draws_its_sign_on_its_answer_only_and_its_loss_falls():
    for kind in KINDS:
        planted, clean = (draw(kind, 24, 3, planted=which) for which in (True, False))
        for name, answer in planted.answers.items():
            assert torch.equal(answer, clean.answers[name])
        changed = (planted.pictures != clean.pictures).any((1, 2, 3))
        first = next(iter(planted.answers.values()))
        shows = {
            "detector": lambda answer: answer == 0,
            "segmenter": lambda answer: (answer == 1).flatten(1).any(1),
            "multi-label": lambda answer: answer[:, 0] == 1,
            "one-logit": lambda answer: answer[:, 0] == 1,
            "regressor": lambda answer: answer[:, 0] > 0.6,
            "signal": lambda answer: answer == 2,
        }[kind.name](first)
        assert (changed == shows.numpy()).all() and 2 < changed.sum() < 22, kind.name
        assert max(planted.pictures.shape[1:3]) <= 96 and SIZE <= 64
        torch.manual_seed(0)
        net = Net(kind.name, 1 if kind.name == "signal" else 2)
        inputs = torch.stack([prepared(kind)(one) for one in planted.images()])
        optimizer = torch.optim.Adam(net.parameters(), 1e-2)
        losses = []
        for _ in range(8):
            losses.append(loss(kind.name, net(inputs), planted.answers))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < 0.8 * losses[0], kind.name


def test_at_least_a_hundred_null_targets():
    of_twins = sum(len((one.target, *one.others, *one.same)) * (1 + len(SIGNS)) for one in KINDS)
    assert of_twins + sum(len(one.others) for one in KINDS) >= 100


def test_what_is_counted():
    def result(excess: float, p_value: float):
        row = {"excess": [excess], "p_value": [p_value], "relies": [p_value < 0.05]}
        components = pd.DataFrame({"component": ["a:1", "a:2"], "carried": [0.4, np.nan]})
        return SimpleNamespace(frame=pd.DataFrame(row), components=components)

    assert finding(result(0.9, 0.001))["found"]
    assert not finding(result(-0.9, 0.001))["found"] and not finding(result(0.9, 0.2))["found"]
    counted = alarms({"a": result(0.5, 0.04), "b": result(-0.5, 0.01), "c": result(0.9, 0.06)})
    assert counted == {"null_targets": 3, "false_alarms": 2, "alarms": {"a": 0.5, "b": -0.5}}


def test_a_strangers_world(tmp_path):
    (tmp_path / "mine.py").write_text(WORLD)
    (world,) = run("--world", str(tmp_path / "mine.py"), "--work", str(tmp_path / "work"))["worlds"]
    assert (world["kind"], world["sign"]) == ("mine", "python:red")
    assert world["found"] and world["excess"] > 0.5 and world["component"] == "first:0"
    assert (world["null_targets"], world["false_alarms"]) == (1, 0)


def test_what_is_no_world_is_refused(tmp_path):
    path = tmp_path / "mine.py"
    for text, says in (
        (None, "There is no file"),
        ("x = 1\n", "has no function world"),
        ("def world():\n    return {'model': 1}\n", "Expected a mapping with embedder, images"),
    ):
        if text is not None:
            path.write_text(text)
        with pytest.raises(SystemExit, match=says):
            load_world(path)


@pytest.mark.slow
def test_targets_quick(tmp_path):
    printed = run("--quick", "--work", str(tmp_path))
    assert [one["kind"] for one in printed["worlds"]] == ["one-logit", "signal"]
    for one in printed["worlds"]:
        assert isinstance(one["found"], bool) and 0 <= one["p"] <= 1
        assert 0 <= one["false_alarms"] == len(one["alarms"]) <= one["null_targets"]
    assert printed["summary"]["false_alarms"]["of"] == 8
    again = run("--quick", "--work", str(tmp_path))
    assert again["worlds"] == printed["worlds"]
