"""Replacing what a graph computes from constants and sizes by its values.

Exporters write the arithmetic of shapes as nodes. onnxruntime has run the graph, so the results are
known: constants become weights, and what has a shape that grows with the batch gets that shape.
The network then has the layers of the model and nothing else, and runs for any number of images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from semlens.models.onnx_files.operators import DOMAIN, OPERATORS, WITHOUT_SETTINGS
from semlens.models.onnx_files.reading import ImageInput

Values = Mapping[str, np.ndarray]
Depends = Literal["constant", "sizes", "images"]
"""What a value depends on: nothing, the sizes of the images, or the images themselves."""
SHAPED = ("Reshape", "Expand", "ConstantOfShape")
"""Operators with the shape of their result as an input."""
AXES = ("Squeeze", "Unsqueeze")
"""Operators whose axes are an input, or an attribute in older versions; those may be missing."""


def simplified(
    model: onnx.ModelProto, image: ImageInput, runs: Sequence[Values]
) -> onnx.ModelProto:
    """Return the graph without nodes that compute constants or sizes.

    Parameters
    ----------
    runs
        All values of the graph, for one or two sizes of batch.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    depends = _dependencies(model.graph, image)
    known: dict[str, np.ndarray] = {}
    kept: list[onnx.NodeProto] = []
    producers = {name: node for node in graph.node for name in node.output}
    renamed: dict[str, str] = {}
    for node in graph.node:
        _replace(node.input, [renamed.get(name, name) for name in node.input])
        if (source := _gathered_in_place(node, producers, runs)) is not None:
            renamed[node.output[0]] = source
            continue
        outputs = [name for name in node.output if name]
        same = all(_same([run[name] for run in runs]) for name in outputs if name in runs[0])
        if depends[outputs[0]] != "images" and same and all(name in runs[0] for name in outputs):
            known.update({name: runs[0][name] for name in outputs})
        else:
            kept.append(node)
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in known.items())
    constants = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    kept = _with_biases(kept, constants, {output.name for output in graph.output})
    rewritten = [_rewritten(node, constants, image, runs) for node in kept]
    needed = {output.name for output in graph.output}
    used: list[onnx.NodeProto] = []
    for node in reversed(rewritten):
        if needed.intersection(node.output):
            used.append(node)
            needed.update(node.input)
    _replace(graph.node, reversed(used))
    _replace(graph.initializer, [t for t in graph.initializer if t.name in needed])
    _replace(graph.input, [value for value in graph.input if value.name == image.name])
    _replace(graph.value_info, _shapes(used, graph, runs))
    result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return result


def _dependencies(graph: onnx.GraphProto, image: ImageInput) -> dict[str, Depends]:
    """Return what each value depends on."""
    depends: dict[str, Depends] = {"": "constant", image.name: "images"}
    depends.update({tensor.name: "constant" for tensor in graph.initializer})
    for node in graph.node:
        inputs = {depends.get(name, "images") for name in node.input}
        has_body = any(a.HasField("g") or a.graphs for a in node.attribute)
        kind: Depends = "constant"
        if node.op_type in ("Shape", "Size") and inputs != {"constant"}:
            kind = "sizes"
        elif "images" in inputs or has_body or node.op_type.startswith("Random"):
            kind = "images"
        elif "sizes" in inputs:
            kind = "sizes"
        depends.update({name: kind for name in node.output})
    return depends


def _gathered_in_place(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], runs: Sequence[Values]
) -> str | None:
    """Return the value that a Gather copies as it is.

    torch exports ``as_strided`` so: from the values of all images in one row, each is taken where
    it is already, by an index that is computed from the size of the batch.
    """
    flattening = producers.get(node.input[0]) if node.op_type == "Gather" else None
    if flattening is None or flattening.op_type != "Reshape":
        return None
    source, result = flattening.input[0], node.output[0]
    for run in runs:
        if source not in run or not np.array_equal(run[source], run[result]):
            return None
        if np.unique(run[source]).size < run[source].size:  # equal values may be exchanged
            return None
    return source


