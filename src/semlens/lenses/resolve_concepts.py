"""Resolve concept sets: load them by any name, and select those that apply to a class.

Files, folders, bundled sets and saved audits are resolved here for Python, the command line and the
web application.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated

from semlens.errors import ConceptError, RelevanceError, SemlensError
from semlens.lenses.arguments import AnyClass
from semlens.lenses.audit.audit_records import AuditRecord, audit_records
from semlens.lenses.classes import class_name, classes_named, find_class
from semlens.lenses.concepts import (
    Concepts,
    ConceptSet,
    as_sets,
    bundled_names,
    is_set_name,
    load_sets,
    remote_concepts,
)
from semlens.settings import Remote, setting
from semlens.store.reader import Database
from semlens.types import as_list

SAVED = "audit:"
"""Prefix of the number of a saved audit, for its concept lists."""
ARTEFACTS = "artefacts"
"""Bundled set for classes whose own sets have no spurious concepts."""
ClassConcepts = Annotated[
    Concepts | None,
    setting(
        "Concept set: a file, a folder, the name of a bundled set, or audit:NUMBER for the lists "
        "of a saved audit. Several sets are joined [the sets for the class]."
    ),
    Remote(
        str | list[str],
        "concepts",
        lambda database, concepts: remote_sets(database, concepts),
        "Names of bundled concept sets, audit:NUMBER for the lists of a saved audit, or texts "
        "[the sets for the class].",
    ),
]
"""What a class should and should not rely on; None for its default sets."""
OwnTarget = Annotated[
    AnyClass,
    setting("Class, by name or by logit index [the class that the concept set names]."),
]


@dataclass(frozen=True)
class ResolvedConcepts:
    """The concepts that a class is audited with, and the names of the sets they come from."""

    concepts: ConceptSet
    sets: tuple[str, ...]

    @property
    def audit(self) -> int | None:
        """The number of the saved audit that the concepts come from, if they come from one only."""
        name = self.sets[0].removeprefix(SAVED)
        return int(name) if len(self.sets) == 1 and name != self.sets[0] else None


def sets_for(
    database: Database, concepts: Concepts, target: int | None = None, *, files: bool = True
) -> list[ConceptSet]:
    """Load concept sets in any form.

    Parameters
    ----------
    concepts
        A concept set, a mapping as in a file, a name, or a list of these. A name is a file, a
        folder, a bundled set or family, or ``audit:3`` for a saved audit's lists. A list of
        texts that are not names makes one set.
    target
        Class to select sets for. A set that is given by its own name applies to the class,
        whatever class it names; of a folder or family, only sets that name the class or no class.
    files
        Whether a name may be a path. False for requests from the page.

    Raises
    ------
    ConceptError
        If there is no set of a name, or none for the class.
    """
    groups = _load_groups(database, concepts, files)
    if target is None:
        return [concept_set for _, sets in groups for concept_set in sets]
    return [
        replace(sets[0], target=None) if len(sets) == 1 else set_for(database, target, sets)
        for _, sets in groups
    ]


def remote_sets(
    database: Database, concepts: str | Sequence[str] | None
) -> list[ConceptSet] | None:
    """Return what a page or an agent means by concepts, as :func:`remote_concepts` does.

    Raises
    ------
    ConceptError
        If there is no set or saved audit of a name.
    """
    items = [] if concepts is None else as_list(concepts)
    if not any(_is_name(item) for item in items):
        return remote_concepts(database, concepts)
    return sets_for(database, items, files=False)


def set_for(database: Database, target: int, sets: Sequence[ConceptSet]) -> ConceptSet:
    """Join the sets that apply to a class: those that name it, and those that name no class.

    Raises
    ------
    ConceptError
        If all of them name other classes.
    """
    matches = [s for s in sets if s.target is None or class_of(database, s) == target]
    if not matches:
        raise ConceptError(
            f"No concept set is for the class '{class_name(database, target)}'.",
            f"The sets are for {', '.join(sorted({str(s.target) for s in sets})) or 'no class'}.",
            "Remove 'target' from a set to use it for this class as well.",
        )
    return ConceptSet.join([replace(match, target=None) for match in matches])


def class_of(database: Database, concept_set: ConceptSet) -> int | None:
    """Return the class that a set names, or None if it names none or the database lacks it."""
    if concept_set.target is None:
        return None
    matches = classes_named(database, concept_set.target)
    return matches[0] if len(matches) == 1 else None


def class_and_concepts(
    database: Database, target: int | None, concepts: Concepts | None
) -> tuple[int, ConceptSet]:
    """Return the index of a class, and the concepts to audit it with.

    The class defaults to the one that the sets name, the concepts to those that
    :func:`concepts_by_class` selects.

    Raises
    ------
    ConceptError
        If neither is given, the sets name several classes, or no set applies to the class.
    """
    if concepts is None and target is not None:
        sets = _default_sets(database, [target])[target]
        return target, _join(database, target, sets).concepts
    sets = [] if concepts is None else sets_for(database, concepts)
    if not sets:
        raise ConceptError(
            "There is no concept set.",
            "Expected concepts that the class should and should not rely on, or a class.",
            "Write a set (docs/concept-sets.md), or name a bundled one such as paper-ox.",
        )
    if target is None:
        targets = sorted({s.target for s in sets if s.target is not None})
        if len(targets) != 1:
            names = "the classes " + ", ".join(targets) if targets else "no class"
            raise ConceptError(
                f"The concept sets name {names}.",
                "Expected one class.",
                "Set target to its name or index.",
            )
        target = find_class(database, targets[0])
    return target, set_for(database, target, sets)


def concepts_by_class(
    database: Database, concepts: Concepts | None = None, *, files: bool = True
) -> tuple[dict[int, ResolvedConcepts], dict[str, SemlensError]]:
    """Return the concepts of each class, by class index, and errors of others, by class name.

    A set applies to the class that it names, or to all classes. The classes are those that any
    set names or, if none does, all with relevance. By default a class has the lists of its most
    recently edited saved audit, or the bundled sets for it, plus the artefacts if these have no
    spurious concepts.

    Raises
    ------
    ConceptError, RelevanceError
        If there is no set, or none for a class of the database.
    """
    with_relevance = sorted(int(c) for c in database.relevance_classes["class"])
    skipped: dict[str, SemlensError] = {}
    if concepts is None:
        sets_by_class = _default_sets(database, with_relevance)
    else:
        groups = _load_groups(database, concepts, files)
        named_sets = [(name, concept_set) for name, sets in groups for concept_set in sets]
        if not named_sets:
            raise ConceptError("There is no concept set.", "Expected at least one.", "Pass one.")
        targets: set[int] = set()
        for target in dict.fromkeys(s.target for _, s in named_sets if s.target is not None):
            try:
                targets.add(find_class(database, target))
            except RelevanceError as error:
                skipped[target] = error
        any_class = all(s.target is None for _, s in named_sets)
        sets_by_class = {
            class_index: [
                (name, s)
                for name, s in named_sets
                if s.target is None or class_of(database, s) == class_index
            ]
            for class_index in (with_relevance if any_class else sorted(targets))
        }
    resolved: dict[int, ResolvedConcepts] = {}
    for class_index, sets in sets_by_class.items():
        try:
            resolved[class_index] = _join(database, class_index, sets)
        except ConceptError as error:  # sets that contradict each other
            skipped[class_name(database, class_index)] = error
    if not resolved:
        raise no_class_error(skipped)
    return resolved, skipped


def no_class_error(skipped: Mapping[str, SemlensError]) -> SemlensError:
    """Return the error for a sweep without classes: an error of the concepts, if there is one."""
    concept_errors = [error for error in skipped.values() if isinstance(error, ConceptError)]
    if concept_errors:
        return concept_errors[-1]
    return RelevanceError(
        "No class could be audited: " + "; ".join(error.value for error in skipped.values()),
        "Expected concept sets for classes of the database.",
        "Check the targets of the sets, or remove these sets.",
    )


def _load_groups(
    database: Database, concepts: Concepts, files: bool
) -> list[tuple[str, Sequence[ConceptSet]]]:
    """Return the sets that each item of ``concepts`` stands for, with the item's name."""
    items = [concepts] if isinstance(concepts, Mapping) else as_list(concepts)
    single_name = isinstance(concepts, str | Path)
    if files and not single_name and not any(_is_name(item) for item in items):
        return [(one.name, [one]) for one in as_sets(concepts)]
    groups: list[tuple[str, Sequence[ConceptSet]]] = []
    for item in items:
        if isinstance(item, str | Path):
            groups.append((str(item), _load(database, item, files)))
        else:
            groups += [(one.name, [one]) for one in as_sets(item)]
    return groups


