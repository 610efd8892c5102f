"""Parameter types of lenses: what callers may give, and what the function gets.

Each is read once, by ``@lens``, before the function runs. Functions that a lens calls take what
has been read: a logit index, a list of components.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np

from semlens.errors import LayerError
from semlens.lenses.classes import count_or_numbers, find_class
from semlens.lenses.concepts import REMOTE_CONCEPTS, Concepts, ConceptSet, as_concepts
from semlens.lenses.database_targets import find_target
from semlens.models.target import Target as TargetObject
from semlens.settings import Reads, Remote, setting
from semlens.store.reader import Database
from semlens.types import REMOTE_COMPONENTS, Component, as_components, as_list
from semlens.types import Components as ComponentsLike

ClassLike = int | str
"""A class, by name or by logit index."""
TargetLike = int | str | TargetObject
"""A target, as an object or as it is written."""
SamplesLike = int | Sequence[int] | np.ndarray
"""A largest number of samples, or the numbers of any samples."""


def find_optional_target(database: Database, target: TargetLike | None) -> TargetObject | None:
    """Return a target, as :func:`find_target`; None stays None."""
    return None if target is None else find_target(database, target)


def find_optional_class(database: Database, target: ClassLike | TargetObject | None) -> int | None:
    """Return the logit index of a class, as :func:`find_class`; None stays None."""
    return None if target is None else find_class(database, target)


def find_classes(
    database: Database, names: ClassLike | TargetObject | Sequence[ClassLike | TargetObject] | None
) -> list[int] | None:
    """Return the logit indices of classes, each once; None stays None."""
    if names is None:
        return None
    return list(dict.fromkeys(find_class(database, name) for name in as_list(names)))


def distinct_components(components: ComponentsLike) -> list[Component]:
    """Return a list of distinct components.

    Raises
    ------
    LayerError
        If there are none, or a name has another form.
    """
    distinct = list(dict.fromkeys(as_components(components)))
    if not distinct:
        raise LayerError(
            "No component is given.",
            "Expected at least one, as LAYER:INDEX.",
            "Find components with 'semlens search DB TEXT' or 'semlens audit DB'.",
        )
    return distinct


def find_components(database: Database, components: ComponentsLike) -> list[Component]:
    """Return :func:`distinct_components`, which are checked to be in the database."""
    return find_any_components(database, distinct_components(components))


def find_any_components(database: Database, components: ComponentsLike) -> list[Component]:
    """Return a list of distinct components, each in the database; there may be none."""
    distinct = list(dict.fromkeys(as_components(components)))
    database.rows_of(distinct)
    return distinct


def _samples(_: Database, samples: SamplesLike | None) -> int | list[int] | None:
    return None if samples is None else count_or_numbers(samples)


def _concepts(_: object, concepts: Concepts) -> ConceptSet:
    return as_concepts(concepts)


def _optional_concepts(_: object, concepts: Concepts | None) -> ConceptSet | None:
    return None if concepts is None else as_concepts(concepts)


REMOTE_TARGET = Remote(int | str, "class", help="Class by name or number, or another target.")
"""How a page or an agent gives a target."""
Target = Annotated[
    TargetObject,
    Reads(TargetLike, find_target),
    REMOTE_TARGET,
    setting("Class by name or number, or another target, such as 'cat - dog'."),
]
"""What is asked about, see :class:`semlens.Target`; the function gets a target with numbers."""
AnyTarget = Annotated[
    TargetObject | None,
    Reads(TargetLike | None, find_optional_target),
    Remote(int | str | None, "class", help=REMOTE_TARGET.help),
    setting("Class by name or number, or another target, such as 'cat - dog'."),
]
"""As :data:`Target`, or None; annotate it with another text where None means something else."""
Class = Annotated[int, Reads(ClassLike, find_class), setting("Class, by name or by logit index.")]
"""A class, for questions that compare images of classes; the function gets its logit index."""
AnyClass = Annotated[
    int | None,
    Reads(ClassLike | None, find_optional_class),
    setting("Class, by name or logit index."),
]
"""A class or None; annotate it with another text where None means something else."""
Classes = Annotated[
    list[int] | None,
    Reads(ClassLike | list[ClassLike] | None, find_classes),
    setting("Classes, by name or by logit index [all]."),
]
"""Several classes, or None; the function gets logit indices."""
Components = Annotated[
    list[Component],
    Reads(ComponentsLike, find_components),
    REMOTE_COMPONENTS,
    setting("Components, such as layer4:17."),
]
"""Components, their names, or a result with components; each is in the database, and once."""
LabelConcepts = Annotated[
    ConceptSet,
    Reads(Concepts, _concepts),
    REMOTE_CONCEPTS,
    setting("File, folder or name of a bundled concept set; repeat to combine several."),
]
"""Concepts that components are labelled with; the function gets one set."""
OptionalConcepts = Annotated[
    ConceptSet | None,
    Reads(Concepts | None, _optional_concepts),
    REMOTE_CONCEPTS,
    setting("File, folder or name of a bundled concept set for labels, or none; can be repeated."),
]
"""Concepts, for lenses in which labels are optional."""
AnyComponents = Annotated[
    Sequence[Component],
    Reads(ComponentsLike, find_any_components),
    REMOTE_COMPONENTS,
    setting("Components, such as layer4:17 [none]."),
]
"""As :data:`Components`, but there may be none."""
Samples = Annotated[
    int | list[int],
    Reads(SamplesLike, _samples),
    setting("Maximum number of images of the class.", ge=1),
]
"""Largest number of samples of the class, or the indices of any samples."""
AnySamples = Annotated[
    int | list[int] | None,
    Reads(SamplesLike | None, _samples),
    setting("Maximum number of images of the class.", ge=1),
]
"""As :data:`Samples`, or None."""
