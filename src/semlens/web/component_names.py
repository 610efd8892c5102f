"""Names of all components of a model: the label of each, from one source for the whole page."""

from __future__ import annotations

import numpy as np

from semlens.lenses.labelling.component_names import ComponentNames, unnamed
from semlens.lenses.saved_labels import PREFIX
from semlens.web.app_state import AppState, ModelContext
from semlens.web.label_sources import label_rows, label_source


def component_names(context: ModelContext, state: AppState) -> ComponentNames | None:
    """Return the names that components have on the command line as well.

    The rankings behind them are shared with the label candidates of the cards.

    Raises
    ------
    JobPending
        While the components are being labelled.
    """
    source = label_source(context, None)
    if source is None:
        return None
    db = context.db
    key = f"names {context.number} {source} {db.list_analyses(PREFIX)}"
    rows = np.flatnonzero(db.has_examples)
    if state.jobs.finished(key) is None:
        # one component per layer, so that each layer's labels are a job of their own
        layers = np.searchsorted([entry.first for entry in db.manifest.layers], rows, "right")
        first = rows[np.unique(layers, return_index=True)[1]]
        label_rows(context, state, source, first.tolist(), top=2)

    def compute() -> ComponentNames:
        frame = unnamed(db)
        found = label_rows(context, state, source, rows.tolist(), top=2)
        frame.loc[rows, "label"] = [one and one.label for one in found]
        frame.loc[rows, "rival"] = [one and one.rival for one in found]
        frame.loc[rows, "confidence"] = [np.nan if one is None else one.confidence for one in found]
        method = next((one.method for one in found if one is not None), "")
        return ComponentNames(source, method, frame.astype({"confidence": np.float64}), db)

    return state.jobs.result(key, "Reading the labels", compute, short=True)
