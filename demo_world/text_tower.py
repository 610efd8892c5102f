"""Distil the sentence encoder into the text tower: static token vectors and a small network.

Teacher: MiniLM around the captions' mean. Corpus: WordNet phrases and the captions of training
pictures; captions of held-out concepts are not used.
"""

import json
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from demo_world.captions import TRAIN
from demo_world.text_space import centre
from demo_world.workspace import Workspace
from semlens.embedders.demo_towers import (
    TEXT_ASSET,
    UNKNOWN,
    VOCABULARY_ASSET,
    TextTower,
    load_text_tower,
    save_quantised,
)

TOKEN_DIMENSION = 128
HIDDEN = 512
BATCH = 512
UNSEEN_PHRASES = 3000
EMPTY_PER_BATCH = 2


def initial_tower(vocabulary: list[str], vectors: np.ndarray) -> TextTower:
    """Start from the principal components of the teacher's token vectors, frequent words light."""
    tower = TextTower([*vocabulary, UNKNOWN], TOKEN_DIMENSION, HIDDEN)
    _, _, axes = np.linalg.svd(vectors, full_matrices=False)
    axes = axes[:TOKEN_DIMENSION]
    rank = np.arange(len(vocabulary))
    weights = np.clip(np.log(np.log(rank + 30.0) / np.log(30000)) * 3, -4, 0)
    with torch.no_grad():
        tower.tokens.weight.zero_()
        tower.tokens.weight[:-1] = torch.from_numpy((vectors @ axes.T).astype(np.float32))
        tower.log_weights[:-1] = torch.from_numpy(weights.astype(np.float32))
        tower.linear.weight.copy_(torch.from_numpy(axes.T.copy()))
        tower.linear.bias.zero_()
        tower.contract.weight.zero_()
        tower.contract.bias.zero_()
    return tower


@torch.no_grad()
def embed_ids(tower: TextTower, ids: list[list[int]]) -> Tensor:
    """Vectors of tokenised texts, in batches."""
    return torch.cat([tower.bag(ids[i : i + 2048]) for i in range(0, len(ids), 2048)])


def report(tower: TextTower, ids: list[list[int]], targets: Tensor) -> dict[str, float]:
    """Cosine to the teacher and retrieval@1 on unseen phrases."""
    vectors = embed_ids(tower, ids)
    scores = vectors @ targets.T
    first = (scores >= scores.diagonal()[:, None]).sum(1).eq(1).float().mean()
    cosine = F.cosine_similarity(vectors, targets).mean()
    return {"cosine": round(cosine.item(), 4), "retrieval@1": round(first.item(), 4)}


def corpus(work: Workspace) -> tuple[list[str], Tensor, list[str], Tensor, list[str], np.ndarray]:
    """Training texts and targets, unseen phrases and targets, vocabulary, its centred vectors."""
    stored = json.loads(work.phrases.read_text())
    captions = json.loads(work.captions.read_text())
    vectors = np.load(work.caption_vectors)
    mean = vectors["mean"]
    phrases = stored["phrases"]
    unseen = np.zeros(len(phrases), bool)
    named = np.array([bool(p) for p in phrases])
    draw = np.random.default_rng(0)
    unseen[draw.choice(np.flatnonzero(named), UNSEEN_PHRASES, replace=False)] = True
    rows = set(captions["overlays"].values())
    for record, split in zip(captions["pictures"], captions["split"], strict=True):
        if split == TRAIN:
            rows.update(record["captions"])
    used = sorted(rows)
    texts = [p for p, u in zip(phrases, unseen, strict=True) if not u]
    texts += [captions["texts"][i] for i in used]
    targets = centre(np.concatenate([vectors["phrases"][~unseen], vectors["captions"][used]]), mean)
    unseen_texts = [p for p, u in zip(phrases, unseen, strict=True) if u]
    unseen_targets = centre(vectors["phrases"][unseen], mean)
    tokens = vectors["tokens"].astype(np.float32) - mean
    return texts, targets, unseen_texts, unseen_targets, stored["vocabulary"], tokens


def train_text_tower(work: Workspace, epochs: float = 22, seed: int = 0) -> dict[str, float]:
    """Distil, write ``text.safetensors`` and ``vocab.txt`` into the work folder, return figures."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    texts, targets, unseen, unseen_targets, vocabulary, vectors = corpus(work)
    tower = initial_tower(vocabulary, vectors)
    ids, unseen_ids = tower.token_ids(texts), tower.token_ids(unseen)
    known = np.array([i for i, tokens in enumerate(ids) if tokens])
    empty = np.full(EMPTY_PER_BATCH, texts.index(""))
    network = [*tower.linear.parameters(), *tower.expand.parameters(), *tower.contract.parameters()]
    optimizer = torch.optim.Adam(
        [
            {"params": [tower.tokens.weight], "lr": 2e-3},
            {"params": [tower.log_weights], "lr": 2e-2},
            {"params": network, "lr": 1e-3},
        ]
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    steps, start = int(epochs * len(known) / BATCH), time.time()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 100) * max(0.02, 1 - step / steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        rows = np.concatenate([draw.choice(known, BATCH - EMPTY_PER_BATCH, replace=False), empty])
        vectors_now, wanted = tower.bag([ids[i] for i in rows]), targets[rows]
        named = slice(0, BATCH - EMPTY_PER_BATCH)
        scores = 25 * vectors_now[named] @ wanted[named].T
        loss = 3 * (1 - (vectors_now * wanted).sum(1)).mean()
        loss = loss + 0.3 * F.cross_entropy(scores, torch.arange(len(scores)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 500 == 0:
            print(f"{step} of {steps}, {time.time() - start:.0f} s, "
                  f"{report(tower, unseen_ids, unseen_targets)}", flush=True)  # fmt: skip
    figures = report(tower, unseen_ids, unseen_targets)
    save_quantised(tower, work.root / TEXT_ASSET)
    (work.root / VOCABULARY_ASSET).write_text("\n".join([*vocabulary, UNKNOWN]) + "\n")
    quantised = text_tower_figures(work)
    figures |= {f"int8 {name}": value for name, value in quantised.items()}
    print(figures)
    return figures


def text_tower_figures(work: Workspace) -> dict[str, float]:
    """Cosine to the teacher and retrieval@1 of the int8 tower on unseen phrases."""
    _, _, unseen, targets, _, _ = corpus(work)
    tower = load_text_tower(work.root)
    return report(tower, tower.token_ids(unseen), targets)
