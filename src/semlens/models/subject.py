"""The subject model: a module with its preprocessing and identity, and batches of its inputs."""

from __future__ import annotations

import hashlib
import random
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from semlens.data.prefetch import prefetch
from semlens.dictionaries.dictionary import Dictionary
from semlens.errors import ImageError, ModelError
from semlens.models.activations import Axes, first_tensor
from semlens.models.answer import Answer, Task, check_task, find_answer
from semlens.models.array_input import ArrayInput, taking_maps
from semlens.models.axes import find_axes
from semlens.models.hooks import call_model, evaluating, unwrapped
from semlens.models.output_tensor import Output, check_output, output_name
from semlens.models.preprocess_geometry import Geometry, Preprocess, measure_geometry
from semlens.models.with_dictionaries import bare_module, dictionaries_of, with_dictionaries
from semlens.recipe import fingerprint
from semlens.types import Layout


@dataclass(frozen=True, eq=False)
class SubjectModel:
    """A model to be analysed.

    Parameters
    ----------
    module
        The network. It is never changed: modes and hooks are restored after every use.
    preprocess
        From an upright RGB image of any size to a float tensor [3 h w]; must be
        deterministic. For a model of signals, volumes or other channels an
        :class:`semlens.ArrayInput`.
    version
        A text that identifies the preprocessing, such as its ``repr`` or a file's hash. By default
        it is measured: the SHA-256 of what the preprocessing makes of two images of noise.
    spec
        SPEC from which the model can be loaded again; ``python:...`` for a Python object.
    classes
        Class names in logit order, if known.
    synsets
        WordNet ids in logit order, if known.
    layout
        Order of the axes of maps, for layers where it cannot be detected.
    output
        Which tensor of the module's output answers: a key, an index, or a function of the output;
        by default it is found by name and by the number of class names.
    task
        What its values are: ``multiclass``, ``binary``, ``multilabel``, ``regression`` or
        ``embedding``; by default it is measured, see :attr:`answer`.

    Raises
    ------
    ModelError
        If the preprocessing is random, or does not return such a tensor.
    """

    module: nn.Module
    preprocess: Preprocess
    version: str = ""
    spec: str = "python:model"
    classes: Sequence[str] | None = None
    synsets: Sequence[str] | None = None
    layout: Layout = "auto"
    output: Output | None = None
    task: Task = "auto"
    _axes: dict[str, Axes] = field(default_factory=dict[str, Axes], init=False, repr=False)
    _geometries: dict[tuple[int, int], Geometry] = field(
        default_factory=dict[tuple[int, int], Geometry], init=False, repr=False
    )

    def __post_init__(self) -> None:
        """Unwrap the module, and test the preprocessing on noise."""
        object.__setattr__(self, "module", unwrapped(self.module))
        _check_names("classes", self.classes)
        _check_names("synsets", self.synsets)
        if self.output is not None:
            check_output(self.output)
        check_task(self.task)
        self._take_maps()
        noise = np.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=np.uint8)
        image, state_before = self._arrays(1, 64) or [Image.fromarray(noise)], _random_states()
        image = image[0]
        results: list[Any] = [self._preprocessed(image), self._preprocessed(image)]
        first = results[0]
        if not (isinstance(first, Tensor) and first.ndim == 3 and first.is_floating_point()):
            received = list(first.shape) if isinstance(first, Tensor) else type(first).__name__
            raise ModelError(
                f"The preprocessing returns {received}.",
                "Expected a float tensor [3 h w] for one upright PIL image.",
                "Add ToTensor (or torchvision.transforms.functional.to_tensor) at its end.",
            )
        drew_random = (
            _random_states() != state_before
        )  # then two equal results may be a coincidence
        results += [self._preprocessed(image) for _ in range(30 if drew_random else 0)]
        if not all(torch.equal(first, other) for other in results):
            raise ModelError(
                "The preprocessing returns different results for the same image.",
                "Expected a deterministic function.",
                "Use the evaluation transform, without random crops or flips.",
            )
        if not self.version:
            resized = image.resize((800, 600), Image.Resampling.NEAREST)
            other = self._preprocessed((self._arrays(1, 8) or [resized])[0])
            object.__setattr__(self, "version", f"measured:{_digest(first, other)}")

    def _take_maps(self) -> None:
        """Let a model of signals or volumes take maps, unless it does."""
        given = self.preprocess
        if isinstance(given, ArrayInput) and given.axes != 2 and not self.dictionaries:
            slices = given.slices if given.axes == 3 else None
            object.__setattr__(self, "module", taking_maps(self.module, slices))

    def _arrays(self, count: int, cells: int) -> Sequence[Image.Image]:
        """Return random arrays, if the model takes arrays."""
        given = self.preprocess
        return given.random_pictures(count, cells) if isinstance(given, ArrayInput) else []

    @property
    def slices(self) -> int:
        """Slices that the maps of inputs are made of, one below the other; 1 but for volumes."""
        return self.preprocess.slices if isinstance(self.preprocess, ArrayInput) else 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of weights, architecture, preprocessing and chosen output; no dictionaries."""
        module = bare_module(self.module)
        chosen = output_name(self.output), self.task
        more = [] if chosen == ("", "auto") else [chosen]
        return fingerprint(weights_digest(module), str(module), self.version, *more)

    @cached_property
    def _answer(self) -> Answer | ModelError:
        try:
            return find_answer(
                self.module, self.example, output=self.output, task=self.task, classes=self.classes
            )
        except ModelError as error:
            return error

    @property
    def answer(self) -> Answer:
        """Which tensor of the module's output answers, and what its values are; measured once.

        Raises
        ------
        ModelError
            If the model returns no row of values per image, or several tensors fit.
        """
        if isinstance(self._answer, ModelError):
            raise self._answer
        return self._answer

    @property
    def answer_error(self) -> ModelError | None:
        """Why the model has no :attr:`answer`; None if it has one."""
        return self._answer if isinstance(self._answer, ModelError) else None

    @property
    def class_names(self) -> Sequence[str] | None:
        """A name for each class; of one logit, also for the opposite of its class."""
        return self.classes if self.answer_error else self.answer.class_names(self.classes)

    @property
    def dictionaries(self) -> Mapping[str, Dictionary]:
        """The dictionaries that read layers of the model, by name."""
        return dictionaries_of(self.module)

    def with_dictionaries(self, dictionaries: Iterable[Dictionary]) -> SubjectModel:
        """Return the model with dictionaries in place of those it may have."""
        parts = list(dictionaries)
        if not parts and not self.dictionaries:
            return self
        return replace(self, module=with_dictionaries(self.module, parts))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        first = next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    def prepare(self, image: Image.Image) -> Float[Tensor, "channels h w"]:
        """Preprocess an upright RGB image.

        Raises
        ------
        ModelError
            If the preprocessing raises an error, or ends the program.
        """
        return self._preprocessed(image)

    def _preprocessed(self, image: Image.Image) -> Any:
        try:
            return self.preprocess(image)
        except ModelError:
            raise
        except (Exception, SystemExit) as error:  # the user's function may raise anything
            raise ModelError(
                f"The preprocessing fails on an RGB image of {image.width} x {image.height} "
                f"pixels ({error!r}).",
                "Expected a function from an upright PIL image to a float tensor [3 h w].",
                f"Try it on Image.new('RGB', ({image.width}, {image.height})) and fix the error.",
            ) from error

    def batch(self, inputs: Sequence[Tensor]) -> Tensor:
        """Stack preprocessed samples to [b 3 h w], in the device and precision of the model.

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
        dtypes = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return torch.stack(list(inputs)).to(self.device, next(dtypes, inputs[0].dtype))

    @property
    def example(self) -> Tensor:
        """Eight preprocessed images of smooth random colours, always the same."""
        return self.batch(self._example_inputs)

    @cached_property
    def _example_inputs(self) -> list[Tensor]:
        colours = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
        pictures = self._arrays(8, 8) or [Image.fromarray(g).resize((256, 256)) for g in colours]
        return [self.prepare(picture) for picture in pictures]

    @cached_property
    def takes_channels_last(self) -> bool:
        """Whether the module accepts images whose channels are last in memory, with equal results.

        Convolutions are faster then. A module that reshapes maps with ``view`` fails.
        """
        image = self.example[:1]
        try:
            with evaluating(self.module), torch.inference_mode():
                plain, last = (
                    first_tensor(call_model(self.module, batch))
                    for batch in (image, image.contiguous(memory_format=torch.channels_last))
                )
        except ModelError:
            return False
        if plain is None or last is None or plain.shape != last.shape:
            return False
        tolerance = 1e-3 * float(plain.abs().max())
        return bool(((plain - last).abs() <= tolerance).all())

    def axes(self, names: Sequence[str]) -> Mapping[str, Axes]:
        """Return the cached order of some layers' axes; see :func:`find_axes`."""
        missing = [name for name in names if name not in self._axes]
        if missing:
            self._axes.update(find_axes(self.module, self.example[:1], missing, self.layout))
        return self._axes

    def geometry(self) -> Callable[[int, int], Geometry]:
        """Return a function from image width and height to the preprocessing's geometry.

        The geometry of a size is measured once.
        """
        return self._geometry

    def _geometry(self, width: int, height: int) -> Geometry:
        known = self._geometries.get((width, height))
        if known is None:
            given = self.preprocess
            known = self._geometries[width, height] = (
                given.geometry(width, height)
                if isinstance(given, ArrayInput)
                else measure_geometry(given, width, height)
            )
        return known


