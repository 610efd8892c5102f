"""Conditional relevance (CRP): heatmaps of the pixels that a component responds to.

Relevance is seeded at the component's largest spatial activation and propagated to the pixels
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
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import full_precision
from semlens.relevance.heatmap_boxes import ReceptiveField
from semlens.relevance.protocols import ForwardTrace, RelevanceEngine


def conditional_heatmaps(
    engine: RelevanceEngine,
    inputs: Float[Tensor, "u channels h w"],
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
        Where to seed, if not at the peak of each map: flat index in the map, or index of the
        token. If given, an early layer is computed only on the part of the image in the
        receptive field of that position.
    chunk
        Pairs per backward pass; by default chosen from the size of the model's maps.

    Returns
    -------
    Tensor
        Relevance of each input pixel, summed over colours.
    """
    if position is not None:
        geometry = patch_geometry(engine, layer, inputs)
        if geometry is not None:
            return patch_heatmaps(engine, inputs, layer, geometry, image, channel, sign, position)
    heatmaps = inputs.new_zeros(len(image), *inputs.shape[-2:], dtype=full_precision(inputs.dtype))
    chunk = chunk or pairs_per_pass(engine, layer)
    for rows, pairs in group_pairs(image.tolist(), chunk):
        trace = engine.trace(inputs[rows], [layer])
        row_in_trace = {row: index for index, row in enumerate(rows)}
        trace_row = torch.tensor([row_in_trace[int(image[pair])] for pair in pairs])
        pair_index = torch.tensor(pairs)
        positions = None if position is None else position[pair_index]
        computed = backward_heatmaps(
            trace, layer, trace_row, channel[pair_index], sign[pair_index], chunk, positions
        )
        heatmaps[pair_index] = computed.to(heatmaps)
    return heatmaps


