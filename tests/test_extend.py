"""Adding images to a database: the bytes of a build over all of them."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import ColourEmbedder, sign_files, stopped_at_write
from growing_data import CLASSES, LAYERS, build, extend, images_of, model_of, write_folders
from PIL import Image
from test_executors import Shuffled, contents
from torch import nn

import semlens as sl
from semlens.api import make_plan
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.parts import Part, build_part, merge_parts
from semlens.run.plan import Execution
from semlens.run.reuse import RecomputeWarning
from semlens.store import writer as store_writer
from semlens.store.atomic_files import load_tensors, save_tensors

pytestmark = pytest.mark.filterwarnings("ignore::semlens.data.class_mapping.UnmappedWarning")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return write_folders(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(tmp_path_factory, folders) -> Path:
    """A database of the 23 images with relevance of their classes.  Copy it to extend it."""
    path = tmp_path_factory.mktemp("base") / "db"
    build(path, folders["23"], model=model_of(classes=CLASSES), relevance=True)
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory, folders) -> dict[str, str]:
    """What one build makes of it and 10 more."""
    path = tmp_path_factory.mktemp("full") / "db"
    model = model_of(classes=CLASSES)
    build(path, folders["23"], folders["10"], model=model, relevance=True)
    return contents(path)


@pytest.mark.parametrize(
    ("first", "settings"),
    [
        pytest.param("24", {"crop": "activation", "relevance": True}, marks=pytest.mark.slow),
        ("23", {"crop": "none", "thumbnails": False, "reference": 0, "batch_size": 1}),
        pytest.param(
            "23",
            {"crop": "crp", "batch_size": 2, "readout": "max", "signs": "both"},
            marks=pytest.mark.slow,
        ),
        ("3", {"layers": ["head", "first"], "reference": 6, "aggregate": "median"}),
    ],
)
def test_extended_twice_it_has_the_bytes_of_one_build(tmp_path, folders, first, settings):
    build(tmp_path / "full", folders[first], folders["10"], folders["7"], **settings)
    build(tmp_path / "db", folders[first], **settings)
    done = [extend(tmp_path / "db", folders[name]) for name in ("10", "7")]
    assert contents(tmp_path / "db") == contents(tmp_path / "full")
    assert sl.verify(tmp_path / "db").sound
    size, count = settings.get("batch_size", 4), int(first)
    assert [d.samples for d in done] == [count + 10, count + 17]
    assert [d.batches_reused for d in done] == [count // size, (count + 10) // size]
    assert all(d.crops.reused > 0 and d.crops.computed > 0 for d in done[first == "3" :])
    if settings.get("relevance"):
        assert [d.relevance for d in done] == ["continued", "continued"]


class Flip(nn.Module):
    """A layer that is the brightness: negative only on dark images."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 2, 1)
        self.head = nn.Linear(2, 4)
        with torch.no_grad():
            self.first.weight[:] = torch.tensor([1.0, 0.5])[:, None, None, None]
            self.first.bias[:] = 3

    def forward(self, x):
        return self.head(self.first(x + 0.2).mean((2, 3)))


def one_colour(folder, *colours):
    for number, colour in enumerate(colours):
        (folder / "class0").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (colour,) * 3).save(folder / "class0" / f"{number}.png")
    return folder


@pytest.mark.slow
def test_new_images_turn_a_layer_negative(tmp_path):
    bright, dark = one_colour(tmp_path / "a", *range(200, 209)), one_colour(tmp_path / "b", 0, 1)
    module = Flip()
    with torch.no_grad():
        module.first.bias[:] = 0
    settings = {"layers": ["first"], "crop": "activation", "relevance": True}
    options = {"model": model_of(module)}
    db = build(tmp_path / "db", bright, **settings, **options)
    assert db.manifest.rows == 2
    build(tmp_path / "full", bright, dark, **settings, **options)
    done = extend(tmp_path / "db", dark, **options)
    assert done.relevance == "computed again: a layer has other signs than before"
    assert sl.open(tmp_path / "db").manifest.rows == 4
    assert contents(tmp_path / "db") == contents(tmp_path / "full")


@pytest.mark.slow
def test_images_that_no_component_shows_change_only_the_statistics(tmp_path):
    class Counting(ColourEmbedder):
        def _images(self, batch):
            embedded.append(int(batch.flatten(1).any(1).sum()))
            return super()._images(batch)

    embedded = []
    bright, dark = one_colour(tmp_path / "a", *range(150, 200)), one_colour(tmp_path / "b", 9, 8)
    settings = {"layers": ["first"], "reference": 0, "examples": 46, "batch_size": 1}
    options = {"model": model_of(Flip()), "embedder": Counting()}
    db = build(tmp_path / "db", bright, **settings, **options)
    before, crops = contents(tmp_path / "db"), sum(db.manifest.crops)
    assert sum(embedded) == crops == 46
    embedded.clear()
    done = extend(tmp_path / "db", dark, **options)
    assert (done.crops.reused, done.crops.computed, done.crops.new_examples) == (46, 0, 0)
    # three blocks of four images are compared: the first, the middle and the last, of two
    assert sum(embedded) == 4 + 4 + 2
    assert done.crops.compared == 2 * 10
    after = contents(tmp_path / "db")
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    statistics = {"components.parquet", "samples.parquet", "manifest.json"}
    assert changed == {*statistics, "state/collect/first.safetensors"}


