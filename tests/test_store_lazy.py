"""What grows with the images is read a few rows at a time: the same rows, in bounded memory."""

from __future__ import annotations

import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ColourEmbedder, LittleNet, WordEmbedder, assert_says, sign_files, to_tensor
from PIL import Image

import semlens as sl
from semlens.data.huggingface import HuggingFaceImages
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, ImageError, LayerError, StaleError, StoreError
from semlens.models.subject import SubjectModel
from semlens.run.plan import Execution
from semlens.store import file_names
from semlens.store.atomic_files import load_table, save_table
from semlens.store.locked_cached_property import locked_cached_property
from semlens.store.row_group_cache import RowGroupCache
from semlens.types import Box, Thumbnail

LAYERS = ["first", "second"]


def subject_model():
    return SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))


@pytest.fixture(scope="module")
def built(tmp_path_factory, pictures):
    path = tmp_path_factory.mktemp("lazy") / "db"
    with pytest.MonkeyPatch.context() as patch:  # several files
        patch.setattr("semlens.run.crops.CROPS_PER_FILE", 20)
        return sl.build(path, subject_model(), ImageFolder(pictures), WordEmbedder(), LAYERS,
                        examples=6, execution=Execution(8, 0, 16))  # fmt: skip


@pytest.fixture
def db(built):
    return sl.open(built.path, embedder=WordEmbedder())


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    component = np.sort(rng.integers(0, 40, 500)).astype(np.int32)
    return pa.table({
        "component": component,
        "value": rng.integers(0, 1000, 500),
        "webp": pa.array([rng.bytes(40) for _ in range(500)], pa.binary()),
    })  # fmt: skip


@pytest.fixture(params=[None, 64, 7, 1])
def folder(request, tmp_path, table):
    save_table(
        tmp_path / "t.parquet", table, rows_per_group=request.param, compressed_column="webp"
    )
    return tmp_path


COLUMNS = ("component", "value", "webp")


def test_rows_are_those_of_the_whole_table_for_any_row_groups(folder, table):
    groups = RowGroupCache(folder)
    wanted = [499, 0, 63, 64, 7, 7, 250]
    assert groups.take("t.parquet", wanted, COLUMNS).equals(table.take(wanted).combine_chunks())
    assert groups.take("t.parquet", [3], ("webp",))["webp"][0].as_py() == table["webp"][3].as_py()
    assert groups.take("t.parquet", [], COLUMNS).num_rows == 0


def test_rows_of_a_value_are_those_of_a_filter(folder, table):
    groups = RowGroupCache(folder)
    frame = table.to_pandas()
    for value in range(-1, 42):
        found = groups.where_equal("t.parquet", "component", value, ("value", "webp"))
        expected = frame.loc[frame["component"] == value, ["value", "webp"]]
        assert found.to_pydict() == expected.to_dict("list")


def test_a_file_without_statistics_is_read_right(tmp_path, table):
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=50, write_statistics=False)
    found = RowGroupCache(tmp_path).where_equal(
        "t.parquet", "component", 17, ("component", "value")
    )
    expected = table.filter(np.asarray(table["component"]) == 17).select(["component", "value"])
    assert found.to_pydict() == expected.to_pydict()


def test_what_is_held_has_a_bound(tmp_path, table):
    for number in range(5):
        save_table(tmp_path / f"{number}.parquet", table, rows_per_group=50)
    one = RowGroupCache(tmp_path)
    one.take("0.parquet", [0], COLUMNS)
    size = one.cached_bytes
    groups = RowGroupCache(tmp_path, max_bytes=3 * size + size // 2, max_open_files=2)
    for number in range(5):
        for row in range(0, 500, 50):
            found = groups.take(f"{number}.parquet", [row], COLUMNS)
            assert found["value"][0].as_py() == table["value"][row].as_py()
            assert groups.cached_groups <= 4
            assert groups.cached_bytes <= 3 * size + size // 2
            assert groups.open_files <= 2
    assert groups.cached_groups >= 2
    tiny = RowGroupCache(tmp_path, max_bytes=1)
    tiny.take("0.parquet", [0, 499], COLUMNS)
    assert tiny.cached_groups == 1


def test_many_threads_read_the_same(folder, table):
    groups = RowGroupCache(folder, max_bytes=4000, max_open_files=1)
    expected = table["webp"].to_pylist()

    def read(seed):
        rng = np.random.default_rng(seed)
        for row in rng.integers(0, 500, 60).tolist():
            assert groups.take("t.parquet", [row], ("webp",))["webp"][0].as_py() == expected[row]
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))
    assert groups.cached_groups * 20 < 500 * 8


