"""Retraining on small planted data: what it does, that it is repeatable, and that it goes on."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor, write_pictures
from PIL import Image
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.artefact import Patch, WithArtefact
from semlens.errors import DataError, ModelError, RecipeError, StoreError
from semlens.lenses.accuracy import LabelledImages
from semlens.lenses.correct.fine_tuning import (
    MAX_CROP,
    Training,
    TrainingData,
    TrainingRun,
    augment,
    split_held_out,
)
from semlens.lenses.correct.retrain import fine_tune
from semlens.progress import progress_listener

QUICK = Training(epochs=2, batch_size=16, held_out=0.2)


class Norms(nn.Module):
    """A small network with batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1),
        )  # fmt: skip
        self.head = nn.Linear(48, 2)

    def forward(self, x):
        return self.head(self.net(x))


def bars(count: int, seed: int) -> tuple[list[Image.Image], list[int]]:
    """Noisy bars, across in one class and along in the other."""
    draw = np.random.default_rng(seed)
    found, labels = [], []
    for number in range(count):
        wave = np.sin(np.arange(32) * draw.uniform(0.5, 0.9) + draw.uniform(0, 6))
        pixels = np.repeat(wave[:, None], 32, 1) if number % 2 else np.repeat(wave[None], 32, 0)
        pixels = 120 + 25 * pixels[..., None] + draw.normal(0, 22, (32, 32, 3))
        found.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
        labels.append(number % 2)
    return found, labels


def as_images(items, labels) -> sl.ImageSequence:
    return sl.ImageSequence(list(zip(items, labels, strict=True)), classes=["across", "along"])


def wrapped(module: nn.Module, classes=("across", "along")) -> sl.SubjectModel:
    return sl.SubjectModel(module.eval(), to_tensor, "32 bilinear", "python:x", list(classes))


def retrained(model, images, artefacts, drop=(), *, targets=None, **options):
    return fine_tune(model, LabelledImages.of(images, model, targets), artefacts, drop, **options)


class Shortcut(Norms):
    """Reads the bars, and jumps to the first class where something is red."""

    def __init__(self) -> None:
        super().__init__()
        self.red, self.jump = nn.Conv2d(3, 1, 1), nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            self.red.weight.copy_(torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1))
            self.red.bias.fill_(-1.5)
            self.jump.weight.copy_(torch.tensor([[0.25], [0.0]]))

    def forward(self, x):
        red = functional.relu(self.red(x)).mean((2, 3))
        return self.head(self.net(x)) + self.jump(600 * red)


@pytest.fixture(scope="module")
def shortcut():
    """Bars, with a red square on most of the first class, and a model that relies on it."""
    items, labels = bars(160, 0)
    batch, target = torch.stack([to_tensor(im) for im in items]), torch.tensor(labels)
    net = Shortcut().train()
    optimizer = torch.optim.AdamW([*net.net.parameters(), *net.head.parameters()], 5e-3)
    torch.manual_seed(1)
    for _ in range(40):
        some = torch.randperm(160)[:64]
        optimizer.zero_grad()
        functional.cross_entropy(net(batch[some]), target[some]).backward()
        optimizer.step()
    square = Patch(size=0.3)
    marked = [n for n in range(160) if labels[n] == 0 and n % 10]
    items = [square.insert(im, n) if n in set(marked) else im for n, im in enumerate(items)]
    return wrapped(net), as_images(items, labels), marked


@pytest.mark.slow
def test_retraining_takes_the_meaning_from_a_planted_square(shortcut):
    model, images, marked = shortcut
    clean = as_images(*bars(100, 7))
    poisoned = WithArtefact(clean, Patch(size=0.3), seed=5)
    before = [sl.evaluate_model(model, one).accuracy for one in (clean, poisoned)]
    assert before[0] - before[1] > 0.3  # the shortcut is there
    settings = Training(epochs=12, batch_size=32, learning_rate=3e-3)
    # a square of another size and colour than the planted one
    found = retrained(model, images, [Patch((250, 60, 20), 0.25)], marked, settings=settings)
    after = [sl.evaluate_model(found.model, one).accuracy for one in (clean, poisoned)]
    assert after[0] > before[0] - 0.05
    assert 1 - (after[0] - after[1]) / (before[0] - before[1]) > 0.8, (before, after)
    assert found.dropped == len(marked)
    assert found.trained_on + found.held_out == 160 - len(marked)
    assert list(found.history["epoch"]) == list(range(13))
    assert found.history["loss"].iloc[-1] < found.history["loss"].iloc[1]


def small(shortcut):
    model, images, _ = shortcut
    return model, images, [Patch()]


