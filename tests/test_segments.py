"""Concept vectors, soft masks and cut-outs against slow float64 versions and a planted patch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import typer
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.correct import cut_out as command
from semlens.data.artefact import load_artefact
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, LayerError, StaleError, StoreError
from semlens.lenses.correct.cav import (
    BLUR,
    ConceptActivationVector,
    cav_heatmap,
    concept_vector,
    soft_masks,
)
from semlens.lenses.correct.segments import check_folder, cut_out
from semlens.models.forward import readouts
from semlens.models.subject import SubjectModel
from semlens.relevance.make_engine import make_engine
from semlens.types import Component

SIDE = 12
CLASSES = ["class0", "class1", "c", "d"]


class RedNet(LittleNet):
    """LittleNet whose first channel sees red only, and is passed on."""

    def __init__(self) -> None:
        super().__init__(3)
        with torch.no_grad():
            first: nn.Conv2d = self.first[0]
            first.weight[0] = 0
            first.weight[0, :, 1, 1] = torch.tensor([3.0, -3.0, -3.0])
            first.bias[0] = -4.0


class Tokens(nn.Module):
    """A class token in front of patches, mixed by a linear layer over tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 8, 8, 8)
        self.first = nn.Parameter(torch.randn(1, 1, 8))
        self.mix = nn.Linear(17, 17)
        self.layer = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        patches = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.first.expand(len(x), -1, -1), patches], dim=1)
        tokens = tokens + torch.tanh(self.mix(tokens.transpose(1, 2))).transpose(1, 2)
        return self.head(self.layer(tokens)[:, 0])


def subject(net):
    return SubjectModel(net, to_tensor, "32 bilinear", "python:red", CLASSES)


