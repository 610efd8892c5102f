"""Loading of images: from a SPEC, the text of commands and manifests, or from Python objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from semlens.data.array_files import ArrayFolder, is_arrays
from semlens.data.image_folder import ImageFolder, RemoteImages, check_folder, read_remote
from semlens.data.image_sequence import ImageSequence, MapStyle
from semlens.data.images import (
    Images,
    JoinedImages,
    read_file,
    split_id,
    split_spec,
)
from semlens.errors import DataError, ImageError
from semlens.regular_files import is_file, is_folder, user_path
from semlens.remote_files import RemoteFolder, remote_url

ImagesLike = Images | str | Path | MapStyle | Iterable[Any]
"""Images as callers give them; what has no length or index is refused, with what to pass."""
STREAMING = "streaming:"


def load_images(spec: str | Path) -> Images:
    """Load images from a SPEC.

    It is a folder, the URL of one, ``wds:PATTERN`` of tar archives, ``parquet:PATTERN``,
    ``datasets/ID[:SPLIT]``, ``arrays:FOLDER``, ``signals:FOLDER`` or ``volumes:FOLDER`` (see
    :class:`ArrayFolder`), ``streaming:datasets/ID[:SPLIT]``, a saved Hugging Face dataset, or
    ``joined:["SPEC", "SPEC", ...]`` for several of these, one after another.

    Raises
    ------
    DataError
        If the SPEC cannot be loaded.
    """
    text = str(spec)
    if (parts := split_spec(text)) is not None:
        return JoinedImages([load_images(part) for part in parts])
    path = user_path(text)
    if is_saved_dataset(path) or (text.startswith("datasets/") and not is_folder(path)):
        return load_hugging_face(text)
    if text.startswith(STREAMING) and not is_folder(path):
        return load_hugging_face(text.removeprefix(STREAMING), streaming=True)
    if is_tar(text):
        from semlens.data.tar_images import TarImages

        return TarImages(text)
    if is_parquet(text):
        from semlens.data.parquet_images import ParquetImages

        return ParquetImages(text)
    if is_arrays(text):
        return ArrayFolder(text)
    url = remote_url(text)
    if url is not None:
        return RemoteImages(url)
    check_spec(text)
    return ImageFolder(path)


def is_tar(spec: str) -> bool:
    """Whether a SPEC names tar archives, rather than a folder."""
    return spec.startswith("wds:") or (spec.endswith(".tar") and not is_folder(user_path(spec)))


def is_parquet(spec: str) -> bool:
    """Whether a SPEC names Parquet files, rather than a folder."""
    named = spec.endswith(".parquet") and not is_folder(user_path(spec))
    return spec.startswith("parquet:") or named


def as_images(images: ImagesLike) -> Images:
    """Return images from an object, a SPEC, a list of pictures or paths, or a data set.

    Raises
    ------
    DataError
        If the SPEC cannot be loaded, or the object cannot be indexed.
    """
    if isinstance(images, Images):
        return images
    if isinstance(images, str | Path):
        return load_images(images)
    return ImageSequence(images)


def stored_reader(spec: str, *, given: bool) -> Callable[[int, str], bytes | Image.Image]:
    """Return a function that reads a sample of a database by its number and its id.

    Folders and URLs of folders are not listed. Nothing is downloaded from the hub.

    Parameters
    ----------
    given
        Whether the user has named the data. Otherwise its SPEC is from the database, which must
        not have this machine contact just any server.

    Raises
    ------
    DataError
        If there is no such data.
    """
    if (parts := split_spec(spec)) is not None:
        joined = _StoredSources(parts, given)
        return lambda _, name: joined.read(name)
    stored = _stored(spec, given)
    if isinstance(stored, Images):
        return lambda sample, _: stored.content(sample)
    return lambda _, name: stored(name)


def check_server(spec: str, *, given: bool) -> None:
    """Refuse data on a web server that only the database names; see :func:`stored_reader`."""
    url = remote_url(spec.removeprefix("wds:").removeprefix("parquet:"))
    if url is not None and url.startswith("http") and not given:
        raise DataError(
            f"The data of the database is on the web server '{url}'.",
            "A database does not decide which servers are contacted.",
            "Pass the URL as images (--data), if you trust it.",
        )


def _stored(spec: str, given: bool) -> Images | Callable[[str], bytes | Image.Image]:
    """Return the images, or a function that reads one by its id."""
    check_server(spec, given=given)
    url = remote_url(spec)
    if url is not None and not (is_tar(spec) or is_parquet(spec)):
        remote = RemoteFolder(url, DataError)
        return lambda name: read_remote(remote, name)
    if is_arrays(spec):
        return ArrayFolder(spec, run_files=given)
    root = user_path(spec)
    if is_saved_dataset(root) or (spec.startswith("datasets/") and not is_folder(root)):
        return load_hugging_face(spec, offline=True)
    if is_folder(root):
        return lambda name: read_file(root / name, name)
    if is_tar(spec) or is_parquet(spec) or spec.startswith(STREAMING):
        return load_images(spec)
    raise DataError(
        f"The data '{spec}' is not on this machine.",
        "Expected the folder or data set that the database was built from.",
        "Restore it, or pass the current location of the data as images (--data).",
    )


class _StoredSources:
    """The sources of joined data, each opened with the first sample that is read of it."""

    def __init__(self, specs: Sequence[str], given: bool) -> None:
        self._specs, self._given, self._lock = specs, given, Lock()
        self._readers: dict[int, Callable[[str], bytes | Image.Image]] = {}

    def read(self, name: str) -> bytes | Image.Image:
        """Return the content of a sample by its id."""
        source, name_there = split_id(name, len(self._specs))
        with self._lock:
            if source not in self._readers:
                self._readers[source] = self._open(self._specs[source])
        return self._readers[source](name_there)

    def _open(self, spec: str) -> Callable[[str], bytes | Image.Image]:
        stored = _stored(spec, self._given)
        if not isinstance(stored, Images):
            return stored
        numbers = {name: number for number, name in enumerate(stored.ids)}

        def read(name: str) -> bytes | Image.Image:
            if name not in numbers:
                raise ImageError(
                    f"'{spec}' has no image '{name}'.",
                    "Expected the data that the database was built from.",
                    "Restore it.",
                )
            return stored.content(numbers[name])

        return read


def check_spec(spec: str) -> None:
    """Refuse a SPEC of data that does not exist, without listing the data.

    What is not in a folder of this machine is checked when it is read.

    Raises
    ------
    DataError
        If it describes a Python object, or a folder that does not exist.
    """
    if (parts := split_spec(spec)) is not None:
        for part in parts:
            check_spec(part)
        return
    if spec.startswith("python:") and not is_folder(user_path(spec)):
        raise DataError(
            f"The data '{spec}' was a Python object.",
            "It cannot be loaded from its name.",
            "Pass the same object as images=, or build from a folder.",
        )
    elsewhere = spec.startswith(("datasets/", STREAMING)) or remote_url(spec) is not None
    if not (elsewhere or is_tar(spec) or is_parquet(spec) or is_arrays(spec)):
        check_folder(spec)


def is_saved_dataset(path: Path) -> bool:
    """Return whether a folder is a saved Hugging Face dataset (``save_to_disk``)."""
    return any(is_file(path / name) for name in ("state.json", "dataset_dict.json"))


def load_hugging_face(spec: str, *, offline: bool = False, streaming: bool = False) -> Images:
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
        from semlens.data.huggingface import HuggingFaceImages, StreamedImages

        if streaming:
            return StreamedImages.load(name, split)
        return HuggingFaceImages.load(name, split, offline=offline)
    except ModuleNotFoundError as error:
        raise DataError(
            f"'{name}' needs the package '{error.name}'.",
            "It is not installed.",
            "Run: pip install 'semlens[hf]'",
        ) from error
