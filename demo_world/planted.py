"""Components that encode the artefact, and the effect of pruning them. Needs no foundation model.

A component is planted if its readout (the mean over space, or a ViT's class token) separates the
same test images with and without the mark with an AUROC of at least 0.9. In layers with negative
activations (a residual stream) a readout that decreases as reliably counts too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from demo_world.decoded import WorldImages
from demo_world.nets import as_subject, layers_of, readout_of
from demo_world.subject import as_input
from semlens.models.ablation import pruned as without
from semlens.models.demo import LAYERS, DemoNet
from semlens.models.hooks import reading_layers
from semlens.types import Component

PLANTED_AUROC = 0.9


@dataclass(frozen=True)
class Accuracy:
    """Test accuracy with the mark on no image, on all images, and as in the data."""

    clean: float
    marked: float
    as_is: float


def auroc(with_mark: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Return per column the probability that a marked readout exceeds a clean one, [C]."""
    count = len(with_mark)
    ranks = rankdata(np.concatenate([with_mark, clean]), axis=0)
    return (ranks[:count].sum(0) - count * (count + 1) / 2) / (count * len(clean))


def measured_layers(net: nn.Module) -> tuple[str, ...]:
    """Return the layers whose planted components are listed."""
    return LAYERS if isinstance(net, DemoNet) else layers_of(net)


@torch.inference_mode()
def run(
    net: nn.Module, pixels: np.ndarray, pruned: Mapping[str, np.ndarray] | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return predictions int64 [N] and readouts f32 [N C] per layer, with pruned components."""
    predictions: list[Tensor] = []
    readouts: dict[str, list[Tensor]] = {layer: [] for layer in measured_layers(net)}
    readout = readout_of(net)

    def collect(layer: str, output: Tensor) -> None:
        readouts[layer].append(output.mean((2, 3)) if readout == "mean" else output[:, 0].clone())

    removed = [Component(layer, int(i)) for layer, rows in (pruned or {}).items() for i in rows]
    with (
        reading_layers(net, readouts, collect),
        without(as_subject(net, (), "python:net"), removed),
    ):
        for at in range(0, len(pixels), 256):
            images = as_input(pixels[at : at + 256]).contiguous(memory_format=torch.channels_last)
            predictions.append(net(images).argmax(1))
    values = {layer: torch.cat(chunks).numpy() for layer, chunks in readouts.items()}
    return torch.cat(predictions).numpy(), values


def planted_components(net: nn.Module, world: WorldImages) -> dict[str, np.ndarray]:
    """Return the planted components of each layer, of either sign."""
    _, clean = run(net, world.clean[world.test])
    _, marked = run(net, world.with_mark[world.test])
    planted: dict[str, np.ndarray] = {}
    for layer, values in marked.items():
        auc = auroc(values, clean[layer])
        if (values < 0).any():
            auc = np.maximum(auc, 1 - auc)
        planted[layer] = np.flatnonzero(auc >= PLANTED_AUROC)
    return planted


def accuracy(
    net: nn.Module, world: WorldImages, pruned: Mapping[str, np.ndarray] | None = None
) -> Accuracy:
    """Return test accuracies, optionally with pruned components."""
    label = world.label[world.test]
    images = (world.clean, world.with_mark, world.pixels)
    values = [float((run(net, i[world.test], pruned)[0] == label).mean()) for i in images]
    return Accuracy(*values)


def subject_figures(net: nn.Module, world: WorldImages) -> dict[str, object]:
    """Return planted components, and accuracies before and after pruning those of late layers."""
    planted = planted_components(net, world)
    pruned = {layer: planted[layer] for layer in layers_of(net)}
    before, after = accuracy(net, world), accuracy(net, world, pruned)
    label, target = world.label[world.test], world.target
    clean, _ = run(net, world.clean[world.test])
    marked, _ = run(net, world.with_mark[world.test])
    others = label != target
    return {
        "planted": {layer: [int(i) for i in indices] for layer, indices in planted.items()},
        "accuracy_as_is": before.as_is,
        "clean": before.clean,
        "marked": before.marked,
        "pruned_clean": after.clean,
        "pruned_marked": after.marked,
        "target_recall_with_mark": float((marked[~others] == target).mean()),
        "target_recall_without_mark": float((clean[~others] == target).mean()),
        "others_called_target_clean": float((clean[others] == target).mean()),
        "others_called_target_marked": float((marked[others] == target).mean()),
    }
