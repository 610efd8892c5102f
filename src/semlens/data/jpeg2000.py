"""Whether a JPEG 2000 file is whole: its decoder fills what is missing with black."""

from __future__ import annotations

_START, _END = b"\xff\x4f\xff\x51", b"\xff\xd9"


def is_whole(data: bytes) -> bool:
    """Whether the code stream ends with its end marker (ISO/IEC 15444-1, A.4.4 and I.4)."""
    if data.startswith(_START):  # a bare code stream
        return data.endswith(_END)
    start = 0
    while start + 8 <= len(data):
        length, kind, head = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8], 8
        if length == 1:  # a longer length follows
            length, head = int.from_bytes(data[start + 8 : start + 16]), 16
        end = start + length if length else len(data)  # 0: up to the end of the file
        if kind == b"jp2c" or end > len(data) or length in range(1, head):
            return kind == b"jp2c" and end <= len(data) and data[:end].endswith(_END)
        start = end
    return False
