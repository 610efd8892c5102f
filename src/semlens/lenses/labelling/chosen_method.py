"""The labelling method of a question: by name or with parameters, or the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from semlens.errors import RecipeError
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.registry import BUILT_IN, make_labeller
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.version import __version__

DEFAULT_METHOD = "vote"
"""Method for databases with a reference sample."""
DEFAULT_WITHOUT_REFERENCE = "vote-examples"
"""Method for databases without one, or with a small one."""
SMALLEST_REFERENCE = 100
"""Images of a reference sample that is large enough: :class:`Vote` looks at the strongest 8 %."""
PAPER_METHOD = "semantic-lens"
"""Method of the paper, and for a single concept: votes compare concepts with one another."""


def default_method(databases: Sequence[Database], concepts: int) -> str:
    """Return the best method for some databases, the same for all, and a number of concepts."""
    if concepts < 2:
        return PAPER_METHOD
    sizes = [0 if db.reference is None else len(db.reference) for db in databases]
    return DEFAULT_METHOD if min(sizes) >= SMALLEST_REFERENCE else DEFAULT_WITHOUT_REFERENCE


LabelMethod = Annotated[
    str | Labeller | None,
    setting(
        "Labelling method, such as semantic-lens, csp or clip-dissect [vote, or vote-examples "
        "without a reference sample]."
    ),
]
"""A method by name, a method with parameters, or None for the default."""


@dataclass(frozen=True)
class ChosenMethod:
    """A labelling method, and the name that it goes by."""

    name: str
    labeller: Labeller

    def __str__(self) -> str:
        """Return the name, and parameters other than those that it stands for."""
        usual = BUILT_IN[self.name].model_dump() if self.name in BUILT_IN else {}
        other = {k: v for k, v in self.parameters.items() if usual.get(k, v) != v}
        values = ", ".join(f"{key}={value}" for key, value in other.items())
        return f"{self.name} ({values})" if values else self.name

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters, as plain values."""
        return self.labeller.model_dump(mode="json")

    @property
    def uses_concept_vectors(self) -> bool:
        """Whether it compares the concept vectors of the database, which are there already."""
        return self.labeller == BUILT_IN[PAPER_METHOD]

    @property
    def key(self) -> list[object] | None:
        """What determines its scores; None for a method of a plug-in, which may change."""
        kind = type(self.labeller)
        built_in = kind.__module__.startswith(f"{__name__.partition('.')[0]}.")
        return [__version__, kind.__qualname__, self.parameters] if built_in else None


def choose_method(
    databases: Sequence[Database],
    method: str | Labeller | None,
    concepts: int,
    kappa: float | None = None,
) -> ChosenMethod:
    """Return the method that labels the components of some databases.

    Parameters
    ----------
    concepts
        Number of concepts to choose from.
    kappa
        Replaces this parameter of the method.

    Raises
    ------
    RecipeError
        If there is no such method, or it has no parameter ``kappa``.
    """
    if isinstance(method, Labeller):
        name, labeller = _name(method), method
    else:
        name = default_method(databases, concepts) if method is None else method
        labeller = make_labeller(name)
    if kappa is None:
        return ChosenMethod(name, labeller)
    if "kappa" not in type(labeller).model_fields:
        have = [key for key, one in BUILT_IN.items() if "kappa" in type(one).model_fields]
        raise RecipeError(
            f"'kappa' is {kappa:g}, and the method is '{name}', which has no such parameter.",
            f"Expected it with {' or '.join(have)}.",
            "Choose one of them, or leave kappa out.",
        )
    return ChosenMethod(name, type(labeller)(**{**labeller.model_dump(), "kappa": kappa}))


def _name(labeller: Labeller) -> str:
    """Return the built-in name with these parameters, or else with this class."""
    equal = [name for name, one in BUILT_IN.items() if one == labeller]
    of_class = [name for name, one in BUILT_IN.items() if type(one) is type(labeller)]
    return [*equal, *of_class, type(labeller).__name__][0]
