"""Which concept sets a question is given, and which of them are for a class.

Files, folders, bundled sets and saved audits are resolved here, for Python, the command line and
the web application alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from semlens.analysis.classes import class_name, find_class
from semlens.analysis.concepts import (
    ENDS,
    Concepts,
    ConceptSet,
    as_sets,
    bundled_names,
    load_sets,
)
from semlens.errors import ConceptError, RelevanceError, SemlensError
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import as_list

if TYPE_CHECKING:
    from semlens.analysis.audit.saved_audits import AuditRecord

SAVED = "audit:"
"""Before the number of a saved audit, whose lists are meant."""
EVERYWHERE = "artefacts"
"""Of the bundled sets, the one for classes whose own sets name nothing spurious."""
ClassConcepts = Annotated[
    Concepts | None,
    setting(
        "Concept set: a file, a folder, the name of a bundled one, or audit:NUMBER for a saved "
        "audit's lists. Given again, sets are joined [those that fit the class]."
    ),
]
"""What a class should and should not rest on; None for what fits it."""
OwnTarget = Annotated[
    int | str | None,
    setting("Class, by name or by the number of its logit [the concept set's own]."),
]


@dataclass(frozen=True)
class ResolvedConcepts:
    """What a class is held against, and the names of the sets that it was joined from."""

    concepts: ConceptSet
    sets: tuple[str, ...]

    @property
    def audit(self) -> int | None:
        """The number of the saved audit whose lists they are, if they are one's."""
        name = self.sets[0].removeprefix(SAVED)
        return int(name) if len(self.sets) == 1 and name != self.sets[0] else None


def sets_for(
    database: Database, given: Concepts, target: int | str | None = None, *, files: bool = True
) -> list[ConceptSet]:
    """Return concept sets however they are given.

    Parameters
    ----------
    given
        An object, a mapping as in a file, a name, or several of these. A name is a file, a
        folder, a bundled set or family, or ``audit:3`` for a saved audit's lists. A list whose
        texts are all none of these makes one set of them.
    target
        A class that they are chosen for: a set that is named itself is for it, whatever class
        it was written for; of a family or folder are those that name the class, or none.
    files
        Whether a name may be a path; never where it comes from a page.

    Raises
    ------
    ConceptError
        If there is no set of a name, or none for the class.
    """
    groups = _groups(database, given, files)
    if target is None:
        return [one for _, sets in groups for one in sets]
    return [
        replace(sets[0], target=None) if len(sets) == 1 else set_for(database, target, sets)
        for _, sets in groups
    ]


def set_for(database: Database, target: int | str, sets: Sequence[ConceptSet]) -> ConceptSet:
    """Join the sets that are for a class: those that name it, and those that name none.

    Raises
    ------
    ConceptError
        If all of them name other classes.
    """
    number = find_class(database, target)
    chosen = [one for one in sets if one.target is None or class_of(database, one) == number]
    if not chosen:
        raise ConceptError(
            f"No concept set is for the class '{class_name(database, number)}'.",
            f"The sets are for {', '.join(sorted({str(one.target) for one in sets})) or 'none'}.",
            "Take the 'target' out of a set that you want for this class, too.",
        )
    return ConceptSet.join([replace(one, target=None) for one in chosen])


def class_of(database: Database, one: ConceptSet) -> int | None:
    """Return the class that a set is for, or None if it names none or the database lacks it."""
    try:
        return None if one.target is None else find_class(database, one.target)
    except RelevanceError:
        return None


def class_and_concepts(
    database: Database, target: int | str | None, given: Concepts | None
) -> tuple[int, ConceptSet]:
    """Return the class that is asked about, and the concepts that it is held against.

    Without a class it is the one that the sets name; without concepts they are those that
    :func:`concepts_by_class` chooses.

    Raises
    ------
    ConceptError
        If there is neither, the sets name several classes, or none is for this one.
    """
    if given is None and target is not None:
        number = find_class(database, target)
        return number, _joined(database, number, _fitting(database, [number])[number]).concepts
    sets = [] if given is None else sets_for(database, given)
    named = sorted({one.target for one in sets if one.target is not None})
    if not sets:
        raise ConceptError(
            "There is no concept set.",
            "Expected concepts that the class should and should not rest on, or a class.",
            "Write a set (docs/concept-sets.md), or name a bundled one such as paper-ox.",
        )
    if target is None and len(named) != 1:
        raise ConceptError(
            f"The concept sets name {'the classes ' + ', '.join(named) if named else 'no class'}.",
            "Expected one class.",
            "Give it as target, by its name or its number.",
        )
    number = find_class(database, named[0] if target is None else target)
    return number, set_for(database, number, sets)


