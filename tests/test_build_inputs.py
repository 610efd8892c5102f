"""What a build reads must stay what it was, and what it weighs: images, classes, readouts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import assert_says, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import semlens as sl
from semlens.data import verified_images
from semlens.data.class_mapping import UnmappedWarning
from semlens.data.image_folder import ImageFolder
from semlens.data.verified_images import VerifiedImages
from semlens.errors import ImageError, RelevanceError, StaleError
from semlens.recipe import Recipe, RecipeSettings
from semlens.run.plan import Execution
from semlens.store import writer
from semlens.streaming.aggregate import example_weights

LAYERS = ["first", "second"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(verified_images, "PAUSE", 0.0)


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "pictures", 24)


def build(path, subject, data, embedder, layers=LAYERS, **settings):
    settings = {"examples": 3, "crop": "none", "rules": "gradient", **settings}
    return sl.build(path, subject, data, embedder, layers, execution=Execution(4, 1, 8), **settings)


def contents(path: Path) -> dict[str, str]:
    return {
        p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file()
    }


def repaint(file: Path) -> None:
    Image.new("RGB", (40, 40), (200, 30, 90)).save(file)


# -- images that change ---------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["hash", "collect", "crop"])
def test_images_that_are_replaced_stop_the_build_with_their_names(
    tmp_path, subject, embedder, folder, stage
):
    """After the last step of a stage, so that the next one meets them."""
    expected = build(tmp_path / "whole", subject, ImageFolder(folder), embedder, relevance=True)
    files = sorted(folder.rglob("*.png"))
    before = {file: file.read_bytes() for file in files}

    def progress(name, done, total):
        if name == stage and done == total:
            for file in files:
                repaint(file)

    with pytest.raises(StaleError) as error:
        build(
            tmp_path / "db", subject, ImageFolder(folder), embedder, relevance=True,
            progress=progress,
        )  # fmt: skip
    assert_says(error.value, "24 images", "class0/000.png", "and 4 more", "same build again")
    for file, data in before.items():
        file.write_bytes(data)
    # nothing of the replaced images was kept
    build(tmp_path / "db", subject, ImageFolder(folder), embedder, relevance=True)
    assert contents(tmp_path / "db") == contents(expected.path)


def test_only_the_images_that_changed_are_named(tmp_path, subject, embedder, folder):
    def progress(name, done, total):
        if name == "hash" and done == total:
            repaint(folder / "class1" / "003.png")
            (folder / "class0" / "004.png").unlink(missing_ok=True)

    with pytest.raises(StaleError) as error:
        build(tmp_path / "db", subject, ImageFolder(folder), embedder, progress=progress)
    assert_says(error.value, "2 images", "class0/004.png, class1/003.png.")


@pytest.mark.slow
def test_a_failure_that_passes_is_not_baked_in(tmp_path, subject, embedder, folder):
    """Some reads fail while others go on; the file is whole again at the second try."""
    failed: set[int] = set()

    class Flaky(ImageFolder):
        def content(self, sample):
            if sample % 3 == 0 and len(failed) < 8 and sample not in failed:
                failed.add(sample)
                raise ImageError("It cannot be read.", "Expected a file.", "Wait.")
            return super().content(sample)

    db = build(tmp_path / "db", subject, Flaky(folder), embedder)
    assert len(failed) == 8
    assert db.manifest.unreadable == 0
    build(tmp_path / "whole", subject, ImageFolder(folder), embedder)
    assert contents(tmp_path / "db") == contents(tmp_path / "whole")


def test_an_image_that_comes_back_is_read_at_the_next_start(tmp_path, subject, embedder, folder):
    victim = folder / "class0" / "002.png"
    data = victim.read_bytes()

    def lose(name, done, total):
        if name == "hash" and done == total:
            victim.unlink()

    with pytest.raises(StaleError, match="1 images .* class0/002.png"):
        build(tmp_path / "db", subject, ImageFolder(folder), embedder, progress=lose)
    victim.write_bytes(data)
    db = build(tmp_path / "db", subject, ImageFolder(folder), embedder)
    assert db.manifest.unreadable == 0
    assert db.samples["error"].isna().all()


def test_an_image_that_was_never_readable_stays_so_and_one_that_becomes_so_is_a_change(folder):
    images = ImageFolder(folder)
    digests = {i: images.digest(i) for i in range(len(images))}
    (folder / images.ids[2]).unlink()
    digests[2] = ""
    with pytest.raises(ImageError):
        VerifiedImages(images, digests).read(2)
    repaint(folder / images.ids[2])
    with pytest.raises(StaleError, match=images.ids[2]):
        VerifiedImages(images, digests).read(2)
    assert VerifiedImages(images, digests).read(3).tobytes() == images.read(3).tobytes()


# -- classes --------------------------------------------------------------------------------


def vectors(path: Path) -> dict[str, str]:
    kept = ("vectors", "examples", "thumbnails", "components")
    return {k: v for k, v in contents(path).items() if k.startswith(kept)}


@pytest.mark.slow
def test_other_classes_change_samples_and_relevance_and_nothing_else(
    tmp_path, subject, embedder, folder
):
    images = ImageFolder(folder)
    with pytest.warns(UnmappedWarning, match="2 of 2 classes"):
        db = build(tmp_path / "db", subject, images, embedder, relevance=True)
    assert db.manifest.relevance.targets == "predictions"
    before = vectors(db.path)
    mapping = tmp_path / "classes.csv"
    mapping.write_text("class0,1\nclass1,2\n")
    mapped = build(db.path, subject, images, embedder, classes=mapping)
    assert vectors(db.path) == before
    assert mapped.samples["logit"].tolist() == [1] * 12 + [2] * 12
    assert mapped.manifest.relevance.targets == "classes"
    assert mapped.relevance_classes.to_dict("list") == {"class": [1, 2], "samples": [12, 12]}
    assert mapped.verify().sound
    # what a build with these classes from the start has
    build(tmp_path / "new", subject, images, embedder, classes=mapping, relevance=True)
    assert contents(tmp_path / "new") == contents(db.path)
    # without a word about classes, they stay; a layer more gets relevance for them
    more = build(db.path, subject, images, embedder, ["head"], relevance=False)
    assert more.samples["logit"].tolist() == mapped.samples["logit"].tolist()
    assert set(more.relevance()["class"]) == {1, 2}
    assert not (db.path / "partial").exists()


def test_targets_name_the_samples_anew(tmp_path, subject, embedder, folder):
    images = ImageFolder(folder)
    names = ["abcd"[i % 4] for i in range(24)]
    db = build(tmp_path / "db", subject, images, embedder)
    found = build(db.path, subject, images, embedder, targets=names)
    assert found.samples["target"].tolist() == names
    assert found.samples["logit"].tolist() == [i % 4 for i in range(24)]
    assert found.manifest.relevance is None
    assert images.targets == [name.split("/")[0] for name in images.ids]  # the data keeps its own


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["manifest", "moved", "relate"])
def test_a_change_of_classes_that_is_stopped_loses_nothing(
    tmp_path, subject, embedder, folder, stop, monkeypatch
):
    images, names = ImageFolder(folder), ["abcd"[i % 4] for i in range(24)]
    build(tmp_path / "whole", subject, images, embedder, targets=names, relevance=True)
    db = build(tmp_path / "db", subject, images, embedder, relevance=True)

    def interrupt(*_):
        raise KeyboardInterrupt

    def progress(name, done, total):
        if (name, stop) == ("relate", "relate"):
            interrupt()

    with monkeypatch.context() as patch:
        if stop == "manifest":
            patch.setattr(writer.Manifest, "save", interrupt)
        if stop == "moved":
            patch.setattr(writer, "move_staged", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(db.path, subject, images, embedder, targets=names, progress=progress)
    between = sl.open(db.path, embedder=embedder)
    assert between.samples["target"].tolist() == (
        db.samples["target"].tolist() if stop == "manifest" else names
    )
    if stop != "manifest":
        with pytest.raises(RelevanceError, match="no class relevance yet"):
            between.relevance()
    build(db.path, subject, images, embedder, targets=names)
    assert contents(db.path) == contents(tmp_path / "whole")


def test_remedies_where_no_class_of_the_data_is_a_logit(tmp_path, subject, embedder, folder):
    images = ImageFolder(folder)
    names = ["a"] * 12 + ["elsewhere"] * 12
    db = build(tmp_path / "db", subject, images, embedder, targets=names, relevance=True)
    with pytest.raises(RelevanceError) as error:
        db.relevance(3)
    assert_says(error.value, "class 3", "1 classes with samples: 0", "classes=FILE", "targets=")
    # the remedy helps
    again = build(db.path, subject, images, embedder, targets=["d"] * 24)
    assert len(again.relevance(3))


# -- weights of examples --------------------------------------------------------------------


def plain_weights(values: list[float]) -> list[float]:
    """What lies above the weakest if that is below zero; equal where that is nothing."""
    lowest = min(0.0, *values)
    above = [value - lowest for value in values]
    total = sum(above)
    return [a / total for a in above] if total > 0 else [1 / len(values)] * len(values)


CASES = {
    "positive": ([9.0, 2.0, 1.0], [9 / 12, 2 / 12, 1 / 12]),
    "negative": ([-1.0, -2.0, -9.0], [8 / 15, 7 / 15, 0.0]),
    "both": ([3.0, 0.0, -1.0], [4 / 5, 1 / 5, 0.0]),
    "zeros": ([0.0, 0.0], [0.5, 0.5]),
    "constant": ([-2.0, -2.0, -2.0], [1 / 3] * 3),
    "one": ([-2.0], [1.0]),
}


@pytest.mark.parametrize("name", CASES)
def test_weights_of_readouts_of_any_sign(name):
    values, expected = CASES[name]
    used = torch.tensor([[True] * len(values) + [False]])
    found = example_weights(used, torch.tensor([[*values, float("nan")]]))[0].tolist()
    assert found[:-1] == pytest.approx(expected)
    assert found[-1] == 0


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_weights_never_rise_as_the_readout_falls(values):
    values.sort(reverse=True)
    found = example_weights(torch.ones(1, len(values), dtype=torch.bool), torch.tensor([values]))
    weights = found[0].tolist()
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1)
    assert weights == pytest.approx(plain_weights(values), abs=1e-9)


def test_components_without_examples_have_no_weights():
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert example_weights(none, torch.full((2, 3), torch.nan)).tolist() == [[0.0] * 3] * 2
    assert example_weights(none, None).tolist() == [[0.0] * 3] * 2


def test_weighted_vectors_of_a_layer_that_goes_negative(tmp_path, subject, embedder, folder):
    """Readouts below zero in either direction, against plain code."""
    with torch.no_grad():
        subject.module.second.bias[:5] -= 20.0  # never above zero
        subject.module.second.bias[5:] += 20.0  # never below
    subject = sl.SubjectModel(subject.module, subject.preprocess, "v")
    db = build(tmp_path / "db", subject, ImageFolder(folder), embedder, aggregate="weighted")
    frame, first = db.examples("second"), db.layer("second").first
    signs = set()
    for row in range(first, db.manifest.rows):
        mine = frame[(frame["component"] == row) & frame["crop"].notna()]
        strength = mine["activation"].to_numpy(np.float64) * db.component(row).sign
        signs |= set(np.sign(strength))
        assert (np.diff(strength) <= 0).all()
        weights = np.array(plain_weights(strength.tolist()))
        expected = weights @ db.crop_vectors[mine["crop"].astype(int)].astype(np.float64)
        np.testing.assert_allclose(db.theta[row], expected, atol=1e-3)
    assert signs == {-1.0, 1.0}


# -- settings -------------------------------------------------------------------------------


def test_settings_of_a_build_are_those_of_the_recipe():
    declared = {name: field.annotation for name, field in Recipe.model_fields.items()}
    hints = get_type_hints(RecipeSettings)
    assert hints == declared
    assert all(field.description for field in Recipe.model_fields.values())


def test_a_recipe_and_single_settings(tmp_path, subject, embedder, folder):
    recipe = Recipe(examples=2, crop="activation", thumbnails=False)
    db = sl.build(tmp_path / "db", subject, folder, embedder, ["first"], recipe=recipe, examples=4)
    assert db.manifest.recipe == recipe.model_copy(update={"examples": 4})
    assert isinstance(db.samples, pd.DataFrame)
