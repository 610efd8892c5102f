"""Whether models of all kinds build, and whether their relevance is exact.

    python -m benchmarks zoo [--json] [--quick] [--only NAME ...]

About 70 architectures of torchvision, timm and transformers with random weights, and handwritten
ones. Of each: `build`, a whole database from a few pictures, `ok` or the error; `relevance`,
`exact` if LRP's rules cover all operators, else `fallback` with the `operators` that have none;
`gradient_check`, the largest difference of its heatmaps from gradient times input of the network of
chords (oracle.py; of a fallback, from PyTorch's gradient), as a share of the largest value;
`conservation`, the part of a logit that is neither at the pixels nor accounted for, as a share of
the logit (null without logits, or for a fallback, which accounts for nothing); `pixels`, the share
of the logit at the pixels, and `absorbed`, what absorbed most; seconds and peak memory.
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import semlens as sl
from benchmarks.cases.zoo.architectures import ARCHITECTURES, QUICK, Architecture
from benchmarks.cases.zoo.oracle import chord_heatmap, gradient_heatmap
from benchmarks.harness import Meter, benchmark, log, table
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.conservation import check_conservation
from semlens.relevance.make_engine import FallbackWarning, engine_for
from semlens.relevance.presets import GRADIENT, Rules

RULES = Rules("zoo", first="epsilon", conv="epsilon", dense="epsilon", epsilon=1e-13)
TOLERANCE = 1e-5
"""Largest difference of a check, as a share of the largest value."""
FALLBACKS = 1 / 6
"""Largest share of architectures without exact relevance."""
IMAGES = 6
DOUBLE = 5e7
"""Parameters up to which a network is checked in double precision."""
OPTIONS: dict[str, dict[str, Any]] = {
    "--only": {"nargs": "+", "metavar": "NAME", "help": "architectures, or parts of their names"}
}


def problem(result: dict[str, Any]) -> str | None:
    """Say which architectures do not build, are wrong, or that too many fall back."""
    models = result["models"]
    failed = [one["name"] for one in models if one["build"] != "ok"]
    wrong = [
        one["name"]
        for one in models
        for key in ("gradient_check", "conservation")
        if one[key] is not None and not one[key] <= TOLERANCE
    ]
    fallen = [one["name"] for one in models if one["relevance"] == "fallback"]
    said = [f"not built: {', '.join(failed)}"] if failed else []
    said += [f"wrong relevance: {', '.join(dict.fromkeys(wrong))}"] if wrong else []
    if len(models) >= len(ARCHITECTURES) and len(fallen) > FALLBACKS * len(models):
        said.append(f"more than one in six falls back: {', '.join(fallen)}")
    return "; ".join(said) or None


@benchmark(minutes=30, quoted=("docs/relevance.md",), options=OPTIONS, problem=problem)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Try all architectures."""
    started, models = time.monotonic(), []
    for name, architecture in ARCHITECTURES.items():
        chosen = name in QUICK if options.quick else not options.only
        if chosen or any(part in name for part in options.only or ()):
            models.append(try_architecture(architecture, work))
            log(", ".join(f"{key} {value}" for key, value in models[-1].items() if value != []))
    exact = sum(one["relevance"] == "exact" for one in models)
    return {
        "architectures": len(models),
        "built": sum(one["build"] == "ok" for one in models),
        "exact": exact,
        "models": models,
        "date": time.strftime("%Y-%m-%d"),
        "commit": "",
        "seconds": round(time.monotonic() - started),
    }


def try_architecture(architecture: Architecture, work: Path) -> dict[str, Any]:
    """Return the record of one architecture."""
    meter = Meter("cpu")
    found: dict[str, Any] = {"name": architecture.name, "build": "", "layers": 0}
    found |= {"relevance": None, "operators": [], "rules": None, "gradient_check": None}
    found |= {"conservation": None, "pixels": None, "absorbed": None}
    with meter.clock, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            module = architecture.module()
            subject = sl.SubjectModel(module, _preprocess(architecture.side))
            listed = sl.layers(subject).to_pandas()
            names = _chosen(listed)
            found["layers"] = len(listed)
            folder = work / re.sub(r"\W+", "-", architecture.name)
            database = sl.build(
                folder, subject, _pictures(), "semlens/demo", names, examples=2, reference=4
            )
            found["build"] = "ok" if len(database.components) else "no components"
            if sum(parameter.numel() for parameter in module.parameters()) < DOUBLE:
                module.double()
            found |= _checks(subject, architecture.side, names, listed)
        except Exception as error:  # of any model
            step = "build" if found["build"] != "ok" else "error"
            found[step] = f"{type(error).__name__}: {error}"
    reasons = [str(w.message) for w in caught if issubclass(w.category, FallbackWarning)]
    if found["relevance"] == "fallback":
        found["operators"] = _operators(reasons)
    return found | {
        "seconds": round(meter.clock.seconds, 1),
        "cpu_seconds": round(meter.clock.cpu_seconds, 1),
        "peak_mib": round(meter.read(1)["peak_mib"]),
    }


