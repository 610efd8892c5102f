"""Which components to show where there is no room for all."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from semlens.analysis.scores import scores
from semlens.store.reader import Database


def notable(database: Database, count: int) -> Int64[np.ndarray, " n"]:
    """Return the rows of components with examples, ``count`` at most, in row order.

    The first are those with the largest share of relevance for some class, or, in a database
    without class relevance, the clearest ones (paper, Eq. 6).
    """
    rows = np.flatnonzero(database.has_examples).astype(np.int64)
    if len(rows) <= count:
        return rows
    weight = np.zeros(database.manifest.rows)
    if database.manifest.relevance is not None:
        found = database.relevance()
        np.maximum.at(weight, found["component"].to_numpy(), found["mean"].abs().to_numpy())
    else:
        weight[:] = np.nan_to_num(scores(database).frame["clarity"].to_numpy(float), nan=-1.0)
    first = np.lexsort((rows, -weight[rows]))[:count]
    return np.sort(rows[first])
