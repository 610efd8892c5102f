"""Data and databases in an object store or on a web server: the same bytes, and no more than asked.

The store is moto's S3 server, see ``object_store.py``; nothing beyond loopback is contacted.
"""

from __future__ import annotations

import functools
import io
import json
import pickle
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import assert_says, write_pictures
from object_store import BUCKET, ObjectStore, object_store  # noqa: F401  # a fixture

import semlens as sl
from semlens.data.huggingface import StreamedImages
from semlens.data.load import load_images
from semlens.data.verified_images import content_digests
from semlens.errors import DataError, StaleError
from semlens.remote_files import remote_url

COUNT = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("remote"), COUNT)


@pytest.fixture(scope="module")
def store(object_store: ObjectStore, folder: Path) -> ObjectStore:  # noqa: F811
    object_store.upload(folder, "photos")
    return object_store


@pytest.fixture(scope="module")
def web_folder(folder: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Write nothing."""


def paths_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def tar_shards(folder: Path, target: Path, count: int = 3) -> Path:
    """Write the pictures of a folder in turn into archives, as WebDataset's writer does."""
    target.mkdir(parents=True)
    for number in range(count):
        with tarfile.open(target / f"part-{number:02d}.tar", "w") as tar:
            for path in paths_of(folder)[number::count]:
                tar.add(path, path.relative_to(folder).as_posix())
    return target


def parquet_parts(folder: Path, target: Path, *, struct: bool) -> Path:
    """Write the pictures of a folder as two Parquet files of small row groups."""
    target.mkdir(parents=True)
    rows = [(p.relative_to(folder).as_posix(), p.read_bytes()) for p in paths_of(folder)]
    for number, part in enumerate((rows[:9], rows[9:])):
        names, contents = (list(values) for values in zip(*part, strict=True))
        if struct:
            cells = [{"bytes": c, "path": n} for n, c in part]
            table = pa.table({"image": cells})
        else:
            table = pa.table({"path": names, "jpg": contents})
        pq.write_table(table, target / f"{number}.parquet", row_group_size=4)
    return target


def source(kind: str, folder: Path, tmp: Path, store: ObjectStore, web: str) -> str:
    """Return the SPEC of the pictures, written in one of the ways."""
    if kind == "s3":
        return f"s3://{BUCKET}/photos"
    if kind == "http":
        return web + "/"
    if kind.startswith("tar"):
        shards = tar_shards(folder, tmp / "shards")
        where = store.upload(shards, "shards") if kind == "tar on s3" else str(shards)
        return f"wds:{where}/part-{{00..02}}.tar"
    parts = parquet_parts(folder, tmp / kind, struct=kind == "parquet of structs")
    return f"{store.upload(parts, kind) if kind == 'parquet on s3' else parts}/*.parquet"


def build(path: Path, data: object, subject, embedder) -> Path:
    settings = {"examples": 3, "crop": "activation", "reference": 4}
    sl.build(path, subject, data, embedder, ["first", "second"], **settings)
    return path


def content_of(database: Path) -> dict[str, bytes]:
    """Return the bytes of all files; the manifest without the SPEC of the data."""
    files = {
        p.relative_to(database).as_posix(): p.read_bytes()
        for p in database.rglob("*") if p.is_file() and p.name != ".lock"
    }  # fmt: skip
    manifest = json.loads(files["manifest.json"])
    manifest["data"].pop("spec")
    return {**files, "manifest.json": json.dumps(manifest).encode()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [
    "s3", "http", "tar", "tar on s3", "parquet of structs", "parquet on s3",
])  # fmt: skip
def test_the_database_is_that_of_the_folder(
    kind, folder, tmp_path, subject, embedder, store, web_folder
):
    spec = source(kind, folder, tmp_path, store, web_folder)
    local = build(tmp_path / "local", folder, subject, embedder)
    other = build(tmp_path / "other", spec, subject, embedder)
    assert content_of(local) == content_of(other)
    for_worker = pickle.loads(pickle.dumps(load_images(spec)))
    assert for_worker.content(1) == paths_of(folder)[1].read_bytes()
    given = spec if kind == "http" else None
    db = sl.open(other, images=given)
    for sample in (COUNT - 1, 0):
        assert db.images.read(sample).tobytes() == sl.open(local).images.read(sample).tobytes()
    if kind == "http":  # a database must not choose which servers are contacted
        with pytest.raises(DataError, match="does not decide"):
            sl.open(other).images.read(0)


def test_a_stream_gives_the_database_of_its_rows(folder, tmp_path, subject, embedder):
    contents = [path.read_bytes() for path in paths_of(folder)]
    local = build(tmp_path / "local", contents, subject, embedder)
    parts = parquet_parts(folder, tmp_path / "parts", struct=False)
    stream = datasets.load_dataset(
        "parquet", data_files=str(parts / "*.parquet"), streaming=True, split="train"
    )
    stream = stream.cast_column("jpg", datasets.Image()).select_columns(["jpg"])
    streamed = StreamedImages(stream)
    other = build(tmp_path / "other", streamed, subject, embedder)
    assert content_of(local) == content_of(other)
    assert pickle.loads(pickle.dumps(streamed)).content(2) == contents[2]
    assert streamed.content(3) == contents[3]  # from the start again


def test_a_folder_can_be_streamed_by_its_spec(folder):
    images = load_images(f"streaming:datasets/{folder}:train")
    assert images.spec == f"streaming:datasets/{folder}:train"
    assert [images.content(i) for i in range(COUNT)] == [p.read_bytes() for p in paths_of(folder)]
    assert images.targets is not None
    assert list(images.targets) == [path.parent.name for path in paths_of(folder)]


@pytest.mark.slow
def test_requests_overlap_and_each_image_is_asked_for_once(store):
    images = load_images(f"s3://{BUCKET}/photos")
    store.gets.clear()
    store.latency = 0.1
    begin = time.perf_counter()
    digests = list(content_digests(images, workers=1))
    seconds = time.perf_counter() - begin
    store.latency = 0.0
    assert all(digests)
    assert len(store.gets) == COUNT
    assert seconds < COUNT * 0.1 / 2, "one round trip after another"


@pytest.mark.slow
def test_an_image_that_changes_during_a_build_is_found(store, folder, tmp_path, subject, embedder):
    url = store.upload(folder, "changing")
    changed = paths_of(folder)[0]

    class Changing(type(load_images(url))):  # the object is replaced once all were hashed
        reads = 0

        def content(self, sample: int) -> bytes:
            Changing.reads += 1
            if Changing.reads == COUNT + 1:
                key = f"changing/{changed.relative_to(folder).as_posix()}"
                body = paths_of(folder)[1].read_bytes()
                store.client.put_object(Bucket=BUCKET, Key=key, Body=body)
            return super().content(sample)

    with pytest.raises(StaleError, match=r"1 images .* class0/000\.png"):
        build(tmp_path / "db", Changing(url), subject, embedder)


# -- hostile and mistaken inputs ------------------------------------------------------------


def archive(path: Path, *names: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "/etc/passwd", 3 * (kind == b"0")
            tar.addfile(info, io.BytesIO(b"abc"))
    return path


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "a/../../x.png", "\udcff.png"])
def test_odd_names_in_an_archive_are_refused(tmp_path, name):
    with pytest.raises(DataError) as error:
        load_images(archive(tmp_path / "odd.tar", "ok.png", name))
    assert_says(error.value, "odd.tar", "relative names", "Rename it")


