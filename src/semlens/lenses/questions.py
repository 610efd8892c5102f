"""Every question as a method; written by ``docs/generate.py``, not by hand."""

from __future__ import annotations

from semlens.lenses.lazy_method import LazyMethod
from semlens.store.reader import Database


class Questions(Database):
    """The methods of a database: its questions; ``questions.pyi`` has their types."""

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
    reliance = LazyMethod("semlens.lenses.reliance.reliance")
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
