"""What a database holds: the first thing that an agent asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.concept_database import ConceptDatabase
from semlens.draw.example_sheet import sheet
from semlens.draw.text_table import titled_table
from semlens.lenses.describe.database_warnings import DatabaseWarning, database_warnings
from semlens.lenses.describe.overview import class_table, describe_settings, notable_rows
from semlens.lenses.labelling.component_labels import shown_names
from semlens.lenses.result import Result
from semlens.mcp.image_access import ImageAccess

NOTABLE, EXAMPLES = 8, 6
"""Components in the picture, and examples of each."""
SHOWN = 20
"""Classes and images in the text."""


@dataclass(frozen=True, repr=False)
class Overview(Result):
    """The layers, classes, images and warnings of a database."""

    database: ConceptDatabase
    name: str
    databases: tuple[str, ...]
    """Names of all databases that are served."""
    frame: pd.DataFrame
    """One row per layer."""
    classes: pd.DataFrame
    """Classes with samples: target, name, samples."""
    warnings: tuple[DatabaseWarning, ...]
    images: tuple[str, ...]
    """Files that the user allowed, below the folder of images."""

    @classmethod
    def of(
        cls, database: ConceptDatabase, name: str, databases: tuple[str, ...], access: ImageAccess
    ) -> Overview:
        """Read it from a database; no model is loaded."""
        return cls(
            database,
            name,
            databases,
            database.summary(),
            class_table(database),
            tuple(database_warnings(database)),
            access.listed(),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        manifest = self.database.manifest
        return {
            "database": self.name,
            "databases": list(self.databases),
            "model": manifest.model.spec,
            "data": manifest.data.spec,
            "embedder": manifest.embedder.spec,
            "samples": manifest.samples,
            "components": manifest.rows,
            "settings": dict(describe_settings(manifest)),
            "layers": self.frame.to_dict("records"),
            "classes": self.classes.to_dict("records"),
            "warnings": [
                {"text": warning.text, "remedy": warning.remedy} for warning in self.warnings
            ],
            "images": list(self.images),
        }

    def plot(self) -> Image.Image:
        """Draw examples of the components with the largest relevance for any class."""
        rows = notable_rows(self.database, NOTABLE)
        components = [self.database.component(int(row)) for row in rows]
        names = shown_names(self.database, components)
        labels = [None if n == str(c) else n for n, c in zip(names, components, strict=True)]
        return sheet(
            self.database, rows.tolist(), EXAMPLES, names=labels, title="Most relevant components"
        )

    def __rich__(self) -> RenderableType:
        """Return the tables and the warnings."""
        values, count = self.to_json(), len(self.classes)
        lines = [
            f"{name}: {values[name]}"
            for name in ("database", "model", "embedder", "samples", "components", "data")
        ]
        if len(self.databases) > 1:
            lines.append(f"databases: {', '.join(self.databases)}")
        lines += [f"{title}: {text}" for title, text in values["settings"].items()]
        if self.images:
            shown, more = self.images[:SHOWN], len(self.images) - SHOWN
            rest = f" and {more} more" if more > 0 else ""
            lines.append(f"allowed images: {', '.join(shown)}{rest}")
        title = f"Classes with samples{f', {SHOWN} of {count}' if count > SHOWN else ''}"
        return Group(
            Text("\n".join([*lines, ""])),
            *titled_table("Layers", self.frame),
            *titled_table(title, self.classes.head(SHOWN)),
            *(Text(f"Warning: {warning.text} {warning.remedy}") for warning in self.warnings),
        )
