"""Subject models from torchvision, timm and transformers, with the preprocessing of each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from semlens.errors import ModelError, nearest, reason_of, shortened
from semlens.models.checkpoint import check_missing_weights, classes_in, load_state, read_state
from semlens.models.preprocess_geometry import LARGEST_SIDE, Preprocess
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint
from semlens.regular_files import is_file, is_folder, user_path

ONE_STAGE = ("SSD", "RetinaNet", "FCOS")
"""Detectors of torchvision that :func:`~semlens.models.detectors.before_suppression` takes."""


def imagenet_synsets() -> list[str]:
    """WordNet ids of ImageNet-1k in logit order."""
    from timm.data.imagenet_info import ImageNetInfo

    return ImageNetInfo("imagenet-1k").label_names()


def imagenet_classes() -> list[str]:
    """Class names of ImageNet-1k in logit order (first lemma each)."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return [info.index_to_description(i).split(",")[0] for i in range(info.num_classes())]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from a seed, and restore the previous random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


NO_CODE = {"trust_remote_code": False}
"""For every ``from_pretrained``: by default transformers asks on a terminal whether to run code."""


def brings_code(error: Exception) -> bool:
    """Whether a checkpoint was refused because it wants to run Python code of its own."""
    return "trust_remote_code" in str(error)


def _hub_error(spec: str, error: Exception) -> ModelError:
    if brings_code(error):
        return ModelError(
            f"'{spec}' comes with Python code of its own.",
            "Expected an architecture that transformers has: code of a checkpoint is never run.",
            "If you have read and trust the code, load the model in a Python file of yours with "
            "trust_remote_code=True, and name that: FILE.py:FUNCTION.",
        )
    return ModelError(
        f"'{spec}' cannot be downloaded ({reason_of(error)}).",
        "Expected a reachable hub, or weights on this machine.",
        "Use a local checkpoint instead: the same SPEC with :PATH, or a folder.",
    )


def untrained(name: str, **options: Any) -> nn.Module:
    """Return an untrained model of torchvision; backbones of detectors are not downloaded."""
    from torchvision import models

    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    return models.get_model(name, weights=None, **options)


def torchvision_model(spec: str, name: str, weights: str | None, seed: int | None) -> SubjectModel:
    """Load ``torchvision/NAME:WEIGHTS``; WEIGHTS is a tag such as IMAGENET1K_V1, or a path."""
    from torchvision import models

    if name not in models.list_models():
        raise ModelError(
            f"'{name}' is not a torchvision model.",
            f"The nearest are {nearest(name, models.list_models())}.",
            "See torchvision.models.list_models().",
        )
    tags = list(models.get_model_weights(name))
    by_name = {tag.name: tag for tag in tags}
    default: Any = getattr(models.get_model_weights(name), "DEFAULT", None)
    if weights is None and seed is None:
        raise ModelError(
            f"'{spec}' does not name weights.",
            f"Expected torchvision/{name}:WEIGHTS, with {', '.join(by_name)} or a checkpoint.",
            "Add them, or request an untrained model with random_weights=SEED (--random-weights).",
        )
    if weights is None:
        with seeded(seed or 0):
            module = untrained(name)
        return torchvision_subject(module, default, spec, None)
    if weights in by_name or weights == "DEFAULT":
        tag: Any = default if weights == "DEFAULT" else by_name[weights]
        try:
            module = models.get_model(name, weights=tag)
        except (OSError, RuntimeError, HTTPException) as error:  # URLError is an OSError
            raise _hub_error(spec, error) from error
        return torchvision_subject(module, tag, spec, list(tag.meta["categories"]))
    path = user_path(weights)
    if not is_file(path):
        raise ModelError(
            f"Weights '{weights}' of {name} are neither a tag nor a file.",
            f"The tags are {', '.join(by_name) or 'none'}.",
            "Use one of them, or the path of a checkpoint.",
        )
    state = read_state(path)
    matching_tag = next((t for t in tags if t.url.rsplit("/", 1)[-1] == path.name), None)
    with seeded(0):
        module = untrained(name)
        if logits := classes_in(state, module):
            module = untrained(name, num_classes=logits)
    if matching_tag is not None and hasattr(module, "transform_input"):
        # torchvision sets this for the official Inception weights, which expect it
        setattr(module, "transform_input", True)  # noqa: B010
    load_state(module, state, path)
    spec = f"torchvision/{name}:{path.resolve()}"  # absolute, so that it is valid in any folder
    categories = list(matching_tag.meta["categories"]) if matching_tag is not None else None
    return torchvision_subject(module, matching_tag or default, spec, categories)


def torchvision_subject(
    module: nn.Module, tag: Any, spec: str, classes: Sequence[str] | None
) -> SubjectModel:
    """Return a model of torchvision with the preprocessing of published weights.

    A detector of one stage returns all boxes, before suppression.
    """
    if tag is None:
        raise ModelError(
            f"'{spec}' has no preprocessing.",
            "Expected a torchvision model with published weights, which define it.",
            "Write a FILE.py:CALLABLE that returns the model and its preprocessing.",
        )
    transform = tag.transforms()
    synsets = imagenet_synsets() if classes is not None and len(classes) == 1000 else None
    if type(module).__name__ in ONE_STAGE:
        from semlens.models.detectors import before_suppression

        module = before_suppression(module)
    return SubjectModel(module, transform, str(transform), spec, classes, synsets)


