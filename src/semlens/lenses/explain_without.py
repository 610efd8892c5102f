"""One prediction with and without some components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float64
from torch import Tensor

from semlens.lens import lens
from semlens.lenses.classes import class_name, find_class
from semlens.lenses.correct.component_files import resolve_components
from semlens.lenses.query_embedding import ImageLike, open_image
from semlens.models.ablation import pruned
from semlens.models.forward import run_scores
from semlens.models.hooks import evaluating
from semlens.models.subject import SubjectModel
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component, Components


@dataclass(frozen=True)
class ScoreChange:
    """The model's output for one class, with and without the components.

    Parameters
    ----------
    logit_before, logit_after
        Logits.
    before, after
        Probabilities: softmax over the logits.
    """

    target: int
    name: str
    logit_before: float
    logit_after: float
    before: float
    after: float


@dataclass(frozen=True)
class PredictionWithout:
    """A prediction with and without some components.

    Parameters
    ----------
    predicted_before, predicted_after
        The classes with the largest logits.
    changes
        The classes with the largest probability on either side, the largest before first.
    """

    components: tuple[Component, ...]
    predicted_before: ScoreChange
    predicted_after: ScoreChange
    changes: tuple[ScoreChange, ...]


@lens("model")
def explain_without(
    database: Database,
    image: ImageLike,
    components: Components,
    target: int | str | None = None,
    *,
    top: Annotated[int, setting("Number of classes.", ge=1)] = 5,
) -> PredictionWithout:
    """Predict an image with and without components; the model's weights are not changed.

    Without a component means that its channel is zero at all positions (paper, 4.3.3).

    Parameters
    ----------
    image
        Any picture or file.
    target
        A class that is among the changes in any case.

    Raises
    ------
    LayerError
        If no component is given, or one is not in the database.
    RelevanceError
        If there is no such class.
    ModelError
        If the model outputs no logits.
    """
    removed, picture = resolve_components(components, database), open_image(image)
    wanted = [] if target is None else [find_class(database, target)]
    model = database.model
    inputs = model.batch([model.preprocess(picture)])
    with_all, without = _logits(model, inputs, ()), _logits(model, inputs, removed)
    before, after = with_all.softmax(0), without.softmax(0)

    def change(index: int) -> ScoreChange:
        values = (float(scores[index]) for scores in (with_all, without, before, after))
        return ScoreChange(index, class_name(database, index), *values)

    first, last = int(with_all.argmax()), int(without.argmax())
    ranked = torch.argsort(-torch.maximum(before, after), stable=True).tolist()
    needed = dict.fromkeys([first, last, *wanted])
    shown = list(dict.fromkeys([*needed, *ranked]))[: max(top, len(needed))]
    shown.sort(key=lambda index: (-float(before[index]), index))
    return PredictionWithout(tuple(removed), change(first), change(last), tuple(map(change, shown)))


@torch.inference_mode()
def _logits(
    model: SubjectModel, inputs: Tensor, removed: Components
) -> Float64[Tensor, " classes"]:
    with evaluating(model.module), pruned(model, removed):
        return run_scores(model, inputs)[0].cpu().double()
