"""A study with people: its page, and the key that stays with the experimenter (paper, G.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from rich.console import Group, RenderableType
from rich.text import Text

from semlens.draw.encode_images import encode_webp
from semlens.draw.example_picture import example_crop
from semlens.draw.study_page import StudyPage, study_page
from semlens.draw.text_table import titled_table
from semlens.figures import FigureSpec, histograms
from semlens.lens import lens
from semlens.lenses.result import TABLE_SUFFIXES, Result, Section
from semlens.lenses.study.raters import share_right
from semlens.lenses.study.sampling import Question, Sampler, draw_questions, examples_needed
from semlens.lenses.study.set_measures import (
    odd_set,
    odd_similarity,
    set_clarity,
    set_polysemanticity,
)
from semlens.lenses.study.tasks import CONTROL, POINTS, PROTOCOLS, SETS, TASKS, Measure
from semlens.progress import report_progress
from semlens.recipe import fingerprint
from semlens.settings import setting
from semlens.store.examples import Example
from semlens.store.reader import Database
from semlens.types import Box, Layers

SIDE = 160
"""Largest side of a crop on the page, in pixels."""
MINUTES = 15
"""Estimated time for one of the studies of the paper."""


@dataclass(frozen=True, repr=False)
class Study(Result):
    """The questions of a study with their right answers, what the measures say, and the page.

    The page (``.html``) has neither answers nor names of components. All values (``.json``) are the
    key, which the evaluation of the answers needs.
    """

    suffixes = (".html", *TABLE_SUFFIXES)

    id: str
    """Identifies page, key and answers: a hash of the database and the questions."""
    measure: Measure
    database: str
    frame: pd.DataFrame
    """One row per question: question, kind, components, right, value, pick, clarity.

    ``value`` is the measure of what is shown: the similarity of the odd set with the other two
    (G.1.1, Eq. 1), the clarity of a set, the clarity of A minus that of B, or the polysemanticity
    of a set; ``pick`` is the set that the measure chooses.
    """
    shown: int
    """Images in a set."""
    seed: int
    page: StudyPage
    """Content of the page."""

    @property
    def recurring(self) -> int:
        """Number of components in several questions of one kind, other than controls."""
        return sum(
            count > 1
            for kind, group in self.frame.groupby("kind")
            if not str(kind).endswith(CONTROL)
            for count in Counter(", ".join(group["components"]).split(", ")).values()
        )

    def to_json(self) -> dict[str, Any]:
        """Return the key."""
        return {
            "study": self.id,
            "measure": self.measure,
            "database": self.database,
            "shown": self.shown,
            "seed": self.seed,
            "recurring": self.recurring,
            "questions": self.frame.to_dict("records"),
        }

    def _file_text(self, suffix: str) -> str | None:
        return study_page(self.page) if suffix == ".html" else None

    def figure(self) -> FigureSpec:
        """Return the values of the measure, by kind of question."""
        by_kind = self.frame.groupby("kind")["value"]
        values = {str(kind): value.to_numpy(float) for kind, value in by_kind}
        return FigureSpec("Values of the questions", [histograms("", values, self.measure)])

    def section(self, target: str | None = None) -> Section:
        """Return what people are asked, in sentences."""
        sentences = [
            f"A study of {self.measure}: {len(self.frame)} questions of "
            f"{self.frame['kind'].nunique()} kinds, with {self.shown} images in a set."
        ]
        if self.recurring:
            sentences.append(f"{self.recurring} components recur in questions of one kind.")
        return Section(sentences, self.figure(), self.to_pandas())

    def __rich__(self) -> RenderableType:
        """Return the kinds of questions, with the range of the measure and its right answers."""
        table = pd.DataFrame(
            {
                "kind": kind,
                "questions": len(group),
                "lowest": group["value"].min(),
                "median": group["value"].median(),
                "highest": group["value"].max(),
                "right": share_right(group),
            }
            for kind, group in self.frame.groupby("kind", sort=False)
        )
        title = f"study {self.id} of {self.measure}, {self.shown} images in a set"
        lines: list[RenderableType] = titled_table(title, table)
        if self.recurring:
            lines.append(
                Text(
                    f"{self.recurring} components recur in questions of one kind, as there are too "
                    "few: correlations will look more certain than they are."
                )
            )
        return Group(*lines)


@lens(group="Study", command="", local=True)
def study(
    database: Database,
    measure: Annotated[
        Measure, setting("What is compared with people: the three studies of the paper.")
    ] = "similarity",
    layers: Layers = None,
    *,
    tasks: Annotated[
        int | None, setting("Number of tasks; by default as in the paper: 50, 32 or 28.", ge=4)
    ] = None,
    shown: Annotated[
        int | None, setting("Images in a set; by default as in the paper: 10, 10 or 20.", ge=2)
    ] = None,
    seed: Annotated[int, setting("Random seed.", ge=0)] = 0,
) -> Study:
    """Prepare a study that compares a measure of interpretability with people.

    The studies are those of the paper (G.1). *Similarity* is an odd-one-out task with confidence
    and perceived similarity. *Clarity* has three questions per task: a set against a set of random
    crops, a rating, and a choice between two sets. *Polysemanticity* has two: the number of themes
    in a set of one or two clear components, and in a set of any component.

    Raises
    ------
    DataError
        If too few components have enough examples, or an image without a thumbnail is missing.
    StaleError
        If such an image has changed.
    """
    protocol = PROTOCOLS[measure]
    tasks, shown = tasks or protocol.tasks, shown or protocol.shown
    sampler = Sampler(database, layers, examples_needed(measure, shown), seed)
    questions = draw_questions(sampler, measure, tasks, shown)
    frame = pd.DataFrame(
        {"question": number, **_key_row(database, one)}
        for number, one in enumerate(questions, start=1)
    )
    study_id = fingerprint(
        database.fingerprint, measure, seed, [[q.kind, q.sets] for q in questions]
    )[:12]
    page = _page(database, study_id, measure, questions)
    return Study(study_id, measure, database.name, frame, shown, seed, page)


def _key_row(database: Database, asked: Question) -> dict[str, Any]:
    """Return what the page does not say about a question."""
    crops = np.array(asked.sets)
    vectors = torch.from_numpy(database.crop_vectors[crops]).float()
    pick = None
    clarity = None if len(crops) > 1 else set_clarity(vectors[0])
    if asked.kind == "odd":
        value = odd_similarity(vectors, SETS.index(str(asked.right)))
        pick = SETS[odd_set(vectors)]
    elif len(crops) == 2:
        value = set_clarity(vectors[0]) - set_clarity(vectors[1])
        pick = SETS[int(value < 0)]
    else:
        value = clarity if asked.kind == "rating" else set_polysemanticity(vectors[0])
    return {
        "kind": asked.kind,
        "components": ", ".join(str(database.component(row)) for row in dict.fromkeys(asked.rows)),
        "right": asked.right,
        "value": value,
        "pick": pick,
        "clarity": clarity,
    }


def _page(
    database: Database, study_id: str, measure: Measure, questions: Sequence[Question]
) -> StudyPage:
    """Return the content of the page; crops are numbered by their first appearance."""
    crops = list(dict.fromkeys(crop for asked in questions for one in asked.sets for crop in one))
    pictures: list[bytes] = []
    for done, crop in enumerate(crops, start=1):
        pictures.append(_picture(database, crop))
        report_progress("cutting out crops", done, len(crops))
    number = {crop: place for place, crop in enumerate(crops)}
    protocol = PROTOCOLS[measure]
    # a control looks like the question that it stands among
    prompts = [TASKS[kind] for kind in protocol.kinds]
    unique = list(dict.fromkeys(prompts))
    return StudyPage(
        id=study_id,
        title=protocol.title,
        introduction=protocol.introduction,
        minutes=max(1, round(MINUTES * len(questions) / len(protocol.kinds) / protocol.tasks)),
        points=POINTS,
        tasks=[
            {
                "prompt": task.prompt,
                "sets": task.sets > 1,
                "choices": task.choices,
                "scales": [vars(scale) for scale in task.scales],
            }
            for task in unique
        ],
        questions=[
            {
                "task": unique.index(TASKS[asked.kind]),
                "sets": [[number[crop] for crop in one] for one in asked.sets],
            }
            for asked in questions
        ],
        pictures=pictures,
    )


def _picture(database: Database, crop: int) -> bytes:
    """Return a crop alone, as the embedder sees it, as WebP."""
    sample, box = int(database.crop_samples[crop]), Box(*database.crop_boxes[crop].tolist())
    example = Example(sample, database.sample(sample).path, 0.0, box, crop)
    picture = example_crop(database, example)
    picture.thumbnail((SIDE, SIDE))
    return encode_webp(picture)
