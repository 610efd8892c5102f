"""Preprocessing and class names for an ONNX file, from the JSON beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, cast

from PIL import Image

from semlens.documents import read_json
from semlens.errors import ModelError, reason_of
from semlens.models.hooks import FAILURES
from semlens.models.onnx_files.reading import ImageInput
from semlens.models.preprocess_geometry import LARGEST_SIDE, Preprocess
from semlens.recipe import fingerprint
from semlens.regular_files import is_file

_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
_CROP_MODES = ("center", "squash", "border")
_EXAMPLE = (
    '"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "crop_pct": 0.875, '
    '"interpolation": "bilinear"'
)


@dataclass(frozen=True)
class Preprocessing:
    """What turns an image into an input.

    Parameters
    ----------
    preprocess
        From an upright RGB image to float32[3 h w].
    version
        Identifies it.
    classes
        Class names in logit order, if the file has them.
    """

    preprocess: Preprocess
    version: str
    classes: list[str] | None

    def input_size(self) -> tuple[int, int]:
        """Return the height and width of inputs.

        Raises
        ------
        ModelError
            If no image can be preprocessed.
        """
        try:
            _, height, width = self.preprocess(Image.new("RGB", (64, 48))).shape
        except FAILURES as error:
            raise ModelError(
                f"The preprocessing beside the ONNX file fails on an image ({reason_of(error)}).",
                "Expected the settings of a transform from an image to float32[3 h w].",
                "Correct the JSON file beside it.",
            ) from error
        return height, width


def read_preprocessing(path: Path, image: ImageInput) -> Preprocessing:
    """Read ``FILE.json`` beside ``FILE.onnx``, or the configuration of timm or transformers.

    Raises
    ------
    ModelError
        If there is none, a value is missing or invalid, or its size is not that of the graph.
    """
    # exports for the browser have their graphs in a folder of this name
    folders = [path.parent, *([path.parent.parent] if path.parent.name == "onnx" else [])]
    own = path.with_suffix(".json")
    for file in (own, *(folder / "config.json" for folder in folders)):
        content = _read(file) if is_file(file) else None
        if content is not None and (file == own or "pretrained_cfg" in content):
            return _of_settings(content, file, image)
    for folder in folders:
        if is_file(folder / "preprocessor_config.json"):
            return _of_transformers(folder)
    raise ModelError(
        f"The preprocessing of '{path}' is not known: there is no '{own.name}' beside it.",
        "Expected how the model was trained: the mean and std of pixels in [0, 1], the share of "
        "the shorter side that is cropped, the interpolation, and the size.",
        f"Write '{own.name}', such as {{{_EXAMPLE}, {_size_example(image)}}}, or copy the "
        "config.json of timm, or the preprocessor_config.json of transformers, into the folder.",
    )


def _of_settings(content: Mapping[str, Any], file: Path, image: ImageInput) -> Preprocessing:
    """Return timm's evaluation transform with the settings of a file."""
    from timm.data.transforms_factory import create_transform

    given: Any = content.get("pretrained_cfg", content)
    if not isinstance(given, dict):
        raise _invalid_value(file, "pretrained_cfg", given, "an object with the preprocessing")
    checked: dict[str, Any] = {
        "mean": _numbers(given, "mean", file),
        "std": _numbers(given, "std", file),
        "crop_pct": _number(given, "crop_pct", file),
        "interpolation": _choice(given, "interpolation", _INTERPOLATIONS, file),
        "crop_mode": _choice({"crop_mode": "center", **given}, "crop_mode", _CROP_MODES, file),
        "input_size": _input_size(given, image, file),
    }
    resized = max(checked["input_size"]) / checked["crop_pct"]
    if resized > LARGEST_SIDE:
        raise _invalid(
            file,
            f"scales images to {resized:.0f} pixels",
            f"Expected a size and a crop_pct that need at most {LARGEST_SIDE}.",
            f"{_EXAMPLE}, {_size_example(image)}",
        )
    transform = cast(Preprocess, create_transform(**checked, is_training=False))
    return Preprocessing(transform, fingerprint("timm", checked), _classes(content, given, file))


