"""A data set with artefacts inserted into all or some of its images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from semlens.data.artefact import Artefact, Artefacts, as_artefacts
from semlens.data.images import Images
from semlens.data.pixels import pixels_digest
from semlens.errors import DataError


class WithArtefact(Images):
    """Images with an artefact on them; ids and classes stay those of the images.

    Parameters
    ----------
    images
        The clean ones.
    artefacts
        One, or several, of which one is drawn for each image; objects, or their texts.
    share
        How many of the images get one; which ones, the seed says.
    seed
        Also of each artefact's place.

    Raises
    ------
    DataError
        If there is no artefact, or the share or seed is none.
    """

    def __init__(
        self,
        images: Images,
        artefacts: Artefacts,
        *,
        share: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.images = images
        self.artefacts = tuple(as_artefacts(artefacts))
        if not self.artefacts or not 0 <= share <= 1:
            raise DataError(
                f"{len(self.artefacts)} artefacts for a share of {share} of the images.",
                "Expected at least one, and a share from 0 to 1.",
                "Give both.",
            )
        if seed < 0:
            raise DataError(f"The seed is {seed}.", "Expected 0 or more.", "Give another one.")
        self.seed = seed
        self.ids = images.ids
        self.targets = images.targets
        count = round(share * len(images))
        order = np.random.default_rng(seed).permutation(len(images))
        self.changed: frozenset[int] = frozenset(order[:count].tolist())
        """The samples that carry an artefact."""
        named = ", ".join(artefact.spec for artefact in self.artefacts)
        part = "" if count == len(images) else f" on {count} of {len(images)}"
        self.spec = f"python:{images.spec} with {named}{part} (seed {seed})"

    def read(self, sample: int) -> Image.Image:
        """Return the image, with its artefact if it is one of those that carry one."""
        image = self.images.read(sample)
        return (
            insert_drawn(image, self.artefacts, self.seed, sample) if self._has(sample) else image
        )

    def digest(self, sample: int) -> str:
        """Return the SHA-256 of the changed pixels, or of what was not changed."""
        return pixels_digest(self.read(sample)) if self._has(sample) else self.images.digest(sample)

    def _has(self, sample: int) -> bool:
        return sample in self.changed


def insert_drawn(
    image: Image.Image, artefacts: Sequence[Artefact], seed: int, sample: int
) -> Image.Image:
    """Insert one of several artefacts; which one and where, seed and sample number say."""
    which = np.random.SeedSequence((seed, sample, 1)).generate_state(1)[0]
    return artefacts[int(which) % len(artefacts)].insert(image, artefact_seed(seed, sample))


def artefact_seed(seed: int, sample: int) -> int:
    """Return the seed of an artefact's place in one image."""
    return int(np.random.SeedSequence((seed, sample)).generate_state(1)[0])
