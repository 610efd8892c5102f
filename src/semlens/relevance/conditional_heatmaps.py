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

from semlens.models.activations import flatten
from semlens.relevance.captured_graph import full_precision
from semlens.relevance.heatmap_boxes import ReceptiveField
from semlens.relevance.protocols import ForwardTrace, RelevanceEngine
from semlens.relevance.relevance_signal import RelevanceSignal


def conditional_heatmaps(
    engine: RelevanceEngine,
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
    heat = inputs.new_zeros(len(image), *inputs.shape[-2:], dtype=full_precision(inputs.dtype))
    chunk = chunk or pairs_per_pass(engine, layer)
    for rows, pairs in batches(image.tolist(), chunk):
        trace = engine.trace(inputs[rows], [layer])
        place = {row: number for number, row in enumerate(rows)}
        local = torch.tensor([place[int(image[pair])] for pair in pairs])
        index = torch.tensor(pairs)
        own = None if position is None else position[index]
        found = backward_heatmaps(trace, layer, local, channel[index], sign[index], chunk, own)
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


def backward_heatmaps(
    trace: ForwardTrace,
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
        start = peak_seed(trace, layer, at, channel[mine], sign[mine], own)
        pulled = trace.pull({layer: start})
        if pulled.heat is not None:
            heat[mine.to(heat.device)] = pulled.heat[at.start, at.image].to(heat)
    return heat


def patch_heatmaps(
    engine: RelevanceEngine,
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
    heat = inputs.new_zeros(len(image), *inputs.shape[-2:], dtype=full_precision(inputs.dtype))
    share = frame.height * frame.width / (inputs.shape[-2] * inputs.shape[-1])
    step = max(1, int(pairs_per_pass(engine, layer) / share))
    for start in range(0, len(image), step):
        part = slice(start, start + step)
        patches, corner, local = cut(frame, inputs, image[part], position[part])
        trace = engine.trace(patches, [layer])
        at = Slots(torch.zeros_like(local), torch.arange(len(local)))
        begin = peak_seed(trace, layer, at, channel[part], sign[part], local.to(inputs.device))
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


def peak_seed(
    trace: ForwardTrace,
    layer: str,
    at: Slots,
    channel: Int[Tensor, " p"],
    sign: Int[Tensor, " p"],
    position: Int[Tensor, " p"] | None = None,
) -> RelevanceSignal:
    """Start at each component's largest activation, with the activation as relevance.

    Over a map that is one position; of tokens, the spatial ones count. A component of sign -1
    starts at its most negative activation, with that one's size as relevance. ``position``
    says where to start instead: flat in a map, or a token's place in its row.
    """
    value, form = trace.values[layer], trace.form(layer)
    device = value.device
    starts = int(at.start.max()) + 1
    where, image = (at.start.to(device), at.image.to(device))
    channel, strength = channel.to(device).long(), sign.to(device, value.dtype)
    if position is None:  # flat in a map, or in the row of tokens, prefix tokens counted
        readings = flatten(form, value)[image, channel, form.prefix :]
        position = form.prefix + (readings * strength[:, None]).argmax(1)
    row, column = position // max(form.width, 1), position % max(form.width, 1)
    if form.form == "map":
        values = value.new_zeros(starts, len(value), value.shape[1], 1, 1)
        values[where, image, channel] = strength[:, None, None]
        corner = torch.zeros(starts, len(value), 2, dtype=torch.int64, device=device)
        # slots without a pair hold zeros, anywhere; all windows keep one stride to their start
        corner[where, image] = torch.stack([row, column], dim=1)
        return RelevanceSignal(values, corner)
    places = {"units": (), "tokens": (position,), "map-last": (row, column)}  # tokens: any number
    values = value.new_zeros(starts, *value.shape)
    values[(where, image, *places[form.form], channel)] = strength
    return RelevanceSignal(values)


def pairs_per_pass(engine: RelevanceEngine, layer: str) -> int:
    """Choose the number of pairs of a backward pass, from the size of the model's maps.

    On a CPU, maps of about 25 MB are fastest; a GPU takes what a sixteenth of its free memory
    holds.
    """
    most = 1024 if engine.device.type == "cuda" else 256
    return int(np.clip(engine.memory(1 / 16, 25e6) / engine.largest(layer), 1, most))


_WORTH_IT = 0.6
"""Patches pay off below this share of the image: each pair has its own forward pass."""


@dataclass(frozen=True)
class Frame:
    """The size of patches for one layer.

    Parameters
    ----------
    height, width
        Of a patch, in pixels: multiples of the stride.
    columns, inner_columns
        Width of the layer's map over an image, and over a patch.
    """

    field: ReceptiveField
    height: int
    width: int
    columns: int
    inner_columns: int


def frame_of(engine: RelevanceEngine, layer: str, inputs: Float[Tensor, "u 3 h w"]) -> Frame | None:
    """Return the patches that suit a layer, or None when whole images are as good.

    Patches start at multiples of the layer's stride, so that all positions on the way line up,
    and lie inside the image. Where a patch ends within the image, its border is wrong (zeros
    instead of neighbours), but only at positions that the peak does not see.
    """
    field = engine.field(layer)
    high, wide = inputs.shape[-2:]
    if field is None or high % field.stride[0] or wide % field.stride[1]:
        return None
    height, width = (
        -(-(size + stride - 1) // stride) * stride
        for size, stride in zip(field.size, field.stride, strict=True)
    )
    if height > high or width > wide or height * width > _WORTH_IT * high * wide:
        return None
    return Frame(field, height, width, wide // field.stride[1], width // field.stride[1])


def cut(
    frame: Frame,
    inputs: Float[Tensor, "u 3 h w"],
    image: Int[Tensor, " p"],
    position: Int[Tensor, " p"],
) -> tuple[Float[Tensor, "p 3 y x"], Int[Tensor, "p 2"], Int[Tensor, " p"]]:
    """Cut each pair's patch out of its image.

    Returns
    -------
    tuple
        The patches, their top left corners, and the peaks' flat positions within them.
    """  # fmt: skip
    position, stride = position.cpu(), torch.tensor(frame.field.stride)
    place = torch.stack([position // frame.columns, position % frame.columns], dim=1)
    first = place + torch.tensor(frame.field.first).div(stride, rounding_mode="floor")
    most = torch.tensor(inputs.shape[-2:]) - torch.tensor([frame.height, frame.width])
    corner = torch.minimum((first * stride).clamp(min=0), most)
    patches = torch.stack(
        [
            inputs[row, :, top : top + frame.height, left : left + frame.width]
            for row, (top, left) in zip(image.tolist(), corner.tolist(), strict=True)
        ]
    )
    inner = place - torch.div(corner, stride, rounding_mode="floor")
    return patches, corner, inner[:, 0] * frame.inner_columns + inner[:, 1]
