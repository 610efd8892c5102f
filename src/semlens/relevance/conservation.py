"""Checking conservation: how much relevance reaches the pixels, and what absorbs the rest.

Biases and the shifts of normalisations absorb relevance, so that less, or more, than the logit may
reach the pixels. :func:`check_conservation` accounts for all of it. What an operation absorbs is
derived from its rule's equation and its inputs alone, so that the residual tests the propagation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64, Int
from rich.table import Table
from torch import Tensor
from torch.utils._pytree import tree_map_only

from semlens.errors import RelevanceError
from semlens.models.target import Target
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.captured_graph import OpNode
from semlens.relevance.class_relevance import class_seed, target_seed
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.protocols import OUTPUT, ForwardTrace, RelevanceEngine
from semlens.relevance.rules.affine import Affine, Epsilon, Gamma, ZPlus
from semlens.relevance.rules.base import Attention, GroupNorm, LayerNorm, Rule, Taylor
from semlens.relevance.rules.structure import Gradient, Join, Sum, is_float

BIAS = "biases"
STABILISER = "stabilisers"
SHIFT = "shifts of normalisations"
CONSTANT = "constants"
EXPANSION = "expansions"
LINEARISED = "linearisation of the target"

KINDS = (BIAS, STABILISER, SHIFT, CONSTANT, EXPANSION)
"""Kinds of absorption. Constants are values that do not depend on the image: positional
embeddings, class tokens, the shift of a batch normalisation that stands alone. A target that is
not linear in the output starts with its linearisation, gradient times output."""

Absorbed = Mapping[str, Tensor]
"""Relevance that an operation absorbs per unit of the signal, by kind, in its output's shape."""


