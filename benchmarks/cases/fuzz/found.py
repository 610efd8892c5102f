"""Every function of semlens that reads what others wrote, found in its source and by running.

A function that calls one of :data:`PRIMITIVES` is a reader. It is fuzzed if some input of a
:class:`benchmarks.cases.fuzz.readers.Reader` gets there, which is seen, not declared. So a reader
that is added later fails the benchmarks ``fuzz`` and ``faults`` until it is fuzzed.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import semlens

SOURCE = Path(semlens.__file__).parent
PRIMITIVES = (
    "json.loads", "tomllib.loads", "csv.reader", "csv.DictReader", "csv.read_csv", "pd.read_csv",
    "pd.read_parquet", "pq.read_table", "pq.ParquetFile", "pq.read_metadata", "torch.load",
    "load_file", "load", "safe_open", "onnx.load", "Image.open", "tarfile.open", "zipfile.ZipFile",
    "read_json", "read_toml", "parse_json", "parse_toml", "csv_rows", "read_text", "read_bytes",
    "open_file",
)  # fmt: skip
"""What parses or opens a file; with a dot, as the modules of semlens write it."""
METHODS = ("model_validate_json", "validate_json", "read_text", "read_bytes")
"""The same, as methods of any object."""
OF_SEMLENS: Mapping[str, str] = {
    "models/demo": "bundled",
    "demo/bundled_images": "bundled",
    "embedders/demo": "bundled",
    "embedders/photo": "bundled, or files of a Python package",
    "lenses/labelling/confidence.calibrations": "bundled",
    "lenses/concepts._load_bundled": "bundled",
    "cli/outline": "bundled",
    "notebook/card_widget": "bundled",
    "hub/pull.recipe_text": "bundled",
    "web/page_build": "the page, as it was built",
    "web/static_export.": "the page, as it was built",
    "web/export_recorder": "responses of this process",
    "web/routes/lenses": "what this process has written or validated",
    "draw/encode_images": "pictures of this process",
    "mcp/answer": "pictures of this process",
    "testing": "what the tested lens has saved",
    "documents": "the bounded readers themselves, which all others call",
    "regular_files": "opens files, and parses nothing",
    "data/source_files": "opens files, and parses nothing",
    "models/load.userfile_model": "runs the file: the user's own code",
    "models/model_libraries.image_processor": "what transformers has parsed",
    "embedders/huggingface": "what transformers has parsed",
    "run/executors": "what the main process of the build has written",
    "data/images.read_file": "returns bytes",
    "lenses/describe/database_warnings": "compares digests",
    "hub/pull.pull_database": "compares bytes",
    "data/huggingface.load_split": "calls a function that it is given",
    "store/checked_files": "opens files, for the readers of a database",
}
"""Why nobody else's file gets to a function, by the beginning of its name."""


def readers_in_source() -> set[str]:
    """Return the names of all functions that call a primitive: ``data/images.decode``."""
    return {
        name
        for path in SOURCE.rglob("*.py")
        for name in _readers(path)
        if not any(name.startswith(start) for start in OF_SEMLENS)
    }


def _readers(path: Path) -> Iterator[str]:
    module = path.relative_to(SOURCE).with_suffix("").as_posix()

    def visit(node: ast.AST, place: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            is_scope = isinstance(child, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
            if isinstance(child, ast.Call) and _reads(ast.unparse(child.func)):
                yield f"{module}.{place}"
            # functions inside of functions count as the outer one
            is_outer = is_scope and (not place or place[-1] == ".")
            inner = f"{place}{child.name}" if is_outer else place
            yield from visit(child, inner + "." * (is_outer and isinstance(child, ast.ClassDef)))

    return visit(ast.parse(path.read_text("utf-8")), "")


def _reads(called: str) -> bool:
    owner, _, method = called.rpartition(".")
    return called in PRIMITIVES or (bool(owner) and method in METHODS)


class FunctionsRun:
    """The functions of semlens that run while some others do, in all threads."""

    def __init__(self) -> None:
        self._codes = set[CodeType]()

    def watched(self, read: Callable[[Any], object]) -> Callable[[Any], object]:
        """Return a function that does the same and is watched."""

        def see(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                self._codes.add(frame.f_code)

        def watching(value: Any) -> object:
            # for each input again: Python ends it at a RecursionError
            threading.setprofile(see)
            sys.setprofile(see)
            try:
                return read(value)
            finally:
                sys.setprofile(None)
                threading.setprofile(None)

        return watching

    def names(self) -> set[str]:
        """Return their names, as those of :func:`readers_in_source`."""
        return {
            f"{Path(code.co_filename).relative_to(SOURCE).with_suffix('').as_posix()}."
            f"{code.co_qualname.partition('.<locals>')[0]}"
            for code in self._codes
            if code.co_filename.startswith(f"{SOURCE}/")
        }
