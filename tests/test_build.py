"""Whole builds: what is on disk, resuming, extending, and every refusal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ColourEmbedder, LittleNet, stopped_at_write, to_tensor, write_pictures
from filelock import FileLock
from PIL import Image

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import BusyError, DataError, LayerError, RecipeError, StaleError, StoreError
from semlens.models.subject import SubjectModel
from semlens.run.plan import Execution

LAYERS = ["first", "second"]


def make(path, subject, images, embedder, layers=LAYERS, shard=None, batch_size=8, **recipe):
    # no rules: they take a capture of the model each time, and none of these tests is about them
    recipe = {"examples": 5, "crop": "crp", "rules": "gradient", **recipe}
    return sl.build(
        path, subject, images, embedder, layers,
        execution=Execution(batch_size, 2, shard), **recipe,
    )  # fmt: skip


def contents(path: Path) -> dict[str, str]:
    return {
        p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("crop", ["none", "activation"])
def test_tables_and_vectors_say_the_same_as_plain_code(tmp_path, subject, images, embedder, crop):
    db = make(tmp_path / "db", subject, images, embedder, crop=crop)
    components = pd.read_parquet(tmp_path / "db" / "components.parquet")
    assert components["layer"].tolist() == ["first"] * 6 + ["second"] * 20
    assert components["sign"].dtype == np.int8
    assert components["sign"].tolist() == [1] * 16 + [-1] * 10
    assert components["index"].tolist() == [*range(6), *range(10), *range(10)]
    for row in (0, 5, 7, 19):
        frame = db.examples("first" if row < 6 else "second")
        mine = frame[(frame["component"] == row) & frame["crop"].notna()]
        vectors = []
        for _, example in mine.iterrows():
            picture = images.read(int(example["sample"]))
            box = tuple(int(v) for v in example["box"])
            if crop == "none":
                assert box == (0, 0, *picture.size)
            piece = picture.crop(box)
            vector = embedder.preprocess(piece).flatten().double() - 0.5
            vector = vector @ embedder.matrix.double()
            vectors.append((vector / vector.norm()).numpy())
        expected = np.mean(vectors, axis=0)
        np.testing.assert_allclose(db.theta[row], expected, atol=2e-3)
        shown = Image.open(__import__("io").BytesIO(db.thumbnail(int(mine["crop"].iloc[0])).webp))
        assert shown.size == (120, 120)


def test_silent_slots_of_a_rectified_layer_are_listed_but_not_averaged(tmp_path, embedder):
    class Rare(LittleNet):
        def forward(self, x):
            x = super().forward(x)
            return x

    module = LittleNet()
    with torch.no_grad():  # channel 0 never fires, channel 1 fires on a few samples only
        module.first[0].weight[0].zero_()
        module.first[0].bias[0] = -1
        module.first[0].weight[1] = 1.0
        module.first[0].bias[1] = 8.0
    images = ImageFolder(write_pictures(tmp_path / "pictures", 20))
    subject = SubjectModel(module, to_tensor, "v")
    with torch.no_grad():
        peaks = torch.stack(
            [module.first(subject.preprocess(images.read(i))[None])[0, 1].max() for i in range(20)]
        )
        module.first[0].bias[1] -= float(peaks.sort().values[-4])  # three samples stay above zero
    db = make(tmp_path / "db", subject, images, embedder, layers=["first"])
    frame = db.examples("first")
    assert db.components["examples"].tolist()[:2] == [0, 3]
    assert db.components["firing_rate"].tolist()[:2] == [0.0, 3 / 20]
    silent = frame[frame["component"] == 0]
    assert silent["sample"].tolist() == [0, 1, 2, 3, 4]
    assert silent["box"].isna().all()
    assert (db.theta[0] == 0).all()
    assert not db.has_examples[0]
    assert 0 not in {hit.row for hit in search_all(db)}
    kept = frame[(frame["component"] == 1) & frame["crop"].notna()]
    assert len(kept) == 3
    scores = db.scores().to_pandas()
    assert scores.loc[0, ["clarity", "redundancy", "polysemanticity"]].isna().all()


def search_all(db):
    picture = Image.new("RGB", (20, 20), (200, 30, 60))
    return db.search(images=[picture], top=10**6).hits


@pytest.mark.slow
def test_same_bytes_for_any_shards_and_workers(tmp_path, subject, images, embedder):
    make(tmp_path / "a", subject, images, embedder)
    make(tmp_path / "b", subject, images, embedder, shard=16)
    sl.build(
        tmp_path / "c", subject, images, embedder, LAYERS, examples=5,
        execution=Execution(8, 0, 8),
    )  # fmt: skip
    a, b, c = (contents(tmp_path / name) for name in "abc")
    for file in ("components.parquet", "samples.parquet"):
        assert a[file] == b[file] == c[file]
    for layer in LAYERS:
        tables = [pd.read_parquet(tmp_path / n / "examples" / f"{layer}.parquet") for n in "abc"]
        for other in tables[1:]:
            columns = ["component", "rank", "sample", "activation", "position"]
            pd.testing.assert_frame_equal(tables[0][columns], other[columns])


@pytest.mark.slow
def test_the_same_build_twice_gives_the_same_bytes(tmp_path, subject, images, embedder):
    make(tmp_path / "a", subject, images, embedder)
    make(tmp_path / "b", subject, images, embedder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not (tmp_path / "a" / "partial").exists()
    text = (tmp_path / "a" / "manifest.json").read_text()
    assert os.uname().nodename not in text or len(os.uname().nodename) < 3


# It has imported torch once and forks from there: a process a build, without the start of one.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["pandas", "pytest", "torch", "torch.export", "torch._dynamo", "semlens.cli.app"]
    + ["semlens.run.build_database", "semlens.relevance.lrp_engine", "semlens.embedders.load"]
)


def build_alone(said: Connection, target: Path, pictures: Path, largest: int | None) -> None:
    """Build in this process; every step is said, and at the end what was wrong."""
    if largest is not None:  # a write beyond it fails, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    model = SubjectModel(LittleNet(), to_tensor, "v", "python:little", list("abcd"))
    said.send("ready")
    try:
        sl.build(
            target, model, str(pictures), ColourEmbedder(), LAYERS, examples=5, relevance=True,
            execution=Execution(4, 1, 8), progress=lambda *step: said.send(step),
        )  # fmt: skip
    except StoreError as error:
        said.send(str(error))
        sys.exit(1)


def run_build(
    pictures: Path, target: Path, kill_after: int | None = None, largest: int | None = None
) -> tuple[list[object], int | None]:
    """Build in a process of its own; kill -9 it after a number of steps.

    Returns what it said and its exit code.
    """
    hearing, said = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=build_alone, args=(said, target, pictures, largest))
    process.start()
    said.close()
    heard: list[object] = []
    with contextlib.suppress(EOFError):
        while len(heard) != kill_after:
            heard.append(hearing.recv())
        process.kill()
    process.join()
    if kill_after is None and largest is None:
        assert process.exitcode == 0, heard
    return heard, process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory, pictures) -> tuple[int, dict[str, str]]:
    """Steps and contents of the build that was never stopped."""
    target = tmp_path_factory.mktemp("whole") / "db"
    heard, _ = run_build(pictures, target)
    return len(heard), contents(target)


@pytest.mark.slow
def test_killed_at_many_points_and_resumed_gives_the_same_bytes(tmp_path, pictures, whole):
    steps, expected = whole
    target = tmp_path / "killed"
    for kill_after in sorted({2, steps // 4, steps // 2, steps * 3 // 4, steps - 2, steps}):
        run_build(pictures, target, kill_after)
        if (target / "manifest.json").exists():
            break
        with pytest.raises(StoreError, match="unfinished"):
            sl.open(target)
    run_build(pictures, target)
    assert contents(target) == expected


@pytest.mark.slow
def test_every_partial_state_resumes_to_the_same_bytes(tmp_path, subject, embedder):
    """Each file write of a build, failed in turn: what was written before it is kept."""
    images = ImageFolder(write_pictures(tmp_path / "pictures", 20))
    make(tmp_path / "whole", subject, images, embedder, shard=8, relevance=True)
    expected = contents(tmp_path / "whole")
    code = Path(sl.__file__).parent / "store" / "atomic_files.py"
    assert "os.fsync" in code.read_text()  # the point at which the writes are stopped below
    stops = 0
    for stop in range(1, 200):
        target = tmp_path / f"stopped{stop}"
        try:
            with stopped_at_write(stop):
                make(target, subject, images, embedder, shard=8, relevance=True)
            break
        except KeyboardInterrupt:
            stops += 1
        make(target, subject, images, embedder, shard=8, relevance=True)
        assert contents(target) == expected, stop
    assert stops > 10


@pytest.mark.slow
def test_layers_are_added_and_give_what_one_build_gives(tmp_path, subject, images, embedder):
    make(tmp_path / "whole", subject, images, embedder)
    whole = sl.open(tmp_path / "whole", embedder=embedder)
    make(tmp_path / "db", subject, images, embedder, layers=["first"])
    before = contents(tmp_path / "db")
    db = make(tmp_path / "db", subject, images, embedder, layers=["first", "second"])
    after = contents(tmp_path / "db")
    assert {k: after[k] for k in before if k.startswith(("vectors", "examples", "thumb"))} == {
        k: v for k, v in before.items() if k.startswith(("vectors", "examples", "thumb"))
    }
    pd.testing.assert_frame_equal(db.components, whole.components)
    np.testing.assert_array_equal(db.theta, whole.theta)
    assert db.verify().sound
    again = make(tmp_path / "db", subject, images, embedder, layers=["second"])
    assert again.layers == LAYERS
    assert contents(tmp_path / "db") == after


@pytest.mark.parametrize(("crop", "reference"), [("activation", 0), ("activation", 9), ("none", 9)])
def test_unique_samples_and_crops_are_read_and_embedded_once(
    tmp_path, subject, images, crop, reference
):
    read, embedded = [], []

    class Counting(ColourEmbedder):
        def _images(self, batch):
            embedded.append(int(batch.flatten(1).any(1).sum()))  # a batch is filled with zeros
            return super()._images(batch)

    class Reads(ImageFolder):
        def content(self, sample):
            read.append(sample)
            return super().content(sample)

    data = Reads(images.root)
    db = make(
        tmp_path / "db", subject, data, Counting(), crop=crop, examples=2, reference=reference
    )
    used = pd.concat([db.examples(n) for n in LAYERS]).dropna(subset="crop")
    boxes = {(s, *b) for s, b in zip(used["sample"], used["box"], strict=True)}
    chosen = set(db.reference.samples.tolist()) if reference else set()
    assert len(chosen) == reference
    whole = {(s, 0, 0, *images.read(s).size) for s in chosen}
    assert crop != "none" or not reference or whole & boxes  # one vector for both
    assert sum(embedded) == len(boxes | whole)
    assert db.manifest.crops == [len(boxes)]
    referenced = set(used["sample"]) | chosen
    assert len(referenced) < len(images)
    counts = {s: read.count(s) for s in range(len(images))}
    # to hash, to collect, then one for crops
    assert counts == {s: 2 + (s in referenced) for s in counts}


def test_two_writers_are_refused(tmp_path, subject, images, embedder):
    (tmp_path / "db").mkdir()
    with FileLock(str(tmp_path / "db" / ".lock")), pytest.raises(BusyError, match="another"):
        make(tmp_path / "db", subject, images, embedder)


@pytest.mark.slow
def test_other_settings_model_data_and_embedder_are_refused(tmp_path, subject, images, embedder):
    path = tmp_path / "db"
    db = make(path, subject, images, embedder)
    with pytest.raises(RecipeError, match="examples: 5 -> 6"):
        make(path, subject, images, embedder, layers=["head"], examples=6)
    other = SubjectModel(LittleNet(seed=1), to_tensor, "v")
    with pytest.raises(StaleError, match="model"):
        make(path, other, images, embedder)
    with pytest.raises(StaleError, match="model"):
        db.check_model(SubjectModel(LittleNet(), to_tensor, "another preprocessing"))
    with pytest.raises(StaleError, match="embedder"):
        sl.open(path, embedder=ColourEmbedder(seed=1))
    with pytest.raises(StaleError, match="embedder"):
        make(path, subject, images, ColourEmbedder(seed=1))


def test_changed_data_is_refused_with_what_changed(tmp_path, subject, embedder):
    folder = write_pictures(tmp_path / "pictures", 12)
    db = make(tmp_path / "db", subject, ImageFolder(folder), embedder)
    db.check_images(ImageFolder(folder))
    assert len(db.images) == 12
    victim = next(folder.rglob("*.png"))
    Image.new("RGB", (30, 30), (9, 9, 9)).save(victim)
    write_pictures(folder / "more", 1)
    with pytest.raises(StaleError, match="1 images differ, 1 are new and 0 are missing"):
        db.check_images(ImageFolder(folder))
    with pytest.raises(StaleError, match="1 images differ"):
        make(tmp_path / "db", subject, ImageFolder(folder), embedder, layers=["head"])
    assert len(db.search(images=[Image.new("RGB", (8, 8))]).hits) == 10  # does not read it


@pytest.mark.slow
def test_unreadable_images_are_skipped_counted_and_listed(tmp_path, subject, embedder):
    folder = write_pictures(tmp_path / "pictures", 12)
    clean = make(tmp_path / "clean", subject, ImageFolder(folder), embedder)
    bad = folder / "class0" / "000b.png"
    bad.write_bytes((folder / "class0" / "000.png").read_bytes()[:200])
    (folder / "class1" / "zero.jpg").write_bytes(b"")
    db = make(tmp_path / "db", subject, ImageFolder(folder), embedder)
    assert db.manifest.unreadable == 2
    make(tmp_path / "again", subject, ImageFolder(folder), embedder)
    assert contents(tmp_path / "again") == contents(tmp_path / "db")
    listed = db.samples[db.samples["error"].notna()]
    assert listed["path"].tolist() == ["class0/000b.png", "class1/zero.jpg"]
    assert listed["error"].str.contains("Cannot decode").all()
    names = db.samples["path"].to_numpy()[db.examples("second")["sample"]]
    known = clean.samples["path"].to_numpy()[clean.examples("second")["sample"]]
    assert names.tolist() == known.tolist()
    for file in folder.rglob("*.*"):
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match="None of the 14 images"):
        make(tmp_path / "none", subject, ImageFolder(folder), embedder)


def test_one_image_and_fewer_images_than_examples(tmp_path, subject, embedder):
    folder = write_pictures(tmp_path / "one", 1)
    db = make(tmp_path / "db", subject, ImageFolder(folder), embedder, examples=30)
    assert set(db.components["examples"]) <= {0, 1}
    assert db.scores().to_pandas()["clarity"].isna().all()
    assert len(db.search(images=[Image.new("RGB", (8, 8))], top=3)) == 3


def test_a_folder_of_something_else_is_not_touched(tmp_path, subject, images, embedder):
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter1.tex").write_text("important")
    with pytest.raises(StoreError, match="is not a database"):
        make(target, subject, images, embedder)
    assert [p.name for p in target.iterdir()] == ["chapter1.tex"]


@pytest.mark.slow
def test_a_full_disk_is_an_error_with_a_remedy_and_loses_nothing(tmp_path, pictures, whole):
    target = tmp_path / "db"
    heard, code = run_build(pictures, target, largest=2000)
    assert code == 1
    assert "run the same command again" in str(heard[-1])
    assert not list((target).rglob("*.part"))
    run_build(pictures, target)
    assert contents(target) == whole[1]


def test_no_layer_and_wrong_layer(tmp_path, subject, images, embedder):
    with pytest.raises(RecipeError, match="No layer"):
        make(tmp_path / "db", subject, images, embedder, layers=[])
    with pytest.raises(LayerError, match="nearest names are second"):
        make(tmp_path / "db", subject, images, embedder, layers=["secon"])


def test_files_are_readable_by_others(tmp_path, subject, images, embedder):
    make(tmp_path / "db", subject, images, embedder, layers=["first"])
    (tmp_path / "plain").touch()
    usual = (tmp_path / "plain").stat().st_mode
    for kind in ("*.safetensors", "*.parquet", "manifest.json"):
        assert {p.stat().st_mode for p in (tmp_path / "db").rglob(kind)} == {usual}


@pytest.mark.slow
def test_names_of_derived_tables_stay_in_the_database(tmp_path, subject, images, embedder):
    db = make(tmp_path / "db", subject, images, embedder)
    with pytest.raises(StoreError, match="is not a valid name"):
        db.save_analysis("../../x", pd.DataFrame({"a": [1]}))
    with pytest.raises(StoreError, match="cannot be written"):
        db.scores().save("/proc/nothing/here.csv")


@pytest.mark.slow
def test_damage_is_found(tmp_path, subject, images, embedder):
    db = make(tmp_path / "db", subject, images, embedder)
    file = tmp_path / "db" / "vectors" / "second.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert [p.file for p in db.verify().problems] == ["vectors/second.safetensors"]
    manifest = tmp_path / "db" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        sl.open(tmp_path / "db")
    with pytest.raises(StoreError, match="not a database"):
        sl.open(tmp_path / "nothing")


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["mean", "median", "weighted"])
def test_aggregates_against_float64(tmp_path, subject, images, embedder, aggregate):
    db = make(tmp_path / "db", subject, images, embedder, aggregate=aggregate)
    index, used = db.crop_index("second")
    frame = db.examples("second")
    for place in (0, 4, 13):
        vectors = db.crop_vectors[index[place][used[place]]].astype(np.float64)
        readout = frame[frame["component"] == 6 + place]["activation"].to_numpy(np.float64)
        weight = readout * (1 if place < 10 else -1)
        weight -= min(0.0, weight.min())
        expected = {
            "mean": vectors.mean(0),
            "median": np.median(vectors, axis=0),
            "weighted": (vectors * (weight / weight.sum())[:, None]).sum(0),
        }[aggregate]
        np.testing.assert_allclose(db.theta[6 + place], expected, atol=1e-3)


@pytest.mark.slow
def test_time_is_not_in_the_database(tmp_path, subject, images, embedder):
    make(tmp_path / "a", subject, images, embedder)
    time.sleep(1.1)
    make(tmp_path / "b", subject, images, embedder)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
