"""The sections of a model card about what classes rely on, as Markdown.

The headings are those of the Hugging Face model card template: "Bias, Risks, and Limitations" and
"Evaluation" (Mitchell et al. 2019, https://doi.org/10.1145/3287560.3287596).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from semlens.lenses.audit.audit_rows import ShareRow
from semlens.lenses.audit.class_verdict import FLAGGED
from semlens.lenses.audit.relevance_shares import VERDICTS
from semlens.lenses.report.evidence_file import ClassEvidence, EvidenceFile
from semlens.wording import markdown_table, p_text

NAMED = 4
"""Concept sets that are named."""
SHOWN = 20
"""Classes in the table of results, those with the strongest evidence first."""
_TO_ESCAPE = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|"})


def model_card(evidence: EvidenceFile) -> str:
    """Return the two sections; every number is one of the evidence file."""
    parts = [*_bias(evidence), *_evaluation(evidence)]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Return text in which Markdown has no meaning: names come from data sets and from people."""
    return " ".join(text.translate(_TO_ESCAPE).split())


def _bias(evidence: EvidenceFile) -> Iterable[str]:
    flagged = [one for one in evidence.classes if one.standing in FLAGGED]
    yield "## Bias, Risks, and Limitations"
    yield escaped(evidence.finding)
    if flagged:
        yield "\n".join(f"- **{escaped(one.name)}**: {escaped(one.finding)}" for one in flagged)
    tested = [one for one in evidence.classes if one.p_value is not None]
    yield (
        f"{len(tested)} of {len(evidence.classes)} audited classes were tested for reliance on "
        "spurious concepts. That a class raises no alarm does not show that it relies on valid "
        "concepts only: a list finds what it names and what the embedder distinguishes, and an "
        "artefact that all classes share raises no alarm."
    )
    if evidence.skipped:
        names = (f"{escaped(name)} ({escaped(why)})" for name, why in evidence.skipped.items())
        yield f"Not audited: {'; '.join(names)}."


def _evaluation(evidence: EvidenceFile) -> Iterable[str]:
    database = evidence.database
    yield "## Evaluation"
    yield "### Testing Data, Factors & Metrics"
    yield "#### Testing Data"
    yield (
        f"{database.samples:,} images ({database.unreadable:,} unreadable) of "
        f"`{database.data.spec}`; fingerprint `{database.data.fingerprint}`."
    )
    yield "#### Factors"
    yield (
        f"{_concepts(evidence)}, in the layers "
        f"{', '.join(f'`{layer}`' for layer in database.layers)}. Concepts and components are "
        f"compared in the space of `{database.embedder.spec}`."
    )
    yield "#### Metrics"
    rules = database.relevance.rules if database.relevance is not None else "none"
    yield (
        "The share of a class's relevance on components by their verdict: valid, spurious, both or "
        f"unexpected (rules `{rules}`; ranges over resampled examples). p: of a contrast with the "
        "other classes; where this proposes a concept, of the test on images that decides (with "
        "fewer than six classes: that random concepts claim as much relevance). q: p corrected for "
        "the classes tested together (Benjamini-Hochberg). Alarm: q, or p of a class that was "
        f"tested alone, is at most {evidence.level:g}; a proposal that could not be tested on "
        "images is a suspicion."
    )
    yield "### Results"
    yield _results(evidence.classes)
    yield "#### Summary"
    yield escaped(evidence.finding)
    yield markdown_table(
        ("", "SPEC", "fingerprint (SHA-256)"),
        [
            *(
                (name, f"`{source.spec}`", f"`{source.fingerprint}`")
                for name, source in (
                    ("model", database.model),
                    ("data", database.data),
                    ("embedder", database.embedder),
                )
            ),
            ("database", "", f"`{database.fingerprint}`"),
        ],
    )
    by = f" by {escaped(evidence.author)}" if evidence.author else ""
    yield (
        f"Audited on {evidence.created}{by} with semlens {evidence.semlens}; all values are in the "
        f"evidence file of the schema `{evidence.schema_name}`."
    )


def _concepts(evidence: EvidenceFile) -> str:
    """Return how many concepts of which sets were tested."""
    tested = {(c.kind, c.concept) for one in evidence.classes for c in one.concepts}
    valid, spurious = (sum(kind == k for k, _ in tested) for kind in ("valid", "spurious"))
    names = sorted({part for one in evidence.classes for part in one.concept_set.split(" + ")})
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    sets = ", ".join(map(escaped, names[:NAMED]))
    return f"{valid} valid and {spurious} spurious concepts (sets {sets}{more})"


def _results(classes: Sequence[ClassEvidence]) -> str:
    ranked = sorted(classes, key=lambda one: 2.0 if one.p_value is None else one.p_value)
    rows = [
        (
            escaped(one.name),
            *(_range(one.share(verdict)) for verdict in VERDICTS),
            "" if one.p_value is None else p_text(one.p_value).removeprefix("p ").lstrip("= "),
            "" if one.q_value is None else p_text(one.q_value).removeprefix("p ").lstrip("= "),
            one.standing,
            escaped(one.suspect or "") if one.standing in FLAGGED else "",
        )
        for one in ranked[:SHOWN]
    ]
    head = ("class", *VERDICTS, "p", "q", "standing", "suspect")
    more = len(classes) - len(rows)
    note = f"\n{more} more classes are in the evidence file.\n" if more else ""
    return markdown_table(head, rows) + note


def _range(share: ShareRow) -> str:
    low, high = share.by_relevance_low, share.by_relevance_high
    text = f"{100 * share.by_relevance:.1f} %"
    return text if low is None or high is None else f"{text} ({100 * low:.1f} to {100 * high:.1f})"
