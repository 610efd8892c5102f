"""Provenance of components: relevance by class, and the samples of their examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int64

from semlens.lenses.classes import class_name
from semlens.lenses.scores import clarity
from semlens.store import file_names
from semlens.store.reader import Database


def clarity_of_rows(
    database: Database, rows: Int64[np.ndarray, " n"], chunk: int = 512
) -> Float32[np.ndarray, " n"]:
    """Return the clarity of components (Eq. 7); NaN with fewer than two examples."""
    value = np.full(len(rows), np.nan, np.float32)
    for entry in database.manifest.layers:
        in_layer = np.flatnonzero((rows >= entry.first) & (rows < entry.first + entry.rows))
        if not len(in_layer):
            continue
        index, used = database.crop_index(entry.name)
        for start in range(0, len(in_layer), chunk):
            block = in_layer[start : start + chunk]
            positions = rows[block] - entry.first
            vectors = torch.from_numpy(database.crop_vectors[index[positions]]).float()
            value[block] = clarity(vectors, torch.from_numpy(used[positions])).numpy()
    return value


def relevance_by_class(
    database: Database, rows: Int64[np.ndarray, " n"], layers: Sequence[str]
) -> pd.DataFrame:
    """Return the components' relevance for every class, largest mean first."""
    table: Any = database.relevance(None, layers)
    table = table[table["component"].isin(rows)]
    order = pd.Series(np.arange(len(rows)), rows)
    table = table.assign(order=table["component"].map(order))
    table = table.sort_values(["order", "mean", "class"], ascending=[True, False, True])
    return pd.DataFrame(
        {
            "row": table["component"].to_numpy(),
            "class": [class_name(database, int(logit)) for logit in table["class"]],
            "logit": table["class"].to_numpy(),
            "mean": table["mean"].to_numpy(),
            "max": table["max"].to_numpy(),
        }
    )


def share_among_classes(
    classes: pd.DataFrame, rows: Int64[np.ndarray, " n"], target: int
) -> pd.DataFrame:
    """Return a class's share of each component's relevance over all classes, and its rank.

    Only classes with a positive mean relevance count.
    """
    positive: Any = classes[classes["mean"] > 0]
    means = positive.groupby("row")["mean"]
    share, rank = positive["mean"] / means.transform("sum"), means.cumcount() + 1
    is_target = positive["logit"] == target
    frame = pd.DataFrame(
        {"class_share": share[is_target].to_numpy(), "class_rank": rank[is_target].to_numpy()},
        index=positive.loc[is_target, "row"].to_numpy(),
    ).reindex(rows)
    frame["class_share"] = frame["class_share"].fillna(0.0)
    frame["class_rank"] = frame["class_rank"].astype("Int64")
    frame["classes"] = means.size().reindex(rows, fill_value=0).to_numpy()
    return frame.reset_index(drop=True)


def example_files(database: Database, rows: Int64[np.ndarray, " n"]) -> pd.DataFrame:
    """Return the concept examples of the components, with the class of each sample.

    What ranks them is a column ``activation`` or ``relevance``. The class is the name of the
    sample's logit, or else its name in the data.
    """
    tables: list[pd.DataFrame] = []
    for entry in database.manifest.layers:
        in_layer = rows[(rows >= entry.first) & (rows < entry.first + entry.rows)]
        if len(in_layer):
            file = file_names.examples_file(entry.name)
            columns = ["component", "sample", "activation", "crop"]
            table = database.files.table(file, columns).to_pandas()  # strongest first
            tables.append(table[table["component"].isin(in_layer) & table["crop"].notna()])
    frame: Any = (
        pd.concat(tables) if tables else pd.DataFrame(columns=["component", "sample", "activation"])
    )
    order = pd.Series(np.arange(len(rows)), rows)
    frame = frame.assign(order=frame["component"].map(order)).sort_values("order", kind="stable")
    samples = database.samples.iloc[frame["sample"].to_numpy(np.int64)]
    frame = pd.DataFrame(
        {
            "row": frame["component"].to_numpy(np.int64),
            "rank": frame.groupby("component").cumcount().to_numpy() + 1,
            "path": samples["path"].to_numpy(),
            database.manifest.recipe.rank: frame["activation"].to_numpy(np.float64),
            "sample": samples.index.to_numpy(),
        }
    )
    logits = samples["logit"].astype("Int64").array
    names = [
        target or None if pd.isna(logit) else class_name(database, int(logit))
        for logit, target in zip(logits, samples["target"], strict=True)
    ]
    frame.insert(3, "class", pd.Series(names, dtype=object))
    frame.insert(4, "logit", logits)
    return frame


def summarize_examples(
    files: pd.DataFrame, rows: Int64[np.ndarray, " n"], target: int
) -> pd.DataFrame:
    """Return the number of examples, the number of the class, and the most common class.

    The number of the class is missing for a component of whose examples no logit is known.
    """
    files_by_row: dict[Any, Any] = dict(iter(files.groupby("row")))
    records: list[dict[str, Any]] = []
    for row in rows:
        examples = files_by_row.get(row, files.iloc[:0])
        most_common = Counter(examples["class"].dropna()).most_common(1)
        records.append(
            {
                "examples": len(examples),
                "of_class": (examples["logit"] == target).sum()
                if examples["logit"].notna().any()
                else pd.NA,
                "examples_show": "".join(
                    f"{count} of {len(examples)} '{name}'" for name, count in most_common
                ),
            }
        )
    frame = pd.DataFrame(records, columns=["examples", "of_class", "examples_show"])
    return frame.astype({"of_class": "Int64"})
