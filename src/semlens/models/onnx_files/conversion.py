"""Converting an ONNX graph to a PyTorch module, checked against onnxruntime."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx2torch
import torch
from onnx import defs, helper
from onnx2torch.node_converters.registry import add_converter, get_converter
from torch import Tensor, nn

from semlens.errors import ModelError
from semlens.models.activations import first_tensor
from semlens.models.hooks import call_model, evaluating, reading_layers
from semlens.models.onnx_files.network import as_network, layer_names
from semlens.models.onnx_files.reading import ImageInput, Runtime
from semlens.models.onnx_files.simplifying import Values, simplified

_TAKEN_AS_OLDER = set[tuple[str, int]]()


def check_operators(model: onnx.ModelProto, path: Path) -> None:
    """Check that each node can be converted, and have newer versions converted as the older ones.

    Most new versions of an operator only allow more types of numbers. A node whose inputs and
    attributes the older version knows, or has at the values by which the newer one computes the
    same, is converted as the older one.

    Raises
    ------
    ModelError
        If operators are not supported; the text names them.
    """
    versions = {opset.domain: opset.version for opset in model.opset_import}
    unsupported = Counter[str]()
    for node in model.graph.node:
        if not _convertible(node, versions.get(node.domain, 1)):
            unsupported[f"{node.domain}.{node.op_type}".lstrip(".")] += 1
    if unsupported:
        names = ", ".join(f"{name} ({count})" for name, count in unsupported.most_common())
        raise ModelError(
            f"'{path}' has operators that cannot be converted to PyTorch: {names}.",
            "Expected the operators of a network in floating point, without control flow.",
            "Export the model before quantisation, or load it from the library it comes from.",
        )


def _convertible(node: onnx.NodeProto, version: int) -> bool:
    try:
        schema = defs.get_schema(node.op_type, version, node.domain)
    except defs.SchemaError:  # of a domain that is not ONNX's
        return _known(node, version)
    newer = schema.since_version
    if _known(node, newer) and (node.op_type, newer) not in _TAKEN_AS_OLDER:
        return True
    while schema.since_version > 1:
        try:
            schema = defs.get_schema(node.op_type, schema.since_version - 1, node.domain)
        except defs.SchemaError:
            return False
        if _known(node, schema.since_version):
            if not _same_use(node, schema, defs.get_schema(node.op_type, newer, node.domain)):
                return False
            if (node.op_type, newer) not in _TAKEN_AS_OLDER:
                converter = get_converter(node.op_type, schema.since_version, node.domain)
                add_converter(node.op_type, newer, node.domain)(converter)
                _TAKEN_AS_OLDER.add((node.op_type, newer))
            return True
    return False


def _known(node: onnx.NodeProto, version: int) -> bool:
    try:
        get_converter(node.op_type, version, node.domain)
    except NotImplementedError:
        return False
    return True


def _same_use(node: onnx.NodeProto, older: defs.OpSchema, newer: defs.OpSchema) -> bool:
    """Whether a node of the newer version is one of the older version too."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for name, attribute in newer.attributes.items():
        default = attribute.default_value
        standard = helper.get_attribute_value(default) if default.type else None
        if name not in older.attributes:
            if given.get(name, standard) not in (standard, [1, 1]):  # dilations of pooling
                return False
        elif name not in given:
            before = older.attributes[name].default_value
            if (helper.get_attribute_value(before) if before.type else None) != standard:
                return False
    inputs = len([name for name in node.input if name])
    return inputs <= older.max_input and set(given) <= set(newer.attributes)


TOLERANCE = 1e-4
"""Largest difference of a layer, relative to its largest magnitude (of sums: or its terms')."""
TOLERANCE_OF_OUTPUT = 1e-3
"""The same for the output, in which the rounding of all layers adds up."""
_LARGEST_BATCH = 200_000_000
"""Pixels of a batch; in float32 they take 12 bytes each."""
_SUMS = ("Add", "Sub", "Sum", "Mean", "ReduceMean", "ReduceSum", "GlobalAveragePool")
"""Operators whose rounding is relative to what they add, as the terms may cancel."""
REMEDY = "Load the model from the library that it was exported from, or write a FILE.py:CALLABLE."