@pytest.mark.slow
def test_crops_that_round_differently_are_all_computed_again(tmp_path, folders):
    class Mates(ColourEmbedder):
        """A crop's vector depends on the crops that are embedded with it."""

        def _images(self, batch):
            return super()._images(batch + 0.01 * batch.mean())

    options = {"embedder": Mates(), "crop": "none", "batch_size": 1}
    build(tmp_path / "full", folders["24"], folders["7"], **{**options, "batch_size": 4})
    build(tmp_path / "db", folders["24"], **{**options, "batch_size": 4})
    shutil.copytree(tmp_path / "db", tmp_path / "asked")
    with pytest.warns(RecomputeWarning, match="All crops are computed again"):
        done = extend(tmp_path / "db", folders["7"], embedder=Mates())
    asked = extend(tmp_path / "asked", folders["7"], embedder=Mates(), recompute_crops=True)
    assert done.crops.reused == asked.crops.reused == 0
    expected = contents(tmp_path / "full")
    assert contents(tmp_path / "db") == contents(tmp_path / "asked") == expected


@pytest.mark.slow
def test_statistics_that_round_differently_are_all_computed_again(tmp_path, folders, base, full):
    shutil.copytree(base, tmp_path / "db")
    file = tmp_path / "db" / "state" / "collect" / "second.safetensors"
    tensors = load_tensors(file)
    tensors["key"][:] += 1 << 32  # the next larger number in place of each positive readout
    save_tensors(file, tensors)
    sign_files(tmp_path / "db")
    model = model_of(classes=CLASSES)
    with pytest.warns(RecomputeWarning, match="All statistics are computed again"):
        done = extend(tmp_path / "db", folders["10"], model=model)
    assert done.batches_reused == 0
    assert done.relevance == "computed again: readouts differ in bits"
    assert contents(tmp_path / "db") == full


@pytest.mark.slow
def test_layers_and_classes_that_were_added_later(tmp_path, folders):
    """What was built in several steps is extended to what one build makes."""
    build(tmp_path / "db", folders["24"], layers=["first"], relevance=True)
    build(tmp_path / "db", folders["24"], batch_size=7)  # it keeps the batches of the state
    classes = tmp_path / "classes.json"
    classes.write_text(json.dumps({"class0": 1, "class1": 2}))
    build(tmp_path / "db", folders["24"], classes=classes)
    options = {"relevance": True, "classes": classes}
    build(tmp_path / "full", folders["24"], folders["7"], **options)
    done = extend(tmp_path / "db", folders["7"], classes=classes)
    assert done.relevance == "continued"
    assert contents(tmp_path / "db") == contents(tmp_path / "full")
    build(tmp_path / "db", *(folders[n] for n in ("24", "7")), layers=["head"])
    done = extend(tmp_path / "db", folders["10"], classes=classes)
    assert done.relevance == "computed again: the database does not have its state"
    build(
        tmp_path / "three", *(folders[n] for n in ("24", "7", "10")),
        layers=[*LAYERS, "head"], **options,
    )  # fmt: skip
    assert contents(tmp_path / "db") == contents(tmp_path / "three")


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_killed_and_resumed(tmp_path, folders, base, full, monkeypatch):
    model, before = model_of(classes=CLASSES), contents(base)
    # a shard; a file in the staging folder; the manifest
    for stop in (3, 9, 10**6):
        target = tmp_path / str(stop)
        shutil.copytree(base, target)
        with (
            monkeypatch.context() as patch,
            pytest.raises(KeyboardInterrupt),
            stopped_at_write(stop),
        ):
            if stop == 10**6:
                patch.setattr(store_writer, "move_staged", interrupt)
            extend(target, folders["10"], model=model)
        left = sl.open(target).manifest
        assert (left.samples == 33) == (stop == 10**6)
        assert sl.verify(target).sound
        done = extend(target, folders["10"], model=model)
        assert (done.samples_before == done.samples) == (stop == 10**6)
        assert contents(target) == full != before


@pytest.mark.slow
def test_killed_at_every_write(tmp_path, folders, base, full):
    model = model_of(classes=CLASSES)
    for stop in itertools.count(3, 3):
        target = tmp_path / str(stop)
        shutil.copytree(base, target)
        try:
            with stopped_at_write(stop):
                extend(target, folders["10"], model=model)
            break
        except KeyboardInterrupt:
            pass
        assert sl.verify(target).sound
        extend(target, folders["10"], model=model)
        assert contents(target) == full, stop
    assert stop > 15


@pytest.mark.parametrize(
    "start",
    [
        Shuffled,
        pytest.param(lambda: LocalProcesses(2, torch.get_num_threads()), marks=pytest.mark.slow),
    ],
    ids=["shuffled", "processes"],
)
def test_other_executors_give_the_same_bytes(tmp_path, folders, base, full, start):
    shutil.copytree(base, tmp_path / "db")
    model = model_of(classes=CLASSES)
    done = extend(tmp_path / "db", folders["10"], model=model, executor=start())
    assert (done.batches_reused, done.batches) == (5, 9)
    assert contents(tmp_path / "db") == full


@pytest.mark.slow
def test_parts_of_an_extendable_database(tmp_path, folders, base):
    plan = make_plan(
        model_of(classes=CLASSES), images_of(folders["23"]), ColourEmbedder(), LAYERS,
        relevance=True, extendable=True, execution=Execution(4, 0), examples=3, reference=20,
        crop="crp", rules="gradient",
    )  # fmt: skip
    for _ in range(3):
        for number in (2, 1):
            build_part(tmp_path / "db", plan, Part(number, 2))
    merge_parts(tmp_path / "db", plan)
    assert contents(tmp_path / "db") == contents(base)
