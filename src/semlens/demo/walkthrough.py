"""The loop of the paper on a model with a planted fault: search, label, audit, test, correct.

What counts as planted is decided by the images alone, with and without the mark, never
by the search that is meant to find it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semlens.analysis.auroc import auroc
from semlens.analysis.class_relevance import RelevantComponents
from semlens.analysis.evaluate import evaluate_model
from semlens.analysis.search import Hits
from semlens.api import ConceptDatabase, build
from semlens.demo.bundled_images import DemoWorld, Version
from semlens.draw.html import component_card, render
from semlens.embedders.load import load_embedder
from semlens.models.forward import readouts
from semlens.models.hooks import pruned
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.types import Component


def write_page(
    path: Path,
    db: ConceptDatabase,
    world: DemoWorld,
    hits: Hits,
    planted: Planted,
    relevant: RelevantComponents,
    accuracy: Accuracy,
) -> None:
    """Write the page to ``path``."""

    def card(component: Component, caption: str) -> dict[str, object]:
        area = planted.components.get(component)
        note = f"planted (AUROC {area:.2f})" if area is not None else ""
        return component_card(db, db.row(component), 10, caption, note)

    page = render(
        "demo.html.j2",
        database=str(db.path),
        classes=world.classes,
        target=world.target,
        artefact=world.artefact,
        marked_share=world.marked_share,
        components=db.manifest.rows,
        layers=db.scores().per_layer().to_dict("records"),
        query=hits.query,
        planted_rank=planted.rank(hits),
        hits=[
            card(h.component, f"rank {h.rank}, alignment {h.alignment:.3f}") for h in hits.hits[:5]
        ],
        relevant=[
            card(component, label or "no label")
            for component, label in zip(relevant.components, relevant.frame["label"], strict=True)
        ],
        planted=[card(component, "") for component in planted.components],
        accuracy=accuracy,
    )
    path.write_text(page, "utf-8")


LAYERS = ("layer2", "layer3")
QUERY = "watermark"
PLANTED_AUROC = 0.9


@dataclass(frozen=True)
class Accuracy:
    """Share of right answers on the test images, without and with the mark on all of them."""

    clean: float
    watermarked: float
    pruned_clean: float
    pruned_watermarked: float
    called_target: dict[str, float]
    """Share of the other classes' images that are taken for the target class, by version."""


@dataclass(frozen=True)
class Planted:
    """Components whose readout tells the same images with and without the mark apart."""

    components: dict[Component, float]
    """AUROC by component, largest first."""

    def rank(self, hits: Hits) -> int | None:
        """Best rank of a planted component among hits; None when there is none."""
        ranks = [hit.rank for hit in hits.hits if hit.component in self.components]
        return min(ranks, default=None)


def build_demo(folder: Path, world: DemoWorld) -> ConceptDatabase:
    """Unpack the images and build the database, by the same code as for any other data."""
    world.unpack(folder / "images")
    return build(
        folder / "demo.semlens",
        load_model("semlens/demo"),
        folder / "images",
        load_embedder("semlens/demo"),
        LAYERS,
        # the mark is wide: a crop around one position of it shows half a word
        crop="activation",
        relevance=True,
    )


def find_planted(model: SubjectModel, world: DemoWorld, db: ConceptDatabase) -> Planted:
    """Measure every component's readout on the test images with and without the mark."""
    marked, clean = world.images("test", "marked"), world.images("test", "clean")
    samples, readout = range(len(clean)), db.manifest.recipe.readout
    with_mark = readouts(model, marked.read, samples, db.layers, readout)
    without = readouts(model, clean.read, samples, db.layers, readout)
    found: dict[Component, float] = {}
    for row in range(db.manifest.rows):
        component = db.component(row)
        values = [side[component.layer][:, component.index] for side in (with_mark, without)]
        area = float(auroc(values[0][:, None], values[1][:, None])[0])
        area = area if component.sign > 0 else 1 - area
        if area >= PLANTED_AUROC:
            found[component] = area
    return Planted(dict(sorted(found.items(), key=lambda pair: -pair[1])))


def measure(model: SubjectModel, world: DemoWorld, planted: Planted) -> Accuracy:
    """Measure accuracy with the mark on and off, before and after pruning."""
    target = world.classes.index(world.target)
    found: dict[str, float] = {}
    called: dict[str, float] = {}
    versions: tuple[tuple[Version, str], ...] = (("clean", "clean"), ("marked", "watermarked"))
    for version, name in versions:
        images = world.images("test", version)
        for prefix, removed in (("", ()), ("pruned_", tuple(planted.components))):
            with pruned(model, removed):
                result = evaluate_model(model, images)
            others = result.targets != target
            found[prefix + name] = result.accuracy
            called[prefix + name] = float((result.predictions[others] == target).mean())
    return Accuracy(**found, called_target=called)
