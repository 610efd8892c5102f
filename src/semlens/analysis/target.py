"""The classes of a database: their names, their numbers, and their samples."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from semlens.errors import DataError, RelevanceError, nearest
from semlens.store import layout
from semlens.store.files import load_table
from semlens.store.reader import Database


def find_class(database: Database, text: str | int) -> int:
    """Return the logit of a class that is given by name or number.

    Raises
    ------
    RelevanceError
        If there is no such class, or several have the name.
    """
    names = database.manifest.classes
    # a number is a logit, even where a class is called by another number
    places = [i for i, name in enumerate(names or ()) if name == text]
    if len(places) > 1:
        raise RelevanceError(
            f"The classes {', '.join(map(str, places))} are all called '{text}'.",
            "Expected a name that only one class has.",
            "Give the number.",
        )
    if places:
        return places[0]
    number = int(text) if str(text).isdecimal() else -1
    if number >= 0 and (names is None or number < len(names)):
        return number
    if names is None:
        raise RelevanceError(
            f"'{text}' is no class of the database.",
            "It knows no class names: expected the number of a logit, from 0.",
            "Give the number.",
        )
    raise RelevanceError(
        f"'{text}' is no class of the database.",
        f"Expected a number from 0 to {len(names) - 1}, or a name: {nearest(str(text), names)}.",
        "Choose one of them.",
    )


def class_name(database: Database, target: int) -> str:
    """Return the name of a class, or its number where there are no names."""
    names = database.manifest.classes
    return names[target] if names is not None and target < len(names) else str(target)


def class_samples(
    database: Database, target: int, at_most: int | None = None
) -> Int64[np.ndarray, " n"]:
    """Return the readable samples of a class, evenly thinned out to ``at_most``.

    Raises
    ------
    DataError
        If the class has none.
    """
    # two columns of the table, for its paths may be millions
    table = load_table(database.path / layout.SAMPLES, ["logit", "error"])
    logit = table["logit"].to_pandas().astype("Float64")
    of_class = (logit == target).fillna(False).to_numpy(bool)
    mine = np.flatnonzero(of_class & table["error"].is_null().to_numpy())
    if len(mine) == 0:
        known = sorted({class_name(database, int(c)) for c in logit.dropna().unique()})
        raise DataError(
            f"The class '{class_name(database, target)}' has no samples in the database.",
            f"It has samples of {nearest(class_name(database, target), known, 8)}."
            if known
            else "None of its samples has a known class.",
            f"{'Choose one of them' if known else 'Build it with classes= or targets='}, or say "
            "on which images: samples=[0, 1, ...], or images=...",
        )
    if at_most is not None and len(mine) > at_most:
        mine = mine[np.linspace(0, len(mine) - 1, max(at_most, 1)).round().astype(np.int64)]
    return mine.astype(np.int64)