def _check_names(name: str, values: Any) -> None:
    is_list = isinstance(values, Sequence) and not isinstance(values, str)
    if values is not None and not (is_list and all(isinstance(value, str) for value in values)):
        raise ModelError(
            f"The model's {name} are {reprlib.repr(values)}.",
            "Expected a list of texts in logit order, or None.",
            "Convert them with [str(name) for name in names].",
        )


def _random_states() -> tuple[bytes, int, int]:
    """Return the states of the global random generators, to detect whether one was used."""
    _, key, position, *_ = cast("tuple[str, np.ndarray, int]", np.random.get_state(legacy=True))
    return (
        torch.get_rng_state().numpy().tobytes(),
        hash((bytes(key), position)),
        hash(random.getstate()),
    )


def _digest(*tensors: Tensor) -> str:
    """SHA-256 over the types, shapes and bytes of tensors."""
    return weights_digest(nn.ParameterDict({str(i): x for i, x in enumerate(tensors)}))


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of a module's state."""
    digest = hashlib.sha256()
    state = {name: v for name, v in module.state_dict().items() if isinstance(v, Tensor)}
    for name, value in sorted(state.items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}\n".encode())
        # a contiguous tensor of one value may have any stride, also 0
        flat = tensor.as_strided((tensor.numel(),), (1,))
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def input_pictures(model: SubjectModel, inputs: Float[Tensor, "b c h w"]) -> list[Image.Image]:
    """Return inputs as pictures, at the size that the model sees; grey unless they have 3 channels.

    The values that the preprocessing gives to black and to white tell how to scale each colour. If
    they are equal, since every image is normalised by itself, its own extremes are used.
    """
    given = model.preprocess
    extremes = (
        [given.of_values(torch.full(given.shape, level)) for level in given.value_range]
        if isinstance(given, ArrayInput)
        else [given(Image.new("RGB", (64, 64), colour)) for colour in ("black", "white")]
    )
    black, white = (extreme.flatten(1).median(1).values.double() for extreme in extremes)
    values = inputs.detach().cpu().double()
    flat = values.flatten(2)
    usable = (white - black).abs() > 1e-6
    low = torch.where(usable, black, flat.amin(2))[..., None, None]
    high = torch.where(usable, white, flat.amax(2))[..., None, None]
    scaled = ((values - low) / (high - low).where(high != low, torch.ones_like(high))).clamp(0, 1)
    if scaled.shape[1] != 3:
        scaled = scaled.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    pixels = (255 * scaled).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return [Image.fromarray(one) for one in pixels]


