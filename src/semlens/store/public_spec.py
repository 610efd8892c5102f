"""SPECs for other people, who see the names of files and not where they are."""

from __future__ import annotations

import re
from pathlib import PurePath, PurePosixPath, PureWindowsPath

# after the start, a colon, an equals sign, a quote or the name of a library; not that of a URL
_PATH = re.compile(r"""(^|[:="]|\b\w+/)(/(?!/)[^:"]+|[A-Za-z]:[\\/][^:"]+)""")


def absolute_paths(spec: str) -> list[str]:
    """Return the absolute paths in a SPEC.

    Examples
    --------
    >>> absolute_paths("vectors//home/ada/clip.parquet:open_clip/ViT-B-32//home/ada/clip.pt")
    ['/home/ada/clip.parquet', '/home/ada/clip.pt']
    """
    return [match[2] for match in _PATH.finditer(spec)]


def public_spec(spec: str) -> str:
    """Return a SPEC with the last part of each absolute path in it instead of the path.

    Examples
    --------
    >>> public_spec("torchvision/resnet18:/home/ada/r18.pth")
    'torchvision/resnet18:r18.pth'
    >>> public_spec("s3://bucket/photos")
    's3://bucket/photos'
    """

    def last(match: re.Match[str]) -> str:
        kind: type[PurePath] = PurePosixPath if match[2].startswith("/") else PureWindowsPath
        return match[1] + kind(match[2]).name

    return _PATH.sub(last, spec)
