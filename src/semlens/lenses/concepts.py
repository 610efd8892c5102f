"""Concept sets: texts or example images under nested categories, from TOML, JSON or CSV."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from semlens.documents import csv_rows, parse_json, parse_toml
from semlens.errors import ConceptError, nearest
from semlens.regular_files import is_file, is_folder, read_text, user_path
from semlens.settings import Remote
from semlens.types import as_list

SET_SUFFIXES = (".toml", ".json", ".csv")
"""Suffixes of concept set files."""
Kind = Literal["concept", "valid", "spurious"]
MAX_LENGTH = 1000
"""Characters of a concept, a template or a name in a concept set."""
_KINDS: dict[str, Kind] = {"concepts": "concept", "valid": "valid", "spurious": "spurious"}
_BUNDLED = Path(__file__).parents[1] / "assets" / "concepts"
_FORM = (
    "Expected [concepts], [valid] or [spurious], with nested tables whose leaves are lists of "
    "texts or of {name = ..., images = [...]}."
)


@dataclass(frozen=True)
class Concept:
    """One concept: a text, or a name with example images, and its categories."""

    name: str
    path: tuple[str, ...] = ()
    kind: Kind = "concept"
    images: tuple[Path, ...] = ()

    @property
    def category(self) -> str:
        """The categories, outermost first, joined by ``/``."""
        return "/".join(self.path)


def concept_key(concept: Concept) -> str:
    """Return a concept's name without differences of case and spacing."""
    return " ".join(concept.name.casefold().split())


@dataclass(frozen=True)
class ConceptSet:
    """An ordered set of concepts with their prompt templates.

    Parameters
    ----------
    concepts
        A name may occur under several categories.
    templates
        Prompt templates with ``{}`` for the concept, or None for the defaults.
    target
        Name of the class that the set is for, or None for any class.
    """

    concepts: tuple[Concept, ...]
    name: str = "concepts"
    source: str = ""
    templates: tuple[str, ...] | None = None
    target: str | None = None

    def __len__(self) -> int:
        """Return the number of concepts."""
        return len(self.concepts)

    def of_kind(self, kind: Kind) -> ConceptSet:
        """Return the set with only the concepts of one kind."""
        return replace(self, concepts=tuple(c for c in self.concepts if c.kind == kind))

    @classmethod
    def join(cls, sets: Sequence[ConceptSet]) -> ConceptSet:
        """Join several sets into one.

        Raises
        ------
        ConceptError
            If there is no set, or the sets have different templates or targets.
        """
        if not sets:
            raise ConceptError("There is no concept set.", "Expected at least one.", "Pass one.")
        return cls(
            tuple(dict.fromkeys(concept for s in sets for concept in s.concepts)),
            " + ".join(dict.fromkeys(s.name for s in sets)),
            "; ".join(dict.fromkeys(s.source for s in sets if s.source)),
            _common_value("templates", [(s.name, s.templates) for s in sets]),
            _common_value("targets", [(s.name, s.target) for s in sets]),
        )

    @classmethod
    def of(
        cls,
        texts: Sequence[str] = (),
        name: str = "concepts",
        *,
        valid: Sequence[str] = (),
        spurious: Sequence[str] = (),
        target: str | None = None,
    ) -> ConceptSet:
        """Make a flat set of texts: neutral, valid or spurious for a class.

        Examples
        --------
        >>> len(ConceptSet.of(valid=["fur", "horns"], spurious=["grass"]))
        3
        """
        lists = {"concepts": as_list(texts), "valid": as_list(valid), "spurious": as_list(spurious)}
        return _from_tables({k: v for k, v in lists.items() if v}, name, target=target)

    @classmethod
    def load(cls, path: str | Path) -> ConceptSet:
        """Load a set from a file, or a bundled set by name (such as ``paper-vocabulary``).

        TOML and JSON hold ``[concepts]``, ``[valid]`` or ``[spurious]`` with any nesting. A CSV
        has a column ``concept`` and optionally ``category`` (levels separated by ``/``) and
        ``kind``. Image paths are relative to the file.

        Raises
        ------
        ConceptError
            If there is no such set, or it is malformed.

        Examples
        --------
        >>> len(ConceptSet.load("paper-ox").of_kind("spurious"))
        16
        """
        file = user_path(path)
        if not is_file(file):
            return _load_bundled(str(path))
        try:
            text = read_text(file)
        except (OSError, UnicodeDecodeError) as error:
            raise _read_error(str(file), error) from error
        return parse_set(text, file.suffix.lower(), file.stem, file.parent)