def square_position(number: int) -> tuple[int, int]:
    draw = np.random.default_rng(number)
    return int(draw.integers(0, 64 - SIDE)), int(draw.integers(0, 48 - SIDE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 grey, bluish images of 64 x 48; two thirds of class0 carry a red square."""
    folder = tmp_path_factory.mktemp("red")
    for i in range(60):
        draw = np.random.default_rng(100 + i)
        pixels = draw.integers(60, 200, (48, 64, 3))
        pixels[:, :, 0] = pixels[:, :, 2] // 2
        if i % 2 == 0 and i % 3:
            x, y = square_position(i)
            pixels[y : y + SIDE, x : x + SIDE] = (235, 20, 20)
        path = folder / f"class{i % 2}" / f"{i:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def model():
    return subject(RedNet())


@pytest.fixture(scope="module")
def db(tmp_path_factory, model, folder):
    path = tmp_path_factory.mktemp("localise") / "db"
    return sl.build(
        path, model, ImageFolder(folder), WordEmbedder(), ["first", "second"], examples=12,
        crop="none",
    )  # fmt: skip


@pytest.fixture(scope="module")
def data(folder):
    return ImageFolder(folder)


@pytest.fixture(scope="module")
def segments(db, model, data):
    return cut_out(db, ["first:0"], count=8)


def carries(path: str) -> bool:
    number = int(path.split("/")[1][:3])
    return number % 2 == 0 and number % 3 > 0


def truth(path: str) -> np.ndarray:
    x, y = square_position(int(path.split("/")[1][:3]))
    mask = np.zeros((48, 64), bool)
    mask[y : y + SIDE, x : x + SIDE] = True
    return mask


def test_soft_masks_by_hand() -> None:
    heat = np.random.default_rng(0).normal(size=(2, 40, 40))
    heat[1] = -np.abs(heat[1])
    kernel = round(BLUR * 40)  # 7.3 pixels: the nearest odd number is 7
    assert kernel == 7
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    weights = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    weights /= weights.sum()
    wide = np.pad(np.maximum(heat[0], 0), 3, mode="reflect")
    blurred = np.array(
        [
            [(wide[y : y + 7, x : x + 7] * np.outer(weights, weights)).sum() for x in range(40)]
            for y in range(40)
        ]
    )
    masks = soft_masks(torch.from_numpy(heat).float()).numpy()
    np.testing.assert_allclose(masks[0], (blurred / blurred.max()) ** 0.6, atol=1e-5)
    assert (masks[1] == 0).all()


def vector(layer, width, seed=0):
    direction = np.random.default_rng(seed).normal(size=width)
    none = np.zeros(0, np.int64)
    return ConceptActivationVector(
        layer, direction / np.linalg.norm(direction), none, none, np.zeros(0), 1.0
    )


def test_heat_is_the_relevance_of_the_dot_product(db, model, data) -> None:
    inputs = model.batch([model.preprocess(data.read(i)) for i in (0, 2, 5)])
    given = vector("second", 10)
    net = RedNet().double()
    x = inputs.double().requires_grad_()
    product = (net.second(net.first(x)) * torch.from_numpy(given.direction)[:, None, None]).sum()
    (slope,) = torch.autograd.grad(product, x)
    engine = make_engine(model.module, inputs, ["second"], "gradient")
    heat = cav_heatmap(engine, inputs, given, "mean")
    np.testing.assert_allclose(heat, (slope * x).sum(1).detach(), atol=1e-4)


@pytest.mark.parametrize("readout", ["mean", "cls"])
def test_tokens_start_at_all_tokens_or_at_the_class_token(readout) -> None:
    net = Tokens()
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    given = vector("layer", 8)
    engine = make_engine(net, inputs, ["layer"], "gradient")
    heat = cav_heatmap(engine, inputs, given, readout)
    kept = []
    handle = net.layer.register_forward_hook(lambda _m, _i, output: kept.append(output))
    x = inputs.clone().requires_grad_()
    net(x)
    handle.remove()
    part = kept[0] if readout == "mean" else kept[0][:, :1]
    (slope,) = torch.autograd.grad((part @ torch.from_numpy(given.direction).float()).sum(), x)
    np.testing.assert_allclose(heat, (slope * x).sum(1).detach(), atol=1e-4)


def test_exact_rules_conserve_the_dot_product_without_biases(model, data) -> None:
    net = RedNet()
    with torch.no_grad():
        net.first[0].bias.zero_()
        net.second.bias.zero_()
    inputs = model.batch([model.preprocess(data.read(i)) for i in (0, 2)])
    given = vector("second", 10)
    engine = make_engine(net, inputs, ["second"], "epsilon")
    heat = cav_heatmap(engine, inputs, given, "mean")
    with torch.no_grad():
        value = net.second(net.first(inputs))
    product = (value * torch.from_numpy(given.direction).float()[:, None, None]).sum((1, 2, 3))
    np.testing.assert_allclose(heat.sum((1, 2)), product, rtol=1e-3)


@pytest.mark.slow
def test_the_planted_patch_is_found(segments) -> None:
    assert len(segments) == 8 and segments.vector.separation > 0.95
    for cutout in segments.cutouts:
        assert carries(cutout.path) and cutout.target == "class0"
        true, mask = truth(cutout.path), cutout.mask
        assert mask.shape == (48, 64) and mask.min() >= 0 and 0.9 < mask.max() <= 1
        assert mask[true].sum() / mask.sum() > 6 * true.mean()
        assert mask[true].mean() > 5 * mask[~true].mean()
    assert not any(carries(segments.images.ids[i]) for i in segments.clean)


def test_the_vector_is_of_length_one_and_scores_are_dot_products(segments, db, model, data) -> None:
    v = segments.vector
    assert np.linalg.norm(v.direction) == pytest.approx(1)
    values = readouts(model, data.read, v.positives.tolist(), ["first"])["first"]
    np.testing.assert_allclose(v.score, values.astype(np.float64) @ v.direction, atol=1e-5)
    assert set(v.positives) == {e.sample for e in db.examples_of(db.row(Component("first", 0)))}
    assert not set(v.positives) & set(v.negatives)
    order = [cutout.score for cutout in segments.cutouts]
    assert order == sorted(order, reverse=True) and order[0] == pytest.approx(v.score.max())
    # of the artefact's class those without it come, though two thirds of it carry it
    own = [data.ids[i] for i in v.negatives if data.targets[i] == "class0"]
    assert own and sum(map(carries, own)) <= len(own) / 2


def test_the_svm_itself(db, model, data) -> None:
    """The direction against scikit-learn's own pipeline on the same samples."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    shown, other = [2, 4, 8, 10, 14], [0, 1, 3, 5, 7, 9, 11]
    v = concept_vector(db, [Component("first", 0)], "second", positives=shown, negatives=other)
    x = readouts(model, data.read, shown + other, ["second"])["second"].astype(np.float64)
    y = [1] * len(shown) + [0] * len(other)
    machine = make_pipeline(
        StandardScaler(), LinearSVC(C=0.01, class_weight="balanced", max_iter=20000)
    ).fit(x, y)
    told = machine.decision_function(x)
    assert np.corrcoef(told, x @ v.direction)[0, 1] == pytest.approx(1, abs=1e-4)


def test_cut_outs_are_written_and_pasted(segments, tmp_path) -> None:
    paths = segments.write(tmp_path / "cut")
    assert [path.name for path in paths] == [f"{i:03d}.png" for i in range(8)]
    sources = json.loads((tmp_path / "cut" / "sources.json").read_text("utf-8"))
    assert [c["path"] for c in sources["cutouts"]] == [c.path for c in segments.cutouts]
    assert sources["components"] == ["first:0"] and sources["layer"] == "first"
    read = np.asarray(Image.open(paths[0]), np.float64)
    first = segments.cutouts[0]
    assert np.abs(read[:, :, 3] / 255 - first.mask).max() <= 0.5 / 255 + 1e-6
    seen = read[:, :, 3] > 0
    source = np.asarray(segments.images.read(first.sample))
    assert (read[:, :, :3][seen] == source[seen]).all()
    clean = Image.new("RGB", (64, 48), (0, 0, 255))
    pasted = np.asarray(load_artefact(f"paste:{paths[0]}").insert(clean, 0), np.float64)
    mask = first.mask[:, :, None].astype(np.float64)
    wanted = np.array([0, 0, 255]) * (1 - mask) + source * mask
    assert np.abs(pasted - wanted).max() < 1.6  # alpha has 8 bits
    assert np.abs(pasted - np.asarray(segments.inserted(0, clean), np.float64)).max() < 2.1
    with pytest.raises(StoreError) as error:
        segments.write(tmp_path / "cut")
    assert_says(error.value, "already contains images", "empty or new folder")


@pytest.mark.slow
def test_results(segments, tmp_path) -> None:
    frame = segments.to_pandas()
    assert list(frame) == ["file", "sample", "path", "target", "score", "area"]
    assert frame["area"][0] == pytest.approx(segments.cutouts[0].mask.mean())
    assert "first:0" in repr(segments) and "AUROC" in repr(segments)
    for name in ("sheet.png", "table.csv", "all.json"):
        segments.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 500


@pytest.mark.slow
def test_the_seed_and_the_layer(db, model, data, segments) -> None:
    again = cut_out(db, ["first:0"], count=8)
    assert (again.vector.direction == segments.vector.direction).all()
    assert (again.cutouts[3].mask == segments.cutouts[3].mask).all()
    other = cut_out(db, ["first:0"], count=2, layer="second", seed=1)
    assert other.vector.layer == "second" and len(other) == 2
    both = db.cut_out([Component("first", 0), "second:3"], count=1)
    assert both.vector.layer == "second"


@pytest.mark.slow
def test_bad_input(db, model, data, segments, tmp_path) -> None:
    def cut(*components, **settings):
        return cut_out(db, components, rules="epsilon", **settings)

    for kind, says, call in [
        (LayerError, "No component is given", lambda: cut()),
        (LayerError, "not in the database", lambda: cut("first:99")),
        (LayerError, "not in the database", lambda: cut("first:0", layer="third")),
        (LayerError, "does not name a component", lambda: cut("first")),
        (DataError, "There are 2 samples that show", lambda: cut("first:0", positives=[2, 4])),
        (DataError, "There are 1 samples without", lambda: cut("first:0", negatives=[3])),
        (DataError, "no sample 60", lambda: cut("first:0", positives=[2, 4, 60])),
        (DataError, "no sample -1", lambda: cut("first:0", positives=[2, 4, -1])),
        (
            DataError,
            "both positives and negatives",
            lambda: cut("first:0", positives=[2, 4, 8], negatives=[1, 2, 3]),
        ),
    ]:
        with pytest.raises(kind) as error:
            call()
        assert_says(error.value, says)
    with pytest.raises(StaleError):
        cut_out(sl.open(db.path, model=subject(LittleNet(9)), images=data), ["first:0"])
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError) as error:
        check_folder(file)
    assert_says(error.value, "is a file")


@pytest.mark.slow
def test_a_layer_that_says_nothing(tmp_path, folder, data) -> None:
    net = RedNet()
    model = subject(net)
    with torch.no_grad():
        net.second.weight.zero_()
    base = sl.build(tmp_path / "db", model, data, WordEmbedder(), ["second"], examples=4)
    with pytest.raises(DataError) as error:
        cut_out(base, ["second:0"], positives=[2, 4, 8])
    assert_says(error.value, "the same")


MODEL = """
from conftest import to_tensor
from test_segments import CLASSES, RedNet

def make():
    return RedNet(), to_tensor, CLASSES
"""


@pytest.mark.slow
def test_the_command(folder, data, tmp_path, segments) -> None:
    (tmp_path / "red.py").write_text(MODEL)
    spec = f"{tmp_path}/red.py:make"
    base = sl.build(
        tmp_path / "db", spec, data, WordEmbedder(), ["first"], examples=12, crop="none"
    )
    app = typer.Typer()
    app.command()(command)
    given = [
        str(base.path), "first:0", "--out", str(tmp_path / "cut"), "--count", "8",
        "--model", spec, "--save", str(tmp_path / "sheet.csv"),
    ]  # fmt: skip
    ended = CliRunner().invoke(app, [*given, "--json"])
    assert ended.exit_code == 0, ended.output
    printed = json.loads(ended.stdout)
    assert [c["path"] for c in printed["cutouts"]] == [c.path for c in segments.cutouts]
    assert (tmp_path / "sheet.csv").exists() and (tmp_path / "cut" / "007.png").exists()
    ended = CliRunner().invoke(app, given)
    assert ended.exit_code == 1 and "already contains images" in " ".join(ended.output.split())