def to_module(
    model: onnx.ModelProto, image: ImageInput, height: int, width: int, path: Path
) -> nn.Module:
    """Convert a graph to a module with a layer for each node that computes on images.

    onnxruntime runs the graph on random images, and each layer must have its values.

    Parameters
    ----------
    height, width
        Size of the images, in pixels.
    path
        Names the file in errors.

    Raises
    ------
    ModelError
        If onnxruntime does not run the graph, an operator is not supported, or the values differ.
    """
    runtime = Runtime(model, path)
    noise = np.random.default_rng(0).standard_normal
    counts = (2, 3) if image.batch is None else (image.batch, image.batch)
    if max(counts) * height * width > _LARGEST_BATCH:
        raise ModelError(
            f"'{path}' takes {max(counts)} images of {height} x {width} pixels.",
            f"Expected at most {_LARGEST_BATCH // 10**6} million pixels.",
            "Export it with a free batch ('dynamic_axes' or 'dynamic_shapes'), or smaller images.",
        )
    # the second ones are brighter, for operators that differ in large values only
    batches = [
        scale * noise((n, 3, height, width), np.float32)
        for n, scale in zip(counts, (1, 8), strict=True)
    ]
    runs = [runtime.run(image, batch) for batch in batches]
    simple = simplified(model, image, runs[: 2 if image.batch is None else 1])
    check_operators(simple, path)
    nodes = list(simple.graph.node)
    names = layer_names(nodes)
    for i, node in enumerate(nodes):
        node.name = f"node_{i}"
    try:
        with warnings.catch_warnings(action="ignore"):  # about values, which are checked below
            converted = onnx2torch.convert(simple)
        network = as_network(converted, names, image.channels_last)
    except Exception as error:  # onnx2torch raises many types
        raise _not_converted(path, error) from error
    layers = dict(zip(names, nodes, strict=True))
    for batch, run in zip(batches, runs, strict=True):
        _check(network, batch, run, layers, model.graph.output[0].name, path)
    if image.batch is not None:
        _check_free_batch(network, batches, image, path)
    return network


def _not_converted(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"'{path}' cannot be converted to PyTorch ({error!r}).",
        "Expected operators and settings that onnx2torch supports.",
        REMEDY,
    )


@torch.inference_mode()
def _check(
    network: nn.Module,
    batch: np.ndarray,
    run: Values,
    layers: Mapping[str, onnx.NodeProto],
    logits: str,
    path: Path,
) -> None:
    """Compare each layer, and the output ``logits``, with the values of onnxruntime.

    Each layer gets the inputs that it has in onnxruntime, so that no rounding adds up.
    """
    found: dict[str, Sequence[np.ndarray]] = {}

    def record(name: str, output: object) -> Tensor | None:
        tensors = output if isinstance(output, tuple | list) else (output,)
        # copied, since a later operation may overwrite the tensor
        found[name] = [t.numpy().copy() for t in tensors if isinstance(t, Tensor)]
        expected = run.get(layers[name].output[0])
        if expected is None or not isinstance(output, Tensor):
            return None
        return torch.from_numpy(expected.copy())

    try:
        with evaluating(network):
            output = first_tensor(network(torch.from_numpy(batch)))
            with reading_layers(network, layers, record):
                network(torch.from_numpy(batch))
    except Exception as error:  # onnx2torch has modules for operators that it knows in part
        raise _not_converted(path, error) from error
    for layer, node in layers.items():
        terms = [run[name] for name in node.input if name in run and node.op_type in _SUMS]
        for value, name in zip(found[layer], node.output, strict=False):
            if name in run:
                difference = _difference(value, run[name], terms)
                if not difference <= TOLERANCE:
                    raise _differs(f"'{layer}'", difference, TOLERANCE, path)
    difference = float("inf") if output is None else _difference(output.numpy(), run[logits])
    if not difference <= TOLERANCE_OF_OUTPUT:
        raise _differs("the output", difference, TOLERANCE_OF_OUTPUT, path)


def _differs(where: str, difference: float, tolerance: float, path: Path) -> ModelError:
    return ModelError(
        f"The conversion of '{path}' to PyTorch differs from onnxruntime at {where}, by "
        f"{difference:.2g} of its largest value.",
        f"Expected at most {tolerance:g}, the rounding of float32.",
        REMEDY,
    )


def _check_free_batch(
    network: nn.Module, batches: Sequence[np.ndarray], image: ImageInput, path: Path
) -> None:
    """Check that a graph with a fixed batch gives the same values in a larger one."""
    images = torch.from_numpy(np.concatenate(batches))
    with evaluating(network), torch.inference_mode():
        apart = [first_tensor(call_model(network, part)) for part in images.chunk(2)]
        try:
            together = first_tensor(call_model(network, images))
        except ModelError:
            together = None
    expected = np.concatenate([part.numpy() for part in apart if part is not None])
    difference = np.inf if together is None else _difference(together.numpy(), expected)
    if not difference <= TOLERANCE_OF_OUTPUT:
        raise ModelError(
            f"'{path}' works for batches of {image.batch} only.",
            "Expected a graph for any number of images.",
            "Export it with a dynamic batch axis, such as dynamic_axes={'input': {0: 'batch'}}.",
        )


def _difference(value: np.ndarray, expected: np.ndarray, terms: Sequence[np.ndarray] = ()) -> float:
    """Return the largest difference, relative to the largest magnitude; infinite for a shape."""
    if value.shape != expected.shape:
        return float("inf")
    unequal = value != expected
    if not unequal.any():
        return 0.0
    # equal infinities, as in masks of attention, are no magnitude
    finite = [np.abs(part[np.isfinite(part)]) for part in (expected, *terms)]
    scale = max(float(part.max(initial=0)) for part in finite)
    difference = np.abs(value[unequal].astype(np.float64) - expected[unequal].astype(np.float64))
    return float(difference.max() / max(scale, 1e-6))
