"""The hub's client, repository names, and its errors in the words of semlens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from semlens.errors import SemlensError, StoreError, reason_of, shortened

_NAME = re.compile(r"(?:hf://)?(?:datasets/)?([\w.-]+/[\w.-]+)(?:@([^\s@]+))?")
LOG_IN = "Run 'hf auth login', or set HF_TOKEN to a token that may write there."


class Repository(NamedTuple):
    """A data set repository of the hub, and a branch, tag or commit of it."""

    name: str
    """``USER/NAME``."""
    revision: str | None

    @classmethod
    def parse(cls, text: str) -> Repository:
        """Read ``USER/NAME``, ``USER/NAME@REVISION`` or ``hf://datasets/USER/NAME@REVISION``.

        Raises
        ------
        StoreError
            If the text is none of these.
        """
        match = _NAME.fullmatch(text)
        if match is None or ".." in match[1] or "--" in match[1]:
            raise StoreError(
                f"'{shortened(text)}' is not a repository of the hub.",
                "Expected USER/NAME, such as 'ada/resnet50-concepts'.",
                "Use letters, digits, '-', '_' and '.'.",
            )
        return cls(match[1], match[2])

    @property
    def url(self) -> str:
        """The URL that :func:`semlens.open` takes."""
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://datasets/{self.name}{revision}"


@contextmanager
def hub_errors(repository: Repository) -> Iterator[None]:
    """Raise the errors of the hub's client as :class:`StoreError`."""
    try:
        yield
    except SemlensError:
        raise
    except (RepositoryNotFoundError, RevisionNotFoundError, LocalTokenNotFoundError) as error:
        raise _not_allowed(repository, error) from error
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise _not_allowed(repository, error) from error
        expected = "Expected the hub to accept the files and the card."
        remedy = "Wait a while, then run the same command again: what was uploaded is kept."
        if isinstance(error, BadRequestError):
            remedy = "Check the name of the licence and of the branch, then run it again."
        raise StoreError(
            f"The hub refused '{repository.name}' ({reason_of(error)}).",
            expected,
            remedy,
        ) from error
    except Exception as error:  # those of whatever transport the client uses
        raise StoreError(
            f"The hub cannot be reached ({reason_of(error)}).",
            "Expected a connection to it, or to the server that HF_ENDPOINT names.",
            "Check the network and HF_HUB_OFFLINE, then run the same command again.",
        ) from error


def _not_allowed(repository: Repository, error: Exception) -> StoreError:
    return StoreError(
        f"'{repository.url}' does not exist, or you may not write there ({reason_of(error)}).",
        "Expected a repository of yours, or of an organisation that you may write to.",
        LOG_IN,
    )
