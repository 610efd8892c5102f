"""Vectors of a file in place of the image tower: what is taken, computed and refused."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ColourEmbedder, LittleNet, WordEmbedder, assert_says, to_tensor, write_pictures
from PIL import Image
from test_executors import contents
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data import images as images_module
from semlens.data.image_folder import ImageFolder
from semlens.data.images import decode, upright_size
from semlens.embedders.load import embeds_texts, missing_package, needs_model
from semlens.embedders.precomputed import PrecomputedVectors, split_spec
from semlens.errors import EmbedderError, StaleError
from semlens.models.subject import SubjectModel
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.plan import Execution
from semlens.store.manifest import public_spec
from semlens.types import Box

pytestmark = pytest.mark.filterwarnings("ignore::semlens.data.class_mapping.UnmappedWarning")
LAYERS = ["first", "second"]


def write(path, rows, kind=pa.float32):
    """Write rows ``(image, vector)`` or ``(image, vector, box or None)``."""
    table = {
        "image": [row[0] for row in rows],
        "vector": pa.array([np.asarray(row[1]).tolist() for row in rows], pa.list_(kind())),
    }
    if any(len(row) > 2 for row in rows):
        boxes = [row[2] or (None,) * 4 for row in rows]
        for edge, values in zip(("x0", "y0", "x1", "y1"), zip(*boxes, strict=True), strict=True):
            table[edge] = pa.array(values, pa.float64())
    pq.write_table(pa.table(table), path)
    return path


def build(path, images, embedder, execution=None, **settings):
    settings = {"examples": 4, "crop": "none", "reference": 12, "thumbnails": False, **settings}
    model = SubjectModel(LittleNet(), to_tensor, "v", "python:little", list("abcd"))
    return sl.build(
        path, model, images, embedder, LAYERS, progress=lambda *step: None,
        execution=execution or Execution(4, 0), **settings,
    )  # fmt: skip


def vectors_of(images, seed=0, embedder=None):
    embedder = embedder or ColourEmbedder(seed)
    return embedder.embed_images([images.read(i) for i in range(len(images))])


def whole_rows(images, seed=0, noise=0.0):
    """Rows for whole images, of any length; with noise they are not what the embedder gives."""
    generator = torch.Generator().manual_seed(1)
    vectors = vectors_of(images, seed)
    vectors = vectors + noise * torch.randn(vectors.shape, generator=generator)
    scales = 10 ** torch.linspace(-3, 3, len(vectors))
    return list(zip(images.ids, (vectors * scales[:, None]).numpy(), strict=True))


def unit(rows):
    vectors = np.stack([row[1] for row in rows]).astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Counting(ColourEmbedder):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def preprocess(self, image):
        self.seen += 1
        return super().preprocess(image)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return ImageFolder(write_pictures(tmp_path_factory.mktemp("pictures"), 20))


@pytest.mark.parametrize(
    "kind",
    [
        pa.float16,
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in (pa.float32, pa.float64)),
    ],
)
def test_whole_images_have_the_vectors_of_the_file(tmp_path, images, kind, monkeypatch):
    rows = whole_rows(images, noise=0.05)
    file = write(tmp_path / "v.parquet", rows, kind)
    # the noise is far above what the storage of a vector loses
    assert np.abs(unit(rows) - vectors_of(images).numpy()).max() > 0.02
    decoded = []
    plain = images_module.decode
    monkeypatch.setattr(
        images_module, "decode", lambda data, name: decoded.append(name) or plain(data, name)
    )
    embedder = PrecomputedVectors(file)
    db = build(tmp_path / "db", images, embedder)
    assert len(decoded) == len(images)  # once, for the subject
    expected = unit(rows)
    found = db.crop_vectors.astype(np.float64)
    np.testing.assert_allclose(found, expected[db.crop_samples], atol=1.5e-3)
    samples = db.reference.samples
    np.testing.assert_allclose(db.reference.vectors, expected[samples], atol=1.5e-3)
    assert len(samples) == 12
    # with thumbnails, images are decoded for these
    drawn = build(tmp_path / "drawn", images, embedder, thumbnails=True)
    np.testing.assert_array_equal(drawn.theta, db.theta)
    assert drawn.show(drawn.component(0)).size[0] > 0


@pytest.mark.slow
def test_what_the_file_lacks_is_embedded(tmp_path, images):
    """Boxes of a first build; a half of them, and some whole images, are in the file."""
    plain = build(tmp_path / "plain", images, ColourEmbedder(), crop="activation")
    rows = [
        (images.ids[sample], -vector.astype(np.float32), tuple(box))
        for sample, vector, box in zip(
            plain.crop_samples.tolist(), plain.crop_vectors, plain.crop_boxes.tolist(), strict=True
        )
    ]
    rows += [(images.ids[i], vector) for i, vector in enumerate(-vectors_of(images).numpy())]
    rows = [(*row, None)[:3] for row in rows]
    some = rows[::2]
    inner = Counting()
    embedder = PrecomputedVectors(write(tmp_path / "v.parquet", some), inner)
    embedder.check = lambda images: None  # the vectors are negated, so that they can be told apart
    db = build(tmp_path / "db", images, embedder, crop="activation")
    in_file = {(name, box or (0, 0, *images.read(images.ids.index(name)).size))
               for name, _, box in some}  # fmt: skip
    sign = np.array([
        -1 if (images.ids[s], tuple(b)) in in_file else 1
        for s, b in zip(db.crop_samples.tolist(), db.crop_boxes.tolist(), strict=True)
    ])  # fmt: skip
    assert 0 < (sign < 0).sum() < len(sign)
    np.testing.assert_array_equal(db.crop_boxes, plain.crop_boxes)
    np.testing.assert_array_equal(db.crop_vectors * sign[:, None], plain.crop_vectors)
    whole = {(images.ids[i], (0, 0, *images.size(i))) for i in db.reference.samples.tolist()}
    crops = {
        (images.ids[s], tuple(b))
        for s, b in zip(db.crop_samples.tolist(), db.crop_boxes.tolist(), strict=True)
    }
    assert 0 < len(whole - in_file) < len(whole)
    assert inner.seen == len((whole | crops) - in_file)
    # all of them: nothing is embedded, and no embedder is needed
    alone = PrecomputedVectors(write(tmp_path / "all.parquet", rows))
    db = build(tmp_path / "all", images, alone, crop="activation")
    np.testing.assert_array_equal(db.crop_vectors, -plain.crop_vectors)


@pytest.mark.slow
def test_missing_vectors_are_counted(tmp_path, images):
    rows = whole_rows(images)
    few = PrecomputedVectors(write(tmp_path / "few.parquet", rows[3:]))
    with pytest.raises(EmbedderError) as error:
        build(tmp_path / "db", images, few, reference=20)
    assert_says(error.value, "lacks the vectors of 3 of 20", images.ids[0], ":EMBEDDER")
    # it is found before anything is embedded, and complete vectors resume the build
    collected = sorted((tmp_path / "db" / "partial").glob("collect-*"))
    stamps = [file.stat().st_mtime_ns for file in collected]
    every = PrecomputedVectors(write(tmp_path / "all.parquet", rows))
    steps = []
    build(tmp_path / "db2", images, every, reference=20)
    model = SubjectModel(LittleNet(), to_tensor, "v", "python:little", list("abcd"))
    sl.build(
        tmp_path / "db", model, images, every, LAYERS, execution=Execution(4, 0), examples=4,
        crop="none", reference=20, thumbnails=False,
        progress=lambda stage, done, total: steps.append(stage),
    )  # fmt: skip
    assert stamps and contents(tmp_path / "db") == contents(tmp_path / "db2")
    # crops: the shard says it
    with pytest.raises(EmbedderError, match=r"lacks the vectors of \d+ of .* the crop \(") as error:
        build(tmp_path / "crops", images, every, crop="activation")
    assert "--crop none" in error.value.remedy


def test_other_vectors_are_refused(tmp_path, images):
    rows = whole_rows(images)
    right = write(tmp_path / "right.parquet", rows, pa.float16)
    db = build(tmp_path / "db", images, PrecomputedVectors(right, WordEmbedder()))
    # its texts are those of the embedder
    texts = [embedder.embed_texts(["red"]) for embedder in (db.embedder, WordEmbedder())]
    torch.testing.assert_close(*texts)

    def rotated(some):
        return [(name, row[1]) for (name, _), row in zip(some, [*some[1:], some[0]], strict=True)]

    wrong = {
        "another": whole_rows(images, seed=1),
        "shuffled": rotated(rows),
        "a half shuffled": [*rows[:10], *rotated(rows[10:])],
    }
    for number, (name, others) in enumerate(wrong.items()):
        file = write(tmp_path / f"{number}.parquet", others)
        with pytest.raises(EmbedderError, match="differs from .* of 16 images") as error:
            PrecomputedVectors(file, ColourEmbedder()).check(images)
        assert "python:colours" in error.value.value, name
        build(
            tmp_path / f"alone{number}", images, PrecomputedVectors(file)
        )  # in itself it is sound
    with pytest.raises(EmbedderError, match="differs from .* of 16 images"):
        build(tmp_path / "refused", images, PrecomputedVectors(file, ColourEmbedder()))
    narrow = write(tmp_path / "narrow.parquet", [(name, vector[:7]) for name, vector in rows])
    with pytest.raises(EmbedderError, match=r"have 7 numbers, those of 'python:colours' 24"):
        PrecomputedVectors(narrow, ColourEmbedder())


def test_a_jpeg_in_between_is_accepted(tmp_path, images):
    def compressed(image):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=75)
        return Image.open(buffer).convert("RGB")

    pictures = [compressed(images.read(i)) for i in range(len(images))]
    vectors = ColourEmbedder().embed_images(pictures).half().float()
    assert (vectors - vectors_of(images)).abs().max() > 1e-3
    file = write(tmp_path / "v.parquet", list(zip(images.ids, vectors.numpy(), strict=True)))
    PrecomputedVectors(file, ColourEmbedder()).check(images)


def bad(rows, **change):
    """Return rows of which the third is changed."""
    name, vector, *box = rows[2]
    row = (change.get("image", name), change.get("vector", vector), change.get("box", None))
    return [*((r[0], r[1], None) for r in rows[:2]), row, *((r[0], r[1], None) for r in rows[3:])]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"vector": np.zeros(24)}, ("Row 2", "only zeros", "class0/004.png")),
        ({"vector": np.full(24, np.nan)}, ("Row 2", "not finite")),
        ({"vector": [np.inf] * 24}, ("Row 2", "not finite")),
        ({"vector": [1e200] * 23}, ("Row 2", "23 numbers", "as many in every row")),
        ({"vector": []}, ("Row 2", "0 numbers")),
        ({"image": "class0/000.png"}, ("Rows 0 and 2", "same part", "'class0/000.png'")),
        ({"image": "class0/nothere.png"}, ("the data does not have: 1, the first", "nothere")),
        ({"box": (5, 5, 5, 9)}, ("Row 2", "5, 5, 5, 9", "x0 < x1")),
        ({"box": (5, None, 7, 9)}, ("Row 2", "5, nan, 7, 9")),
        ({"box": (-9, 0, -2, 9)}, ("Row 2", "overlaps")),
        ({"box": (0.1, 0.1, 0.6, 0.9)}, ("beyond 0.9", "Multiply")),
    ],
)
def test_bad_rows_are_refused(tmp_path, images, change, parts):
    file = write(tmp_path / "v.parquet", bad(whole_rows(images), **change), pa.float64)
    with pytest.raises(EmbedderError) as error:
        build(tmp_path / "db", images, PrecomputedVectors(file))
    assert_says(error.value, *parts)


def test_boxes_outside_of_their_images_are_refused(tmp_path, images):
    rows = [(*row, (2000, 3000, 2010, 3010)) for row in whole_rows(images)]
    file = write(tmp_path / "v.parquet", rows)
    with pytest.raises(EmbedderError, match="2000, 3000, 2010, 3010.*outside"):
        PrecomputedVectors(file, ColourEmbedder()).check(images)


def test_bad_files_are_refused(tmp_path):
    for frame, parts in [
        ({"image": ["a"], "embedding": [[1.0]]}, ("lacks the columns vector",)),
        ({"image": ["a"], "vector": [[1.0]], "x0": [1.0]}, ("lacks the columns y0, x1, y1",)),
        ({"image": ["a"], "vector": [1.0]}, ("type double", "lists of floats")),
        ({"image": ["a"], "vector": [["b"]]}, ("lists of floats",)),
        ({"image": [7], "vector": [[1.0]]}, ("type int64", "as text")),
        ({"image": ["a", None], "vector": [[1.0], [1.0]]}, ("Row 1", "nothing")),
        ({"image": [], "vector": pa.array([], pa.list_(pa.float32()))}, ("no rows",)),
    ]:
        pq.write_table(pa.table(frame), tmp_path / "v.parquet")
        with pytest.raises(EmbedderError) as error:
            PrecomputedVectors(tmp_path / "v.parquet")
        assert_says(error.value, *parts)
    (tmp_path / "v.parquet").write_bytes(b"PAR1 or not")
    for file in ("v.parquet", "none.parquet"):
        with pytest.raises(EmbedderError, match="cannot be read"):
            PrecomputedVectors(tmp_path / file)


def test_rows_beyond_one_batch(tmp_path, monkeypatch):
    """Rows are converted in parts; row numbers and lengths count over all of them."""
    monkeypatch.setattr("semlens.embedders.vector_file._ROWS", 10)
    rows = [(str(i), [1.0, float(i)], None) for i in range(37)]
    embedder = PrecomputedVectors(write(tmp_path / "v.parquet", rows))
    for i in (0, 9, 10, 36):
        vector = embedder.precomputed(str(i), Box(0, 0, 5, 5), (5, 5))
        np.testing.assert_allclose(vector.float(), np.array([1, i]) / np.hypot(1, i), atol=1e-3)
    with pytest.raises(EmbedderError, match="Row 23 .*image '23'"):
        PrecomputedVectors(write(tmp_path / "w.parquet", [
            (str(i), [0.0] if i == 23 else [1.0]) for i in range(37)
        ]))  # fmt: skip
    with pytest.raises(EmbedderError, match="2 numbers, not 1"):
        PrecomputedVectors(write(tmp_path / "x.parquet", [
            (str(i), [1.0] * (1 + (i >= 20))) for i in range(37)
        ]))  # fmt: skip


def test_boxes_are_clipped_and_rounded(tmp_path):
    rows = [
        ("a", [1.0, 0.0], (-3.2, 1.4, 4.6, 99)),
        ("a", [0.0, 1.0], (-10, -10, 50, 50)),
        ("b", [1.0, 1.0], None),
    ]
    embedder = PrecomputedVectors(write(tmp_path / "v.parquet", rows))
    first = embedder.precomputed("a", Box(0, 1, 5, 20), (30, 20))
    assert first.tolist() == [1, 0]
    # a box that covers all of the image is the whole image
    assert embedder.precomputed("a", Box(0, 0, 30, 20), (30, 20)).tolist() == [0, 1]
    assert embedder.precomputed("a", Box(0, 1, 5, 19), (30, 20)) is None
    assert embedder.precomputed("b", Box(0, 0, 5, 5), (30, 20)) is None
    assert embedder.precomputed("c", Box(0, 0, 30, 20), (30, 20)) is None


@pytest.mark.slow
def test_a_database_loads_them_again(tmp_path, images, monkeypatch):
    vectors = vectors_of(images, embedder=sl.load_embedder("semlens/demo"))
    rows = list(zip(images.ids, vectors.numpy(), strict=True))
    write(tmp_path / "v.parquet", rows)
    monkeypatch.chdir(tmp_path)
    build("db", images, "vectors/v.parquet:semlens/demo")
    spec = f"vectors/{tmp_path / 'v.parquet'}:semlens/demo"
    monkeypatch.chdir("/")
    db = sl.open(tmp_path / "db")
    assert db.manifest.embedder.spec == spec == db.embedder.spec
    assert db.embedder.embed_texts(["red"]).shape == (1, db.manifest.dim)
    plain = build(tmp_path / "plain", images, "semlens/demo")
    assert plain.manifest.embedder.fingerprint != db.manifest.embedder.fingerprint
    np.testing.assert_allclose(plain.theta, db.theta, atol=2e-3)
    # a file that has changed is another embedder, one that has moved is not
    (tmp_path / "v.parquet").rename(tmp_path / "w.parquet")
    with pytest.raises(EmbedderError, match="cannot be read"):
        build(tmp_path / "db", images, spec)
    # the file is not needed to ask
    assert sl.open(tmp_path / "db").embedder.has_text
    assert sl.open(tmp_path / "db", embedder="semlens/demo").embedder.spec == "semlens/demo"
    moved = f"vectors/{tmp_path / 'w.parquet'}:semlens/demo"
    assert sl.open(tmp_path / "db", embedder=moved).embedder.has_text
    write(tmp_path / "v.parquet", rows[1:])
    with pytest.raises(StaleError, match="fingerprint differs"):
        _ = sl.open(tmp_path / "db").embedder


def test_without_the_embedder_there_are_no_texts(tmp_path, images):
    file = write(tmp_path / "v.parquet", whole_rows(images))
    db = build(tmp_path / "db", images, f"vectors/{file}")
    assert not db.embedder.has_text
    with pytest.raises(EmbedderError, match="no text tower"):
        db.search("red")
    with pytest.raises(EmbedderError, match="cannot embed other images") as error:
        db.search(images=[images.read(0)])
    assert_says(error.value, "vectors/FILE.parquet:EMBEDDER")
    assert db.scores().frame["clarity"].notna().any()


def test_specs():
    assert split_spec("vectors/a/b.parquet") == ("a/b.parquet", None)
    assert split_spec("vectors//a=b/c.parquet:open_clip/X//w.pt") == (
        "/a=b/c.parquet", "open_clip/X//w.pt",
    )  # fmt: skip
    assert split_spec(r"vectors/C:\v.parquet:self:layer3") == (r"C:\v.parquet", "self:layer3")
    for spec in ("vectors/a.csv", "vectors/", "vectors/a.parquet=semlens/demo",
                 "vectors/a.parquet:", "vectors/a.parquet:vectors/b.parquet"):  # fmt: skip
        with pytest.raises(EmbedderError):
            split_spec(spec)
        with pytest.raises(EmbedderError):
            sl.load_embedder(spec)
    assert needs_model("vectors/a.parquet:self:x") and not needs_model("vectors/a.parquet")
    assert embeds_texts("vectors/a.parquet:semlens/demo") and not embeds_texts("vectors/a.parquet")
    assert not embeds_texts("vectors/a.csv") and missing_package("vectors/a.parquet") is None
    assert public_spec("vectors//home/ada/v.parquet:open_clip/X//home/ada/w.pt") == (
        "vectors/v.parquet:open_clip/X/w.pt"
    )


@pytest.mark.slow
def test_questions_need_the_embedder_and_not_the_file(tmp_path, images):
    file = write(tmp_path / "v.parquet", whole_rows(images))
    build(tmp_path / "db", images, PrecomputedVectors(file, WordEmbedder()), extendable=True)
    build(tmp_path / "alone", images, f"vectors/{file}")
    file.unlink()
    db = sl.open(tmp_path / "db", embedder=WordEmbedder())
    assert db.search("red", top=2).hits
    assert db.search(images=[images.read(0)], top=2).hits
    # another embedder, which is of another seed, is refused
    with pytest.raises(StaleError, match="fingerprint differs"):
        sl.open(tmp_path / "db", embedder=WordEmbedder(1))
    with pytest.raises(EmbedderError, match="cannot be read"):
        _ = sl.open(tmp_path / "alone").embedder
    # what would be built without the file would have other vectors
    model = SubjectModel(LittleNet(), to_tensor, "v", "python:little", list("abcd"))
    more = ImageFolder(write_pictures(tmp_path / "more", 3, seed=5))
    with pytest.raises(EmbedderError, match="file of vectors .* is missing"):
        sl.extend(tmp_path / "db", more, model=model, embedder=WordEmbedder(),
                  execution=Execution(workers=0))  # fmt: skip


@pytest.mark.slow
def test_workers_and_extensions_use_them(tmp_path, images):
    rows = whole_rows(images, noise=0.01)
    file = write(tmp_path / "v.parquet", rows[::2])
    embedder = PrecomputedVectors(file, ColourEmbedder())
    settings = {"crop": "none", "extendable": True, "thumbnails": True}
    build(tmp_path / "db", images, embedder, **settings)
    build(tmp_path / "workers", images, embedder, Execution(4, 0, 4, LocalProcesses(2)), **settings)
    assert contents(tmp_path / "workers") == contents(tmp_path / "db")
    # what is added has no vectors in the file
    more = ImageFolder(write_pictures(tmp_path / "more", 9, seed=5))
    both = sl.JoinedImages([images, more])
    build(tmp_path / "both", both, embedder, **settings)
    model = SubjectModel(LittleNet(), to_tensor, "v", "python:little", list("abcd"))
    sl.extend(
        tmp_path / "db", more, model=model, embedder=embedder, execution=Execution(workers=0),
        progress=lambda *step: None,
    )  # fmt: skip
    assert contents(tmp_path / "db") == contents(tmp_path / "both")


@pytest.mark.slow
def test_on_the_command_line(tmp_path, pictures):
    images = ImageFolder(pictures)
    frame = pd.DataFrame({"image": list(images.ids), "vector": list(vectors_of(images).numpy())})
    frame.to_parquet(tmp_path / "v.parquet")  # as pandas writes it
    arguments = [
        "build", str(tmp_path / "db"), "--model", "semlens/demo", "--data", str(pictures),
        "--embedder", f"vectors/{tmp_path / 'v.parquet'}", "--layers", "layer3", "--crop", "none",
        "--examples", "2", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    wrong = CliRunner().invoke(app, [*arguments[:7], "vectors/v.csv", *arguments[8:]])
    assert wrong.exit_code == 1 and "names no file of vectors" in wrong.output


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "JPEG2000", "ICO"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_size_is_that_of_the_decoded_image(kind, orientation):
    image = Image.fromarray(np.zeros((20, 48, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "TIFF") else {}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    data = buffer.getvalue()
    assert upright_size(data, "x") == decode(data, "x").size
    if options:
        assert upright_size(data, "x") == ((20, 48) if orientation == 6 else (48, 20))
