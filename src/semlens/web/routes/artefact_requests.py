"""Artefacts as requests name them, and the commands that correct a model permanently."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from semlens.concept_database import ConceptDatabase
from semlens.data.artefact import Artefact, Hue, Patch, Stripes, TextMark
from semlens.data.pieces import Pieces
from semlens.lenses.correct.mark import find_mark
from semlens.types import Component
from semlens.web.responses import RequestModel


class ArtefactRequest(RequestModel):
    """An artefact to insert; null uses the default of the kind.

    A mark is cut out of the examples of some components. Files of cut-outs and fonts are on the
    server, so a page cannot choose them.
    """

    kind: Literal["mark", "hue", "text", "patch", "stripes"]
    components: Annotated[list[Component], Field(max_length=100)] | None = None
    """Components that a mark is cut out of the examples of, most relevant first."""
    words: Annotated[str, Field(max_length=100)] | None = None
    """Content of a text artefact."""
    colour: Annotated[str, Field(max_length=40)] | None = None
    strength: float | None = None
    """Opacity of a hue or stripes; size of a text or patch, as a share of the image."""

    def artefact(self, db: ConceptDatabase, target: int) -> Artefact:
        """Return the artefact; a mark needs the model.

        Raises
        ------
        DataError
            If it cannot be drawn with these settings, or the mark cannot be cut out.
        """
        if self.kind == "mark":
            return find_mark(db, target, self.components or []).pieces
        kind = {"hue": Hue, "text": TextMark, "patch": Patch, "stripes": Stripes}[self.kind]
        strength = "opacity" if kind in (Hue, Stripes) else "size"
        settings = {"colour": self.colour, strength: self.strength}
        style: dict[str, Any] = {k: value for k, value in settings.items() if value is not None}
        words = {"words": (self.words or "").strip()} if kind is TextMark else {}
        return kind(**words, **style)


@dataclass(frozen=True)
class CorrectionCommands:
    """Commands that correct a model permanently."""

    prune: str
    """Writes the weights without the components."""
    cutout: str | None
    """Writes the cut-outs that the artefact consists of."""
    retrain: list[str]
    """Find the affected images, and retrain without them and with the artefact everywhere."""


def correction_commands(
    db: ConceptDatabase, components: Sequence[str], artefact: Artefact | None
) -> CorrectionCommands:
    """Return the commands that prune the components, and that retrain the model."""
    path = db.location
    model, data, _ = db.sources
    model_option = ["--model", model] if isinstance(model, str) else []
    data_option = ["--data", str(data)] if isinstance(data, str | Path) else []
    prune = ["semlens", "prune", path, *components, "--save", "pruned.safetensors", *model_option]
    affected = ["semlens", "affected", path, *components, "--all-data", "--save", "affected.csv"]
    kind, cutout = "text:WORDS" if artefact is None else artefact.spec, None
    if isinstance(artefact, Pieces):
        kind = "paste:cutouts"
        cutout = ["semlens", "cutout", path, *artefact.of.split(", "), "--out", "cutouts"]
        cutout = shlex.join([*cutout, *model_option, *data_option])
    retrain = ["semlens", "retrain", path, "--artefact", kind, "--drop", "affected.csv"]
    retrain += ["--save", "retrained.safetensors"]
    return CorrectionCommands(
        shlex.join(prune),
        cutout,
        [
            shlex.join([*affected, *model_option, *data_option]),
            shlex.join([*retrain, *model_option, *data_option]),
        ],
    )
