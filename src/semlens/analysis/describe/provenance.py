"""What stands behind components: the classes that they drive, and the samples they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int64

from semlens.analysis.classes import class_name
from semlens.analysis.scores import clarity
from semlens.store.reader import Database


def clarity_of(
    database: Database, rows: Int64[np.ndarray, " n"], chunk: int = 512
) -> Float32[np.ndarray, " n"]:
    """Return the clarity of some components (Eq. 7); NaN with fewer than two examples."""
    value = np.full(len(rows), np.nan, np.float32)
    for entry in database.manifest.layers:
        mine = np.flatnonzero((rows >= entry.first) & (rows < entry.first + entry.rows))
        if not len(mine):
            continue
        index, used = database.crop_index(entry.name)
        for start in range(0, len(mine), chunk):
            part = mine[start : start + chunk]
            place = rows[part] - entry.first
            vectors = torch.from_numpy(database.crop_vectors[index[place]]).float()
            value[part] = clarity(vectors, torch.from_numpy(used[place])).numpy()
    return value


def driven_classes(
    database: Database, rows: Int64[np.ndarray, " n"], layers: Sequence[str]
) -> pd.DataFrame:
    """Return the components' relevance for every class, the largest mean first."""
    table: Any = database.relevance(None, layers)
    table = table[table["component"].isin(rows)]
    order = pd.Series(np.arange(len(rows)), rows)
    table = table.assign(place=table["component"].map(order))
    table = table.sort_values(["place", "mean", "class"], ascending=[True, False, True])
    return pd.DataFrame(
        {
            "row": table["component"].to_numpy(),
            "class": [class_name(database, int(logit)) for logit in table["class"]],
            "logit": table["class"].to_numpy(),
            "mean": table["mean"].to_numpy(),
            "max": table["max"].to_numpy(),
        }
    )


def among_classes(
    classes: pd.DataFrame, rows: Int64[np.ndarray, " n"], target: int
) -> pd.DataFrame:
    """Return the class's part in what a component does for all classes, and its rank there.

    Only classes that a component speaks for on average count.
    """
    part: Any = classes[classes["mean"] > 0]
    group = part.groupby("row")["mean"]
    share, rank = part["mean"] / group.transform("sum"), group.cumcount() + 1
    mine = part["logit"] == target
    frame = pd.DataFrame(
        {"class_share": share[mine].to_numpy(), "class_rank": rank[mine].to_numpy()},
        index=part.loc[mine, "row"].to_numpy(),
    ).reindex(rows)
    frame["class_share"] = frame["class_share"].fillna(0.0)
    frame["class_rank"] = frame["class_rank"].astype("Int64")
    frame["classes"] = group.size().reindex(rows, fill_value=0).to_numpy()
    return frame.reset_index(drop=True)


def example_files(database: Database, rows: Int64[np.ndarray, " n"]) -> pd.DataFrame:
    """Return the concept examples of the components, with the class of each sample.

    It is the name of the sample's logit, else its name in the data.
    """
    records = [
        {
            "row": int(row),
            "rank": rank,
            "path": example.path,
            "activation": example.activation,
            "sample": example.sample,
        }
        for row in rows
        for rank, example in enumerate(database.examples_of(int(row)), start=1)
    ]
    frame = pd.DataFrame(records, columns=["row", "rank", "path", "activation", "sample"])
    known = database.samples.iloc[frame["sample"].to_numpy(np.int64)]
    logits = known["logit"].astype("Int64").array
    names = [
        text or None if pd.isna(logit) else class_name(database, int(logit))
        for logit, text in zip(logits, known["target"], strict=True)
    ]
    frame.insert(3, "class", pd.Series(names, dtype=object))
    frame.insert(4, "logit", logits)
    return frame


def examples_shown(files: pd.DataFrame, rows: Int64[np.ndarray, " n"], target: int) -> pd.DataFrame:
    """Return how many examples there are, how many of the class, and the most usual class."""
    mine: dict[Any, Any] = dict(iter(files.groupby("row")))
    records: list[dict[str, Any]] = []
    for row in rows:
        part = mine.get(row, files.iloc[:0])
        usual = Counter(part["class"].dropna()).most_common(1)
        records.append(
            {
                "examples": len(part),
                "of_class": int((part["logit"] == target).fillna(False).sum()),
                "examples_show": "".join(f"{n} of {len(part)} '{name}'" for name, n in usual),
            }
        )
    return pd.DataFrame(records, columns=["examples", "of_class", "examples_show"])
