"""The preprocessing of a module, where the module itself says it or its weights tell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semlens.errors import ModelError, reason_of
from semlens.models.checkpoint import read_state
from semlens.models.hooks import call_model, evaluating
from semlens.models.model_libraries import (
    image_processor,
    timm_subject,
    torchvision_subject,
    transformers_subject,
)
from semlens.models.subject import SubjectModel
from semlens.regular_files import is_file


def subject_of(module: nn.Module) -> SubjectModel:
    """Return a module as a subject model, with the preprocessing that is known of it.

    A model of timm has its configuration, one of transformers that was loaded from a folder or a
    repository has the image processor there. A model of torchvision does not say which weights it
    has: they are compared with the published ones that are in PyTorch's cache on this machine.

    Raises
    ------
    ModelError
        If the preprocessing is not known.
    """
    spec, hint = f"python:{type(module).__name__}", "torchvision.transforms.v2.Compose([...])"
    reason = "does not say how an image becomes its input"
    try:
        if isinstance(getattr(module, "pretrained_cfg", None), dict):
            subject = timm_subject(module, spec, trained=False)
            _check_input(subject)
            return subject
        if _is_of(module, "transformers") and (name := getattr(module, "name_or_path", "")):
            return transformers_subject(module, *image_processor(str(name), spec), spec)
        if tags := [*_torchvision_weights(module)]:
            count = sum(parameter.numel() for parameter in module.parameters())
            for tag in (tag for tag in tags if tag.meta["num_params"] == count):
                if _has_weights(module, tag):
                    return torchvision_subject(module, tag, spec, list(tag.meta["categories"]))
            nearest = min(tags, key=lambda tag: abs(tag.meta["num_params"] - count))
            hint = f"torchvision.models.{nearest}.transforms()"
            reason += ", and its weights are none of the published ones on this machine"
    except ModelError as error:
        reason = f"does not go with the preprocessing that it names ({reason_of(error)})"
    raise ModelError(
        f"The model, a {type(module).__name__}, {reason}.",
        "Expected with it the resize to its input size and the normalisation of its training, as a "
        "function from an upright PIL image to a float tensor [3 h w].",
        f"Pass both as (module, preprocess), with a preprocess such as {hint}, or a SubjectModel.",
    )


def _is_of(module: nn.Module, package: str) -> bool:
    return any(kind.__module__.startswith(f"{package}.") for kind in type(module).__mro__)


def _check_input(subject: SubjectModel) -> None:
    """Run a model on an input of its own preprocessing: it may have been made for another size."""
    with evaluating(subject.module), torch.inference_mode():
        call_model(subject.module, subject.example[:1])


def _torchvision_weights(module: nn.Module) -> Iterator[Any]:
    """Yield the published weights of models in the file of torchvision that a class is from."""
    if not type(module).__module__.startswith("torchvision.models."):
        return
    from torchvision.models import WeightsEnum

    for name, found in vars(sys.modules[type(module).__module__]).items():
        if isinstance(found, type) and issubclass(found, WeightsEnum) and name.endswith("_Weights"):
            yield from found


def _has_weights(module: nn.Module, tag: Any) -> bool:
    """Whether a module has the weights of a file that PyTorch has downloaded to this machine."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / tag.url.rsplit("/", 1)[-1]
    if not is_file(file):
        return False
    state = module.state_dict()
    saved = read_state(file)
    return saved.keys() <= state.keys() and all(
        torch.equal(value, state[name].cpu()) for name, value in saved.items()
    )
