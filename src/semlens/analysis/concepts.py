"""Concept sets: nested names, as texts or example images, from TOML, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from semlens.errors import ConceptError, nearest
from semlens.types import as_list

ENDS = (".toml", ".json", ".csv")
"""What files of concept sets end in."""
Kind = Literal["concept", "valid", "spurious"]
_KINDS: dict[str, Kind] = {"concepts": "concept", "valid": "valid", "spurious": "spurious"}
_BUNDLED = Path(__file__).parents[1] / "assets" / "concepts"
_FORM = (
    "Expected [concepts], [valid] or [spurious] with nested tables whose leaves are lists of "
    "texts, or of {name = ..., images = [...]}."
)


@dataclass(frozen=True)
class Concept:
    """One concept: a text, or a name with example images, below its categories."""

    name: str
    path: tuple[str, ...] = ()
    kind: Kind = "concept"
    images: tuple[Path, ...] = ()

    @property
    def category(self) -> str:
        """The categories, outermost first, joined by ``/``."""
        return "/".join(self.path)


@dataclass(frozen=True)
class ConceptSet:
    """Concepts in order, with the templates that belong to them.

    Parameters
    ----------
    concepts
        A name may recur under several categories.
    templates
        Prompt templates with ``{}`` for the concept, or None for the default ones.
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
        """Return the valid, the spurious or the neutral concepts only."""
        return replace(self, concepts=tuple(one for one in self.concepts if one.kind == kind))

    @classmethod
    def join(cls, sets: Sequence[ConceptSet]) -> ConceptSet:
        """Put the concepts of several sets into one.

        Raises
        ------
        ConceptError
            If there is no set, or their templates or targets differ.
        """
        if not sets:
            raise ConceptError("There is no concept set.", "Expected at least one.", "Name one.")
        return cls(
            tuple(dict.fromkeys(concept for one in sets for concept in one.concepts)),
            " + ".join(dict.fromkeys(one.name for one in sets)),
            "; ".join(dict.fromkeys(one.source for one in sets if one.source)),
            _common("templates", [(one.name, one.templates) for one in sets]),
            _common("targets", [(one.name, one.target) for one in sets]),
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
        """Make a flat set of texts: neutral ones, or what a class should and should not rest on.

        Examples
        --------
        >>> len(ConceptSet.of(valid=["fur", "horns"], spurious=["grass"]))
        3
        """
        lists = {"concepts": as_list(texts), "valid": as_list(valid), "spurious": as_list(spurious)}
        return _from_tables({k: v for k, v in lists.items() if v}, name, target=target)

    @classmethod
    def load(cls, path: str | Path) -> ConceptSet:
        """Read a set from a file, or a bundled one by its name (``paper-vocabulary``).

        TOML and JSON hold ``[concepts]``, ``[valid]`` or ``[spurious]``, nested as deep as
        wanted; a CSV has the columns ``concept``, ``category`` (parts joined by ``/``) and
        ``kind``, the last two optional. Relative image paths start at the file.

        Raises
        ------
        ConceptError
            If there is no such set, or it has another form.

        Examples
        --------
        >>> len(ConceptSet.load("paper-ox").of_kind("spurious"))
        16
        """
        file = Path(path).expanduser()
        if not file.is_file():
            return _bundled(str(path))
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise _unreadable(str(file), error) from error
        return parse_set(text, file.suffix.lower(), file.stem, file.parent)


def parse_set(text: str, suffix: str, name: str, folder: Path | None = None) -> ConceptSet:
    """Read a set from the text of a file.

    Parameters
    ----------
    suffix
        ``.json`` or ``.csv``; anything else is TOML.
    name
        What it is called, unless it says so itself.
    folder
        Where relative image paths start.

    Raises
    ------
    ConceptError
        If it has another form.
    """
    try:
        if suffix == ".csv":
            return ConceptSet(_from_csv(text), name)
        loaded: Any = json.loads(text) if suffix == ".json" else tomllib.loads(text)
        tables = {"concepts": loaded} if isinstance(loaded, list) else loaded
        return _from_tables(tables, name, folder)
    except (ValueError, RecursionError, csv.Error) as error:  # also too many digits or brackets
        raise _unreadable(name, error) from error


Concepts = ConceptSet | str | Path | Mapping[str, Any] | Sequence[Any]
"""Concepts wherever a question takes some: a set, a file or folder of sets or the name of a
bundled one, a nested mapping as in a file, a list of texts, or a list of such things."""


def as_sets(given: Concepts, name: str = "your concepts") -> list[ConceptSet]:
    """Return concept sets however they are given; the texts of a list make one set.

    Raises
    ------
    ConceptError
        If there is no such file or bundled set, or it has another form.
    """
    if isinstance(given, ConceptSet):
        return [given]
    if isinstance(given, str | Path):
        return load_sets(given)
    if isinstance(given, Mapping):
        tables = given if any(key in given for key in _KINDS) else {"concepts": given}
        return [_from_tables(tables, name)]
    texts = [item for item in given if isinstance(item, str)]
    sets = [one for item in given if not isinstance(item, str) for one in as_sets(item, name)]
    return [*([ConceptSet.of(texts, name=name)] if texts else []), *sets]


def as_concepts(given: Concepts) -> ConceptSet:
    """Return one concept set, however concepts are given; several are joined."""
    return ConceptSet.join(as_sets(given))


def load_sets(name: str | Path, *, files: bool = True) -> list[ConceptSet]:
    """Load one set, or all sets of a folder or of a bundled family such as ``paper-imagenet``.

    Parameters
    ----------
    files
        Whether it may be a file or a folder, besides what is bundled.

    Raises
    ------
    ConceptError
        If there is no such set, or the folder has none.
    """
    folder = Path(name).expanduser()
    if files and folder.is_dir():
        found = sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDS)
        if not found:
            raise ConceptError(
                f"The folder '{folder}' has no concept sets.",
                "Expected .toml, .json or .csv files.",
                "Add some, or name a file.",
            )
        return [ConceptSet.load(path) for path in found]
    family = [one for one in bundled_names() if one.startswith(f"{name}/")]
    load = ConceptSet.load if files and not family else _bundled
    return [load(one) for one in family or [str(name)]]


