"""The account of relevance: whether it is conserved, and if not, what has absorbed it.

A biased layer keeps relevance for its bias, a normalisation for its shift: what arrives at the
pixels may be less, or more, than the start. :func:`check` accounts for all of it. What an
operation absorbs is derived here from its rule's equation and its inputs alone, apart from the
code that propagates, so that the remainder of the account tests that code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from rich.table import Table
from torch import Tensor
from torch.utils._pytree import tree_map_only

from semlens.errors import RelevanceError
from semlens.relevance.captured_graph import OpNode
from semlens.relevance.class_relevance import class_seed
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.protocols import OUTPUT, ForwardTrace, RelevanceEngine
from semlens.relevance.relevance_signal import RelevanceSignal
from semlens.relevance.rules.activation import GroupNorm, LayerNorm, Taylor
from semlens.relevance.rules.affine import Affine, Epsilon, Gamma, ZPlus
from semlens.relevance.rules.base import Rule, stabilised
from semlens.relevance.rules.product import Attention
from semlens.relevance.rules.structure import Gradient, Join, Sum, is_float

BIAS = "biases"
STABILISER = "stabilisers"
SHIFT = "shifts of normalisations"
CONSTANT = "constants"
SOFTMAX = "softmax and sigmoid"

KINDS = (BIAS, STABILISER, SHIFT, CONSTANT, SOFTMAX)
"""What can absorb relevance. Constants are values that do not depend on the image: positional
embeddings, class tokens, the shift of a batch normalisation that stands alone."""

Absorbed = Mapping[str, Tensor]
"""By kind, relevance that an operation keeps per unit of the flow, in its output's shape."""


@dataclass(frozen=True, repr=False)
class Conservation:
    """Where the relevance of one logit per image has gone, in units of the logit."""

    rules: str
    """Name of the rules."""
    start: Float64[np.ndarray, " u"]
    """The logit of each image, which relevance starts with."""
    layers: Mapping[str, Float64[np.ndarray, " u"]]
    """What reached each layer; a layer beside a shortcut gets a part."""
    pixels: Float64[np.ndarray, " u"]
    """What reached the pixels."""
    absorbed: Mapping[str, Float64[np.ndarray, " u"]]
    """What stayed on the way, by kind; empty for rules that keep no account (``gradient``)."""

    @property
    def residual(self) -> Float64[np.ndarray, " u"]:
        """What is not accounted for: zero, up to rounding, wherever ``absorbed`` is known."""
        return self.start - self.pixels - sum(self.absorbed.values(), np.zeros_like(self.start))

    @property
    def notice(self) -> str:
        """What is to be said of logits that are exactly zero; empty if there are none."""
        zeros = int((self.start == 0).sum())
        text = (
            f"The logit is exactly 0 on {zeros} of {len(self.start)} images, as with a head that "
            "is initialised with zeros: no relevance starts there, and they have no shares."
        )
        return text if zeros else ""

    def to_pandas(self) -> pd.DataFrame:
        """Return one row per layer, for the pixels, per absorbing kind and for the residual.

        ``share`` is the mean over images of the relevance divided by the start; ``worst`` is
        that of the image where it is farthest from 1 (layers, pixels) or from 0 (the rest).
        Images whose logit is zero are left out, see :attr:`notice`; without others there are
        no rows.
        """
        rows = [
            *(("layer", name, total, 1.0) for name, total in self.layers.items()),
            ("pixels", "", self.pixels, 1.0),
            *(("absorbed", name, total, 0.0) for name, total in self.absorbed.items()),
            ("residual", "", self.residual, 0.0),
        ]
        counted = self.start != 0
        records: list[dict[str, Any]] = []
        for part, name, total, ideal in rows if counted.any() else ():
            share = total[counted] / self.start[counted]
            worst = share[np.argmax(np.abs(share - ideal))]
            records.append(
                {"part": part, "name": name, "share": share.mean(), "worst": float(worst)}
            )
        return pd.DataFrame(records, columns=["part", "name", "share", "worst"])

    def __repr__(self) -> str:
        """Return the table as text."""
        found = self.to_pandas()
        table = found.to_string(index=False, float_format="{:.4f}".format) if len(found) else ""
        lines = (f"{self._title()}, in shares of the logit", self.notice, table)
        return "\n".join(line for line in lines if line)

    def __rich__(self) -> Table:
        """Return the table for a terminal."""
        table = Table("part", "name", title=self._title(), caption=self.notice or None)
        for column in ("share", "worst"):
            table.add_column(column, justify="right")
        for part, name, share, worst in self.to_pandas().itertuples(index=False):
            table.add_row(part, name, f"{share:.4f}", f"{worst:.4f}")
        return table

    def _title(self) -> str:
        images = "1 image" if len(self.start) == 1 else f"{len(self.start)} images"
        return f"Conservation of '{self.rules}' on {images}"