def group_pairs(image: Sequence[int], chunk: int) -> Iterator[tuple[list[int], list[int]]]:
    """Group pairs into batches of images with similar numbers of pairs.

    Yields
    ------
    tuple
        Rows of the images, and indices of their pairs.
    """
    pairs_of_image: dict[int, list[int]] = {}
    for pair, row in enumerate(image):
        pairs_of_image.setdefault(int(row), []).append(pair)
    rows = sorted(pairs_of_image, key=lambda row: -len(pairs_of_image[row]))
    first = 0
    while first < len(rows):
        count = max(1, chunk // len(pairs_of_image[rows[first]]))
        batch = rows[first : first + count]
        first += count
        yield batch, [pair for row in batch for pair in pairs_of_image[row]]


def backward_heatmaps(
    trace: ForwardTrace,
    layer: str,
    image: Int[Tensor, " p"],
    channel: Int[Tensor, " p"],
    sign: Int[Tensor, " p"],
    chunk: int,
    position: Int[Tensor, " p"] | None = None,
) -> Float[Tensor, "p h w"]:
    """Return the heatmaps of pairs on traced images."""
    images = len(trace.inputs)
    ranks = rank_within_image(image)
    seeds_per_pass = max(1, chunk // images)
    heatmaps = trace.inputs.new_zeros(len(image), *trace.inputs.shape[-2:])
    for first in range(0, int(ranks.max()) + 1 if len(ranks) else 0, seeds_per_pass):
        selected = torch.nonzero((ranks >= first) & (ranks < first + seeds_per_pass))[:, 0]
        index = SignalIndex(ranks[selected] - first, image[selected])
        positions = None if position is None else position[selected].to(trace.inputs.device)
        seed = peak_seed(trace, layer, index, channel[selected], sign[selected], positions)
        result = trace.backward({layer: seed})
        if result.heatmaps is not None:
            heatmaps[selected.to(heatmaps.device)] = result.heatmaps[index.seed, index.image].to(
                heatmaps
            )
    return heatmaps


def patch_heatmaps(
    engine: RelevanceEngine,
    inputs: Float[Tensor, "u channels h w"],
    layer: str,
    geometry: PatchGeometry,
    image: Int[Tensor, " p"],
    channel: Int[Tensor, " p"],
    sign: Int[Tensor, " p"],
    position: Int[Tensor, " p"],
) -> Float[Tensor, "p h w"]:
    """Return heatmaps computed on the receptive field of each pair's peak.

    The result is the same as for whole images, since pixels outside have no influence.
    """
    heatmaps = inputs.new_zeros(len(image), *inputs.shape[-2:], dtype=full_precision(inputs.dtype))
    area_share = geometry.height * geometry.width / (inputs.shape[-2] * inputs.shape[-1])
    pairs_at_once = max(1, int(pairs_per_pass(engine, layer) / area_share))
    for first in range(0, len(image), pairs_at_once):
        chunk = slice(first, first + pairs_at_once)
        patches, corner, peak = cut_patches(geometry, inputs, image[chunk], position[chunk])
        trace = engine.trace(patches, [layer])
        index = SignalIndex(torch.zeros_like(peak), torch.arange(len(peak)))
        seed = peak_seed(trace, layer, index, channel[chunk], sign[chunk], peak.to(inputs.device))
        result = trace.backward({layer: seed})
        if result.heatmaps is not None:
            for row, (top, left) in enumerate(corner.tolist()):
                target = heatmaps[
                    first + row, top : top + geometry.height, left : left + geometry.width
                ]
                target.copy_(result.heatmaps[0, row])
    return heatmaps


@dataclass(frozen=True)
class SignalIndex:
    """Indices of pairs in a signal [n U ...].

    Parameters
    ----------
    seed, image
        int64[p], index along the first and the second axis.
    """

    seed: Tensor
    image: Tensor


def rank_within_image(image: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
    """Return, for each pair, how many pairs of the same image come before it."""
    # in sorted order the pairs of an image are contiguous, and searchsorted gives its first one
    order = torch.argsort(image, stable=True)
    sorted_image = image[order]
    first_of_image = torch.searchsorted(sorted_image, sorted_image)
    ranks = torch.empty_like(image)
    ranks[order] = torch.arange(len(image)) - first_of_image
    return ranks


def peak_seed(
    trace: ForwardTrace,
    layer: str,
    index: SignalIndex,
    channel: Int[Tensor, " p"],
    sign: Int[Tensor, " p"],
    position: Int[Tensor, " p"] | None = None,
) -> BackwardSignal:
    """Seed each component at its largest activation, with the activation as relevance.

    Of tokens, only spatial ones are considered. A component of sign -1 is seeded at its most
    negative activation, with the absolute value as relevance. ``position`` overrides where: flat
    index in a map, or index of a token.
    """
    value, layout = trace.values[layer], trace.layout(layer)
    device = value.device
    seed_count = int(index.seed.max()) + 1
    seed_index, image = (index.seed.to(device), index.image.to(device))
    channel, signed_one = channel.to(device).long(), sign.to(device, value.dtype)
    if position is None:  # flat in the map, or among all tokens
        activations = flatten(layout, value)[image, channel, layout.prefix :]
        position = layout.prefix + (activations * signed_one[:, None]).argmax(1)
    row, column = position // max(layout.width, 1), position % max(layout.width, 1)
    # relevance divided by activation: |a| / a is the sign
    if layout.form == "map":
        values = value.new_zeros(seed_count, len(value), value.shape[1], 1, 1)
        values[seed_index, image, channel] = signed_one[:, None, None]
        corner = torch.zeros(seed_count, len(value), 2, dtype=torch.int64, device=device)
        # entries without a pair hold zeros, so their window may lie anywhere
        corner[seed_index, image] = torch.stack([row, column], dim=1)
        return BackwardSignal(values, corner)
    rows = max(layout.height // layout.slices, 1)
    # tokens may have no grid, so their position is not split into row and column
    place = {
        "units": (channel,), "tokens": (position, channel), "sequence": (channel, position),
        "map-last": (row, column, channel),
        "volume": (channel, row // rows, row % rows, column),
        "volume-last": (row // rows, row % rows, column, channel),
    }  # fmt: skip
    values = value.new_zeros(seed_count, *value.shape)
    values[(seed_index, image, *place[layout.form])] = signed_one
    return BackwardSignal(values)


def pairs_per_pass(engine: RelevanceEngine, layer: str) -> int:
    """Choose the number of pairs per backward pass from the size of the model's maps.

    On a CPU, maps of about 25 MB are fastest; on a GPU they may fill a sixteenth of the free
    memory.
    """
    max_pairs = 1024 if engine.device.type == "cuda" else 256
    return int(
        np.clip(
            engine.memory_budget(1 / 16, 25e6) / engine.largest_value_bytes(layer), 1, max_pairs
        )
    )


_MAX_PATCH_SHARE = 0.6
"""Patches pay off below this share of the image, since each pair needs its own forward pass."""


@dataclass(frozen=True)
class PatchGeometry:
    """The size of patches for one layer.

    Parameters
    ----------
    height, width
        Of a patch, in pixels: multiples of the stride.
    map_columns, patch_columns
        Width of the layer's map for an image, and for a patch.
    """

    receptive_field: ReceptiveField
    height: int
    width: int
    map_columns: int
    patch_columns: int


def patch_geometry(
    engine: RelevanceEngine, layer: str, inputs: Float[Tensor, "u channels h w"]
) -> PatchGeometry | None:
    """Return the geometry of a layer's patches, or None if whole images are as fast.

    Patches lie inside the image and start at multiples of the layer's stride, so that the positions
    of all maps line up. Values at the border of a patch are wrong (zeros instead of neighbours),
    but only at positions outside of the peak's receptive field.
    """
    field = engine.receptive_field(layer)
    image_height, image_width = inputs.shape[-2:]
    if field is None or image_height % field.stride[0] or image_width % field.stride[1]:
        return None
    height, width = (
        -(-(size + stride - 1) // stride) * stride
        for size, stride in zip(field.size, field.stride, strict=True)
    )
    if (
        height > image_height
        or width > image_width
        or height * width > _MAX_PATCH_SHARE * image_height * image_width
    ):
        return None
    return PatchGeometry(
        field, height, width, image_width // field.stride[1], width // field.stride[1]
    )


def cut_patches(
    geometry: PatchGeometry,
    inputs: Float[Tensor, "u channels h w"],
    image: Int[Tensor, " p"],
    position: Int[Tensor, " p"],
) -> tuple[Float[Tensor, "p channels y x"], Int[Tensor, "p 2"], Int[Tensor, " p"]]:
    """Cut each pair's patch out of its image.

    Returns
    -------
    tuple
        The patches, their top left corners, and the peaks' flat positions within them.
    """  # fmt: skip
    position, stride = position.cpu(), torch.tensor(geometry.receptive_field.stride)
    map_position = torch.stack(
        [position // geometry.map_columns, position % geometry.map_columns], dim=1
    )
    first_stride = map_position + torch.tensor(geometry.receptive_field.first).div(
        stride, rounding_mode="floor"
    )
    last_corner = torch.tensor(inputs.shape[-2:]) - torch.tensor([geometry.height, geometry.width])
    # corners are multiples of the stride, and clamping keeps them so: sizes of images and patches
    # are multiples, too
    corner = torch.minimum((first_stride * stride).clamp(min=0), last_corner)
    patches = torch.stack(
        [
            inputs[row, :, top : top + geometry.height, left : left + geometry.width]
            for row, (top, left) in zip(image.tolist(), corner.tolist(), strict=True)
        ]
    )
    patch_position = map_position - torch.div(corner, stride, rounding_mode="floor")
    return patches, corner, patch_position[:, 0] * geometry.patch_columns + patch_position[:, 1]
