"""From a data SPEC, as the command line and manifests hold it, to images."""

from __future__ import annotations

from pathlib import Path

from semlens.data.folder import ImageFolder
from semlens.data.images import Images
from semlens.errors import DataError


def load_images(spec: str | Path) -> Images:
    """Load images from a folder, ``datasets/ID[:SPLIT]`` or a saved Hugging Face data set.

    Raises
    ------
    DataError
        If the SPEC names nothing that can be loaded.
    """
    text = str(spec)
    path = Path(text).expanduser()
    if path.is_dir():
        if any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return _hugging_face(str(path.resolve()), None)
        return ImageFolder(path)
    if text.startswith("datasets/"):
        name, _, split = text.removeprefix("datasets/").rpartition(":")
        return _hugging_face(name, split) if name else _hugging_face(split, None)
    if text.startswith("python:"):
        raise DataError(
            f"The data '{text}' came from a Python object.",
            "A SPEC cannot bring it back.",
            "Pass the same object as images=, or build from a folder.",
        )
    return ImageFolder(path)


def _hugging_face(name: str, split: str | None) -> Images:
    try:
        from semlens.data.huggingface import HuggingFaceImages

        return HuggingFaceImages.load(name, split)
    except ModuleNotFoundError as error:
        raise DataError(
            f"'{name}' needs the package '{error.name}'.",
            "It is not installed.",
            "Run: pip install 'semlens[hf]'",
        ) from error
