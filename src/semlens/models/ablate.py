"""A class's logit without components, one after the other, by few forward passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from semlens.errors import ModelError
from semlens.models.forward import Reader, batches, run_scores
from semlens.models.subject import SubjectModel
from semlens.models.taps import evaluating, fanned, pruned
from semlens.types import Component

ROWS = 128
"""Images that pass the part of the model behind the ablated layer at once."""


@torch.inference_mode()
def ablated_logits(
    model: SubjectModel,
    reader: Reader,
    samples: Sequence[int],
    target: int,
    units: Sequence[Sequence[Component]],
    to: Mapping[Component, float],
) -> tuple[Float64[np.ndarray, " s"], Float64[np.ndarray, "n s"]]:
    """Return the class's logit of each sample with all components, and without each unit.

    Parameters
    ----------
    units
        Components that are ablated together.
    to
        What each component becomes, in units of its activation.

    Raises
    ------
    ModelError
        If the model puts out no logits, or none of the class.
    """
    size = min(32, max(1, ROWS // (len(units) + 1)))
    logit, ablated = np.zeros(len(samples)), np.zeros((len(units), len(samples)))
    ways = _Ways(model, target, units, to)
    done = 0
    with evaluating(model.module):
        for batch in batches(model, reader, samples, size, "ablating"):
            part = slice(done, done + len(batch))
            logit[part] = _scores(model, batch, target)
            ablated[:, part] = ways(batch)
            done += len(batch)
    return logit, ablated


def _scores(model: SubjectModel, batch: Tensor, target: int) -> Float64[np.ndarray, " b"]:
    """Return the class's logit of every image of a batch."""
    scores = run_scores(model, batch)
    if not 0 <= target < scores.shape[1]:
        raise ModelError(
            f"The model has no logit {target}.",
            f"Expected one from 0 to {scores.shape[1] - 1}.",
            "Choose one of them.",
        )
    return scores[:, target].double().cpu().numpy()


class _Ways:
    """Logits of a batch without each unit, by as few passes as the model allows.

    The units of one layer share a pass up to it where that gives the same logits; the first
    batch finds out. It does not where a shortcut or a second branch goes past the layer.
    """

    def __init__(
        self,
        model: SubjectModel,
        target: int,
        units: Sequence[Sequence[Component]],
        to: Mapping[Component, float],
    ) -> None:
        self.model, self.target, self.units, self.to = model, target, units, to
        self.shared: dict[str, list[int]] = {}
        self.single: list[int] = []
        for place, unit in enumerate(units):
            layers = {component.layer for component in unit}
            if len(layers) == 1:
                self.shared.setdefault(layers.pop(), []).append(place)
            else:
                self.single.append(place)
        self.proven: set[str] = set()

    def __call__(self, batch: Tensor) -> Float64[np.ndarray, "n b"]:
        """Return the logits of a batch, unit by unit."""
        found = np.zeros((len(self.units), len(batch)))
        for layer, places in list(self.shared.items()):
            if layer not in self.proven and not self._agrees(batch, layer, places):
                self.single += self.shared.pop(layer)
                continue
            self.proven.add(layer)
            step = max(1, ROWS // len(batch))
            for start in range(0, len(places), step):
                part = places[start : start + step]
                found[part] = self._together(batch, layer, part)
        for place in self.single:
            found[place] = self._alone(batch, place)
        return found

    def _alone(self, batch: Tensor, place: int) -> Float64[np.ndarray, " b"]:
        with pruned(self.model, self.units[place], self.to):
            return _scores(self.model, batch, self.target)

    def _together(
        self, batch: Tensor, layer: str, places: Sequence[int]
    ) -> Float64[np.ndarray, "n b"]:
        versions = [{c.index: self.to[c] for c in self.units[place]} for place in places]
        with fanned(self.model, layer, versions):
            return _scores(self.model, batch, self.target).reshape(len(places), len(batch))

    def _agrees(self, batch: Tensor, layer: str, places: Sequence[int]) -> bool:
        """Say whether the shared pass gives what passes of their own give.

        Two images at least, since one would be broadcast against what goes past the layer.
        """
        if len(batch) == 1:
            batch = torch.cat([batch, batch.flip(-1)])
        some = [places[0], places[-1]]
        try:
            together = self._together(batch, layer, some)
        except (RuntimeError, ValueError, IndexError):  # shapes that do not fit past the layer
            return False
        alone = np.stack([self._alone(batch, place) for place in some])
        return bool(np.allclose(together, alone, rtol=1e-4, atol=1e-4))
