"""Agreement of the labelling methods with their authors' own code.

    git clone https://github.com/Trustworthy-ML-Lab/CLIP-dissect          # 21e7697
    git clone https://github.com/oussamabouanani/neurolens csp            # b4e9c9d
    git clone https://github.com/lapalap/invert                           # 33b5bcb
    git clone https://github.com/Trustworthy-ML-Lab/Linear-Explanations   # 73bf429
    git clone https://github.com/Trustworthy-ML-Lab/Neuron_Eval           # 5538002
    python -m benchmarks labels_originals --clip-dissect CLIP-dissect --csp csp --invert invert \
        --linear-explanations Linear-Explanations --neuron-eval Neuron_Eval --semanticlens 0.2.1

Each option is optional. The code of each folder is run in an environment of its own, in another
process, on the same inputs as the labellers here: random and structured ones of several shapes,
scales and signs. Reported are the largest difference of scores, also as a share of the range of a
component's scores, and the share of components with the same best word. The exit code is 1 if a
method is beyond its tolerance. (The package ``neurolens`` of the registry, 0.1.1, is another
project: CSP's code is in the repository above.)
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from benchmarks.cases.labels_originals.parts import HELD_OUT, OFFSET, SLOPE
from benchmarks.harness import Worker, benchmark, log, reference_python
from benchmarks.worlds.labelled.synthetic import units, world
from semlens.lenses.labelling.clip_dissect import RankReorder
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.registry import make_labeller

TOP = 100
"""Examples of each component."""
SMALLEST = 1e-3
"""Smallest mean cosine that rank reorder divides by."""


@dataclass(frozen=True)
class Comparison:
    """One of our methods, with the parameters that make it the original's.

    Parameters
    ----------
    tolerance
        Largest difference, as a share of the range of a component's scores; None if scores are not
        comparable.
    same
        Smallest share of components with the same best word.
    scaled
        Whether scores are compared up to a factor per component.
    only
        Which scores are compared, from the evidence; all that the original gives by default.
    judged
        Cases of which best words must be the same; all by default.
    """

    labeller: Labeller
    tolerance: float | None = 1e-5
    same: float = 1.0
    scaled: bool = False
    only: Callable[[Evidence], Bool[np.ndarray, "n q"]] | None = None
    judged: tuple[str, ...] | None = None


def with_positive_mean(evidence: Evidence) -> Bool[np.ndarray, "n q"]:
    """Return where the mean cosine of the strongest images is large enough for rank reorder.

    Smaller ones count as this here; the original takes the root of a negative number.
    """
    readouts = evidence.sample[1]
    rows = np.argsort(-readouts, axis=0)[: int(RankReorder().share * len(readouts))]
    return evidence.similarities[rows].mean(0) > SMALLEST


COMPARED: dict[str, dict[str, Comparison]] = {
    "clip-dissect": {
        # sums of 100 logarithms in 32 bits, and differences of these
        "clip-dissect": Comparison(make_labeller("clip-dissect"), 1e-4),
        "wpmi": Comparison(make_labeller("wpmi"), 1e-4),
        "cos-cubed": Comparison(make_labeller("cos-cubed", floor=1e-3)),
        # the original divides by the error of five random orders, common to all words
        "rank-reorder": Comparison(
            make_labeller("rank-reorder"), scaled=True, only=with_positive_mean
        ),
    },
    "csp": {
        "csp": Comparison(make_labeller("csp")),
        "csp, gamma 1": Comparison(make_labeller("csp", gamma=1.0)),
        # logarithms in 32 bits of probabilities that hardly differ
        "clip-dissect-weighted": Comparison(make_labeller("clip-dissect-weighted"), 1e-3),
        "semantic-lens, top 30": Comparison(make_labeller("semantic-lens", top=30)),
    },
    "invert": {"invert-annotations": Comparison(make_labeller("invert-annotations"))},
    "linear-explanations": {
        # its fits are 100 steps of gradient descent, which suffice for readouts of about 1; where
        # the elastic net gives no word a weight, the words that are tried are arbitrary
        "linear-explanation": Comparison(
            make_labeller(
                "linear-explanation", slope=SLOPE, offset=OFFSET, held_out=HELD_OUT,
                penalty=0.05 / 0.99,
            ),
            None, 0.9, judged=("positive", "rectified", "planted"),
        ),
    },
    # the original divides by n instead of n - 1
    "neuron-eval": {"correlation": Comparison(make_labeller("correlation"), scaled=True)},
    "semanticlens": {"semantic-lens": Comparison(make_labeller("semantic-lens"))},
}  # fmt: skip
REQUIREMENTS = {
    "clip-dissect": ["matplotlib", "tqdm"],
    "csp": ["einops", "zarr"],
    "invert": ["sympytorch", "torchmetrics", "opencv-python-headless"],
    "linear-explanations": ["tqdm"],
    "neuron-eval": ["torcheval"],
    "semanticlens": [],
}
OPTIONS: dict[str, dict[str, Any]] = {
    **{f"--{name}": {"type": Path, "help": "folder of its code"} for name in list(COMPARED)[:-1]},
    "--semanticlens": {"help": "version of this package, to be installed"},
}


def cases(quick: bool) -> dict[str, Evidence]:
    """Return the inputs by name: readouts of both signs, rectified, of other scales, planted."""
    draw = np.random.default_rng(0)

    def random(s: int, n: int, q: int, d: int, lean: float, kind: str) -> Evidence:
        """Images lean towards all words, so that most cosines are positive, or do not."""
        common = units(draw, d)
        words, images = (
            units(draw, count, d) + np.float32(lean) * common for count in (q, s)
        )  # fmt: skip
        words /= np.linalg.norm(words, axis=1, keepdims=True)
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        noise = draw.standard_normal((s, n), np.float32)
        detected = 3 * images @ words[draw.integers(0, q, n)].T + 0.2 * noise
        readouts = {
            "signed": noise, "positive": np.exp(detected), "small": 1e-3 * np.exp(noise),
            "large": 1e4 * np.exp(detected), "rectified": np.maximum(detected - 0.3 * lean, 0),
        }[kind]  # fmt: skip
        marks = draw.random((s, q)) < draw.uniform(0.01, 0.7, q)
        return Evidence.of_reference(words, images, readouts, TOP, annotations=marks)

    found = {
        "signed": random(400, 12, 30, 16, 0.0, "signed"),
        "positive": random(700, 12, 80, 32, 2.0, "positive"),
    }
    if not quick:
        found |= {
            "few words": random(300, 5, 4, 8, 2.0, "small"),
            "large readouts": random(600, 8, 150, 64, 2.0, "large"),
            "rectified": random(1200, 10, 60, 24, 1.0, "rectified"),
        }
    for name, gap in {"planted": 0.0, "planted, gap": 3.0}.items():
        evidence, _ = world(7, gap)
        assert evidence.reference is not None  # noqa: S101 - made from a reference
        assert evidence.reference_readouts is not None  # noqa: S101
        found[name] = Evidence.of_reference(
            evidence.words, evidence.reference, evidence.reference_readouts, TOP,
            annotations=evidence.annotations,
        )  # fmt: skip
        if quick:
            break
    return found


def compare(
    comparison: Comparison, evidence: Evidence, theirs: Float32[np.ndarray, "n q"]
) -> dict[str, Any] | None:
    """Compare scores of one case; None if the original gives none, as for negative cosines."""
    ours = comparison.labeller.scores(evidence).astype(np.float64)
    theirs = theirs.astype(np.float64)
    known = np.isfinite(theirs)
    if comparison.only is not None:
        known &= comparison.only(evidence)
    whole = known.any(1)
    if not whole.any():
        return None
    ours, theirs, known = ours[whole], theirs[whole], known[whole]
    factor = np.ones((len(ours), 1))
    if comparison.scaled:
        products = np.where(known, ours * theirs, 0).sum(1), np.where(known, ours**2, 0).sum(1)
        factor = (products[0] / products[1])[:, None]
        ours = ours * factor
    difference = np.where(known, np.abs(ours - theirs), 0).max(1)
    span = np.where(known, theirs, -np.inf).max(1) - np.where(known, theirs, np.inf).min(1)
    span = np.maximum(span, np.finfo(np.float32).tiny)
    ours, theirs = (np.where(known, scores, -np.inf) for scores in (ours, theirs))
    chosen = np.take_along_axis(theirs, ours.argmax(1)[:, None], 1)[:, 0]
    loss = theirs.max(1) - chosen  # a tie up to rounding is no difference
    return {
        "components": len(ours),
        "scores": int(known.sum()),
        "difference": float(difference.max()) if comparison.tolerance else None,
        "share_of_range": float((difference / span).max()) if comparison.tolerance else None,
        "same_best": float((loss <= (comparison.tolerance or 0) * span).mean()),
        "factors": [float(factor.min()), float(factor.max())] if comparison.scaled else None,
    }


def pooled(name: str, comparison: Comparison, found: Mapping[str, dict[str, Any]]) -> Any:
    """Return the largest differences over cases, and whether they are within tolerance."""
    judged, other = (
        {case: values for case, values in found.items() if (case in wanted) == inside}
        for wanted in [comparison.judged or tuple(found)]
        for inside in (True, False)
    )
    same = _same(judged)
    kept = comparison.tolerance is not None
    share = max(values["share_of_range"] for values in found.values()) if kept else None
    return {
        "method": name,
        "cases": list(judged),
        "components": sum(values["components"] for values in judged.values()),
        "difference": max(v["difference"] for v in found.values()) if kept else None,
        "share_of_range": share,
        "tolerance": comparison.tolerance,
        "same_best": same,
        "smallest_same_best": comparison.same,
        "same_best_elsewhere": _same(other) if other else None,
        "within": (share is None or share <= comparison.tolerance) and same >= comparison.same,
        "by_case": found,
    }


def _same(found: Mapping[str, dict[str, Any]]) -> float:
    same, weight = zip(*((v["same_best"], v["components"]) for v in found.values()), strict=True)
    return float(np.average(same, weights=weight))


def problem(result: dict[str, Any]) -> str | None:
    """Return which methods are beyond their tolerance."""
    outside = [row["method"] for row in result["results"] if not row["within"]]
    return f"Beyond the tolerance: {', '.join(outside)}." if outside else None


@benchmark(minutes=10, quoted=("docs/labelling.md",), options=OPTIONS, problem=problem)
def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run every original that is there on all cases."""
    inputs = cases(options.quick)
    results: list[dict[str, Any]] = []
    for original, compared in COMPARED.items():
        given = getattr(options, original.replace("-", "_"))
        if given is None:
            continue
        packages = [f"semanticlens=={given}"] if original == "semanticlens" else []
        python = reference_python(work / f"env-{original}", *REQUIREMENTS[original], *packages)
        folder = [] if packages else [given.resolve()]
        found: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in compared}
        module = "benchmarks.cases.labels_originals.parts"
        with Worker(module, original, *folder, python=python) as worker:
            for case, evidence in inputs.items():
                log(f"{original}: {case}")
                theirs = work / "theirs.npz"
                worker.ask("run", case=str(_written(work, evidence)), out=str(theirs))
                with np.load(theirs) as scores:
                    for name, comparison in compared.items():
                        values = compare(comparison, evidence, scores[name])
                        if values is not None:
                            found[name][case] = values
        results += [
            {"original": original, **pooled(name, compared[name], cases)}
            for name, cases in found.items()
        ]
    return {"results": results}


def _written(work: Path, evidence: Evidence) -> Path:
    path = work / "case.npz"
    arrays: dict[str, Any] = {
        "words": evidence.words, "reference": evidence.reference,
        "readouts": evidence.reference_readouts, "annotations": evidence.annotations,
        "top": np.array(evidence.examples.shape[1]),
    }  # fmt: skip
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path
