"""Relevance by automatic differentiation, independent of the engine: what its heatmaps must be.

With the epsilon rule everywhere and a vanishing epsilon, LRP is gradient times input of the network
in which each function that is zero at zero is replaced by its chord ``x (f(x) / x)``, with the
quotient a constant (Ancona et al. 2018; Achtibat et al. 2024), each normalisation divides by a
constant, each gate and each attention weight is a constant, and of other products each factor gets
half. Here the network is traced by ``make_fx``, not by ``torch.export``, and PyTorch
differentiates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from semlens.models.activations import first_tensor

aten = torch.ops.aten

_CHORDS = {
    aten.relu, aten.silu, aten.gelu, aten.hardswish, aten.mish, aten.leaky_relu, aten.elu,
    aten.tanh, aten.hardtanh, aten._prelu_kernel, aten.clamp, aten.clamp_min, aten.clamp_max,
    aten.pow, aten.celu,
}  # fmt: skip
"""Functions that are zero at zero."""
_GATES = {
    aten.sigmoid, aten.hardsigmoid, aten.rsqrt, aten.sqrt, aten.reciprocal, aten.sign,
    aten.linalg_vector_norm, aten.var, aten.exp, aten._softmax,
}  # fmt: skip
"""Functions of which the result scales other values."""
_MOVES = {
    getattr(aten, name)
    for name in (
        "view _unsafe_view expand permute transpose t unsqueeze squeeze slice select clone alias "
        "cat mul add sub div mean sum split split_with_sizes unbind upsample_nearest2d clamp_min "
        "upsample_bilinear2d detach flip index neg rsub stack repeat constant_pad_nd"
    ).split()
}
"""Functions of gates that are gates."""
_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
_PRODUCTS = (aten.mul, aten.bmm, aten.mm)
_BATCH_NORMS = (aten.native_batch_norm, aten._native_batch_norm_legit)
_TINY = 1e-12


class _Chords(fx.Interpreter):
    """Runs a traced network with its functions replaced; ``gates`` grows on the way."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self._gates: set[fx.Node] = set()
        self._live: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        sources = [source for source in n.all_input_nodes if source in self._live]
        if n.op == "placeholder" or sources:
            self._live.add(n)
        packet = getattr(n.target, "overloadpacket", n.target)
        passes = packet in _MOVES or n.op == "call_function" and "getitem" in str(n.target)
        if packet in _GATES or (passes and sources and self._gates.issuperset(sources)):
            self._gates.add(n)
        self._node = n
        return super().run_node(n)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        packet = getattr(target, "overloadpacket", target)
        if packet in (aten.view, aten._unsafe_view):  # the replacements may have other strides
            return args[0].reshape(args[1])
        if packet in _CHORDS and isinstance(args[0], Tensor):
            return self._chord(target, args, kwargs)
        if packet in _PRODUCTS or packet == aten.div:
            return self._product(target, args, kwargs)
        if packet == aten.glu:
            value, gate = args[0].chunk(2, *args[1:])
            return value * gate.sigmoid().detach()
        if packet in _BATCH_NORMS and any(one is True for one in args):  # of its own statistics
            return self._instance_normed(target, args)
        if packet in (aten.native_layer_norm, aten.native_group_norm):
            return self._normalised(target, packet, args)
        if packet is _ATTENTION:
            q, k, v = args[:3]
            scale = kwargs.get("scale") or q.shape[-1] ** -0.5
            mask = kwargs.get("attn_mask")
            scores = q @ k.transpose(-1, -2) * scale
            weights = (scores if mask is None else scores + mask).softmax(-1)
            return weights.detach() @ v, None
        return super().call_function(target, args, kwargs)

    def _chord(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x: Tensor = args[0]
        y: Tensor = target(x, *args[1:], **kwargs)
        if bool(target(torch.zeros_like(x), *args[1:], **kwargs).any()):  # bounds exclude zero
            return y
        near = x.abs() < _TINY
        tiny = torch.full_like(x, 1e-6)
        slope = torch.where(near, target(tiny, *args[1:], **kwargs) / tiny, y / x.where(~near, 1))
        return x * slope.detach()

    def _product(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nodes: Any = self._node.args[:2]
        live = [isinstance(node, fx.Node) and node in self._live for node in nodes]
        a, b = args[:2]
        if not all(live):
            return target(*args, **kwargs)
        if getattr(target, "overloadpacket", None) == aten.div:
            return target(a, b.detach(), **kwargs)
        gates = [node in self._gates for node in nodes]
        if gates[0] != gates[1]:
            return target(a.detach(), b) if gates[0] else target(a, b.detach())
        return (target(a, b.detach()) + target(a.detach(), b)) / 2

    def _instance_normed(self, target: Any, args: tuple[Any, ...]) -> Any:
        x, weight, bias = args[:3]
        plain = target(*args)
        axes, shape = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
        scale = torch.rsqrt(x.var(axes, unbiased=False, keepdim=True) + args[-1]).detach()
        y = (x - x.mean(axes, keepdim=True)) * scale
        y = y if weight is None else y * weight.view(shape)
        return (y if bias is None else y + bias.view(shape), *plain[1:])

    def _normalised(self, target: Any, packet: Any, args: tuple[Any, ...]) -> Any:
        x: Tensor = args[0]
        plain = target(*args)
        if packet == aten.native_layer_norm:
            axes = tuple(range(-len(args[1]), 0))
            y = (x - x.mean(axes, keepdim=True)) * plain[2].detach().to(x)
            weight, bias = args[2:4]
            y = y if weight is None else y * weight
            return (y if bias is None else y + bias, *plain[1:])
        weight, bias, count, channels, _, groups = args[1:7]
        parts = x.reshape(count, groups, -1)
        y = (parts - parts.mean(2, keepdim=True)) * plain[2].detach()[..., None]
        y = y.reshape(x.shape)
        shape = (1, channels, *[1] * (x.ndim - 2))
        y = y if weight is None else y * weight.view(shape)
        return (y if bias is None else y + bias.view(shape), *plain[1:])


def layer_output(module: nn.Module, layer: str) -> Callable[[Tensor], Tensor]:
    """Return the function from a batch to the output of a layer."""
    part = module.get_submodule(layer)

    def run(batch: Tensor) -> Tensor:
        found: list[Tensor] = []
        hook = part.register_forward_hook(lambda *given: found.append(first_tensor(given[2])))
        try:
            module(batch)
        finally:
            hook.remove()
        return found[0]

    return run


def chord_heatmap(module: nn.Module, layer: str, batch: Tensor, flow: Tensor) -> Tensor:
    """Return the relevance of each pixel, float64[b h w], for the layer's values times ``flow``."""
    run = layer_output(module, layer)
    with torch.no_grad():
        traced = make_fx(functionalize(run))(batch)
    inputs = batch.clone().requires_grad_()
    with torch.enable_grad():
        output = _Chords(traced).run(inputs)
        (gradient,) = torch.autograd.grad((output * flow).sum(), inputs)
    return (gradient * batch).sum(1)


def gradient_heatmap(module: nn.Module, layer: str, batch: Tensor, flow: Tensor) -> Tensor:
    """Return gradient times input of the layer's values times ``flow``, float64[b h w]."""
    inputs = batch.clone().requires_grad_()
    with torch.enable_grad():
        output = layer_output(module, layer)(inputs)
        (gradient,) = torch.autograd.grad((output * flow).sum(), inputs)
    return (gradient * batch).sum(1)
