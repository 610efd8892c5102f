"""TCAV: how sensitive a class is to concepts that are given by example images (Kim et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64
from rich.console import Group, RenderableType
from rich.text import Text
from scipy.stats import false_discovery_control

from semlens.dictionaries.dictionary import SEPARATOR, Dictionary, DictionaryInfo
from semlens.draw.text_table import titled_table
from semlens.errors import DataError, LayerError
from semlens.figures import FigureSpec, Series, Values
from semlens.lens import lens
from semlens.lenses.arguments import ClassLike, Samples, find_classes
from semlens.lenses.classes import class_name
from semlens.lenses.contrast.image_groups import (
    GroupLike,
    ImageGroup,
    image_group,
    readable_samples,
)
from semlens.lenses.correct.artefact_sensitivity import by_name
from semlens.lenses.graph.relevance_trace import make_job
from semlens.lenses.result import Result
from semlens.lenses.statistics.intervals import wilson_interval
from semlens.lenses.tcav.concept_test import FOLDS, ConceptTest, concept_test
from semlens.models.activations import CHANNELS_FIRST, flatten
from semlens.models.forward import readouts
from semlens.progress import report_progress
from semlens.relevance.presets import GRADIENT
from semlens.settings import Reads, setting
from semlens.store.dictionary_files import save_dictionary
from semlens.store.reader import Database
from semlens.types import Layers

ALPHA = 0.05
"""Level at which a CAV separates, and false discovery rate of the scores."""
RANGE = (0.025, 0.975)
"""Quantiles of random concepts' scores in the table and the plot."""
KIND = "cav"

ConceptImages = Mapping[str, GroupLike] | str | Path | Sequence[str | Path]
"""Images of concepts: groups by name, or SPECs ("NAME=SPEC" or "SPEC")."""


@dataclass(frozen=True, eq=False, repr=False)
class Tcav(Result):
    """Sensitivity of classes to concepts, layer by layer.

    Parameters
    ----------
    frame
        One row per class, layer and concept: ``score`` (share of the class's images whose logit
        rises along the concept's CAV) with its 95 % interval ``low``, ``high`` over the class's
        images; ``effect``, the rise of the logit, to first order, along the CAV from random images
        to the concept's, which decides between equal scores; ``random_low`` and ``random_high``,
        between which 95 % of random concepts score;
        ``p_value``; ``q_value`` (Benjamini-Hochberg over all rows); ``accuracy`` of the CAVs on
        images that were left out; ``separates``, whether this is more than that of random
        concepts (5 % level); ``images`` of the concept.
    vectors
        float64[c] by layer and concept: the unit vector of the mean CAV.
    """

    frame: pd.DataFrame
    vectors: Mapping[tuple[str, str], Float64[np.ndarray, " c"]]
    database: Database
    draws: int

    @property
    def significant(self) -> pd.DataFrame:
        """The rows whose CAV separates, at a false discovery rate of 5 %."""
        found: Any = self.frame[self.frame["separates"] & (self.frame["q_value"] <= ALPHA)]
        return found

    def dictionary(self) -> Dictionary:
        """Return the CAVs as directions of their layer, one per concept in the table's order.

        Raises
        ------
        LayerError
            If there are several layers, or the layer is itself one of directions.
        """
        layer = check_one_layer(list(dict.fromkeys(layer for layer, _ in self.vectors)))
        entry = self.database.layer(layer)
        encoder = torch.from_numpy(np.stack([*self.vectors.values()]))
        manifest = self.database.manifest
        info = DictionaryInfo(
            layer, KIND, "linear", channels_first=entry.form in CHANNELS_FIRST,
            model=manifest.model.fingerprint,
        )  # fmt: skip
        return Dictionary(info, encoder, encoder)

    def save_cavs(self, path: str | Path) -> None:
        """Write :meth:`dictionary` to a file, for ``components="cav:FILE"`` of a build."""
        save_dictionary(Path(path), self.dictionary())

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {"draws": self.draws, "rows": self.frame.to_dict("records")}

    def figure(self) -> FigureSpec:
        """Return the scores of each class, with their intervals and those of random concepts."""
        panels: list[Values] = []
        for name, rows in self.frame.groupby("class", sort=False):
            records = rows.to_dict("records")
            found = [one["separates"] and one["q_value"] <= ALPHA for one in records]
            ranges = _ranges(rows, "random_low", "random_high")
            notes = [
                f"q {one['q_value']:.3g}; random {random}"
                if one["separates"]
                else f"does not separate; random {random}"
                for one, random in zip(records, ranges, strict=True)
            ]
            scores = Series(
                *(rows["score"].tolist(), "score", rows["low"].tolist(), rows["high"].tolist()),
                tones=["for" if one else "weak" for one in found],
                notes=notes,
            )
            names = (rows["concept"] + " · " + rows["layer"]).tolist()
            axis = "share of the class's images"
            panels.append(Values(f"TCAV score for '{name}'", names, [scores], axis, 0.5, (0, 1)))
        return FigureSpec(
            f"TCAV scores; grey is not significant (q above {ALPHA})", panels, len(panels)
        )

    def __rich__(self) -> RenderableType:
        """Return the table, and which concepts a layer does not separate."""
        frame = self.frame
        shown = frame[["class", "layer", "concept", "effect", "score"]].assign(
            interval=_ranges(frame, "low", "high"),
            random=_ranges(frame, "random_low", "random_high"),
            p_value=frame["p_value"].map("{:.4f}".format),
            q_value=frame["q_value"].map("{:.4f}".format),
            accuracy=frame["accuracy"],
        )
        weak = frame[~frame["separates"]]
        pairs = dict.fromkeys(zip(weak["concept"], weak["layer"], strict=True))
        lines = [
            Text(f"The CAVs of {concept} do not separate it from random images at {layer}.")
            for concept, layer in pairs
        ]
        return Group(*titled_table("TCAV scores, with those of random concepts", shown), *lines)


