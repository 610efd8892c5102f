"""Several data sets as one, one after another."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from PIL import Image

from semlens.data.class_mapping import UNLABELLED
from semlens.data.images import Images
from semlens.errors import DataError
from semlens.regular_files import is_folder, user_path

_PREFIX = "joined:"


class JoinedImages(Images):
    """The samples of several sources, one source after another.

    The ids of the first source stay as they are; those of source k = 1, 2, ... get the prefix
    ``+k/``. If only some sources have classes, the samples of the others have the class
    :data:`semlens.data.class_mapping.UNLABELLED`.

    Parameters
    ----------
    sources
        Two or more; a source that is joined itself counts as its own sources.

    Raises
    ------
    DataError
        If ids of the first source look like those of another one.
    """

    def __init__(self, sources: Sequence[Images]) -> None:
        self.sources: tuple[Images, ...] = tuple(
            part
            for source in sources
            for part in (source.sources if isinstance(source, JoinedImages) else (source,))
        )
        self.spec = joined_spec([source.spec for source in self.sources])
        self._starts = [0, *accumulate(len(source) for source in self.sources)]
        self.ids = [
            joined_id(number, name)
            for number, source in enumerate(self.sources)
            for name in source.ids
        ]
        for name in self.sources[0].ids:
            if split_id(name, len(self.sources))[0]:
                raise DataError(
                    f"'{name}' of '{self.sources[0].spec}' has the name of an image of another "
                    "source.",
                    f"Names that start with +1/ to +{len(self.sources) - 1}/ are given to the "
                    "images of the other sources.",
                    "Rename the folder.",
                )
        self.targets = _join_targets(self.sources)
        self.parallel_reads = max(source.parallel_reads for source in self.sources)

    def samples_of(self, source: int) -> range:
        """Return the samples of a source, by its number from 0."""
        return range(self._starts[source], self._starts[source + 1])

    def content(self, sample: int) -> bytes | Image.Image:
        """Return the content of a sample, from its source."""
        source = bisect_right(self._starts, sample) - 1
        return self.sources[source].content(sample - self._starts[source])


def _join_targets(sources: Sequence[Images]) -> list[str] | None:
    if all(source.targets is None for source in sources):
        return None
    return [
        name
        for source in sources
        for name in ([UNLABELLED] * len(source) if source.targets is None else source.targets)
    ]


def joined_id(source: int, name: str) -> str:
    """Return the id of a sample from the number of its source and its id there."""
    return f"+{source}/{name}" if source else name


def split_id(name: str, sources: int) -> tuple[int, str]:
    """Return the number of the source and the id there, from an id of joined data.

    Parameters
    ----------
    sources
        Number of sources.
    """
    match = re.match(r"\+([1-9]\d*)/", name)
    if match is None or int(match[1]) >= sources:
        return 0, name
    return int(match[1]), name[match.end() :]


def joined_spec(specs: Sequence[str]) -> str:
    """Return the SPEC of joined data: ``joined:`` and a JSON list of the SPECs of its sources."""
    return _PREFIX + json.dumps(list(specs), ensure_ascii=False)


def split_spec(spec: str) -> list[str] | None:
    """Return the SPECs of the sources of joined data, or None for another SPEC.

    Raises
    ------
    DataError
        If it starts like joined data, and is not.
    """
    if not spec.startswith(_PREFIX) or is_folder(user_path(spec)):
        return None
    try:
        specs = json.loads(spec.removeprefix(_PREFIX))
    except ValueError:
        specs = None
    specs = specs if isinstance(specs, list) else []
    if len(specs) < 2 or not all(isinstance(s, str) and not s.startswith(_PREFIX) for s in specs):
        raise DataError(
            f"The data '{spec}' cannot be read.",
            'Expected a JSON list of two or more texts, such as joined:["photos/", "more/"].',
            "Correct it, or name each source with an option of its own.",
        )
    return specs
