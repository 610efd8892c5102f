"""Reading an ONNX file, and running its graph with onnxruntime."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import inliner

from semlens.errors import ModelError, shortened
from semlens.regular_files import is_file

LARGEST = 2**31 - 1
"""Bytes of a graph with its weights that protobuf, the format of the file, can hold."""
_FAILURE_REMEDY = (
    "Check it with onnx.checker.check_model(FILE) and with the program that runs it, and export "
    "it again if these fail too."
)


@dataclass(frozen=True)
class ImageInput:
    """The input of a graph: images [b 3 h w], or [b h w 3] with ``channels_last``.

    Sizes are None where the graph does not fix them.
    """

    name: str
    batch: int | None
    height: int | None
    width: int | None
    channels_last: bool

    def as_input(self, images: np.ndarray) -> np.ndarray:
        """Return images float32[b 3 h w] in the order of axes that the graph takes."""
        ordered = images.transpose(0, 2, 3, 1) if self.channels_last else images
        return np.ascontiguousarray(ordered)


def read_graph(path: Path) -> onnx.ModelProto:
    """Read a file with its external data; functions of its own are replaced by their nodes.

    Raises
    ------
    ModelError
        If the file, or the file with its weights, is missing or cannot be read.
    """
    if not is_file(path):
        raise ModelError(
            f"'{path}' is not a file.", "Expected onnx/PATH, an ONNX file.", "Check the path."
        )
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own types
        raise ModelError(
            f"'{path}' cannot be read as ONNX ({_first_line(error)}).",
            "Expected a complete ONNX file.",
            _FAILURE_REMEDY,
        ) from error
    if not model.graph.node:  # protobuf reads almost any file as a message without fields
        raise ModelError(f"'{path}' contains no graph.", "Expected an ONNX file.", _FAILURE_REMEDY)
    if not model.graph.output:
        raise ModelError(
            f"The graph of '{path}' has no outputs.",
            "Expected the logits of images as the first output.",
            "Export the model again, with its logits as an output.",
        )
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
        for tensor in model.graph.initializer:
            onnx.numpy_helper.to_array(tensor)
    except Exception as error:
        raise ModelError(
            f"The weights of '{path}' cannot be read ({_first_line(error)}).",
            "Expected the file that holds its external data, complete, in the same folder.",
            "Copy both files of the export, under the names they had, such as MODEL.onnx.data.",
        ) from error
    if model.ByteSize() > LARGEST:
        raise ModelError(
            f"'{path}' has {model.ByteSize() / 1e9:.1f} GB of weights.",
            "Expected at most 2 GB, as protobuf holds no more.",
            "Load the model from the library that it was exported from.",
        )
    return inliner.inline_local_functions(model) if model.functions else model


def content_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of a graph with its weights, however these are stored."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    digest = hashlib.sha256()
    for tensor in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        digest.update(f"{tensor.name}:{values.dtype}:{values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    del graph.graph.initializer[:]
    digest.update(graph.SerializeToString(deterministic=True))
    return digest.hexdigest()


def image_input(model: onnx.ModelProto, path: Path) -> ImageInput:
    """Return the graph's only input.

    Raises
    ------
    ModelError
        If the graph takes anything but float32 images with three channels.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) == 1:
        tensor = inputs[0].type.tensor_type
        sizes = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
        if tensor.elem_type == onnx.TensorProto.FLOAT and len(sizes) == 4:
            batch, *axes = sizes
            if axes[0] == 3:
                return ImageInput(inputs[0].name, batch, axes[1], axes[2], False)
            if axes[2] == 3:
                return ImageInput(inputs[0].name, batch, axes[0], axes[1], True)
    raise ModelError(
        f"'{path}' takes {', '.join(map(_described, inputs)) or 'no input'}.",
        "Expected one input of float32 images, [b 3 h w] or [b h w 3].",
        "Export the part of the model that takes preprocessed RGB images.",
    )


def _described(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    kind = names.get(tensor.elem_type, f"element type {tensor.elem_type}")
    sizes = [d.dim_param or d.dim_value or "?" for d in tensor.shape.dim]
    shape = " ".join(map(str, sizes))
    return shortened(f"'{value.name}' ({kind}[{shape}])")


class Runtime:
    """onnxruntime with every value of a graph as an output.

    Parameters
    ----------
    model
        The graph with its weights.
    path
        Names the file in errors.

    Raises
    ------
    ModelError
        If onnxruntime does not accept the graph.
    """

    def __init__(self, model: onnx.ModelProto, path: Path) -> None:
        with_all_values = onnx.ModelProto()
        with_all_values.CopyFrom(model)
        outputs = with_all_values.graph.output
        known = {value.name for value in outputs}
        outputs.extend(
            onnx.ValueInfoProto(name=name)  # onnxruntime infers the type
            for node in model.graph.node
            for name in node.output
            if name and name not in known
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # optimisation would only be for the runs of this check, and may merge nodes
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._path = path
        try:
            self._session = onnxruntime.InferenceSession(
                with_all_values.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own types
            raise _rejected(path, error) from error

    def run(self, image: ImageInput, images: np.ndarray) -> dict[str, np.ndarray]:
        """Return the input and every value of the graph for images float32[b 3 h w], by name.

        Raises
        ------
        ModelError
            If the run fails.
        """
        names = [output.name for output in self._session.get_outputs()]
        given = {image.name: image.as_input(images)}
        try:
            values = self._session.run(names, given)
        except Exception as error:
            raise _rejected(self._path, error) from error
        computed = zip(names, values, strict=True)
        return given | {name: v for name, v in computed if isinstance(v, np.ndarray)}


def _rejected(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"onnxruntime does not run '{path}' ({_first_line(error)}).",
        "Expected a file that onnxruntime runs, as the conversion is checked against it.",
        _FAILURE_REMEDY,
    )


def _first_line(error: Exception) -> str:
    """Return the first line of a message, without where in its sources onnxruntime raised it."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (/\S+:\d+ .*?\) )?", "", line).strip(" .")[
        :300
    ]
