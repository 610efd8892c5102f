"""The user's own model: ``file.py:callable``, run only when it is named on purpose."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from semlens.errors import ModelError
from semlens.models.subject import SubjectModel


def userfile_model(spec: str, path: Path, name: str) -> SubjectModel:
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
    module_name = f"_semlens_user_{path.stem}"
    plan = importlib.util.spec_from_file_location(module_name, path)
    if plan is None or plan.loader is None:
        raise ModelError(f"'{path}' is not Python source.", expected, "Check the path.")
    loaded = importlib.util.module_from_spec(plan)
    sys.modules[module_name] = loaded  # dataclasses and pickling look it up by name
    plan.loader.exec_module(loaded)
    make = getattr(loaded, name, None)
    if not callable(make):
        raise ModelError(f"'{path}' has no callable '{name}'.", expected, "Check the name.")
    made = make()
    if not (isinstance(made, tuple) and len(made) in (2, 3) and isinstance(made[0], nn.Module)):
        raise ModelError(
            f"'{name}' of '{path}' returned {type(made).__name__}.", expected, "Change it so."
        )
    classes: Sequence[str] | None = made[2] if len(made) == 3 else None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return SubjectModel(made[0].eval(), made[1], f"file:{digest}", spec, classes)
