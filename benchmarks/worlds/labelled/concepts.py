"""Which words are true of source pictures: concepts, their synonyms, and more general words.

A concept is an emoji's label, simplified: drawings that differ in direction, gender or a clock's
time only are of one concept. Clip art and stamps are of a concept if their label ends with it.
General words are true of whole subgroups of emoji, or of listed concepts.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zlib import crc32

from demo_world.rasterise import EMOJI_SETS, Picture
from demo_world.worlds import design_of

GROUPS = (
    "smileys-emotion", "people-body", "animals-nature", "food-drink", "travel-places",
    "activities", "objects",
)  # fmt: skip
"""Groups of emoji that are shown; flags and symbols are not."""
LEFT_OUT = frozenset({"family", "person-symbol", "emotion", "hotel", "body-parts"})
"""Subgroups that are not shown."""
NOT_SHOWN = frozenset({"man", "woman", "boy", "girl", "child"})
"""Concepts that drawings of other concepts show as well."""
MISTAKEN = re.compile(
    r"nicu buculei|baseball bat|elevator|sea lion|beetle$|dancing with|flush|stethoscope|egg$|"
    r"planet|caboose|table tennis|cat and dog|from star|hot air|the penguin"
)
"""Labels of clip art and stamps whose end is not what they show."""
SHARE = {"animals-nature": 70, "food-drink": 30, "travel-places": 30}
"""Percentage of a group's concepts that the development worlds show; of others half."""

_WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
SIMPLER: list[list[str]] = _WORDS["simpler"]
"""Patterns of emoji labels and the concept that they stand for; the first that fits counts."""
SYNONYMS: dict[str, str] = _WORDS["synonyms"]
"""A second word for the same concept."""
GENERAL: dict[str, dict[str, str]] = _WORDS["general"]
"""General words by the half of the worlds in which they may be a unit's right word, and what they
are true of: subgroups; ``=``: a concept of any subgroup; ``!``: an exception."""
FOLDERS: dict[str, str] = _WORDS["folders"]
"""Folders of clip art and stamps that are shown, and the concept of all their pictures if any."""


@dataclass(frozen=True)
class Drawing:
    """A source picture that worlds show.

    Parameters
    ----------
    row
        Of the source pictures.
    concept
        The word for what it shows.
    kind
        Subgroup; concepts of one kind are similar.
    design
        The drawing: pictures that differ in colours or shading only share it.
    """

    row: int
    concept: str
    kind: str
    group: str
    design: str


def side(concept: str, group: str) -> str:
    """Return the half of the worlds that shows a concept: "development" or "fresh"."""
    drawn = crc32(f"half of {concept}".encode()) % 100
    return "development" if drawn < SHARE.get(group, 50) else "fresh"


def simplified(label: str) -> str:
    """Return the concept of an emoji's label."""
    label = label.replace("’", "'")
    for _ in range(2):  # a person's direction, then what the person does
        for pattern, concept in SIMPLER:
            if re.fullmatch(pattern, label):
                label = re.sub(f"^{pattern}$", concept, label)
                break
    return label


def drawings(pictures: Sequence[Picture]) -> list[Drawing]:
    """Return the pictures that worlds show; clip art and stamps must be of an emoji's concept."""
    found = [
        Drawing(row, simplified(p.label), p.subgroup, p.group, design_of(p))
        for row, p in enumerate(pictures)
        if p.source in EMOJI_SETS and p.group in GROUPS and p.subgroup not in LEFT_OUT
    ]
    found = [drawing for drawing in found if drawing.concept not in NOT_SHOWN]
    known = {d.concept: d for d in found}
    others = (
        (row, p, known.get(FOLDERS[p.subgroup]) or _ends_with(p.label, known))
        for row, p in enumerate(pictures)
        if p.source in ("openclipart", "tuxpaint")
        and p.subgroup in FOLDERS
        and not MISTAKEN.search(p.label)
    )
    return found + [
        Drawing(row, of.concept, of.kind, of.group, f"{p.source}/{p.name}")
        for row, p, of in others
        if of is not None
    ]


def _ends_with(label: str, known: dict[str, Drawing]) -> Drawing | None:
    """Return the concept that is the end of a label."""
    label = re.sub(r"\s*\(.*?\)| b and w$|[^a-z' -]", "", label.lower()).strip()
    tokens = label.split()
    ends = (" ".join(tokens[start:]) for start in range(len(tokens)))
    return next((known[end] for end in ends if end in known), None)


@lru_cache(maxsize=1)
def _rules() -> list[tuple[str, frozenset[str], frozenset[str], frozenset[str]]]:
    rules: list[tuple[str, frozenset[str], frozenset[str], frozenset[str]]] = []
    for words in GENERAL.values():
        for word, pattern in words.items():
            parts = pattern.split("|")
            kinds = frozenset(p for p in parts if p[0] not in "=!")
            listed = frozenset(p[1:] for p in parts if p[0] == "=")
            rules.append((word, kinds, listed, frozenset(p[1:] for p in parts if p[0] == "!")))
    return rules


def words_of(concept: str, kind: str) -> Iterator[str]:
    """Yield all words that are true of a concept: itself, a synonym, and general words."""
    yield concept
    if concept in SYNONYMS:
        yield SYNONYMS[concept]
    for word, kinds, listed, exceptions in _rules():
        if word != concept and concept not in exceptions and (concept in listed or kind in kinds):
            yield word
