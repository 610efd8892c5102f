"""What every answer can do, on a small answer of our own."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from conftest import assert_says
from PIL import Image
from rich.text import Text

from semlens.draw.figure import figure_svg, new_figure, styled
from semlens.draw.text_table import rich_table
from semlens.errors import StoreError
from semlens.lenses.result import RESULT_SUFFIXES, Result, check_suffix, plain


@dataclass(frozen=True, repr=False)
class Answer(Result):
    """Two numbers and a gap."""

    frame: pd.DataFrame

    def to_pandas(self):
        return self.frame

    def to_json(self):
        return {"rows": self.frame.to_dict("records"), 3: (np.float32(0.5), np.array([1, 2]))}

    def plot(self):
        figure, (axes,) = new_figure(2.0, 1.5)
        axes.plot(self.frame["value"])
        return figure

    def __rich__(self):
        return Text("an answer " * 20)


@pytest.fixture
def answer():
    return Answer(pd.DataFrame({"name": ["a", "ä", None], "value": [1.5, np.nan, np.inf]}))


def test_save_to_every_ending(answer, tmp_path):
    for end in RESULT_SUFFIXES:
        answer.save(tmp_path / "new" / f"answer{end}")
        answer.save(str(tmp_path / f"answer{end.upper()}"))
    at = tmp_path / "new"
    assert sorted(path.suffix for path in at.iterdir()) == sorted(
        RESULT_SUFFIXES
    )  # no partial files
    with Image.open(at / "answer.png") as picture:
        assert picture.size == (300, 225)
    assert (at / "answer.svg").read_text().rstrip().endswith("</svg>")
    assert (at / "answer.pdf").read_bytes().startswith(b"%PDF")
    pd.testing.assert_frame_equal(pd.read_csv(at / "answer.csv"), answer.frame)
    pd.testing.assert_frame_equal(pd.read_parquet(at / "answer.parquet"), answer.frame)
    assert json.loads((at / "answer.json").read_text("utf-8")) == {
        "rows": [{"name": "a", "value": 1.5}, {"name": "ä", "value": None},
                 {"name": None, "value": None}],
        "3": [0.5, [1, 2]],
    }  # fmt: skip


def test_the_same_answer_gives_the_same_files(answer, tmp_path):
    for end in RESULT_SUFFIXES:
        answer.save(tmp_path / f"a{end}")
        answer.save(tmp_path / f"b{end}")
        assert (tmp_path / f"a{end}").read_bytes() == (tmp_path / f"b{end}").read_bytes(), end


@pytest.mark.parametrize("name", ["answer.gif", "answer", "answer.png.txt"])
def test_other_endings_are_refused_before_anything_is_written(answer, tmp_path, name):
    with pytest.raises(StoreError) as error:
        answer.save(tmp_path / name)
    assert_says(error.value, name, *RESULT_SUFFIXES)
    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreError):
        check_suffix(name, [".csv"])


def test_a_place_that_cannot_be_written(answer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        answer.save(tmp_path / "file" / "answer.csv")


def test_plain_values():
    value = {1: np.int64(3), "b": [np.bool_(True), (np.float32(np.nan), float("-inf"))], "c": None}
    found = plain(value)
    assert found == {"1": 3, "b": [True, [None, None]], "c": None}
    assert type(found["1"]) is int
    assert type(found["b"][0]) is bool
    assert plain(np.zeros((1, 2))) == [[0.0, 0.0]]


def test_text(answer):
    assert repr(answer).startswith("an answer")
    assert all(len(line) <= 110 for line in repr(answer).splitlines())


def test_names_with_dollar_signs_are_no_formulas():
    @styled
    def draw():
        figure, (axes,) = new_figure(2.0, 1.5)
        axes.set_title("$x_$")
        axes.set_xticks([0], ["a$ $_"])
        return figure

    assert "$x_$" in figure_svg(draw())


def test_an_answer_has_to_say_all_of_it():
    with pytest.raises(TypeError, match="abstract"):
        Result()


def test_tables_show_gaps_brackets_and_whole_names():
    from rich.console import Console

    frame = pd.DataFrame({
        "class_name": ["a name [of] 24 letters", "b"], "p_value": [0.12345, np.nan],
        "more": ["some words " * 5, None], "list": [[1, 0.5], []],
    })  # fmt: skip
    console = Console(width=50, color_system=None)
    with console.capture() as captured:
        console.print(rich_table(frame, "A title"))
    text = captured.get()
    assert "a name [of] 24 letters" in text
    assert "class name" in text
    assert "0.123" in text
    assert "nan" not in text
    assert "None" not in text


def test_a_narrow_terminal_cuts_no_number():
    from rich.console import Console

    values = {f"measured {i}": [-0.123 * (i + 1), 10.5] for i in range(5)}
    frame = pd.DataFrame(
        {"class": ["musical instrument", "b"], "detected": [True, False], **values}
    )
    console = Console(width=74, color_system=None)
    with console.capture() as captured:
        console.print(rich_table(frame))
    text = captured.get()
    assert all(f"{value:.3f}" in text for column in values.values() for value in column)
    assert "…" not in text and "False" in text


def test_tables_take_words_in_brackets_as_they_are():
    from rich.console import Console

    console = Console(width=60, color_system=None)
    with console.capture() as captured:
        console.print(rich_table(pd.DataFrame({"set [b]": ["c:\\[d]", "e\\"]}), "[/x]"))
    assert [line.strip() for line in captured.get().splitlines()] == [
        "[/x]", "set [b]", "c:\\[d]", "e\\",
    ]  # fmt: skip
