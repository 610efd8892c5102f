"""Foundation models of transformers: CLIP, SigLIP, and image-only encoders such as DINOv2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from semlens.embedders.base import Embedder
from semlens.embedders.load import unavailable
from semlens.models.subject import weights_digest
from semlens.recipe import fingerprint


class TransformersEmbedder(Embedder):
    """``transformers/ID-or-dir``.

    A model with ``get_text_features`` embeds texts too. Any other encoder gives its class
    token after the last layer norm (paper, B.1: DINOv2-base).
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.spec = f"transformers/{name}"
        try:
            model: Any = transformers.AutoModel.from_pretrained(name)
            self._processor = transformers.AutoImageProcessor.from_pretrained(name)
            self.has_text = hasattr(model, "get_text_features")
            if self.has_text:
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise unavailable(self.spec, error) from error
        self._model = model.eval().to(device)
        self._device = torch.device(device)
        settings = json.loads(json.dumps(self._processor.to_dict(), default=str))
        self.fingerprint = fingerprint("transformers", weights_digest(model), settings)
        grey = Image.new("RGB", (64, 64), (128, 128, 128))
        self.dim = int(self.embed_batch(self.preprocess(grey)[None]).shape[1])

    def preprocess(self, image: Image.Image) -> Tensor:
        """Apply the processor that belongs to the weights."""
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0].float()

    def _images(self, batch: Tensor) -> Tensor:
        batch = batch.to(self._device)
        if self.has_text:
            return _vectors(self._model.get_image_features(pixel_values=batch))
        return self._model(pixel_values=batch).last_hidden_state[:, 0]

    def _texts(self, texts: Sequence[str]) -> Tensor:
        if not self.has_text:
            return super()._texts(texts)
        length = self._model.config.text_config.max_position_embeddings
        # SigLIP was trained with every text padded to the full length; CLIP masks the padding
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        ).to(self._device)
        return _vectors(self._model.get_text_features(**tokens))


def _vectors(output: Any) -> Tensor:
    """Return the features: a tensor in transformers 4, an output with a pooler in 5."""
    return output if isinstance(output, Tensor) else output.pooler_output
