"""Crops to boxes of the user: the rule, planted objects, what is refused, and growing data."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ColourEmbedder, LittleNet, assert_says, to_tensor, write_pictures
from PIL import Image
from test_executors import contents
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.api import make_plan
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.data.own_boxes import load_boxes
from semlens.embedders.precomputed import PrecomputedVectors
from semlens.errors import DataError, RecipeError, StaleError
from semlens.lenses.describe.database_warnings import build_command
from semlens.models.activations import LayerLayout
from semlens.models.subject import SubjectModel
from semlens.run.executors.local_processes import LocalProcesses
from semlens.run.plan import Execution
from semlens.stages.own_boxes import BoxesWarning, cell_centre
from semlens.types import Box

pytestmark = pytest.mark.filterwarnings("ignore::semlens.data.class_mapping.UnmappedWarning")
EDGES = ["x0", "y0", "x1", "y1"]
SIDE = 32


def letterbox(image):
    """Scale the longer side and pad the shorter one; return the input and where the image is."""
    width, height = (max(1, round(edge * SIDE / max(image.size))) for edge in image.size)
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    canvas = Image.new("RGB", (SIDE, SIDE))
    canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top))
    return to_tensor(canvas), (left, top, width, height)


def centre_crop(image):
    """Scale the shorter side and cut the longer one."""
    width, height = (max(SIDE, round(edge * SIDE / min(image.size))) for edge in image.size)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    return to_tensor(scaled.crop((left, top, left + SIDE, top + SIDE))), (
        -left,
        -top,
        width,
        height,
    )


def squash(image):
    return to_tensor(image), (0, 0, SIDE, SIDE)


def subject_of(prepare, net=None):
    return SubjectModel(
        net or LittleNet(), lambda image: prepare(image)[0], prepare.__name__, "python:little"
    )


def build(path, images, boxes, model=None, embedder=None, layers=("first", "second"), **settings):
    settings = {"examples": 4, "crop": "boxes", "reference": 5, "thumbnails": False, **settings}
    execution = settings.pop("execution", Execution(4, 0))
    return sl.build(
        path, model or subject_of(squash), images, embedder or ColourEmbedder(), list(layers),
        boxes=boxes, execution=execution, progress=lambda *step: None, **settings,
    )  # fmt: skip


def write(path, rows):
    """Write rows ``(image, x0, y0, x1, y1)``."""
    frame = pd.DataFrame(rows, columns=["image", *EDGES])
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


def random_boxes(images, seed=0, each=6):
    random = np.random.default_rng(seed)
    rows = []
    for i, name in enumerate(images.ids):
        width, height = images.read(i).size
        for _ in range(each):
            x, y = random.uniform(-5, width - 4), random.uniform(-5, height - 4)
            w, h = random.uniform(8, width), random.uniform(8, height)
            rows.append((name, x, y, max(x + w, 2), max(y + h, 2)))
    return rows


def shuffled(rows, images):
    """The same boxes in other images: as shares of their sizes, so that they lie inside."""
    sizes = {name: images.read(i).size for i, name in enumerate(images.ids)}
    other = dict(zip(images.ids, [*images.ids[1:], images.ids[0]], strict=True))
    moved = []
    for name, *edges in rows:
        scale = np.array(sizes[other[name]] * 2) / np.array(sizes[name] * 2)
        moved.append((other[name], *(np.array(edges) * scale).tolist()))
    return moved


def by_hand(rows, size, x, y):
    """The rule, one step after the other."""
    width, height = size
    best = None
    for x0, y0, x1, y1 in rows:
        x0, y0, x1, y1 = (int(np.floor(edge + 0.5)) for edge in (x0, y0, x1, y1))
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if not (x0 <= x < x1 and y0 <= y < y1):
            continue
        candidate = ((x1 - x0) * (y1 - y0), x0, y0, x1, y1)
        best = candidate if best is None else min(best, candidate)
    return (0, 0, width, height) if best is None else best[1:]


def peak(model, layer, index, sign, image):
    """Return the cell of the largest activation as row, column, rows, columns; None if unclear."""
    kept = []
    handle = model.module.get_submodule(layer).register_forward_hook(
        lambda *call: kept.append(call[2].clone())
    )
    with torch.no_grad():
        model.module(model.prepare(image)[None])
    handle.remove()
    activation = sign * kept[0][0, index]
    best = activation.flatten().topk(2).values
    if best[0] <= 0 or best[0] - best[1] < 1e-5:
        return None
    return (*divmod(int(activation.argmax()), activation.shape[1]), *activation.shape)


def agreement(db, model, prepare, images, rows):
    """Return the shares of examples whose box is that of the rule.

    Exactly; with a position up to a pixel away; and exactly, of those that are not whole images.
    """
    boxes_of = {}
    for name, *edges in rows:
        boxes_of.setdefault(name, []).append(edges)
    exact, near, is_whole = [], [], []
    for component in db.components.itertuples():
        for example in db.examples_of(component.Index):
            image = images.read(example.sample)
            cell = peak(model, component.layer, component.index, component.sign, image)
            if cell is None:
                continue
            row, column, height, width = cell
            left, top, w, h = prepare(image)[1]
            x = ((column + 0.5) / width * SIDE - left) * image.width / w
            y = ((row + 0.5) / height * SIDE - top) * image.height / h
            mine = boxes_of.get(images.ids[example.sample], [])
            found = {
                (dx, dy): by_hand(mine, image.size, x + dx, y + dy)
                for dx, dy in itertools.product((0, -1, 1), repeat=2)
            }
            exact.append(example.box.as_tuple() == found[0, 0])
            near.append(example.box.as_tuple() in found.values())
            is_whole.append(example.box.as_tuple() == (0, 0, *image.size))
    boxed = np.array(exact)[~np.array(is_whole)]
    assert len(boxed) > 20
    return np.mean(exact), np.mean(near), np.mean(boxed)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return ImageFolder(write_pictures(tmp_path_factory.mktemp("pictures"), 20))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::semlens.stages.own_boxes.BoxesWarning")  # peaks in the padding
@pytest.mark.parametrize("prepare", [squash, letterbox, centre_crop])
def test_the_region_is_the_smallest_box_around_the_peak(tmp_path, images, prepare):
    rows = random_boxes(images)
    model = subject_of(prepare)
    db = build(tmp_path / "db", images, write(tmp_path / "b.csv", rows), model)
    exact, near, boxed = agreement(db, model, prepare, images, rows)
    assert near == 1
    # a peak near an edge of a box may be on its other side, in the measured geometry
    assert min(exact, boxed) > 0.8
    summary = db.summary().set_index("layer")
    whole = sum(
        example.box.as_tuple() == (0, 0, *images.read(example.sample).size)
        for row in range(db.manifest.rows)
        for example in db.examples_of(row)
    )
    assert 0 < summary["without_box"].sum() <= whole
    # null: with the boxes of other images the regions are others
    assert agreement(db, model, prepare, images, shuffled(rows, images))[2] < 0.1


class Reds(nn.Module):
    """Two channels of a map: how red and how green it is."""

    def __init__(self):
        super().__init__()
        self.colours = nn.Conv2d(3, 2, 4, 4, bias=False)
        weight = torch.tensor([[1.0, -1, -1], [-1, 1, -1]])
        self.colours.weight.data = weight[:, :, None, None].expand(2, 3, 4, 4) / 16
        self.head = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.colours(x).mean((2, 3)))


def write_objects(folder, count=12):
    """A red and a green square on grey; return their boxes, and one around both."""
    random = np.random.default_rng(0)
    truth, rows = {}, []
    folder.mkdir()
    for i in range(count):
        width, height = (96, 64) if i % 2 else (60, 120)
        pixels = np.full((height, width, 3), 100, np.uint8)
        along = random.integers(0, 14, 2)
        upright = height > width
        places = [(along[0], 10), (along[1], 70)] if upright else [(8, along[0]), (56, along[1])]
        if random.random() < 0.5:
            places = places[::-1]
        name = f"{i:02d}.png"
        for (x, y), colour in zip(places, ((230, 30, 30), (30, 230, 30)), strict=True):
            pixels[y : y + 24, x : x + 24] = colour
            truth.setdefault(name, []).append((int(x), int(y), int(x) + 24, int(y) + 24))
        Image.fromarray(pixels).save(folder / name)
        rows += [(name, *box) for box in truth[name]] + [(name, 0, 0, width, height)]
    return truth, rows


@pytest.mark.parametrize("prepare", [letterbox, pytest.param(squash, marks=pytest.mark.slow)])
def test_planted_objects_are_cropped(tmp_path, prepare):
    truth, rows = write_objects(tmp_path / "images")
    images = ImageFolder(tmp_path / "images")
    model = subject_of(prepare, Reds())

    def hits(path, table):
        db = build(path, images, write(tmp_path / "b.parquet", table), model,
                   layers=["colours"], signs="positive")  # fmt: skip
        found = [
            example.box.as_tuple() == truth[images.ids[example.sample]][row]
            for row in range(2)
            for example in db.examples_of(row)
        ]
        return np.mean(found), db

    share, db = hits(tmp_path / "db", rows)
    assert share == 1
    assert db.summary()["without_box"].tolist() == [0]
    # vectors are of the crops: a component's vector is that of a plain square of its colour
    plain = [Image.new("RGB", (24, 24), c) for c in ((230, 30, 30), (30, 230, 30))]
    vectors = ColourEmbedder().embed_images(plain).numpy()
    np.testing.assert_allclose(db.theta, vectors, atol=2e-3)
    # null: boxes of other images of the same kind
    swapped = [(images.ids[(images.ids.index(name) + 2) % 12], *box) for name, *box in rows]
    assert hits(tmp_path / "null", swapped)[0] < 0.3


def test_wrong_coordinates_are_noticed(tmp_path, images):
    rows = [(name, 0, 0, 2, 2) for name in images.ids]
    file = write(tmp_path / "b.csv", rows)
    with pytest.warns(BoxesWarning, match=r"\d+ of \d+ examples of layer 'first' have no box"):
        db = build(tmp_path / "db", images, file, layers=["first"])
    assert db.summary()["without_box"][0] > 0.9 * db.summary()["components"][0]
    # a layer without positions has whole images, as it must
    with warnings.catch_warnings():
        warnings.simplefilter("error", BoxesWarning)
        db = build(tmp_path / "units", images, file, layers=["head"])
    for example in db.examples_of(0):
        assert example.box == Box(0, 0, *images.read(example.sample).size)


def test_cells():
    tokens = LayerLayout("x", "tokens", 3, 2, 3, prefix=1)
    assert cell_centre(tokens, 0) is None
    assert cell_centre(tokens, 1) == (1 / 6, 1 / 4)
    assert cell_centre(tokens, 6) == (5 / 6, 3 / 4)
    assert cell_centre(LayerLayout("x", "units", 3), 0) is None


def change(rows, row):
    return [*rows[:2], row, *rows[3:]]


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (("class0/000.png", 5, 5, 5, 9), ("Row 2", "5, 5, 5, 9", "x0 < x1")),
        (("class0/000.png", 5, 9, 8, 5), ("Row 2", "5, 9, 8, 5")),
        (("class0/000.png", 5, np.nan, 8, 9), ("Row 2", "5, nan, 8, 9")),
        (("class0/000.png", 5, 5, np.inf, 9), ("Row 2", "inf")),
        (("class0/000.png", -9, 0, -2, 9), ("Row 2", "overlaps")),
        (("000.png", 5, 5, 8, 9), ("does not have: 1, the first '000.png'", "class0/000.png")),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_bad_rows_are_refused(tmp_path, images, row, parts, suffix):
    rows = [(name, 1, 2, 20, 21) for name in images.ids]
    file = write(tmp_path / f"b{suffix}", change(rows, row))
    with pytest.raises(DataError) as error:
        build(tmp_path / "db", images, file)
    assert_says(error.value, *parts)


def test_bad_files_are_refused(tmp_path, images):
    for name, text, parts in [
        ("b.csv", "image,x0,y0,x1\na,1,2,3\n", ("lacks the columns y1",)),
        ("b.csv", "image;x0;y0;x1;y1\na;1;2;3;4\n", ("lacks the columns image",)),
        ("b.csv", "image,x0,y0,x1,y1\n", ("no rows",)),
        ("b.csv", "image,x0,y0,x1,y1\na,1,two,3,4\n", ("cannot be read", "two")),
        ("b.csv", "", ("cannot be read",)),
        ("b.parquet", "PAR1", ("cannot be read",)),
        ("b.json", "{}", (".csv or .parquet",)),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError) as error:
            load_boxes(tmp_path / name, images.ids)
        assert_says(error.value, *parts)
    name = images.ids[0]
    for rows, message in [
        ([(7, 1, 2, 3, 4)], "has the type int64 in the column 'image'.*as text"),
        ([(name, 1, 2, 3, 4), (None, 1, 2, 3, 4)], "Row 1 of .* has nothing in the column"),
        ([(name, "left", 2, 3, 4)], "other types"),
    ]:
        frame = pd.DataFrame(rows, columns=["image", *EDGES])
        frame.to_parquet(tmp_path / "b.parquet")
        with pytest.raises(DataError, match=message):
            load_boxes(tmp_path / "b.parquet", images.ids)
    frame = pd.DataFrame([(name, 1, 2, 3, 4)], columns=["image", *EDGES])
    frame.astype({"image": "category"}).to_parquet(tmp_path / "b.parquet")
    assert load_boxes(tmp_path / "b.parquet", images.ids).by_image[name].tolist() == [[1, 2, 3, 4]]
    shares = write(tmp_path / "b.csv", [(name, 0.1, 0.2, 0.5, 0.9) for name in images.ids])
    with pytest.raises(DataError, match=r"beyond 0\.9.*Multiply"):
        load_boxes(shares, images.ids)
    far = write(tmp_path / "b.csv", [(name, 900, 900, 950, 950) for name in images.ids])
    with pytest.raises(DataError, match=r"900, 900, 950, 950.*outside of the image, which has"):
        build(tmp_path / "db", images, far)
    for settings in ({"boxes": None}, {"boxes": far, "crop": "none"}):
        with pytest.raises(RecipeError, match="--boxes FILE"):
            build(tmp_path / "db", images, **settings)


def test_numbers_as_ids_and_doubled_boxes(tmp_path):
    (tmp_path / "b.csv").write_text(
        "\ufeffimage,x0,y0,x1,y1,score\n00012,3.2,4.5,9,9,.5\n00012,3,5,9,9,1\n00012,0,0,1,1,1\nNA,0,0,0.2,3,1\n"
    )
    boxes = load_boxes(tmp_path / "b.csv", ["00012", "NA", "7"])
    assert {name: found.tolist() for name, found in boxes.by_image.items()} == {
        "00012": [[0, 0, 1, 1], [3, 5, 9, 9]],
        "NA": [[0, 0, 1, 3]],  # at least one pixel
    }
    assert boxes.smallest_at("00012", 3.0, 5.0, (8, 8)) == Box(3, 5, 8, 8)
    assert boxes.smallest_at("00012", 2.9, 5.0, (8, 8)) is None
    assert boxes.smallest_at("7", 1.0, 1.0, (8, 8)) is None
    assert boxes.has("00012", Box(3, 5, 8, 8)) and not boxes.has("00012", Box(0, 0, 8, 8))


def test_the_boxes_belong_to_the_database(tmp_path, images):
    rows = random_boxes(images)
    file = write(tmp_path / "b.csv", rows)
    db = build(tmp_path / "db", images, file, layers=["first"])
    assert db.manifest.boxes.spec == str(file)
    command = build_command(sl.open(tmp_path / "db"))
    assert command is None  # of a Python object
    # the order of rows and the format are no part of the identity, the content is
    same = write(tmp_path / "same.parquet", rows[::-1])
    other = write(tmp_path / "other.csv", [*rows[:-1], (rows[-1][0], 0, 0, 9, 9)])
    model = subject_of(squash)
    keys = {
        path.name: make_plan(
            model, images, ColourEmbedder(), ["first"], crop="boxes", boxes=path
        ).embed_key("c", ["boxes"], [])
        for path in (file, same, other)
    }
    assert keys["b.csv"] == keys["same.parquet"] != keys["other.csv"]
    with pytest.raises(StaleError, match="not those of the database"):
        build(tmp_path / "db", images, other)
    db = build(tmp_path / "db", images, same)
    assert [layer.name for layer in db.manifest.layers] == ["first", "second"]
    assert sl.verify(tmp_path / "db").sound


@pytest.mark.slow
def test_vectors_of_the_same_boxes_need_no_embedder(tmp_path, images):
    """A detector that gives boxes with vectors: nothing is embedded."""
    rows = random_boxes(images)
    file = write(tmp_path / "b.csv", rows)
    plain = build(tmp_path / "plain", images, file, reference=0)
    table, seen = [], set()
    for name, *edges in rows:
        image = images.read(images.ids.index(name))
        corner = tuple(int(np.floor(edge + 0.5)) for edge in edges)
        if (name, corner) not in seen:
            clipped = (max(corner[0], 0), max(corner[1], 0),
                       min(corner[2], image.width), min(corner[3], image.height))  # fmt: skip
            vector = ColourEmbedder().embed_images([image.crop(clipped)])[0].tolist()
            table.append((name, *edges, vector))
        seen.add((name, corner))
    for i, name in enumerate(images.ids):
        vector = ColourEmbedder().embed_images([images.read(i)])[0].tolist()
        table.append((name, *[None] * 4, vector))
    frame = pd.DataFrame(table, columns=["image", *EDGES, "vector"])
    frame.to_parquet(tmp_path / "v.parquet")
    db = build(
        tmp_path / "db", images, file, embedder=PrecomputedVectors(tmp_path / "v.parquet"),
        reference=0,
    )  # fmt: skip
    np.testing.assert_array_equal(db.crop_boxes, plain.crop_boxes)
    np.testing.assert_allclose(db.theta, plain.theta, atol=2e-3)


@pytest.mark.slow
def test_workers_and_growing_data(tmp_path, images):
    more = ImageFolder(write_pictures(tmp_path / "more", 9, seed=5))
    both = sl.JoinedImages([images, more])
    first = write(tmp_path / "b.csv", random_boxes(images))
    every = write(tmp_path / "all.csv", random_boxes(both))
    settings = {"extendable": True, "thumbnails": True}
    build(tmp_path / "db", images, first, **settings)
    workers = Execution(4, 0, 4, LocalProcesses(2))
    build(tmp_path / "workers", images, first, execution=workers, **settings)
    assert contents(tmp_path / "workers") == contents(tmp_path / "db")
    options = {"model": subject_of(squash), "embedder": ColourEmbedder(),
               "execution": Execution(workers=0), "progress": lambda *step: None}  # fmt: skip
    wrong = write(tmp_path / "wrong.csv", random_boxes(both, seed=1))
    with pytest.raises(StaleError, match="some of its images have others"):
        sl.extend(tmp_path / "db", more, boxes=wrong, **options)
    sl.extend(tmp_path / "db", more, boxes=every, **options)
    build(tmp_path / "both", both, every, **settings)
    assert contents(tmp_path / "db") == contents(tmp_path / "both")


@pytest.mark.slow
def test_on_the_command_line(tmp_path, pictures):
    images = ImageFolder(pictures)
    file = write(tmp_path / "b.csv", random_boxes(images))
    arguments = [
        "build", str(tmp_path / "db"), "--model", "semlens/demo", "--data", str(pictures),
        "--embedder", "semlens/demo", "--layers", "layer3", "--examples", "2", "--reference", "0",
        "--crop", "boxes", "--boxes", str(file),
    ]  # fmt: skip
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert '"without_box"' in done.stdout
    command = build_command(sl.open(tmp_path / "db"))
    assert command is not None and f"--boxes {file}" in command and "--crop boxes" in command
    status = CliRunner().invoke(app, ["status", str(tmp_path / "db")])
    assert str(file) in status.output.replace("\n", "")
    missing = CliRunner().invoke(app, arguments[:-2])
    assert missing.exit_code == 1 and "boxes are missing" in " ".join(missing.output.split())
