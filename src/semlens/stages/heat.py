"""The heatmaps that crops are cut by: activation maps, and conditional relevance (paper, H.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from semlens.models.activations import LayerForm, spatial
from semlens.models.subject import SubjectModel
from semlens.models.taps import run_layers
from semlens.relevance.boxes import heatmaps
from semlens.relevance.choose import Engines
from semlens.relevance.conditional import (
    batches,
    conditional_heatmaps,
    pairs_per_pass,
    pull_heatmaps,
)
from semlens.relevance.interface import Tracer
from semlens.relevance.patches import frame_of
from semlens.types import Readout

_AT_ONCE = 256
"""Heatmaps that are blurred together."""


@dataclass(frozen=True)
class Pairs:
    """Components and images of one batch: n pairs.

    Parameters
    ----------
    layer
        int32[n], place in the list of layers.
    image
        int64[n], row in the batch.
    channel, sign
        int32[n] and int8[n].
    position
        int32[n], where the component's peak is.
    """

    layer: Int[np.ndarray, " n"]
    image: Int[np.ndarray, " n"]
    channel: Int[np.ndarray, " n"]
    sign: Int[np.ndarray, " n"]
    position: Int[np.ndarray, " n"]


Keep = Callable[[np.ndarray, Tensor, float], None]
"""Takes rows of the pairs, their blurred heatmaps float32[n h w], and the box's threshold."""


Heatmaps = Callable[[Tensor, Pairs, Keep], None]
"""One kind of heatmap, for some of the layers: shows ``Keep`` those of its layers' pairs on a
batch float[b 3 h w]."""


@dataclass(frozen=True)
class ActivationMaps:
    """Up-sampled activation maps of the components themselves.

    Parameters
    ----------
    forms
        By place in the list of layers, those that are cropped this way.
    """

    model: SubjectModel
    forms: Mapping[int, LayerForm]
    blur: float
    threshold: float

    def __call__(self, inputs: Tensor, pairs: Pairs, keep: Keep) -> None:
        """Show the maps; a layer without a map shows none."""
        height, width = inputs.shape[-2:]
        used = set(np.unique(pairs.layer).tolist())
        wanted = {form.name: number for number, form in self.forms.items() if number in used}

        def cut(name: str, output: Any) -> None:
            number = wanted[name]
            maps = spatial(self.forms[number], output)
            if maps is None:
                return
            rows = np.flatnonzero(pairs.layer == number)
            for start in range(0, len(rows), _AT_ONCE):
                part = rows[start : start + _AT_ONCE]
                image, channel, sign = _tensors(pairs, part)
                picked = maps[image, channel] * sign.to(maps)[:, None, None]
                keep(part, heatmaps(picked, height, width, self.blur), self.threshold)

        if wanted:
            run_layers(self.model.module, inputs, list(wanted), cut, stop_early=True)


@dataclass(frozen=True)
class ConditionalMaps:
    """Relevance of the pixels for a component, started at its peak (CRP).

    Parameters
    ----------
    names
        By place in the list of layers, those that are cropped this way.
    readout
        With ``cls``, relevance starts at the class token, where the component is read; else at
        its largest spatial activation.
    engines
        Of the model.
    """

    names: Mapping[int, str]
    readout: Readout
    engines: Engines
    blur: float
    threshold: float

    def __call__(self, inputs: Tensor, pairs: Pairs, keep: Keep) -> None:
        """Show the maps: one forward pass per image, one backward pass for many pairs."""
        if not np.isin(pairs.layer, list(self.names)).any():
            return
        engine = self.engines.engine(inputs, list(self.names.values()))
        early = [n for n, name in self.names.items() if frame_of(engine, name, inputs) is not None]
        for number in early:
            self._patches(engine, inputs, pairs, number, keep)
        late = {n: name for n, name in self.names.items() if n not in early}
        self._images(engine, inputs, pairs, late, keep)

    def _patches(
        self, engine: Tracer, inputs: Tensor, pairs: Pairs, number: int, keep: Keep
    ) -> None:
        """Treat an early layer: each pair from what its peak sees."""
        mine = np.flatnonzero(pairs.layer == number)
        for start in range(0, len(mine), _AT_ONCE):
            rows = mine[start : start + _AT_ONCE]
            image, channel, sign = _tensors(pairs, rows)
            position = torch.from_numpy(pairs.position[rows].astype(np.int64))
            heat = conditional_heatmaps(
                engine, inputs, self.names[number], image, channel, sign, position=position
            )
            self._show(rows, heat.float(), keep)

    def _images(
        self, engine: Tracer, inputs: Tensor, pairs: Pairs, names: Mapping[int, str], keep: Keep
    ) -> None:
        """Treat the later layers: one forward pass per image serves them all."""
        mine = np.flatnonzero(np.isin(pairs.layer, list(names)))
        if not len(mine):
            return
        chunk = pairs_per_pass(engine, engine.order(list(names.values()))[-1])
        for rows, part in batches(pairs.image[mine].tolist(), chunk):
            members = mine[part]
            here = {n: names[n] for n in np.unique(pairs.layer[members]).tolist()}
            trace = engine.trace(inputs[rows], [engine.order(list(here.values()))[-1]])
            place = np.zeros(len(inputs), np.int64)
            place[rows] = np.arange(len(rows))
            for number, name in here.items():
                own = members[pairs.layer[members] == number]
                _, channel, sign = _tensors(pairs, own)
                local = torch.from_numpy(place[pairs.image[own]])
                position = torch.zeros_like(local) if self.readout == "cls" else None
                heat = pull_heatmaps(trace, name, local, channel, sign, chunk, position)
                self._show(own, heat.float(), keep)

    def _show(self, rows: np.ndarray, heat: Tensor, keep: Keep) -> None:
        height, width = heat.shape[-2:]
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            keep(rows[part], heatmaps(heat[part], height, width, self.blur), self.threshold)


def _tensors(pairs: Pairs, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """Image, channel and sign of some pairs: int64[n] each."""
    image = torch.from_numpy(pairs.image[rows].astype(np.int64))
    channel = torch.from_numpy(pairs.channel[rows].astype(np.int64))
    return image, channel, torch.from_numpy(pairs.sign[rows].astype(np.int64))