def check(
    engine: RelevanceEngine,
    inputs: Float[Tensor, "u 3 h w"],
    targets: Int[Tensor, " u"] | None = None,
) -> Conservation:
    """Follow one logit per image down to the pixels, and account for all of its relevance.

    Parameters
    ----------
    engine
        Its layers are reported. For ``gradient`` only totals are.
    inputs
        Preprocessed images. They run one by one, since every operation's value is kept.
    targets
        Logit of each image; by default the largest.

    Raises
    ------
    RelevanceError
        If the model has no logits, or a target is not one of them.
    """
    found = [
        _account(engine, inputs[i : i + 1], None if targets is None else targets[i : i + 1])
        for i in range(len(inputs))
    ]

    def column(part: str, name: str = "") -> Float64[np.ndarray, " u"]:
        return np.array([one.get((part, name), 0.0) for one in found])

    return Conservation(
        engine.rules.name,
        column("start"),
        {name: column("layer", name) for name in engine.layers},
        column("pixels"),
        {kind: column("absorbed", kind) for kind in KINDS if isinstance(engine, LRPEngine)},
    )


def conserved(
    engine: RelevanceEngine, inputs: Float[Tensor, "u 3 h w"]
) -> Float64[np.ndarray, " n"]:
    """Return the share of each image's largest logit that reaches the pixels.

    A single one where nothing can be measured: the model has no logits, or they are zero.
    """
    try:
        trace = engine.trace(inputs)
        start = class_seed(trace, _targets(trace, None))
    except RelevanceError:
        return np.ones(1)
    heat = trace.pull({OUTPUT: start}).heat
    logit = trace.values[OUTPUT].detach().double().amax(1)
    pixels = torch.zeros_like(logit) if heat is None else heat[0].detach().double().sum((1, 2))
    counted = logit != 0
    shares = (pixels[counted] / logit[counted]).nan_to_num(torch.inf).cpu().numpy()
    return shares if len(shares) else np.ones(1)


def _account(
    engine: RelevanceEngine, inputs: Tensor, targets: Tensor | None
) -> Mapping[tuple[str, str], float]:
    """Return the rows of :class:`Conservation` for one image, by part and name."""
    found: dict[tuple[str, str], float] = {}
    trace = engine.trace(inputs, keep_all=True)
    start = class_seed(trace, _targets(trace, targets))

    def seen(rule: Rule, flow: RelevanceSignal) -> None:
        for kind, share in shares_kept(rule, trace.every).items():
            place = ("absorbed", kind)
            found[place] = found.get(place, 0.0) + _total(flow.values[0], share)

    pulled = trace.pull({OUTPUT: start}, engine.layers, seen=seen)
    for name, passed in pulled.layers.items():  # without those that nothing has reached
        found["layer", name] = _total(trace.values[name], passed[0])
    found["start", ""] = _total(trace.values[OUTPUT], start.values[0])
    found["pixels", ""] = 0.0 if pulled.heat is None else float(pulled.heat.double().sum())
    return found


def _targets(trace: ForwardTrace, targets: Tensor | None) -> Tensor:
    """Return int64[1 u], the largest logits by default; nothing is chosen where there are none."""
    if targets is not None:
        return targets[None]
    scores = trace.values.get(OUTPUT)
    if scores is None or scores.ndim != 2:  # which is refused where relevance starts
        return torch.zeros(1, 1, dtype=torch.int64)
    return scores.detach().argmax(1)[None]


def _total(first: Tensor, second: Tensor) -> float:
    return float((first.detach().double() * second.detach().double()).sum())


def shares_kept(rule: Rule, values: Mapping[OpNode, Any]) -> Absorbed:
    """Return what a rule keeps to itself, per unit of the flow that reaches its node.

    Parameters
    ----------
    values
        Every operation's value.

    Returns
    -------
    Mapping
        By kind, in the shape of the node's value or one that broadcasts to it; empty for an
        operation that passes everything on.
    """
    derive = _DERIVED.get(type(rule))
    return derive(rule, values) if derive else {}


def _epsilon(rule: Epsilon, values: Mapping[OpNode, Any]) -> Absorbed:
    y = values[rule.node]
    part = y / stabilised(y, rule.epsilon)
    return _with_bias(part, y - part * y, rule, rule.operator.bias)


def _zplus(rule: ZPlus, values: Mapping[OpNode, Any]) -> Absorbed:
    x, y, op = values[rule.source], values[rule.node], rule.operator
    bias = None if op.bias is None else op.bias.clamp(min=0)
    z = op.run(x.clamp(min=0), op.weight.clamp(min=0), bias)
    z = z + op.run(x.clamp(max=0), op.weight.clamp(max=0), None)
    part = y / (z + rule.epsilon)
    return _with_bias(part, y - part * z, rule, bias)


