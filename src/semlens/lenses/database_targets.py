"""Targets of a database's model: names of its classes, and texts in its space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from semlens.errors import RelevanceError, shortened
from semlens.lenses.classes import class_name, classes_named, find_class
from semlens.models.forward import run_scores
from semlens.models.function_target import is_function_text
from semlens.models.hooks import evaluating
from semlens.models.parse_target import unnamed_target
from semlens.models.target import ClassRef, Logits, Target
from semlens.store.reader import Database

SAME_SPACE = 0.98
"""Least cosine of the model's embedding of a picture and the embedder's, if they are the same."""


@dataclass(frozen=True)
class DatabaseNames:
    """What names in a target stand for, in a database."""

    database: Database

    def index(self, name: ClassRef) -> int:
        """Return the number of a class, see :func:`~semlens.lenses.classes.find_class`."""
        return find_class(self.database, name)

    def vector(self, text: str) -> Float[Tensor, " d"]:
        """Embed a text, once the model is found to embed pictures as the embedder does.

        Raises
        ------
        RelevanceError
            If it does not: a cosine between two spaces has no meaning.
        """
        embedder, model = self.database.embedder, self.database.model
        grids = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
        pictures = [Image.fromarray(grid).resize((256, 256)) for grid in grids]
        with evaluating(model.module), torch.no_grad():
            own = run_scores(model, model.batch([model.prepare(one) for one in pictures]))
        theirs = embedder.embed_images(pictures).to(own)
        alike = 0.0
        if own.shape == theirs.shape:
            alike = float(torch.cosine_similarity(own, theirs).min())
        if alike < SAME_SPACE:
            raise RelevanceError(
                f"The model answers with {own.shape[1]} numbers, the embedder with "
                f"{theirs.shape[1]}; of the same pictures their cosine is {alike:.2f}.",
                "Expected a model that embeds pictures as the database's embedder does, such as "
                "the image tower of the same CLIP: a text has no direction in another space.",
                "Use that embedder (--embedder), or Target.similar(text, vector) with a vector of "
                "the model's own space.",
            )
        return embedder.embed_texts([text])[0]


def find_target(database: Database, target: int | str | Target) -> Target:
    """Return a target with numbers in place of names; the name of a class comes first.

    Raises
    ------
    RelevanceError
        If there is no such class, or a text has no form of a target. A text executes no file, as
        it may come from a page or an agent: the command line and callers in Python pass
        ``Target.parse("FILE.py:FUNCTION")``.
    """
    names = DatabaseNames(database)
    if isinstance(target, Target):
        return target.with_names(names)
    if isinstance(target, str) and not classes_named(database, target):
        if is_function_text(target):
            raise RelevanceError(
                f"The target '{shortened(target)}' is Python code.",
                "Expected a text that executes no file.",
                "In Python pass semlens.Target.parse('FILE.py:FUNCTION'); on the command line "
                "--target takes it.",
            )
        return unnamed_target(target, database.manifest.classes).with_names(names)
    return class_target(database, find_class(database, target))


def class_target(database: Database, index: int) -> Target:
    """Return the logit of a class."""
    return Logits(((index, 1.0),), (class_name(database, index),))
