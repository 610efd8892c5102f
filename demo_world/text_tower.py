"""Distillation of the sentence encoder into the text tower: token vectors and a small network.

Teacher: MiniLM, centred at the captions' mean. Corpus: WordNet phrases and the captions of training
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
from semlens.embedders.demo import (
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
    """Initialize with principal components of the teacher's tokens; frequent words weigh less."""
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
    """Embed tokenised texts in batches."""
    return torch.cat([tower.bag(ids[i : i + 2048]) for i in range(0, len(ids), 2048)])


def report(tower: TextTower, ids: list[list[int]], targets: Tensor) -> dict[str, float]:
    """Return cosine similarity to the teacher and retrieval@1 on unseen phrases."""
    vectors = embed_ids(tower, ids)
    scores = vectors @ targets.T
    first = (scores >= scores.diagonal()[:, None]).sum(1).eq(1).float().mean()
    cosine = F.cosine_similarity(vectors, targets).mean()
    return {"cosine": round(cosine.item(), 4), "retrieval@1": round(first.item(), 4)}


def corpus(work: Workspace) -> tuple[list[str], Tensor, list[str], Tensor, list[str], np.ndarray]:
    """Return training texts and targets, unseen texts and targets, vocabulary, token vectors."""
    stored = json.loads(work.phrases.read_text())
    captions = json.loads(work.captions.read_text())
    vectors = np.load(work.caption_vectors)
    mean = vectors["mean"]
    phrases = stored["phrases"]
    unseen = np.zeros(len(phrases), bool)
    not_empty = np.array([bool(p) for p in phrases])
    rng = np.random.default_rng(0)
    unseen[rng.choice(np.flatnonzero(not_empty), UNSEEN_PHRASES, replace=False)] = True
    rows = set(captions["overlays"].values())
    for record, split in zip(captions["pictures"], captions["split"], strict=True):
        if split == TRAIN:
            rows.update(record["captions"])
    caption_rows = sorted(rows)
    texts = [p for p, u in zip(phrases, unseen, strict=True) if not u]
    texts += [captions["texts"][i] for i in caption_rows]
    targets = centre(
        np.concatenate([vectors["phrases"][~unseen], vectors["captions"][caption_rows]]), mean
    )
    unseen_texts = [p for p, u in zip(phrases, unseen, strict=True) if u]
    unseen_targets = centre(vectors["phrases"][unseen], mean)
    tokens = vectors["tokens"].astype(np.float32) - mean
    return texts, targets, unseen_texts, unseen_targets, stored["vocabulary"], tokens


def train_text_tower(work: Workspace, epochs: float = 22, seed: int = 0) -> dict[str, float]:
    """Train, write ``text.safetensors`` and ``vocab.txt`` to the work folder, return results."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    texts, targets, unseen, unseen_targets, vocabulary, vectors = corpus(work)
    tower = initial_tower(vocabulary, vectors)
    ids, unseen_ids = tower.token_ids(texts), tower.token_ids(unseen)
    non_empty = np.array([i for i, tokens in enumerate(ids) if tokens])
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
    steps, start = int(epochs * len(non_empty) / BATCH), time.time()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 100) * max(0.02, 1 - step / steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        rows = np.concatenate(
            [rng.choice(non_empty, BATCH - EMPTY_PER_BATCH, replace=False), empty]
        )
        outputs, batch_targets = tower.bag([ids[i] for i in rows]), targets[rows]
        non_empty_rows = slice(0, BATCH - EMPTY_PER_BATCH)
        scores = 25 * outputs[non_empty_rows] @ batch_targets[non_empty_rows].T
        loss = 3 * (1 - (outputs * batch_targets).sum(1)).mean()
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
    """Return the results of :func:`report` for the int8 tower on unseen phrases."""
    _, _, unseen, targets, _, _ = corpus(work)
    tower = load_text_tower(work.root)
    return report(tower, tower.token_ids(unseen), targets)
