"""The text tower of ``semlens/demo``: a bag of words, which ignores word order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor, nn

from semlens.embedders.demo_space import DIMENSION, TEXT_ASSET, VOCABULARY_ASSET
from semlens.embedders.quantised import load_quantised

UNKNOWN = "[UNK]"


class TextTower(nn.Module):
    """A weighted mean of static token vectors and a small residual network, to unit vectors.

    A text without known words, such as the empty string, has the mean zero. The biases of the
    network map it to a fixed vector that was trained for the empty string.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        token_dimension: int = 128,
        hidden: int = 512,
        dimension: int = DIMENSION,
    ) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(
            WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token=UNKNOWN)
        )
        self.tokenizer.normalizer = BertNormalizer(lowercase=True)
        self.tokenizer.pre_tokenizer = BertPreTokenizer()
        self.unknown = list(vocabulary).index(UNKNOWN)
        self.tokens = nn.Embedding(len(vocabulary), token_dimension)
        self.log_weights = nn.Parameter(torch.zeros(len(vocabulary)))
        self.linear = nn.Linear(token_dimension, dimension)
        self.expand = nn.Linear(token_dimension, hidden)
        self.contract = nn.Linear(hidden, dimension)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of the known tokens of each text."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[i for i in e.ids if i != self.unknown] for e in encodings]

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Map concatenated token ids [T] and offsets of texts [B] to vectors [B dimension]."""
        weights = self.log_weights[ids].clamp(-5, 5).exp()
        total = F.embedding_bag(
            ids, self.tokens.weight, offsets, mode="sum", per_sample_weights=weights
        )
        text = torch.searchsorted(offsets, torch.arange(len(ids)), right=True) - 1
        norm = weights.new_zeros(len(offsets), 1).index_add(0, text, weights[:, None])
        mean = total / norm.clamp(min=1e-4)
        return F.normalize(self.linear(mean) + self.contract(F.gelu(self.expand(mean))), dim=-1)

    def bag(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Embed texts given as token ids to vectors [B dimension]."""
        lengths = torch.tensor([0, *[len(i) for i in ids[:-1]]])
        flat = torch.tensor([i for text in ids for i in text], dtype=torch.long)
        return self(flat, lengths.cumsum(0))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts one by one, so that a vector [B dimension] does not depend on the batch."""
        if not texts:
            return torch.empty(0, self.linear.out_features)
        return torch.cat([self.bag([ids]) for ids in self.token_ids(texts)])


def load_text_tower(folder: Path) -> TextTower:
    """Load the text tower of ``folder`` (``text.safetensors`` and ``vocab.txt``)."""
    vocabulary = (folder / VOCABULARY_ASSET).read_text(encoding="utf-8").splitlines()
    state = load_file(folder / TEXT_ASSET)
    tower = TextTower(
        vocabulary,
        token_dimension=state["tokens.weight"].shape[1],
        hidden=state["expand.weight"].shape[0],
        dimension=state["linear.weight"].shape[0],
    )
    load_quantised(tower, folder / TEXT_ASSET)
    return tower.eval()
