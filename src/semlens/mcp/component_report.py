"""Everything about one component: label, statistics, examples, classes and similar components."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.concept_database import ConceptDatabase
from semlens.draw.text_table import titled_table
from semlens.lenses.describe.component_card import (
    ClassShare,
    ComponentCard,
    Measure,
    card,
    class_relevances,
    measures,
)
from semlens.lenses.describe.neighbours import Neighbour, neighbours
from semlens.lenses.labelling.component_labels import ComponentNames, component_names
from semlens.lenses.result import Result
from semlens.types import Component


@dataclass(frozen=True, repr=False)
class ComponentReport(Result):
    """What is known about one component."""

    database: ConceptDatabase
    card: ComponentCard
    names: ComponentNames | None
    measures: tuple[Measure, ...]
    classes: tuple[ClassShare, ...]
    """Empty if the database has no class relevance."""
    neighbours: tuple[Neighbour, ...]
    examples: int
    """Number of examples that are shown."""

    @classmethod
    def of(cls, database: ConceptDatabase, component: str, examples: int) -> ComponentReport:
        """Read it from a database.

        Raises
        ------
        LayerError
            If there is no such component.
        """
        row = int(database.rows_of(component)[0])
        layer = database.layer(database.component(row).layer)
        has_examples = bool(database.has_examples[row])
        return cls(
            database,
            card(database, row),
            component_names(database),
            measures(database.scores([layer.name]).frame, row - layer.first),
            () if database.manifest.relevance is None else class_relevances(database, row),
            neighbours(database, row) if has_examples else (),
            examples,
        )

    @property
    def component(self) -> Component:
        """The component."""
        return self.card.component

    def _label(self, component: Component) -> dict[str, Any]:
        """Return label, rival and confidence of a component."""
        if self.names is None:
            return {"label": None, "rival": None, "confidence": None}
        record = self.names.frame.iloc[self.database.row(component)]
        known = record["confidence"]
        return {
            "label": record["label"],
            "rival": record["rival"],
            "confidence": float(known) if pd.notna(known) else None,
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per example, strongest first."""
        return pd.DataFrame(
            {
                "rank": example.rank + 1,
                "sample": example.sample,
                "path": example.path,
                "class": example.class_name,
                "activation": example.activation,
                "box": list(example.box.as_tuple()),
            }
            for example in self.card.examples[: self.examples]
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "component": str(self.component),
            **self._label(self.component),
            "labels_from": None if self.names is None else self.names.source,
            "statistics": [asdict(statistic) for statistic in self.card.statistics],
            "measures": [
                {"name": m.name, "value": m.value, "below": m.below} for m in self.measures
            ],
            "classes": [asdict(share) for share in self.classes],
            "neighbours": [
                {
                    "component": str(near.component),
                    "label": self._label(near.component)["label"],
                    "cosine": near.cosine,
                }
                for near in self.neighbours
            ],
            "examples": self.to_pandas().to_dict("records"),
        }

    def plot(self) -> Image.Image:
        """Draw the examples; what the component does not respond to is darkened."""
        return self.database.show(self.component, self.examples, mask=True)

    def __rich__(self) -> RenderableType:
        """Return the label and the tables."""
        values = self.to_json()
        label, rival, confidence = (values[name] for name in ("label", "rival", "confidence"))
        named = f"'{label}'" if label else "no label"
        named += f" or '{rival}'" if rival else ""
        named += "" if confidence is None else f", confidence {confidence:.2f}"
        classes = pd.DataFrame(values["classes"]).drop(columns="logit", errors="ignore")
        shares = classes.rename(columns={"name": "class"})
        return Group(
            Text(f"{self.component}: {named} (labels: {values['labels_from'] or 'none'})\n"),
            *titled_table("Statistics over all images", pd.DataFrame(values["statistics"])),
            *titled_table(
                "Interpretability; below: share of the layer's components with a lower value",
                pd.DataFrame(values["measures"]).astype({"value": np.float64, "below": np.float64}),
            ),
            *_table("Relevance for classes, as shares of the layer's relevance", shares),
            *_table("Most similar components", pd.DataFrame(values["neighbours"])),
            *_table("Strongest examples", self.to_pandas()),
        )


def _table(title: str, frame: pd.DataFrame) -> list[RenderableType]:
    """Return a titled table, or nothing without rows."""
    return titled_table(title, frame) if len(frame) else []
