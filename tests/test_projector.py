"""The folder for TensorBoard's projector, as TensorBoard itself serves it."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from conftest import assert_says
from PIL import Image
from tensorboard import default, program
from typer.testing import CliRunner
from werkzeug.test import Client

import semlens as sl
from semlens.cli.app import app
from semlens.draw.example_picture import example_picture
from semlens.errors import LayerError


def serve(folder) -> Client:
    """The whole application of ``tensorboard --logdir FOLDER``, without its port."""
    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(logdir=str(folder), load_fast="false")
    return Client(board._make_server().app)


@pytest.fixture
def db(tmp_path, subject, images, words):
    """A database with labels, some of them with characters that end a cell."""
    database = sl.build(
        tmp_path / "db", subject, images, words, ["first", "second"], examples=3, crop="activation"
    )
    labels = database.label(["ox", "green\tleaf", 'a "sign"'], threshold=-1.0)
    labels.save_to_database("mine")
    return database


def test_tensorboard_serves_vectors_labels_and_crops(db, tmp_path):
    written = db.save_projector(tmp_path / "board")
    rows = np.flatnonzero(db.has_examples)
    assert (written.components, written.dim) == (len(rows), db.manifest.dim)
    assert written.labels == "saved:mine"

    client = serve(tmp_path / "board")
    get = f"/data/plugin/projector/{{}}?run=.&name={db.name}".format
    assert client.get("/data/plugin/projector/runs").json == ["."]
    (entry,) = client.get(get("info")).json["embeddings"]
    assert entry["tensorName"] == db.name
    assert entry["tensorShape"] == [len(rows), db.manifest.dim]
    side = entry["sprite"]["singleImageDim"]
    assert side == [written.crop, written.crop]

    vectors = np.frombuffer(client.get(get("tensor")).data, np.float32)
    assert (vectors.reshape(len(rows), -1) == np.asarray(db.theta)[rows]).all()  # to the bit

    table = pd.read_csv(io.StringIO(client.get(get("metadata")).text), sep="\t", quoting=3)
    assert table["component"].tolist() == db.names(rows)
    said = {word.removeprefix("mixed: ") for text in table["label"] for word in text.split(", ")}
    assert said <= {"ox", "green leaf", "a 'sign'", "none", "mixed"}
    assert table["layer"].tolist() == db.components["layer"].iloc[rows].tolist()
    assert np.allclose(table["maximum"], db.components["maximum"].iloc[rows])

    # the page cuts the sprite row by row, into as many columns as there is room for
    sprite = Image.open(io.BytesIO(client.get(get("sprite_image")).data))
    columns = sprite.width // written.crop
    for place in (0, columns, len(rows) - 1):
        x, y = place % columns * written.crop, place // columns * written.crop
        cell = sprite.crop((x, y, x + written.crop, y + written.crop))
        example = db.examples_of(int(rows[place]), 1)[0]
        expected = example_picture(db, example, written.crop)
        assert (np.asarray(cell) == np.asarray(expected)).all()


def test_the_command_writes_some_layers_without_crops(db, tmp_path):
    folder = tmp_path / "board"
    arguments = [
        "db",
        "projector",
        db.path,
        "--out",
        folder,
        "--layer",
        "first",
        "--no-crops",
        "--json",
    ]
    ended = CliRunner().invoke(app, [*map(str, arguments)])
    assert ended.exit_code == 0, ended.output
    printed = json.loads(ended.stdout)
    first = int(db.has_examples[db.rows("first")].sum())
    assert printed["components"] == first
    (entry,) = serve(folder).get("/data/plugin/projector/info?run=.").json["embeddings"]
    assert entry["tensorShape"][0] == first
    assert "sprite" not in entry
    assert {path.name for path in folder.iterdir()} == {
        "projector_config.pbtxt", "vectors.tsv", "metadata.tsv",
    }  # fmt: skip


def test_a_layer_that_there_is_not_is_refused(db, tmp_path):
    with pytest.raises(LayerError) as error:
        db.save_projector(tmp_path / "board", ["third"])
    assert_says(error.value, "'third'", "It has", "Choose one of them")
    assert not (tmp_path / "board").exists()
