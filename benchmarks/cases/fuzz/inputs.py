"""Hypothesis strategies for inputs that are nearly right: damaged bytes, odd JSON, odd texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

ODD_TEXTS = (
    "", " ", "0", "-1", "1.5", "1e999", "NaN", "inf", "true", "null", "9" * 30, "\0", "\n", "é",
    "a" * 3000, "../../etc/passwd", "%2e%2e", "{}", "[]", "🦊", "\u202e", "first:1", "first:-0",
    "first:99999999999", "ape", "second", "datasets/", "semlens/", ":", "/", "//", "~", "~nobody",
    "file.py:", "*", "'; --", "<b>", "\ud800", "٣",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**63, 10**30, 0.5, -0.0, 1e308)

odd_texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=8)
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | odd_texts
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged_bytes(draw: st.DrawFn, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """Return one of the seeds after up to five changes at random places."""
    data = bytearray(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(("bit", "byte", "cut", "end", "repeat", "insert", "token")))
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 16))
        if kind == "bit" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and at < len(data):
            data[at] = draw(st.sampled_from((0, 1, 127, 128, 255)))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "end":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at : at + length] * draw(st.integers(1, 40))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=length))
        elif tokens:
            data[at:at] = draw(st.sampled_from(list(tokens)))
    return bytes(data)


@st.composite
def damaged_json(draw: st.DrawFn, seed: Any) -> bytes:
    """Return a JSON document in which up to three values are others, missing or misplaced."""
    document = json.loads(json.dumps(seed))
    for _ in range(draw(st.integers(1, 3))):
        parent, key = document, None
        while isinstance(parent, dict | list) and parent:
            keys = list(parent) if isinstance(parent, dict) else range(len(parent))
            key = draw(st.sampled_from(list(keys)))
            child = parent[key]
            if not (isinstance(child, dict | list) and child) or draw(st.booleans()):
                break
            parent = child
        if key is None:
            continue
        if draw(st.integers(0, 3)) == 0:
            del parent[key]
        else:
            parent[key] = draw(json_values)
    return json.dumps(document).encode("utf-8", "surrogatepass")
