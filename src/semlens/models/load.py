"""From a model SPEC to a subject model."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

from torch import nn

from semlens.errors import ModelError
from semlens.models.checkpoint import load_weights
from semlens.models.subject import SubjectModel

FORMS = (
    "torchvision/NAME:WEIGHTS, timm/NAME[:WEIGHTS], transformers/ID-or-dir, "
    "FILE.py:CALLABLE or semlens/demo"
)
WEIGHTS = ":weights="
"""Between a SPEC and the file of other weights for it."""


def load_model(
    spec: str,
    *,
    random_weights: int | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    run_files: bool = True,
) -> SubjectModel:
    """Load a subject model with the preprocessing that belongs to it.

    Parameters
    ----------
    spec
        ``torchvision/resnet50:IMAGENET1K_V2``, ``timm/vit_small_patch16_224:weights.safetensors``,
        ``transformers/facebook/dinov2-base``, ``my_model.py:make``, ``semlens/demo``.
    random_weights
        A seed, to get the untrained architecture.
    weights
        File of other weights for the same architecture, such as ``semlens prune`` and
        ``semlens retrain`` write. The model's SPEC then ends in ``:weights=FILE``.
    device
        Where to put it.
    run_files
        Whether a ``FILE.py:CALLABLE`` may be run. Commands that read the SPEC from a
        database set this to False: a database must not bring code with it.

    Raises
    ------
    ModelError
        If the SPEC or its weights cannot be loaded.

    Examples
    --------
    >>> load_model("semlens/demo").classes[0]
    'mammal'
    """
    spec, mark, given = spec.partition(WEIGHTS)
    if mark and weights is None:
        weights = given
    path, _, name = spec.rpartition(":")
    if random_weights is not None and (path.endswith(".py") or spec == "semlens/demo"):
        raise _two_weights(spec, random_weights)
    if path.endswith(".py"):
        if not run_files:
            raise ModelError(
                f"The database was built from '{spec}', which is code.",
                "Code is run only when it is named on the command line.",
                f"Add --model {spec} if you trust the file.",
            )
        model = userfile_model(Path(path).expanduser(), name)
    else:
        model = _library_model(spec, random_weights)
    if weights is not None:
        file = Path(weights).expanduser().resolve()  # to be found from any folder
        load_weights(model.module, file)
        model = replace(model, spec=f"{model.spec}{WEIGHTS}{file}")
    model.module.to(device)
    return model


def _library_model(spec: str, seed: int | None) -> SubjectModel:
    """Load from a library; ``:random=SEED`` in a SPEC is how a manifest holds the seed."""
    if seed is not None:
        spec = f"{spec}:random={seed}"
    random = re.fullmatch(r"(.*):random=(\d+)", spec)
    plain, seed = (random[1], int(random[2])) if random else (spec, seed)
    library, _, rest = plain.partition("/")
    name, _, weights = rest.partition(":")
    if spec == "semlens/demo":
        from semlens.models.demo import demo_model

        return demo_model()
    from semlens.models import model_libraries

    if weights and seed is not None and library in ("torchvision", "timm"):
        raise _two_weights(plain, seed)
    if library == "torchvision" and name:
        return model_libraries.torchvision_model(spec, name, weights or None, seed)
    if library == "timm" and name:
        return model_libraries.timm_model(spec, name, weights or None, seed)
    if library == "transformers" and rest:
        return model_libraries.transformers_model(spec, rest, seed)
    if library.startswith("python:"):
        raise ModelError(
            f"The model '{spec}' came from a Python object.",
            "A SPEC cannot bring it back.",
            "Use the same object.",
        )
    raise ModelError(
        f"'{spec}' is not a model SPEC.",
        f"Expected {FORMS}.",
        "See 'semlens build --help' for examples.",
    )


def _two_weights(spec: str, seed: int) -> ModelError:
    return ModelError(
        f"Random weights (seed {seed}) were asked for '{spec}', which brings its own.",
        "Expected one or the other.",
        "Leave --random-weights out, or name the architecture only.",
    )


def userfile_model(path: Path, name: str) -> SubjectModel:
    """Run ``path`` and call ``name()``, which returns ``(module, preprocess[, classes])``.

    ``preprocess`` takes one upright PIL image to a float tensor [3 h w]. The file's bytes
    and the weights identify the model.

    Raises
    ------
    ModelError
        If the file, the callable or what it returns is not as described.
    """
    expected = "Expected FILE.py:CALLABLE that returns (module, preprocess) or a third, classes."
    if not path.is_file():
        raise ModelError(f"'{path}' is no file.", expected, "Check the path.")
    plan = importlib.util.spec_from_file_location(f"_semlens_user_{path.stem}", path)
    if plan is None or plan.loader is None:
        raise ModelError(f"'{path}' is not Python source.", expected, "Check the path.")
    loaded = importlib.util.module_from_spec(plan)
    sys.modules[plan.name] = loaded  # dataclasses and pickling look it up by name
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # as python FILE.py would: the file may import its neighbours
    try:
        plan.loader.exec_module(loaded)
        make = getattr(loaded, name, None)
        made = make() if callable(make) else None
    except Exception as error:  # the user's code may raise anything
        raise ModelError(
            f"'{path}' fails ({error!r}).", expected, f"Run 'python {path}' and mend it."
        ) from error
    finally:
        sys.path.remove(folder)
    if not callable(make):
        raise ModelError(f"'{path}' has no callable '{name}'.", expected, "Check the name.")
    if not (
        isinstance(made, tuple)
        and len(made) in (2, 3)
        and isinstance(made[0], nn.Module)
        and callable(made[1])
    ):
        several = isinstance(made, tuple)
        met = f"({', '.join(type(p).__name__ for p in made)})" if several else type(made).__name__
        raise ModelError(f"'{name}' of '{path}' returned {met}.", expected, "Change it so.")
    module, preprocess, classes = made if len(made) == 3 else (*made, None)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return SubjectModel(
        module.eval(), preprocess, f"file:{digest}", f"{path.resolve()}:{name}", classes
    )
