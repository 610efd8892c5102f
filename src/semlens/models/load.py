"""Loading a subject model from a SPEC."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from semlens.errors import ModelError
from semlens.models.answer import Task
from semlens.models.checkpoint import load_weights
from semlens.models.output_tensor import Output
from semlens.models.subject import SubjectModel
from semlens.plug_ins import MODELS, call_plug_in, find_plug_in, owner, version
from semlens.recipe import fingerprint
from semlens.regular_files import is_file, user_path

SPEC_FORMS = (
    "torchvision/NAME:WEIGHTS, timm/NAME[:WEIGHTS], transformers/ID-or-dir, "
    "onnx/FILE.onnx, FILE.py:CALLABLE or semlens/demo"
)
WEIGHTS = ":weights="
"""Separates a SPEC from a file with other weights."""
_ONNX_NEEDS = ("onnx", "onnx2torch", "onnxruntime")
USER_MODULE = "_semlens_user_"
"""Prefix of the names of modules that were made from the files of users."""


def load_model(
    spec: str,
    *,
    random_weights: int | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    run_files: bool = True,
    output: Output | None = None,
    task: Task = "auto",
) -> SubjectModel:
    """Load a subject model with its preprocessing.

    Parameters
    ----------
    spec
        ``torchvision/resnet50:IMAGENET1K_V2``, ``timm/vit_small_patch16_224:weights.safetensors``,
        ``transformers/facebook/dinov2-base``, ``onnx/model.onnx``, ``my_model.py:make``,
        ``semlens/demo``, or ``NAME/REST`` of an installed package with the entry point NAME in the
        group ``semlens.models``.
    random_weights
        Seed of random weights, for an untrained model.
    weights
        File with other weights for the same architecture, as written by
        ``semlens correct prune`` and ``semlens correct retrain``. The model's SPEC
        then ends in ``:weights=FILE``.
    device
        Device for the model.
    run_files
        Whether a ``FILE.py:CALLABLE`` may be executed. False if the SPEC was read from a
        database, since opening a database must not run code.
    output, task
        Which tensor of the model's output answers, and what it is, as for
        :class:`~semlens.SubjectModel`.

    Raises
    ------
    ModelError
        If the SPEC or its weights cannot be loaded.

    Examples
    --------
    >>> load_model("semlens/demo").classes[0]
    'mammal'
    """
    spec, separator, weights_in_spec = spec.partition(WEIGHTS)
    if separator and weights is None:
        weights = weights_in_spec
    path, _, name = spec.rpartition(":")
    if random_weights is not None and (path.endswith(".py") or spec == "semlens/demo"):
        raise _conflicting_weights(spec, random_weights)
    if path.endswith(".py"):
        if not run_files:
            raise ModelError(
                f"The database was built from '{spec}', which is Python code.",
                "Expected the model to be given explicitly: a database never runs code.",
                f"Pass the model, such as model='{spec}' (--model), if you trust the file.",
            )
        model = userfile_model(user_path(path), name)
    else:
        model = _library_model(spec, random_weights)
    if weights is not None:
        file = user_path(weights)
        load_weights(model.module, file)
        # absolute, so that it is valid in any folder
        model = replace(model, spec=f"{model.spec}{WEIGHTS}{file.resolve()}")
    model.module.eval().to(device)
    if output is not None:
        model = replace(model, output=output)
    return model if task == "auto" else replace(model, task=task)


ModelLike = SubjectModel | str | nn.Module | tuple[Any, ...]
"""A model as callers give it; see :func:`as_model`."""


def as_model(model: ModelLike) -> SubjectModel:
    """Return a model from an object or a SPEC.

    Parameters
    ----------
    model
        A ``SubjectModel``, a SPEC, ``(module, preprocess)`` or ``(module, preprocess, classes)``,
        or a module of which the preprocessing is known: of timm, of transformers, or of torchvision
        with published weights that are on this machine.

    Raises
    ------
    ModelError
        If the SPEC cannot be loaded, or the preprocessing is not known.
    """
    if isinstance(model, SubjectModel):
        return model
    if isinstance(model, str):
        return load_model(model)
    if isinstance(model, nn.Module):
        from semlens.models.own_preprocessing import subject_of

        return subject_of(model)
    expected = "Expected a SubjectModel, a SPEC, a module or (module, preprocess[, classes])."
    given: Any = model
    name = type(given[0] if isinstance(given, tuple) and given else given).__name__
    return _subject(given, "", f"python:{name}", "The model is", expected)


def _library_model(spec: str, seed: int | None) -> SubjectModel:
    """Load from a library; a manifest stores the seed as ``:random=SEED`` in the SPEC."""
    if seed is not None:
        spec = f"{spec}:random={seed}"
    random_spec = re.fullmatch(r"(.*):random=(\d+)", spec)
    base_spec, seed = (random_spec[1], int(random_spec[2])) if random_spec else (spec, seed)
    library, _, name_and_weights = base_spec.partition("/")
    name, _, weights = name_and_weights.partition(":")
    if spec == "semlens/demo":
        from semlens.models.demo import demo_model

        return demo_model()
    from semlens.models import model_libraries

    if weights and seed is not None and library in ("torchvision", "timm"):
        raise _conflicting_weights(base_spec, seed)
    if library == "torchvision" and name:
        return model_libraries.torchvision_model(spec, name, weights or None, seed)
    if library == "timm" and name:
        return model_libraries.timm_model(spec, name, weights or None, seed)
    if library == "transformers" and name_and_weights:
        return model_libraries.transformers_model(spec, name_and_weights, seed)
    if library == "onnx" and name_and_weights:
        return _onnx_model(name_and_weights, seed)
    plug_in = find_plug_in(MODELS, library, ModelError) if name_and_weights else None
    if plug_in is not None and seed is None:
        return _of_plug_in(plug_in, spec, name_and_weights)
    if library.startswith("python:"):
        raise ModelError(
            f"The model '{spec}' was a Python object.",
            "Expected a SPEC that can be loaded.",
            "Pass the same object as the model.",
        )
    raise ModelError(
        f"'{spec}' is not a model SPEC.",
        f"Expected {SPEC_FORMS}.",
        "See 'semlens build --help' for examples.",
    )


def _onnx_model(name: str, seed: int | None) -> SubjectModel:
    """Load an ONNX file with the preprocessing of the JSON beside it.

    The graph is converted to a module by onnx2torch rather than run by onnxruntime, because
    relevance, ablation and pruning need its operations; onnxruntime computes the values that it
    must have.
    """
    if seed is not None:
        raise _conflicting_weights(f"onnx/{name}", seed)
    missing = next((module for module in _ONNX_NEEDS if find_spec(module) is None), None)
    if missing is not None:
        raise ModelError(
            f"'onnx/{name}' needs the package '{missing}'.",
            "It is not installed.",
            "Run: pip install 'semlens[onnx]'",
        )
    from semlens.models.onnx_files.conversion import to_module
    from semlens.models.onnx_files.preprocessing import read_preprocessing
    from semlens.models.onnx_files.reading import content_digest, image_input, read_graph

    path = user_path(name)
    graph = read_graph(path)
    image = image_input(graph, path)
    preprocessing = read_preprocessing(path, image)
    return SubjectModel(
        to_module(graph, image, *preprocessing.input_size(), path),
        preprocessing.preprocess,
        fingerprint(content_digest(graph), preprocessing.version),
        f"onnx/{path.resolve()}",  # absolute, so that it is valid in any folder
        preprocessing.classes,
    )


def _conflicting_weights(spec: str, seed: int) -> ModelError:
    return ModelError(
        f"'{spec}' has its own weights, but random weights (seed {seed}) were requested.",
        "Expected one or the other.",
        "Omit random_weights (--random-weights), or name only the architecture.",
    )


def userfile_model(path: Path, name: str) -> SubjectModel:
    """Execute ``path`` and call ``name()``, which returns ``(module, preprocess[, classes])``.

    ``preprocess`` maps an upright PIL image to a float tensor [3 h w]. The file's bytes and the
    weights identify the model.

    Raises
    ------
    ModelError
        If the file, the callable or its result is not as described.
    """
    expected = "Expected FILE.py:CALLABLE that returns (module, preprocess[, classes])."
    if not is_file(path):
        raise ModelError(f"'{path}' is not a file.", expected, "Check the path.")
    import_spec = importlib.util.spec_from_file_location(f"{USER_MODULE}{path.stem}", path)
    if import_spec is None or import_spec.loader is None:
        raise ModelError(f"'{path}' is not Python source.", expected, "Check the path.")
    module_of_file = importlib.util.module_from_spec(import_spec)
    sys.modules[import_spec.name] = module_of_file  # dataclasses and pickle look modules up by name
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # as python FILE.py does: the file may import its siblings
    try:
        import_spec.loader.exec_module(module_of_file)
        factory = getattr(module_of_file, name, None)
        returned = factory() if callable(factory) else None
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ModelError(
            f"'{path}' fails ({error!r}).", expected, f"Run 'python {path}' and fix the error."
        ) from error
    finally:
        sys.path.remove(folder)
    if not callable(factory):
        raise ModelError(f"'{path}' has no callable '{name}'.", expected, "Check the name.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _subject(
        returned,
        f"file:{digest}",
        f"{path.resolve()}:{name}",
        f"'{name}' of '{path}' returned",
        expected,
    )


def _of_plug_in(plug_in: EntryPoint, spec: str, name: str) -> SubjectModel:
    """Return the model that an installed package makes; its version identifies preprocessing."""
    expected = f"Expected {plug_in.value} to return (module, preprocess[, classes])."
    returned = call_plug_in(plug_in, ModelError, name)
    return _subject(
        returned, version(plug_in), spec, f"The plug-in '{owner(plug_in)}' returned", expected
    )


def _subject(returned: object, version: str, spec: str, source: str, expected: str) -> SubjectModel:
    """Return the model that user code returned as ``(module, preprocess[, classes])``."""
    if not (
        isinstance(returned, tuple)
        and len(returned) in (2, 3)
        and isinstance(returned[0], nn.Module)
        and callable(returned[1])
    ):
        is_tuple = isinstance(returned, tuple)
        received = (
            f"({', '.join(type(p).__name__ for p in returned)})"
            if is_tuple
            else type(returned).__name__
        )
        raise ModelError(f"{source} {received}.", expected, "Change it to one of these.")
    module, preprocess, classes = returned if len(returned) == 3 else (*returned, None)
    return SubjectModel(module, preprocess, version, spec, classes)
