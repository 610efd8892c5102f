"""What results and databases show in a notebook: pictures and tables, safe and bounded."""

from __future__ import annotations

import base64
import html
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import VEGETABLES, LittleNet, build_vegetables, to_tensor
from PIL import Image
from rich.console import Group
from rich.panel import Panel
from rich.text import Text

import semlens as sl
from semlens.draw.figure import new_figure
from semlens.draw.html import CARDS
from semlens.draw.notebook_html import ROWS, SVG_BYTES
from semlens.draw.text_table import rich_table
from semlens.errors import StaleError
from semlens.lenses.result import Result
from semlens.models.subject import SubjectModel

BAD = "<script>alert('x')</script> & [bold]"


@dataclass(frozen=True, repr=False)
class Answer(Result):
    """An answer with a hostile name, as many rows as asked for, and any kind of picture."""

    rows: int = 3
    picture: str = "chart"

    @property
    def table(self) -> pd.DataFrame:
        names = [f"{i} {BAD}" for i in range(self.rows)]
        return pd.DataFrame({"name": names, "score": np.linspace(0, 1, self.rows)})

    def to_json(self):
        return {}

    def plot(self):
        if self.picture == "broken":
            raise StaleError("The image <b> has changed.", "Expected it.", "Restore it.")
        if self.picture == "image":
            return Image.new("RGBA", (5000, 100), (255, 0, 0, 255))
        figure, (axes,) = new_figure(2.0, 1.5)
        points = 20_000 if self.picture == "points" else 3
        axes.plot(range(points), np.random.default_rng(0).random(points), ".")
        return figure

    def __rich__(self):
        table = rich_table(self.table, f"title {BAD}")
        return Group(table, Text(f"line {BAD}"), Panel(Text(f"box {BAD}")))


def pictures(text: str) -> list[tuple[str, bytes]]:
    found = re.findall(r'src="data:image/([a-z+]+);base64,([^"]+)"', text)
    assert len(found) == text.count("<img"), "a picture is not embedded"
    return [(kind, base64.b64decode(data)) for kind, data in found]


def table_of(text: str) -> pd.DataFrame:
    """Return the first table of a page, as cells of text."""
    table = text[text.index("<table") : text.index("</table>")]
    rows = [
        [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row)]
        for row in re.findall(r"<tr>.*?</tr>", table, re.S)
    ]
    return pd.DataFrame(rows[1:], columns=rows[0])


def test_a_result_is_its_picture_and_what_is_printed():
    text = Answer()._repr_html_()
    ((kind, svg),) = pictures(text)
    assert kind == "svg+xml" and svg.startswith(b"<svg")
    frame = table_of(text)
    assert frame["name"].tolist() == [f"{i} {BAD}" for i in range(3)]
    assert frame["score"].tolist() == ["0.000", "0.500", "1.000"]
    for part in ("title", "line", "box"):
        assert f"{part} &lt;script&gt;" in text
    assert "<script" not in text and "http://" not in text and "https://" not in text


def test_size_is_bounded():
    many = Answer(rows=3000)._repr_html_()
    assert len(table_of(many)) == ROWS
    assert f"{3000 - ROWS} more rows" in many
    ((kind, data),) = pictures(Answer(picture="points")._repr_html_())
    assert kind == "webp" and len(data) < SVG_BYTES  # 20,000 markers as SVG are megabytes
    ((_, data),) = pictures(Answer(picture="image")._repr_html_())
    assert Image.open(io.BytesIO(data)).size == (2000, 40)


def test_a_picture_that_fails_leaves_the_table():
    text = Answer(picture="broken")._repr_html_()
    assert "The image &lt;b&gt; has changed." in text
    assert len(table_of(text)) == 3


@dataclass(frozen=True, repr=False)
class Broken(Answer):
    def _html(self):
        raise RuntimeError(f"no thumbnails {BAD}")


def test_html_that_fails_leaves_the_text():
    text = Broken()._repr_html_()
    assert "RuntimeError: no thumbnails &lt;script&gt;" in text
    assert "title" in text and "<script" not in text


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> sl.ConceptDatabase:
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", VEGETABLES)
    return build_vegetables(tmp_path_factory.mktemp("notebook"), model)


def test_a_database_says_what_it_is_made_of(db):
    text = db._repr_html_()
    m = db.manifest
    for value in (db.location, m.model.spec, m.data.spec, m.embedder.spec, "24 of"):
        assert html.escape(str(value)) in text
    frame = table_of(text)
    assert frame["layer"].tolist() == ["first", "second"]
    assert frame["components"].tolist() == [str(layer.rows) for layer in m.layers]
    assert all(Image.open(io.BytesIO(data)).format == "WEBP" for _, data in pictures(text))
    assert len(pictures(text)) >= 8


def test_a_database_without_its_files_is_still_shown(db, tmp_path):
    import shutil

    copy = Path(shutil.copytree(db.path, tmp_path / "copy"))
    opened = sl.open(copy)
    for file in (copy / "thumbnails").iterdir():
        file.unlink()
    text = opened._repr_html_()
    assert "cannot be shown with pictures" in text and opened.manifest.model.spec in text


def test_hits_show_crops_and_at_most_twenty(db):
    hits = db.search("red", top=1000)
    text = hits._repr_html_()
    assert len(hits) > CARDS == 20
    assert text.count('class="card"') == CARDS
    assert f"{len(hits) - CARDS} more" in text
    assert "rank 1" in text and str(hits[0].component) in text
    assert len(pictures(text)) > CARDS


@pytest.mark.parametrize(
    "ask",
    [
        lambda db: db.scores(),
        lambda db: db.label(["red", "blue"], layers=["first"]),
        lambda db: db.class_relevance("vegetable"),
        lambda db: db.concept_map(layers="first", concepts=None),
        lambda db: db.dissect(concepts=["red", "blue"]),
        lambda db: db.explain(db.images.read(0)),
        lambda db: db.attribution_graph("vegetable", images=[db.images.read(0)]),
    ],
    ids=["scores", "label", "relevance", "map", "dissect", "explain", "graph"],
)
@pytest.mark.filterwarnings("ignore")
def test_results_of_a_real_database_have_html(db, ask):
    text = ask(db)._repr_html_()
    assert "no picture" not in text, re.search("no picture[^<]*", text)
    assert "cannot be shown" not in text and ("<img" in text or "<image" in text)
    assert len(text) < 3_000_000
    assert not re.search(r'(src|href)="(?!data:)', text), "something is not embedded"
