"""The schema of an evidence file: the audits of a model for compliance files, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from semlens.documents import first_problem, parse_json
from semlens.errors import StoreError, shortened
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.audit.audit_rows import ComponentRow, ConceptRow, NullShareRow, ShareRow
from semlens.lenses.audit.class_verdict import Kind
from semlens.lenses.audit.relevance_shares import Verdict
from semlens.lenses.result import plain
from semlens.regular_files import read_text
from semlens.store.manifest import RelevanceEntry, Source, public_spec
from semlens.store.reader import Database

SCHEMA = "semlens-evidence/1"
"""Name and version of the schema; it changes when a field does."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class DatabaseEvidence(_Part):
    """What was audited; fingerprints are SHA-256, and cover every byte that a result depends on."""

    fingerprint: str
    model: Source
    data: Source
    embedder: Source
    samples: int
    unreadable: int
    layers: list[str]
    recipe: dict[str, Any]
    relevance: RelevanceEntry | None


class ClassEvidence(_Part):
    """The audit of a class."""

    name: str
    target: int
    """Logit."""
    standing: Kind
    finding: str
    p_value: float | None
    """Of this class alone; null if there are no spurious concepts on its list."""
    q_value: float | None
    """Corrected for the classes that were tested together; null if it was tested alone."""
    tested: int
    suspect: str | None
    concept_set: str
    source: str
    settings: dict[str, Any]
    shares: list[ShareRow]
    chance: list[NullShareRow]
    concepts: list[ConceptRow]
    components: list[ComponentRow]

    @classmethod
    def of(cls, audit: Audit, name: str) -> ClassEvidence:
        """Return the evidence of an audit; ``name`` tells classes of one name apart."""
        values = audit.to_json()
        return cls.model_validate(
            plain(
                {
                    "name": name,
                    "concept_set": audit.concepts.name,
                    "source": audit.concepts.source,
                    "finding": audit.sentence,
                    "concepts": audit.summary.to_dict("records"),
                    **{key: values[key] for key in _TAKEN},
                }
            )
        )

    def share(self, verdict: Verdict) -> ShareRow:
        """Return the share of a verdict over all layers."""
        return next(s for s in self.shares if s.layer == "all" and s.verdict == verdict)


_TAKEN = (
    "target", "standing", "p_value", "q_value", "tested", "suspect", "settings", "shares", "chance",
    "components",
)  # fmt: skip


class EvidenceFile(_Part):
    """Audits of classes of a model, with what identifies everything that they depend on."""

    schema_name: Literal["semlens-evidence/1"] = Field(default=SCHEMA, alias="schema")
    created: str
    """Date, YYYY-MM-DD."""
    author: str | None
    """Who is responsible for the audits, as they call themselves."""
    semlens: str
    """Version of semlens."""
    database: DatabaseEvidence
    finding: str
    level: float
    """Largest expected share of false alarms among the alarms."""
    classes: list[ClassEvidence]
    skipped: dict[str, str]
    """Why a class was not audited."""

    @classmethod
    def load(cls, path: str | Path) -> EvidenceFile:
        """Read an evidence file.

        Raises
        ------
        StoreError
            If it cannot be read, or has another schema.
        """
        try:
            text = read_text(Path(path))
            parse_json(text)  # pydantic accepts repeated keys, infinities and half characters
            return cls.model_validate_json(text)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"'{shortened(path)}' is not an evidence file ({first_problem(error)}).",
                f"Expected a file of the schema {SCHEMA}.",
                "Write it again, or use the version of semlens that wrote it.",
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return self.model_dump(mode="json", by_alias=True)


def database_evidence(database: Database) -> DatabaseEvidence:
    """Return what identifies a database; of absolute paths only the last part."""
    manifest = database.manifest
    sources = {
        name: Source(spec=public_spec(source.spec), fingerprint=source.fingerprint)
        for name in ("model", "data", "embedder")
        if isinstance(source := getattr(manifest, name), Source)
    }
    return DatabaseEvidence(
        fingerprint=database.fingerprint,
        samples=manifest.samples,
        unreadable=manifest.unreadable,
        layers=list(database.layers),
        recipe=manifest.recipe.model_dump(),
        relevance=manifest.relevance,
        **sources,
    )