def concepts_by_class(
    database: Database, given: Concepts | None = None, *, files: bool = True
) -> tuple[dict[int, ResolvedConcepts], dict[str, SemlensError]]:
    """Return what each class is held against, by logit, and why others are left out, by name.

    A set is for the class that it names, or for every one; the classes are those that some set
    names, or all with relevance if none does. Without sets a class is held against the lists of
    its saved audit that was edited last; or the bundled sets that are for it, with the artefacts
    if these name nothing spurious.

    Raises
    ------
    ConceptError, RelevanceError
        If there is no set, or none is for a class of the database.
    """
    known = sorted(int(number) for number in database.relevance_classes["class"])
    skipped: dict[str, SemlensError] = {}
    if given is None:
        fits = _fitting(database, known)
    else:
        named = [(name, s) for name, sets in _groups(database, given, files) for s in sets]
        if not named:
            raise ConceptError("There is no concept set.", "Expected at least one.", "Name one.")
        wanted: set[int] = set()
        for target in dict.fromkeys(one.target for _, one in named if one.target is not None):
            try:
                wanted.add(find_class(database, target))
            except RelevanceError as error:
                skipped[target] = error
        every = all(one.target is None for _, one in named)
        fits = {
            number: [p for p in named if p[1].target is None or class_of(database, p[1]) == number]
            for number in (known if every else sorted(wanted))
        }
    held: dict[int, ResolvedConcepts] = {}
    for number, pairs in fits.items():
        try:
            held[number] = _joined(database, number, pairs)
        except ConceptError as error:  # sets that contradict each other
            skipped[class_name(database, number)] = error
    if not held:
        raise nothing_left(skipped)
    return held, skipped


def nothing_left(skipped: Mapping[str, SemlensError]) -> SemlensError:
    """Return the error that says why no class is left: its concepts', if they were refused."""
    refused = [error for error in skipped.values() if isinstance(error, ConceptError)]
    if refused:
        return refused[-1]
    return RelevanceError(
        "No class could be audited: " + "; ".join(error.value for error in skipped.values()),
        "Expected concept sets for classes of the database.",
        "Check the sets' targets, or leave these out.",
    )


def _groups(
    database: Database, given: Concepts, files: bool
) -> list[tuple[str, Sequence[ConceptSet]]]:
    """Return each item that is given as the sets that it stands for, with its name."""
    items = [given] if isinstance(given, Mapping) else as_list(given)
    alone = isinstance(given, str | Path)
    if files and not alone and not any(_is_name(item) for item in items):
        return [(one.name, [one]) for one in as_sets(given)]
    groups: list[tuple[str, Sequence[ConceptSet]]] = []
    for item in items:
        if isinstance(item, str | Path):
            groups.append((str(item), _load(database, item, files)))
        else:
            groups += [(one.name, [one]) for one in as_sets(item)]
    return groups


def _is_name(item: object) -> bool:
    """Say whether an item of a list names a set: what does not is a text."""
    if not isinstance(item, str):
        return isinstance(item, Path)
    return (
        Path(item).suffix.lower() in ENDS
        or item.startswith(SAVED)
        or any(f"{n}/".startswith(f"{item}/") for n in bundled_names())
    )


def _load(database: Database, name: str | Path, files: bool) -> list[ConceptSet]:
    from semlens.analysis.audit.saved_audits import saved_audits  # which needs sets to audit

    number = str(name).removeprefix(SAVED)
    if number != str(name) and number.isdecimal():
        return [saved_audits(database).get(int(number)).concepts]
    return load_sets(name, files=files)


def _fitting(database: Database, known: Sequence[int]) -> dict[int, list[tuple[str, ConceptSet]]]:
    """Return what fits each class: its saved lists, or the bundled sets for it."""
    everywhere = (EVERYWHERE, load_sets(EVERYWHERE, files=False)[0])
    fits: dict[int, list[tuple[str, ConceptSet]]] = {}
    for name, one in _bundled():
        number = class_of(database, one)
        if number is not None:  # not a set for another model
            fits.setdefault(number, []).append((name, one))
    for pairs in fits.values():
        if not any(len(one.of_kind("spurious")) for _, one in pairs):
            pairs.append(everywhere)
    for number, record in _latest(database).items():
        fits[number] = [(f"{SAVED}{record.id}", record.concepts)]
    return {n: fits[n] for n in known if n in fits} or {n: [everywhere] for n in known}


@cache
def _bundled() -> tuple[tuple[str, ConceptSet], ...]:
    """Return the bundled sets that are for a class and have sides; read once, for all polls."""
    sets = [(name, load_sets(name, files=False)[0]) for name in bundled_names()]
    return tuple(
        (name, one)
        for name, one in sets
        if one.target is not None and any(c.kind != "concept" for c in one.concepts)
    )


def _latest(database: Database) -> dict[int, AuditRecord]:
    """Return the saved audit of each class that was edited last, of those with lists."""
    from semlens.analysis.audit.saved_audits import saved_audits

    found = [one for one in saved_audits(database).readable() if len(one.concepts)]
    return {one.target: one for one in sorted(found, key=lambda one: one.changed)}


def _joined(
    database: Database, number: int, pairs: Iterable[tuple[str, ConceptSet]]
) -> ResolvedConcepts:
    """Join sets for one class, which is given by number where names are not unique."""
    names, sets = zip(*pairs, strict=True)
    joined = ConceptSet.join([replace(one, target=None) for one in sets])
    title = replace(joined, target=class_name(database, number))
    unique = class_of(database, title) == number
    held = title if unique else replace(joined, target=str(number))
    return ResolvedConcepts(held, tuple(dict.fromkeys(names)))
