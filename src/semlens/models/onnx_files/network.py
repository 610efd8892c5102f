"""A module tree for a converted graph, in which layers have the names of the exported model."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import fx, nn

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Key of the metadata in which torch's exporter names the modules that contain a node."""

_CONSTANTS = "initializers"
"""Name that onnx2torch gives to the module of constants."""


class Scope(nn.Module):
    """A group of nodes, under the name that their names begin with; its value is the group's."""

    def forward(self, value: Any) -> Any:
        """Return the value, so that hooks meet it here."""
        return value


class NumberedScope(Scope, nn.ModuleList):
    """A group of numbered groups, such as the blocks of a transformer."""


def layer_names(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Return unique names for ``named_modules``, such as ``layer4.1.conv1``.

    A node that is alone in its group has the group's name; others add the operator's.
    """
    paths = [_path(node) for node in nodes]
    sizes = Counter(".".join(scope[: i + 1]) for scope, _ in paths for i in range(len(scope)))
    names: list[str] = []
    taken = {*sizes, _CONSTANTS}
    for scope, leaf in paths:
        group = ".".join(scope)
        if group and sizes[group] == 1:
            names.append(group)
            continue
        base = name = ".".join([*scope, leaf])
        number = 0
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        names.append(name)
    return names


def _path(node: onnx.NodeProto) -> tuple[list[str], str]:
    """Return the groups that contain a node, and its own name."""
    metadata = {entry.key: entry.value for entry in node.metadata_props}
    if _SCOPES in metadata:  # ['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']
        scopes = [str(scope) for scope in ast.literal_eval(metadata[_SCOPES])]
        known = scopes[-2] if len(scopes) > 1 and scopes[0] == "" else ""
        return _words(known), node.op_type
    parts = [part for part in node.name.split("/") if part]  # /layer1/layer1.0/conv1/Conv
    own = parts.pop() if parts else node.op_type
    groups = [
        part
        for i, part in enumerate(parts)
        if not (i + 1 < len(parts) and parts[i + 1].startswith(f"{part}."))
    ]
    return _words(".".join(groups)), _word(own.replace(".", "_"))


def _words(dotted: str) -> list[str]:
    return [_word(part) for part in dotted.split(".") if part]


def _word(text: str) -> str:
    """Return a text without what has a meaning in names of layers and components."""
    return re.sub(r"[^\w-]", "_", text)


def as_network(converted: fx.GraphModule, names: Sequence[str], channels_last: bool) -> nn.Module:
    """Arrange the modules of a converted graph by name, with a module for each group.

    Parameters
    ----------
    converted
        With one module for each name, called in this order.
    channels_last
        Whether the graph takes [b h w 3]; the network takes [b 3 h w].
    """
    root, graph = _with_groups(names), converted.graph
    calls = [node for node in graph.nodes if node.op == "call_module"]
    scope_of: dict[fx.Node, str] = {}
    for call, name in zip(calls, names, strict=True):
        group, _, own = name.rpartition(".")
        root.get_submodule(group).add_module(own, converted.get_submodule(str(call.target)))
        call.target = name
        scope_of[call] = group
    for name, constants in converted.named_children():
        if name == _CONSTANTS:
            root.add_module(name, constants)
    for node in graph.nodes:
        if node not in scope_of:  # one of several results of a node
            scope_of[node] = next((scope_of[n] for n in node.all_input_nodes), "")
    for group in reversed(_groups(names)):  # inner ones first
        _end_group(graph, group, scope_of)
    if channels_last:
        _permute_input(graph)
    network = fx.GraphModule(root, graph, class_name="OnnxNetwork").eval()
    network.graph.lint()
    return network


def _groups(names: Sequence[str]) -> list[str]:
    """Return the groups of layers, each before those that it contains."""
    parts = [name.split(".") for name in names]
    return list(dict.fromkeys(".".join(p[:i]) for p in parts for i in range(1, len(p))))


def _with_groups(names: Sequence[str]) -> nn.Module:
    """Return a module with a sub-module for each group."""
    members = [*names, *_groups(names)]
    numbered = {group: True for group in _groups(names)}
    for group, _, own in (name.rpartition(".") for name in members):
        numbered[group] = numbered.get(group, False) and own.isdecimal()
    root = nn.Module()
    for group in _groups(names):
        outer, _, own = group.rpartition(".")
        scope = NumberedScope() if numbered[group] else Scope()
        root.get_submodule(outer).add_module(own, scope)
    return root


def _end_group(graph: fx.Graph, group: str, scope_of: dict[fx.Node, str]) -> None:
    """Pass the value of a group, if it has one only, through the group's module."""

    def inside(node: fx.Node) -> bool:
        scope = scope_of.get(node, "")
        return scope == group or scope.startswith(f"{group}.")

    ends = [n for n in graph.nodes if inside(n) and any(not inside(user) for user in n.users)]
    if len(ends) != 1:
        return
    outside = [user for user in ends[0].users if not inside(user)]
    with graph.inserting_after(ends[0]):
        value = graph.create_node("call_module", group, (ends[0],))
    scope_of[value] = group.rpartition(".")[0]
    for user in outside:
        user.replace_input_with(ends[0], value)


def _permute_input(graph: fx.Graph) -> None:
    images = next(node for node in graph.nodes if node.op == "placeholder")
    users = list(images.users)
    with graph.inserting_after(images):
        permuted = graph.call_function(torch.permute, (images, (0, 2, 3, 1)))
    for user in users:
        user.replace_input_with(images, permuted)
