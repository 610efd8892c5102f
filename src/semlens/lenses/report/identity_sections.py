"""Sections of a report on the database: identity and settings, and an overview."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semlens.draw.report_page import (
    Details,
    Facts,
    Paragraph,
    ReportTable,
    Section,
    Values,
)
from semlens.lenses.classes import class_name, has_true_classes, true_classes
from semlens.lenses.concepts import ConceptSet, Kind
from semlens.lenses.scores import Scores
from semlens.store.reader import Database


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
