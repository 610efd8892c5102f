"""The reference samples of a build: chosen at random, and read and embedded like any other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LittleNet, assert_says, to_tensor, write_pictures
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import LayerError, RecipeError
from semlens.models.subject import SubjectModel
from semlens.run import layer_stages
from semlens.run.layer_stages import NotFiniteWarning, reference_readouts, scale_to_half
from semlens.run.plan import Execution
from semlens.streaming.statistics import SampleReadouts, choose_samples

LAYERS = ["first", "second"]


def make(path, subject, images, embedder, layers=LAYERS, shard=None, batch_size=8, **recipe):
    recipe = {"examples": 3, "crop": "activation", "rules": "gradient", **recipe}
    execution = Execution(batch_size, 2, shard)
    return sl.build(path, subject, images, embedder, layers, execution=execution, **recipe)


def reference_files(path: Path) -> dict[str, str]:
    files = [path / "reference.safetensors", *sorted((path / "reference").iterdir())]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def same_reference(a, b):
    assert (len(a), a.ids) == (len(b), b.ids)
    np.testing.assert_array_equal(a.samples, b.samples)
    np.testing.assert_array_equal(a.vectors, b.vectors)
    for layer in LAYERS:
        np.testing.assert_array_equal(a.readouts(layer), b.readouts(layer))


# -- the choice -----------------------------------------------------------------------------

IDS = [f"class{i % 4}/{i:03d}.png" for i in range(40)]
DIGESTS = [hashlib.sha256(bytes([i // 2])).hexdigest() for i in range(40)]  # pairs of duplicates


DRAWS = 400


def uniformity(chosen: list[list[int]]) -> float:
    """P-value of equal inclusion probabilities of 40 samples, for draws of 12 of them.

    Counts of draws without replacement have variance M p (1 - p) and correlation -1 / (n - 1).
    """
    n, p, draws = 40, 12 / 40, len(chosen)
    counts = np.bincount(np.concatenate(chosen).astype(int), minlength=n)
    statistic = ((counts - draws * p) ** 2).sum() / (draws * p * (1 - p)) * (n - 1) / n
    return float(stats.chi2.sf(statistic, n - 1))


@pytest.fixture(scope="module")
def orders() -> list[list[int]]:
    """The order in which the 40 samples are chosen, for each of many seeds."""
    return [choose_samples(IDS, DIGESTS, 40, seed) for seed in range(DRAWS)]


@pytest.mark.slow
def test_every_sample_has_the_same_chance(orders):
    assert uniformity([order[:12] for order in orders]) > 0.001
    draw = [np.random.default_rng(s).choice for s in range(DRAWS)]
    nulls = [uniformity([c(40, 12, replace=False) for c in draw]) for _ in range(50)]
    assert stats.kstest(nulls, "uniform").pvalue > 0.001
    # a sample of probability .475 instead of .3 is found
    biased = [[0, *(c(39, 11, replace=False) + 1)] if s % 4 == 0 else c(40, 12, replace=False)
              for s, c in enumerate(draw)]  # fmt: skip
    assert uniformity(biased) < 0.01


def test_duplicates_are_chosen_independently(orders):
    complete = [12 - len({sample // 2 for sample in order[:12]}) for order in orders]
    expected = 20 * 12 * 11 / (40 * 39)  # pairs of which both are among 12 of 40
    assert np.mean(complete) == pytest.approx(expected, abs=4 * np.std(complete) / DRAWS**0.5)


def test_classes_are_drawn_in_proportion_and_ranks_are_random(orders):
    classes = np.bincount(np.concatenate([order[:12] for order in orders]) % 4)
    assert stats.chisquare(classes).pvalue > 0.001
    quarters = [np.bincount(np.array(o)[10 * q : 10 * q + 10], minlength=40)
                for o in orders for q in range(4)]  # fmt: skip
    table = np.array(quarters).reshape(DRAWS, 4, 40).sum(0)
    assert stats.chisquare(table.ravel()).pvalue > 0.001


@given(st.permutations(range(40)), st.integers(0, 45), st.integers(0, 45))
@settings(max_examples=60, deadline=None)
def test_the_choice_depends_on_no_order_and_smaller_ones_are_its_start(order, count, fewer):
    whole = choose_samples(IDS, DIGESTS, count)
    assert len(whole) == len(set(whole)) == min(count, 40)
    assert choose_samples(IDS, DIGESTS, min(fewer, count)) == whole[: min(fewer, count)]
    mixed = choose_samples([IDS[i] for i in order], [DIGESTS[i] for i in order], count)
    assert [order[i] for i in mixed] == whole
    # merging the choices of two parts gives that of all
    parts = [choose_samples([IDS[i] for i in part], [DIGESTS[i] for i in part], count)
             for part in (order[:17], order[17:])]  # fmt: skip
    both = [order[i] for i in parts[0]] + [order[17 + i] for i in parts[1]]
    assert set(whole) <= set(both)


def test_samples_without_content_are_never_chosen():
    digests = [d if i % 3 else "" for i, d in enumerate(DIGESTS)]
    chosen = choose_samples(IDS, digests, 100)
    assert sorted(chosen) == [i for i in range(40) if i % 3]
    assert chosen == [i for i in choose_samples(IDS, DIGESTS, 100) if i % 3]
    assert choose_samples([], [], 3) == choose_samples(IDS, DIGESTS, 0) == []
    assert choose_samples(["\udcff.png"], ["a"], 1) == [0]  # a file name that is not UTF-8


# -- readouts -------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(1, 9), st.integers(0, 10**6), st.randoms())
@settings(max_examples=60, deadline=None)
def test_readouts_are_the_same_bits_for_any_shards_and_order(samples, size, seed, random):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(samples, 5, generator=generator) * 1e30
    values[values > 2e30] = torch.nan
    numbers = torch.randperm(1000, generator=generator)[:samples]
    parts = [SampleReadouts.empty(5)]
    for start in range(0, samples, size):
        rows = slice(start, start + size)
        parts.append(SampleReadouts.empty(5).update(values[rows], numbers[rows]))
    random.shuffle(parts)
    while len(parts) > 1:  # any tree of merges
        a, b = (parts.pop(random.randrange(len(parts))) for _ in range(2))
        parts.append(a.merge(b))
    found = parts[0].stack(numbers.tolist())
    assert torch.equal(found.view(torch.int32), values.view(torch.int32))
    assert found.shape == (samples, 5)
    assert torch.equal(
        parts[0].stack(numbers.tolist(), slice(1, 3)).isnan(), values[:, 1:3].isnan()
    )


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.slow
@given(arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(0, 12)), elements=FINITE))
@settings(max_examples=300, deadline=None)
def test_float16_with_a_scale_is_close_and_keeps_zeros_and_order(values):
    half, scale = scale_to_half(torch.from_numpy(values))
    assert (half.dtype, scale.dtype) == (torch.float16, torch.float32)
    found = (half.float() * scale[:, None]).numpy()
    assert np.isfinite(found).all()
    exact = values.astype(np.float64)
    largest = np.abs(exact).max(axis=1, keepdims=True, initial=0)
    assert (np.abs(found - exact) <= np.maximum(2.0**-11 * np.abs(exact), 2.0**-39 * largest)).all()
    assert (found[values == 0] == 0).all()
    assert (found * exact >= 0).all()  # no sign is changed
    for row in range(len(values)):
        assert (np.diff(found[row][np.argsort(values[row])]) >= 0).all()


@pytest.mark.parametrize("size", [LARGEST, 70_000.0, 1.0, 1e-30, 1e-44])
@pytest.mark.parametrize("sign", [1, -1])
def test_huge_and_tiny_readouts_keep_their_precision(size, sign):
    values = np.float32(sign * size) * np.linspace(0.25, 1, 200, dtype=np.float32)[None]
    half, scale = scale_to_half(torch.from_numpy(values))
    found = half.double() * scale.double()[:, None]
    np.testing.assert_allclose(found, values, rtol=2.0**-11)


def test_samples_with_a_readout_that_is_not_finite_are_named_and_empty():
    values = torch.arange(12.0).reshape(4, 3)
    values[1, 2], values[3, 0] = torch.nan, -torch.inf
    readouts = SampleReadouts.empty(3).update(values, torch.tensor([10, 11, 12, 13]))
    tensors, not_finite = reference_readouts(readouts, [12, 11, 13, 10], 3)
    assert not_finite == [1, 2]
    stored = tensors["readout"].float() * tensors["scale"][:, None]
    assert stored.T.tolist() == [[6, 7, 8], [0, 0, 0], [0, 0, 0], [0, 1, 2]]
    tensors, not_finite = reference_readouts(readouts, [12, 11, 13, 10], 2)
    assert not_finite == [2]  # the third is not stored
    assert tensors["readout"].shape == (2, 4)
    assert reference_readouts(readouts, [], 3)[0]["readout"].shape == (3, 0)


# -- builds ---------------------------------------------------------------------------------


def plain_readouts(subject, images, samples, layer, readout) -> np.ndarray:
    """Readouts float64[s c] by the model alone, an image at a time: of sign +1, then -1."""
    rows = []
    for sample in samples:
        with torch.no_grad():
            out = subject.module.eval().first(subject.preprocess(images.read(sample))[None])
            out = (out if layer == "first" else subject.module.second(out))[0].double().flatten(1)
        sides = (out.mean(1), out.mean(1)) if readout == "mean" else (out.amax(1), out.amin(1))
        rows.append(torch.cat(sides if layer == "second" else sides[:1]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("readout", ["mean", "max"])
@pytest.mark.parametrize("crop", ["none", "activation"])
def test_readouts_and_vectors_are_those_of_model_and_embedder(
    tmp_path, subject, images, embedder, readout, crop
):
    db = make(tmp_path / "db", subject, images, embedder, readout=readout, crop=crop, reference=17)
    reference = db.reference
    digests = [images.digest(i) for i in range(len(images))]
    assert reference.samples.tolist() == choose_samples(images.ids, digests, 17)
    assert len(reference) == 17
    assert reference.ids == [images.ids[i] for i in reference.samples]
    whole = embedder.embed_images([images.read(i) for i in reference.samples.tolist()])
    assert reference.vectors.dtype == np.float32
    np.testing.assert_allclose(reference.vectors, whole, atol=2.0**-11)
    for layer in LAYERS:
        expected = plain_readouts(subject, images, reference.samples.tolist(), layer, readout)
        found = reference.readouts(layer)
        assert (found.dtype, found.shape) == (np.float32, (17, db.layer(layer).rows))
        np.testing.assert_allclose(found, expected, rtol=2.0**-10, atol=1e-5)
        np.testing.assert_array_equal(reference.readouts(layer, slice(3, 5)), found[:, 3:5])
    assert (reference.readouts("second") < 0).any()
    with pytest.raises(LayerError, match="'third'"):
        reference.readouts("third")
    # the exact readouts of the examples, where an example is a reference sample
    row_of = {sample: row for row, sample in enumerate(reference.samples.tolist())}
    for layer in LAYERS:
        frame, found = db.examples(layer), reference.readouts(layer)
        frame = frame[frame["sample"].isin(row_of)]
        rows = frame["sample"].map(row_of), frame["component"] - db.layer(layer).first
        np.testing.assert_allclose(found[rows], frame["activation"], rtol=2.0**-10)
    assert db.verify().sound


@pytest.mark.slow
def test_the_same_bytes_for_any_shards_and_the_same_choice_for_any_batches(
    tmp_path, subject, images, embedder
):
    whole = make(tmp_path / "whole", subject, images, embedder, reference=23)
    for shard in (8, 16, 24):
        other = make(tmp_path / f"{shard}", subject, images, embedder, shard=shard, reference=23)
        same_reference(other.reference, whole.reference)
        assert reference_files(other.path) == reference_files(whole.path)
    for batch in (1, 5, 64):
        other = make(tmp_path / f"b{batch}", subject, images, embedder, batch_size=batch,
                     reference=23)  # fmt: skip
        np.testing.assert_array_equal(other.reference.samples, whole.reference.samples)
        np.testing.assert_allclose(other.reference.vectors, whole.reference.vectors, atol=2e-3)
        for layer in LAYERS:
            pair = (db.reference.readouts(layer) for db in (other, whole))
            np.testing.assert_allclose(*pair, rtol=2.0**-9, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 400])
def test_added_layers_give_what_one_build_gives(
    tmp_path, subject, images, embedder, monkeypatch, limit
):
    """Also when the limit leaves fewer samples to both layers than to the first: 12 of 33."""
    if limit:
        monkeypatch.setattr(layer_stages, "MAX_BYTES", limit)
    whole = make(tmp_path / "whole", subject, images, embedder)
    make(tmp_path / "db", subject, images, embedder, ["first"])
    before = reference_files(tmp_path / "db")
    db = make(tmp_path / "db", subject, images, embedder, ["second"])
    same_reference(db.reference, whole.reference)
    assert before.items() <= reference_files(db.path).items()
    counts = [layer.reference.samples for layer in db.manifest.layers]
    assert counts == ([33, 12] if limit else [41, 41])
    assert db.verify().sound
    status = CliRunner().invoke(app, ["status", str(db.path)], env={"COLUMNS": "200"}).stdout
    assert ("12 random images (41 were requested)" if limit else "41 random images\n") in status


def test_with_max_both_signs_count_towards_the_limit(
    tmp_path, subject, images, embedder, monkeypatch
):
    monkeypatch.setattr(layer_stages, "MAX_BYTES", 400)
    db = make(tmp_path / "db", subject, images, embedder, readout="max")
    assert len(db.reference) == 400 // (2 * 2 * 16)


@pytest.mark.slow
def test_none_and_the_bounds_of_their_number(tmp_path, subject, images, embedder):
    db = make(tmp_path / "db", subject, images, embedder, ["first"], reference=0)
    assert db.reference is None
    assert not [name for name in db.manifest.files if name.startswith("reference")]
    assert make(db.path, subject, images, embedder, reference=0).reference is None
    with pytest.raises(RecipeError, match="reference: 0 -> 8"):
        make(db.path, subject, images, embedder, ["head"], reference=8)
    for wrong in (-1, 100_001):
        with pytest.raises(RecipeError) as error:
            make(tmp_path / "wrong", subject, images, embedder, reference=wrong)
        assert_says(error.value, str(wrong), "from 0 to 100000")
    printed = CliRunner().invoke(app, ["status", str(db.path), "--json"]).stdout
    assert json.loads(printed)["reference"] == 0


def test_duplicates_are_chosen_each_for_itself(tmp_path, subject, embedder):
    folder = write_pictures(tmp_path / "pictures", 6)
    for file in sorted(folder.rglob("*.png")):
        file.with_name(f"copy-{file.name}").write_bytes(file.read_bytes())
    db = make(tmp_path / "db", subject, ImageFolder(folder), embedder)
    reference = db.reference
    assert sorted(reference.ids) == list(ImageFolder(folder).ids)
    row = {name: i for i, name in enumerate(reference.ids)}
    for name in reference.ids:
        if "copy-" in name:
            pair = [row[name], row[name.replace("copy-", "")]]
            assert (np.diff(reference.vectors[pair], axis=0) == 0).all()
            for layer in LAYERS:
                values = reference.readouts(layer)[pair]
                np.testing.assert_allclose(*values, rtol=2.0**-10, atol=1e-5)


def test_images_that_cannot_be_read_are_left_out(tmp_path, subject, embedder):
    folder = write_pictures(tmp_path / "pictures", 12)
    files = sorted(folder.rglob("*.png"))
    for file in files[2:5]:
        file.write_bytes(file.read_bytes()[:100])  # it can be hashed, but not decoded
    db = make(tmp_path / "db", subject, ImageFolder(folder), embedder)
    kept = [f.relative_to(folder).as_posix() for f in (*files[:2], *files[5:])]
    assert sorted(db.reference.ids) == kept
    assert db.reference.readouts("first").shape == (9, 6)
    assert len(db.reference.vectors) == 9


class Overflowing(LittleNet):
    """Second layer: channel 0 is NaN for the images that are bright in the first layer."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit
        self.second.register_forward_hook(self.spoil)

    def spoil(self, _, inputs, output):
        bright = inputs[0].mean((1, 2, 3)) > self.limit
        output[bright, 0] = torch.nan
        return output


