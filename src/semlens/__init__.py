"""semlens: search, describe and audit what a vision model has learned.

The verbs of this module are loaded on first use, so that ``import semlens`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from semlens.analysis.concepts import ConceptSet
    from semlens.analysis.effect import effect
    from semlens.analysis.evaluate import evaluate
    from semlens.analysis.explain import explain
    from semlens.analysis.graph import attribution_graph
    from semlens.analysis.probe import Probe
    from semlens.api import ConceptDatabase, build
    from semlens.api import open_database as open  # noqa: A004
    from semlens.data.folder import ImageFolder
    from semlens.data.huggingface import HuggingFaceImages
    from semlens.data.load import load_images
    from semlens.data.sequence import ImageSequence
    from semlens.embedders.base import Embedder
    from semlens.embedders.load import load_embedder
    from semlens.errors import SemlensError
    from semlens.models.load import load_model
    from semlens.models.subject import SubjectModel
    from semlens.models.taps import pruned
    from semlens.recipe import Recipe
    from semlens.relevance.check import check
    from semlens.relevance.choose import make_engine
    from semlens.relevance.presets import Rules
    from semlens.types import Box, Component

try:
    __version__ = version("semlens")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+source"

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
    "Rules": "semlens.relevance.presets",
    "attribution_graph": "semlens.analysis.graph",
    "build": "semlens.api",
    "check": "semlens.relevance.check",
    "effect": "semlens.analysis.effect",
    "evaluate": "semlens.analysis.evaluate",
    "explain": "semlens.analysis.explain",
    "load_embedder": "semlens.embedders.load",
    "load_images": "semlens.data.load",
    "load_model": "semlens.models.load",
    "make_engine": "semlens.relevance.choose",
    "open": "semlens.api:open_database",
    "pruned": "semlens.models.taps",
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
    "attribution_graph",
    "build",
    "check",
    "effect",
    "evaluate",
    "explain",
    "load_embedder",
    "load_images",
    "load_model",
    "make_engine",
    "open",
    "pruned",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'semlens' has no attribute '{name}'")
    module, _, attribute = home.partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
