"""What an embedder SPEC may be, and the error for one whose weights are out of reach."""

from __future__ import annotations

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