def parse_set(text: str, suffix: str, name: str, folder: Path | None = None) -> ConceptSet:
    """Parse the text of a concept set file.

    Parameters
    ----------
    suffix
        ``.json`` or ``.csv``; any other suffix is TOML.
    name
        Name of the set, unless the file has one.
    folder
        Folder that image paths are relative to.

    Raises
    ------
    ConceptError
        If the text is malformed.
    """
    text = text.removeprefix("\ufeff")  # the byte-order mark of an uploaded file
    try:
        if suffix == ".csv":
            return ConceptSet(_from_csv(text), name)
        loaded: Any = parse_json(text) if suffix == ".json" else parse_toml(text)
        tables = {"concepts": loaded} if isinstance(loaded, list) else loaded
        return _from_tables(tables, name, folder)
    except (ValueError, csv.Error) as error:
        raise _read_error(name, error) from error


Concepts = ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any]
"""Concepts as questions accept them: a set, a file or folder of sets, the name of a bundled set, a
nested mapping as in a file, a list of texts, or a list of any of these."""


def remote_concepts(_: object, names: str | Sequence[str] | None) -> list[ConceptSet] | None:
    """Return what a page or an agent means: bundled sets by name, or a set of texts; no files.

    Raises
    ------
    ConceptError
        If a name looks like that of a set, and no bundled set has it.
    """
    items = [] if names is None else as_list(names)
    if any(is_set_name(item) for item in items):
        return [one for item in items for one in load_sets(item, files=False)]
    return [ConceptSet.of(items, name="your concepts")] if items else None


def is_set_name(item: str) -> bool:
    """Whether an item of a list names a set by itself; other items are texts."""
    return Path(item).suffix.lower() in SET_SUFFIXES or any(
        f"{name}/".startswith(f"{item}/") for name in bundled_names()
    )


REMOTE_CONCEPTS = Remote(
    str | list[str], "concepts", remote_concepts, "Names of bundled concept sets, or texts."
)
"""How a page or an agent gives concepts."""


def as_sets(concepts: Concepts, name: str = "your concepts") -> list[ConceptSet]:
    """Load concept sets from any accepted form; the texts of a list make one set.

    Raises
    ------
    ConceptError
        If there is no such file or bundled set, or it is malformed.
    """
    if isinstance(concepts, ConceptSet):
        return [concepts]
    if isinstance(concepts, str | Path):
        return load_sets(concepts)
    if isinstance(concepts, Mapping):
        tables = concepts if any(key in concepts for key in _KINDS) else {"concepts": concepts}
        return [_from_tables(tables, name)]
    texts = [item for item in concepts if isinstance(item, str)]
    nested = [as_sets(item, name) for item in concepts if not isinstance(item, str)]
    return [*([ConceptSet.of(texts, name=name)] if texts else []), *itertools.chain(*nested)]


def as_concepts(concepts: Concepts) -> ConceptSet:
    """Load one concept set from any accepted form; several are joined."""
    return ConceptSet.join(as_sets(concepts))


def load_sets(name: str | Path, *, files: bool = True) -> list[ConceptSet]:
    """Load one set, or all sets of a folder or of a bundled family such as ``paper-imagenet``.

    Parameters
    ----------
    files
        Whether the name may also be a file or a folder, not only a bundled set.

    Raises
    ------
    ConceptError
        If there is no such set, or the folder has none.
    """
    folder = user_path(name)
    if files and is_folder(folder):
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SET_SUFFIXES)
        if not paths:
            raise ConceptError(
                f"The folder '{folder}' has no concept sets.",
                "Expected .toml, .json or .csv files.",
                "Add one, or choose a file.",
            )
        return [ConceptSet.load(path) for path in paths]
    family = [bundled for bundled in bundled_names() if bundled.startswith(f"{name}/")]
    load = ConceptSet.load if files and not family else _load_bundled
    return [load(set_name) for set_name in family or [str(name)]]


def _read_error(name: str, error: Exception) -> ConceptError:
    return ConceptError(f"'{name}' cannot be read ({error}).", _FORM, "Correct the file.")


def _common_value(field: str, values: Sequence[tuple[str, Any]]) -> Any:
    """Return the value of the sets that have one; they must agree."""
    distinct = {value: name for name, value in values if value is not None}
    if len(distinct) > 1:
        raise ConceptError(
            f"The concept sets have different {field}: "
            + ", ".join(f"{value!r} ('{name}')" for value, name in distinct.items())
            + ".",
            f"Expected sets with the same {field}, or without.",
            "Use them one at a time, or correct the files.",
        )
    return next(iter(distinct), None)


def bundled_names() -> list[str]:
    """Return the names of the bundled concept sets."""
    return sorted(
        p.relative_to(_BUNDLED).with_suffix("").as_posix() for p in _BUNDLED.rglob("*.toml")
    )


def _load_bundled(name: str) -> ConceptSet:
    names = bundled_names()
    if name not in names:
        raise ConceptError(
            f"'{name}' is neither a file nor a bundled concept set.",
            f"The nearest bundled ones are {nearest(name, names)}.",
            "Use a .toml, .json or .csv file, or one of these names.",
        )
    return parse_set((_BUNDLED / f"{name}.toml").read_text("utf-8"), ".toml", name)


