"""The demo: search, label, audit, test and correct a model with a planted fault.

Which components count as planted is measured on images with and without the mark,
independently of the search that should find them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from semlens.api import build
from semlens.concept_database import ConceptDatabase
from semlens.demo.bundled_images import DemoWorld, MarkedWorld, Version
from semlens.draw.html import component_card, render
from semlens.embedders.load import load_embedder
from semlens.lenses.accuracy import evaluate_model
from semlens.lenses.audit.verdicts import Verdicts, kept_verdicts
from semlens.lenses.class_relevance import RelevantComponents
from semlens.lenses.resolve_concepts import concepts_by_class
from semlens.lenses.search.search import Hits
from semlens.lenses.search.suggested import suggested_queries
from semlens.lenses.statistics.intervals import auroc
from semlens.models.ablation import pruned
from semlens.models.forward import readouts
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.types import Component

LAYERS = ("layer2", "layer3")
QUERIES = ("watermark", "written text", "letter")
"""Words for what a mark shows, until one of them has hits."""
PLANTED_AUROC = 0.9
REFERENCE = 1024
"""Half the default: on two cores, embedding the others would take another tenth of the build."""
BORDER, BORDER_IMAGES = 0.25, 64
"""Width of the border that is swapped, and images per class: enough here, within seconds."""


@dataclass(frozen=True)
class Accuracy:
    """Accuracy on the test images, without and with the mark on all of them."""

    clean: float
    watermarked: float
    pruned_clean: float
    pruned_watermarked: float
    called_target: dict[str, float]
    """Share of the other classes' images that are predicted as the target class, by version."""


@dataclass(frozen=True)
class Planted:
    """Components whose readout separates the same images with and without the mark."""

    components: dict[Component, float]
    """AUROC by component, largest first."""

    def rank(self, hits: Hits) -> int | None:
        """Return the best rank of a planted component among hits, or None."""
        ranks = [hit.rank for hit in hits.hits if hit.component in self.components]
        return min(ranks, default=None)


def build_demo(folder: Path, world: DemoWorld, embedder: str = "semlens/demo") -> ConceptDatabase:
    """Unpack the images and build the database, as for any other data."""
    world.unpack(folder / "images")
    return build(
        folder / "demo.semlens",
        load_model("semlens/demo"),
        folder / "images",
        load_embedder(embedder),
        LAYERS,
        # the mark is wide: a crp crop around one position would show half a word
        crop="activation",
        reference=REFERENCE,
        relevance=True,
    )


def build_corrected(
    folder: Path, db: ConceptDatabase, planted: Planted, embedder: str = "semlens/demo"
) -> ConceptDatabase:
    """Prune the planted components and build the database of that model, to compare with."""
    return build(
        folder / "corrected.semlens",
        db.prune(list(planted.components)).save_weights(folder / "corrected.safetensors"),
        folder / "images",
        load_embedder(embedder),
        LAYERS,
        crop="activation",
        reference=REFERENCE,
    )


def keep_answers(db: ConceptDatabase) -> Verdicts:
    """Compute what the first page of the web application shows; the database keeps it."""
    verdicts = kept_verdicts(db, concepts_by_class(db, files=False)[0])
    suggested_queries(db)
    return verdicts


def find_planted(model: SubjectModel, world: MarkedWorld, db: ConceptDatabase) -> Planted:
    """Measure every component's readout on the test images with and without the mark."""
    marked, clean = world.images("test", "marked"), world.images("test", "clean")
    samples, readout = range(len(clean)), db.manifest.recipe.readout
    with_mark = readouts(model, marked.read, samples, db.layers, readout)
    without = readouts(model, clean.read, samples, db.layers, readout)
    planted: dict[Component, float] = {}
    for row in range(db.manifest.rows):
        component = db.component(row)
        values = [
            readings[component.layer][:, component.index] for readings in (with_mark, without)
        ]
        area = float(auroc(values[0][:, None], values[1][:, None])[0])
        area = area if component.sign > 0 else 1 - area
        if area >= PLANTED_AUROC:
            planted[component] = area
    return Planted(dict(sorted(planted.items(), key=lambda pair: -pair[1])))


def search_mark(db: ConceptDatabase) -> tuple[Hits, list[str]]:
    """Search for the mark by words until some components stand out; return also what had no hit.

    The last search is returned where none has any.
    """
    without: list[str] = []
    while True:
        word = QUERIES[len(without)]
        hits = db.search(word, top=db.manifest.rows)
        if hits.above_noise:
            return hits, without
        without.append(word)
        if len(without) == len(QUERIES):
            return hits, without


def measure(model: SubjectModel, world: DemoWorld, planted: Planted) -> Accuracy:
    """Measure accuracy with and without the mark, before and after pruning."""
    target = world.classes.index(world.target)
    accuracies: dict[str, float] = {}
    called_target: dict[str, float] = {}
    versions: tuple[tuple[Version, str], ...] = (("clean", "clean"), ("marked", "watermarked"))
    for version, name in versions:
        images = world.images("test", version)
        for prefix, removed in (("", ()), ("pruned_", tuple(planted.components))):
            with pruned(model, removed):
                result = evaluate_model(model, images)
            other_classes = result.targets != target
            accuracies[prefix + name] = result.accuracy
            called_target[prefix + name] = float(
                (result.predictions[other_classes] == target).mean()
            )
    return Accuracy(**accuracies, called_target=called_target)


def write_page(
    path: Path,
    db: ConceptDatabase,
    world: DemoWorld,
    hits: Hits,
    planted: Planted,
    relevant: RelevantComponents,
    accuracy: Accuracy,
) -> None:
    """Write the HTML page of the demo."""

    def card(component: Component, caption: str) -> dict[str, object]:
        area = planted.components.get(component)
        note = f"planted (AUROC {area:.2f})" if area is not None else ""
        return component_card(db, db.row(component), 10, caption, note)

    page = render(
        "demo.html.j2",
        database=db.location,
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
