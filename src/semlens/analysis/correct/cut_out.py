"""Cut an artefact out of the images that carry it, to put it into others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semlens.analysis.correct.cutouts import SHOWN, CutOut, CutOuts
from semlens.analysis.correct.localise import soft_masks, vector_heat
from semlens.analysis.correct.vector import ConceptVector, concept_vector
from semlens.analysis.reading import Progress, check_samples
from semlens.data.images import Images
from semlens.errors import LayerError, RelevanceError
from semlens.models.subject import SubjectModel
from semlens.relevance.choose import make_engine
from semlens.relevance.conditional import pairs_per_pass
from semlens.relevance.interface import Tracer
from semlens.store.reader import Database
from semlens.types import Component


def cut_out(
    database: Database,
    model: SubjectModel,
    images: Images,
    components: Sequence[Component | str],
    *,
    layer: str | None = None,
    count: int = 20,
    positives: Sequence[int] | None = None,
    negatives: Sequence[int] | None = None,
    engine: Tracer | None = None,
    rules: str | None = None,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> CutOuts:
    """Localise an artefact in images that show it, and cut it out by a soft mask.

    Parameters
    ----------
    components
        Those that stand for the artefact, such as the hits of a search for it.
    layer
        Of the concept vector; by default the deepest one of the components.
    count
        Of cut-outs; those of the samples that score highest.
    positives, negatives, seed
        As for :func:`semlens.analysis.correct.vector.concept_vector`.
    engine
        Relevance engine over the layer; one with ``rules``, or the database's, is made by
        default.

    Raises
    ------
    LayerError
        If no component is named, or the database does not have one.
    DataError
        If the images are not the database's, or there are too few samples to learn from.
    RelevanceError
        If no image has relevance for the vector.
    """
    database.check_model(model)
    check_samples(database, images)
    chosen = tuple(c if isinstance(c, Component) else Component.parse(c) for c in components)
    for component in chosen:
        database.row(component)
    if not chosen:
        raise LayerError(
            "No component is named.",
            "Expected those that stand for the artefact, as LAYER:INDEX.",
            "Find them: semlens search DB watermark",
        )
    names = list(dict.fromkeys(component.layer for component in chosen))
    names = names if layer is None else [database.layer(layer).name]
    if engine is None:
        readable = int(np.flatnonzero(database.samples["error"].isna())[0])
        example = model.batch([model.preprocess(images.read(readable))])
        engine = make_engine(model.module, example, names, rules or database.manifest.recipe.rules)
    vector = concept_vector(
        database, model, images, chosen, engine.order(names)[-1],
        positives=positives, negatives=negatives, seed=seed, progress=progress,
    )  # fmt: skip
    best = np.argsort(-vector.score, kind="stable")[: max(count, 1)]
    found = _localised(database, model, images, engine, vector, best.tolist(), progress)
    if not found:
        raise RelevanceError(
            f"No image has positive relevance for the concept vector of '{vector.layer}'.",
            "Expected samples that show what the components react to.",
            "Choose other components, or another layer.",
        )
    clean = vector.negatives[::-1][:SHOWN]  # the last are of other classes
    return CutOuts(chosen, vector, engine.rules.name, found, images, tuple(clean.tolist()))


def _localised(
    database: Database,
    model: SubjectModel,
    images: Images,
    engine: Tracer,
    vector: ConceptVector,
    chosen: Sequence[int],
    progress: Progress,
) -> tuple[CutOut, ...]:
    """Return cut-outs of some of the positives; those without positive relevance are left out."""
    targets = database.samples["target"].to_numpy(object)
    geometry = model.geometry()
    readout = database.manifest.recipe.readout
    step = min(pairs_per_pass(engine, vector.layer), 32)
    found: list[CutOut] = []
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        samples = [int(vector.positives[place]) for place in part]
        pictures = [images.read(sample) for sample in samples]
        inputs = model.batch([model.preprocess(picture) for picture in pictures])
        heat = vector_heat(engine, inputs, vector, readout)
        soft = soft_masks(heat)
        for row, (place, sample) in enumerate(zip(part, samples, strict=True)):
            if float(soft[row].max()) > 0:
                target = targets[sample]
                found.append(
                    CutOut(
                        sample,
                        str(images.ids[sample]),
                        target if isinstance(target, str) else None,
                        float(vector.score[place]),
                        heat[row].numpy(),
                        soft[row].numpy(),
                        geometry(*pictures[row].size),
                    )
                )
        progress("cutting out", start + len(part), len(chosen))
    return tuple(found)
