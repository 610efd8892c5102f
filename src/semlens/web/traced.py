"""Tracing a class through the subject, once for all graphs of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from semlens.analysis.graph.kept import keep_trace, recall_trace, trace_name
from semlens.analysis.graph.trace import GraphTrace, reached_layers, trace_class
from semlens.analysis.target import class_name, class_samples
from semlens.errors import ModelError, SemlensError
from semlens.models.subject import SubjectModel
from semlens.relevance.choose import Engines
from semlens.store.reader import BuiltImages
from semlens.web.served import Served, Serving
from semlens.web.work import Progress

IMAGES = 30
"""Images of the class that are traced, as ``semlens graph`` does."""


def traced(
    served: Served, serving: Serving, target: int, layers: Sequence[str] | None
) -> GraphTrace:
    """Return the trace of a class: known, kept in the database, or made now.

    Raises
    ------
    StillWorking
        If it is being made.
    ModelError
        If it has to be, and there is no model.
    """
    db = served.db
    samples = class_samples(db, target, IMAGES)
    reached = reached_layers(db, target, layers)
    name = trace_name(db, target, samples, reached)

    def make(progress: Progress) -> GraphTrace:
        kept = recall_trace(db, name)
        if kept is not None:
            return kept

        def told(stage: str, done: int, total: int) -> None:
            # in per cent: to find the components takes about a tenth of the time
            share = done / total
            progress(round(10 * share if stage == "relevance" else 10 + 90 * share), 100)

        with served.lock:
            model = loaded_subject(served, "A graph is traced through the model")
            images = BuiltImages(db, served.data)
            first = model.batch([model.preprocess(images.read(int(samples[0])))])
            engine = _engines(served, model).engine(first, reached)
            trace = trace_class(
                db, model, images, target, samples, layers=reached, engine=engine,
                progress=told,
            )  # fmt: skip
        keep_trace(db, name, trace)
        return trace

    what = f"tracing '{class_name(db, target)}' through {len(samples)} images"
    return serving.work.result(f"{served.number} {name}", what, make)


_ENGINES: WeakKeyDictionary[Served, Engines] = WeakKeyDictionary()
"""To capture a model takes seconds, and is the same for every class."""


def _engines(served: Served, model: SubjectModel) -> Engines:
    if served not in _ENGINES:
        _ENGINES[served] = Engines(model, served.db.manifest.recipe.rules)
    return _ENGINES[served]


def loaded_subject(served: Served, why: str) -> SubjectModel:
    """Return the subject model; ``why`` says what it is for: "A graph is traced through the model".

    Raises
    ------
    ModelError
        If it cannot be loaded, or is not the one of the database; it says how to serve it.
    """
    try:
        return served.subject()
    except SemlensError as error:
        spec = served.db.manifest.model.spec
        command = shlex.join(["semlens", "serve", str(served.db.path), "--model"])
        raise ModelError(
            f"{why} '{spec}', which is not there: {error.value}",
            f"{error.expected} What the database holds is shown without it.",
            f"Serve it with the model: {command} SPEC",
        ) from error
