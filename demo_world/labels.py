"""Evaluation of labels: how often the best word for a component agrees with its examples.

The criterion is generous: a label agrees if it shares a word with the captions (label, class) of at
least a fifth of the component's 30 examples.
"""

import json
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo_world.decoded import WorldImages
from demo_world.search import concepts, probe
from semlens.embedders.demo import TextTower
from semlens.models.demo import DemoNet

AGREES_FROM = 0.2
WRITTEN = frozenset("watermark text letters writing copyright".split())
ATTRIBUTES = (
    "watermark|letters|writing|logo|stripes|eyes|smile|wheels|wings|leaves|fur|feathers|glass|metal|"
    "wood|red|orange|yellow|green|blue|purple|pink|brown|black|white|gray|round shape|animal|food|"
    "machine|furniture|people|hand|hat|sky|water|house|tower|castle|cat|dog|horse|bear|bee|"
    "butterfly|spider|flower|tree|cactus|apple|lemon|banana|berry|carrot|corn|onion|pepper|coffee|"
    "beer|wine|juice|car|truck|bus|bicycle|train|airplane|rocket|helicopter|guitar|piano|drum|violin|"
    "trumpet|face|heart|tongue|sunglasses|clock face|numbers|hourglass|watch"
).split("|")


def stems(text: str) -> set[str]:
    """Return the words of a text without plural s."""
    return {w.rstrip("s") for w in re.findall("[a-z]+", text.lower())}


def label_figures(
    net: DemoNet, world: WorldImages, folder: Path, vectors: Tensor, tower: TextTower
) -> dict[str, object]:
    """Return the share of components whose top-1 or top-3 labels agree, and of random words."""
    records = json.loads((folder / "world.json").read_text())["images"]
    vocabulary = sorted(
        {r["label"].lower() for r in records} | set(ATTRIBUTES) | set(world.classes)
    )
    captions = [stems(f"{r['label']} {r['class']}") for r in records]
    mark_words = stems(" ".join(WRITTEN))
    for caption, marked in zip(captions, world.marked, strict=True):
        if marked:
            caption |= mark_words
    result = concepts(net, world, vectors, ("layer2", "layer3"))
    texts = F.normalize(torch.stack([probe(tower, word) for word in vocabulary]), dim=1)
    null = F.normalize(probe(tower, ""), dim=0)
    word_stems = [stems(word) for word in vocabulary]

    def agrees(component: int, word: int) -> bool:
        shared = [bool(word_stems[word] & captions[i]) for i in result.examples[component]]
        return float(np.mean(shared)) >= AGREES_FROM

    figures: dict[str, object] = {"vocabulary": len(vocabulary), "components": len(result.theta)}
    rng = np.random.default_rng(0)
    chance = [
        agrees(c, int(w)) for c in range(len(result.theta)) for w in rng.choice(len(vocabulary), 5)
    ]
    figures["random word"] = float(np.mean(chance))
    for name, theta in (("plain", result.theta), ("centred", result.theta - vectors.mean(0))):
        unit = F.normalize(theta, dim=1)
        best = (unit @ texts.T - (unit @ null)[:, None]).topk(3, 1).indices.numpy()
        hits = np.array([[agrees(c, int(w)) for w in row] for c, row in enumerate(best)])
        figures[f"{name} top-1"] = float(hits[:, 0].mean())
        figures[f"{name} top-3"] = float(hits.any(1).mean())
    return figures
