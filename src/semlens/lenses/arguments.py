"""Parameter types of lenses: what callers may give, and what the function gets.

Each is read once, by ``@lens``, before the function runs.
"""

from __future__ import annotations

from typing import Annotated

from semlens.lenses.classes import find_class
from semlens.lenses.correct.component_files import resolve_components
from semlens.settings import Reads, setting
from semlens.store.reader import Database
from semlens.types import REMOTE_COMPONENTS, Component, as_list
from semlens.types import Components as ComponentsLike

ClassLike = int | str
"""A class, by name or by logit index."""


def _optional_class(database: Database, target: ClassLike | None) -> int | None:
    return None if target is None else find_class(database, target)


def _classes(database: Database, targets: ClassLike | list[ClassLike] | None) -> list[int] | None:
    if targets is None:
        return None
    return list(dict.fromkeys(find_class(database, target) for target in as_list(targets)))


def _components(database: Database, components: ComponentsLike) -> list[Component]:
    return resolve_components(components, database)


Target = Annotated[int, Reads(ClassLike, find_class), setting("Class, by name or by logit index.")]
"""A class; the function gets its logit index."""
AnyTarget = Annotated[
    int | None, Reads(ClassLike | None, _optional_class), setting("Class, by name or logit index.")
]
"""A class or None; annotate it with another text where None means something else."""
Targets = Annotated[
    list[int] | None,
    Reads(ClassLike | list[ClassLike] | None, _classes),
    setting("Classes, by name or by logit index [all]."),
]
"""Several classes, or None; the function gets logit indices."""
Components = Annotated[
    list[Component],
    Reads(ComponentsLike, _components),
    REMOTE_COMPONENTS,
    setting("Components, such as layer4:17."),
]
"""Components, their names, or a result with components; each is in the database, and once."""
