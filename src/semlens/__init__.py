"""semlens: search, describe and audit what a vision model has learned.

The verbs of this module are loaded on first use, so that ``import semlens`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from semlens.version import __version__ as __version__

if TYPE_CHECKING:
    from semlens.analysis.audit.audit import audit
    from semlens.analysis.audit.model_test import model_test
    from semlens.analysis.audit.sweep import audit_all
    from semlens.analysis.compare.compare import compare
    from semlens.analysis.compare.drift import drift
    from semlens.analysis.concepts import ConceptSet
    from semlens.analysis.correct.affected import affected
    from semlens.analysis.correct.cut_out import cut_out
    from semlens.analysis.correct.prune import pruned_state
    from semlens.analysis.correct.retrain import retrain
    from semlens.analysis.correct.sensitivity import sensitivity
    from semlens.analysis.correct.training import Training
    from semlens.analysis.describe.dissect import dissect
    from semlens.analysis.describe.map import concept_map
    from semlens.analysis.describe.unexpected import unexpected
    from semlens.analysis.effect import effect
    from semlens.analysis.evaluate import evaluate
    from semlens.analysis.explain import explain
    from semlens.analysis.graph.graph import attribution_graph
    from semlens.analysis.probe import Probe
    from semlens.analysis.report.report import report
    from semlens.api import ConceptDatabase, build
    from semlens.api import open_database as open  # noqa: A004
    from semlens.data.artefact import load_artefact
    from semlens.data.folder import ImageFolder
    from semlens.data.huggingface import HuggingFaceImages
    from semlens.data.load import load_images
    from semlens.data.sequence import ImageSequence
    from semlens.data.with_artefact import WithArtefact
    from semlens.embedders.base import Embedder
    from semlens.embedders.load import load_embedder
    from semlens.errors import SemlensError
    from semlens.models.load import load_model
    from semlens.models.subject import SubjectModel
    from semlens.models.survey import layers
    from semlens.models.taps import pruned
    from semlens.recipe import Recipe
    from semlens.relevance.check import check
    from semlens.relevance.choose import make_engine
    from semlens.relevance.presets import Rules
    from semlens.types import Box, Component
    from semlens.web.serve import serve

_HOME = {
    "Box": "semlens.types",
    "Component": "semlens.types",
    "ConceptDatabase": "semlens.api",
    "ConceptSet": "semlens.analysis.concepts",
    "Embedder": "semlens.embedders.base",
    "HuggingFaceImages": "semlens.data.huggingface",
    "ImageFolder": "semlens.data.folder",
    "ImageSequence": "semlens.data.sequence",
    "Probe": "semlens.analysis.probe",
    "Recipe": "semlens.recipe",
    "SemlensError": "semlens.errors",
    "SubjectModel": "semlens.models.subject",
    "Training": "semlens.analysis.correct.training",
    "WithArtefact": "semlens.data.with_artefact",
    "Rules": "semlens.relevance.presets",
    "affected": "semlens.analysis.correct.affected",
    "attribution_graph": "semlens.analysis.graph.graph",
    "audit": "semlens.analysis.audit.audit",
    "audit_all": "semlens.analysis.audit.sweep",
    "build": "semlens.api",
    "check": "semlens.relevance.check",
    "compare": "semlens.analysis.compare.compare",
    "concept_map": "semlens.analysis.describe.map",
    "cut_out": "semlens.analysis.correct.cut_out",
    "dissect": "semlens.analysis.describe.dissect",
    "drift": "semlens.analysis.compare.drift",
    "effect": "semlens.analysis.effect",
    "evaluate": "semlens.analysis.evaluate",
    "explain": "semlens.analysis.explain",
    "layers": "semlens.models.survey",
    "load_artefact": "semlens.data.artefact",
    "load_embedder": "semlens.embedders.load",
    "load_images": "semlens.data.load",
    "load_model": "semlens.models.load",
    "make_engine": "semlens.relevance.choose",
    "model_test": "semlens.analysis.audit.model_test",
    "open": "semlens.api:open_database",
    "pruned": "semlens.models.taps",
    "pruned_state": "semlens.analysis.correct.prune",
    "report": "semlens.analysis.report.report",
    "retrain": "semlens.analysis.correct.retrain",
    "sensitivity": "semlens.analysis.correct.sensitivity",
    "serve": "semlens.web.serve",
    "unexpected": "semlens.analysis.describe.unexpected",
}

__all__ = [
    "Box",
    "Component",
    "ConceptDatabase",
    "ConceptSet",
    "Embedder",
    "HuggingFaceImages",
    "ImageFolder",
    "ImageSequence",
    "Probe",
    "Recipe",
    "Rules",
    "SemlensError",
    "SubjectModel",
    "Training",
    "WithArtefact",
    "affected",
    "attribution_graph",
    "audit",
    "audit_all",
    "build",
    "check",
    "compare",
    "concept_map",
    "cut_out",
    "dissect",
    "drift",
    "effect",
    "evaluate",
    "explain",
    "layers",
    "load_artefact",
    "load_embedder",
    "load_images",
    "load_model",
    "make_engine",
    "model_test",
    "open",
    "pruned",
    "pruned_state",
    "report",
    "retrain",
    "sensitivity",
    "serve",
    "unexpected",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'semlens' has no attribute '{name}'")
    module, _, attribute = home.partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
