"""Attribution graphs: which concepts a class rests on, layer by layer (paper, Fig. 2c and D.5)."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from semlens.analysis.graph.groups import (
    TARGET,
    GraphEdge,
    GraphNode,
    Named,
    keep_groups,
    make_edges,
    make_node,
)
from semlens.analysis.graph.relevance import Progress, component_shares, make_job, passed
from semlens.analysis.target import class_name
from semlens.data.images import Images
from semlens.draw.graph_layout import Heading, arrange
from semlens.draw.graph_picture import draw_png, draw_svg
from semlens.errors import StoreError
from semlens.models.subject import SubjectModel
from semlens.relevance.interface import Tracer
from semlens.store.files import save_text, write_atomic
from semlens.store.manifest import LayerEntry
from semlens.store.reader import Database
from semlens.types import Component

THUMBNAIL = 128
MINIMUM = 0.01
"""Least share of a component that is kept (paper, D.5)."""


@dataclass(frozen=True)
class AttributionGraph:
    """The groups of components that matter for a class, and what passes between them.

    Parameters
    ----------
    target, name
        The class: its logit and its name.
    images
        Over how many images the shares are taken.
    minimum
        Components whose share reaches it on some image were kept.
    rules
        The rules of relevance.
    nodes
        The class first, then layer by layer from the highest to the lowest, the largest
        share first.
    edges
        From the class to the highest layer, and from each layer to the one below.
    share_shown
        By layer: the part of its absolute relevance that the kept components carry, mean over
        the images.
    edges_shown
        By layer: the part of its absolute relevance that edges between kept components
        explain. It is 1 less the part that differs, and so falls when too much arrives as
        when too little does.
    """

    target: int
    name: str
    images: int
    minimum: float
    rules: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    share_shown: Mapping[str, float]
    edges_shown: Mapping[str, float]
    database: Database
    example: Image.Image | None = None
    """The first of the images, for the picture."""

    @property
    def layers(self) -> list[str]:
        """Names of the layers, from the lowest to the highest."""
        return list(self.share_shown)

    @property
    def overall(self) -> float:
        """The share of relevance that the edges show, mean over the layers."""
        return float(np.mean(list(self.edges_shown.values())))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "target": {"logit": self.target, "name": self.name},
            "images": self.images,
            "minimum": self.minimum,
            "rules": self.rules,
            "nodes": [asdict(node) for node in self.nodes],
            "edges": [asdict(edge) for edge in self.edges],
            "share_shown": {
                "layers": dict(self.share_shown),
                "edges": dict(self.edges_shown),
                "overall": self.overall,
            },
        }

    def to_pandas(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the nodes, and the edges."""
        nodes, edges = (
            pd.DataFrame([asdict(part) for part in parts]) for parts in (self.nodes, self.edges)
        )
        return nodes, edges

    def svg(self) -> str:
        """Return the picture as a self-contained SVG, for light and dark pages."""
        return draw_svg(arrange(self.nodes, self.edges, self._heading(), self._thumbnails()))

    def picture(self) -> Image.Image:
        """Return the picture as pixels."""
        return draw_png(arrange(self.nodes, self.edges, self._heading(), self._thumbnails()))

    def save(self, path: str | Path) -> None:
        """Write the graph as ``.json``, or its picture as ``.svg`` or ``.png``.

        Raises
        ------
        StoreError
            If the path ends in something else, or cannot be written.
        """
        path = Path(path)
        check_path(path)
        suffix = path.suffix.lower()
        if suffix == ".png":
            picture = self.picture()
            write_atomic(path, lambda part: picture.save(part, "PNG"))
            return
        whole = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n"
        text = whole if suffix == ".json" else self.svg()
        save_text(path, text)

    def _heading(self) -> Heading:
        return Heading(
            self.name, self.images, self.minimum, self.share_shown, self.edges_shown, self.overall
        )

    def _thumbnails(self) -> dict[str, bytes]:
        """Return the strongest example of each node's first component, and one image."""
        found: dict[str, bytes] = {}
        if self.example is not None:
            small, held = self.example.convert("RGB"), io.BytesIO()
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            small.save(held, "WEBP", quality=80)
            found[TARGET] = held.getvalue()
        for node in self.nodes:
            if not node.components:
                continue
            row = self.database.row(Component.parse(node.components[0]))
            for example in self.database.examples_of(row, 1):
                webp = self.database.thumbnail(example.crop)
                if webp is not None:
                    found[node.id] = webp
        return found

    def _repr_svg_(self) -> str:
        """Return the picture for notebooks."""
        return self.svg()

    def __repr__(self) -> str:
        """Return the nodes as text."""
        head = (
            f"Attribution graph for '{self.name}' over {self.images} images: "
            f"{len(self.nodes) - 1} groups, {len(self.edges)} edges that show "
            f"{self.overall:.0%} of the relevance\n"
        )
        frame = self.to_pandas()[0].iloc[1:]
        frame = frame.assign(components=[len(names) for names in frame["components"]])
        return head + frame.drop(columns="id").to_string(index=False, max_rows=40)


