"""The page of a study with people: one HTML file that needs no server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semlens.draw.html import render, webp_uri


@dataclass(frozen=True)
class StudyPage:
    """Content of the page: what is asked, without any right answer."""

    id: str
    title: str
    introduction: str
    minutes: int
    """About how long it takes."""
    points: Sequence[int]
    """Values of the points of a rating."""
    tasks: Sequence[dict[str, Any]]
    """Kinds of questions: prompt, whether the answer is a set, choices, scales."""
    questions: Sequence[dict[str, Any]]
    """For each question its task, and the pictures of each set."""
    pictures: Sequence[bytes]
    """WebP."""


def study_page(page: StudyPage) -> str:
    """Return the page; nothing is loaded from elsewhere, and nothing is sent."""
    content = {
        "id": page.id,
        "points": page.points,
        "tasks": page.tasks,
        "questions": page.questions,
        "pictures": [webp_uri(picture) for picture in page.pictures],
    }
    return render("study.html.j2", page=page, content=content)