def _preprocess(side: int) -> Any:
    def preprocess(image: Image.Image) -> Tensor:
        pixels = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32)
        return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1

    return preprocess


def _pictures() -> list[Image.Image]:
    """Return pictures of smooth random colours."""
    grids = np.random.default_rng(0).integers(0, 256, (IMAGES, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(grid).resize((96, 80), Image.Resampling.BICUBIC) for grid in grids]


def _chosen(listed: Any) -> list[str]:
    """Return the first and the last block; of a network without blocks, of its layers."""
    readable = listed[(listed["runs"] == 1) & (listed["form"] != "-")]
    blocks = readable[readable["block"]]["layer"].tolist() or readable["layer"].tolist()
    return list(dict.fromkeys([blocks[0], blocks[-1]]))


def _checks(subject: sl.SubjectModel, side: int, names: list[str], listed: Any) -> dict[str, Any]:
    """Compare heatmaps with those of the oracle, and account for one logit per image."""
    batch = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    module, batch = subject.module, batch.to(next(subject.module.parameters()))
    last = listed[listed["runs"] == 1]["layer"].iloc[-1]
    engine = engine_for(subject, [*dict.fromkeys([*names, last])])
    exact = engine.rules.name != GRADIENT
    found: dict[str, Any] = {"relevance": "exact" if exact else "fallback"}
    found["rules"] = engine.rules.name
    checked = engine.with_rules(RULES) if exact else engine
    trace = checked.trace(batch)
    flow = torch.randn(trace.values[last].shape, generator=torch.Generator().manual_seed(2))
    flow = flow.to(batch)
    heat = trace.backward({last: BackwardSignal(flow[None])}).heatmaps[0]
    oracle = chord_heatmap if exact else gradient_heatmap
    expected = oracle(module, last, batch, flow)
    scale = float(expected.abs().max())
    found["gradient_check"] = float((heat - expected).abs().max()) / scale if scale else None
    if not exact:
        return found
    try:
        account = check_conservation(engine, batch)
    except sl.SemlensError:  # no logits
        return found
    start = np.where(account.start == 0, np.nan, account.start)
    found["conservation"] = float(np.abs(account.residual / start).max())
    found["pixels"] = float(np.median(account.pixels / start))
    absorbed = {kind: float(np.median(value / start)) for kind, value in account.absorbed.items()}
    kind = max(absorbed, key=lambda kind: abs(absorbed[kind]))
    found["absorbed"] = f"{kind}: {absorbed[kind]:.2f}"
    return found


def _operators(reasons: list[str]) -> list[str]:
    """Return the operators that a warning names, or the whole reason."""
    for reason in reasons:
        _, found, listed = reason.partition("without a relevance rule: ")
        if found:
            return re.findall(r"(\w+) \(\d+ x", listed)
    return [reason.partition(" Relevance is gradient")[0] for reason in reasons[:1]]


def tables(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the table of the documentation."""
    header = ["architecture", "relevance", "rules", "gradient check", "conservation", "pixels",
              "CPU s"]  # fmt: skip
    rows = [
        [
            one["name"].removesuffix("ForImageClassification"),
            _found(one),
            one["rules"],
            _power(one["gradient_check"]),
            _power(one["conservation"]),
            one["pixels"],
            one["cpu_seconds"],
        ]
        for one in result["models"]
    ]
    said = [
        ["architectures", result["architectures"]],
        ["built", result["built"]],
        ["with exact relevance", result["exact"]],
        ["CPU minutes", sum(one["cpu_seconds"] for one in result["models"]) / 60],
    ]
    return {"zoo": table(["of all", "number"], said) + "\n\n" + table(header, rows)}


def _found(one: Mapping[str, Any]) -> str:
    """Return whether it builds, whether relevance is exact, and else the operators."""
    if one["build"] != "ok":
        return "not built"
    if one["relevance"] == "exact":
        return "exact"
    named = all(operator.isidentifier() for operator in one["operators"])
    return f"fallback: {', '.join(one['operators']) if named else 'the captured pass'}"


def _power(value: float | None) -> str | None:
    return None if value is None else f"{value:.0e}"


def show(result: Mapping[str, Any]) -> None:
    """Print the table."""
    print(tables(result)["zoo"])
    print(f"\n{result['built']} of {result['architectures']} built, {result['exact']} exact.")