def timm_model(spec: str, name: str, weights: str | None, seed: int | None) -> SubjectModel:
    """Load ``timm/NAME[:WEIGHTS]``; NAME may carry timm's tag, WEIGHTS is a tag or a path."""
    import timm

    base = name.split(".")[0]
    if not timm.is_model(base):
        raise ModelError(
            f"'{base}' is not a timm model.",
            f"The nearest are {nearest(base, timm.list_models())}.",
            "See timm.list_models().",
        )
    path = user_path(weights) if weights else None
    is_local = path is not None and is_file(path)
    full_name = f"{base}.{weights}" if weights and not is_local else name
    tags = timm.list_pretrained(f"{base}.*")
    tag = full_name.partition(".")[2]
    if (tag and full_name not in tags) or (not tags and not is_local and seed is None):
        problem = f"Weights '{tag}' of {base} are neither a tag nor a file."
        raise ModelError(
            problem if tag else f"'{spec}' does not name weights.",
            f"The tags are {', '.join(t.partition('.')[2] for t in tags) or 'none'}.",
            "Use one of them, or the path of a checkpoint.",
        )
    if is_local and path is not None:
        state = read_state(path)
        with seeded(0):
            module = timm.create_model(name, pretrained=False)
            if (logits := classes_in(state, module)) is not None:
                module = timm.create_model(name, pretrained=False, num_classes=logits)
        load_state(module, state, path)
        spec = f"timm/{name}:{path.resolve()}"
        return timm_subject(module, spec, trained=tag.endswith("in1k"))
    if seed is not None:
        with seeded(seed):
            module = timm.create_model(name, pretrained=False)
        return timm_subject(module, spec, trained=False)
    try:
        module = timm.create_model(full_name, pretrained=True)
    except Exception as error:  # hub clients raise many kinds
        raise _hub_error(spec, error) from error
    return timm_subject(module, spec, trained=True)


def timm_subject(module: Any, spec: str, *, trained: bool) -> SubjectModel:
    """Return a model of timm with the preprocessing of its configuration."""
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    settings = resolve_model_data_config(module)
    transform: Any = create_transform(**settings, is_training=False)
    imagenet = trained and getattr(module, "num_classes", 0) == 1000
    return SubjectModel(
        module,
        transform,
        fingerprint("timm", settings),
        spec,
        imagenet_classes() if imagenet else None,
        imagenet_synsets() if imagenet else None,
    )


def _transformers(spec: str) -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModelError(
            f"'{spec}' needs the package '{error.name}'.",
            "It is not installed.",
            "Run: pip install 'semlens[hf]'",
        ) from error
    return transformers


def image_processor(name: str, spec: str) -> tuple[Preprocess, str]:
    """Return the preprocessing in a folder or repository of transformers, and its version.

    Raises
    ------
    ModelError
        If transformers is not installed, or there is no image processor.
    """
    transformers = _transformers(spec)
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, **NO_CODE)
    except Exception as error:  # hub clients raise many kinds
        raise _hub_error(spec, error) from error

    def preprocess(image: Image.Image) -> Tensor:
        return processor(images=image, return_tensors="pt")["pixel_values"][0].float()

    settings = json.loads(json.dumps(processor.to_dict(), default=str))
    for key in ("size", "crop_size", "pad_size"):
        size: Any = settings.get(key)
        sides = list(size.values()) if isinstance(size, dict) else np.ravel(size).tolist()
        if any(isinstance(side, int | float) and not 0 < side <= LARGEST_SIDE for side in sides):
            raise ModelError(
                f"The image processor of '{spec}' has {shortened(size)} as '{key}'.",
                f"Expected 1 to {LARGEST_SIDE} pixels.",
                "Correct its preprocessor_config.json.",
            )
    return preprocess, fingerprint(settings)


def class_names(labels: Mapping[int, str]) -> list[str] | None:
    """Return the names of logits in a configuration of transformers, unless they are numbers."""
    classes = [labels[i] for i in sorted(labels)]
    return None if all(label == f"LABEL_{i}" for i, label in enumerate(classes)) else classes


def transformers_model(spec: str, name: str, seed: int | None) -> SubjectModel:
    """Load ``transformers/ID-or-dir``: an image classifier, or a bare vision encoder."""
    transformers = _transformers(spec)
    if is_folder(folder := user_path(name)):
        name = str(folder.resolve())
        spec = f"transformers/{name}" + (f":random={seed}" if seed is not None else "")
    try:
        config = transformers.AutoConfig.from_pretrained(name, **NO_CODE)
        preprocess, version = image_processor(name, spec)
        classifies = any(
            "ForImageClassification" in architecture
            for architecture in getattr(config, "architectures", None) or []
        )
        auto = (
            transformers.AutoModelForImageClassification if classifies else transformers.AutoModel
        )
        with seeded(seed or 0):  # a pooler that the checkpoint lacks is always initialised equally
            if seed is None:
                module, report = auto.from_pretrained(name, output_loading_info=True, **NO_CODE)
                check_missing_weights(report["missing_keys"], spec, ModelError)
            else:
                module = auto.from_config(config, **NO_CODE)
    except ModelError:
        raise
    except Exception as error:  # hub clients and checkpoint readers raise many kinds
        raise _hub_error(spec, error) from error
    return transformers_subject(module, preprocess, version, spec)


def transformers_subject(
    module: Any, preprocess: Preprocess, version: str, spec: str
) -> SubjectModel:
    """Return a model of transformers, or the vision part of one such as CLIP, with its classes."""
    classifies = "ForImageClassification" in type(module).__name__
    classes = class_names(module.config.id2label or {}) if classifies else None
    module = getattr(module, "vision_model", module)
    return SubjectModel(module, preprocess, version, spec, classes)