@dataclass(frozen=True)
class PreparedSample:
    """A preprocessed sample, or the reason why it cannot be read."""

    sample: int
    inputs: Tensor | None
    size: tuple[int, int] = (0, 0)
    """Width and height of the original."""
    reason: str = ""


def prepared_batches(
    model: SubjectModel,
    read: Callable[[int], Image.Image],
    samples: Iterable[int],
    batch_size: int,
    workers: int,
) -> Iterator[list[PreparedSample]]:
    """Yield preprocessed samples in order, ``batch_size`` at a time."""

    def prepare(sample: int) -> PreparedSample:
        try:
            image = read(sample)
            return PreparedSample(sample, model.prepare(image), image.size)
        except ImageError as error:
            return PreparedSample(sample, None, reason=str(error))

    stream = prefetch(prepare, samples, workers, ahead=2 * batch_size)
    while batch := list(islice(stream, batch_size)):
        yield batch


def batch_inputs(model: SubjectModel, batch: Iterable[PreparedSample]) -> Tensor:
    """Stack the readable samples to one batch on the model's device, in its fastest format."""
    inputs = model.batch([item.inputs for item in batch if item.inputs is not None])
    if not model.takes_channels_last:
        return inputs
    return inputs.contiguous(memory_format=torch.channels_last)
