"""How often labels of a database are right, measured on labelled images of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64
from rich.console import Group, RenderableType

from semlens.data.images import Images
from semlens.draw.text_table import rich_table
from semlens.errors import EmbedderError
from semlens.figures import FigureSpec, Series, Values
from semlens.lens import lens
from semlens.lenses.arguments import LabelConcepts
from semlens.lenses.concepts import ConceptSet, concept_key
from semlens.lenses.database_engine import by_component
from semlens.lenses.labelling.chosen_method import (
    DEFAULT_METHOD,
    DEFAULT_WITHOUT_REFERENCE,
    PAPER_METHOD,
)
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.hits import hit_table
from semlens.lenses.labelling.known_content import LabelledFolders, find_known
from semlens.lenses.labelling.label import VOCABULARY
from semlens.lenses.labelling.registry import make_labeller
from semlens.lenses.labelling.vote import ExampleVote
from semlens.lenses.query_embedding import QueryEmbedding, embed_concepts, unit
from semlens.lenses.result import Result, Section
from semlens.lenses.statistics.intervals import clustered_shares
from semlens.models.forward import readouts
from semlens.progress import report_progress
from semlens.settings import setting
from semlens.store.reader import Database
from semlens.types import Layers

METHODS = (
    DEFAULT_METHOD,
    DEFAULT_WITHOUT_REFERENCE,
    PAPER_METHOD,
    "clip-dissect",
    "csp",
    "random",
)
"""Methods that are compared, if no others are asked for and the database has what they need."""
CEILING = "ceiling"
"""Row of the labels that the images of the folders themselves get."""
EMBEDDED = 60
"""Images of a folder that are embedded at most."""


@dataclass(frozen=True, eq=False, repr=False)
class LabelEvaluation(Result):
    """How often labels of components of known content are right.

    Parameters
    ----------
    frame
        A row per method: ``method``; ``exact`` and ``top5``, the shares of components whose best
        word, or one of whose five best, is their folder's name, with 95 % intervals over folders
        (``exact_low``, ...); ``simulation``, the mean correlation of a component's readouts with
        the similarity of images and its label. The row ``ceiling`` has the labels that the images
        of the folders get.
    components
        A row per component of known content: ``component``, ``folder``, ``auroc``, ``precision``,
        and its label by each method.
    folders, images, searched, words
        Numbers of folders, of their images, of components that were tried, and of words.
    """

    frame: pd.DataFrame
    components: pd.DataFrame
    folders: int
    images: int
    searched: int
    words: int

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a program."""
        return {
            "folders": self.folders,
            "images": self.images,
            "searched": self.searched,
            "words": self.words,
            "methods": self.frame.to_dict("records"),
            "components": self.components.to_dict("records"),
        }

    def figure(self) -> FigureSpec:
        """Return the shares of right labels with their intervals."""
        series = [
            Series(
                self.frame[name].tolist(), text,
                self.frame[f"{name}_low"].tolist(), self.frame[f"{name}_high"].tolist(),
            )
            for name, text in (("exact", "best word"), ("top5", "five best words"))
        ]  # fmt: skip
        axis = "share of right labels, 95 % intervals over folders"
        methods = self.frame["method"].tolist()
        return FigureSpec(self.summary, [Values("", methods, series, axis, limits=(0, 1))])

    def section(self, target: str | None = None) -> Section:
        """Return how often each method is right, in sentences."""
        sentences = [f"{self.summary}."]
        sentences += [
            f"{row['method']}: the best word is right for {row['exact']:.0%} "
            f"({row['exact_low']:.0%} to {row['exact_high']:.0%}), one of the five best for "
            f"{row['top5']:.0%}."
            for row in self.frame.to_dict("records")
        ]
        limits = "Only components that respond to one folder are counted; a synonym is wrong."
        return Section(sentences, self.figure(), self.to_pandas(), limits)

    @property
    def summary(self) -> str:
        """What was evaluated, in a sentence."""
        return (
            f"{len(self.components)} of {self.searched} components respond to one of "
            f"{self.components['folder'].nunique()} folders; {self.words} words"
        )

    def __rich__(self) -> RenderableType:
        """Return the table of methods."""

        def share(name: str) -> list[str]:
            columns = self.frame[[name, f"{name}_low", f"{name}_high"]].to_numpy()
            return [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in columns]

        shown = self.frame[["method"]].assign(exact=share("exact"), top5=share("top5"))
        shown["simulation"] = self.frame["simulation"]
        return Group(
            rich_table(shown, self.summary),
            f"{CEILING}: the label that the images of a component's folder get.",
        )


