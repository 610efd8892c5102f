"""JSON, TOML and CSV of others: what is malformed, ambiguous or costly is refused in words."""

from __future__ import annotations

import json
import time
import tomllib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semlens.documents import DEPTH, KEY_PARTS, csv_rows, parse_json, parse_toml, read_json

HOSTILE_JSON = {
    "[" * 100_000: f"more than {DEPTH} levels",
    '{"a":' * (DEPTH + 1) + "1" + "}" * (DEPTH + 1): f"more than {DEPTH} levels",
    '{"a": {"b": 1, "b": 1}}': "the key 'b' is there twice",
    "[1, Infinity]": "Infinity, which is not finite",
    "[1, -Infinity]": "-Infinity, which is not finite",
    '{"a": NaN}': "NaN, which is not finite",
    "[1e400]": "1e400, which is not finite",
    r'["\ud800"]': r"'\\ud800' is no Unicode",
    r'{"\udfff": 1}': r"'\\udfff' is no Unicode",
    '["\udc00"]': "is no Unicode",
    "[18446744073709551616]": "more than 64 bits",
    "": "Expecting value",
}
HOSTILE_TOML = {
    ".".join("a" * 30_000) + " = 1": f"a dotted key has more than {KEY_PARTS} parts",
    "[" + " . ".join("a" * 30_000) + "]": "a dotted key has",
    ".".join(['"a"'] * 30_000) + " = 1": "a dotted key has",
    "x = {" + ".".join("a" * 30_000) + " = 1}": "a dotted key has",
    'x = """a"""""\n' + ".".join("a" * 30_000) + " = 1": "a dotted key has",
    "a = " + "[" * 100_000: "more than 100 levels",
    "a = " + "{a=" * 50_000: "more than 100 levels",
    "a = inf": "inf, which is not finite",
    "a = -nan": "nan, which is not finite",
    "a = 1e400": "not finite",
    f"a = {2**64}": "more than 64 bits",
    'a = "\udc00"': "is no Unicode",
    "a = 1\na = 2": "overwrite",
    '"""\\' * 100_000: "Expected '='",
    "'" * 500_000: "Expected '='",
}


@pytest.mark.parametrize(
    ("parse", "text", "reason"),
    [(parse_json, *item) for item in HOSTILE_JSON.items()]
    + [(parse_toml, *item) for item in HOSTILE_TOML.items()],
    ids=range(len(HOSTILE_JSON) + len(HOSTILE_TOML)),
)
def test_hostile_documents_are_refused_at_once_and_in_little_memory(parse, text, reason):
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(ValueError, match=reason) as caught:
            parse(text)
        assert len(str(caught.value)) < 300
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - started < 2


def test_what_looks_like_it_is_read():
    assert parse_json("[" * DEPTH + "]" * DEPTH) == json.loads("[" * DEPTH + "]" * DEPTH)
    assert parse_json(r'["\ud83e\udd8a", 18446744073709551615]') == ["🦊", 2**64 - 1]
    assert parse_json('{"nan": [NaN, 1e999]}', finite=False)["nan"][1] == float("inf")
    long = ".".join("a" * 200)
    parts = ".".join("a" * KEY_PARTS)
    texts = (
        f'x = "{long}"', f"x = '''\n{long}'''", f'x = """\n{long}"""', f"x = 1 # {long}",
        f"{parts} = 1.5", f"[{parts}]\n[[b]]\n[b.c]", f'x = ["""a"""", "{long}"]',
    )  # fmt: skip
    for text in texts:
        assert parse_toml(text) == tomllib.loads(text)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(plain)
def test_every_other_json_is_read_as_python_reads_it(value):
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


def test_large_files_are_refused_before_they_are_read(tmp_path):
    with (tmp_path / "sparse.json").open("wb") as file:
        file.truncate(10**13)
    with pytest.raises(ValueError, match="more than 256 MB"):
        read_json(tmp_path / "sparse.json")


def test_columns_of_csv_have_one_name_each():
    rows = list(csv_rows(' a ,b,,\n1,"2\n3",,\n'))
    assert rows == [{"a": "1", "b": "2\n3", "": ""}]
    with pytest.raises(ValueError, match="the column 'a' is there twice"):
        csv_rows("a,b, a\n1,2,3\n")
