"""What every answer can do: be a table, values for a program, a plot, text, or a file."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from rich.console import Console, RenderableType

from semlens.errors import StoreError
from semlens.store.atomic_files import save_csv, save_table, save_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Chart: TypeAlias = "Figure"
"""What a plot is: matplotlib's figure, which is imported where one is drawn."""

PLOTS = (".png", ".svg", ".pdf")
"""What a chart can be saved as."""
PICTURES = (".png", ".jpg", ".webp")
"""What a sheet of pictures can be saved as."""
TABLES = (".csv", ".parquet", ".json")
ENDS = (*PLOTS, *TABLES)


class Result(ABC):
    """An answer: frozen, and the same for people, notebooks and programs.

    It is a table (:meth:`to_pandas`), plain values (:meth:`to_json`), a picture (:meth:`plot`),
    text (``print`` or ``repr``), and any of these as a file (:meth:`save`).
    """

    ends: ClassVar[tuple[str, ...]] = (*PLOTS, *TABLES)
    """What it can be saved as."""

    frame: pd.DataFrame
    """The main table, of an answer that holds it as it is."""

    def to_pandas(self) -> pd.DataFrame:
        """Return the answer's main table."""
        return self.frame.copy()

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""

    @abstractmethod
    def plot(self) -> Chart | Image.Image:
        """Draw the answer: a chart (``matplotlib.figure.Figure``), or a sheet of pictures."""

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """Return what a terminal shows."""

    def save(self, path: str | Path) -> None:
        """Write the picture, the table (.csv, .parquet) or all values (.json), by the ending.

        Raises
        ------
        StoreError
            If the path ends in anything else than :attr:`ends`, or cannot be written.
        """
        path = check_end(path, self.ends)
        end = path.suffix.lower()
        if end == ".csv":
            save_csv(path, self.to_pandas())
        elif end == ".parquet":
            save_table(path, pa.Table.from_pandas(self.to_pandas(), preserve_index=False))
        elif end == ".json":
            text = json.dumps(plain(self.to_json()), ensure_ascii=False, indent=2) + "\n"
            save_text(path, text)
        else:
            text = self._text(end)
            if text is None:
                from semlens.draw.figure import save_picture

                save_picture(self.plot(), path)
            else:
                save_text(path, text)

    def _text(self, end: str) -> str | None:
        """Return what a file of an answer's own form (.html, .svg) holds; None for pictures."""
        return None

    def __repr__(self) -> str:
        """Return what a terminal shows as text."""
        console = Console(width=110, color_system=None)
        with console.capture() as captured:
            console.print(self.__rich__())
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def _repr_html_(self) -> str:
        """Return the picture for notebooks."""
        from semlens.draw.figure import picture_html

        return picture_html(self.plot())


def check_end(path: str | Path, ends: Iterable[str] = ENDS) -> Path:
    """Refuse a path that nothing can be written to, before long work begins.

    Raises
    ------
    StoreError
        If it ends in none of ``ends``.
    """
    if Path(path).suffix.lower() not in ends:
        raise StoreError(
            f"The result cannot be written to '{path}'.",
            f"Expected a path that ends in {', '.join(ends)}.",
            "Choose another one.",
        )
    return Path(path)


def plain(value: Any) -> Any:
    """Turn numpy values into Python's own; what is not a number becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
