"""The subject: a module, the preprocessing that travels with it, and who it is."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from semlens.errors import ModelError
from semlens.models.activations import KnownLayout
from semlens.models.channel_order import find_layouts
from semlens.models.geometry import Geometry, Preprocess, measure_geometry
from semlens.recipe import fingerprint
from semlens.types import Layout


@dataclass(frozen=True, eq=False)
class SubjectModel:
    """A model to be studied.

    Parameters
    ----------
    module
        The network. It is never changed: modes and hooks are put back after every use.
    preprocess
        From an upright RGB image of any size to a float tensor [3 h w]; must be
        deterministic.
    version
        What identifies the preprocessing (its printed form, a file's hash, ...). A
        function cannot be hashed, so this has no default.
    spec
        How to load the model again; ``python:...`` when it came from Python.
    classes
        Class names in logit order, when known.
    synsets
        WordNet ids in logit order, when known.
    layout
        Order of the axes of maps, for layers of which it cannot be found out.

    Raises
    ------
    ModelError
        If the preprocessing is random, or returns something else than such a tensor.
    """

    module: nn.Module
    preprocess: Preprocess
    version: str
    spec: str = "python:model"
    classes: Sequence[str] | None = None
    synsets: Sequence[str] | None = None
    layout: Layout = "auto"
    _layouts: dict[str, KnownLayout] = field(
        default_factory=dict[str, KnownLayout], init=False, repr=False
    )

    def __post_init__(self) -> None:
        """Take wrappers off the module, and check the preprocessing's contract on noise."""
        object.__setattr__(self, "module", _unwrapped(self.module))
        noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
        picture, before = Image.fromarray(noise), _generators()
        try:
            results: list[Any] = [self.preprocess(picture), self.preprocess(picture)]
        except Exception as error:  # the user's function may raise anything
            raise ModelError(
                f"The preprocessing fails on an RGB image of 131 x 97 pixels ({error!r}).",
                "Expected a function from an upright PIL image to a float tensor [3 h w].",
                "Try it on Image.new('RGB', (131, 97)) and mend it.",
            ) from error
        first = results[0]
        if not (isinstance(first, Tensor) and first.ndim == 3 and first.is_floating_point()):
            met = list(first.shape) if isinstance(first, Tensor) else type(first).__name__
            raise ModelError(
                f"The preprocessing returns {met}.",
                "Expected a float tensor [3 h w] for one upright PIL image.",
                "Add ToTensor (or torchvision.transforms.functional.to_tensor) at its end.",
            )
        drawn = _generators() != before  # then two equal results may be luck
        results += [self.preprocess(picture) for _ in range(30 if drawn else 0)]
        if not all(torch.equal(first, other) for other in results):
            raise ModelError(
                "The preprocessing gives two results for one image.",
                "Expected a deterministic function.",
                "Use the evaluation transform, without random crops or flips.",
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights, architecture and preprocessing."""
        return fingerprint(weights_digest(self.module), str(self.module), self.version)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def batch(self, inputs: Sequence[Tensor]) -> Tensor:
        """Stack preprocessed samples to [b 3 h w], with the model's device and precision.

        Raises
        ------
        ModelError
            If their shapes differ.
        """
        shapes = {tuple(x.shape) for x in inputs}
        if len(shapes) > 1:
            raise ModelError(
                f"The preprocessing returns tensors of shapes {sorted(shapes)}.",
                "Expected one shape for all images.",
                "Add a resize and a crop to a fixed size.",
            )
        kinds = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return torch.stack(list(inputs)).to(self.device, next(kinds, inputs[0].dtype))

    @property
    def example(self) -> Tensor:
        """Eight pictures of smooth random colours as the model takes them, always the same."""
        colours = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
        pictures = (Image.fromarray(each).resize((256, 256)) for each in colours)
        return self.batch([self.preprocess(picture) for picture in pictures])

    def layouts(self, names: Sequence[str]) -> Mapping[str, KnownLayout]:
        """Return in which order layers' axes stand, as :func:`find_layouts` has found once."""
        new = [name for name in names if name not in self._layouts]
        if new:
            self._layouts.update(find_layouts(self.module, self.example[:1], new, self.layout))
        return self._layouts

    def geometry(self) -> Callable[[int, int], Geometry]:
        """Return a cached measure of the preprocessing's geometry by image width and height."""
        return lru_cache(maxsize=4096)(partial(measure_geometry, self.preprocess))


def _unwrapped(module: nn.Module) -> nn.Module:
    """Take off torch.compile and data parallelism, whose layers have other names and no hooks."""
    while True:
        if isinstance(module, torch.jit.ScriptModule):
            raise ModelError(
                f"The module is TorchScript ({type(module).__name__}).",
                "Expected a plain module, whose layers can be read while it runs.",
                "Give the module that it was scripted or traced from.",
            )
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def _generators() -> tuple[bytes, int, int]:
    """Return the state of the global random generators, to see whether one was drawn from."""
    _, key, place, *_ = cast("tuple[str, np.ndarray, int]", np.random.get_state(legacy=True))
    return (
        torch.get_rng_state().numpy().tobytes(),
        hash((bytes(key), place)),
        hash(random.getstate()),
    )


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a module's state."""
    digest = hashlib.sha256()
    state = {name: v for name, v in module.state_dict().items() if isinstance(v, Tensor)}
    for name, value in sorted(state.items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
