"""The questions of a study: which components, which of their crops, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn import functional

from semlens.errors import DataError
from semlens.lenses import scores
from semlens.lenses.scores import clarity
from semlens.lenses.study.tasks import SETS, Measure
from semlens.store.reader import Database
from semlens.types import Layers

CLEAR = 0.25
"""Share of the components, the clearest ones, of which control questions on themes are made."""
_FEWEST = 4
"""Components of a layer for two pairs."""


@dataclass(frozen=True)
class Question:
    """One question: the crops of its sets, in the order shown, and its right answer."""

    kind: str
    rows: tuple[int, ...]
    """Its components, in the order of the sets; of a set of random crops there is none."""
    sets: tuple[tuple[int, ...], ...]
    right: str | None = None


class Sampler:
    """Draws components with enough examples, each as often as any other; pairs within a layer.

    Parameters
    ----------
    needed
        Examples that a component must have.

    Raises
    ------
    DataError
        If no layer has four such components.
    """

    def __init__(self, database: Database, layers: Layers, needed: int, seed: int) -> None:
        self.database, self.rng = database, np.random.default_rng(seed)
        self.crops: dict[int, Int64[np.ndarray, " m"]] = {}
        self.layers: list[list[int]] = []
        fullest = 0
        for name in database.layer_names(layers):
            index, used = database.crop_index(name)
            # used examples first, strongest first
            order = np.argsort(~used, axis=1, kind="stable")[:, :needed]
            fullest = max(fullest, int(used.sum(1).max(initial=0)))
            enough = np.flatnonzero(used.sum(1) >= needed)
            rows = database.rows([name])[enough].tolist()
            if len(rows) >= _FEWEST:
                self.layers.append(rows)
                crops = np.take_along_axis(index, order, 1)[enough]
                self.crops |= dict(zip(rows, crops, strict=True))
        if not self.layers:
            raise DataError(
                f"No layer of '{database.name}' has {_FEWEST} components with {needed} examples "
                f"(the most are {fullest}).",
                f"Expected {needed} examples for the sets of this study.",
                "Show fewer images in a set, or build the database with more examples.",
            )

    def pairs(self, count: int) -> list[tuple[int, int]]:
        """Return pairs of components of one layer; none recurs before all have been drawn."""
        drawn: list[tuple[int, int]] = []
        while len(drawn) < count:
            one_round = [pair for rows in self.layers for pair in self._paired(rows)]
            self.rng.shuffle(one_round)
            drawn += [(int(a), int(b)) for a, b in one_round]
        return drawn[:count]

    def _paired(self, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
        order = self.rng.permutation(rows).tolist()
        return zip(order[::2], order[1::2], strict=False)

    def random_set(self, row: int, count: int) -> tuple[int, ...]:
        """Return crops of different components of the layer of ``row``."""
        rows = next(rows for rows in self.layers if row in rows)
        chosen = self.rng.choice(rows, count, replace=len(rows) < count)
        return tuple(int(self.rng.choice(self.crops[int(r)][:count])) for r in chosen)

    def clear_pairs(self, count: int) -> list[tuple[int, int]]:
        """Return pairs of clear components of one layer that differ.

        Clear is the clearest quarter. They differ if their cosine is at most the median of the
        clear components: two that show the same would have one theme together, not two.
        """
        drawn: list[tuple[int, int]] = []
        pools = [self._clear(rows) for rows in self.layers]
        while len(drawn) < count:
            one_round = [
                (row, int(self.rng.choice(others)))
                for partners in pools
                for row, others in partners.items()
            ]
            self.rng.shuffle(one_round)
            drawn += [(int(a), int(b)) for a, b in one_round]
        return drawn[:count]

    def _clear(self, rows: Sequence[int]) -> dict[int, list[int]]:
        """Return the clear components among these, and those that each differs from."""
        crops = np.stack([self.crops[row] for row in rows])
        vectors = torch.from_numpy(self.database.crop_vectors[crops]).float()
        used = torch.ones(crops.shape, dtype=torch.bool)
        order = clarity(vectors, used).argsort(descending=True, stable=True)
        clear = order[: max(_FEWEST, round(CLEAR * len(rows)))]
        units = torch.nn.functional.normalize(vectors[clear].mean(1), dim=1)
        cosine = (units @ units.T).fill_diagonal_(torch.inf)
        limit = cosine[~cosine.isinf()].median()
        names = [rows[i] for i in clear.tolist()]
        partners = {
            row: [names[j] for j in torch.nonzero(cosine[i] <= limit)[:, 0].tolist()]
            for i, row in enumerate(names)
        }
        return {row: others for row, others in partners.items() if others}

    def position(self, sets: int) -> list[int]:
        """Return a random order of sets."""
        return self.rng.permutation(sets).tolist()


def examples_needed(measure: Measure, shown: int) -> int:
    """Return the number of examples a component must have: the odd-one-out splits them in two."""
    return 2 * shown if measure == "similarity" else shown


def draw_questions(sampler: Sampler, measure: Measure, tasks: int, shown: int) -> list[Question]:
    """Draw the questions of a study, in the order in which they are asked."""
    return _DRAW[measure](sampler, tasks, shown)


def _odd_one_out(sampler: Sampler, tasks: int, shown: int) -> list[Question]:
    """Ask for the odd one of the halves of two components (G.1.1)."""

    def ask(first: int, second: int) -> Question:
        odd, pair = sampler.crops[first], sampler.crops[second]
        sets = (odd[::2], pair[::2], pair[1::2])
        order = sampler.position(3)
        rows = (first, second, second)
        return _shown("odd", rows, sets, order, right=order.index(0))

    return [ask(*pair) for pair in sampler.pairs(tasks)]


def _clarity(sampler: Sampler, tasks: int, shown: int) -> list[Question]:
    """Ask for the clearer of a set and random crops, a rating, and the clearer of two (G.1.2)."""

    def ask(control: int, rated: int, first: int, second: int) -> Iterator[Question]:
        order = sampler.position(2)
        sets = (sampler.crops[control], sampler.random_set(control, shown))
        yield _shown("clearer-control", (control,), sets, order, right=order.index(0))
        yield _shown("rating", (rated,), (sampler.crops[rated],), [0])
        both = (first, second)
        yield _shown("clearer", both, [sampler.crops[row] for row in both], [0, 1])

    pairs = sampler.pairs(2 * tasks)
    return [q for one, two in zip(pairs[::2], pairs[1::2], strict=True) for q in ask(*one, *two)]


def _polysemanticity(sampler: Sampler, tasks: int, shown: int) -> list[Question]:
    """Ask for the themes of one or two clear components, and of any component (G.1.3)."""
    questions: list[Question] = []
    rated = [row for pair in sampler.pairs(-(-tasks // 2)) for row in pair][:tasks]
    for (first, second), row in zip(sampler.clear_pairs(tasks), rated, strict=True):
        mixed = bool(sampler.rng.integers(2))
        rows = (first, second) if mixed else (first,)
        half = [sampler.crops[r][: shown // len(rows)] for r in rows]
        if mixed and shown % 2:
            half[0] = sampler.crops[first][: shown // 2 + 1]
        controlled = tuple(int(c) for c in sampler.rng.permutation(np.concatenate(half)))
        right = "two" if mixed else "one"
        questions.append(Question("count-control", rows, (controlled,), right))
        crops = tuple(int(c) for c in sampler.rng.permutation(sampler.crops[row]))
        questions.append(Question("count", (row,), (crops,)))
    # both kinds are asked in the same words, so that nobody can tell the controls
    return [questions[i] for i in sampler.rng.permutation(len(questions))]


def _shown(
    kind: str,
    rows: Sequence[int],
    sets: Sequence[Sequence[int] | Int64[np.ndarray, " m"]],
    order: Sequence[int],
    right: int | None = None,
) -> Question:
    ordered = tuple(tuple(int(crop) for crop in sets[i]) for i in order)
    components = tuple(rows[i] for i in order) if len(rows) == len(sets) else tuple(rows)
    return Question(kind, components, ordered, None if right is None else SETS[right])


_DRAW: dict[Measure, Callable[[Sampler, int, int], list[Question]]] = {
    "similarity": _odd_one_out,
    "clarity": _clarity,
    "polysemanticity": _polysemanticity,
}


def set_vectors(vectors: Float32[Tensor, "s m d"]) -> Float32[Tensor, "s d"]:
    """Return the unit vector of each set: the mean of its images (paper, Eq. 2), normalised."""
    return functional.normalize(vectors.mean(1), dim=1)


def odd_set(vectors: Float32[Tensor, "3 m d"]) -> int:
    """Return the set that is not in the most similar pair (paper, G.1.1)."""
    units = set_vectors(vectors)
    # the pair without set i is similarity[i]
    similarity = torch.stack([units[1] @ units[2], units[0] @ units[2], units[0] @ units[1]])
    return int(similarity.argmax())


def odd_similarity(vectors: Float32[Tensor, "3 m d"], odd: int) -> float:
    """Mean cosine of the odd set with the other two (paper, G.1.1, Eq. 1)."""
    cosines = set_vectors(vectors) @ set_vectors(vectors)[odd]
    return float((cosines.sum() - cosines[odd]) / 2)


def set_clarity(vectors: Float32[Tensor, "m d"]) -> float:
    """Clarity of one set (paper, Eq. 7)."""
    return float(scores.clarity(vectors[None], torch.ones(1, len(vectors), dtype=torch.bool)))


def set_polysemanticity(vectors: Float32[Tensor, "m d"]) -> float:
    """Polysemanticity of one set (paper, Eq. 10)."""
    used = torch.ones(1, len(vectors), dtype=torch.bool)
    return float(scores.polysemanticity(vectors[None], used))