def test_missing_short_and_damaged_files(tmp_path, table):
    groups = RowGroupCache(tmp_path)
    with pytest.raises(StoreError) as error:
        groups.take("no.parquet", [0], COLUMNS)
    assert_says(error.value, "no.parquet", "cannot be read", "Restore")
    save_table(tmp_path / "t.parquet", table, rows_per_group=100)
    for row in (500, -1):
        with pytest.raises(StoreError) as error:
            groups.take("t.parquet", [row], COLUMNS)
        assert_says(error.value, "has 500 rows", str(row), "Restore")
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    data[200:4000] = b"\0" * 3800
    (tmp_path / "broken.parquet").write_bytes(data)
    with pytest.raises(StoreError, match="cannot be read"):
        RowGroupCache(tmp_path).take("broken.parquet", [0], COLUMNS)


def test_a_file_that_is_written_in_place_is_not_read_further(tmp_path, table):
    path = tmp_path / "t.parquet"
    save_table(path, table, rows_per_group=100)
    data = path.read_bytes()
    groups, replaced = RowGroupCache(tmp_path), RowGroupCache(tmp_path)
    for cache in (groups, replaced):
        assert cache.take("t.parquet", [5], COLUMNS).equals(table.take([5]).select(COLUMNS))
    save_table(path, table.slice(1), rows_per_group=100)  # by renaming: the old one is still open
    assert replaced.take("t.parquet", [250], COLUMNS).equals(table.take([250]).select(COLUMNS))

    groups = RowGroupCache(tmp_path)
    path.write_bytes(data)
    groups.take("t.parquet", [5], COLUMNS)
    path.write_bytes(data[:4] + data[4:][::-1])
    with pytest.raises(StoreError, match="cannot be read"):
        groups.take("t.parquet", [250], COLUMNS)
    save_table(path, table.set_column(1, "value", pa.array(np.zeros(500, np.int64))),
               rows_per_group=100)  # fmt: skip
    groups = RowGroupCache(tmp_path)
    groups.take("t.parquet", [5], COLUMNS)
    with path.open("r+b") as opened:  # the same bytes, but nobody knows
        opened.write(path.read_bytes())
    with pytest.raises(StoreError, match="written while it was read"):
        groups.take("t.parquet", [250], COLUMNS)
    assert groups.take("t.parquet", [250], COLUMNS)["value"].to_pylist() == [0]


def test_a_property_is_made_once_by_many_threads():
    made = []

    class Thing:
        @locked_cached_property
        def value(self):
            made.append(threading.get_ident())
            threading.Event().wait(0.02)
            return object()

    thing = Thing()
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: thing.value, range(8)))
    assert len(made) == 1
    assert len({id(value) for value in values}) == 1
    assert isinstance(Thing.value, locked_cached_property)


# -- databases --------------------------------------------------------------------------------


def plain_examples(path, layer, row):
    """The used examples of a component, by pandas and a loop."""
    frame = pd.read_parquet(path / "examples" / f"{layer}.parquet")
    paths = pd.read_parquet(path / "samples.parquet")["path"]
    found = []
    for record in frame.sort_values(["component", "rank"]).to_dict("records"):
        if record["component"] == row and record["box"] is not None:
            box = tuple(int(v) for v in record["box"])
            found.append((record["sample"], paths[record["sample"]], record["activation"], box,
                          int(record["crop"]), record["mask"]))  # fmt: skip
    return found


def same_examples(db):
    for row in range(db.manifest.rows):
        found = [
            (e.sample, e.path, e.activation, e.box.as_tuple(), e.crop, e.mask)
            for e in db.examples_of(row)
        ]
        assert found == plain_examples(db.path, db.component(row).layer, row)
        assert db.examples_of(row, 2) == db.examples_of(row)[:2]


def plain_thumbnails(path):
    files = sorted((path / "thumbnails").glob("*.parquet"))
    return [
        Thumbnail(record.webp, Box(*record.box.tolist()))
        for file in files
        for record in pd.read_parquet(file).itertuples()
    ]


