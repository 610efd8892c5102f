"""What the page sends to try a model, and what it means to the analysis."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from semlens.data.artefact import Artefact, Hue, Patch, Stripes, Text
from semlens.data.overlay import parse_colour
from semlens.errors import DataError
from semlens.types import Component

MOST_IMAGES = 400
"""Images that a page may ask the model for."""


class GivenArtefact(BaseModel):
    """An artefact to insert; what is null is as the kind has it.

    Cut-outs and fonts are files of the server's, so a page cannot name them.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Literal["hue", "text", "patch", "stripes"]
    words: Annotated[str, Field(max_length=100)] | None = None
    """Of a text."""
    colour: Annotated[str, Field(max_length=40)] | None = None
    strength: float | None = None
    """Opacity of a hue or of stripes; size of a text or a patch, as a share of the image."""

    def artefact(self) -> Artefact:
        """Return it.

        Raises
        ------
        DataError
            If it cannot be drawn so.
        """
        look: dict[str, Any] = {} if self.colour is None else {"colour": parse_colour(self.colour)}
        opacity: dict[str, Any] = {} if self.strength is None else {"opacity": self.strength}
        size: dict[str, Any] = {} if self.strength is None else {"size": self.strength}
        if self.kind == "hue":
            return Hue(**look, **opacity)
        if self.kind == "stripes":
            return Stripes(**look, **opacity)
        if self.kind == "patch":
            return Patch(**look, **size)
        if not (self.words or "").strip():
            raise DataError("The text has no words.", "Expected some.", "Write them.")
        return Text((self.words or "").strip(), **look, **size)


class ModelTestRequest(BaseModel):
    """Real images of a class against images of others with an artefact."""

    target: Annotated[int, Field(ge=0)]
    artefacts: Annotated[list[GivenArtefact], Field(min_length=1, max_length=4)]
    count: Annotated[int, Field(ge=2, le=MOST_IMAGES)] = 100
    """Real images, and images of other classes, at most."""
    seed: Annotated[int, Field(ge=0)] = 0


class PruneRequest(BaseModel):
    """A model with and without some components."""

    target: Annotated[int, Field(ge=0)]
    components: Annotated[list[Annotated[str, Field(max_length=300)]], Field(max_length=5000)]
    artefact: GivenArtefact | None = None
    """Is inserted into the same images for answers of their own."""
    per_class: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 20
    at_most: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = MOST_IMAGES
    seed: Annotated[int, Field(ge=0)] = 0

    def parsed(self) -> list[Component]:
        """Return the components."""
        return [Component.parse(name) for name in self.components]
