"""Networks that are trained on the images of a planted world, and what their components respond to.

A subject learns which of the most frequent words are true of an image. A component is known to
respond to a word if its readout separates the unseen images with the word from those without it,
and most of its strongest probe images show the word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score, roc_auc_score
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import semlens as sl
from benchmarks.harness import log
from benchmarks.worlds.labelled.scenes import LabelWorld, Split, WorldImages, unlike
from benchmarks.worlds.labelled.units import Kind, Units, UnseenImages
from benchmarks.worlds.labelled.vectors import RememberingEmbedder, Vectors
from demo_world.compose import warp
from demo_world.nets import as_subject
from demo_world.scenes import COLOURS, draw_scenes, shown
from demo_world.subject import (
    SubjectRecipe,
    as_input,
    make_net,
    recipe_for,
    schedules_for,
    training_logits,
)
from demo_world.workspace import SIZE
from semlens.data.image_sequence import ImageSequence
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.query_embedding import QueryEmbedding
from semlens.models.hooks import reading_layers

CLASSES = {"specific": 16, "general": 6, "overlay": 4, "colour": 2}
"""Words that a subject learns, by what they are about: the most frequent that may be right."""
LAYERS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {"small": ("layer3", "fc"), "vgg": ("stage4", "head"), "vit": ("blocks.3", "head")}
)
"""The last layer before the logits, and that of the logits, by architecture. All readouts are means
over space or tokens; the ViT has no class token."""
WIDTHS = {"small": (16, 32, 48, 64), "vgg": (8, 16, 32, 64)}
"""Channels of the stages of a CNN."""
VIT: Mapping[str, Any] = {
    "img_size": SIZE,
    "patch_size": 16,
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 4,
}
STEPS = {"small": 1300, "vgg": 1000, "vit": 800}
"""Training steps of 64 images."""
TRAINING = 6000
"""Images that a subject is trained on."""
COMMON = 0.25
"""Share of their pictures that are as likely as in the probe images; the others show each learned
word equally often."""
SECOND = 0.8
"""Share of these images with a second picture: small pictures are hard to learn."""
EXAMPLES = 30
AUROC = 0.9
PRECISION = 0.5
"""Of a known component: least AUROC on unseen images, least precision of its examples."""
FEWEST_UNSEEN = 3
"""Fewest unseen images of a word of which the AUROC is measured."""


@dataclass(frozen=True)
class Learned:
    """Words that a subject learns, as positions in the vocabulary.

    Their logits are in this order, with one between for images of none of the contents.
    """

    contents: tuple[int, ...]
    attributes: tuple[int, ...]

    @classmethod
    def of(cls, images: WorldImages) -> Learned:
        """Choose frequent words, one of all synonyms."""
        counts = images.probe.true.sum(0) * images.may_be_right
        concepts = {d.concept for d in images.shown}
        chosen: dict[str, list[int]] = {name: [] for name in CLASSES}
        found: set[int] = set()
        for word in np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist():
            name = images.words[word]
            if images.picture_words[:, word].any():
                kind = "specific" if name in concepts else "general"
            else:
                kind = "colour" if name.removesuffix(" background") in COLOURS else "overlay"
            if int(images.synonyms[word]) not in found and len(chosen[kind]) < CLASSES[kind]:
                found.add(int(images.synonyms[word]))
                chosen[kind].append(word)
        contents = *chosen["specific"], *chosen["general"]
        return cls(contents, (*chosen["overlay"], *chosen["colour"]))

    def names(self, words: Sequence[str]) -> list[str]:
        """Return the names of the logits."""
        contents, about = ([words[i] for i in some] for some in (self.contents, self.attributes))
        return [*contents, "anything else", *about]

    def loss(self, logits: Tensor, true: Tensor) -> Tensor:
        """Return the cross-entropy with the contents in equal parts, and that of the attributes."""
        count = len(self.contents)
        contents = true[:, :count]
        contents = torch.cat([contents, (contents.sum(1, keepdim=True) == 0).float()], 1)
        share = contents / contents.sum(1, keepdim=True)
        about = F.binary_cross_entropy_with_logits(logits[:, count + 1 :], true[:, count:])
        return F.cross_entropy(logits[:, : count + 1], share) + 4 * about


def training_scenes(images: WorldImages, learned: Learned, seed: int) -> Split:
    """Draw the images that a subject is trained on, with drawings of probe and unseen images.

    From three drawings of a concept, a small network does not learn to know a fourth one.
    """
    rng = np.random.default_rng(seed)
    of_word = images.picture_words[:, learned.contents].T * images.weight
    of_word = of_word / of_word.sum(1, keepdims=True)
    weight = COMMON * images.weight + (1 - COMMON) * of_word.mean(0)
    weight = weight / weight.sum()
    main, second = rng.choice(len(weight), (2, TRAINING), p=weight)
    second = unlike(main, second, images.picture_words)
    style = replace(images.spec.style, second=SECOND)
    scenes = draw_scenes(images.pictures, main, second, style, seed)
    return Split(scenes, shown(scenes, images.picture_words, images.words))


def recipe(spec: LabelWorld, architecture: str) -> SubjectRecipe:
    """Return the settings of a training."""
    seed = 100 * spec.seed + list(LAYERS).index(architecture)
    widths = WIDTHS.get(architecture, WIDTHS["small"])
    return replace(recipe_for(architecture, seed), widths=widths, steps=STEPS[architecture])


def make_subject(settings: SubjectRecipe, classes: int) -> nn.Module:
    """Return an untrained network."""
    if settings.architecture == "vit":
        return VisionTransformer(
            **VIT, mlp_ratio=2.0, num_classes=classes, class_token=False, global_pool="avg"
        )
    return make_net(settings, classes)


def train(images: WorldImages, settings: SubjectRecipe) -> nn.Module:
    """Train a network to tell which of the learned words are true of an image."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    learned = Learned.of(images)
    training = training_scenes(images, learned, settings.seed)
    true = torch.from_numpy(training.true[:, [*learned.contents, *learned.attributes]]).float()
    net = make_subject(settings, len(learned.names(images.words)))
    net = net.to(memory_format=torch.channels_last).train()
    schedules = schedules_for(net, settings)
    order, place = rng.permutation(TRAINING), 0
    for step in range(settings.steps):
        if place + settings.batch > TRAINING:
            order, place = rng.permutation(TRAINING), 0
        rows = order[place : place + settings.batch]
        place += settings.batch
        pixels = _augmented(training.pixels[rows], generator)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        loss = learned.loss(training_logits(net, pixels, settings), true[rows])
        net.zero_grad()
        loss.backward()
        for schedule in schedules:
            schedule.optimizer.step()
            schedule.step()
        if step % 200 == 0:
            log(f"{images.spec.name}, {settings.architecture}: step {step}, loss {loss.item():.3f}")
    return net.eval()


