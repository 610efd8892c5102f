"""Inputs that every reader of a kind is given first: costly, ambiguous, or of another type."""

from __future__ import annotations

import json
from typing import Any

HOSTILE = (
    b"", b"null", b"[]", b"{}", b"3", b'"x"', b"true", b"\xff\xfe", b"[" * 100_000,
    b'{"a":' * 100_000, b"NaN", b"[Infinity]", b'{"a": 1e400}', b'["\\ud800"]', b'{"\\udfff": 1}',
    b'{"a": 1, "a": 2}', b"9" * 5000, b"[" + b"9" * 400 + b"]",
)  # fmt: skip
"""Documents that are no valid JSON, or that mean nothing to any reader."""
HOSTILE_TOML = (
    b".".join([b"a"] * 30_000) + b" = 1", b"[" + b".".join([b"a"] * 30_000) + b"]",
    b"a = " + b"[" * 100_000, b"a = " + b"{a=" * 30_000, b"a = inf", b"a = nan", b"a = 1e400",
    b"a = " + b"9" * 400, b"a = 1\na = 2", b'"""\\' * 50_000, b"\xff\xfe",
)  # fmt: skip
ODD: tuple[Any, ...] = (None, [], {}, "x", -1, True, "\ud800", [[[]]], {"": {}}, 1.5, 10**30)


def hostile_json(seed: Any) -> list[bytes]:
    """Return :data:`HOSTILE`, and documents in which one value of the seed is an odd one."""
    record = seed[0] if isinstance(seed, list) else seed
    changed = [{**record, key: odd} for key in record for odd in ODD]
    text = json.dumps(seed)
    repeated = text.replace("{", f"{{{json.dumps(next(iter(record)))}: 1, ", 1).encode()
    changed = [[one] if isinstance(seed, list) else one for one in changed]
    encoded_ones = [json.dumps(one).encode("utf-8", "surrogatepass") for one in changed]
    return [*HOSTILE, repeated, *encoded_ones]


def csv_first(text: bytes) -> list[bytes]:
    """Return tables with odd headers and rows: a column twice, missing, or none at all."""
    head, _, rows = text.partition(b"\n")
    first = head.split(b",")[0]
    return [
        b"", b"\n", head, rows, head + b"," + first + b"\n" + rows, head.replace(first, b"", 1),
        b'"' + text, text.replace(b",", b";"), b"\xff" + text, b"\xef\xbb\xbf" + text,
        head + b"\n" + b"x" * 200_000 + b"\n", head + b"\n" + b"," * 5000, text.replace(b"\n", b""),
    ]  # fmt: skip