@pytest.mark.slow
def test_the_users_model_and_random_state_stay(shortcut):
    model, images, artefacts = small(shortcut)
    before, state = model.fingerprint, torch.get_rng_state()
    found = retrained(model, images, artefacts, settings=QUICK)
    assert model.fingerprint == before != found.model.fingerprint
    assert torch.equal(state, torch.get_rng_state())
    assert not any(part.training for part in model.module.modules())
    assert not any(part.training for part in found.model.module.modules())


@pytest.mark.slow
def test_a_seed_decides_everything(shortcut):
    model, images, artefacts = small(shortcut)
    runs = [retrained(model, images, artefacts, settings=QUICK) for _ in range(2)]
    assert runs[0].model.fingerprint == runs[1].model.fingerprint
    other = Training(epochs=2, batch_size=16, held_out=0.2, seed=1)
    third = retrained(model, images, artefacts, settings=other)
    assert third.model.fingerprint != runs[0].model.fingerprint


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_weights(shortcut, tmp_path):
    model, images, artefacts = small(shortcut)
    settings = Training(epochs=3, batch_size=16)
    whole = retrained(model, images, artefacts, settings=settings)
    checkpoint = tmp_path / "run.checkpoint"
    size = whole.trained_on

    def stop(stage: str, done: int, total: int) -> None:
        assert stage != "training" or total == 3 * size
        if (stage, done) == ("training", size + 32):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress_listener(stop):
        retrained(model, images, artefacts, settings=settings, checkpoint=checkpoint)
    seen: list[int] = []

    def see(stage: str, done: int, total: int) -> None:
        if stage == "training":
            seen.append(done)

    with progress_listener(see):
        found = retrained(model, images, artefacts, settings=settings, checkpoint=checkpoint)
    assert seen[0] == size + 16  # the first epoch was not repeated
    assert found.model.fingerprint == whole.model.fingerprint
    kept = ["epoch", "loss", "accuracy", "accuracy_inserted"]
    assert found.history[kept].equals(whole.history[kept])
    with pytest.raises(StoreError) as error:
        retrained(model, images, [Patch(size=0.4)], settings=settings, checkpoint=checkpoint)
    assert_says(error.value, "different run", "Expected the same model", "Remove it")
    checkpoint.write_bytes(b"nothing")
    with pytest.raises(StoreError, match="Cannot read"):
        retrained(model, images, artefacts, settings=settings, checkpoint=checkpoint)


def test_the_loss_is_that_of_a_plain_loop(shortcut):
    """One epoch with fixed images against AdamW and cross-entropy written out."""
    model, images, _ = shortcut
    net = LittleNet()
    learner = sl.SubjectModel(net, to_tensor, "32", "python:l")
    settings = Training(
        epochs=1, batch_size=20, insert_share=0.0, flip=False, balanced=False, held_out=0.0,
        learning_rate=1e-2,
    )  # fmt: skip
    samples = np.arange(50)
    targets = np.array([int(images.targets[i] == "along") for i in samples])
    material = TrainingData(images, samples, targets, (Patch(),))
    other = LittleNet()
    run = TrainingRun(learner, material, settings, "x", None)
    history = run.train(lambda: {})
    weights = [p for p in other.parameters() if p.ndim > 1]
    rest = [p for p in other.parameters() if p.ndim == 1]
    plain = torch.optim.AdamW(
        [{"params": weights, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}], 1e-2
    )
    order = np.random.default_rng((0, 1)).permutation(50)
    total = 0.0
    for step, start in enumerate(range(0, 50, 20)):
        part = order[start : start + 20]
        inputs = [
            to_tensor(augment(images.read(int(samples[place])),
                             np.random.default_rng((0, 1, start + at)), flip=False))
            for at, place in enumerate(part)
        ]  # fmt: skip
        # one step of warming up, then a cosine over the two that are left
        for group in plain.param_groups:
            group["lr"] = 1e-2 * (1 + math.cos(math.pi * max(0, step - 1) / 2)) / 2
        loss = functional.cross_entropy(other(torch.stack(inputs)), torch.tensor(targets[part]))
        plain.zero_grad()
        loss.backward()
        plain.step()
        total += loss.item() * len(part)
    assert history[1]["loss"] == pytest.approx(total / 50, rel=1e-5)
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_artefacts_are_on_the_share_that_was_asked_for(shortcut):
    _, images, _ = shortcut
    grey = sl.ImageSequence([Image.new("RGB", (24, 24), (90, 90, 90))] * 4)
    material = TrainingData(grey, np.arange(4), np.array([0, 1, 0, 1]), (Patch(),))
    settings = Training(insert_share=0.3)
    with_one = 0
    for seed in range(1000):
        picture = material.augmented_image(seed % 4, settings, np.random.default_rng(seed))
        with_one += int(np.ptp(np.asarray(picture)) > 0)
    assert with_one / 1000 == pytest.approx(0.3, abs=0.045)  # three standard errors


