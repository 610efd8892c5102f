"""Reading a target from its text, in which the names of classes come first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from semlens.errors import RelevanceError, nearest, shortened
from semlens.models.function_target import FunctionTarget, is_function_text
from semlens.models.spatial_targets import BoxScore, Region
from semlens.models.target import FORMS, ClassRef, Logits, Similar, Target

_NUMBERS = r"-?\d+(?:\.\d+)?"
_BOX = re.compile(rf"(.+)@\s*({_NUMBERS}(?:\s*,\s*{_NUMBERS}){{3}})\s*")
_QUERY = re.compile(r"(.+)@\s*(\d{1,9})\s*")


def parse_target(text: str, classes: Sequence[str] | None = None) -> Target:
    """Read a target; see :meth:`Target.parse`."""
    target = FunctionTarget.load(text) if is_function_text(text) else unnamed_target(text, classes)
    return target if classes is None else target.with_names(ClassNames(classes))


def unnamed_target(text: str, classes: Sequence[str] | None = None) -> Target:
    """Read a target that is no function: no file is executed. Names are not looked up yet.

    Parameters
    ----------
    classes
        Names of the classes: one of them is that class, whatever it looks like.

    Raises
    ------
    RelevanceError
        If the text has no form of a target, or one of several meanings.
    """
    stripped = text.strip()
    if classes is not None and (text in classes or stripped in classes):
        return Logits(((text if text in classes else stripped, 1.0),))
    kind, separator, rest = stripped.partition(":")
    rest = rest.strip()
    if separator and rest and kind in ("similar", "box", "region"):
        return {"similar": Similar, "box": _box, "region": _region}[kind](rest)
    if not stripped or separator and kind in ("similar", "box", "region"):
        raise _unreadable(text)
    readings = list(dict.fromkeys(_sums(stripped, classes)))
    if len(readings) > 1:
        raise RelevanceError(
            f"The target '{shortened(text)}' can be read in {len(readings)} ways.",
            "Expected names of classes that do not contain the signs between them.",
            "Give the numbers of the classes.",
        )
    return Logits(readings[0]) if readings else Logits(((stripped, 1.0),))


def is_other_target(text: str) -> bool:
    """Whether a text is written as a target that is not one class."""
    try:
        return is_function_text(text) or unnamed_target(text) != Logits(((text.strip(), 1.0),))
    except RelevanceError:
        return False


def _sums(text: str, classes: Sequence[str] | None) -> Iterator[tuple[tuple[ClassRef, float], ...]]:
    """Yield the readings of a text as names with signs between them.

    A name may itself hold a sign, such as "T - shirt": with known names all divisions are tried.
    """
    signs = list(re.finditer(r"\s([-+−])\s", text))
    if not signs:
        return
    for keep in range(1, 2 ** len(signs)) if classes is not None else (2 ** len(signs) - 1,):
        chosen = [sign for bit, sign in enumerate(signs) if keep >> bit & 1]
        starts = [0, *(sign.end() for sign in chosen)]
        ends = [*(sign.start() for sign in chosen), len(text)]
        names = [text[start:end].strip() for start, end in zip(starts, ends, strict=True)]
        weights = [1.0, *(1.0 if sign[1] == "+" else -1.0 for sign in chosen)]
        known = classes is None or all(name in classes or name.isdecimal() for name in names)
        if known and all(names):
            yield tuple((name, w) for name, w in zip(names, weights, strict=True))


def _box(text: str) -> Target:
    if match := _BOX.fullmatch(text):
        x0, y0, x1, y1 = (float(part) for part in match[2].split(","))
        if x0 < x1 and y0 < y1:
            return BoxScore(match[1].strip(), (x0, y0, x1, y1))
    elif match := _QUERY.fullmatch(text):
        return BoxScore(match[1].strip(), query=int(match[2]))
    raise RelevanceError(
        f"The box is '{shortened(text)}'.",
        "Expected CLASS@x0,y0,x1,y1 with x0 < x1 and y0 < y1, in pixels of the image as the model "
        "gets it, or CLASS@NUMBER of a query or anchor.",
        "Write for example box:person@120,40,300,220.",
    )


def _region(text: str) -> Target:
    match = _BOX.fullmatch(text)
    if match is None:
        return Region(text)
    x0, y0, x1, y1 = (float(part) for part in match[2].split(","))
    return Region(match[1].strip(), corners=(x0, y0, x1, y1))


def _unreadable(text: str) -> RelevanceError:
    return RelevanceError(
        f"The target is '{shortened(text)}'.", f"Expected {FORMS}.", "Write one of these."
    )


@dataclass(frozen=True)
class ClassNames:
    """Names of classes in a list."""

    classes: Sequence[str]

    def index(self, name: ClassRef) -> int:
        """Return the number of a class.

        Raises
        ------
        RelevanceError
            If there is no such class, or several have the name.
        """
        if isinstance(name, int):
            return name
        matches = [number for number, one in enumerate(self.classes) if one == name]
        if len(matches) == 1 or (not matches and name.isdecimal()):
            return matches[0] if matches else int(name)
        raise RelevanceError(
            f"{'Several classes are' if matches else 'No class is'} named '{shortened(name)}'.",
            f"Expected a number, or a name: {nearest(name, self.classes)}.",
            "Choose one of them.",
        )

    def vector(self, text: str) -> Float[Tensor, " d"]:
        """Raise an error: a list of names embeds no text.

        Raises
        ------
        RelevanceError
            Always.
        """
        raise RelevanceError(
            f"The text '{shortened(text)}' has no vector.",
            "Expected an embedder, which a database has.",
            "Ask a question of a database, or pass Target.similar(text, vector).",
        )
