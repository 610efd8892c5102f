"""Evidence of what classes rely on: JSON with a schema, and sections for a model card."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Annotated, Any

from semlens.lens import lens
from semlens.lenses.audit.audit import (
    BACKGROUND,
    RESAMPLES,
    Background,
    Resamples,
    audit,
)
from semlens.lenses.audit.audit_records import LEVEL, Level, Seed, Threshold
from semlens.lenses.audit.class_audits import ClassAudits, audit_all
from semlens.lenses.class_relevance import MINIMUM, Minimum
from semlens.lenses.report.evidence_file import ClassEvidence, EvidenceFile, database_evidence
from semlens.lenses.report.model_card import model_card
from semlens.lenses.report.section_parts import parse_date
from semlens.lenses.resolve_concepts import ClassConcepts, OwnTarget
from semlens.lenses.result import RESULT_SUFFIXES
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers
from semlens.version import __version__


@dataclass(frozen=True, repr=False)
class Evidence(ClassAudits):
    """Audits with what identifies everything that they depend on.

    Parameters
    ----------
    content
        What is saved as JSON.
    """

    suffixes = (*RESULT_SUFFIXES, ".md")
    content: EvidenceFile

    @property
    def model_card(self) -> str:
        """The sections "Bias, Risks, and Limitations" and "Evaluation" of a model card."""
        return model_card(self.content)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the evidence file."""
        return self.content.to_json()

    def _file_text(self, suffix: str) -> str | None:
        """Return the sections of a model card for ``.md``."""
        return self.model_card if suffix == ".md" else None


@lens(
    "embedder", group="Audit", command="classes evidence",
    local=True,
    example="classes evidence r50.semlens --concepts artefacts --save evidence.json --save card.md",
)  # fmt: skip
def evidence(
    database: Database,
    target: OwnTarget = None,
    concepts: ClassConcepts = None,
    *,
    layers: Layers = None,
    minimum: Minimum = MINIMUM,
    level: Level = LEVEL,
    threshold: Threshold = None,
    background: Background = BACKGROUND,
    resamples: Resamples = RESAMPLES,
    seed: Seed = 0,
    author: Annotated[str | None, setting("Who is responsible for the audits.")] = None,
    date: Annotated[str | None, setting("Date of the evidence: YYYY-MM-DD [today].")] = None,
) -> Evidence:
    """Audit classes for a compliance file: JSON evidence, and sections for a model card.

    Without a class, all classes are audited. Saved as .json, it has every value with fingerprints
    of the model, the data and the embedder; as .md, the sections "Bias, Risks, and Limitations" and
    "Evaluation" of a model card.

    Parameters that are not listed are those of :func:`audit`.

    Parameters
    ----------
    target
        Class; by default all classes, as for :func:`audit_all`.
    author
        Recorded as given; so is the date.

    Raises
    ------
    ConceptError, RelevanceError, EmbedderError
        As for :func:`audit` and :func:`audit_all`.
    RecipeError
        If the date is not one.
    """
    day = datetime.date.today() if date is None else parse_date(date)
    settings: dict[str, Any] = {
        "layers": layers, "minimum": minimum, "level": level, "threshold": threshold,
        "background": background, "resamples": resamples, "seed": seed,
    }  # fmt: skip
    if target is None:
        sweep = audit_all(database, concepts, **settings)
    else:
        one = audit(database, target, concepts, **settings)
        sweep = ClassAudits({one.name: one}, {}, level)
    content = EvidenceFile(
        created=day.isoformat(),
        author=author,
        semlens=__version__,
        database=database_evidence(database),
        finding=sweep.sentence,
        level=level,
        classes=[ClassEvidence.of(one, name) for name, one in sweep.audits.items()],
        skipped=dict(sweep.skipped),
    )
    return Evidence(sweep.audits, sweep.skipped, sweep.level, content)