def test_classes_are_drawn_equally_often():
    grey = sl.ImageSequence([Image.new("RGB", (8, 8))] * 1000)
    targets = np.array([0] * 900 + [1] * 100)
    material = TrainingData(grey, np.arange(1000), targets, ())
    drawn = targets[material.order(Training(), 1)]
    assert drawn.mean() == pytest.approx(0.5, abs=0.05)
    plain = material.order(Training(balanced=False), 1)
    assert sorted(plain) == list(range(1000))
    assert not np.array_equal(plain, material.order(Training(balanced=False), 2))


def test_variation_keeps_shape_and_shows_a_part():
    ramp = Image.fromarray(np.arange(200, dtype=np.uint8)[None, :, None].repeat(20, 0).repeat(3, 2))
    mirrored = 0
    for seed in range(40):
        found = np.asarray(augment(ramp, np.random.default_rng(seed), flip=True)).astype(int)
        assert found.shape == (20, 200, 3)
        row = found[10, :, 0]
        mirrored += int(row[0] > row[-1])
        assert abs(int(row[0]) - int(row[-1])) >= 199 * (1 - MAX_CROP) - 2
        assert not np.any(np.diff(np.asarray(augment(ramp, np.random.default_rng(seed), flip=False))
                                  .astype(int)[10, :, 0]) < 0)  # fmt: skip
    assert 10 < mirrored < 30


def test_small_batches_leave_the_statistics_of_norms(shortcut):
    model, images, artefacts = small(shortcut)
    kept = {k: v.clone() for k, v in model.module.state_dict().items() if "running" in k}
    few = Training(epochs=1, batch_size=8, held_out=0.0)
    state = retrained(model, images, artefacts, settings=few).model.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in kept.items())
    many = Training(epochs=1, batch_size=16, held_out=0.0)
    state = retrained(model, images, artefacts, settings=many).model.module.state_dict()
    assert not any(torch.equal(value, state[name]) for name, value in kept.items())


def test_held_out_samples_are_of_every_class():
    samples, targets = np.arange(40), np.repeat([0, 1], 20)
    train, aside = split_held_out(samples, targets, Training(held_out=0.25))
    assert sorted([*train, *aside]) == list(range(40))
    assert np.bincount(targets[aside]).tolist() == [5, 5]
    with pytest.raises(DataError, match="1 classes"):
        split_held_out(samples, np.zeros(40, np.int64), Training())


def test_bad_input(shortcut):
    model, images, artefacts = small(shortcut)
    with pytest.raises(DataError, match="No artefact is given"):
        retrained(model, images, [])
    with pytest.raises(DataError) as error:
        retrained(model, images, artefacts, ["nothing.png"])
    assert_says(error.value, "nothing.png", "Expected a number below 160", "Correct")
    with pytest.raises(DataError, match="'999'"):
        retrained(model, images, artefacts, [999])
    first = [i for i, name in enumerate(images.targets) if name == "across"]
    with pytest.raises(DataError, match="Class across would lose"):
        retrained(model, images, artefacts, first)
    unknown = sl.SubjectModel(model.module, to_tensor, "v", classes=["x", "y"])
    with pytest.raises(DataError, match="has a class of the model"):
        retrained(unknown, images, artefacts)
    for name, value in (("epochs", 0), ("insert_share", 1.5), ("learning_rate", 0.0)):
        with pytest.raises(RecipeError, match=f"{name} is '{value}'"):
            Training(**{name: value})
    with pytest.raises(RecipeError) as error:
        Training(held_out=0.95)
    assert_says(error.value, "Expected a number from 0 to 0.9.", "Give another held_out")
    with pytest.raises(RecipeError, match="epoch"):
        Training(epoch=3)
    with pytest.raises(RecipeError, match="smaller learning rate"):
        retrained(model, images, artefacts, settings=Training(epochs=3, learning_rate=1e30))