def _ranges(frame: pd.DataFrame, low: str, high: str) -> list[str]:
    return [f"{a:.2f} to {b:.2f}" for a, b in zip(frame[low], frame[high], strict=True)]


def check_one_layer(layers: Sequence[str]) -> str:
    """Return the one layer whose CAVs can be written as directions.

    Raises
    ------
    LayerError
        If there are several layers, or the layer is itself one of directions.
    """
    if len(layers) > 1 or SEPARATOR in layers[0]:
        raise LayerError(
            f"The concept activation vectors are those of {', '.join(layers)}.",
            "Expected one layer of the model: a file of directions belongs to one layer.",
            "Choose one layer, and write a file for each.",
        )
    return layers[0]


@lens("model", "images", group="Explain", command="")
def tcav(
    database: Database,
    concepts: ConceptImages,
    target: Annotated[
        list[int],
        Reads(ClassLike | Sequence[ClassLike], find_classes),
        setting("Class, by name or by logit index. Repeatable."),
    ],
    *,
    random: Annotated[
        GroupLike | None, setting("Random images: a folder or list [images of the database].")
    ] = None,
    layers: Layers = None,
    samples: Samples = 100,
    counters: Annotated[int, setting("CAVs per concept, each against other images.", ge=1)] = FOLDS,
    draws: Annotated[int, setting("Random concepts.", ge=19)] = 400,
    pool: Annotated[int, setting("Random images at most.", ge=10)] = 300,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
    seed: Annotated[int, setting("Seed of all draws.", ge=0)] = 0,
) -> Tcav:
    """Measure how sensitive classes are to concepts that are given by example images.

    A concept activation vector (CAV) is the normal of a linear classifier between the readouts of
    a concept's images and of random images. The TCAV score of a class is the share of its images
    whose logit rises if the activations of the layer move along the CAV. P-values compare it with
    the scores of random concepts: as many images, drawn from the concept's and the random images.

    Parameters
    ----------
    concepts
        Images of each concept, by name: a folder or other SPEC, a list of pictures or paths, the
        path of a list, or numbers of the database's samples.
    random
        Images in the same forms.

    Raises
    ------
    DataError
        If a concept has fewer than five images, or more than there are random images.
    RelevanceError
        If there is no such class, or the model has no gradient.

    Examples
    --------
    >>> result = db.tcav({"stripes": "stripes/"}, "zebra", layers="layer4")  # doctest: +SKIP
    >>> result.significant                                                   # doctest: +SKIP
    """
    names = list(database.layer_names(layers))
    targets = {number: class_name(database, number) for number in target}
    groups = {name: image_group(database, given, name) for name, given in by_name(concepts).items()}
    others = _random_images(database, random, list(groups.values()), pool, seed)
    _check_sizes(groups, others)
    gradients = {
        number: class_gradients(database, number, names, samples, batch_size) for number in targets
    }
    random_values = _readouts(database, others, names, batch_size)
    tests: dict[tuple[str, str], ConceptTest] = {}
    for concept, group in groups.items():
        own_values = _readouts(database, group, names, batch_size)
        for layer in names:
            title = f"random concepts for {concept} at {layer}"
            tests[layer, concept] = concept_test(
                np.concatenate([own_values[layer], random_values[layer]]).astype(np.float64),
                len(group),
                [gradients[number][layer] for number in targets],
                counters=counters,
                draws=draws,
                seed=seed,
                progress=lambda done, title=title: report_progress(title, done, draws),
            )
    rows = [
        {
            **{"class": name, "layer": layer, "concept": concept},
            **_row(test, index, len(gradients[number][layer])),
            "images": len(groups[concept]),
        }
        for index, (number, name) in enumerate(targets.items())
        for (layer, concept), test in sorted(
            tests.items(), key=lambda item: names.index(item[0][0])
        )
    ]
    frame = pd.DataFrame(rows)
    after_p = list(frame.columns).index("p_value") + 1
    frame.insert(after_p, "q_value", false_discovery_control(frame["p_value"].to_numpy()))
    vectors = {key: test.vectors.mean for key, test in tests.items()}
    return Tcav(frame, vectors, database, draws)


