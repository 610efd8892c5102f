"""A trace of a class: what its attribution graphs are cut out of, without the model.

It holds the strongest components of every layer one by one, sample by sample, so that
:mod:`semlens.analysis.graph.prune` gets any smaller graph of it exactly. When one graph is
wanted and no other, :func:`semlens.attribution_graph` is cheaper: it starts once per group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float32, Int64

from semlens.analysis.class_images import Samples
from semlens.analysis.graph.relevance import Job, arrivals, component_shares, make_job
from semlens.analysis.target import class_samples, find_class
from semlens.settings import question
from semlens.store.reader import Database
from semlens.types import Layers, Target

MOST = 48
"""Components of a layer: in nets whose relevance is spread, these carry most of it."""
IMAGES = 30
"""Images of the class."""
VERSION = 2
"""Of what a kept trace means; an older one is computed again."""


@dataclass(frozen=True, eq=False)
class TracedLayer:
    """The strongest components of a layer, over the s samples of a class.

    Parameters
    ----------
    places
        int64[k], their places in the layer; strongest first, by the sample where the share is
        largest in size.
    share
        float32[s k], their shares of the layer's absolute relevance.
    mass
        float32[s], the shares of all components of the layer, in size: 1, or 0 for a sample
        whose relevance does not reach it.
    came
        float32[s a k], what comes to them from each of the a components of the layer above, in
        the same shares; none (a = 0) at the highest layer.
    """

    name: str
    places: Int64[np.ndarray, " k"]
    share: Float32[np.ndarray, "s k"]
    mass: Float32[np.ndarray, " s"]
    came: Float32[np.ndarray, "s a k"]

    @property
    def strength(self) -> Float32[np.ndarray, " k"]:
        """Each component's share, in size, on the sample where it is largest."""
        return np.abs(self.share).max(0)


@dataclass(frozen=True, eq=False)
class GraphTrace:
    """How the relevance of a class comes down through single components.

    Parameters
    ----------
    target
        The class's logit.
    samples
        The samples it was traced on.
    rules
        The rules of relevance.
    layers
        From the lowest to the highest.
    """

    target: int
    samples: tuple[int, ...]
    rules: str
    layers: tuple[TracedLayer, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return the trace as a table that a database can keep, a row per component."""
        frame = pd.DataFrame(
            [
                (layer.name, int(place), layer.share[:, k], layer.came[:, :, k].ravel())
                for layer in self.layers
                for k, place in enumerate(layer.places)
            ],
            columns=["layer", "place", "share", "came"],
        )
        frame.attrs = {
            "target": self.target,
            "samples": list(self.samples),
            "rules": self.rules,
            "mass": {layer.name: layer.mass.tolist() for layer in self.layers},
        }
        return frame

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> GraphTrace:
        """Return the trace that :meth:`to_frame` has made a table of."""
        attrs, layers = frame.attrs, list[TracedLayer]()
        for name, part in frame.groupby("layer", sort=False):
            share, came = (np.stack(list(part[key]), -1) for key in ("share", "came"))
            came = came.astype(np.float32).reshape(len(share), -1, len(part))
            mass = np.array(attrs["mass"][name], np.float32)
            places = part["place"].to_numpy(np.int64)
            layers.append(TracedLayer(str(name), places, share.astype(np.float32), mass, came))
        return cls(attrs["target"], tuple(attrs["samples"]), attrs["rules"], tuple(layers))


@question("model", "images")
def trace_class(
    database: Database,
    target: Target,
    *,
    samples: Samples = IMAGES,
    layers: Layers = None,
    most: int = MOST,
    batch_size: int | None = None,
) -> GraphTrace:
    """Trace the relevance of a class down through single components.

    The trace is kept in the database. Layers that relevance for the class does not reach, as
    far as the database knows, are left out.

    Parameters
    ----------
    samples
        How many samples of the class at most, or the numbers of any samples.
    most
        How many components of a layer: the strongest ones.

    Other parameters and errors are those of :func:`semlens.attribution_graph`.
    """
    number = find_class(database, target)
    chosen = class_samples(database, number, samples) if isinstance(samples, int) else samples
    names = reached_layers(database, number, layers)
    manifest = database.manifest
    key = [
        VERSION,
        manifest.model.fingerprint,
        manifest.data.fingerprint,
        manifest.recipe.rules,
        [[entry.name, entry.rows] for entry in manifest.layers if entry.name in names],
        number,
        [int(sample) for sample in chosen],
        most,
    ]

    def make() -> pd.DataFrame:
        job = make_job(database, number, chosen, layers=names, batch_size=batch_size)
        layers = strongest(job, most)
        places = {layer.name: layer.places.tolist() for layer in layers}
        starts = {name: [[place] for place in part] for name, part in places.items()}
        came = arrivals(job, starts, places)
        layers = [replace(layer, came=came.get(layer.name, layer.came)) for layer in layers]
        shown, rules = job.images.samples, job.engine.rules.name
        return GraphTrace(number, tuple(shown), rules, tuple(layers)).to_frame()

    return GraphTrace.of_frame(database.cached("graph", key, make))


def strongest(job: Job, most: int | None = None) -> list[TracedLayer]:
    """Return each layer's strongest components, without what comes to them from above."""
    found: list[TracedLayer] = []
    for name, share in component_shares(job).items():
        size = np.abs(share)
        places = np.argsort(-size.max(0), kind="stable")[:most]
        none = np.zeros((len(share), 0, len(places)), np.float32)
        found.append(TracedLayer(name, places, share[:, places], size.sum(1), none))
    return found


def reached_layers(database: Database, target: int, layers: Layers = None) -> list[str]:
    """Return the layers that relevance for a class reaches, as far as the database knows."""
    names = database.chosen(layers)
    known = database.manifest.relevance is not None
    if not known or target not in set(database.relevance_classes["class"]):
        return names
    found = [name for name in names if len(database.relevance(target, [name]))]
    return found or names