def attribution_graph(
    database: Database,
    model: SubjectModel,
    images: Images | Sequence[Image.Image],
    target: int,
    labels: Named = None,
    *,
    samples: Sequence[int] | np.ndarray | None = None,
    layers: Sequence[str] | None = None,
    minimum: float = MINIMUM,
    top: int | None = None,
    engine: Tracer | None = None,
    batch_size: int | None = None,
    progress: Progress = lambda *_: None,
) -> AttributionGraph:
    """Trace the relevance of a class down through groups of components.

    Relevance starts at the class's logit. In every layer the components are kept whose share
    of the layer's absolute relevance reaches ``minimum`` on some image, and grouped by their
    label. An edge is what arrives at a lower group when relevance starts at an upper group
    only, with what the class has brought there.

    Parameters
    ----------
    images, samples
        Images of the class, and which of them; all by default. One image gives a graph of
        that image.
    target
        The class's logit.
    labels
        Labels of components; those without are grouped as "?". None makes each component a
        group of its own.
    layers
        Layers of the database; all by default.
    top
        Keep this many components of a layer at most.
    engine
        Made for these layers; by default the one of the model's family.
    batch_size
        Images traced together; by default what the device's memory suggests.

    Raises
    ------
    StaleError
        If the model is not the one of the database.
    RelevanceError
        If there are no images, the class does not exist, or a layer is not on the way to it.
    """
    job = make_job(database, model, images, target, samples, layers, engine, batch_size, progress)
    share = component_shares(job)
    groups = {
        entry.name: keep_groups(database, entry, share[entry.name], labels, minimum, top)
        for entry in job.entries
    }
    between = passed(job, {name: list(found.values()) for name, found in groups.items()})
    return assemble(
        database,
        target,
        job.entries,
        share,
        groups,
        {name: part.weight for name, part in between.items()},
        {name: part.shown for name, part in between.items()},
        minimum=minimum,
        rules=job.engine.rules.name,
        example=job.picture(job.samples[0]),
    )


def assemble(
    database: Database,
    target: int,
    entries: Sequence[LayerEntry],
    share: Mapping[str, Float[Tensor, "s k"]],
    groups: Mapping[str, Mapping[str, Sequence[int]]],
    weight: Mapping[str, Float[Tensor, "a b"]],
    explained: Mapping[str, float],
    *,
    minimum: float,
    rules: str,
    example: Image.Image | None = None,
) -> AttributionGraph:
    """Put the numbers of a graph together.

    Parameters
    ----------
    entries
        The layers, from the lowest to the highest.
    share
        By layer, of each component.
    groups
        By layer and label, the places of the kept components.
    weight, explained
        By lower layer: what comes to its groups from those above, and the part of its absolute
        relevance that this explains.
    """
    shown = {
        name: float(
            share[name][:, [k for part in found.values() for k in part]].abs().sum(1).mean()
        )
        for name, found in groups.items()
    }
    nodes = [GraphNode(TARGET, "", class_name(database, target), (), 1.0, 1.0)]
    of: dict[str, list[GraphNode]] = {}
    for entry in reversed(entries):
        of[entry.name] = [
            make_node(database, entry, label, places, share[entry.name])
            for label, places in groups[entry.name].items()
        ]
        nodes += sorted(of[entry.name], key=lambda node: -abs(node.mean))
    highest = entries[-1].name
    return AttributionGraph(
        target,
        nodes[0].label,
        len(share[highest]),
        minimum,
        rules,
        tuple(nodes),
        tuple(make_edges([entry.name for entry in entries], of, weight)),
        shown,
        {name: shown[name] if name == highest else explained.get(name, 0.0) for name in shown},
        database,
        example,
    )


def check_path(path: Path) -> None:
    """Refuse a path that a graph cannot be saved under.

    Raises
    ------
    StoreError
        If it does not end in .svg, .png or .json.
    """
    if path.suffix.lower() not in (".json", ".svg", ".png"):
        raise StoreError(
            f"The graph cannot be written to '{path}'.",
            "Expected a path that ends in .svg, .png or .json.",
            "Choose another one.",
        )