@lens(
    "model", "embedder", group="Search", command="labels evaluate", 
    example="labels evaluate r18.semlens --data classes/ --method vote --method csp",
)  # fmt: skip
def evaluate_labels(
    database: Database,
    images: Annotated[
        Images | str | Path, setting("Images in a folder per class, named by a word.")
    ],
    concepts: Annotated[
        LabelConcepts,
        setting(
            "Vocabulary that the names of the folders are added to; repeat to combine several."
        ),
    ] = VOCABULARY,
    *,
    methods: Annotated[
        str | Sequence[str] | None, setting("Labelling method; repeat to compare several.")
    ] = None,
    layers: Layers = None,
    auroc: Annotated[
        float, setting("Least AUROC of a component for its folder.", ge=0.5, le=1)
    ] = 0.9,
    precision: Annotated[
        float, setting("Least share of its folder among its strongest images.", ge=0, le=1)
    ] = 0.5,
    batch_size: Annotated[int, setting("Images per pass.", ge=1)] = 32,
) -> LabelEvaluation:
    """Measure how often labels are right, on labelled images of your own.

    The model runs on the images. Components that one folder activates more than the others have a
    known content; they are labelled from the database, as always, and the label is right if it is
    the name of the folder. Upper and lower case do not matter; a synonym is wrong.

    Parameters
    ----------
    images
        A folder of class folders, or other images with class names.
    methods
        Methods of :mod:`semlens.lenses.labelling`. By default those of ``METHODS`` whose needs
        the database meets.

    Raises
    ------
    DataError
        If there are fewer than two folders, a folder has few images, or components of known
        content are of fewer than two folders.
    EmbedderError
        If the embedder reads no texts.
    RecipeError
        If there is no such method.
    """
    if not database.embedder.has_text:
        raise EmbedderError(
            "The database's embedder reads no texts.",
            "Expected an embedder with a text tower, which labels need.",
            "Build the database again with another embedder.",
        )
    names = [methods] if isinstance(methods, str) else [*(methods or ())]
    names = names or [n for n in METHODS if _usable(database, n)]
    labellers = {name: make_labeller(name) for name in names}
    folders = LabelledFolders.of(images)
    layer_names = database.layer_names(layers)
    by_layer = readouts(
        database.model, folders.images.read, folders.samples, layer_names,
        database.manifest.recipe.readout, batch_size,
    )  # fmt: skip
    values = by_component(database, layer_names, by_layer)
    rows = database.rows(layer_names)
    usable = database.has_examples[rows]
    known = find_known(values[:, usable], folders, rows[usable], auroc, precision)
    embedding, words = _vocabulary(database, concepts, folders.names)
    right = words[known.folder][:, None] == np.arange(len(embedding.names))
    vectors, embedded = _folder_vectors(database, folders)
    sample = values[:, usable][:, known.columns][embedded]
    picked: dict[str, Int64[np.ndarray, " n"]] = {}
    hits: list[np.ndarray] = []
    for name, labeller in labellers.items():
        scores = np.empty(right.shape, np.float32)
        for layer, place in known.by_layer(database):
            # components are scored with all of their layer: some methods compare them
            evidence = layer_evidence(database, layer, embedding)
            inside = database.rows(layer)
            inside = inside[database.has_examples[inside]]
            found = labeller.scores(evidence)
            scores[place] = found[np.searchsorted(inside, known.rows[place])]
        picked[name] = scores.argmax(1)
        hits += hit_table(scores, right)
    own = _ceiling(unit(embedding.vectors), vectors, folders.targets[embedded])[known.folder]
    picked[CEILING] = own.argmax(1)
    hits += hit_table(own, right)
    found = clustered_shares(np.stack(hits, 1), known.folder)
    similarity = vectors @ unit(embedding.vectors).T
    table = [
        {
            "method": name,
            **{
                key + end: float(part[2 * position + column])
                for column, key in enumerate(("exact", "top5"))
                for end, part in zip(("", "_low", "_high"), found, strict=True)
            },
            "simulation": float(np.mean(_correlation(sample, similarity[:, best]))),
        }
        for position, (name, best) in enumerate(picked.items())
    ]
    components = known.table(database, folders.names).assign(
        **{name: [embedding.names[i] for i in best] for name, best in picked.items()}
    )
    return LabelEvaluation(
        pd.DataFrame(table), components, len(folders.names), len(folders.samples),
        int(usable.sum()), len(embedding.names),
    )  # fmt: skip


