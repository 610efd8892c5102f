"""What the marks do to the logits, and how much of it goes through some channels.

The last layers of the network are a mean over the map of ``bn2`` and one linear layer. So the
logits are linear in the 1,280 means, and setting a channel to zero in ``bn2`` changes them by
exactly its mean times its weights: all pruning below is arithmetic on stored means. (``run.py``
checks it against the weights that ``semlens correct prune`` writes.)
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fetch_photographs import background_of
from PIL import Image
from scipy.stats import rankdata

sys.path.append(str(Path(__file__).parents[1] / "efficientnet"))
from measure_preprocessing import classes_by_word  # noqa: E402
from model import make  # noqa: E402

CARTON = 478
LAYERS = ("blocks.4", "blocks.5", "blocks.6", "bn2")
SEPARATES = 0.9
"""AUROC from which a channel counts as telling marked from plain photographs."""
COUNTS = (1, 3, 5, 10, 20, 50, 100)
DRAWS = 1000
NEIGHBOURS = 50
"""A random channel is one of those whose mean activation is nearest."""


@dataclass(frozen=True)
class Passes:
    """The network's answers to one folder of photographs."""

    names: list[str]
    means: dict[str, np.ndarray]
    """Per layer the means over the map, float32[n, channels]."""


@dataclass(frozen=True)
class Head:
    """The network's last layer."""

    weight: np.ndarray
    """float64[1000, 1280]"""
    bias: np.ndarray
    classes: list[str]

    def logits(self, means: np.ndarray, without: Iterable[int] = ()) -> np.ndarray:
        """Return the logits with some channels of ``bn2`` set to zero."""
        kept = np.ones(self.weight.shape[1])
        kept[list(without)] = 0
        return means.astype(np.float64) @ (self.weight * kept).T + self.bias


def load_head() -> Head:
    """Return the last layer of the network."""
    network, _, classes = make()
    layer = network.get_submodule("classifier")
    weight, bias = (p.detach().double().numpy() for p in layer.parameters())
    return Head(weight, bias, [name.split(",")[0] for name in classes])


def run_network(folder: Path) -> Passes:
    """Run the network on a folder."""
    network, preprocess, _ = make()
    outputs: dict[str, list[np.ndarray]] = {layer: [] for layer in LAYERS}
    for layer in LAYERS:
        network.get_submodule(layer).register_forward_hook(
            lambda _m, _i, output, layer=layer: outputs[layer].append(output.mean((2, 3)).numpy())
        )
    paths = sorted(folder.glob("*.png"))
    for start in range(0, len(paths), 16):
        images = [preprocess(Image.open(path)) for path in paths[start : start + 16]]
        with torch.inference_mode():
            network(torch.stack(images))
    means = {layer: np.concatenate(parts) for layer, parts in outputs.items()}
    return Passes([path.stem for path in paths], means)