def _is_name(item: object) -> bool:
    """Whether an item of a list is the name of a set; other items are texts."""
    if not isinstance(item, str):
        return isinstance(item, Path)
    return item.startswith(SAVED) or is_set_name(item)


def _load(database: Database, name: str | Path, files: bool) -> list[ConceptSet]:
    number = str(name).removeprefix(SAVED)
    if number != str(name) and number.isdecimal():
        return [audit_records(database).get(int(number)).concepts]
    return load_sets(name, files=files)


def _default_sets(
    database: Database, classes: Sequence[int]
) -> dict[int, list[tuple[str, ConceptSet]]]:
    """Return the default sets of each class, with names: its saved lists, or the bundled sets."""
    artefacts = (ARTEFACTS, load_sets(ARTEFACTS, files=False)[0])
    defaults: dict[int, list[tuple[str, ConceptSet]]] = {}
    for name, concept_set in _bundled():
        class_index = class_of(database, concept_set)
        if class_index is not None:  # None: a set for another model
            defaults.setdefault(class_index, []).append((name, concept_set))
    for sets in defaults.values():
        if not any(len(concept_set.of_kind("spurious")) for _, concept_set in sets):
            sets.append(artefacts)
    for class_index, record in _latest_audits(database).items():
        defaults[class_index] = [(f"{SAVED}{record.id}", record.concepts)]
    return {c: defaults[c] for c in classes if c in defaults} or {c: [artefacts] for c in classes}


@cache
def _bundled() -> tuple[tuple[str, ConceptSet], ...]:
    """Return the bundled sets that name a class and have valid or spurious concepts."""
    sets = [(name, load_sets(name, files=False)[0]) for name in bundled_names()]
    return tuple(
        (name, concept_set)
        for name, concept_set in sets
        if concept_set.target is not None
        and any(concept.kind != "concept" for concept in concept_set.concepts)
    )


def _latest_audits(database: Database) -> dict[int, AuditRecord]:
    """Return the most recently edited saved audit with concepts of each class."""
    records = [record for record in audit_records(database).readable() if len(record.concepts)]
    return {record.target: record for record in sorted(records, key=lambda r: r.changed)}


def _join(
    database: Database, class_index: int, sets: Sequence[tuple[str, ConceptSet]]
) -> ResolvedConcepts:
    """Join the sets of a class; its ``target`` is the index if several classes share the name."""
    names = tuple(dict.fromkeys(name for name, _ in sets))
    joined = ConceptSet.join([replace(concept_set, target=None) for _, concept_set in sets])
    by_name = replace(joined, target=class_name(database, class_index))
    unique = class_of(database, by_name) == class_index
    return ResolvedConcepts(by_name if unique else replace(joined, target=str(class_index)), names)
