"""What all sections of a report share: missing content, thumbnails, numbers as text."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np

from semlens.draw.example_sheet import example_pictures
from semlens.draw.report_page import (
    ReportBlock,
    Section,
    Thumb,
    picture_thumb,
)
from semlens.store.reader import Database

P = ParamSpec("P")
Content = TypeVar("Content")
"""What a section shows: an audit, a map, a graph, ..."""
STRIP = 8
"""Examples shown per component."""


@dataclass(frozen=True)
class SkippedSection:
    """Placeholder for content that is missing, with the reason."""

    reason: str


def section(
    key: str, title: str, *, flows: bool = False
) -> Callable[
    [Callable[Concatenate[Content, P], list[ReportBlock]]],
    Callable[Concatenate[Content | SkippedSection, P], Section],
]:
    """Turn a function that shows content into a section; missing content shows the reason."""

    def decorate(
        show: Callable[Concatenate[Content, P], list[ReportBlock]],
    ) -> Callable[Concatenate[Content | SkippedSection, P], Section]:
        @functools.wraps(show)
        def make(content: Content | SkippedSection, *args: P.args, **kwargs: P.kwargs) -> Section:
            if isinstance(content, SkippedSection):
                return Section(key, title, missing=content.reason)
            return Section(key, title, show(content, *args, **kwargs), flows=flows)

        return make

    return decorate


def strip(database: Database, row: int, count: int = STRIP) -> list[Thumb]:
    """Return thumbnails of a component's strongest examples, masked."""
    if not database.manifest.recipe.thumbnails:
        return []
    images = example_pictures(database, row, count, mask=True)
    paths = [example.path for example in database.examples_of(row, count)]
    return [picture_thumb(image, path) for image, path in zip(images, paths, strict=True)]


def percent(value: float | None) -> str:
    """Return a share as text; a dash if it is missing."""
    return "-" if value is None or np.isnan(value) else f"{100 * value:.1f} %"


def p_text(value: float) -> str:
    """Return a p-value as text, or a dash if it is missing."""
    if np.isnan(value):
        return "-"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
