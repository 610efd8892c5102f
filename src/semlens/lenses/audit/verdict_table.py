"""The verdicts that a database keeps, and what they were computed from."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import pandas as pd

from semlens.lenses.audit.audit_records import audit_records
from semlens.lenses.audit.audit_settings import AuditSettings
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.resolve_concepts import ResolvedConcepts, concepts_by_class
from semlens.errors import ConceptError, RelevanceError, StoreError
from semlens.recipe import fingerprint
from semlens.store.reader import Database
from semlens.version import __version__

TABLE = "verdicts"
"""Name of the table in the database."""


def list_key(concepts: ConceptSet) -> list[object]:
    """Return the content of a concept set; the lists of a saved audit change under one name."""
    return [
        [[concept.name, list(concept.path), concept.kind, [str(image) for image in concept.images]]
         for concept in concepts.concepts],
        list(concepts.templates or ()),
    ]  # fmt: skip


def verdict_keys(
    database: Database, resolved: Mapping[int, ResolvedConcepts]
) -> dict[int, tuple[str, AuditSettings]]:
    """Return what determines the audit of each class, as a key, and its settings.

    A class whose lists come from a saved audit has the settings of that audit.
    """
    keys: dict[int, tuple[str, AuditSettings]] = {}
    for target, one in resolved.items():
        settings = AuditSettings()
        if one.audit is not None:
            settings = audit_records(database).get(one.audit).settings
        inputs = [list_key(one.concepts), settings.model_dump(mode="json")]
        keys[target] = fingerprint(target, inputs, __version__, database.fingerprint), settings
    return keys


def kept_p_values(database: Database, target: int) -> list[float]:
    """Return the p-values of the classes but one, of the audit of all classes that is kept.

    Empty if there is none, or if the lists of another class have been edited since.
    """
    saved, saved_keys = load_table(database)
    if saved.empty:
        return []
    with suppress(ConceptError, RelevanceError):
        resolved, _ = concepts_by_class(database, files=False)
        keys = {str(one): key for one, (key, _) in verdict_keys(database, resolved).items()}
        saved = saved.loc[saved["target"] != target].drop_duplicates("target")
        if all(keys.get(one) == saved_keys[one] for one in saved["target"].astype(str)):
            return saved["p_value"].astype(float).tolist()
    return []


def load_table(database: Database) -> tuple[pd.DataFrame, Mapping[str, str]]:
    """Return the saved table and the key of each class in it; both empty if there is none."""
    with suppress(StoreError):  # it can be recomputed
        saved = database.load_with_origin(TABLE)
        if saved is not None:
            return saved[0], saved[1]["keys"]
    return pd.DataFrame(), {}