@pytest.mark.slow
def test_a_database_gives_the_rows_of_its_files(db):
    assert len(db.manifest.crops) > 1
    same_examples(db)
    expected = plain_thumbnails(db.path)
    assert [db.thumbnail(crop) for crop in range(sum(db.manifest.crops))] == expected
    for number, record in enumerate(db.samples.to_dict("records")):
        found = db.sample(number)
        assert (found.path, found.sha256) == (record["path"], record["sha256"])
    for number in (-1, db.manifest.samples):
        with pytest.raises(StoreError) as error:
            db.sample(number)
        assert_says(error.value, f"Sample {number}", "0 to 40", "Choose")


@pytest.mark.slow
@pytest.mark.parametrize("group", [None, 3])
def test_files_of_other_row_groups_read_the_same(db, tmp_path, group):
    """Older builds wrote one row group a file."""
    copy = tmp_path / "copy"
    shutil.copytree(db.path, copy)
    for file in [*copy.glob("examples/*"), *copy.glob("thumbnails/*"), copy / "samples.parquet"]:
        pq.write_table(load_table(file), file, compression="zstd", row_group_size=group)
    sign_files(copy)
    other = sl.open(copy, embedder=WordEmbedder())
    same_examples(other)
    count = sum(db.manifest.crops)
    assert [other.thumbnail(i) for i in range(count)] == [db.thumbnail(i) for i in range(count)]


@pytest.mark.slow
def test_builds_write_small_row_groups(db, monkeypatch, tmp_path, pictures):
    monkeypatch.setattr(file_names, "THUMBNAIL_GROUP", 4)
    monkeypatch.setattr(file_names, "EXAMPLE_GROUP", 16)
    monkeypatch.setattr(file_names, "SAMPLE_GROUP", 10)
    small = sl.build(tmp_path / "db", subject_model(), ImageFolder(pictures), WordEmbedder(),
                     LAYERS, examples=6, execution=Execution(8, 0, 16))  # fmt: skip
    sizes = {"samples.parquet": 10, "examples/first.parquet": 16, "thumbnails/0000.parquet": 4}
    for file, size in sizes.items():
        meta = pq.ParquetFile(small.path / file).metadata
        rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        assert len(rows) > 1
        assert set(rows[:-1]) == {size}
    same_examples(small)
    # a look at one component opens its files, not those of all crops
    small = sl.open(small.path, embedder=WordEmbedder())
    example = small.examples_of(7, 1)[0]
    small.thumbnail(example.crop)
    assert small.row_groups.cached_groups <= 2 + 1 + 1
    assert small.row_groups.open_files == 3


def test_threads_of_a_server_read_one_database(db):
    rows = list(range(db.manifest.rows)) * 3
    expected = {row: [e.crop for e in db.examples_of(row)] for row in rows}
    fresh = sl.open(db.path, embedder=WordEmbedder())

    def read(row):
        examples = fresh.examples_of(row)
        assert [fresh.thumbnail(e.crop) for e in examples] == [
            db.thumbnail(e.crop) for e in examples
        ]
        return [e.crop for e in examples], len(fresh.theta), len(fresh.components)

    with ThreadPoolExecutor(8) as pool:
        for row, found in zip(rows, pool.map(read, rows), strict=True):
            assert found == (expected[row], db.manifest.rows, db.manifest.rows)


def test_vectors_are_those_of_the_files(db):
    crops = [3, 0, sum(db.manifest.crops) - 1, 3]
    np.testing.assert_array_equal(db.vectors_of(crops), db.crop_vectors[crops])
    rows = [db.manifest.rows - 1, 2, 2]
    np.testing.assert_array_equal(db.concept_vectors(rows), db.theta[rows])
    assert db.vectors_of([]).shape == (0, db.manifest.dim)


def test_cosines_are_those_of_float64(db):
    probes = np.random.default_rng(1).normal(size=(3, db.manifest.dim)).astype(np.float32)
    rows = np.array([25, 3, 4, 9, 0])
    found = db.cosines(probes, rows)
    for place, row in enumerate(rows):
        theta = db.theta[row].astype(np.float64)
        for column, probe in enumerate(probes.astype(np.float64)):
            length = np.linalg.norm(theta) * np.linalg.norm(probe)
            expected = theta @ probe / length if length else 0.0
            assert found[place, column] == pytest.approx(expected, abs=1e-6)
    assert db.cosines(probes, rows[:0]).shape == (0, 3)


