"""The answer to a call as the protocol sends it: text, numbers and a picture, or an error."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent
from PIL import Image

from semlens import errors
from semlens.draw.figure import figure_png
from semlens.errors import SemlensError, shortened
from semlens.lenses.result import Result, plain

SIDE = 1200
"""Longest side of a picture, in pixels: what clients accept, and models see without scaling."""
QUALITY = 80
TEXT = 20_000
"""Characters of the text."""
_NEXT: dict[type[SemlensError], str] = {
    errors.LayerError: "The tool 'overview' lists the layers; 'search' finds components.",
    errors.RelevanceError: "The tool 'overview' lists the classes and warns of what is missing; "
    "only the user can add it.",
    errors.DataError: "The tool 'overview' lists classes with samples and the allowed images.",
    errors.ImageError: "Name another image.",
    errors.ConceptError: "Change the texts or names in this call.",
    errors.RecipeError: "Change the arguments and call the tool again.",
}
"""What a caller can do about errors of a class, beside the remedy."""
_USER = "Tools cannot do this: tell the user."


def answered(
    result: Result, rows: int, picture: bool, notices: Sequence[str] = ()
) -> CallToolResult:
    """Return a result as text, structured numbers and, if asked for, a picture."""
    values, left_out = limited(plain(result.to_json()), rows)
    text = "\n".join([repr(result), *(f"Notice: {notice}" for notice in notices)])
    content: list[ContentBlock] = [TextContent(text=shortened(text, TEXT))]
    if picture:
        content.append(_picture(result))
    if left_out:
        values["left_out"] = left_out
    if notices:
        values["notices"] = list(notices)
    return CallToolResult(content=content, structured_content=values)


def refused(error: SemlensError) -> CallToolResult:
    """Return an error for the caller of a tool: what is wrong, what was expected, what to do."""
    advice = next((_NEXT[kind] for kind in type(error).__mro__ if kind in _NEXT), _USER)
    kind = type(error).__name__
    lines = [f"{kind}: {error.value}", error.expected, error.remedy, advice]
    values = {
        "error": kind,
        "value": error.value,
        "expected": error.expected,
        "remedy": f"{error.remedy} {advice}",
    }
    return CallToolResult(
        content=[TextContent(text="\n".join(lines))], structured_content=values, is_error=True
    )


def limited(values: Mapping[str, Any], rows: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Cut each list to ``rows`` entries; return also how many were left out, by the list's path."""
    left_out: dict[str, int] = {}

    def cut(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: cut(item, f"{path}.{key}".lstrip(".")) for key, item in value.items()}
        if isinstance(value, list):
            if len(value) > rows:
                left_out[path] = left_out.get(path, 0) + len(value) - rows
            return [cut(item, path) for item in value[:rows]]
        return value

    return cut(dict(values), ""), left_out


def _picture(result: Result) -> ImageContent:
    """Return the plot of a result, scaled down, as PNG or JPEG: whichever is smaller."""
    drawn = result.plot()
    if not isinstance(drawn, Image.Image):
        drawn = Image.open(io.BytesIO(figure_png(drawn)))
    picture = drawn.convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    kinds = ("png", "jpeg")
    encoded = {kind: _encoded(picture, kind) for kind in kinds}
    smallest = min(kinds, key=lambda kind: len(encoded[kind]))
    data = base64.b64encode(encoded[smallest]).decode("ascii")
    return ImageContent(data=data, mime_type=f"image/{smallest}")


def _encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, optimize=True, quality=QUALITY)
    return buffer.getvalue()