@dataclass(frozen=True, repr=False)
class Conservation:
    """Where the relevance of one logit or target per image ends up, in its units."""

    rules: str
    """Name of the rules."""
    start: Float64[np.ndarray, " u"]
    """The logit or target of each image, with which relevance is seeded."""
    layers: Mapping[str, Float64[np.ndarray, " u"]]
    """What reached each layer; a layer parallel to a shortcut receives a part."""
    pixels: Float64[np.ndarray, " u"]
    """What reached the pixels."""
    absorbed: Mapping[str, Float64[np.ndarray, " u"]]
    """What was absorbed, by kind; empty for ``gradient``."""
    by_module: Mapping[str, Float64[np.ndarray, " u"]] = field(default_factory=dict)
    """What was absorbed, by the module that contains the operation."""
    before_layers: Float64[np.ndarray, " u"] = field(default_factory=lambda: np.zeros(0))
    """What was absorbed between the output and the earliest of the layers."""

    @property
    def largest_loss(self) -> str:
        """The kind and module that absorb most of the median image's logit; empty if unknown."""
        nonzero = self.start != 0
        if not nonzero.any():
            return ""

        def share(total: Float64[np.ndarray, " u"]) -> float:
            return float(np.median(total[nonzero] / self.start[nonzero]))

        kinds = {kind: share(total) for kind, total in self.absorbed.items()}
        modules = {name: share(total) for name, total in self.by_module.items()}
        if not any(kinds.values()):
            return ""
        kind = max(kinds, key=lambda name: abs(kinds[name]))
        module = max(modules, key=lambda name: abs(modules[name]))
        place = f", most in '{module}' ({modules[module]:.2f})" if module else ""
        return f"{kind.capitalize()} absorb {kinds[kind]:.2f} of the logit{place}."

    @property
    def residual(self) -> Float64[np.ndarray, " u"]:
        """What is not accounted for; zero up to rounding if ``absorbed`` is known."""
        return self.start - self.pixels - sum(self.absorbed.values(), np.zeros_like(self.start))

    @property
    def notice(self) -> str:
        """A remark on logits that are exactly zero; empty if there are none."""
        zeros = int((self.start == 0).sum())
        text = (
            f"The logit is exactly 0 on {zeros} of {len(self.start)} images, as with a "
            "zero-initialised head: they have no relevance and no shares."
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
        nonzero = self.start != 0
        records: list[dict[str, Any]] = []
        for part, name, total, ideal in rows if nonzero.any() else ():
            share = total[nonzero] / self.start[nonzero]
            worst = share[np.argmax(np.abs(share - ideal))]
            records.append(
                {"part": part, "name": name, "share": share.mean(), "worst": float(worst)}
            )
        return pd.DataFrame(records, columns=["part", "name", "share", "worst"])

    def __repr__(self) -> str:
        """Return the table as text."""
        frame = self.to_pandas()
        table = frame.to_string(index=False, float_format="{:.4f}".format) if len(frame) else ""
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


def check_conservation(
    engine: RelevanceEngine,
    inputs: Float[Tensor, "u channels h w"],
    targets: Int[Tensor, " u"] | Target | None = None,
) -> Conservation:
    """Propagate one logit or target per image to the pixels, and account for all of its relevance.

    Parameters
    ----------
    engine
        Its layers are reported. For ``gradient``, what was absorbed is not known.
    inputs
        Preprocessed images. They are processed one by one, since every operation's value is kept.
    targets
        Logit of each image, by default the largest; or one target of all, for which the engine
        keeps the model's output (``outputs``) unless it is read off the answer.

    Raises
    ------
    RelevanceError
        If the model has no logits, or a target is not one of them.
    """
    own = [targets[[i]] if isinstance(targets, Tensor) else targets for i in range(len(inputs))]
    accounts = [_account(engine, inputs[[i]], one) for i, one in enumerate(own)]

    def column(part: str, name: str = "") -> Float64[np.ndarray, " u"]:
        return np.array([account.get((part, name), 0.0) for account in accounts])

    kinds = (*KINDS, LINEARISED) if isinstance(targets, Target) else KINDS
    return Conservation(
        engine.rules.name,
        column("start"),
        {name: column("layer", name) for name in engine.layers},
        column("pixels"),
        {kind: column("absorbed", kind) for kind in kinds if isinstance(engine, LRPEngine)},
        {name: column("module", name) for part, name in [*chain(*accounts)] if part == "module"},
        column("before layers"),
    )


def conserved_shares(
    engine: RelevanceEngine, inputs: Float[Tensor, "u channels h w"]
) -> Float64[np.ndarray, " n"]:
    """Return the share of each image's largest logit that reaches the pixels.

    A single 1 if nothing can be measured: the model has no logits, or they are all zero.
    """
    try:
        trace = engine.trace(inputs)
        targets = _targets(trace, None)
        seed = class_seed(trace, targets)
    except RelevanceError:
        return np.ones(1)
    heatmaps = trace.backward({OUTPUT: seed}).heatmaps
    logit = _double(trace.logits).gather(1, targets[0].cpu()[:, None])[:, 0]
    pixels = torch.zeros_like(logit) if heatmaps is None else _double(heatmaps[0]).sum((1, 2))
    nonzero = logit != 0
    conserved = (pixels[nonzero] / logit[nonzero]).nan_to_num(torch.inf).numpy()
    return conserved if len(conserved) else np.ones(1)


def _account(
    engine: RelevanceEngine, inputs: Tensor, targets: Tensor | Target | None
) -> Mapping[tuple[str, str], float]:
    """Return the rows of :class:`Conservation` for one image, by part and name."""
    account: dict[tuple[str, str], float] = {}
    trace = engine.trace(inputs, keep_all=True)
    seed = target_seed(trace, targets) if isinstance(targets, Target) else None
    targets = None if isinstance(targets, Target) else targets
    signals = seed.signals if seed else {OUTPUT: class_seed(trace, _targets(trace, targets))}
    later = engine.after_layers() if isinstance(engine, LRPEngine) else frozenset[OpNode]()

    def absorb(rule: Rule, signal: BackwardSignal) -> None:
        places = [("module", rule.node.module), *[("before layers", "")] * (rule.node in later)]
        for kind, share in absorbed_relevance(rule, trace.all_values).items():
            total = _total(signal.values[0], share)
            for key in (("absorbed", kind), *places):
                account[key] = account.get(key, 0.0) + total

    result = trace.backward(signals, engine.layers, on_rule=absorb)
    for name, layer_signal in result.layers.items():  # only layers that relevance reaches
        account["layer", name] = _total(trace.values[name], layer_signal[0])
    linear = sum(_total(trace.values[name], signal.values[0]) for name, signal in signals.items())
    account["start", ""] = float(seed.value.sum()) if seed else linear
    account["absorbed", LINEARISED] = account["start", ""] - linear
    account["pixels", ""] = (
        0.0 if result.heatmaps is None else float(_double(result.heatmaps).sum())
    )
    return account


def _targets(trace: ForwardTrace, targets: Tensor | None) -> Tensor:
    """Return int64[1 u], by default the largest of the scores, even if they are no classes'."""
    return (trace.logits.argmax(1) if targets is None else targets)[None]


def _total(first: Tensor, second: Tensor) -> float:
    return float((_double(first) * _double(second)).sum())


def _double(values: Tensor) -> Tensor:
    """Return a copy in float64 on the CPU: not every device has float64."""
    return values.detach().cpu().double()


def absorbed_relevance(rule: Rule, values: Mapping[OpNode, Any]) -> Absorbed:
    """Return what a rule absorbs, per unit of the signal that reaches its node.

    Parameters
    ----------
    values
        Every operation's value.

    Returns
    -------
    Mapping
        By kind, in a shape that broadcasts to the node's value; empty for an operation that
        conserves relevance.
    """
    derive = _ABSORPTION.get(type(rule))
    return derive(rule, values) if derive else {}


def _stabilised(value: Tensor, epsilon: float) -> Tensor:
    """Move values away from zero by ``epsilon``; zero becomes ``epsilon``."""
    return value + torch.where(value >= 0, epsilon, -epsilon)


def _epsilon(rule: Epsilon, values: Mapping[OpNode, Any]) -> Absorbed:
    y = values[rule.node]
    ratio = y / _stabilised(y, rule.epsilon)
    return _with_bias(ratio, y - ratio * y, rule, rule.operator.bias)


def _zplus(rule: ZPlus, values: Mapping[OpNode, Any]) -> Absorbed:
    x, y, operator = values[rule.source], values[rule.node], rule.operator
    bias = None if operator.bias is None else operator.bias.clamp(min=0)
    z = operator.apply(x.clamp(min=0), operator.weight.clamp(min=0), bias)
    z = z + operator.apply(x.clamp(max=0), operator.weight.clamp(max=0), None)
    ratio = y / (z + rule.epsilon)
    return _with_bias(ratio, y - ratio * z, rule, bias)


def _gamma(rule: Gamma, values: Mapping[OpNode, Any]) -> Absorbed:
    x, y, operator = values[rule.source], values[rule.node], rule.operator
    absorbed: dict[str, Tensor] = {}
    for sign in (1, -1):  # of the outputs, and so of the contributions that are favoured

        def favoured(value: Tensor, direction: int = sign) -> Tensor:
            return value + rule.gamma * direction * (value * direction).clamp(min=0)

        matching = torch.where(y * sign > 0, y, 0)
        bias = None if operator.bias is None else favoured(operator.bias)
        z = operator.apply(x.clamp(min=0), favoured(operator.weight), bias)
        z = z + operator.apply(x.clamp(max=0), favoured(operator.weight, -sign), None)
        ratio = matching / _stabilised(z, rule.epsilon)
        for kind, share in _with_bias(ratio, matching - ratio * z, rule, bias).items():
            absorbed[kind] = absorbed[kind] + share if kind in absorbed else share
    return absorbed


def _with_bias(ratio: Tensor, remainder: Tensor, rule: Affine, bias: Tensor | None) -> Absorbed:
    if bias is None:
        return {STABILISER: remainder}
    is_dense = rule.node.target == torch.ops.aten.linear.default
    shape = (-1,) if is_dense else (-1, *[1] * (ratio.ndim - 2))
    return {STABILISER: remainder, BIAS: ratio * bias.view(shape)}


def _sum(rule: Sum, values: Mapping[OpNode, Any]) -> Absorbed:
    y = values[rule.node]
    ratio = y / _stabilised(y, rule.epsilon)
    absorbed = {STABILISER: y - ratio * y}
    for term, weight in zip(rule.node.args[:2], rule.weights, strict=True):
        if not (isinstance(term, OpNode) and term.live):
            constant = values[term] if isinstance(term, OpNode) else term
            absorbed[CONSTANT] = ratio * constant * weight
    return absorbed


def _layer_norm(rule: LayerNorm, values: Mapping[OpNode, Any]) -> Absorbed:
    node = rule.node
    bias = node.arg(3) if "layer_norm" in str(node.target) else None
    return {} if bias is None else {SHIFT: bias}


def _group_norm(rule: GroupNorm, values: Mapping[OpNode, Any]) -> Absorbed:
    bias = rule.node.arg(3)
    axes = values[rule.node].ndim - 2
    return {} if bias is None else {SHIFT: bias.view(-1, *[1] * axes)}


def _taylor(rule: Taylor, values: Mapping[OpNode, Any]) -> Absorbed:
    """Return ``f(x) - f'(x) x``, the constant term; masked inputs count as zero."""
    node, x = rule.node, values[rule.node.args[0]]
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        y = node.target(leaf, *node.args[1:], **node.kwargs)
        # the derivative along x itself: that of the pulled-back vector, which is linear in it
        pulled_from = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, leaf, pulled_from, create_graph=True)
        direction = torch.where(x.isfinite(), x, 0)
        (slope,) = torch.autograd.grad(pulled, pulled_from, direction)
    return {EXPANSION: y.detach() - slope}


