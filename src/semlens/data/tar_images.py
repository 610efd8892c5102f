"""Images of tar archives, such as the shards of WebDataset."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from semlens.data.image_folder import folder_classes, is_image_name
from semlens.data.source_files import ImagesInFiles, SourceFile
from semlens.errors import DataError, ImageError, SemlensError, shortened

PREFIX = "wds:"
_CLASS_SUFFIX = ".cls"
_MAX_CLASS_BYTES = 1024
_BLOCK = tarfile.BLOCKSIZE
_REMEDY = "Write the archive again, without compression, or leave it out."


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive."""

    name: str
    file: SourceFile
    start: int
    """Offset of its content in the archive."""
    size: int
    target: str | None = None
    """Content of the ``.cls`` file with the same key, if any."""
    problem: str = ""
    """Why it has no content, if it has none."""


class TarImages(ImagesInFiles):
    """The images of tar archives, in the order of their names.

    The archives are read once, to index them; images are then read at random. The id of a sample
    is the name of its file in the archive, so that archives of a folder give the same database as
    the folder, however they divide it. If a name occurs in several archives, all ids begin with
    the name of the archive.

    The class of a sample is the content of the file that has its name up to the first dot and
    ends in ``.cls``, as in WebDataset; otherwise the first-level folder, as in a folder.

    Parameters
    ----------
    pattern
        Paths or URLs: ``shards/{000..127}.tar``, ``s3://bucket/*.tar``, with or without ``wds:``.

    Raises
    ------
    DataError
        If an archive is missing, compressed, truncated or damaged, or none contains an image.
    """

    def __init__(self, pattern: str) -> None:
        files = self._find(PREFIX, pattern)
        members = [member for found in self._of_each(_index, files) for member in found]
        if not members:
            raise DataError(
                f"'{self.spec}' contains no images.",
                "Expected tar archives with image files such as .jpg or .png.",
                "Check the pattern.",
            )
        names = Counter(member.name for member in members)
        repeated = max(names.values()) > 1
        by_id = {f"{m.file.name}/{m.name}" if repeated else m.name: m for m in members}
        if len(by_id) < len(members):
            name = next(name for name, count in names.items() if count > 1)
            raise DataError(
                f"'{name}' occurs {names[name]} times in '{self.spec}'.",
                "Expected each name once in an archive, and archives with different names.",
                "Rename the files or the archives.",
            )
        self.ids = sorted(by_id)
        self._members = [by_id[name] for name in self.ids]
        targets = [member.target for member in self._members]
        self.targets = folder_classes([member.name for member in self._members])
        if all(target is not None for target in targets):
            self.targets = [str(target) for target in targets]

    def content(self, sample: int) -> bytes:
        """Return the bytes of a file in an archive.

        Raises
        ------
        ImageError
            If it is a link or a sparse file, or the archive has become shorter.
        """
        member = self._members[sample]
        if member.problem:
            raise _unreadable(member, member.problem)
        try:
            data = member.file.read(member.start, member.start + member.size)
        except OSError as error:
            raise _unreadable(member, str(error.strerror or error)) from error
        if len(data) < member.size:
            raise _unreadable(member, f"{len(data)} of {member.size} bytes are left")
        return data


def _unreadable(member: Member, reason: str) -> ImageError:
    return ImageError(
        f"Cannot read '{member.name}' in '{member.file.name}' ({reason}).",
        "Expected a plain file in the archive.",
        _REMEDY,
    )


def _index(file: SourceFile) -> list[Member]:
    """Return the images of an archive with their classes."""
    images: list[Member] = []
    classes: dict[str, str] = {}
    try:
        with file.open() as stream:
            for info, tar in _headers(stream, file.name):
                name = _name(info, file.name)
                if is_image_name(name):
                    problem = "" if info.isreg() and not info.issparse() else "it is not plain data"
                    images.append(Member(name, file, info.offset_data, info.size, problem=problem))
                elif name.endswith(_CLASS_SUFFIX) and 0 < info.size <= _MAX_CLASS_BYTES:
                    content = tar.extractfile(info) if info.isreg() else None
                    classes[_key(name)] = content.read().decode().strip() if content else ""
    except SemlensError:
        raise
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise _damaged(file.name, str(error) or type(error).__name__) from error
    return [
        Member(m.name, m.file, m.start, m.size, classes.get(_key(m.name)), m.problem)
        for m in images
    ]


def _headers(stream: Any, archive: str) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Yield the headers of all files in an archive; the end must be marked, as tar does."""
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (info := tar.next()) is not None:
            # a long archive would be kept in memory
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
            if info.size < 0 or info.offset_data <= info.offset:
                raise _damaged(archive, f"'{shortened(info.name)}' has {info.size} bytes")
            if not info.isdir():
                yield info, tar
        # tarfile takes an archive that was cut, or damaged in between, for one that ends there
        stream.seek(tar.offset)
        end = stream.read(_BLOCK)
        if end != bytes(_BLOCK):
            raise _damaged(archive, f"it ends or is damaged at byte {tar.offset}")


def _name(info: tarfile.TarInfo, archive: str) -> str:
    """Return the relative POSIX path of a member."""
    path = PurePosixPath(info.name)
    is_utf8 = not any("\ud800" <= sign <= "\udfff" for sign in info.name)
    if path.is_absolute() or ".." in path.parts or "\0" in info.name or not is_utf8:
        raise DataError(
            f"'{archive}' has a file with the name {shortened(ascii(info.name))}.",
            "Expected relative names in UTF-8 that do not lead out of the archive.",
            "Rename it, and write the archive again.",
        )
    return str(path)


def _key(name: str) -> str:
    """Return a name up to the first dot after the last slash, as WebDataset does."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def _damaged(archive: str, reason: str) -> DataError:
    return DataError(
        f"'{archive}' cannot be read ({reason}).",
        "Expected an intact tar archive without compression.",
        _REMEDY,
    )