def _row(test: ConceptTest, index: int, count: int) -> dict[str, Any]:
    """Return the values of a class's row."""
    score = test.sensitivities[index].score
    low, high = wilson_interval(score * count, count)
    scores = [one.score for one in test.random[index]]
    random_low, random_high = np.quantile(scores, RANGE).tolist()
    return {
        "score": score,
        "low": low,
        "high": high,
        "effect": test.sensitivities[index].effect,
        "random_low": random_low,
        "random_high": random_high,
        "p_value": test.p_value(index),
        "accuracy": test.vectors.accuracy,
        "separates": test.accuracy_p_value <= ALPHA,
    }


def _random_images(
    database: Database,
    given: GroupLike | None,
    concepts: Sequence[ImageGroup],
    pool: int,
    seed: int,
) -> ImageGroup:
    """Return random images that are not among those of the concepts."""
    if given is None:
        group = ImageGroup("random", database.images, tuple(readable_samples(database)))
    else:
        group = image_group(database, given, "random")
    taken = {s for concept in concepts if concept.images is group.images for s in concept.samples}
    free = np.array([sample for sample in group.samples if sample not in taken], np.int64)
    drawn = np.random.default_rng(seed).permutation(free)[:pool]
    return ImageGroup(group.name, group.images, tuple(drawn.tolist()))


def _check_sizes(groups: Mapping[str, ImageGroup], others: ImageGroup) -> None:
    for name, group in groups.items():
        if not FOLDS <= len(group) <= len(others):
            raise DataError(
                f"The concept '{name}' has {len(group)} images.",
                f"Expected at least {FOLDS}, and at most as many as there are random images "
                f"({len(others)}).",
                "Give more images of the concept, or more random ones.",
            )


def _readouts(
    database: Database, group: ImageGroup, layers: Sequence[str], batch_size: int
) -> dict[str, Float32[np.ndarray, "n c"]]:
    return readouts(
        database.model, group.images.read, group.samples, layers,
        database.manifest.recipe.readout, batch_size,
    )  # fmt: skip


def class_gradients(
    database: Database,
    target: int,
    layers: Sequence[str],
    samples: int | list[int],
    batch_size: int,
) -> dict[str, Float32[np.ndarray, "n c"]]:
    """Return by layer the derivative of a class's logit by the readout of each channel.

    It is that for a change which is the same at all positions of the map, or at all tokens; for
    readouts of the class token, for a change of this token.
    """
    job = make_job(
        database, target, samples, layers=layers, rules=GRADIENT, batch_size=batch_size
    )  # fmt: skip
    only_first = database.manifest.recipe.readout == "cls"
    values: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    for trace, gradients in job.batches("gradients"):
        for layer, parts in values.items():
            layout = trace.layout(layer)
            flat = flatten(layout, gradients[layer][0])
            parts.append((flat[..., 0] if only_first else flat.sum(-1)).cpu().numpy())
    return {layer: np.concatenate(parts) for layer, parts in values.items()}
