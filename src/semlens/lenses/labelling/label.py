"""The question of labels: which concept of a set describes each component (paper, 4.1.2, D.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from semlens.lens import lens
from semlens.lenses.arguments import LabelConcepts
from semlens.lenses.labelling.chosen_method import LabelMethod, choose_method
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.labels import Labels
from semlens.lenses.labelling.mixed import check_labels
from semlens.lenses.labelling.ranking import rank_words
from semlens.lenses.labelling.scored_blocks import layer_places
from semlens.lenses.labelling.stability import stability as label_stability
from semlens.lenses.query_embedding import embed_concepts
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

VOCABULARY: Any = "paper-vocabulary"
"""Default concept set of labels. A default is read as what callers give; hence Any."""
LabelThreshold = Annotated[
    float | None, setting("Minimum score of a label [calibrated: above noise].")
]
"""Minimum score of a label; None calibrates it."""


@lens("embedder", group="Search", command="")
def label(
    database: Database,
    concepts: LabelConcepts = VOCABULARY,
    *,
    layers: Layers = None,
    method: LabelMethod = None,
    kappa: Annotated[
        float | None,
        setting("How specific words are: 0 general, 1 specific; for votes [0.5].", ge=0, le=2),
    ] = None,
    threshold: LabelThreshold = None,
    candidates: Annotated[int, setting("Candidates per component.", ge=1)] = 3,
    stability: Annotated[
        int, setting("Bootstrap samples of the images, for a column 'stability'.", ge=0)
    ] = 0,
    templates: Sequence[str] | None = None,
) -> Labels:
    """Label components with the concepts of a set.

    A label must be above noise, otherwise the component has no label. Where fewer than half of the
    examples show the word, the label names what they show instead, such as ``mixed: leaf, clock``
    (:mod:`semlens.lenses.labelling.mixed`). Components without examples are excluded.

    Parameters
    ----------
    method
        Name of a method (:mod:`semlens.lenses.labelling`, or a plug-in), or a method with
        parameters (:func:`semlens.lenses.labelling.registry.make_labeller`). The default is
        ``vote`` if the database has a reference sample, and ``vote-examples`` if not.
    kappa
        For methods with this parameter.
    threshold
        By default it is calibrated for each layer: of components with random examples, 5 % get a
        label. Methods that score all components together (clip-dissect, soft-wpmi, wpmi) have no
        such threshold and label every component. The paper has 0.025 (D.3), for semantic-lens.
    stability
        All components are labelled again with so many samples
        (:mod:`semlens.lenses.labelling.stability`).

    Raises
    ------
    ConceptError
        If there is no such concept set, or the database lacks what the method needs.
    EmbedderError
        If a concept is a text and the embedder reads no texts.
    RecipeError
        If there is no such method, or it has no kappa.
    """
    chosen = choose_method([database], method, len(concepts), kappa)
    embedding = embed_concepts(database, concepts, templates)
    rows = database.rows(layers)
    rows = rows[database.has_examples[rows]]
    count = min(candidates, len(concepts))
    ranked = rank_words(
        database, rows, embedding, chosen, names=2, entries=count, threshold=threshold
    )
    ranked = check_labels(database, ranked, embedding, chosen)
    name_ids = np.unique(embedding.names, return_inverse=True)[1]
    # a name may be in several categories: the margin is to the next other name
    other = name_ids[ranked.concept] != name_ids[ranked.concept[:, :1]]
    runner_up = ranked.score[np.arange(len(rows)), other.argmax(1)]
    margin = np.where(other.any(1), ranked.score[:, 0] - runner_up, np.nan).astype(np.float32)
    stable = np.full(len(rows), np.nan, np.float32)
    for layer, place in layer_places(database, rows) if stability else ():
        evidence = layer_evidence(database, layer, embedding, rows[place])
        stable[place] = label_stability(
            evidence, chosen.labeller, names=embedding.names, draws=stability
        )
    return Labels(
        concepts, threshold, rows, ranked.concept[:, :count], ranked.score[:, :count],
        margin, ranked.thresholds, ranked.confidence, stable,
        ranked.labels(embedding.names), ranked.shown, database, chosen,
    )  # fmt: skip
