"""The end of a report: what its evidence cannot show, and how to make it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from semlens.analysis.audit.audit_result import Audit
from semlens.analysis.classes import class_name
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.correct.sensitivity import Sensitivity
from semlens.analysis.report.sections import SkippedSection, samples_of
from semlens.draw.report_page import Commands, Paragraph, Points, Section
from semlens.recipe import Recipe
from semlens.store.reader import Database

FEW = 30
"""Samples of a class under which means say little."""


def limits(
    database: Database,
    target: int,
    concepts: ConceptSet,
    audit: Audit | SkippedSection,
    tested: Mapping[str, Any] | None,
    corrected: Sensitivity | None,
    missing: Sequence[Section],
) -> Section:
    """Say what was done and what was not, of this very report."""
    points = [
        *_data(database, target),
        *_space(database),
        *_concepts(concepts),
        *_verdicts(audit),
        *_causes(database, tested, corrected),
        *(("Left out", f"{part.title}. {part.missing}") for part in missing),
    ]
    return Section("limits", "Limits of the evidence", [Points(points)])


def reproduce(database: Database, command: Sequence[str], version: str) -> Section:
    """Say with which commands the database and the report are made again."""
    return Section(
        "reproduce",
        "How to make this report again",
        [
            Paragraph(
                f"With semlens {version}, from the model, data and embedder whose fingerprints "
                "stand above:"
            ),
            Commands([shlex.join(build_command(database)), shlex.join(command)]),
            Paragraph(
                "A class map or a list of files that the build was given has to be given again. "
                "The same seeds give the same numbers on the same machine; other processors may "
                "differ in the last digits."
            ),
        ],
        flows=True,
    )


def build_command(database: Database) -> list[str]:
    """Return the 'semlens build' that makes the database, without what is by default."""
    manifest = database.manifest
    words = [
        "semlens", "build", str(database.path), "--model", manifest.model.spec, "--data",
        manifest.data.spec, "--embedder", manifest.embedder.spec, "--layers",
        ",".join(database.layers),
    ]  # fmt: skip
    usual = Recipe()
    for name, value in manifest.recipe:
        if value != getattr(usual, name):
            option = [f"--{name.replace('_', '-')}", str(value)]
            words += ["--no-thumbnails"] if name == "thumbnails" else option
    return [*words, "--relevance"] if manifest.relevance is not None else words


def _data(database: Database, target: int) -> list[tuple[str, str]]:
    manifest = database.manifest
    mine, name = samples_of(database, target), class_name(database, target)
    few = (
        f" {mine} samples are few: shares of relevance may change with other ones."
        if mine < FEW
        else ""
    )
    told = (
        f"{manifest.samples} samples, {mine} of them of '{name}'. What they do not show, no "
        f"component can be found to know: an artefact that is not in these data stays unseen.{few}"
    )
    if manifest.unreadable:
        told += f" {manifest.unreadable} could not be read."
    return [
        (
            "Layers",
            f"Only {', '.join(database.layers)} were looked at. What other layers do, or what is "
            "spread over many components at once, is not seen. Shares are of a layer's relevance: "
            "layers are views of one decision and do not add up.",
        ),
        ("Samples", told),
    ]


def _space(database: Database) -> list[tuple[str, str]]:
    manifest = database.manifest
    crops = sorted({entry.crop for entry in manifest.layers})
    cut = {
        "none": "were embedded whole: what stands beside the feature counts too",
        "activation": "were cut by activation maps, which are broad",
        "crp": "were cut by conditional relevance (CRP)",
    }
    told = "; ".join(cut.get(crop, crop) for crop in crops)
    small = (
        " semlens/demo is a small embedder made for the demonstration: use a larger one for an "
        "audit that counts."
        if manifest.embedder.spec == "semlens/demo"
        else ""
    )
    return [
        (
            "Examples",
            f"Each component is known by its {manifest.recipe.examples} strongest samples, which "
            f"{told}. How it acts on weaker ones is not described.",
        ),
        (
            "Embedder",
            f"Alignment is what {manifest.embedder.spec} makes of crops and words. What it cannot "
            f"tell apart, this report cannot either; no person has checked its labels.{small}",
        ),
    ]


def _concepts(concepts: ConceptSet) -> list[tuple[str, str]]:
    valid, spurious = (len(concepts.of_kind(kind)) for kind in ("valid", "spurious"))
    return [
        (
            "Concepts",
            f"'{concepts.name}' names {valid} valid and {spurious} spurious concepts"
            + (f" of {len(concepts)}" if valid + spurious < len(concepts) else "")
            + ". People chose them. An artefact that nobody named is at best unexpected, and at "
            "worst taken for the valid concept that lies nearest.",
        )
    ]


def _verdicts(audit: Audit | SkippedSection) -> list[tuple[str, str]]:
    if isinstance(audit, SkippedSection):
        return []
    used = audit.settings
    told = " ".join(_thresholds(used))
    unsure = pd.Series(audit.frame["certainty"]).lt(0.9).sum()
    told += (
        f" {unsure} of {len(audit.frame)} verdicts change in more than one of ten redraws of the "
        "examples."
        if used["resamples"]
        else " No intervals were computed."
    )
    return [
        ("Thresholds", told),
        (
            "Relevant",
            f"Components under {used['minimum']:.1%} of their layer's relevance on every sample of "
            "the class were left out. Intervals are over concept examples; other data or another "
            "training of the model would differ by more.",
        ),
    ]


def _thresholds(used: Mapping[str, Any]) -> list[str]:
    """Say when a component counts as aligned, once where both sides have the same rule."""
    given = used["threshold"]
    least = {"": given}
    if isinstance(given, tuple):
        valid, spurious = given
        least = {"": valid} if valid == spurious else {"valid ": valid, "spurious ": spurious}
    return [
        f"A component aligns with {side}concepts when the best alignment exceeds what as many "
        f"random concepts of '{used['background']}' reach with probability {used['level']:g}: "
        "about that share of components is called wrongly by chance alone."
        if one is None
        else f"A component aligns with a {side}concept above {one:g}, a fixed threshold that was "
        "not held against chance."
        for side, one in least.items()
    ]


def _causes(
    database: Database, tested: Mapping[str, Any] | None, corrected: Sensitivity | None
) -> list[tuple[str, str]]:
    relevance = database.manifest.relevance
    exact = relevance is None or relevance.rules != "gradient"
    inexact = (
        "Relevance",
        "No exact rules cover this model: relevance is gradient times activation, which is "
        "noisier.",
    )
    cause = (
        "Cause",
        "Relevance says how the output was put together. The model was not tested with "
        "spurious features in this report: whether they alone raise the class is open.",
    )
    if tested is not None:
        names = ", ".join(str(one["set"]) for one in tested["sets"])
        cause = (
            "Model test",
            f"Tested were: {names}. Inserted artefacts imitate what is in the data; other "
            "kinds, sizes and places may act more or less.",
        )
    measured = (
        "Nothing was corrected, and no correction was measured."
        if corrected is None
        else f"Accuracies are on the images that were given ({', '.join(corrected.sets)}). "
        "Whether the models have seen them in training is not known to this report."
    )
    return [*([] if exact else [inexact]), cause, ("Correction", measured)]