def _unreadable(name: str, error: Exception) -> ConceptError:
    return ConceptError(f"'{name}' cannot be read ({error}).", _FORM, "Correct the file.")


def _common(what: str, values: Sequence[tuple[str, Any]]) -> Any:
    """Return the one value that sets agree on, where they have any."""
    given = {value: name for name, value in values if value is not None}
    if len(given) > 1:
        raise ConceptError(
            f"The concept sets have different {what}: "
            + ", ".join(f"{value!r} ('{name}')" for value, name in given.items())
            + ".",
            f"Expected sets that agree on their {what}, or leave them out.",
            "Use them one by one, or correct the files.",
        )
    return next(iter(given), None)


def bundled_names() -> list[str]:
    """Return the names of the concept sets that come with semlens."""
    return sorted(
        p.relative_to(_BUNDLED).with_suffix("").as_posix() for p in _BUNDLED.rglob("*.toml")
    )


def _bundled(name: str) -> ConceptSet:
    names = bundled_names()
    if name not in names:
        raise ConceptError(
            f"'{name}' is neither a file nor a bundled concept set.",
            f"The nearest bundled ones are {nearest(name, names)}.",
            "Give a .toml, .json or .csv file, or one of them.",
        )
    return parse_set((_BUNDLED / f"{name}.toml").read_text("utf-8"), ".toml", name)


def _from_tables(
    loaded: Any, name: str, folder: Path | None = None, target: str | None = None
) -> ConceptSet:
    """Make a set of what a file holds, or of the like from Python."""
    if not isinstance(loaded, Mapping) or not any(key in loaded for key in _KINDS):
        raise ConceptError(f"The concept set '{name}' has no concepts.", _FORM, "Add some.")
    concepts = [
        concept
        for key, kind in _KINDS.items()
        if key in loaded
        for concept in _flatten(loaded[key], (), kind, folder or Path(), name)
    ]
    templates = loaded.get("templates")
    if templates is not None and not all(isinstance(t, str) and "{}" in t for t in templates):
        raise ConceptError(
            f"The templates of '{name}' are {templates!r}.",
            "Expected texts with {} for the concept.",
            "Correct the file.",
        )
    if not concepts:
        raise ConceptError(f"The concept set '{name}' is empty.", _FORM, "Add some concepts.")
    return ConceptSet(
        tuple(concepts),
        str(loaded.get("name", name)),
        str(loaded.get("source", "")),
        tuple(templates) if templates is not None else None,
        loaded.get("target", target),
    )


def _flatten(
    node: Any, path: tuple[str, ...], kind: Kind, folder: Path, name: str
) -> Iterator[Concept]:
    if isinstance(node, Mapping) and "images" not in node:
        for key, child in node.items():
            # what is called "" belongs to the category itself, beside those below it
            below = (*path, str(key)) if key else path
            yield from _flatten(child, below, kind, folder, name)
    elif isinstance(node, list):
        for child in node:
            yield _leaf(child, path, kind, folder, name)
    else:
        yield _leaf(node, path, kind, folder, name)


def _leaf(node: Any, path: tuple[str, ...], kind: Kind, folder: Path, name: str) -> Concept:
    if isinstance(node, str) and node.strip():
        return Concept(node.strip(), path, kind)
    if isinstance(node, Mapping) and isinstance(node.get("images"), list) and node["images"]:
        pictures = tuple(folder / str(image) for image in node["images"])
        return Concept(str(node.get("name", pictures[0].stem)), path, kind, pictures)
    raise ConceptError(
        f"The concept set '{name}' holds {node!r} under '{'/'.join(path)}'.",
        _FORM,
        "Correct the file.",
    )


def _from_csv(text: str) -> tuple[Concept, ...]:
    reader = csv.DictReader(io.StringIO(text))
    if "concept" not in (reader.fieldnames or ()):
        raise ConceptError(
            f"The CSV has the columns {', '.join(reader.fieldnames or ()) or 'none'}.",
            "Expected 'concept', and perhaps 'category' and 'kind'.",
            "Add a first line with these names.",
        )
    made: list[Concept] = []
    for row in reader:
        kind = (row.get("kind") or "concept").strip()
        if kind not in _KINDS.values():
            raise ConceptError(
                f"Kind '{kind}' of concept '{row['concept']}' is unknown.",
                "Expected concept, valid or spurious.",
                "Correct the line.",
            )
        parts = tuple(part for part in (row.get("category") or "").split("/") if part)
        made.append(Concept(row["concept"].strip(), parts, cast(Kind, kind)))
    if not made:
        raise ConceptError("The CSV has no line.", "Expected at least one concept.", "Add some.")
    return tuple(made)
