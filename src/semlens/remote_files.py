"""Files that are not on this machine: URLs of object stores and web servers, through fsspec."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import fsspec

from semlens.errors import SemlensError, reason_of, shortened

_PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
}
"""The package that fsspec needs for each protocol. No other one is used: fsspec also knows
protocols that run commands on other machines, or read what another URL names."""
_URL = re.compile(rf"({'|'.join(_PACKAGES)}):/+(?=[^/])")


def remote_url(path: str | Path) -> str | None:
    """Return a URL without a slash at its end, or None for a path of this machine.

    A :class:`pathlib.Path` of a URL has lost one of its two slashes, which is restored.
    """
    text = path.as_posix() if isinstance(path, Path) else path
    match = _URL.match(text)
    return f"{match[1]}://{text[match.end() :]}".rstrip("/") if match else None


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of an object store or a web server; thread-safe.

    Addresses, credentials and other options are those of the protocol's package: its environment
    variables and configuration files, or ``fsspec.config.conf``.

    Parameters
    ----------
    url
        As returned by :func:`remote_url`.
    error
        The error to raise if it cannot be used.
    """

    url: str
    error: type[SemlensError]

    def __post_init__(self) -> None:
        """Refuse a URL with a password, which would be saved with the data's name, or a query."""
        parts = urlsplit(self.url)
        if "@" in parts.netloc:
            raise self.error(
                f"The {parts.scheme} URL of '{parts.netloc.rpartition('@')[2]}' has a password.",
                "Expected none: a database stores the URL of its data.",
                "Pass it as the protocol's package expects, such as AWS_SECRET_ACCESS_KEY for s3.",
            )
        if parts.scheme in ("http", "https") and (parts.query or parts.fragment):
            raise self.error(
                f"'{shortened(self.url)}' has a query.",
                "Expected the URL of a folder, to which names of files can be added.",
                "Use a protocol with credentials, such as s3://, or download the files.",
            )

    @property
    def files(self) -> Any:
        """The fsspec file system; its instances are shared between threads."""
        protocol = self.url.partition(":")[0]
        try:
            return fsspec.filesystem(protocol)
        except ImportError as error:
            package = _PACKAGES[protocol]
            raise self.error(
                f"'{shortened(self.url)}' needs the package '{package}'.",
                "It is not installed.",
                f"Run: pip install {package}",
            ) from error
        except Exception as error:  # options from the environment that the package refuses
            raise self.failed(error) from error

    def names(self) -> list[str]:
        """Return the relative names of all files below the folder.

        Raises
        ------
        SemlensError
            If it cannot be listed.
        """
        files = self.files
        try:
            files.invalidate_cache()  # what was listed before may have changed
            root = files._strip_protocol(self.url).rstrip("/") + "/"
            # a server that does not answer would count as an empty folder
            options = {"on_error": "raise"} if self._is_http else {}
            found = [str(path) for path in files.find(root, **options)]
        except Exception as error:  # each package has its own errors
            raise self.failed(error) from error
        inside = [path[len(root) :] for path in found if path.startswith(root)]
        return [unquote(name) for name in inside] if self._is_http else inside

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises
        ------
        FileNotFoundError, PermissionError
            If it does not exist, or may not be read.
        SemlensError
            If the store cannot be reached, or does not answer.
        """
        return self._call("cat_file", name)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return the bytes ``start`` to ``stop - 1`` of a file; errors as for :meth:`read`."""
        return self._call("cat_file", name, start=start, end=stop)

    def download(self, name: str, path: Path) -> None:
        """Write a file's content to a path of this machine; errors as for :meth:`read`."""
        self._call("get_file", name, str(path))

    def modified(self, name: str) -> float:
        """Return when a file was last written, in seconds since 1970; 0 if that is not known."""
        with suppress(NotImplementedError, SemlensError, OSError):
            return self._call("modified", name).timestamp()
        return 0.0

    def open(self, name: str, block: int) -> Any:
        """Open a file for reading from start to end, ``block`` bytes at a time, and seeking."""
        # from the store itself: what an earlier listing said of its size may no longer be true
        self.files.invalidate_cache()
        return self._call("open", name, "rb", block_size=block, cache_type="readahead")

    def failed(self, error: Exception) -> SemlensError:
        """Return the error for a store that cannot be reached, or does not answer."""
        return self.error(
            f"'{shortened(self.url)}' cannot be read "
            f"({type(error).__name__}: {reason_of(error, whole=True)}).",
            "Expected a folder that this machine can reach and may read.",
            "Check the URL, the network and the credentials, then run the same command again.",
        )

    def _call(self, method: str, name: str, *arguments: Any, **options: Any) -> Any:
        address = f"{self.url}/{quote(name) if self._is_http else name}"
        try:
            return getattr(self.files, method)(address, *arguments, **options)
        except (FileNotFoundError, PermissionError, NotImplementedError, SemlensError):
            raise
        except Exception as error:  # each package has its own errors
            raise self.failed(error) from error

    @property
    def _is_http(self) -> bool:
        return self.url.startswith("http")