def test_members_without_content_of_their_own_are_unreadable(tmp_path):
    images = load_images(archive(tmp_path / "l.tar", "x.png", kind=tarfile.SYMTYPE))
    with pytest.raises(sl.errors.ImageError, match="not plain data"):
        images.content(0)


def test_an_archive_that_lies_or_is_cut_is_refused(folder, tmp_path):
    whole = (tar_shards(folder, tmp_path / "one", 1) / "part-00.tar").read_bytes()
    offsets = tarfile.open(fileobj=io.BytesIO(whole)).getmembers()
    size = bytearray(whole)
    info = offsets[4]
    header = info.tobuf(tarfile.GNU_FORMAT)
    info.size = 10**12
    size[info.offset : info.offset + 512] = info.tobuf(tarfile.GNU_FORMAT)[:512]
    negative = bytearray(whole)
    info.size = -(10**4)
    negative[info.offset : info.offset + 512] = info.tobuf(tarfile.GNU_FORMAT)[:512]
    damaged = bytearray(whole)
    damaged[info.offset + 3] ^= 1
    cases = {
        "size": size, "negative": negative, "damaged": damaged,
        "inside": whole[: offsets[5].offset_data + 7], "between": whole[: offsets[5].offset],
        "header": whole[: offsets[5].offset + 100], "empty": b"", "text": b"no archive" * 200,
    }  # fmt: skip
    assert len(header) == 512
    for name, content in cases.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"'{name}.tar'"):
            load_images(path)


