"""Hashing the images of a build, in shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from semlens.data.verified_images import content_digests
from semlens.recipe import FORMAT, fingerprint
from semlens.run.executors.executor import Advance, Inputs, Workers
from semlens.run.plan import Plan
from semlens.run.shards import Stage

_BYTES = 32
"""Bytes of a SHA-256."""


@dataclass(frozen=True)
class HashTask:
    """Hashes a range of images."""

    samples: range

    def __call__(self, inputs: Inputs, advance: Mapping[str, Advance]) -> Mapping[str, Tensor]:
        """Return ``digest`` uint8[n 32], and ``known`` bool[n]: false for unreadable images."""
        digests: list[str] = []
        for digest in content_digests(inputs.images, inputs.threads, self.samples):
            digests.append(digest)
            advance["hash"](1)
        known = torch.tensor([bool(digest) for digest in digests], dtype=torch.bool)
        filled = bytearray(b"".join(bytes.fromhex(d) if d else bytes(_BYTES) for d in digests))
        return {
            "digest": torch.frombuffer(filled, dtype=torch.uint8).reshape(-1, _BYTES),
            "known": known,
        }


def hash_stage(plan: Plan) -> Stage:
    """Return the stage that hashes the images.

    Its shards are valid only as long as the images do not change.
    """
    images = plan.images
    key = fingerprint(FORMAT, "hash", images.spec, list(images.ids))
    return Stage(("hash",), key, len(images), 1, HashTask)


def hash_images(plan: Plan, workers: Workers) -> list[str]:
    """Return the digest of each image, without saving shards."""
    stage = hash_stage(plan)
    ranges = plan.execution.cut(range(stage.total), stage.total, 1, None, workers.count)
    shards = dict(stage.compute(ranges, workers))
    return digests_from(shards[samples] for samples in sorted(shards, key=lambda s: s.start))


def digests_from(shards: Iterable[Mapping[str, Tensor]]) -> list[str]:
    """Return the digests from the shards, in the order of the samples."""
    return [
        row.tobytes().hex() if known else ""
        for shard in shards
        for row, known in zip(shard["digest"].numpy(), shard["known"].tolist(), strict=True)
    ]
