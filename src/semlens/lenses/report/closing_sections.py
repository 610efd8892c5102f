"""Closing sections of a report: overview, identity, limits, and how to reproduce it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from semlens.draw.report_page import (
    Commands,
    Details,
    Facts,
    Paragraph,
    Points,
    ReportTable,
    Section,
    Values,
)
from semlens.lenses.audit.audit_result import Audit
from semlens.lenses.classes import class_name, has_true_classes, true_classes
from semlens.lenses.concepts import ConceptSet, Kind
from semlens.lenses.correct.artefact_sensitivity import Sensitivity
from semlens.lenses.describe.database_warnings import build_command
from semlens.lenses.report.section_parts import SkippedSection
from semlens.lenses.scores import Scores
from semlens.store.reader import Database
from semlens.wording import precise


def identity(
    database: Database,
    target: int,
    concepts: ConceptSet,
    settings: Mapping[str, Any],
    version: str,
) -> Section:
    """Show the model, the data, the embedder and the settings, with fingerprints."""
    manifest, relevance = database.manifest, database.manifest.relevance
    sources = {name: getattr(manifest, name) for name in ("model", "data", "embedder")}
    classes = f"{len(manifest.classes)} classes" if manifest.classes else "classes without names"
    relevance_text = (
        f"rules {relevance.rules}, for the {_TARGETS[relevance.targets]}"
        if relevance is not None
        else "not computed"
    )
    rows = [
        *((name, source.spec, source.fingerprint) for name, source in sources.items()),
        ("database", database.name, database.fingerprint),
        ("class", f"{class_name(database, target)} (logit {target})", ""),
        ("samples", f"{manifest.samples}, {samples_of(database, target)[1]}", ""),
        ("unreadable samples", str(manifest.unreadable), ""),
        ("model outputs", classes, ""),
        ("relevance", relevance_text, ""),
        ("semlens", version, ""),
    ]
    concept_rows = [
        (f"{_KINDS[kind]} concepts", ", ".join(c.name for c in of_kind.concepts), "")
        for kind in ("valid", "spurious", "concept")
        if len(of_kind := concepts.of_kind(kind))
    ]
    source = f", from: {concepts.source}" if concepts.source else ""
    folded = [
        Facts("Inputs, with SHA-256 fingerprints of weights and contents", rows),
        Facts(f"Concept set '{concepts.name}'{source}", concept_rows),
        Values("Recipe of the database", _values(dict(manifest.recipe))),
        *([Values("Settings of the audit", _values(settings))] if settings else []),
    ]
    blocks = [
        Paragraph(
            f"{manifest.model.spec} on {manifest.samples} images of {manifest.data.spec}, embedded "
            f"by {manifest.embedder.spec}."
        ),
        Details("Fingerprints, concepts, and settings of the build and the audit", folded),
    ]
    return Section("identity", "Model, data and settings", blocks)


_TARGETS = {"classes": "classes of the samples", "predictions": "model's predictions"}
_KINDS: Mapping[Kind, str] = {"valid": "valid", "spurious": "spurious", "concept": "other"}
_DEFAULTS = {"threshold": "calibrated", "crop_threshold": "by the crop", "layers": "all"}


def _values(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), _DEFAULTS.get(name, "-") if value is None else _text(value))
        for name, value in settings.items()
    ]


def overview(database: Database, scores: Scores) -> Section:
    """Show the layers and the interpretability of their components."""
    manifest = database.manifest
    components = database.components
    layers = [
        (
            entry.name,
            entry.form,
            str(entry.rows),
            "both" if entry.rows > entry.channels else "+",
            entry.crop,
            str(int((components["examples"].iloc[entry.first :][: entry.rows] == 0).sum())),
            str(entry.not_finite),
        )
        for entry in manifest.layers
    ]
    means = [
        (row["layer"], *(f"{row[m]:.3f}" for m in ("clarity", "redundancy", "polysemanticity")))
        for row in scores.per_layer().to_dict("records")
    ]
    return Section(
        "overview",
        "Overview",
        [
            ReportTable(
                "Interpretability of components, mean per layer",
                ["layer", "clarity", "redundancy", "polysemanticity"],
                means,
                [1, 2, 3],
            ),
            Paragraph(
                "Clarity: how similar the examples of a component are (1: identical; 0: nothing "
                "in common). Redundancy: similarity with the nearest other component of the layer "
                "(1: a duplicate). Polysemanticity: whether the examples form two dissimilar "
                "groups (0: one meaning)."
            ),
            Details(
                f"Layers: {manifest.rows} components",
                [
                    ReportTable(
                        f"{manifest.rows} components",
                        [
                            "layer",
                            "form",
                            "components",
                            "signs",
                            "crop",
                            "no examples",
                            "not finite",
                        ],
                        layers,
                        [2, 5, 6],
                    )
                ],
            ),
        ],
        flows=True,
    )


def samples_of(database: Database, target: int) -> tuple[int, str]:
    """Return how many samples stand for a class, and that number in words.

    Without true classes, these are the samples that the model takes for it.
    """
    name = class_name(database, target)
    if has_true_classes(database):
        count = int((true_classes(database) == target).sum())
        return count, f"{count} of them of '{name}'"
    relevance = database.relevance_classes
    count = int(relevance.loc[relevance["class"] == target, "samples"].sum())
    return count, f"{count} of which the model takes for '{name}': no true classes are known"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):  # the thresholds of the two sides
        valid, spurious = ("calibrated" if one is None else _text(one) for one in value)
        return f"valid {valid}, spurious {spurious}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


FEW_SAMPLES = 30
"""Number of samples of a class below which means are unreliable."""


def limits(
    database: Database,
    target: int,
    concepts: ConceptSet,
    audit: Audit | SkippedSection,
    test: Mapping[str, Any] | None,
    correction: Sensitivity | None,
    missing: Sequence[Section],
) -> Section:
    """Describe what this report covers and what it does not."""
    points = [
        *_data(database, target),
        *_space(database),
        *_concepts(concepts),
        *_verdicts(audit),
        *_causes(database, test, correction),
    ]
    reasons = [(section.title.rstrip("?"), section.missing) for section in missing]
    count = f"{len(missing)} missing section" + ("s" if len(missing) > 1 else "")
    folded = [Details(f"{count}, and why", [Points(reasons)])] if missing else []
    return Section("limits", "Limits of the evidence", [Points(points), *folded])


def reproduce(database: Database, command: Sequence[str], version: str) -> Section:
    """Show the commands that reproduce the database and the report."""
    relevance = ["--relevance"] if database.manifest.relevance is not None else []
    build = build_command(database, *relevance, path=Path(database.name))
    by_code = "The database was built in Python, from objects that a command cannot name."
    return Section(
        "reproduce",
        "How to reproduce this report",
        [
            Paragraph(
                f"With semlens {version}, and the model, data and embedder with the fingerprints "
                f"above:{'' if build else ' ' + by_code}"
            ),
            Commands([*([build] if build else []), shlex.join(command)]),
            Paragraph(
                "If the build used a class map or a list of files, pass them again. The same seeds "
                "give the same numbers on the same machine; other processors may differ in the "
                "last digits."
            ),
        ],
        flows=True,
    )


def _data(database: Database, target: int) -> list[tuple[str, str]]:
    manifest = database.manifest
    count, words = samples_of(database, target)
    few = (
        f" {count} samples are few: shares of relevance may differ with other samples."
        if count < FEW_SAMPLES
        else ""
    )
    text = (
        f"{manifest.samples} samples, {words}. Concepts and artefacts that do not occur in these "
        f"data cannot be detected.{few}"
    )
    if manifest.unreadable:
        text += f" {manifest.unreadable} could not be read."
    return [
        (
            "Layers",
            f"Only {', '.join(database.layers)} were analysed. Features of other layers, or spread "
            "over many components, are not covered. Shares are of one layer's relevance: layers "
            "are views of the same decision, so their shares do not add up.",
        ),
        ("Samples", text),
    ]


def _space(database: Database) -> list[tuple[str, str]]:
    manifest = database.manifest
    crops = sorted({entry.crop for entry in manifest.layers})
    methods = {
        "none": "were embedded whole, including the surroundings of the feature",
        "activation": "were cropped by activation maps, which are coarse",
        "crp": "were cropped by conditional relevance (CRP)",
        "boxes": "were cropped to the boxes of a file, where one was at the strongest activation",
    }
    text = "; ".join(methods.get(crop, crop) for crop in crops)
    demo_embedder = (
        " semlens/demo is a small embedder for demonstrations: use a larger one for real audits."
        if manifest.embedder.spec == "semlens/demo"
        else ""
    )
    return [
        (
            "Examples",
            f"Each component is described by the {manifest.recipe.examples} samples with its "
            f"largest {manifest.recipe.rank}, which {text}. What it does on others is not "
            "described.",
        ),
        (
            "Embedder",
            f"Alignment depends on how {manifest.embedder.spec} embeds crops and words. This "
            "report cannot distinguish what the embedder cannot, and its labels were not checked "
            f"by a person.{demo_embedder}",
        ),
    ]


def _concepts(concepts: ConceptSet) -> list[tuple[str, str]]:
    valid, spurious = (len(concepts.of_kind(kind)) for kind in ("valid", "spurious"))
    return [
        (
            "Concepts",
            f"'{concepts.name}' names {valid} valid and {spurious} spurious concepts"
            + (f" of {len(concepts)}" if valid + spurious < len(concepts) else "")
            + ", chosen by people. An artefact that is not among them is at best unexpected, at "
            "worst mistaken for the nearest valid concept.",
        )
    ]


def _verdicts(audit: Audit | SkippedSection) -> list[tuple[str, str]]:
    if isinstance(audit, SkippedSection):
        return []
    settings = audit.settings
    text = " ".join(_thresholds(settings))
    uncertain = pd.Series(audit.frame["certainty"]).lt(0.9).sum()
    text += (
        f" {uncertain} of {len(audit.frame)} verdicts change in more than 10 % of the bootstrap "
        "draws over examples."
        if settings["resamples"]
        else " No examples were resampled."
    )
    return [
        ("Thresholds", text),
        (
            "Relevant components",
            f"Components below {precise(settings['minimum'])} of their layer's relevance on every "
            "sample of the class were excluded. Intervals are over concept examples; other data or "
            "another training run of the model would vary more.",
        ),
    ]


def _thresholds(settings: Mapping[str, Any]) -> list[str]:
    """Describe when a component counts as aligned; once if both sides have the same threshold."""
    threshold = settings["threshold"]
    by_side = {"": threshold}
    if isinstance(threshold, tuple):
        valid, spurious = threshold
        by_side = {"": valid} if valid == spurious else {"valid ": valid, "spurious ": spurious}
    return [
        f"A component aligns with {side}concepts if its best alignment exceeds what as many random "
        f"concepts of '{settings['background']}' reach with probability {settings['level']:g}: "
        "about that share of components is misclassified by chance alone."
        if value is None
        else f"A component aligns with a {side}concept above {value:g}, a fixed threshold that was "
        "not calibrated against chance."
        for side, value in by_side.items()
    ]


def _causes(
    database: Database, test: Mapping[str, Any] | None, correction: Sensitivity | None
) -> list[tuple[str, str]]:
    relevance = database.manifest.relevance
    exact = relevance is None or relevance.rules != "gradient"
    inexact = (
        "Relevance",
        "This model has no exact relevance rules: relevance is gradient times activation, which is "
        "noisier.",
    )
    cause = (
        "Cause",
        "Relevance describes how the output is composed. This report has no model test, so it does "
        "not show whether spurious features alone activate the class.",
    )
    if test is not None:
        names = ", ".join(str(tested["set"]) for tested in test["sets"])
        cause = (
            "Model test",
            f"Tested: {names}. Inserted artefacts imitate those in the data; other kinds, sizes "
            "and positions may have a stronger or weaker effect.",
        )
    accuracy = (
        "No correction was made or measured."
        if correction is None
        else f"Accuracies are on the given images ({', '.join(correction.sets)}). The report does "
        "not know whether the models were trained on them."
    )
    return [*([] if exact else [inexact]), cause, ("Correction", accuracy)]