def test_names_are_those_of_the_components(db):
    expected = [str(db.component(row)) for row in range(db.manifest.rows)]
    assert db.names() == expected
    assert db.names(np.array([20, 3])) == [expected[20], expected[3]]
    for row in (-1, db.manifest.rows):
        with pytest.raises(LayerError) as error:
            db.component(row)
        assert_says(error.value, f"Row {row}", "0 to 25", "Choose")


# -- originals --------------------------------------------------------------------------------


def test_an_original_is_the_image_of_the_data(db, images):
    for sample in (0, 17, 40):
        assert db.original(sample).tobytes() == images.read(sample).tobytes()


def test_an_original_is_read_without_listing_the_others(db, pictures, monkeypatch):
    def refuse(*_):
        raise AssertionError("the folder was listed")

    monkeypatch.setattr("os.scandir", refuse)
    assert db.original(5).mode == "RGB"


def test_originals_that_have_moved_changed_or_gone(db, pictures, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(pictures, moved)
    name = db.sample(5).path
    assert db.original(5, moved).tobytes() == db.original(5).tobytes()
    Image.new("RGB", (30, 30)).save(moved / name)
    with pytest.raises(StaleError) as error:
        db.original(5, moved)
    assert_says(error.value, name, "has changed", "Restore")
    assert db.original(6, moved).size == db.original(6).size
    (moved / name).unlink()
    with pytest.raises(DataError) as error:
        db.original(5, moved)
    assert_says(error.value, name, str(moved), "pass the current location")
    with pytest.raises(DataError) as error:
        db.original(5, tmp_path / "nowhere")
    assert_says(error.value, "nowhere", "not on this machine", "pass the current location")


def test_originals_of_python_data_are_not_there(tmp_path, pictures):
    items = [Image.new("RGB", (20 + i, 20), (i * 9, 80, 120)) for i in range(20)]
    db = sl.build(tmp_path / "db", subject_model(), items, ColourEmbedder(), ["first"], examples=3)
    assert db.original(2).tobytes() == items[2].tobytes()  # it holds what it was built from
    db = sl.open(db.path, embedder=ColourEmbedder())
    with pytest.raises(DataError) as error:
        db.original(2)
    assert_says(error.value, "python:", "not on this machine", "pass the current location")


def test_originals_of_a_hugging_face_data_set(tmp_path, pictures, monkeypatch):
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted(pictures.rglob("*.png"))[:12]]
    rows = datasets.Dataset.from_dict({"image": files}).cast_column("image", datasets.Image())
    rows.save_to_disk(tmp_path / "saved")
    images = HuggingFaceImages.load(str(tmp_path / "saved"))
    db = sl.build(tmp_path / "db", subject_model(), images, ColourEmbedder(), ["first"], examples=3)
    db = sl.open(db.path, embedder=ColourEmbedder())
    asked = []
    load = HuggingFaceImages.load.__func__
    monkeypatch.setattr(HuggingFaceImages, "load", classmethod(
        lambda cls, *given, **named: asked.append(named) or load(cls, *given, **named)
    ))  # fmt: skip
    for spec in (None, tmp_path / "saved"):
        for sample in (0, 7, 11):
            assert db.original(sample, spec).tobytes() == images.read(sample).tobytes()
    assert asked == [{"offline": True}] * 2  # once for each SPEC, not for each image
    with pytest.raises(ImageError) as error:
        images.content(12)
    assert_says(error.value, "no row 12", "12 rows", "Pass")
    rows.select(range(4)).save_to_disk(tmp_path / "short")
    with pytest.raises(DataError, match="no row 7"):
        db.original(7, tmp_path / "short")


def test_offline_does_not_ask_the_hub(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    states = []

    def load_dataset(name):
        states.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("not cached")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(DataError, match="Cannot load"):
        HuggingFaceImages.load("someone/nothing", offline=True)
    assert states == [True]
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_build_hashes_the_files_that_it_wrote(db):
    for name, digest in db.manifest.files.items():
        assert hashlib.sha256((db.path / name).read_bytes()).hexdigest() == digest