@pytest.mark.slow
def test_the_database_brings_model_and_images(shortcut, tmp_path):
    model, images, artefacts = small(shortcut)
    db = sl.build(tmp_path / "db", model, images, WordEmbedder(), ["net"], examples=6)
    expected = retrained(model, images, artefacts, [0, 2, 4], settings=QUICK)
    for drop in ([0, 2, 4], ["000", "002", "004"]):
        found = db.retrain(Patch().spec, drop, settings=QUICK)
        assert found.model.fingerprint == expected.model.fingerprint
        assert found.dropped == 3
    (tmp_path / "drop.txt").write_text("000\n002\n004\n")
    assert db.retrain(artefacts, tmp_path / "drop.txt", settings=QUICK).dropped == 3
    flagged = db.affected(db.search("x", top=1))
    assert db.retrain(artefacts, flagged, settings=QUICK).dropped == len(flagged.samples) > 0
    other = as_images(*bars(40, 3))
    found = db.retrain(artefacts, images=other, settings=QUICK)
    assert found.trained_on + found.held_out == 40
    assert found.to_json()["base"] == model.spec and found.to_json()["weights"] is None


@pytest.mark.slow
def test_the_command(tmp_path):
    folder = write_pictures(tmp_path / "data", 24)
    code = tmp_path / "net.py"
    code.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(__import__('pathlib').Path(__file__).parent)!r})\n"
        "from conftest import LittleNet, to_tensor\n"
        "def make():\n    return LittleNet(), to_tensor, ['class0', 'class1', 'c', 'd']\n"
    )
    spec = f"{code}:make"
    db = sl.build(tmp_path / "db", spec, folder, WordEmbedder(), ["first"], examples=3)
    drop = tmp_path / "drop.csv"
    names = sl.ImageFolder(folder).ids
    drop.write_text(f"path,flagged\n{names[0]},True\n{names[1]},False\n")
    out = tmp_path / "better.safetensors"
    line = ["correct", "retrain", str(db.path), "--artefact", "patch:red", "--artefact", "hue",
            "--drop",
            str(drop), "--epochs", "1", "--save", str(out), "--model", spec, "--json"]  # fmt: skip
    result = CliRunner().invoke(app, [*line, "--save", str(tmp_path / "history.png")])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["dropped"] == 1
    assert said["trained_on"] + said["held_out"] == 23
    assert [record["epoch"] for record in said["history"]] == [0, 1]
    assert said["history"][0]["loss"] is None
    again = sl.load_model(said["model"])
    assert again.fingerprint != sl.load_model(spec).fingerprint
    assert not list(tmp_path.glob("*.checkpoint"))
    assert (tmp_path / "history.png").stat().st_size > 1000
    for change, text in (
        (["--save", "x.pt"], ".safetensors"),
        (["--artefact", "nonsense"], "nonsense"),
        (["--only", "zzz"], "No file name"),
    ):
        result = CliRunner().invoke(app, [*line, *change])
        assert result.exit_code == 1
        assert text in result.stderr


def test_weights_go_to_safetensors_only(shortcut, tmp_path):
    model, images, artefacts = small(shortcut)
    found = retrained(model, images, artefacts, settings=QUICK)
    better = found.save_weights(tmp_path / "w.safetensors")
    assert better.fingerprint == found.model.fingerprint
    assert better.spec == f"python:x:weights={tmp_path / 'w.safetensors'}"
    with pytest.raises(ModelError, match="x.bin"):
        found.save_weights(tmp_path / "x.bin")


def test_odd_targets_and_markup():
    items, labels = bars(8, 0)
    images = as_images(items, labels)
    subject = sl.SubjectModel(Norms(), to_tensor, "v")
    settings = Training(epochs=1, batch_size=4, held_out=0.0)
    with pytest.raises(DataError, match="A target is logit 5"):
        retrained(subject, images, [Patch()], targets=[5 * x for x in labels], settings=settings)
    marked = sl.load_artefact("text:[/x]")
    found = retrained(subject, images, [marked], targets=labels, settings=settings)
    assert "text:[/x]" in repr(found)


def test_a_small_rest_leaves_the_statistics():
    items, labels = bars(20, 0)
    subject = sl.SubjectModel(Norms(), to_tensor, "v")
    found = retrained(
        subject, as_images(items, labels), [Patch()], targets=labels,
        settings=Training(epochs=1, batch_size=16, held_out=0.0),
    )  # fmt: skip
    # batches of 16 and 4: only the first one counts
    assert int(found.model.module.net[1].num_batches_tracked) == 1


def test_a_full_disk_is_told(tmp_path):
    resource = pytest.importorskip("resource")
    items, labels = bars(8, 0)
    subject = sl.SubjectModel(Norms(), to_tensor, "v")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(StoreError, match="file-size limit"):
            retrained(
                subject, as_images(items, labels), [Patch()], targets=labels,
                settings=Training(epochs=1, batch_size=4, held_out=0.0),
                checkpoint=tmp_path / "a.checkpoint",
            )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
