"""``semlens.testing.check_lens`` over all lenses of semlens, and over some that break the rules."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pytest
from conftest import LittleNet, WordEmbedder, to_tensor, write_pictures
from PIL import Image
from rich.text import Text
from torch import nn

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.lens import lens, load_lens, registered, takes_several
from semlens.lenses.result import Result
from semlens.models.subject import SubjectModel
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.testing import check_lens
from semlens.types import Layers

LISTS = {"valid": ["dog", "grass"], "spurious": ["text", "sky"]}
WORDS = ["dog", "cat", "grass", "sky"]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "affected": {"components": ["second:1"]},
    "attribution_graph": {"target": "ox", "concepts": WORDS, "samples": 4},
    "audit": {"target": "ox", "concepts": LISTS, "resamples": 20},
    "audit_all": {"concepts": LISTS, "resamples": 20},
    "card": {"component": "second:1"},
    "class_relevance": {"target": "ox", "concepts": WORDS},
    "compare": {"concepts": WORDS},
    "concept_map": {"concepts": WORDS, "clusters": 3},
    "contrast": {"a": [0, 1, 2, 3], "b": [4, 5, 6, 7], "concepts": WORDS, "draws": 100},
    "cut_out": {"components": ["second:1"], "count": 2},
    "dissect": {"concepts": {"Animals": ["dog", "cat"], "Places": ["grass", "sky"]}},
    "drift": {"concepts": WORDS},
    "effect": {
        "target": "ox",
        "samples": 4,
        "group_by": "label",
        "concepts": {sl.Component("second", 1): "dog", sl.Component("second", 2): "cat"},
    },
    "evidence": {"target": "ox", "concepts": LISTS, "resamples": 20, "date": "2026-01-01"},
    "explain": {"target": "ox", "concepts": WORDS, "top": 3},
    "label": {"concepts": WORDS},
    "label_stability": {"concepts": WORDS, "draws": 5},
    "model_test": {"target": "ox", "artefacts": ["patch:red"]},
    "odd_one_out": {"shown": 2, "shuffles": 2},
    "prototypes": {"target": "ox", "layer": "second", "concepts": WORDS},
    "prune": {"components": ["first:1"]},
    "reliance": {"target": "ox", "artefacts": ["patch:red"], "count": 16},
    "report": {"target": "ox", "concepts": LISTS, "graph": False, "concept_map": False},
    "retrain": {"artefacts": ["patch:red"]},
    "search": {"like": ["second:1"]},
    "senses": {"concepts": WORDS, "top": 2},
    "sensitivity": {"artefacts": ["patch:red"]},
    "study": {"tasks": 4, "shown": 2},
    "suspects": {"target": "ox", "concepts": LISTS, "vocabulary": WORDS},
    "swap": {"part": "border", "count": 8},
    "tcav": {"target": "ox", "draws": 19, "counters": 2},
    "unexpected": {"target": "ox", "concepts": WORDS},
}
"""What a lens needs, and what makes it quick."""
EXTREMES = {"class_relevance", "label", "odd_one_out", "scores", "search"}
"""Lenses that are quick enough to be asked with the limits of each setting."""


CLASSES = ["ox", "vegetable", "zebra", "clock", "bee", "ape"]


@pytest.fixture(scope="module")
def databases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lenses")
    images = ImageFolder(write_pictures(folder / "images", 72))
    # eight images of each class, more of the first
    targets = [CLASSES[max(i % 9 - 3, 0)] for i in range(len(images))]

    def build(seed: int) -> sl.ConceptDatabase:
        net = LittleNet(seed)
        net.head = nn.Linear(10, len(CLASSES))
        model = SubjectModel(net, to_tensor, "32 bilinear", f"python:little{seed}", CLASSES)
        return sl.build(
            folder / f"db{seed}", model, images, WordEmbedder(), ["first", "second"], examples=4,
            crop="activation", relevance=True, targets=targets,
        )  # fmt: skip

    for number, name in enumerate(images.ids):
        mask = np.zeros(images.read(number).size[::-1], np.uint8)
        mask[: number % 20, : 10 + number % 9] = 255
        path = folder / "masks" / "corner" / Path(name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return [build(0), build(1)]


def needed(name: str, database: Any) -> dict[str, Any]:
    """Arguments that depend on files of the database."""
    pictures = sorted(Path(database.path).parent.rglob("images/*/*.png"))
    if name == "explain":
        return {"image": pictures[0]}
    if name == "tcav":
        return {"concepts": {"some": pictures[:8]}}
    if name == "evaluate_labels":
        folder = pictures[0].parents[1]
        return {"images": folder, "concepts": WORDS, "auroc": 0.5, "precision": 0.0}
    if name in ("netdissect", "net2vec"):
        return {"masks": Path(database.path).with_name("masks"), "quantile": 0.5}
    return {}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registered()))
def test_a_lens_of_semlens_keeps_the_contract(name, databases):
    question = load_lens(name)
    subject = databases if takes_several(question) else databases[0]
    arguments = ARGUMENTS.get(name, {}) | needed(name, databases[0])
    check_lens(question, subject, extremes=name in EXTREMES, **arguments)


@dataclass(frozen=True, repr=False)
class Counts(Result):
    """Numbers of components."""

    frame: pd.DataFrame
    suffixes = (".csv", ".json")

    def to_json(self) -> dict[str, Any]:
        return {"layers": self.frame.to_dict("records")}

    def plot(self):
        from matplotlib.figure import Figure

        return Figure()

    def __rich__(self) -> Text:
        return Text(f"{len(self.frame)} layers")


class Leaky(Counts):
    def to_pandas(self) -> pd.DataFrame:
        return self.frame


class Odd(Counts):
    def to_json(self) -> dict[str, Any]:
        return {"layers": {1, 2}}


class Silent(Counts):
    def __rich__(self) -> Text:
        return Text("")


@lens(group="Describe")
def counts(
    database: Database,
    layers: Layers = None,
    *,
    least: Annotated[int, setting("Least number.", ge=0, le=10**6)] = 0,
) -> Counts:
    """Count components."""
    frame = database.summary()[["layer", "components"]]
    if layers is not None:
        frame = frame[frame["layer"].isin(database.layer_names(layers))]
    for number, _ in enumerate(frame["layer"], start=1):
        report_progress("counting", number, len(frame))
    return Counts(frame[frame["components"] >= least].reset_index(drop=True))


def without_documentation(database: Database) -> Counts:
    return counts(database)


def of_another_type(database: Database) -> list[int]:
    """Return a list."""
    return [1]


def leaky(database: Database) -> Leaky:
    """Give away its table."""
    return Leaky(counts(database).frame)


def odd(database: Database) -> Odd:
    """Have a value that JSON does not know."""
    return Odd(counts(database).frame)


def silent(database: Database) -> Silent:
    """Print nothing."""
    return Silent(counts(database).frame)


def any_layer(database: Database, layers: Layers = None) -> Counts:
    """Take any layer."""
    return counts(database)


def loose(database: Database, layers: Layers = None) -> Counts:
    """Raise another error."""
    if layers is not None:
        raise KeyError(layers)
    return counts(database)


def deaf(database: Database) -> Counts:
    """Go on when it is cancelled."""
    with contextlib.suppress(Exception):
        report_progress("counting", 1, 2)
    return Counts(pd.DataFrame({"a": [1]}))


RANDOM = iter(range(1000))


def random(database: Database) -> Counts:
    """Give another answer each time."""
    return Counts(pd.DataFrame({"a": [next(RANDOM)]}))


def backwards(database: Database) -> Counts:
    """Report more than there is."""
    report_progress("counting", 3, 2)
    return counts(database)


def test_a_lens_that_keeps_the_contract_passes(databases):
    check_lens(counts, databases[0])


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (without_documentation, "has no docstring"),
        (of_another_type, "is annotated to return"),
        (leaky, "gives away its own table"),
        (odd, "set is not JSON serializable"),
        (silent, "prints nothing"),
        (any_layer, "accepts layers='no such layer'"),
        (loose, "raises KeyError for layers='no such layer'"),
        (deaf, "goes on when it is cancelled"),
        (random, "gives another result when asked again"),
        (backwards, "reports 'counting' 3 of 2"),
    ],
)
def test_a_lens_that_breaks_the_contract_is_told_how(databases, broken, says):
    with pytest.raises((AssertionError, TypeError), match=says):
        check_lens(lens(group="Describe")(broken), databases[0])


def test_what_is_no_lens_and_the_wrong_number_of_databases_are_told(databases):
    with pytest.raises(AssertionError, match="is not under @lens"):
        check_lens(without_documentation, databases[0])
    with pytest.raises(AssertionError, match="'counts' takes one database"):
        check_lens(counts, databases)
