"""Where the labels of components come from: concepts, labels that were made before, or nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, cast

from semlens.analysis.concepts import Concepts
from semlens.analysis.label import THRESHOLD, VOCABULARY, Labels, label
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component, Layers

NO_LABELS = "none"
Named = Labels | Mapping[Component, str] | None
"""Labels by component; None for no labels."""
LabelSource = Annotated[
    Concepts | Labels | Mapping[Component, str] | None,
    setting(
        "Concepts that label the components: a file, a folder or a bundled set; given again, "
        "sets are joined; 'none' for no labels."
    ),
]
"""What labels are taken from wherever a question shows some."""


class UnlabelledWarning(UserWarning):
    """There are no labels, because the database's embedder reads no texts."""


def as_labels(
    database: Database, source: LabelSource, layers: Layers = None, threshold: float = THRESHOLD
) -> Named:
    """Return labels of some layers' components, however they are asked for.

    Raises
    ------
    ConceptError
        If there is no such concept set.
    """
    if source is None or source == NO_LABELS:
        return None
    if isinstance(source, Labels):
        return source
    if isinstance(source, Mapping) and all(isinstance(key, Component) for key in source):
        return cast(Mapping[Component, str], source)
    if source == VOCABULARY and not database.embedder.has_text:
        said = "Components have no labels: the database's embedder reads no texts."
        warnings.warn(said, UnlabelledWarning, stacklevel=4)
        return None
    return label(database, cast(Concepts, source), layers=layers, threshold=threshold)


def label_of(labels: Named, component: Component) -> str | None:
    """Return the label of a component, or None."""
    if isinstance(labels, Labels):
        return labels.of(component)
    return None if labels is None else labels.get(component)
