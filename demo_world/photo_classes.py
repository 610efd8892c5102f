"""The 1,000 classes of ImageNet as training data without images: captions and likely features.

The head of the embedder for photographs is trained on drawings. What photographs look like to the
network is known only from its last layer. By the view of a linear classifier as a discriminant
(Fisher), the mean features of a class deviate from the mean of all by the covariance of the
features times the class's weights. The covariance is that of the drawings.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor, nn

from demo_world.wordnet import WordNet
from demo_world.workspace import Workspace
from semlens.embedders.photo import CLASSES, SentenceEncoder

DEVIATION = 7.0
"""Times the discriminant's deviation: then a class's logit is about 8 above the mean of all, as for
a photograph that is recognised."""
HYPERNYMS = 5
NAME_WEIGHT, PAIR_WEIGHT, HYPERNYM_WEIGHT, HYPERNYM_DECAY = 3.0, 1.0, 0.5, 0.7


@dataclass(frozen=True)
class ClassCaptions:
    """Captions of each class with their unit vectors [k 384] and cumulative weights [k]."""

    vectors: list[Tensor]
    cumulative: list[np.ndarray]
    names: Tensor
    """float32[1000 384], the unit mean vector of the names of each class."""

    def draw(self, label: int, rng: np.random.Generator) -> Tensor:
        """Draw the vector [384] of a caption of a class."""
        return self.vectors[label][np.searchsorted(self.cumulative[label], rng.random())]


def class_captions(work: Workspace, encoder: SentenceEncoder) -> ClassCaptions:
    """Caption each class by its names, its hypernyms in WordNet, and a name with a hypernym."""
    info = ImageNetInfo()
    wordnet = WordNet(work.debian / "usr" / "share" / "wordnet")
    captions: list[dict[str, float]] = []
    counts: list[int] = []
    for label in range(CLASSES):
        names = info.index_to_description(label).split(", ")
        hypernyms = wordnet.hypernyms_of(info.index_to_label_name(label)[1:], HYPERNYMS)
        weights = dict.fromkeys(names, NAME_WEIGHT / len(names))
        for distance, name in enumerate(hypernyms):
            weights.setdefault(name, HYPERNYM_WEIGHT * HYPERNYM_DECAY**distance)
        if hypernyms:
            weights[f"{names[0]}, {hypernyms[0]}"] = PAIR_WEIGHT
        captions.append(weights)
        counts.append(len(names))
    distinct = list(dict.fromkeys(text for weights in captions for text in weights))
    encoded = dict(zip(distinct, encode(encoder, distinct), strict=True))
    vectors = [torch.stack([encoded[text] for text in weights]) for weights in captions]
    totals = [np.cumsum(list(weights.values())) for weights in captions]
    means = [v[:count].mean(0) for v, count in zip(vectors, counts, strict=True)]
    return ClassCaptions(
        vectors, [total / total[-1] for total in totals], F.normalize(torch.stack(means), dim=1)
    )


@torch.inference_mode()
def encode(encoder: SentenceEncoder, texts: list[str], batch: int = 64) -> Tensor:
    """Embed texts to unit vectors [n 384]."""
    batches = (texts[i : i + batch] for i in range(0, len(texts), batch))
    return torch.cat([F.normalize(encoder(b), dim=1) for b in batches])


@torch.no_grad()
def class_features(classifier: nn.Linear, features: Tensor) -> Tensor:
    """Return the likely mean features [1000 1280] of each class, from features [N 1280]."""
    weights = classifier.weight - classifier.weight.mean(0)
    return features.mean(0) + DEVIATION * weights @ torch.cov(features.T)
