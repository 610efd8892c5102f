"""Figures of all methods, from what was found in each world and regime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from benchmarks.cases.labels.cells import PAPER, Cell, Regime
from benchmarks.cases.labels.hits import MEASURES, Bootstrap, Estimate, Hits
from benchmarks.cases.labels.methods import REFERENCES


class Comparison:
    """Estimates of all methods on some cells, with common bootstrap draws.

    Within a regime, all units count the same; the primary figure is the mean over regimes.
    """

    def __init__(self, cells: Sequence[Cell], draws: int) -> None:
        self.cells = cells
        self._bootstrap = Bootstrap([word for cell in cells for word in cell.truths], draws)
        order = sorted(cells, key=lambda cell: cell.regime)
        self.regimes: dict[Regime, list[Cell]] = {
            regime: list(group) for regime, group in groupby(order, lambda cell: cell.regime)
        }

    def in_regime(self, regime: Regime, found: str, name: str, measure: str) -> Estimate:
        """Estimate the share of hits in a regime.

        Parameters
        ----------
        found
            "hits" or "ceiling".
        name
            Name of the method.
        measure
            "exact", "lenient" or "top5".
        """
        cells = self.regimes[regime]
        words = [word for cell in cells for word in cell.truths]
        values = [getattr(getattr(cell, found)[name], measure) for cell in cells]
        return self._bootstrap.mean(words, np.concatenate(values))

    def primary(self, found: str, name: str, measure: str = "exact") -> Estimate:
        """Estimate the mean over regimes."""
        regimes = [self.in_regime(one, found, name, measure) for one in self.regimes]
        return Estimate.mean(regimes)

    def seconds(self, name: str) -> float:
        """Return CPU seconds for 1,000 units."""
        total = sum(cell.seconds[name] for cell in self.cells)
        return 1000 * total / sum(cell.units for cell in self.cells)

    def ranked(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Return a record per method, the best first."""
        found = []
        for name in names:
            lenient = self.primary("hits", name, "lenient").record("lenient")
            found.append({
                "name": name,
                **self.primary("hits", name).record("primary"),
                "lenient": lenient["lenient"],
                "lenient_low": lenient["low"],
                "lenient_high": lenient["high"],
                "top5": self.primary("hits", name, "top5").value,
                "seconds": self.seconds(name),
                "kinds": self._by_kind(name),
            })  # fmt: skip
        return sorted(found, key=lambda one: -one["primary"])

    def _by_kind(self, name: str) -> dict[str, float]:
        """Return the share of hits of each kind of unit, over all regimes."""
        kinds = np.concatenate([cell.kinds for cell in self.cells])
        exact = np.concatenate([cell.hits[name].exact for cell in self.cells])
        return {str(kind): float(exact[kinds == kind].mean()) for kind in dict.fromkeys(kinds)}

    def paired(self, default: str, names: Iterable[str]) -> list[dict[str, Any]]:
        """Return the default less each other method, also in each regime."""
        return [
            {
                "name": name,
                **(self.primary("hits", default) - self.primary("hits", name)).record("difference"),
                "lenient": (
                    self.primary("hits", default, "lenient") - self.primary("hits", name, "lenient")
                ).record("difference"),
                "regimes": [
                    {
                        **vars(regime),
                        **(
                            self.in_regime(regime, "hits", default, "exact")
                            - self.in_regime(regime, "hits", name, "exact")
                        ).record("difference"),
                    }
                    for regime in self.regimes
                ],
            }
            for name in names
            if name != default
        ]

    def by_regime(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return the share of hits of each method in each regime."""
        return [
            {
                **vars(regime),
                "judged": sum(len(cell.kinds) for cell in cells),
                "truths": len({word for cell in cells for word in cell.truths}),
                "methods": [
                    {
                        "name": name,
                        **self.in_regime(regime, "hits", name, "exact").record("exact"),
                        "lenient": self.in_regime(regime, "hits", name, "lenient").value,
                        "top5": self.in_regime(regime, "hits", name, "top5").value,
                    }
                    for name in names
                ],
                "ceiling": {
                    name: self.in_regime(regime, "ceiling", name, "exact").value
                    for name in cells[0].ceiling
                },
            }
            for regime, cells in self.regimes.items()
        ]

    def ceiling(self) -> list[dict[str, Any]]:
        """Return the share of hits on the truth's own images, for each embedder and method."""
        found = []
        for embedder in dict.fromkeys(regime.embedder for regime in self.regimes):
            regimes = [one for one in self.regimes if one.embedder == embedder]
            for method in self.cells[0].ceiling:
                shares = {
                    measure: Estimate.mean(
                        [self.in_regime(one, "ceiling", method, measure) for one in regimes]
                    )
                    for measure in ("exact", "lenient")
                }
                found.append({
                    "embedder": embedder, "method": method,
                    **shares["exact"].record("primary"), "lenient": shares["lenient"].value,
                })  # fmt: skip
        return found


def world_records(cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """Return everything that was found in each world and regime."""
    return [
        {
            "world": cell.world,
            "opened_once": cell.opened_once,
            "subject": cell.subject,
            **vars(cell.regime),
            "units": cell.units,
            "judged": len(cell.kinds),
            "methods": [_method_record(cell, name, hits) for name, hits in cell.hits.items()],
            "ceiling": {name: _shares(hits) for name, hits in cell.ceiling.items()},
        }
        for cell in cells
    ]


def secondary_records(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return means of the secondary measures, and their sanity figures.

    Means over the units of a regime, then over regimes. Sanity figures are means over all units.
    """
    plain = [cell for cell in cells if cell.regime.gap == "none" and cell.sanity]
    order = sorted(cells, key=lambda cell: cell.regime)
    regimes = [list(group) for _, group in groupby(order, lambda cell: cell.regime)]
    measures = [
        {
            "name": measure,
            **dict(zip(
                ("missing", "extra"),
                map(float, np.concatenate([cell.sanity[measure] for cell in plain]).mean(0)),
                strict=True,
            )),
            "prefers_right": float(
                np.concatenate([cell.prefers[measure] for cell in plain]).mean()
            ),
        }
        for measure in cells[0].secondary
    ]  # fmt: skip
    methods = [
        {
            "name": name,
            **{
                measure: float(np.mean([
                    np.concatenate([cell.secondary[measure][name] for cell in group]).mean()
                    for group in regimes
                ]))
                for measure in cells[0].secondary
            },
        }
        for name in cells[0].hits
    ]  # fmt: skip
    return {"measures": measures, "methods": methods}


def faithfulness_records(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return mean and standard error of phi over units of trained networks, and over the others."""
    plain = [cell for cell in cells if cell.faithfulness]
    found = []
    for name in plain[0].faithfulness:
        phi = np.concatenate([cell.faithfulness[name] for cell in plain])
        trained = np.concatenate([cell.trained for cell in plain if cell.trained is not None])
        found.append({
            "name": name, "paper": PAPER.get(name), "trained": _mean_and_error(phi[trained]),
            "hand_built": _mean_and_error(phi[~trained]),
        })  # fmt: skip
    return found


def _mean_and_error(values: np.ndarray) -> dict[str, Any] | None:
    if len(values) < 2:
        return None
    error = values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": float(values.mean()), "standard_error": float(error), "units": len(values)}


def _method_record(cell: Cell, name: str, hits: Hits) -> dict[str, Any]:
    kinds = np.array(cell.kinds)
    return {
        "name": name,
        **_shares(hits),
        "seconds": cell.seconds[name],
        "annotations": name in REFERENCES,
        "kinds": {
            kind: {"units": int((kinds == kind).sum()), **_shares(hits, kinds == kind)}
            for kind in dict.fromkeys(cell.kinds)
        },
    }


def _shares(hits: Hits, rows: np.ndarray | slice = slice(None)) -> Mapping[str, float]:
    return {measure: float(getattr(hits, measure)[rows].mean()) for measure in MEASURES}