def _of_transformers(folder: Path) -> Preprocessing:
    """Return the image processor of a folder that transformers wrote."""
    from semlens.models.model_libraries import class_names, image_processor

    preprocess, version = image_processor(str(folder), f"onnx/{folder}")
    config = folder / "config.json"
    labels = _read(config).get("id2label") if is_file(config) else None
    try:
        by_logit = {int(i): str(name) for i, name in labels.items()} if labels else {}
    except (AttributeError, ValueError) as error:
        raise _invalid_value(config, "id2label", labels, "names by logit") from error
    return Preprocessing(preprocess, version, class_names(by_logit))


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise _invalid(file, f"cannot be read as JSON ({error})", "Expected an object.") from error
    if not isinstance(content, dict):
        raise _invalid(file, f"contains a {type(content).__name__}", "Expected an object.")
    return cast("dict[str, Any]", content)


def _numbers(given: Mapping[str, Any], key: str, file: Path) -> tuple[float, ...]:
    value = given.get(key)
    numbers = cast("Sequence[Any]", value if isinstance(value, list) else ())
    valid = len(numbers) == 3 and all(map(_is_number, numbers))
    if not valid or (key == "std" and min(numbers) <= 0):
        positive = " above 0" if key == "std" else ""
        raise _invalid_value(file, key, value, f"three numbers{positive}, red first")
    return tuple(float(number) for number in numbers)


def _number(given: Mapping[str, Any], key: str, file: Path) -> float:
    value = given.get(key)
    if not _is_number(value) or not 0 < value <= 1:
        raise _invalid_value(file, key, value, "a number above 0, at most 1")
    return float(value)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _choice(given: Mapping[str, Any], key: str, known: Sequence[str], file: Path) -> str:
    value = given.get(key)
    if value not in known:
        raise _invalid_value(file, key, value, f"one of {', '.join(known)}")
    return str(value)


def _input_size(given: Mapping[str, Any], image: ImageInput, file: Path) -> tuple[int, int, int]:
    graph = (3, image.height, image.width)
    value = given.get("input_size", None if None in graph else list(graph))
    is_size = isinstance(value, list) and len(value) == 3 and all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in value
    )  # fmt: skip
    if not is_size or any(n not in (None, m) for n, m in zip(graph, value, strict=True)):
        sizes = ", ".join("any" if n is None else str(n) for n in graph)
        expected = f"[{sizes}], as the graph takes"
        raise _invalid_value(file, "input_size", value, expected, _size_example(image))
    return (3, value[1], value[2])


def _size_example(image: ImageInput) -> str:
    return f'"input_size": [3, {image.height or 224}, {image.width or 224}]'


def _classes(content: Mapping[str, Any], given: Mapping[str, Any], file: Path) -> list[str] | None:
    """Return the class names: ``classes``, or timm's ``label_names`` with their descriptions."""
    key = "classes" if "classes" in content else "label_names"
    names = content.get(key, given.get(key))
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _invalid_value(file, key, names, "a list of texts in logit order")
    texts = content.get("label_descriptions") or {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _invalid_value(file, "label_descriptions", texts, "texts by name")
    return [texts.get(name, name) for name in cast("list[str]", names)]


def _invalid_value(
    file: Path, key: str, value: Any, expected: str, example: str = _EXAMPLE
) -> ModelError:
    found = "has no" if value is None else f"has {json.dumps(value)[:80]} as"
    return _invalid(file, f"{found} '{key}'", f"Expected {expected}.", example)


def _invalid(file: Path, problem: str, expected: str, example: str = _EXAMPLE) -> ModelError:
    return ModelError(f"'{file}' {problem}.", expected, f"Write it such as {{{example}}}.")
