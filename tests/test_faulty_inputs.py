"""Files that users name may be anything: pipes, devices, wrong encodings, tables with holes."""

from __future__ import annotations

import json
import math
import os
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import ConceptError, ImageError, RecipeError, SemlensError
from semlens.lens import lens_of
from semlens.lenses.concept_file import parse_upload, to_toml
from semlens.lenses.concepts import Concept, ConceptSet, parse_set
from semlens.lenses.query_embedding import open_image
from semlens.regular_files import read_bytes, read_text
from semlens.settings import settings_of, unannotated


@pytest.fixture
def odd_files(tmp_path: Path) -> Path:
    """A folder with one image and with everything else that may have an image's name."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "good.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    (folder / "nowhere.png").symlink_to(folder / "no-such-file")
    return folder


ODD = ["endless.png", "itself.png", "nowhere.png", "pipe.png"]


def test_pipes_devices_and_circular_links_are_unreadable_images(odd_files):
    images = ImageFolder(odd_files)
    assert sorted(images.ids) == sorted(["good.png", *ODD])
    assert images.read(images.ids.index("good.png")).size == (8, 8)
    for name in ODD:
        with pytest.raises(ImageError, match=name):
            images.content(images.ids.index(name))


@pytest.mark.parametrize("name", ODD)
def test_they_are_no_query_images_and_no_concept_sets(odd_files, name):
    with pytest.raises(ConceptError):
        open_image(odd_files / name)
    with pytest.raises(ConceptError):
        ConceptSet.load(odd_files / name)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(OSError, match="tmp|directory|regular"):
        read_bytes(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_is_read_without_byte_order_mark_and_with_one_kind_of_line_end(tmp_path, end):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + f"one{end}two{end}".encode())
    assert read_text(tmp_path / "a.txt") == "one\ntwo\n"


MALFORMED = {
    "category,concept\nx\n": ".csv",
    "concept,kind\nfur,valid,more\n": ".csv",
    "concept\n\x00\n": ".csv",
    '{"concepts": ["fur"], "templates": 5}': ".json",
    '{"concepts": ["fur"], "templates": "{}"}': ".json",
    '{"concepts": ["fur"], "templates": []}': ".json",
    '{"concepts": ["fur"], "templates": [5]}': ".json",
    '{"concepts": ["fur"], "target": {}}': ".json",
    '{"concepts": ["fur"], "name": ["a"]}': ".json",
    r'["\ud800"]': ".json",
    r'{"concepts": ["fur"], "target": "\udfff"}': ".json",
    r'{"concepts": {"images": ["a\u0000b.png"]}}': ".json",
    '{"concepts": {"images": [{}]}}': ".json",
    '{"concepts": {"images": "a.png"}}': ".json",
    json.dumps(["x" * 1001]): ".json",
    "[" * 100_000: ".json",
    "concepts = [" + "[" * 100_000: ".toml",
}


@pytest.mark.parametrize(("text", "suffix"), MALFORMED.items(), ids=range(len(MALFORMED)))
def test_malformed_concept_sets_are_refused(text, suffix):
    with pytest.raises(ConceptError):
        parse_set(text, suffix, "mine")


def test_what_spreadsheets_write_is_read():
    text = "\ufeffconcept , kind\r\nfur,valid\r\n,\r\n\r\n grass ,spurious\r\n,\r\n"
    concepts = parse_upload(text, "mine.csv").concepts
    assert [(c.name, c.kind) for c in concepts] == [("fur", "valid"), ("grass", "spurious")]


@pytest.mark.slow
def test_many_categories_are_written_in_linear_time():
    count = 20_000  # a comparison of each with each would take minutes
    concepts = tuple(Concept(f"concept {i}", (f"category {i}",)) for i in range(count))
    text = to_toml(ConceptSet(concepts))
    assert text.count("[concepts.") == count


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.just("{}"),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values),
    max_leaves=6,
)
tables = st.dictionaries(
    st.sampled_from(["concepts", "valid", "spurious", "templates", "target", "name", "source"]),
    json_values,
)


@pytest.mark.slow
@given(tables | json_values)
def test_any_json_is_a_concept_set_or_refused_and_reads_back(value):
    try:
        concepts = parse_set(json.dumps(value), ".json", "mine")
    except ConceptError:
        return
    text = to_toml(concepts)
    text.encode()
    again = parse_set(text, ".toml", "mine")
    assert set(again.concepts) == set(concepts.concepts)
    assert (again.templates, again.target) == (concepts.templates, concepts.target)


@given(st.text(alphabet=st.sampled_from('concept,kindategory"\n\r\x00;/ é\ufeff'), max_size=60))
def test_any_text_is_a_table_or_refused(text):
    for table in (text, "concept,kind,category\n" + text):
        try:
            parse_set(table, ".csv", "mine")
        except SemlensError:
            continue


def alternatives(type_: typing.Any) -> list[typing.Any]:
    return [unannotated(part) for part in typing.get_args(type_) or (type_,)]


def test_no_setting_is_nan_or_infinite():
    checked = 0
    for name in dir(sl.ConceptDatabase):
        question = getattr(sl.ConceptDatabase, name)
        if lens_of(question) is None:
            continue
        for setting in settings_of(question).values():
            if setting.expected and float in alternatives(setting.type):
                for value in (math.nan, math.inf, -math.inf):
                    with pytest.raises(RecipeError):
                        setting.check(name, value)
                checked += 1
    assert checked > 20
    with pytest.raises(RecipeError):
        sl.Recipe(crop_blur=math.nan)
