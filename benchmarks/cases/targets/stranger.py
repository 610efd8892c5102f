"""A world that somebody else made: a Python file with a function ``world()``."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

import semlens as sl
from semlens.data.artefact import Artefact, load_artefact
from semlens.embedders.embedder import Embedder
from semlens.models.target import Target

NEEDED = {"model", "images", "embedder", "target", "sign"}
OPTIONAL = {"layers", "kind", "nulls"}


class Sign(Artefact):
    """A sign that a function inserts."""

    name: ClassVar[str] = "sign"

    def __init__(self, function: Callable[[Image.Image, int], Image.Image]) -> None:
        object.__setattr__(self, "function", function)

    @property
    def spec(self) -> str:
        """The name of the function."""
        return f"python:{getattr(vars(self)['function'], '__name__', 'function')}"

    def insert(self, image: Image.Image, seed: int) -> Image.Image:
        """Return what the function returns."""
        return vars(self)["function"](image, seed)


@dataclass(frozen=True, eq=False)
class StrangersWorld:
    """What a world has."""

    model: sl.SubjectModel
    images: Any
    embedder: Embedder | str
    target: str | int | Target
    sign: Artefact
    layers: Sequence[str]
    kind: str = "stranger"
    nulls: Sequence[str | int | Target] = ()


def load_world(path: Path) -> StrangersWorld:
    """Execute a file and read the world that its function ``world()`` returns.

    Raises
    ------
    SystemExit
        If it has no such function, or the world lacks something.
    """
    if not path.is_file():
        raise SystemExit(f"There is no file '{path}'. Expected a Python file with world().")
    function = runpy.run_path(str(path)).get("world")
    if not callable(function):
        raise SystemExit(f"'{path}' has no function world(). Expected one that returns a mapping.")
    given = function()
    if not isinstance(given, Mapping) or not NEEDED <= given.keys() <= NEEDED | OPTIONAL:
        raise SystemExit(
            f"world() of '{path}' returns {given}. Expected a mapping with "
            f"{', '.join(sorted(NEEDED))}, and maybe {', '.join(sorted(OPTIONAL))}."
        )
    sign, model = given["sign"], given["model"]
    if isinstance(sign, str):
        sign = load_artefact(sign)
    elif not isinstance(sign, Artefact):
        sign = Sign(sign)
    return StrangersWorld(**{**given, "sign": sign, "layers": given.get("layers") or blocks(model)})


def blocks(model: sl.SubjectModel) -> list[str]:
    """Return the blocks of a model that can be read, or else its layers that run once."""
    table = sl.layers(model).to_pandas()
    readable = table[(table["note"] == "") & (table["runs"] == 1)]
    chosen = readable[readable["block"]] if readable["block"].any() else readable
    return list(chosen["layer"])