@pytest.mark.slow
def test_images_with_readouts_that_are_not_finite_are_left_out(tmp_path, images, embedder):
    plain = SubjectModel(LittleNet(), to_tensor, "v")
    clean = make(tmp_path / "clean", plain, images, embedder, ["first"]).reference
    means = clean.readouts("first").mean(1)
    limit = float(np.sort(means)[-5:-3].mean())
    model = SubjectModel(Overflowing(limit), to_tensor, "v")
    db = make(tmp_path / "db", model, images, embedder, ["first"])
    assert len(db.reference) == 41
    with pytest.warns(NotFiniteWarning, match="on 4 of 41 images"):
        db = make(tmp_path / "db", model, images, embedder, ["second"])
    kept = means < limit
    assert kept.sum() == 37
    assert db.layer("second").not_finite == 4
    np.testing.assert_array_equal(db.reference.samples, clean.samples[kept])
    np.testing.assert_array_equal(db.reference.vectors, clean.vectors[kept])
    np.testing.assert_array_equal(db.reference.readouts("first"), clean.readouts("first")[kept])
    assert np.isfinite(db.reference.readouts("second")).all()
    assert (db.reference.readouts("second")[:, 0] != 0).all()
    broken = SubjectModel(Overflowing(-1.0), to_tensor, "v")
    with pytest.warns(NotFiniteWarning, match="on 41 of 41 images"):
        assert make(tmp_path / "none", broken, images, embedder).reference is None


@pytest.mark.slow
def test_readouts_beyond_float16_are_not_lost(tmp_path, images, embedder):
    plain, large = LittleNet(), LittleNet()
    with torch.no_grad():
        large.second.weight *= 2.0**40
        large.second.bias *= 2.0**40
    dbs = [make(tmp_path / str(i), SubjectModel(net, to_tensor, "v"), images, embedder, ["second"])
           for i, net in enumerate((plain, large))]  # fmt: skip
    small, huge = (db.reference.readouts("second") for db in dbs)
    assert np.abs(huge).max() > 65504
    np.testing.assert_allclose(huge / np.float32(2.0**40), small, rtol=1e-6)
