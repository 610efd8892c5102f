"""Where the labels come from that a question shows beside its results."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, cast

from semlens.lenses.concepts import Concepts, remote_concepts
from semlens.lenses.labelling.component_names import NAMES, ComponentNames, component_names
from semlens.lenses.labelling.label import VOCABULARY, label
from semlens.lenses.labelling.labels import Labels
from semlens.settings import Remote, setting
from semlens.store.reader import Database
from semlens.types import Component, Layers

NO_LABELS = "none"
ComponentLabels = Labels | ComponentNames | Mapping[Component, str] | None
"""Labels by component; None for no labels."""
LabelSource = Annotated[
    Concepts | Labels | Mapping[Component, str] | None,
    setting(
        "Concepts that label the components: file, folder or name of a bundled set; repeat to "
        "combine several; 'names' for the newest saved labels, or else the paper's vocabulary; "
        "'none' for no labels."
    ),
    Remote(
        str | list[str],
        "concepts",
        lambda database, source: (
            source if source in (NAMES, NO_LABELS) else remote_concepts(database, source)
        ),
        "Labels: 'names' for the newest saved ones, names of bundled concept sets, texts, or "
        "'none'.",
    ),
]
"""Source of the labels that a question shows."""


class UnlabelledWarning(UserWarning):
    """Components have no labels because the database's embedder reads no texts."""


def as_labels(
    database: Database,
    source: LabelSource,
    layers: Layers = None,
    threshold: float | None = None,
) -> ComponentLabels:
    """Return the labels of components of some layers, from any kind of source.

    Concepts give the labels that ``db.label`` gives by default. ``names`` are those that
    components have everywhere; with a threshold, labels of the paper's vocabulary.

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
    if source in (NAMES, VOCABULARY) and not database.embedder.has_text:
        saved = component_names(database) if source == NAMES else None
        if saved is not None:
            return saved
        message = "Components have no labels because the database's embedder reads no texts."
        warnings.warn(message, UnlabelledWarning, stacklevel=4)
        return None
    if source == NAMES:
        if threshold is None:
            return component_names(database, layers)
        source = VOCABULARY
    return label(database, cast(Concepts, source), layers=layers, threshold=threshold)


def label_of(labels: ComponentLabels, component: Component) -> str | None:
    """Return the label of a component, or None."""
    if isinstance(labels, Labels | ComponentNames):
        return labels.of(component)
    return None if labels is None else labels.get(component)
