"""The original labelling methods, run from their authors' own files.

    environment/bin/python -m benchmarks.cases.labels_originals.parts ORIGINAL FOLDER

answers the requests of ``harness.Worker``: ``run`` reads a case (words, images, readouts,
annotations), and writes the scores of each method. Nothing of the originals is copied here. Where a
function reads its inputs from a store on disk, it is given a reader of the case's arrays instead.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import serve

Case = Mapping[str, Tensor]
Scores = dict[str, Tensor]
"""Scores [n q] by method; NaN where the original gives none."""
SLOPE, OFFSET = 12.0, -0.3
"""Of the concept probabilities of linear explanations, for the cosines of these cases."""
HELD_OUT = 0.15


def clip_dissect(case: Case) -> Scores:
    """Run ``similarity.py`` of CLIP-Dissect."""
    similarity = importlib.import_module("similarity")
    cosines, readouts = case["reference"] @ case["words"].T, case["readouts"]
    methods = {
        "clip-dissect": similarity.soft_wpmi,
        "wpmi": similarity.wpmi,
        "cos-cubed": similarity.cos_similarity_cubed,
        "rank-reorder": similarity.rank_reorder,
    }
    return {name: method(cosines, readouts, device="cpu") for name, method in methods.items()}


def csp(case: Case) -> Scores:
    """Run the package of Contrastive Semantic Projection, from the choice of images to scores."""
    config: Any = importlib.import_module("neurolens.config")
    data: Any = importlib.import_module("neurolens.target_model.neuron_data.utils")
    batch: Any = importlib.import_module("neurolens.target_model.neuron_data.neuron_data")
    count = case["readouts"].shape[1]
    settings = config.NeuroLensConfig.model_validate(
        {
            "neuron_data": {"topk_neurons": count, "ignore_overly_active_neurons": False},
            "evaluation": {"topk_text": len(case["words"])},
        }
    )

    def load_activations(**options: Any) -> Tensor:
        rows = slice(*options.get("sample_indices", (None,)))
        chosen = options.get("neuron_indices", slice(None))
        return case["readouts"][rows][:, [chosen] if isinstance(chosen, int) else chosen].clone()

    def load_img_embds(**options: Any) -> Tensor:
        return case["reference"][options.get("img_indices", slice(None))]

    data.load_activations = load_activations
    data.load_img_embds = batch.load_img_embds = load_img_embds
    images = _Sized(len(case["reference"]))
    model = SimpleNamespace(device="cpu", identifier="", get_total_neuron_count=lambda: count)
    common: dict[str, Any] = {"config": settings, "path_configs": None, "img_dataset": images}
    strongest = data._get_topk_positive_neuron_data(
        **common, target_model=model, device="cpu"
    )  # fmt: skip
    order = range(count)
    contrast = [
        data._get_negative_neuron_data(
            **common, target_model=model, device="cpu",
            pos_neuron_data=strongest[unit], all_img_embds=case["reference"],
        )
        for unit in order
    ]  # fmt: skip
    found = batch.BatchedNeuronData(
        **common, img_text_model=model, device="cpu",
        pos_neuron_data_list=[strongest[unit] for unit in order], neg_neuron_data_list=contrast,
    )  # fmt: skip

    def scores(method: str, **parameters: Any) -> Tensor:
        name = "".join(part.capitalize() for part in method.split("_")).replace("Clip", "CLIP")
        module: Any = importlib.import_module(f"neurolens.score_function.{method}_score_function")
        module.load_text_embds_avg_templates = lambda **_: case["words"]
        module.load_img_embds = load_img_embds
        function = getattr(module, f"{name}ScoreFunction")(
            settings, None, model, SimpleNamespace(identifier=""), **parameters
        )
        function.get_text_embds = lambda *_, **__: case["words"]
        values, words = function.compute_text_scores(found)
        return torch.zeros_like(values).scatter(1, words, values)

    return {
        "csp": scores("contrastive_projection", gamma=0.5),
        "csp, gamma 1": scores("contrastive_projection", gamma=1.0),
        "clip-dissect-weighted": scores("clip_dissect", img_dataset=images),
        "semantic-lens, top 30": scores("semantic_lens"),
    }


class _Sized:
    """A data set of which only the size is asked."""

    identifier = ""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def invert(case: Case) -> Scores:
    """Run INVERT on single concepts; NaN for those that it leaves out by their frequency.

    It is given the ranks of readouts, between 0 and 1. Its area under the curve passes values
    beyond these through a sigmoid, in which large readouts become equal.
    """
    explainer = importlib.import_module("invert.explainer")
    sympy = importlib.import_module("sympy")
    count = len(case["words"])
    invert = explainer.Invert()
    invert.labels, (invert.num_samples, invert.num_concepts) = case["annotations"], (
        case["annotations"].shape
    )  # fmt: skip
    invert.concepts = [sympy.Symbol(f"w{word}") for word in range(count)]
    invert.memdict = {f"w{word}": case["annotations"][:, word] for word in range(count)}
    scores = torch.full((case["readouts"].shape[1], count), torch.nan)
    for unit, readouts in enumerate(case["readouts"].T):
        rank = torch.unique(readouts, return_inverse=True)[1] / len(readouts)
        for found in invert.explain_representation(rank, L=1, B=2 * count):
            name = str(found["formula"])
            if not name.startswith("~"):
                scores[unit, int(name[1:])] = float(found["metric"])
    return {"invert-annotations": scores}


def linear_explanations(case: Case) -> Scores:
    """Run Linear Explanations; 1 plus the weight of a word that it chooses, else 0."""
    original = importlib.import_module("linear_explanation")
    torch.manual_seed(0)
    concepts = torch.sigmoid(SLOPE * (case["reference"] @ case["words"].T + OFFSET))
    rows = np.random.default_rng(0).permutation(len(concepts))
    held_out = round(HELD_OUT * len(rows))
    test, train = (torch.from_numpy(np.sort(rows[part])) for part in (
        slice(held_out), slice(held_out, None)
    ))  # fmt: skip
    readouts = case["readouts"]
    divided = original.get_glm_datasets(concepts, readouts, train, test)
    linear = original.train_glm_model(*divided, "cpu")
    scores = torch.zeros(readouts.shape[1], len(case["words"]))
    for unit, weights in enumerate(linear.weight.detach()):
        order = torch.sort(weights, descending=True)[1]
        target = readouts[:, unit : unit + 1]
        words, fitted, _, _ = original.greedy_search(
            concepts[train], concepts[test], target[train], target[test], order, "cpu"
        )
        if fitted is None:  # no word predicts the held out readouts, and it fails
            scores[unit] = torch.nan
            continue
        # weights of standardised concepts; the words end with one that was tried and not taken
        spread = concepts[train].std(0) / target[train].std()
        words = words[: len(fitted)]
        scores[unit, words] = 1 + fitted * spread[words]
    return {"linear-explanation": scores}


def neuron_eval(case: Case) -> Scores:
    """Run the measure that Linear Explanations and Neuron_Eval call correlation."""
    metrics = importlib.import_module("metrics")
    cosines = case["reference"] @ case["words"].T
    return {"correlation": metrics.correlation(case["readouts"], cosines)}


def semanticlens(case: Case) -> Scores:
    """Run text probing of the package semanticlens, with the mean of all examples."""
    lens = importlib.import_module("semanticlens.lens")
    rows = torch.topk(case["readouts"], int(case["top"]), dim=0)[1].T
    vectors = case["reference"][rows].mean(1)
    reader = SimpleNamespace(
        device="cpu", tokenize=lambda queries: torch.tensor([int(q) for q in queries]),
        encode_text=lambda places: case["words"][places],
    )  # fmt: skip
    queries = [str(word) for word in range(len(case["words"]))]
    return {"semantic-lens": lens.text_probing(reader, queries, vectors).T}


ORIGINALS: dict[str, Callable[[Case], Scores]] = {
    "clip-dissect": clip_dissect,
    "csp": csp,
    "invert": invert,
    "linear-explanations": linear_explanations,
    "neuron-eval": neuron_eval,
    "semanticlens": semanticlens,
}


def main() -> None:
    """Answer requests until the worker is closed."""
    run = ORIGINALS[sys.argv[1]]
    if len(sys.argv) > 2:
        folder = Path(sys.argv[2])
        sys.path.insert(0, str(folder / "src" if (folder / "src").is_dir() else folder))

    def answer(case: str, out: str) -> dict[str, Any]:
        inputs = {name: torch.from_numpy(values) for name, values in np.load(case).items()}
        with torch.set_grad_enabled(sys.argv[1] == "linear-explanations"):
            scores = run(inputs)
        arrays: dict[str, Any] = {name: found.detach().numpy() for name, found in scores.items()}
        np.savez(out, **arrays)
        return {}

    serve({"run": answer})


if __name__ == "__main__":
    main()
