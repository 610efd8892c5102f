"""Targets that are a user's function of the model's output."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from jaxtyping import Float
from torch import Tensor

from semlens.errors import RelevanceError, shortened
from semlens.models.model_output import ModelOutput
from semlens.models.target import Target
from semlens.recipe import fingerprint
from semlens.regular_files import file_digest, is_file, user_path


@dataclass(frozen=True)
class FunctionTarget(Target):
    """What a user's function makes of the model's output.

    It need not be linear: relevance starts with its linearisation, and
    :func:`~semlens.check_conservation` shows what that leaves out.

    Parameters
    ----------
    made_by
        Called with the output as the model returned it; returns a tensor [b].
    label, version
        What identifies it.
    """

    reads_answer: ClassVar[bool] = False

    made_by: Callable[[Any], Tensor] = field(compare=False)
    label: str
    version: str

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.label

    @property
    def key(self) -> str:
        """Name and version."""
        return fingerprint("function", self.label, self.version)

    def held_value(self, output: ModelOutput, choice: Tensor | None) -> Float[Tensor, " b"]:
        """Return what the function returns."""
        try:
            value: Any = self.made_by(output.result)
        except Exception as error:  # the user's function may raise anything
            raise RelevanceError(
                f"The target '{shortened(self.name)}' fails ({error!r}).",
                "Expected a function of the model's output that returns a tensor [b].",
                "Correct the function.",
            ) from error
        if not (isinstance(value, Tensor) and value.ndim == 1 and value.is_floating_point()):
            received = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise RelevanceError(
                f"The target '{shortened(self.name)}' returns {received}.",
                "Expected a floating-point tensor [b]: one value per image.",
                "Return for example output[:, 3].",
            )
        return value

    @classmethod
    def load(cls, text: str) -> FunctionTarget:
        """Execute the file of ``FILE.py:FUNCTION``, and return its function.

        Raises
        ------
        RelevanceError
            If there is no such file or function.
        """
        path_text, _, name = text.rpartition(":")
        path = user_path(path_text)
        if not is_file(path):
            raise RelevanceError(
                f"'{shortened(path_text)}' is not a file.",
                "Expected FILE.py:FUNCTION, a function of the model's output.",
                "Check the path.",
            )
        function: Any = getattr(_executed(path), name, None)
        if not callable(function):
            raise RelevanceError(
                f"'{path}' has no function '{shortened(name)}'.",
                "Expected a function of the model's output that returns a tensor [b].",
                "Check the name.",
            )
        return cls(
            cast("Callable[[Any], Tensor]", function),
            f"{Path(path_text).name}:{name}",
            file_digest(path),
        )


def is_function_text(text: object) -> bool:
    """Whether a text has the form ``FILE.py:FUNCTION``."""
    return isinstance(text, str) and re.fullmatch(r".+\.py:[A-Za-z_]\w*", text) is not None


def _executed(path: Path) -> Any:
    module_spec = importlib.util.spec_from_file_location(f"semlens_target_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise RelevanceError(
            f"'{path}' is not Python source.", "Expected FILE.py:FUNCTION.", "Check the path."
        )
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise RelevanceError(
            f"'{path}' fails ({error!r}).",
            "Expected a Python file that defines a function of the model's output.",
            f"Run 'python {path}' and fix the error.",
        ) from error
    return module