def _softmax_expansion(x: Tensor, y: Tensor, axis: int) -> Tensor:
    """Return ``y (x - sum of y x)``: the first-order part of a softmax, which is propagated.

    Masked inputs, at minus infinity, count as zero.
    """
    x = torch.where(y > 0, x, 0)
    return y * (x - (y * x).sum(axis, keepdim=True))


def _attention(rule: Attention, values: Mapping[OpNode, Any]) -> Absorbed:
    if rule.constant:
        return {}
    y, (_, (q, k, v, weights, scale)) = values[rule.node], rule.forward(dict(values))
    scores = q @ k.transpose(-1, -2) * scale
    return {EXPANSION: (y - _softmax_expansion(scores, weights, -1) @ v) / 2}


def _join(rule: Join, values: Mapping[OpNode, Any]) -> Absorbed:
    def constant(item: Any) -> Tensor:
        value = values[item] if isinstance(item, OpNode) else item
        return torch.zeros_like(value) if isinstance(item, OpNode) and item.live else value

    constants = [constant(item) for item in rule.node.args[0]]
    return {CONSTANT: torch.cat(constants, rule.node.arg(1, 0))}


def _gradient(rule: Gradient, values: Mapping[OpNode, Any]) -> Absorbed:
    def at_zero(node: OpNode) -> Any:
        value = values[node]
        return torch.zeros_like(value) if node.live and is_float(value) else value

    args, kwargs = tree_map_only(OpNode, at_zero, (rule.node.args, rule.node.kwargs))
    return {CONSTANT: rule.node.target(*args, **kwargs)}


_ABSORPTION: Mapping[type[Rule], Callable[[Any, Mapping[OpNode, Any]], Absorbed]] = {
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
