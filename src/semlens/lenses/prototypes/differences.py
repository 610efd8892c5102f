"""Components in which relevance differs from a reference, with their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from semlens.lenses.labelling.label_source import ComponentLabels, label_of
from semlens.store.reader import Database

LISTED = 10
"""Components that are listed for a prototype or an image."""
NAMED = 3
"""Components that are named in a table."""


@dataclass(frozen=True, eq=False)
class LayerComponents:
    """The components of a layer, with their labels."""

    database: Database
    layer: str
    labels: ComponentLabels

    @cached_property
    def _table(self) -> pd.DataFrame:
        rows = self.database.rows(self.layer)
        components = [self.database.component(int(row)) for row in rows]
        labels = [label_of(self.labels, component) for component in components]
        names = [str(component) for component in components]
        return pd.DataFrame(
            {"component": names, "label": pd.Series(labels, dtype=object), "row": rows}
        )

    def differences(
        self,
        values: Float64[np.ndarray, " k"],
        reference: Float64[np.ndarray, " k"],
        names: tuple[str, str],
    ) -> pd.DataFrame:
        """Return the components that differ most, largest difference first.

        Parameters
        ----------
        names
            Columns of the values and of the reference.

        Returns
        -------
        DataFrame
            ``component``, ``label``, the two columns, ``difference`` and ``row``.
        """
        difference = values - reference
        order = np.argsort(-np.abs(difference), kind="stable")[:LISTED]
        table = self._table.iloc[order].reset_index(drop=True)
        columns = {names[0]: values[order], names[1]: reference[order]}
        shares = pd.DataFrame({**columns, "difference": difference[order]})
        return pd.concat([table[["component", "label"]], shares, table[["row"]]], axis=1)


def caption(record: dict[str, Any]) -> str:
    """Return a component with its label and its difference in per cent."""
    label = f" {record['label']}" if record["label"] else ""
    return f"{record['component']}{label} {100 * record['difference']:+.1f} %"


def named(differences: pd.DataFrame) -> list[str]:
    """Return the captions of the components that differ most."""
    return [caption(record) for record in differences.head(NAMED).to_dict("records")]
