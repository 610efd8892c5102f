"""What a foundation model does: images, and perhaps texts, to unit vectors; and loading one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor
from torch.nn import functional

from semlens.errors import EmbedderError

FORMS = "open_clip/MODEL/PRETRAINED, transformers/ID-or-dir or semlens/demo"


def unavailable(spec: str, error: Exception) -> EmbedderError:
    """Return the error for weights that cannot be fetched or read."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return EmbedderError(
        f"The embedder '{spec}' cannot be loaded ({reason}).",
        f"Expected {FORMS}, with a hub that can be reached or weights on this machine.",
        "Give a local checkpoint, or semlens/demo to try things out.",
    )


class Embedder(ABC):
    """A foundation model, F in the paper (3.2).

    A sub-class says who it is (``spec``, ``fingerprint``, ``dim``, ``has_text``) and
    implements the three methods that begin with an underscore or carry no body.
    """

    spec: str
    """How to load it again."""
    fingerprint: str
    """SHA-256 of weights and preprocessing: vectors of two embedders are never mixed."""
    dim: int
    """Length of a vector."""
    has_text: bool
    """Whether it can embed texts."""

    @abstractmethod
    def preprocess(self, image: Image.Image) -> Tensor:
        """Turn an RGB image of any size into the tower's input [3 h w]; safe in threads."""

    @abstractmethod
    def _images(self, batch: Tensor) -> Tensor:
        """Embed preprocessed images [b 3 h w] to [b d], not necessarily of unit length."""

    def _texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts to [n d], not necessarily of unit length."""
        raise EmbedderError(
            f"The embedder '{self.spec}' has no text tower.",
            "A text was given, but it embeds images only.",
            "Search by image (--image FILE), or build with an image-text embedder.",
        )

    @torch.inference_mode()
    def embed_batch(self, batch: Tensor) -> Float32[Tensor, "b d"]:
        """Embed preprocessed images to unit vectors on the CPU."""
        return _unit(self._images(batch))

    def embed_images(
        self, images: Sequence[Image.Image], batch_size: int = 32
    ) -> Float32[Tensor, "n d"]:
        """Embed RGB images of any size to unit vectors."""
        vectors = [
            self.embed_batch(torch.stack([self.preprocess(image) for image in part]))
            for part in (images[i : i + batch_size] for i in range(0, len(images), batch_size))
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
        parts = (texts[i : i + batch_size] for i in range(0, len(texts), batch_size))
        vectors = [_unit(self._texts(list(part))) for part in parts]
        return torch.cat(vectors) if vectors else torch.zeros(0, self.dim)


def _unit(vectors: Tensor) -> Tensor:
    return functional.normalize(vectors.float(), dim=-1).cpu()


DEFAULT = "open_clip/MobileCLIP-S2/datacompdr"
"""The paper's choice for ImageNet (B.1); needs a hub that can be reached."""


def load_embedder(spec: str = DEFAULT, *, device: str = "cpu") -> Embedder:
    """Load a foundation model.

    Parameters
    ----------
    spec
        ``open_clip/ViT-B-32/laion2b_s34b_b79k``, ``open_clip/ViT-B-32/path/to/weights.pt``,
        ``open_clip/FOLDER`` with an ``open_clip_config.json``,
        ``transformers/facebook/dinov2-base`` (images only), ``semlens/demo``.
    device
        Where to run it.

    Raises
    ------
    EmbedderError
        If the SPEC or its weights cannot be loaded.

    Examples
    --------
    >>> load_embedder("semlens/demo").has_text
    True
    """
    library, _, rest = spec.partition("/")
    try:
        if spec == "semlens/demo":
            from semlens.embedders.demo_towers import DemoEmbedder

            return DemoEmbedder(device)
        if library == "open_clip" and rest:
            from semlens.embedders.openclip import OpenClipEmbedder

            return OpenClipEmbedder(rest, device)
        if library == "transformers" and rest:
            from semlens.embedders.huggingface import TransformersEmbedder

            return TransformersEmbedder(rest, device)
    except ModuleNotFoundError as error:
        extra = "open-clip" if library == "open_clip" else "hf"
        raise EmbedderError(
            f"'{spec}' needs the package '{error.name}'.",
            "It is not installed.",
            f"Run: pip install 'semlens[{extra}]'",
        ) from error
    if library.startswith("python:"):
        raise EmbedderError(
            f"The embedder '{spec}' came from a Python object.",
            "A SPEC cannot bring it back.",
            "Pass the same object: semlens.open(path, embedder=...).",
        )
    raise EmbedderError(
        f"'{spec}' is not an embedder SPEC.",
        f"Expected {FORMS}.",
        f"The recommended one is {DEFAULT}.",
    )


def reads_texts(spec: str) -> bool:
    """Tell whether an embedder has a text tower, without loading its weights.

    False also for one that cannot be looked at: an object from Python, a missing package, an
    unknown SPEC, a hub out of reach. What is wrong then, :func:`load_embedder` says.
    """
    library, _, rest = spec.partition("/")
    if spec == "semlens/demo" or library == "open_clip":
        return True
    if library != "transformers":
        return False
    try:
        from semlens.embedders.huggingface import has_text_tower

        return has_text_tower(rest)
    except Exception:  # hub clients and config readers raise many kinds
        return False
