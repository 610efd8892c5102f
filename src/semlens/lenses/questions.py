"""Every question as a method; written by ``docs/generate.py``, not by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semlens.lenses.lazy_method import LazyMethod
from semlens.store.reader import Database

if TYPE_CHECKING:
    from semlens.lenses.accuracy import evaluate
    from semlens.lenses.audit.audit import audit
    from semlens.lenses.audit.class_audits import audit_all
    from semlens.lenses.audit.model_test import model_test
    from semlens.lenses.audit.suspects import suspects
    from semlens.lenses.class_relevance import class_relevance
    from semlens.lenses.compare.compare import compare
    from semlens.lenses.compare.drift import drift
    from semlens.lenses.contrast.contrast import contrast
    from semlens.lenses.correct.affected_samples import affected
    from semlens.lenses.correct.artefact_sensitivity import sensitivity
    from semlens.lenses.correct.prune import prune
    from semlens.lenses.correct.retrain import retrain
    from semlens.lenses.correct.segments import cut_out
    from semlens.lenses.describe.card import card
    from semlens.lenses.describe.concept_map import concept_map
    from semlens.lenses.describe.dissect import dissect
    from semlens.lenses.describe.unexpected import unexpected
    from semlens.lenses.effect import effect
    from semlens.lenses.explain import explain
    from semlens.lenses.graph.attribution_graph import attribution_graph
    from semlens.lenses.labelling.evaluate_labels import evaluate_labels
    from semlens.lenses.labelling.label import label
    from semlens.lenses.labelling.label_stability import label_stability
    from semlens.lenses.labelling.senses import senses
    from semlens.lenses.netdissect.net2vec import net2vec
    from semlens.lenses.netdissect.netdissect import netdissect
    from semlens.lenses.prototypes.prototypes import prototypes
    from semlens.lenses.report.evidence import evidence
    from semlens.lenses.report.report import report
    from semlens.lenses.scores import scores
    from semlens.lenses.search.search import search
    from semlens.lenses.study.odd_one_out import odd_one_out
    from semlens.lenses.study.study import study
    from semlens.lenses.swap.swap import swap
    from semlens.lenses.tcav.tcav import tcav


class Questions(Database):
    """The methods of a database: its questions, as ``semlens`` has them as functions."""

    if TYPE_CHECKING:
        affected = affected
        attribution_graph = attribution_graph
        audit = audit
        audit_all = audit_all
        card = card
        class_relevance = class_relevance
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
        report = report
        retrain = retrain
        scores = scores
        search = search
        senses = senses
        sensitivity = sensitivity
        study = study
        suspects = suspects
        swap = swap
        tcav = tcav
        unexpected = unexpected
    else:
        affected = LazyMethod("semlens.lenses.correct.affected_samples")
        attribution_graph = LazyMethod("semlens.lenses.graph.attribution_graph")
        audit = LazyMethod("semlens.lenses.audit.audit")
        audit_all = LazyMethod("semlens.lenses.audit.class_audits")
        card = LazyMethod("semlens.lenses.describe.card")
        class_relevance = LazyMethod("semlens.lenses.class_relevance")
        compare = LazyMethod("semlens.lenses.compare.compare")
        concept_map = LazyMethod("semlens.lenses.describe.concept_map")
        contrast = LazyMethod("semlens.lenses.contrast.contrast")
        cut_out = LazyMethod("semlens.lenses.correct.segments")
        dissect = LazyMethod("semlens.lenses.describe.dissect")
        drift = LazyMethod("semlens.lenses.compare.drift")
        effect = LazyMethod("semlens.lenses.effect")
        evaluate = LazyMethod("semlens.lenses.accuracy")
        evaluate_labels = LazyMethod("semlens.lenses.labelling.evaluate_labels")
        evidence = LazyMethod("semlens.lenses.report.evidence")
        explain = LazyMethod("semlens.lenses.explain")
        label = LazyMethod("semlens.lenses.labelling.label")
        label_stability = LazyMethod("semlens.lenses.labelling.label_stability")
        model_test = LazyMethod("semlens.lenses.audit.model_test")
        net2vec = LazyMethod("semlens.lenses.netdissect.net2vec")
        netdissect = LazyMethod("semlens.lenses.netdissect.netdissect")
        odd_one_out = LazyMethod("semlens.lenses.study.odd_one_out")
        prototypes = LazyMethod("semlens.lenses.prototypes.prototypes")
        prune = LazyMethod("semlens.lenses.correct.prune")
        report = LazyMethod("semlens.lenses.report.report")
        retrain = LazyMethod("semlens.lenses.correct.retrain")
        scores = LazyMethod("semlens.lenses.scores")
        search = LazyMethod("semlens.lenses.search.search")
        senses = LazyMethod("semlens.lenses.labelling.senses")
        sensitivity = LazyMethod("semlens.lenses.correct.artefact_sensitivity")
        study = LazyMethod("semlens.lenses.study.study")
        suspects = LazyMethod("semlens.lenses.audit.suspects")
        swap = LazyMethod("semlens.lenses.swap.swap")
        tcav = LazyMethod("semlens.lenses.tcav.tcav")
        unexpected = LazyMethod("semlens.lenses.describe.unexpected")
