"""Labelling methods by name: the built-in ones, and those of plug-ins."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float32

from semlens.errors import RecipeError, nearest
from semlens.lenses.labelling.clip_dissect import WPMI, CosCubed, RankReorder, SoftWPMI
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.invert import AnnotatedInvert, Invert
from semlens.lenses.labelling.labeller import Labeller, Need
from semlens.lenses.labelling.linear_explanation import Correlation, LinearExplanation
from semlens.lenses.labelling.semantic_lens import ContrastiveProjection, SemanticLens
from semlens.lenses.labelling.vote import ExampleVote, Vote
from semlens.lenses.labelling.weighted_dissect import WeightedDissect
from semlens.plug_ins import LABELLERS, owner, plug_ins
from semlens.settings import setting


class RandomLabels(Labeller):
    """Independent uniform scores in [0, 1), the baseline of the paper's table D.3.

    A component's scores depend on the seed and its position only.
    """

    needs: ClassVar[tuple[Need, ...]] = ()

    seed: Annotated[int, setting("Seed of the random numbers.", ge=0)] = 0

    def _scores(self, evidence: Evidence) -> Float32[np.ndarray, "n q"]:
        return np.random.default_rng(self.seed).random(evidence.shape, np.float32)


BUILT_IN: Mapping[str, Labeller] = MappingProxyType(
    {
        "semantic-lens": SemanticLens(),
        "semantic-lens-weighted": SemanticLens(aggregate="weighted"),
        "semantic-lens-median": SemanticLens(aggregate="median"),
        "semantic-lens-centred-images": SemanticLens(centred="images"),
        "semantic-lens-centred-words": SemanticLens(centred="words"),
        "semantic-lens-centred": SemanticLens(centred="both"),
        "clip-dissect": SoftWPMI(),
        "clip-dissect-weighted": WeightedDissect(),
        "soft-wpmi": SoftWPMI(top=30, temperature=3.0),
        "wpmi": WPMI(),
        "cos-cubed": CosCubed(),
        "rank-reorder": RankReorder(),
        "invert": Invert(),
        "invert-annotations": AnnotatedInvert(),
        "csp": ContrastiveProjection(),
        "linear-explanation": LinearExplanation(),
        "correlation": Correlation(),
        "vote": Vote(),
        "vote-examples": ExampleVote(),
        "random": RandomLabels(),
    }
)
"""The methods of semlens, with their default parameters."""


def labeller_names() -> list[str]:
    """Return the names of all methods: those of semlens, then those of plug-ins."""
    return [*BUILT_IN, *sorted({point.name for point in plug_ins(LABELLERS)} - set(BUILT_IN))]


def make_labeller(name: str, **parameters: Any) -> Labeller:
    """Return a method by name: of semlens, or an entry point of the group ``semlens.labellers``.

    Parameters
    ----------
    **parameters
        Parameters other than those it goes by.

    Raises
    ------
    RecipeError
        If there is no such method, several plug-ins have it, the plug-in cannot be loaded, or a
        parameter is invalid.

    Examples
    --------
    >>> make_labeller("csp", gamma=1.0).gamma
    1.0
    """
    points = [point for point in plug_ins(LABELLERS) if point.name == name]
    if len(points) + (name in BUILT_IN) > 1:
        owners = ["semlens"] * (name in BUILT_IN) + [owner(point) for point in points]
        raise RecipeError(
            f"The labelling method '{name}' is provided by {', '.join(sorted(owners))}.",
            "Expected one provider of each name.",
            "Uninstall the others.",
        )
    if not points and name not in BUILT_IN:
        known = labeller_names()
        raise RecipeError(
            f"There is no labelling method '{name}'. The closest names are {nearest(name, known)}.",
            f"Expected {', '.join(known)}.",
            "Choose one of them, or install the plug-in that has it.",
        )
    method = _load(points[0]) if points else BUILT_IN[name]
    return type(method)(**{**method.model_dump(), **parameters}) if parameters else method


def _load(point: EntryPoint) -> Labeller:
    try:
        found = point.load()
        method = found() if isinstance(found, type) else found
    except Exception as error:  # a plug-in's module may fail in any way
        raise RecipeError(
            f"The labelling method '{point.name}' of '{owner(point)}' cannot be loaded "
            f"({type(error).__name__}: {error}).",
            f"Expected a Labeller, or a subclass whose parameters have defaults, at {point.value}.",
            "Repair or uninstall the plug-in.",
        ) from error
    if not isinstance(method, Labeller):
        raise RecipeError(
            f"The labelling method '{point.name}' of '{owner(point)}' is a "
            f"{type(method).__name__}.",
            f"Expected a Labeller, or a subclass whose parameters have defaults, at {point.value}.",
            "Repair or uninstall the plug-in.",
        )
    return method
