"""The base class of results: table, plain values, plot, text and file."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image
from rich.console import Console, RenderableType

from semlens.documents import read_json
from semlens.errors import DataError, StoreError
from semlens.figures import FigureSpec
from semlens.store.atomic_files import save_csv, save_table, save_text
from semlens.store.reader import Database

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Chart: TypeAlias = "Figure"
"""A matplotlib figure; matplotlib is imported only when one is drawn."""

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
"""File formats of charts."""
IMAGE_SUFFIXES = (".png", ".jpg", ".webp")
"""File formats of sheets of images."""
TABLE_SUFFIXES = (".csv", ".parquet", ".json")
RESULT_SUFFIXES = (*PLOT_SUFFIXES, *TABLE_SUFFIXES)


@dataclass(frozen=True)
class Section:
    """What a view shows of a result: the page, a report, an agent.

    Parameters
    ----------
    sentences
        What was found, the answer first.
    figure
        What is seen.
    table
        The numbers. Views link what is in its columns ``component`` and ``class``, as the
        components of a figure, to the first database; columns of other names are for others.
    limits
        What the result does not show, in a sentence.
    """

    sentences: Sequence[str] = ()
    figure: FigureSpec | None = None
    table: pd.DataFrame | None = None
    limits: str = ""


class Result(ABC):
    """Base class of the frozen results of lenses.

    A result is available as a table (:meth:`to_pandas`), plain values (:meth:`to_json`), a plot
    (:meth:`plot`), text (``print`` or ``repr``), or a file with any of these (:meth:`save`). Views
    show its :meth:`section`.
    """

    suffixes: ClassVar[tuple[str, ...]] = RESULT_SUFFIXES
    """Suffixes of files that it can be saved as."""

    frame: pd.DataFrame
    """The main table, if the result stores it."""

    def to_pandas(self) -> pd.DataFrame:
        """Return the main table."""
        return self.frame.copy()

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""

    def figure(self) -> FigureSpec | None:
        """Return what is to be seen of the result, as data that every view can draw."""
        return None

    def section(self, target: str | None = None) -> Section:
        """Return what views show: sentences, figure and table, if given about one class."""
        said: Any = getattr(self, "sentence", None) or getattr(self, "summary", None)
        said = said() if callable(said) else said
        sentences = [said] if isinstance(said, str) and said else []
        return Section(sentences, self.figure(), self.to_pandas())

    def plot(self) -> Chart | Image.Image:
        """Draw the result: a chart (``matplotlib.figure.Figure``) or a sheet of images."""
        from semlens.draw.figures import draw_figure

        figure = self.figure()
        if figure is None:
            raise NotImplementedError(f"{type(self).__name__} has neither figure() nor plot()")
        database = getattr(self, "database", None)  # some results have the name of one
        return draw_figure(figure, database if isinstance(database, Database) else None)

    @abstractmethod
    def __rich__(self) -> RenderableType:
        """Return the output for the terminal."""

    def save(self, path: str | Path) -> None:
        """Save the plot, the table (.csv, .parquet) or all values (.json), depending on the suffix.

        Raises
        ------
        StoreError
            If the suffix is not in :attr:`suffixes`, or the file cannot be written.
        """
        path = check_suffix(path, self.suffixes)
        suffix = path.suffix.lower()
        if suffix == ".csv":
            save_csv(path, self.to_pandas())
        elif suffix == ".parquet":
            save_table(path, pa.Table.from_pandas(self.to_pandas(), preserve_index=False))
        elif suffix == ".json":
            text = json.dumps(plain(self.to_json()), ensure_ascii=False, indent=2) + "\n"
            save_text(path, text)
        else:
            text = self._file_text(suffix)
            if text is None:
                from semlens.draw.figure import save_picture

                save_picture(self.plot(), path)
            else:
                save_text(path, text)

    def _file_text(self, suffix: str) -> str | None:
        """Return the content of a text file of this suffix (.html, .svg); None for images."""
        return None

    def __repr__(self) -> str:
        """Return the output for the terminal as text."""
        console = Console(width=110, color_system=None, force_jupyter=False)
        with console.capture() as captured:
            console.print(self.__rich__())
        return "\n".join(line.rstrip() for line in captured.get().splitlines())

    def _repr_html_(self) -> str:
        """Return HTML for notebooks; it never fails."""
        from semlens.draw.notebook_html import guarded_html

        return guarded_html(self._html, self)

    def _html(self) -> str:
        """Return the plot, and below it what is printed."""
        from semlens.draw.notebook_html import result_html

        return result_html(self.__rich__(), self.plot)


def check_suffix(path: str | Path, suffixes: Iterable[str] = RESULT_SUFFIXES) -> Path:
    """Check the suffix of an output path, before any long computation.

    Raises
    ------
    StoreError
        If it is not one of ``suffixes``.
    """
    if Path(path).suffix.lower() not in suffixes:
        raise StoreError(
            f"The result cannot be written to '{path}'.",
            f"Expected a path that ends in {', '.join(suffixes)}.",
            "Choose another path.",
        )
    return Path(path)


def plain(value: Any) -> Any:
    """Convert numpy values to Python's own types for JSON; NaN, NA and infinity become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value


def read_saved(
    path: Path, command: str, keys: Sequence[str], rows: str, columns: Sequence[str]
) -> Mapping[str, Any]:
    """Read a result of a command: ``keys``, and rows with ``columns`` under the key ``rows``.

    Raises
    ------
    DataError
        If the file cannot be read or has another format.
    """
    try:
        values = read_json(path.expanduser())
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{path}' cannot be read ({error}).",
            f"Expected a result of 'semlens {command}'.",
            f"Create one with: semlens {command} ... --save FILE.json",
        ) from error
    records = values.get(rows) if has_keys(values, keys) else None
    if (
        not isinstance(records, list)
        or not records
        or not all(has_keys(r, columns) for r in records)
    ):
        raise format_error(path, command)
    return values


def has_keys(value: Any, keys: Sequence[str]) -> bool:
    """Whether a value is an object with these keys."""
    return isinstance(value, dict) and all(key in value for key in keys)


def format_error(path: Path, command: str) -> DataError:
    """Return the error of a file that is not a result of a command."""
    return DataError(
        f"'{path}' has another format.",
        f"Expected a result of 'semlens {command}'.",
        f"Create one with: semlens {command} ... --save FILE.json",
    )