def _from_tables(
    tables: Any, name: str, folder: Path | None = None, target: str | None = None
) -> ConceptSet:
    """Make a set from the tables of a file, or from a mapping of the same form."""
    if not isinstance(tables, Mapping) or not any(key in tables for key in _KINDS):
        raise ConceptError(f"The concept set '{name}' has no concepts.", _FORM, "Add some.")
    concepts = [
        concept
        for key, kind in _KINDS.items()
        if key in tables
        for concept in _flatten(tables[key], (), kind, folder or Path(), name)
    ]
    templates = tables.get("templates")
    if templates is not None and not (
        isinstance(templates, list | tuple)
        and templates
        and all(isinstance(t, str) and "{}" in t for t in templates)
    ):
        raise ConceptError(
            f"The templates of '{name}' are {templates!r}.",
            "Expected a list of texts with {} for the concept.",
            "Correct the file.",
        )
    head: dict[str, Any] = {"name": name, "source": "", "target": target}
    head |= {key: _checked(tables[key], name) for key in head if tables.get(key) is not None}
    if not concepts:
        raise ConceptError(f"The concept set '{name}' is empty.", _FORM, "Add some concepts.")
    return ConceptSet(
        tuple(concepts),
        head["name"],
        head["source"],
        tuple(_checked(t, name) for t in templates) if templates is not None else None,
        head["target"],
    )


def _flatten(
    node: Any, path: tuple[str, ...], kind: Kind, folder: Path, name: str
) -> Iterator[Concept]:
    if isinstance(node, Mapping) and "images" not in node:
        for key, child in node.items():
            # the key "" holds concepts of the category itself, beside its subcategories
            below = (*path, str(key)) if key else path
            yield from _flatten(child, below, kind, folder, name)
    elif isinstance(node, list):
        for child in node:
            yield _leaf(child, path, kind, folder, name)
    else:
        yield _leaf(node, path, kind, folder, name)


def _leaf(node: Any, path: tuple[str, ...], kind: Kind, folder: Path, name: str) -> Concept:
    if isinstance(node, str) and node.strip():
        return Concept(_checked(node, name), path, kind)
    leaf: Mapping[str, Any] = node if isinstance(node, Mapping) else {}
    files = leaf.get("images")
    if files and isinstance(files, list) and all(isinstance(file, str) for file in files):
        images = tuple(folder / _checked(file, name) for file in files)
        return Concept(_checked(leaf.get("name", images[0].stem), name), path, kind, images)
    raise ConceptError(
        f"The concept set '{name}' holds {node!r} under '{'/'.join(path)}'.",
        _FORM,
        "Correct the file.",
    )


def _checked(text: Any, name: str) -> str:
    """Return a text of a concept set without surrounding space, if it can be one."""
    if not isinstance(text, str):
        problem = f"{text!r}, which is not a text"
    elif len(text) > MAX_LENGTH:
        problem = f"a text of {len(text)} characters"
    elif "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        problem = f"{text!r}, which holds NUL or half a surrogate pair"
    else:
        return text.strip()
    raise ConceptError(
        f"The concept set '{name}' holds {problem}.",
        f"Expected valid Unicode texts of at most {MAX_LENGTH} characters.",
        "Correct the file.",
    )


def _from_csv(text: str) -> tuple[Concept, ...]:
    reader = csv_rows(text)
    columns = list(reader.fieldnames or ())
    if "concept" not in columns:
        raise ConceptError(
            f"The CSV has the columns {', '.join(columns) or 'none'}.",
            "Expected 'concept', and optionally 'category' and 'kind'.",
            "Add a header line with these names.",
        )
    concepts: list[Concept] = []
    for row in reader:
        if not any(row.values()):
            continue  # a spreadsheet ends in such lines
        concept = (row["concept"] or "").strip()
        if not concept or None in row:
            raise ConceptError(
                f"Line {reader.line_num} of the CSV has "
                + ("more values than columns." if concept else "no concept."),
                f"Expected values for {', '.join(columns)}.",
                "Correct the line; put quotation marks around a text with a comma.",
            )
        kind = (row.get("kind") or "concept").strip()
        if kind not in _KINDS.values():
            raise ConceptError(
                f"Kind '{kind}' of concept '{concept}' is unknown.",
                "Expected concept, valid or spurious.",
                "Correct the line.",
            )
        path = tuple(level for level in (row.get("category") or "").split("/") if level)
        concepts.append(Concept(_checked(concept, "CSV"), path, cast(Kind, kind)))
    if not concepts:
        raise ConceptError("The CSV has no rows.", "Expected at least one concept.", "Add some.")
    return tuple(concepts)
