"""From an embedder SPEC to a foundation model."""

from __future__ import annotations

from semlens.embedders.base import FORMS, Embedder
from semlens.errors import EmbedderError

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
            from semlens.embedders.demo import DemoEmbedder

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
