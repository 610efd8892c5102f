"""Does a target rely on a sign? The sign is inserted into images, against matched controls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from PIL import Image
from torch import Tensor

from semlens.data.artefact import Artefact, Artefacts, artefact_seed, as_artefacts
from semlens.data.prefetch import default_workers, prefetch
from semlens.errors import DataError, RelevanceError
from semlens.lens import lens
from semlens.lenses.arguments import Target
from semlens.lenses.classes import Pictures, TargetImages, spaced_samples, target_images
from semlens.lenses.database_engine import by_component
from semlens.lenses.reliance.controls import CONTROLS, variants
from semlens.lenses.reliance.reliance_result import ALPHA, Reliance, corrected
from semlens.lenses.statistics.excess import p_above_zero
from semlens.lenses.swap.effect import FACTOR, MARGIN
from semlens.models.ablation import pruned
from semlens.models.forward import (
    readouts_and_output,
    run_output,
    target_values,
)
from semlens.models.hooks import evaluating
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Component
from semlens.wording import numbered

LEAST = 8
"""Images that are needed to know how much a rise varies."""
ABLATED = 10
"""Components that are ablated, those that the sign changes most."""
SHOWN = 4
"""Images in a figure."""

Values = Mapping[str, Float64[np.ndarray, " n"]]
"""The target of every image, by variant of the images."""


@lens(
    "model", "images", group="Audit",
    example="reliance r18.semlens --target 'tiger cat - tabby' --artefact 'text:© stock'",
)  # fmt: skip
def reliance(
    database: Database,
    target: Target,
    artefacts: Artefacts,
    *,
    count: Annotated[
        int, setting("Images that the artefacts are inserted into, at most.", ge=LEAST)
    ] = 200,
    images: Pictures = None,
    seed: Annotated[int, setting("Random seed, of artefact positions and controls.", ge=0)] = 0,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> Reliance:
    """Insert signs into images, to test whether a target relies on them.

    The target may be any, such as a box's score, a region or a value of a regression. The images
    are of all kinds, and each is one unit. The sign is compared with two controls at the same place
    of the same image: covered with one colour, and scrambled, with other colours and no form. The
    target relies on the sign if it rises by more than one and a half times what it rises with
    either control, plus a third of its standard deviation over the images as they are; or if it
    falls by as much. What the target holds, such as the box that is meant, is that of the images
    as they are.

    Parameters
    ----------
    target
        A class or another target.
    artefacts
        The signs. Each is tested by itself.
    count
        Largest number of images.
    images
        Images to use instead of the database's.
    seed
        Random seed.

    Raises
    ------
    DataError
        If there is no artefact, or there are too few images.
    RelevanceError
        If the model has no such target, or it is the same for all images.
    """
    signs = as_artefacts(artefacts)
    if not signs:
        raise DataError(
            "There is no artefact.",
            "Expected a sign to insert.",
            "Pass for example artefacts=['patch:red'].",
        )
    samples = spaced_samples(database, count) if images is None else count
    chosen = target_images(database, target, samples, images)
    chosen = TargetImages(database, target, chosen.read, chosen.samples[:count])
    if len(chosen.samples) < LEAST:
        raise DataError(
            f"There are {len(chosen.samples)} images.",
            f"Expected at least {LEAST}, to know how much the target varies.",
            "Use more images.",
        )
    names = numbered([artefact.name for artefact in signs])
    rows: list[dict[str, Any]] = []
    components: list[pd.DataFrame] = []
    pictures: dict[str, Any] = {}
    for done, (name, artefact) in enumerate(zip(names, signs, strict=True), start=1):
        inserted = Inserted(chosen, artefact, seed, batch_size)
        values, effects = _measure(inserted)
        row = {"artefact": name, "source": artefact.spec, **compare_rises(values, target.name)}
        rows.append(row)
        components.append(_components(inserted, row, effects))
        shown = [inserted.variants(sample) for sample in chosen.samples[:SHOWN]]
        pictures[name] = {one: tuple(each[one] for each in shown) for one in shown[0]}
        report_progress("inserting artefacts", done, len(signs))
    return Reliance(
        target.name, corrected(pd.DataFrame(rows)), pd.concat(components, ignore_index=True),
        len(chosen.samples), pictures,
    )  # fmt: skip


def compare_rises(values: Values, name: str = "The target") -> dict[str, Any]:
    """Test whether a target rises, or falls, more with a sign than with either control.

    In each direction, the p-value is the larger one of both controls (intersection-union); the
    smaller direction is doubled.

    Parameters
    ----------
    values
        float[n] of ``plain``, ``sign`` and each control, of the same images.

    Raises
    ------
    RelevanceError
        If the target is not finite, or does not vary: then there is no unit of a rise.
    """
    plain = values["plain"]
    finite = all(np.isfinite(one).all() for one in values.values())
    spread = float(plain.std(ddof=1)) if finite else float("nan")
    if not spread > 0:
        problem = f"is {plain[0]:g} on all" if finite else "is not a number on some"
        raise RelevanceError(
            f"'{name}' {problem} of {len(plain)} images.",
            "Expected finite values that vary: a rise is measured in their standard deviation.",
            "Choose other images, or a target that they have.",
        )
    rises = {one: (values[one] - plain) / spread for one in ("sign", *CONTROLS)}
    by_direction: dict[int, tuple[float, str]] = {}
    for direction in (1, -1):
        with_sign = direction * rises["sign"]
        p_values: dict[str, float] = {}
        for control in CONTROLS:
            with_control = direction * rises[control]
            factor = FACTOR if with_control.mean() > 0 else 1.0
            p_values[control] = p_above_zero(with_sign - factor * with_control - MARGIN)
        nearest = max(CONTROLS, key=lambda one: (p_values[one], direction * rises[one].mean()))
        by_direction[direction] = p_values[nearest], nearest
    direction = min(by_direction, key=lambda one: by_direction[one][0])
    p_value, nearest = by_direction[direction]
    return {
        "rise": float((values["sign"] - plain).mean()),
        **{control: float((values[control] - plain).mean()) for control in CONTROLS},
        "control": nearest,
        "excess": float((rises["sign"] - rises[nearest]).mean()),
        "p_value": min(1.0, 2 * p_value),
    }


@dataclass(frozen=True)
class Inserted:
    """Images of a target, into which one sign is inserted."""

    chosen: TargetImages
    artefact: Artefact
    seed: int
    batch_size: int

    def variants(self, sample: int) -> Mapping[str, Image.Image]:
        """Return a sample as it is, with the sign and with the controls."""
        seed = artefact_seed(self.seed, sample)
        return variants(self.chosen.read(sample), self.artefact, seed)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches of the model's input by variant, of the same samples."""
        model = self.chosen.database.model
        stream = prefetch(
            lambda sample: {n: model.prepare(one) for n, one in self.variants(sample).items()},
            self.chosen.samples,
            default_workers(),
        )
        while part := list(islice(stream, self.batch_size)):
            yield {name: model.batch([one[name] for one in part]) for name in part[0]}


