"""Foundation models from transformers: CLIP, SigLIP, and image-only encoders such as DINOv2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from semlens.embedders.embedder import Embedder, has_known_token, unavailable_error
from semlens.errors import EmbedderError
from semlens.models.checkpoint import check_missing_weights
from semlens.models.model_libraries import NO_CODE, seeded
from semlens.models.subject import weights_digest
from semlens.recipe import fingerprint
from semlens.regular_files import is_folder, user_path


class TransformersEmbedder(Embedder):
    """``transformers/ID-or-dir``.

    A model with ``get_text_features`` embeds texts too. For other encoders the vector is the class
    token after the last layer norm (paper, B.1: DINOv2-base), or the pooled output if there is no
    class token.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        if is_folder(folder := user_path(name)):
            name = str(folder.resolve())  # independent of the working directory
        self.spec = f"transformers/{name}"
        try:
            with seeded(0):  # initializes a pooler missing from the checkpoint
                loaded: Any = transformers.AutoModel.from_pretrained(
                    name, output_loading_info=True, **NO_CODE
                )
            model, report = loaded
            check_missing_weights(report["missing_keys"], self.spec, EmbedderError)
            self._processor = transformers.AutoImageProcessor.from_pretrained(name, **NO_CODE)
            self.has_text = hasattr(model, "get_text_features")
            if self.has_text:
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(name, **NO_CODE)
        except EmbedderError:
            raise
        except Exception as error:  # hub clients and checkpoint readers raise many types
            raise unavailable_error(self.spec, error) from error
        self._model = model.eval().to(device)
        self._device = torch.device(device)
        self._class_token = any(n.endswith("cls_token") for n, _ in model.named_parameters())
        settings = json.loads(json.dumps(self._processor.to_dict(), default=str))
        self.fingerprint = fingerprint("transformers", weights_digest(model), settings)
        grey = Image.new("RGB", (64, 64), (128, 128, 128))
        self.dim = int(self.embed_batch(self.preprocess(grey)[None]).shape[1])

    def preprocess(self, image: Image.Image) -> Tensor:
        """Apply the processor of the checkpoint."""
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0].float()

    def _images(self, batch: Tensor) -> Tensor:
        batch = batch.to(self._device)
        if self.has_text:
            return _vectors(self._model.get_image_features(pixel_values=batch))
        output = self._model(pixel_values=batch)
        if self._class_token:
            return output.last_hidden_state[:, 0]
        if output.get("pooler_output") is not None:
            return output.pooler_output.flatten(1)
        hidden = output.last_hidden_state  # [b t c], or [b c h w]
        return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))

    def understands(self, text: str) -> bool:
        """Whether a word of a text, or a part of one, is in the vocabulary."""
        return not self.has_text or has_known_token(self._tokenizer, text)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        if not self.has_text:
            return super()._texts(texts)
        config = self._model.config
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",
            max_length=config.text_config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        ).to(self._device)
        # SigLIP was trained on texts padded to full length without a mask; CLIP needs the mask
        names = ("input_ids",) if "siglip" in config.model_type else ("input_ids", "attention_mask")
        return _vectors(self._model.get_text_features(**{name: tokens[name] for name in names}))


def has_text_tower(name: str) -> bool:
    """Return whether a model embeds texts, from its configuration alone."""
    config = transformers.AutoConfig.from_pretrained(name, **NO_CODE)
    return hasattr(transformers.MODEL_MAPPING[type(config)], "get_text_features")


def _vectors(output: Any) -> Tensor:
    """Return the features: transformers 4 returns a tensor, transformers 5 an output object."""
    return output if isinstance(output, Tensor) else output.pooler_output