def _usable(database: Database, method: str) -> bool:
    """Return whether a method has what it needs, and no better one of its kind does."""
    needs = make_labeller(method).needs
    has_reference = database.reference is not None
    return method != "vote-examples" if has_reference else "reference" not in needs


def _vocabulary(
    database: Database, concepts: ConceptSet, names: Sequence[str]
) -> tuple[QueryEmbedding, Int64[np.ndarray, " k"]]:
    """Return the embedded words, with the names of folders, and the word of each folder."""
    known = {concept_key(concept) for concept in concepts.concepts}
    missing = [name for name in names if name.casefold() not in known]
    if missing:
        added = ConceptSet.of(missing, name="folders")
        concepts = ConceptSet(
            (*concepts.concepts, *added.concepts), f"{concepts.name} + folders",
            concepts.source, concepts.templates, concepts.target,
        )  # fmt: skip
    position = {concept_key(c): i for i, c in reversed([*enumerate(concepts.concepts)])}
    return embed_concepts(database, concepts), np.array([position[n.casefold()] for n in names])


def _folder_vectors(
    database: Database, folders: LabelledFolders
) -> tuple[Float32[np.ndarray, "e d"], Int64[np.ndarray, " e"]]:
    """Embed some images of each folder; return vectors and positions of the images."""
    positions = np.concatenate(
        [np.flatnonzero(folders.targets == k)[:EMBEDDED] for k in range(len(folders.names))]
    )
    blocks: list[np.ndarray] = []
    for start in range(0, len(positions), 64):
        some = positions[start : start + 64]
        pictures = [folders.images.read(folders.samples[i]) for i in some]
        blocks.append(database.embedder.embed_images(pictures).numpy())
        report_progress("embedding images", start + len(some), len(positions))
    return unit(np.concatenate(blocks).astype(np.float32)), positions


def _ceiling(
    words: Float32[np.ndarray, "q d"],
    vectors: Float32[np.ndarray, "e d"],
    folder: Int64[np.ndarray, " e"],
) -> Float32[np.ndarray, "k q"]:
    """Return scores of the words for the images of each folder, by a vote."""
    count = np.bincount(folder)
    examples = np.full((len(count), count.max()), -1)
    for number in range(len(count)):
        examples[number, : count[number]] = np.flatnonzero(folder == number)
    readouts = np.zeros(examples.shape, np.float32)
    evidence = Evidence(words, vectors, examples, readouts, count, background=vectors)
    return ExampleVote(top=EMBEDDED).scores(evidence)


def _correlation(
    first: Float[np.ndarray, "e n"], second: Float[np.ndarray, "e n"]
) -> Float[np.ndarray, " n"]:
    """Return the correlation of each column; 0 for one that does not vary."""
    first = first - first.mean(0, dtype=np.float64)
    second = second - second.mean(0, dtype=np.float64)
    size = np.sqrt((first**2).sum(0) * (second**2).sum(0))
    return np.divide((first * second).sum(0), size, out=np.zeros(len(size)), where=size > 0)
