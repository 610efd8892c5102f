"""Foundation models from open_clip: MobileCLIP, the CLIPs of OpenAI and LAION, SigLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from PIL import Image
from torch import Tensor

from semlens.embedders.embedder import Embedder, unavailable_error
from semlens.errors import EmbedderError, nearest
from semlens.models.subject import weights_digest
from semlens.recipe import fingerprint
from semlens.regular_files import is_file, user_path


class OpenClipEmbedder(Embedder):
    """``open_clip/MODEL/PRETRAINED``; PRETRAINED is a tag or the path of a checkpoint.

    ``open_clip/FOLDER`` loads a folder with ``open_clip_config.json`` and weights.
    """

    has_text = True

    def __init__(self, name: str, device: str = "cpu") -> None:
        self.spec = f"open_clip/{name}"
        folder = user_path(name)
        if is_file(folder / "open_clip_config.json"):
            self.spec = f"open_clip/{folder.resolve()}"  # independent of the working directory
            architecture, weights = f"local-dir:{folder.resolve()}", None
        else:
            architecture, _, tag = name.partition("/")
            if architecture not in open_clip.list_models():
                raise EmbedderError(
                    f"Unknown open_clip model '{architecture}'.",
                    f"The nearest models are {nearest(architecture, open_clip.list_models())}.",
                    "List all models with open_clip.list_models().",
                )
            tags = open_clip.list_pretrained_tags_by_model(architecture)
            path = user_path(tag)
            if tag not in tags and not is_file(path):
                raise EmbedderError(
                    f"Unknown weights '{tag}' of {architecture}.",
                    f"Expected a tag ({', '.join(tags) or 'none is known'}) or an existing file.",
                    "Use one of these tags, or the path of a checkpoint.",
                )
            weights = tag if tag in tags else str(path.resolve())
            self.spec = f"open_clip/{architecture}/{weights}"
        try:
            loaded: Any = open_clip.create_model_from_pretrained(
                architecture, pretrained=weights, device=device, weights_only=True
            )
            self._tokenizer = open_clip.get_tokenizer(architecture)
        except Exception as error:  # hub clients and checkpoint readers raise many types
            raise unavailable_error(self.spec, error) from error
        model, self._transform = loaded
        self._model = model.eval()
        self._device = torch.device(device)
        # not str(preprocess), which contains a memory address
        settings = open_clip.get_model_preprocess_cfg(model)
        self.fingerprint = fingerprint("open_clip", weights_digest(model), settings)
        self.dim = int(self._texts([""]).shape[1])

    def preprocess(self, image: Image.Image) -> Tensor:
        """Apply the transform of the checkpoint."""
        return self._transform(image)

    def _images(self, batch: Tensor) -> Tensor:
        return self._model.encode_image(batch.to(self._device))

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self._model.encode_text(self._tokenizer(list(texts)).to(self._device))