def auroc(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the AUROC of each column, between rows [n, c] and [m, c]."""
    ranks, n = rankdata(np.concatenate([first, second]), axis=0), len(first)
    return (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * len(second))


def permuted_auroc(first: np.ndarray, second: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    """Return AUROCs [draws, c] after each pair has swapped its sides with chance 1/2."""
    n = len(first)
    ranks = rankdata(np.concatenate([first, second]), axis=0)
    swap = np.random.default_rng(seed).random((draws, n)) < 0.5
    sums = ranks[:n].sum(0) + swap @ (ranks[n:] - ranks[:n])
    return (sums - n * (n + 1) / 2) / n**2


def interval(values: Callable[[np.ndarray], float], names: list[str], seed: int = 0) -> list[float]:
    """Return value and 95 % bootstrap interval of a statistic of rows.

    Photographs on one background are not independent: whole backgrounds are drawn.
    """
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(background_of(name), []).append(row)
    members, rng = list(groups.values()), np.random.default_rng(seed)
    drawn = [np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
             for _ in range(DRAWS)]  # fmt: skip
    low, high = np.quantile([values(rows) for rows in drawn], (0.025, 0.975))
    return [float(values(np.arange(len(names)))), float(low), float(high)]


def places(logits: np.ndarray, number: int = CARTON) -> np.ndarray:
    """Return the place of a class on each photograph, 1 for the prediction."""
    return (logits > logits[:, [number]]).sum(1) + 1


def effect(head: Head, plain: Passes, marked: Passes, without: Iterable[int] = ()
           ) -> dict[str, Any]:  # fmt: skip
    """Return what a mark does to the carton logit and to the predictions."""
    before, after = (head.logits(p.means["bn2"], without) for p in (plain, marked))
    rise, place = after - before, places(after)
    changed = before.argmax(1) != after.argmax(1)
    mean = rise.mean(0)
    top = (-mean).argsort(kind="stable")
    return {
        "rise": interval(lambda rows: rise[rows, CARTON].mean(), plain.names),
        "place_of_rise": int((mean > mean[CARTON]).sum()) + 1,
        "median_place": interval(lambda rows: np.median(place[rows]), plain.names),
        "changed": interval(lambda rows: changed[rows].mean(), plain.names),
        "carton_first": float((place == 1).mean()),
        "carton_in_five": float((place <= 5).mean()),
        "risen": [[head.classes[i], float(mean[i])] for i in top[:8]],
        "taken_for": [[head.classes[i], count] for i, count in
                      Counter(after.argmax(1)[changed].tolist()).most_common(5)],
    }  # fmt: skip


def find(plain: Passes, marked: Passes) -> dict[str, Any]:
    """Rank the channels by AUROC, and count how many separate if there were no difference."""
    layers: dict[str, Any] = {}
    for layer in LAYERS:
        a, b = marked.means[layer], plain.means[layer]
        values, null = auroc(a, b), permuted_auroc(a, b, DRAWS)
        layers[layer] = {
            "channels": len(values),
            "best": float(values.max()),
            "separate": int((values >= SEPARATES).sum()),
            "silent": int((values <= 1 - SEPARATES).sum()),
            "null_separate": int((null >= SEPARATES).sum(1).max()),
            "null_best": float(np.quantile(null.max(1), 0.95)),
        }
    values = auroc(marked.means["bn2"], plain.means["bn2"])
    order = (-values).argsort(kind="stable")
    return {"layers": layers, "order": order.tolist(), "auroc": values[order].tolist()}


def random_sets(means: np.ndarray, chosen: list[int], draws: int = DRAWS) -> list[list[int]]:
    """Draw sets of other channels with about the same mean activation as the chosen ones.

    Each chosen channel is replaced by one of the ``NEIGHBOURS`` free ones that are nearest.

    Parameters
    ----------
    means
        Means over the map on plain photographs, float32[n, channels].
    """
    level, rng = means.mean(0), np.random.default_rng(len(chosen))
    reach = NEIGHBOURS + 2 * len(chosen)
    nearest = [np.abs(level - level[c]).argsort(kind="stable")[:reach].tolist() for c in chosen]
    sets: list[list[int]] = []
    for _ in range(draws):
        taken = set(chosen)
        for candidates in nearest:
            free = [channel for channel in candidates if channel not in taken]
            taken.add(int(rng.choice(free[:NEIGHBOURS])))
        sets.append(sorted(taken - set(chosen)))
    return sets


def random_rises(head: Head, plain: Passes, marked: Passes, sets: list[list[int]]) -> np.ndarray:
    """Return the rise of carton that is left when each set of channels is set to zero."""
    gain = (marked.means["bn2"].astype(np.float64) - plain.means["bn2"]).mean(0)
    parts = gain * head.weight[CARTON]
    return np.array([parts.sum() - parts[channels].sum() for channels in sets])


def prune_effect(head: Head, found: dict[str, Any], passes: dict[str, Passes],
                 find_plain: Passes, mark: str) -> list[dict[str, Any]]:  # fmt: skip
    """Measure pruning of the first channels, and of random ones, at several numbers."""
    plain, marked = passes["plain"], passes[mark]
    original = head.logits(plain.means["bn2"]).argmax(1)
    whole = effect(head, plain, marked)["rise"][0]
    rows: list[dict[str, Any]] = []
    for count in COUNTS:
        chosen = found["order"][:count]
        sets = random_sets(find_plain.means["bn2"], chosen)
        random_share = 1 - random_rises(head, plain, marked, sets) / whole
        pruned = effect(head, plain, marked, chosen)
        share = 1 - pruned["rise"][0] / whole
        different = head.logits(plain.means["bn2"], chosen).argmax(1) != original
        random_cost = [(head.logits(plain.means["bn2"], other).argmax(1) != original).mean()
                       for other in sets[:100]]  # fmt: skip
        rows.append({
            "count": count,
            "lowest_auroc": found["auroc"][count - 1],
            "share": share,
            "random_share": [random_share.mean(), *np.quantile(random_share, (0.025, 0.975))],
            "random_at_least": float((random_share >= share).mean()),
            **{key: pruned[key] for key in ("rise", "median_place", "changed", "place_of_rise")},
            "cost": interval(lambda rows, lost=different: lost[rows].mean(), plain.names),
            "random_cost": float(np.mean(random_cost)),
        })  # fmt: skip
    return rows


def other_choices(head: Head, found: dict[str, Passes], passes: dict[str, Passes], mark: str
                  ) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """Measure pruning of channels that are chosen, on the first half, in two other ways."""
    plain, marked = passes["plain"], passes[mark]
    original = head.logits(plain.means["bn2"]).argmax(1)
    whole = effect(head, plain, marked)
    gain = (found[mark].means["bn2"].astype(np.float64) - found["plain"].means["bn2"]).mean(0)
    weight = head.weight[CARTON]
    orders = {"weight times difference": weight * gain, "weight": weight}
    choices: dict[str, list[dict[str, Any]]] = {}
    for name, scores in orders.items():
        order = (-scores).argsort(kind="stable")
        choices[name] = []
        for count in (10, 20, 50):
            chosen = order[:count].tolist()
            pruned = effect(head, plain, marked, chosen)
            answers = head.logits(plain.means["bn2"], chosen).argmax(1)
            choices[name].append({
                "count": count,
                "share": 1 - pruned["rise"][0] / whole["rise"][0],
                "median_place": pruned["median_place"],
                "plain_place": float(np.median(places(head.logits(plain.means["bn2"], chosen)))),
                "changed": pruned["changed"],
                "cost": float((answers != original).mean()),
            })  # fmt: skip
    return choices


def known_objects(names: list[str]) -> dict[int, set[int]]:
    """Return the photographs whose object is named after ImageNet classes, with these classes."""
    classes, known = classes_by_word(), {}
    for row, name in enumerate(names):
        word = name.split("--on-")[0].rsplit("-", 1)[-1].rstrip("0123456789").replace("_", " ")
        if word in classes:
            known[row] = classes[word]
    return known


def accuracy(head: Head, passes: Passes, without: Iterable[int] = ()) -> dict[str, Any]:
    """Return how many of the known objects the network names, first or among five."""
    known = known_objects(passes.names)
    best = (-head.logits(passes.means["bn2"], without)).argsort(1)
    return {
        "photographs": len(known),
        "top1": sum(int(best[row, 0]) in right for row, right in known.items()),
        "top5": sum(bool(right & set(best[row, :5].tolist())) for row, right in known.items()),
    }
