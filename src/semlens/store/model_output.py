"""What a database keeps of its model's answer, and the model that it makes of another."""

from __future__ import annotations

from dataclasses import replace

from semlens.models.output_tensor import output_name
from semlens.models.subject import SubjectModel
from semlens.store.manifest import Manifest, OutputEntry


def output_entry(model: SubjectModel) -> OutputEntry | None:
    """Return the manifest's entry of a model's answer; None if it has none."""
    if model.answer_error is not None:
        return None
    answer = model.answer
    return OutputEntry(
        declared=output_name(model.output) or None,
        path=answer.selection.path,
        task=answer.task,
        task_declared=model.task != "auto",
        scores=answer.count,
        positive=answer.positive,
        summary=answer.sentence(),
    )


def with_stored_output(model: SubjectModel, manifest: Manifest) -> SubjectModel:
    """Return a model with the database's choice of tensor, task and order of its two classes.

    What the model itself declares is kept. A function cannot be restored from its name.
    """
    stored = manifest.output
    if stored is None:
        return model
    changes: dict[str, object] = {}
    declared = stored.declared
    if model.output is None and declared is not None and not declared.startswith("function "):
        changes["output"] = declared
    if model.task == "auto" and stored.task_declared:
        changes["task"] = stored.task
    if model.classes is None and stored.positive == 1:
        changes["classes"] = manifest.classes
    return replace(model, **changes) if changes else model