def _gamma(rule: Gamma, values: Mapping[OpNode, Any]) -> Absorbed:
    x, y, op = values[rule.source], values[rule.node], rule.operator
    kept: dict[str, Tensor] = {}
    for sign in (1, -1):  # of the outputs, and of the contributions that they favour

        def favoured(value: Tensor, of: int = sign) -> Tensor:
            return value + rule.gamma * of * (value * of).clamp(min=0)

        mine = torch.where(y * sign > 0, y, 0)
        bias = None if op.bias is None else favoured(op.bias)
        z = op.run(x.clamp(min=0), favoured(op.weight), bias)
        z = z + op.run(x.clamp(max=0), favoured(op.weight, -sign), None)
        part = mine / stabilised(z, rule.epsilon)
        for kind, share in _with_bias(part, mine - part * z, rule, bias).items():
            kept[kind] = kept[kind] + share if kind in kept else share
    return kept


def _with_bias(part: Tensor, rest: Tensor, rule: Affine, bias: Tensor | None) -> Absorbed:
    if bias is None:
        return {STABILISER: rest}
    dense = rule.node.target == torch.ops.aten.linear.default
    return {STABILISER: rest, BIAS: part * (bias if dense else bias[:, None, None])}


def _sum(rule: Sum, values: Mapping[OpNode, Any]) -> Absorbed:
    y = values[rule.node]
    part = y / stabilised(y, rule.epsilon)
    kept = {STABILISER: y - part * y}
    for term, weight in zip(rule.node.args[:2], rule.weights, strict=True):
        if not (isinstance(term, OpNode) and term.live):
            constant = values[term] if isinstance(term, OpNode) else term
            kept[CONSTANT] = part * constant * weight
    return kept


def _layer_norm(rule: LayerNorm, values: Mapping[OpNode, Any]) -> Absorbed:
    node = rule.node
    bias = node.arg(3) if "layer_norm" in str(node.target) else None
    return {} if bias is None else {SHIFT: bias}


def _group_norm(rule: GroupNorm, values: Mapping[OpNode, Any]) -> Absorbed:
    bias = rule.node.arg(3)
    axes = values[rule.node].ndim - 2
    return {} if bias is None else {SHIFT: bias.view(-1, *[1] * axes)}


def _taylor(rule: Taylor, values: Mapping[OpNode, Any]) -> Absorbed:
    x, y = values[rule.node.args[0]], values[rule.node]
    if "softmax" not in str(rule.node.target):
        return {SOFTMAX: y - x * y * (1 - y)}
    return {SOFTMAX: y - _spread(x, y, rule.node.args[1])}


def _spread(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Return ``y (x - mean of x)``: what a softmax passes on of each of its outputs.

    Inputs at minus infinity, which a mask has taken out, count nothing.
    """
    x = torch.where(y > 0, x, 0)
    return y * (x - (y * x).sum(axis, keepdim=True))


def _attention(rule: Attention, values: Mapping[OpNode, Any]) -> Absorbed:
    if rule.constant:
        return {}
    y, (_, (q, k, v, weights, scale)) = values[rule.node], rule.forward(dict(values))
    scores = q @ k.transpose(-1, -2) * scale
    return {SOFTMAX: (y - _spread(scores, weights, -1) @ v) / 2}


def _join(rule: Join, values: Mapping[OpNode, Any]) -> Absorbed:
    def constant(part: Any) -> Tensor:
        value = values[part] if isinstance(part, OpNode) else part
        return torch.zeros_like(value) if isinstance(part, OpNode) and part.live else value

    parts = [constant(part) for part in rule.node.args[0]]
    return {CONSTANT: torch.cat(parts, rule.node.arg(1, 0))}


def _gradient(rule: Gradient, values: Mapping[OpNode, Any]) -> Absorbed:
    def at_zero(node: OpNode) -> Any:
        value = values[node]
        return torch.zeros_like(value) if node.live and is_float(value) else value

    args, kwargs = tree_map_only(OpNode, at_zero, (rule.node.args, rule.node.kwargs))
    return {CONSTANT: rule.node.target(*args, **kwargs)}


_DERIVED: Mapping[type[Rule], Callable[[Any, Mapping[OpNode, Any]], Absorbed]] = {
    Epsilon: _epsilon,
    ZPlus: _zplus,
    Gamma: _gamma,
    Sum: _sum,
    LayerNorm: _layer_norm,
    GroupNorm: _group_norm,
    Taylor: _taylor,
    Attention: _attention,
    Join: _join,
    Gradient: _gradient,
}
