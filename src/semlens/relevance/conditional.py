"""Conditional relevance: where in an image a component finds what it reacts to (CRP).

Relevance starts at the component's largest spatial activation and goes down to the pixels
(paper, 3.1 and H.1; Achtibat et al. 2023). One forward pass per image serves all of its
components.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from semlens.models.activations import LayerForm
from semlens.relevance.flow import Flow
from semlens.relevance.graph import full_precision
from semlens.relevance.interface import Traced, Tracer
from semlens.relevance.patches import Frame, cut, frame_of


def conditional_heatmaps(
    engine: Tracer,
    inputs: Float[Tensor, "u 3 h w"],
    layer: str,
    image: Int[Tensor, " p"],
    channel: Int[Tensor, " p"],
    sign: Int[Tensor, " p"],
    *,
    position: Int[Tensor, " p"] | None = None,
    chunk: int | None = None,
) -> Float[Tensor, "p h w"]:
    """Return a heatmap for each pair of an image and a component of one layer.

    Parameters
    ----------
    inputs
        The unique images, preprocessed.
    image, channel, sign
        For each pair: the image's row in ``inputs``, and the component.
    position
        Where to start, if not at the peak of each map: flat in the map, or the token's place in
        its row. When it is known, an early layer is computed on no more of the image than that
        position sees.
    chunk
        Pairs per backward pass; None chooses by the size of the model's maps.

    Returns
    -------
    Tensor
        Relevance per input pixel, summed over colours.
    """
    if position is not None:
        frame = frame_of(engine, layer, inputs)
        if frame is not None:
            return patch_heatmaps(engine, inputs, layer, frame, image, channel, sign, position)
    size = (len(image), *inputs.shape[-2:])
    heat = torch.zeros(size, dtype=full_precision(inputs.dtype), device=inputs.device)
    chunk = chunk or pairs_per_pass(engine, layer)
    for rows, pairs in batches(image.tolist(), chunk):
        trace = engine.trace(inputs[rows], [layer])
        place = {row: number for number, row in enumerate(rows)}
        local = torch.tensor([place[int(image[pair])] for pair in pairs])
        index = torch.tensor(pairs)
        own = None if position is None else position[index]
        found = pull_heatmaps(trace, layer, local, channel[index], sign[index], chunk, own)
        heat[index] = found.to(heat)
    return heat


def batches(image: Sequence[int], chunk: int) -> Iterator[tuple[list[int], list[int]]]:
    """Group pairs into batches of images with alike numbers of pairs.

    Yields
    ------
    tuple
        Rows of the images, and numbers of their pairs.
    """
    of: dict[int, list[int]] = {}
    for pair, row in enumerate(image):
        of.setdefault(int(row), []).append(pair)
    rows = sorted(of, key=lambda row: -len(of[row]))
    start = 0
    while start < len(rows):
        count = max(1, chunk // len(of[rows[start]]))
        part = rows[start : start + count]
        start += count
        yield part, [pair for row in part for pair in of[row]]


def pull_heatmaps(
    trace: Traced,
    layer: str,
    image: Int[Tensor, " p"],
    channel: Int[Tensor, " p"],
    sign: Int[Tensor, " p"],
    chunk: int,
    position: Int[Tensor, " p"] | None = None,
) -> Float[Tensor, "p h w"]:
    """Return the heatmaps of pairs on images that have been traced."""
    images = len(trace.inputs)
    turn = turns(image)
    step = max(1, chunk // images)
    heat = trace.inputs.new_zeros(len(image), *trace.inputs.shape[-2:])
    for first in range(0, int(turn.max()) + 1 if len(turn) else 0, step):
        mine = torch.nonzero((turn >= first) & (turn < first + step))[:, 0]
        at = Slots(turn[mine] - first, image[mine])
        own = None if position is None else position[mine].to(trace.inputs.device)
        start = peak_start(trace, layer, at, channel[mine], sign[mine], own)
        pulled = trace.pull({layer: start})
        if pulled.heat is not None:
            heat[mine.to(heat.device)] = pulled.heat[at.start, at.image].to(heat)
    return heat


def patch_heatmaps(
    engine: Tracer,
    inputs: Float[Tensor, "u 3 h w"],
    layer: str,
    frame: Frame,
    image: Int[Tensor, " p"],
    channel: Int[Tensor, " p"],
    sign: Int[Tensor, " p"],
    position: Int[Tensor, " p"],
) -> Float[Tensor, "p h w"]:
    """Return heatmaps from the part of the image that each pair's peak sees.

    The same numbers as from whole images: what lies outside has no part in them.
    """
    size = (len(image), *inputs.shape[-2:])
    heat = torch.zeros(size, dtype=full_precision(inputs.dtype), device=inputs.device)
    share = frame.height * frame.width / (inputs.shape[-2] * inputs.shape[-1])
    step = max(1, int(pairs_per_pass(engine, layer) / share))
    for start in range(0, len(image), step):
        part = slice(start, start + step)
        patches, corner, local = cut(frame, inputs, image[part], position[part])
        trace = engine.trace(patches, [layer])
        at = Slots(torch.zeros_like(local), torch.arange(len(local)))
        begin = peak_start(trace, layer, at, channel[part], sign[part], local.to(inputs.device))
        pulled = trace.pull({layer: begin})
        if pulled.heat is not None:
            for row, (top, left) in enumerate(corner.tolist()):
                place = heat[start + row, top : top + frame.height, left : left + frame.width]
                place.copy_(pulled.heat[0, row])
    return heat


@dataclass(frozen=True)
class Slots:
    """Where pairs stand in a flow [n U ...].

    Parameters
    ----------
    start, image
        int64[p]: the place along the first and the second axis.
    """

    start: Tensor
    image: Tensor


def turns(image: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
    """Return for each pair how many pairs of the same image come before it."""
    order = torch.argsort(image, stable=True)
    ordered = image[order]
    first = torch.searchsorted(ordered, ordered)
    found = torch.empty_like(image)
    found[order] = torch.arange(len(image)) - first
    return found


def peak_start(
    trace: Traced,
    layer: str,
    at: Slots,
    channel: Int[Tensor, " p"],
    sign: Int[Tensor, " p"],
    position: Int[Tensor, " p"] | None = None,
) -> Flow:
    """Start at each component's largest activation, with the activation as relevance.

    Over a map that is one position; of tokens, the spatial ones count. A component of sign -1
    starts at its most negative activation, with that one's size as relevance. ``position``
    says where to start instead: flat in a map, or a token's place in its row.
    """
    value = trace.values[layer]
    device = value.device
    form = trace.form(layer)
    starts = int(at.start.max()) + 1
    where, image = (at.start.to(device), at.image.to(device))
    channel, strength = channel.to(device).long(), sign.to(device, value.dtype)
    if form.form == "units":
        values = value.new_zeros(starts, *value.shape)
        values[where, image, channel] = strength
        return Flow(values)
    if position is None:
        position = _peaks(form, value, image, channel, strength)
    if form.form == "tokens":  # which need not have a grid
        values = value.new_zeros(starts, *value.shape)
        values[where, image, position, channel] = strength
        return Flow(values)
    row, column = position // form.width, position % form.width
    if form.form == "map":
        values = value.new_zeros(starts, len(value), value.shape[1], 1, 1)
        values[where, image, channel] = strength[:, None, None]
        corner = torch.zeros(starts, len(value), 2, dtype=torch.int64, device=device)
        # slots without a pair hold zeros, anywhere; all windows keep one stride to their start
        corner[where, image] = torch.stack([row, column], dim=1)
        return Flow(values, corner)
    values = value.new_zeros(starts, *value.shape)
    values[where, image, row, column, channel] = strength
    return Flow(values)


def _peaks(form: LayerForm, value: Tensor, image: Tensor, channel: Tensor, sign: Tensor) -> Tensor:
    """Return the position of each pair's largest signed activation: int64[p].

    Flat in a map, or in the row of tokens, prefix tokens counted but not considered.
    """
    if form.form == "map":
        maps = value[image, channel].flatten(1)
    elif form.form == "map-last":
        maps = value[image, :, :, channel].flatten(1)
    else:
        maps = value[image, form.prefix :, channel]
        return form.prefix + (maps * sign[:, None]).argmax(1)
    return (maps * sign[:, None]).argmax(1)


def pairs_per_pass(engine: Tracer, layer: str) -> int:
    """Choose the number of pairs of a backward pass, from the size of the model's maps.

    On a CPU, maps of about 25 MB are fastest; a GPU takes what a sixteenth of its free memory
    holds.
    """
    largest = engine.largest(layer)
    if engine.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(engine.device)
        return int(np.clip(free / 16 / largest, 1, 1024))
    return int(np.clip(25e6 / largest, 1, 256))