def _with_biases(
    nodes: Sequence[onnx.NodeProto], ranks: Mapping[str, int], outputs: set[str]
) -> list[onnx.NodeProto]:
    """Return the nodes, with a product by a constant matrix and the sum after it as one."""
    users = Counter(name for node in nodes for name in node.input)
    products = {
        node.output[0]: node
        for node in nodes
        if node.op_type == "MatMul"
        and ranks.get(node.input[1]) == 2
        and users[node.output[0]] == 1
        and node.output[0] not in outputs
    }
    result: list[onnx.NodeProto] = []
    for node in nodes:
        product = next((products[n] for n in node.input if n in products), None)
        bias = next((n for n in node.input if ranks.get(n) == 1), None)
        if node.op_type == "Add" and product is not None and bias is not None:
            result.remove(product)
            dense = onnx.NodeProto()
            dense.CopyFrom(product)
            dense.input.append(bias)
            _replace(dense.output, node.output)
            result.append(dense)
        else:
            result.append(node)
    return result


def _rewritten(
    node: onnx.NodeProto, ranks: Mapping[str, int], image: ImageInput, runs: Sequence[Values]
) -> onnx.NodeProto:
    """Return a node as an operator of ours, if it is one and its settings are constants.

    ``ranks`` has the number of axes of each constant.
    """
    shapes = [[run[name].shape for run in runs] for name in node.output if name in runs[0]]
    if node.domain or node.op_type not in OPERATORS or len(shapes) < len(node.output):
        return node
    result = onnx.NodeProto()
    result.CopyFrom(node)
    result.domain = DOMAIN
    if node.op_type in SHAPED:
        fixed, per_image = _growth(shapes[0], image)
        of_value = [] if node.op_type == "ConstantOfShape" else node.input[:1]
        _replace(result.input, [*of_value, image.name])
        result.attribute.append(helper.make_attribute("fixed", fixed, attr_type=_INTS))
        result.attribute.append(helper.make_attribute("per_image", per_image, attr_type=_INTS))
    elif node.op_type == "Split":
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if any(_growth(shape, image)[1][axis] for shape in shapes):
            return node
        _replace(result.input, node.input[:1])
        _replace(result.attribute, [a for a in result.attribute if a.name == "axis"])
        sizes = [shape[0][axis] for shape in shapes]
        result.attribute.append(helper.make_attribute("sizes", sizes))
    elif node.op_type == "MatMul":
        if ranks.get(node.input[1]) != 2:
            return node
    elif node.op_type in AXES and len(node.input) + len(node.attribute) < 2:
        return node
    elif node.op_type not in WITHOUT_SETTINGS and not all(
        name in ranks for name in node.input[1:] if name
    ):
        return node
    return result


_INTS = onnx.AttributeProto.INTS


def _growth(shapes: Sequence[tuple[int, ...]], image: ImageInput) -> tuple[list[int], list[int]]:
    """Return sizes as ``fixed + per_image * images``, from the shapes in runs.

    Runs have two and three images. A graph with a fixed batch was run with that batch only, so its
    first axis is taken to grow; the check of the conversion tells whether that is right.
    """
    if image.batch is not None:
        whole = bool(shapes[0]) and shapes[0][0] % image.batch == 0
        per_image = [shapes[0][0] // image.batch if whole and not i else 0
                     for i in range(len(shapes[0]))]  # fmt: skip
        return [
            size - rate * image.batch for size, rate in zip(shapes[0], per_image, strict=True)
        ], per_image
    two, three = shapes
    per_image = [b - a for a, b in zip(two, three, strict=True)]
    return [size - 2 * rate for size, rate in zip(two, per_image, strict=True)], per_image


def _shapes(
    nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto, runs: Sequence[Values]
) -> list[onnx.ValueInfoProto]:
    """Return the shapes of values, which the conversion of some operators needs."""
    outputs = {value.name for value in graph.output}
    infos: list[onnx.ValueInfoProto] = []
    for name in (name for node in nodes for name in node.output if name not in outputs):
        if name in runs[0]:
            values = [run[name] for run in runs]
            sizes = [n if len({v.shape[i] for v in values}) == 1 else "batch"
                     for i, n in enumerate(values[0].shape)]  # fmt: skip
            kind = helper.np_dtype_to_tensor_dtype(values[0].dtype)
            infos.append(helper.make_tensor_value_info(name, kind, sizes))
    return infos


def _same(values: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(values[0], other, equal_nan=False) for other in values[1:])


def _replace(field: object, items: object) -> None:
    """Replace the content of a repeated field of protobuf, which cannot be assigned."""
    content = list(items)  # type: ignore
    del field[:]  # type: ignore
    field.extend(content)  # type: ignore