def _measure(inserted: Inserted) -> tuple[Values, Float64[np.ndarray, " components"]]:
    """Return the target with every variant, and by how much the sign changes each component.

    The latter is against the scrambled control, in standard deviations between images (Cohen's d).
    """
    target, database = inserted.chosen.target, inserted.chosen.database
    layers, readout = list(database.layer_names(None)), database.manifest.recipe.readout
    values, readouts = defaultdict[str, list[Any]](list), defaultdict[str, list[Any]](list)
    for batch in inserted.batches():
        held: Tensor | None = None
        for name, inputs in batch.items():  # the image as it is comes first
            found, output = readouts_and_output(database.model, inputs, layers, readout)
            held = target.choice(output) if name == "plain" else held
            values[name].append(target.held_value(output, held).cpu().double().numpy())
            readouts[name].append(by_component(database, layers, found))
    sign, scrambled = (
        np.concatenate(readouts[name]).astype(np.float64) for name in ("sign", "scrambled")
    )
    spread = np.sqrt((sign.var(0) + scrambled.var(0)) / 2)
    rise = sign.mean(0) - scrambled.mean(0)
    effect = np.divide(rise, spread, out=np.zeros_like(rise), where=spread > 0)
    return {name: np.concatenate(parts) for name, parts in values.items()}, effect


def _components(
    inserted: Inserted, row: Mapping[str, Any], effects: Float64[np.ndarray, " components"]
) -> pd.DataFrame:
    """Return the components that the sign changes most, and the share of the excess each carries.

    The share is what is lost of the difference between the sign and the nearest control if the
    component is ablated (set to zero) in both. It is measured where there is an excess.
    """
    database = inserted.chosen.database
    found: dict[tuple[str, int], int] = {}  # a channel is ablated with both of its signs
    for index in np.argsort(-np.abs(effects), kind="stable"):
        component = database.component(int(index))
        found.setdefault((component.layer, component.index), int(index))
        if len(found) == ABLATED:
            break
    listed = [database.component(index) for index in found.values()]
    carried = np.full(len(listed), np.nan)
    if row["p_value"] < ALPHA:
        intact, *ablated = _gains(inserted, row["control"], [(), *([one] for one in listed)])
        carried = 1 - np.array(ablated) / intact
    return pd.DataFrame(
        {
            "artefact": row["artefact"],
            "component": [str(component) for component in listed],
            "effect": effects[list(found.values())],
            "carried": carried,
        }
    ).sort_values("carried", ascending=False, kind="stable", ignore_index=True)


@torch.inference_mode()
def _gains(inserted: Inserted, control: str, units: Sequence[Sequence[Component]]) -> list[float]:
    """Return the mean difference between sign and control, with each unit ablated."""
    model, target = inserted.chosen.database.model, inserted.chosen.target
    sums = np.zeros(len(units))
    with evaluating(model.module):
        for batch in inserted.batches():
            held = target.choice(run_output(model, batch["plain"]))
            for number, unit in enumerate(units):
                with pruned(model, unit):
                    with_sign = target_values(model, batch["sign"], target, held)
                    with_control = target_values(model, batch[control], target, held)
                sums[number] += (with_sign - with_control).sum()
    return [float(one) for one in sums / len(inserted.chosen.samples)]
