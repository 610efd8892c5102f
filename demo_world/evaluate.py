"""Evaluation of the foundation model: retrieval of held-out concepts, and the cost of int8."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo_world.augment import plain_inputs
from demo_world.captions import EVALUATION, HELD_OUT
from demo_world.rasterise import load_pictures
from demo_world.search import embed_images
from demo_world.workspace import Workspace
from semlens.embedders.demo import ImageTower, TextTower

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True)
class DemoTowers:
    """Both towers of ``semlens/demo``, in evaluation mode, float32."""

    image: ImageTower
    text: TextTower


def recalls(images: Tensor, concept: Tensor, texts: Tensor) -> dict[str, float]:
    """Return the recall of retrieval in both directions, in per cent.

    ``images`` [N 384] show concept ``concept`` [N], a row of ``texts`` [C 384]. Text to image: an
    image of the concept is among the first k. Image to text: its concept is among the first k.
    """
    similarity = images @ texts.T
    order = similarity.T.argsort(1, descending=True)
    hit = concept[order] == torch.arange(len(texts))[:, None]
    rank = (similarity > similarity.gather(1, concept[:, None])).sum(1)
    figures = {f"text->image@{k}": hit[:, :k].any(1) for k in RECALL_AT}
    figures |= {f"image->text@{k}": rank < k for k in RECALL_AT}
    return {name: round(100 * value.float().mean().item(), 1) for name, value in figures.items()}


def chance(concept: Tensor) -> dict[str, float]:
    """Return the recall of a random ranking, text to image, in per cent."""
    counts, total = torch.bincount(concept).tolist(), len(concept)
    figures = {}
    for k in RECALL_AT:
        misses = [np.prod([(total - n - j) / (total - j) for j in range(k)]) for n in counts]
        figures[f"text->image@{k}"] = round(100 * float(1 - np.mean(misses)), 1)
    return figures


def retrieval(towers: DemoTowers, pixels: np.ndarray, labels: Sequence[str]) -> dict[str, object]:
    """Measure retrieval of pictures by their labels, on white and on backgrounds."""
    names = sorted(set(labels))
    concept = torch.tensor([names.index(label) for label in labels])
    texts = towers.text.encode(names)
    figures: dict[str, object] = {"concepts": len(names), "images": len(labels)}
    figures["chance"] = chance(concept)
    for name, white in (("on white", True), ("on backgrounds", False)):
        figures[name] = recalls(
            embed_images(towers.image, plain_inputs(pixels, white)), concept, texts
        )
    return figures


def foundation_figures(work: Workspace, towers: DemoTowers, reference: ImageTower) -> dict:
    """Evaluate on held-out concepts and unseen photographs, and int8 against float32."""
    pixels, pictures = load_pictures(work)
    captions = json.loads(work.captions.read_text())
    split = np.array(captions["split"])
    label = [captions["texts"][record["label"]] for record in captions["pictures"]]
    held_out = np.flatnonzero(split == HELD_OUT)
    photographs = np.array(
        [i for i in np.flatnonzero(split == EVALUATION) if pictures[i].photograph]
    )
    sample = plain_inputs(np.array(pixels[held_out[:400]]))
    exact, quantised = embed_images(reference, sample), embed_images(towers.image, sample)
    return {
        "held-out concepts": retrieval(
            towers, np.array(pixels[held_out]), [label[i] for i in held_out]
        ),
        "photographs": retrieval(
            towers, np.array(pixels[photographs]), [label[i] for i in photographs]
        ),
        "int8 cosine to float32": round(F.cosine_similarity(exact, quantised).mean().item(), 4),
    }
