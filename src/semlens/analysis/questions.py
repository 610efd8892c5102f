"""Every question as a method; written by ``docs/generate.py``, not by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semlens.analysis.lazy_method import LazyMethod
from semlens.store.reader import Database

if TYPE_CHECKING:
    from semlens.analysis.accuracy import evaluate
    from semlens.analysis.audit.audit import audit
    from semlens.analysis.audit.model_test import model_test
    from semlens.analysis.audit.suspects import suspects
    from semlens.analysis.audit.sweep import audit_all
    from semlens.analysis.class_relevance import class_relevance
    from semlens.analysis.compare.compare import compare
    from semlens.analysis.compare.drift import drift
    from semlens.analysis.contrast.contrast import contrast
    from semlens.analysis.correct.affected_samples import affected
    from semlens.analysis.correct.artefact_sensitivity import sensitivity
    from semlens.analysis.correct.prune import prune
    from semlens.analysis.correct.retrain import retrain
    from semlens.analysis.correct.segments import cut_out
    from semlens.analysis.describe.card import card
    from semlens.analysis.describe.concept_map import concept_map
    from semlens.analysis.describe.dissect import dissect
    from semlens.analysis.describe.unexpected import unexpected
    from semlens.analysis.effect import effect
    from semlens.analysis.explain import explain
    from semlens.analysis.graph.attribution_graph import attribution_graph
    from semlens.analysis.labelling.evaluate_labels import evaluate_labels
    from semlens.analysis.labelling.label import label
    from semlens.analysis.labelling.label_stability import label_stability
    from semlens.analysis.labelling.senses import senses
    from semlens.analysis.netdissect.net2vec import net2vec
    from semlens.analysis.netdissect.netdissect import netdissect
    from semlens.analysis.prototypes.prototypes import prototypes
    from semlens.analysis.report.evidence import evidence
    from semlens.analysis.report.report import report
    from semlens.analysis.scores import scores
    from semlens.analysis.search.search import search
    from semlens.analysis.study.odd_one_out import odd_one_out
    from semlens.analysis.study.study import study
    from semlens.analysis.swap.border_swap import border_swap
    from semlens.analysis.swap.colour_swap import colour_swap
    from semlens.analysis.swap.region_swap import region_swap
    from semlens.analysis.tcav.tcav import tcav


class Questions(Database):
    """The methods of a database: its questions, as ``semlens`` has them as functions."""

    if TYPE_CHECKING:
        affected = affected
        attribution_graph = attribution_graph
        audit = audit
        audit_all = audit_all
        border_swap = border_swap
        card = card
        class_relevance = class_relevance
        colour_swap = colour_swap
        compare = compare
        concept_map = concept_map
        contrast = contrast
        cut_out = cut_out
        dissect = dissect
        drift = drift
        effect = effect
        evaluate = evaluate
        evaluate_labels = evaluate_labels
        evidence = evidence
        explain = explain
        label = label
        label_stability = label_stability
        model_test = model_test
        net2vec = net2vec
        netdissect = netdissect
        odd_one_out = odd_one_out
        prototypes = prototypes
        prune = prune
        region_swap = region_swap
        report = report
        retrain = retrain
        scores = scores
        search = search
        senses = senses
        sensitivity = sensitivity
        study = study
        suspects = suspects
        tcav = tcav
        unexpected = unexpected
    else:
        affected = LazyMethod("semlens.analysis.correct.affected_samples")
        attribution_graph = LazyMethod("semlens.analysis.graph.attribution_graph")
        audit = LazyMethod("semlens.analysis.audit.audit")
        audit_all = LazyMethod("semlens.analysis.audit.sweep")
        border_swap = LazyMethod("semlens.analysis.swap.border_swap")
        card = LazyMethod("semlens.analysis.describe.card")
        class_relevance = LazyMethod("semlens.analysis.class_relevance")
        colour_swap = LazyMethod("semlens.analysis.swap.colour_swap")
        compare = LazyMethod("semlens.analysis.compare.compare")
        concept_map = LazyMethod("semlens.analysis.describe.concept_map")
        contrast = LazyMethod("semlens.analysis.contrast.contrast")
        cut_out = LazyMethod("semlens.analysis.correct.segments")
        dissect = LazyMethod("semlens.analysis.describe.dissect")
        drift = LazyMethod("semlens.analysis.compare.drift")
        effect = LazyMethod("semlens.analysis.effect")
        evaluate = LazyMethod("semlens.analysis.accuracy")
        evaluate_labels = LazyMethod("semlens.analysis.labelling.evaluate_labels")
        evidence = LazyMethod("semlens.analysis.report.evidence")
        explain = LazyMethod("semlens.analysis.explain")
        label = LazyMethod("semlens.analysis.labelling.label")
        label_stability = LazyMethod("semlens.analysis.labelling.label_stability")
        model_test = LazyMethod("semlens.analysis.audit.model_test")
        net2vec = LazyMethod("semlens.analysis.netdissect.net2vec")
        netdissect = LazyMethod("semlens.analysis.netdissect.netdissect")
        odd_one_out = LazyMethod("semlens.analysis.study.odd_one_out")
        prototypes = LazyMethod("semlens.analysis.prototypes.prototypes")
        prune = LazyMethod("semlens.analysis.correct.prune")
        region_swap = LazyMethod("semlens.analysis.swap.region_swap")
        report = LazyMethod("semlens.analysis.report.report")
        retrain = LazyMethod("semlens.analysis.correct.retrain")
        scores = LazyMethod("semlens.analysis.scores")
        search = LazyMethod("semlens.analysis.search.search")
        senses = LazyMethod("semlens.analysis.labelling.senses")
        sensitivity = LazyMethod("semlens.analysis.correct.artefact_sensitivity")
        study = LazyMethod("semlens.analysis.study.study")
        suspects = LazyMethod("semlens.analysis.audit.suspects")
        tcav = LazyMethod("semlens.analysis.tcav.tcav")
        unexpected = LazyMethod("semlens.analysis.describe.unexpected")