def _augmented(pixels: np.ndarray, generator: torch.Generator) -> Tensor:
    """Flip, shift, turn and scale images a little; colours stay, since words name them."""
    count = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    flip = torch.where(uniform(0, 1, count) < 0.5, 1.0, -1.0)
    shift = uniform(-0.1, 0.1, count, 2)
    turn = uniform(-0.1, 0.1, count)
    images = warp(as_input(pixels), uniform(0.9, 1.1, count), shift, turn, flip, padding="border")
    return images * uniform(0.9, 1.1, count, 1, 1, 1)


@torch.inference_mode()
def layer_readouts(net: nn.Module, pixels: np.ndarray, layer: str) -> np.ndarray:
    """Return float32[n c], the readouts of a layer as a database has them."""
    found: list[Tensor] = []

    def collect(_: str, output: Tensor) -> None:
        over = {4: (2, 3), 3: (1,), 2: ()}[output.ndim]  # space, tokens, or neither
        found.append(output.mean(over) if over else output.clone())

    with reading_layers(net, (layer,), collect):
        for start in range(0, len(pixels), 256):
            net(as_input(pixels[start : start + 256]))
    return torch.cat(found).numpy()


def build(
    net: nn.Module, images: WorldImages, vectors: Vectors, embedder: str, name: str, path: Path
) -> sl.ConceptDatabase:
    """Build the database of a subject on the probe images, or open it."""
    architecture = name.rsplit("-", 1)[-1]
    words = Learned.of(images).names(images.words)
    known = RememberingEmbedder(sl.load_embedder(embedder), images.probe.pixels, vectors.probe)
    return sl.build(
        path, as_subject(net, words, f"python:{name}"),
        ImageSequence(list(images.probe.pixels), name=name), known, LAYERS[architecture],
        signs="positive", examples=EXAMPLES, thumbnails=False,
    )  # fmt: skip


def layer_units(
    database: sl.ConceptDatabase,
    layer: str,
    net: nn.Module,
    images: WorldImages,
    vectors: Vectors,
    about: tuple[str, str],
) -> Units:
    """Return the units of a layer: its components and what is known of them.

    Parameters
    ----------
    about
        Embedder and architecture.
    """
    reference = database.reference
    if reference is None:
        raise ValueError(f"The database {database.path} has no reference sample. Build it again.")
    embedding = QueryEmbedding(
        vectors.words, images.words, vectors.null, database.embedder.fingerprint
    )
    entry = database.layer(layer)
    rows = np.arange(entry.first, entry.first + entry.rows)
    rows = rows[database.has_examples[rows]]
    evidence = layer_evidence(
        database, layer, embedding, rows, images.probe.true[reference.samples]
    )
    channels = database.components["index"].to_numpy()[rows]
    readouts = layer_readouts(net, images.unseen.pixels, layer)[:, channels]
    strongest = np.argsort(-layer_readouts(net, images.probe.pixels, layer)[:, channels], axis=0)
    known = known_words(readouts, strongest[:EXAMPLES], images)
    kind: Kind = "logit" if layer == LAYERS[about[1]][1] else "channel"
    return Units(
        world=images.spec.name,
        data=images.spec.data,
        embedder=about[0],
        subject=about[1],
        words=images.words,
        evidence=evidence,
        kind=tuple("unknown" if word is None else kind for word in known),
        right=np.stack(
            [np.zeros(len(images.words), bool) if w is None else images.right([w]) for w in known]
        ),
        unseen=UnseenImages(vectors.unseen, images.unseen.true, readouts),
    )


def known_words(
    readouts: np.ndarray, strongest: np.ndarray, images: WorldImages
) -> list[int | None]:
    """Return the word that each component responds to; None if it is not known.

    Of several words, it is the one with the largest average precision.

    Parameters
    ----------
    readouts
        float32[t n], of the unseen images.
    strongest
        int[30 n], the strongest probe images.
    """
    true = images.unseen.true
    candidates = np.flatnonzero(images.may_be_right & (true.sum(0) >= FEWEST_UNSEEN))
    _, first = np.unique(images.synonyms[candidates], return_index=True)
    candidates = candidates[first]
    candidates = candidates[~true[:, candidates].all(0)]
    precision = images.probe.true[:, candidates][strongest].mean(0)  # [n candidates]
    found: list[int | None] = []
    for values, shares in zip(readouts.T, precision, strict=True):
        best: tuple[float, int | None] = (0.0, None)
        for word in candidates[shares >= PRECISION].tolist():
            if roc_auc_score(true[:, word], values) >= AUROC:
                best = max(best, (float(average_precision_score(true[:, word], values)), word))
        found.append(best[1])
    return found