def test_names_that_repeat_get_the_name_of_their_archive(folder, tmp_path):
    for name in ("a", "b"):
        archive(tmp_path / f"{name}.tar", "x.png", ".hidden.png", "./y.jpg", "notes.txt")
    images = load_images(f"{tmp_path}/{{a,b}}.tar")
    assert list(images.ids) == ["a.tar/x.png", "a.tar/y.jpg", "b.tar/x.png", "b.tar/y.jpg"]
    with pytest.raises(DataError, match="'x.png' occurs 2 times"):
        load_images(archive(tmp_path / "twice.tar", "x.png", "x.png"))
    with pytest.raises(DataError, match="names 999999999 files"):
        load_images(f"wds:{tmp_path}/{{1..999999999}}.tar")


def test_classes_of_webdataset(folder, tmp_path):
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        for number, path in enumerate(paths_of(folder)[:3]):
            tar.add(path, f"{number:05d}.png")
            label = tarfile.TarInfo(f"{number:05d}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(str(number % 2).encode()))
    assert load_images(tmp_path / "c.tar").targets == ["0", "1", "0"]


def test_parquet_files_that_are_damaged_or_have_no_images(folder, tmp_path):
    part = parquet_parts(folder, tmp_path / "p", struct=False) / "0.parquet"
    whole = part.read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-40])
    (tmp_path / "pages.parquet").write_bytes(whole[:4] + b"\xff" * 3000 + whole[3004:])
    pq.write_table(pa.table({"a": [b"x"], "b": [b"y"]}), tmp_path / "two.parquet")
    cell = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    paths = pa.array([{"bytes": None, "path": "/etc/passwd"}], cell)
    pq.write_table(pa.table({"image": paths}), tmp_path / "path.parquet")
    for name in ("cut", "two"):
        with pytest.raises(DataError, match=f"{name}.parquet"):
            load_images(tmp_path / f"{name}.parquet")
    with pytest.raises((sl.errors.ImageError, DataError), match="pages.parquet"):
        load_images(tmp_path / "pages.parquet").content(0)
    with pytest.raises(sl.errors.ImageError, match="has no bytes"):
        load_images(tmp_path / "path.parquet").content(0)


def test_urls(monkeypatch):
    assert remote_url(Path("s3://b/x/")) == "s3://b/x" == remote_url("s3://b/x")
    assert remote_url("C:/images") is remote_url("images") is remote_url("ssh://host/x") is None
    with pytest.raises(DataError, match="of 'host/x' has a password|has a password"):
        load_images("http://user:secret@127.0.0.1:1/x")
    with pytest.raises(DataError, match="has a query"):
        load_images("http://127.0.0.1:1/x?token=1")
    with pytest.raises(DataError, match="network"):
        load_images("http://127.0.0.1:1/x")

    def missing(protocol: str) -> None:
        raise ImportError(f"Please install {protocol}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(DataError, match="pip install gcsfs"):
        load_images("gs://bucket/photos")
