"""Evaluation of search: the rank of the planted components for text queries.

theta = mean of the unit image vectors of the 30 images with the largest mean readout;
score = cosine(theta, probe) - cosine(theta, null). Source: SemanticLens, equations 3 and 4.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo_world.decoded import WorldImages
from demo_world.planted import planted_components, run
from semlens.embedders.demo import ImageTower, TextTower
from semlens.models.demo import DemoNet

EXAMPLES = 30
TEMPLATES = ("{}", "a {}", "an image of a close up of {}")
QUERIES = ("watermark", "watermark text", "text", "letters", "copyright", "logo", "signature")


@dataclass(frozen=True)
class Concepts:
    """Concept vectors and planted flags of the components of several layers."""

    theta: Tensor  # f32[C 384], not normalised
    planted: np.ndarray  # bool[C]
    layer: np.ndarray  # str[C]
    examples: np.ndarray  # int64[C 30], image rows


@torch.inference_mode()
def embed_images(tower: ImageTower, inputs: Tensor, batch: int = 128) -> Tensor:
    """Embed preprocessed images [N 3 96 96] as unit vectors [N 384]."""
    vectors = [
        tower(inputs[i : i + batch].contiguous(memory_format=torch.channels_last))
        for i in range(0, len(inputs), batch)
    ]
    return torch.cat(vectors)


def concepts(
    net: DemoNet, world: WorldImages, vectors: Tensor, layers: tuple[str, ...]
) -> Concepts:
    """Compute concept vectors from the embeddings of the world's images."""
    _, readouts = run(net, world.pixels)
    planted = planted_components(net, world)
    examples = [
        np.argsort(-readouts[layer], axis=0, kind="stable")[:EXAMPLES].T for layer in layers
    ]
    widths = [len(e) for e in examples]
    rows = np.concatenate(examples)
    flags = [np.isin(np.arange(w), planted[n]) for n, w in zip(layers, widths, strict=True)]
    return Concepts(
        theta=vectors[torch.from_numpy(rows.copy())].mean(1),
        planted=np.concatenate(flags),
        layer=np.repeat(np.array(layers), widths),
        examples=rows,
    )


def probe(tower: TextTower, query: str) -> Tensor:
    """Return the mean of the unit vectors of the templates [384]."""
    return tower.encode([template.format(query) for template in TEMPLATES]).mean(0)


def scores(theta: Tensor, tower: TextTower, query: str) -> np.ndarray:
    """Return cosine(theta, probe) - cosine(theta, null) per component [C]."""
    probes = torch.stack([probe(tower, query), probe(tower, "")])
    cosines = F.normalize(theta, dim=1) @ F.normalize(probes, dim=1).T
    return (cosines[:, 0] - cosines[:, 1]).numpy()


def planted_ranks(concept_vectors: Concepts, score: np.ndarray) -> list[int]:
    """Return the ranks (from 1) of the planted components."""
    order = np.argsort(-score, kind="stable")
    return [int(i) + 1 for i in np.flatnonzero(concept_vectors.planted[order])]


def search_figures(
    net: DemoNet,
    world: WorldImages,
    vectors: Tensor,
    tower: TextTower,
    extra_queries: tuple[str, ...] = (),
) -> dict[str, object]:
    """Rank the planted components per query, uncentred and centred, over two and three layers.

    ``vectors`` [N 384] are the embeddings of the world's images.
    """
    mean = vectors.mean(0)
    figures: dict[str, object] = {}
    for layers in (("layer2", "layer3"), ("layer1", "layer2", "layer3")):
        concept_vectors = concepts(net, world, vectors, layers)
        record: dict[str, object] = {
            "components": len(concept_vectors.planted),
            "planted": int(concept_vectors.planted.sum()),
        }
        for query in (*QUERIES, *extra_queries):
            plain = planted_ranks(concept_vectors, scores(concept_vectors.theta, tower, query))
            centred = planted_ranks(
                concept_vectors, scores(concept_vectors.theta - mean, tower, query)
            )
            record[query] = {"rank": plain[:3], "centred": centred[:3]}
        figures["+".join(layers)] = record
    return figures
