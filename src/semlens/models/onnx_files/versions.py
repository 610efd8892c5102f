"""Newer versions of operators that onnx2torch knows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
from onnx import defs, helper
from onnx2torch.node_converters.registry import add_converter, get_converter

from semlens.errors import ModelError

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
