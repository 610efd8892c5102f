"""Loading of images from a SPEC, the text that the command line and manifests use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semlens.data.image_folder import ImageFolder, check_folder
from semlens.data.image_sequence import ImageSequence
from semlens.data.images import Images
from semlens.errors import DataError
from semlens.regular_files import is_file, is_folder, user_path

if TYPE_CHECKING:
    from semlens.data.huggingface import HuggingFaceImages


def load_images(spec: str | Path) -> Images:
    """Load images from a folder, ``datasets/ID[:SPLIT]`` or a saved Hugging Face dataset.

    Raises
    ------
    DataError
        If the SPEC cannot be loaded.
    """
    text = str(spec)
    path = user_path(text)
    if is_saved_dataset(path) or (text.startswith("datasets/") and not is_folder(path)):
        return load_hugging_face(text)
    check_spec(text)
    return ImageFolder(path)


def as_images(images: Images | str | Path | Sequence[Any]) -> Images:
    """Return images from an object, a SPEC, or a list of pictures or paths."""
    if isinstance(images, Images):
        return images
    return load_images(images) if isinstance(images, str | Path) else ImageSequence(images)


def check_spec(spec: str) -> None:
    """Refuse a SPEC of data that does not exist, without listing the data.

    Raises
    ------
    DataError
        If it describes a Python object, or a folder that does not exist.
    """
    if spec.startswith("python:") and not is_folder(user_path(spec)):
        raise DataError(
            f"The data '{spec}' was a Python object.",
            "It cannot be loaded from its name.",
            "Pass the same object as images=, or build from a folder.",
        )
    if not spec.startswith("datasets/"):
        check_folder(spec)


def is_saved_dataset(path: Path) -> bool:
    """Return whether a folder is a saved Hugging Face dataset (``save_to_disk``)."""
    return any(is_file(path / name) for name in ("state.json", "dataset_dict.json"))


def load_hugging_face(spec: str, *, offline: bool = False) -> HuggingFaceImages:
    """Load ``datasets/ID[:SPLIT]`` or a saved dataset; with ``offline``, only from local files.

    Raises
    ------
    DataError
        If it cannot be loaded.
    """
    folder = user_path(spec)
    if is_saved_dataset(folder):
        name, split = str(folder.resolve()), None
    else:
        head, _, tail = spec.removeprefix("datasets/").rpartition(":")
        name, split = (head, tail) if head else (tail, None)
    try:
        from semlens.data.huggingface import HuggingFaceImages

        return HuggingFaceImages.load(name, split, offline=offline)
    except ModuleNotFoundError as error:
        raise DataError(
            f"'{name}' needs the package '{error.name}'.",
            "It is not installed.",
            "Run: pip install 'semlens[hf]'",
        ) from error
