"""The user's own model: ``file.py:callable``, run only when it is named on purpose."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from torch import nn

from semlens.errors import ModelError
from semlens.models.subject import Preprocess, SubjectModel


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
    module_name = f"_semlens_user_{path.stem}"
    plan = importlib.util.spec_from_file_location(module_name, path)
    if plan is None or plan.loader is None:
        raise ModelError(f"'{path}' is not Python source.", expected, "Check the path.")
    loaded = importlib.util.module_from_spec(plan)
    sys.modules[module_name] = loaded  # dataclasses and pickling look it up by name
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
        kinds = ", ".join(type(part).__name__ for part in made) if isinstance(made, tuple) else ""
        met = f"({kinds})" if isinstance(made, tuple) else type(made).__name__
        raise ModelError(f"'{name}' of '{path}' returned {met}.", expected, "Change it so.")
    preprocess = cast(Preprocess, made[1])
    classes: Sequence[str] | None = made[2] if len(made) == 3 else None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    spec = f"{path.resolve()}:{name}"
    return SubjectModel(made[0].eval(), preprocess, f"file:{digest}", spec, classes)
