"""Images of the planted worlds of labels, and which words are true of them.

The concepts of the worlds that are opened once are not those of the development worlds, and no word
is right in both: each word may be right in one half of the worlds, even where it is true in both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

import semlens as sl
from benchmarks.worlds.labelled.concepts import GENERAL, SYNONYMS, Drawing, drawings, side, words_of
from demo_world.rasterise import Picture, load_pictures
from demo_world.scenes import Scenes, SceneStyle, attributes, draw_scenes, shown
from demo_world.wordnet import WordNet
from demo_world.workspace import Workspace

Half = Literal["development", "fresh"]
DEVELOPMENT_ATTRIBUTES = frozenset(
    {
        "white background", "red background", "blue background", "yellow background",
        "turquoise background", "brown background", "striped background", "text", "writing",
        "picture frame", "border", "red tint", "blue tint",
    }
)  # fmt: skip
"""Words about background and overlay that may be right in the development worlds; the others may
be in those that are opened once."""
CATEGORIES = ("Animals", "Objects", "Object scenes", "Vegetations", "Food", "Textures")
"""Categories of the paper's vocabulary whose words are added if no image shows them."""
UNCERTAIN = frozenset(
    """human man woman baby head light water garbage paper letter drawing painting poster instrument
    apparel clothing sheet stick screen tool tissue stamp sky sea snow can vegetation grass weed
    footwear map box medicine package globe display sculpture statue flag stationery clock face
    """.split()
)
"""Words of it that some images show more or less."""
TEXTURES_SHOWN = (
    "strip|fur|feather|text|font|letter|noise|grain|geometric|band|line|smooth|floral|dotted|"
    "speckled|fuzzy|scaly|plastic|glossy|transparent|opaque|matte|grid|flecked|polished"
).split("|")


@dataclass(frozen=True)
class LabelWorld:
    """What determines a world and its subjects.

    Parameters
    ----------
    groups
        Groups of emoji whose concepts are shown; all by default.
    offset
        The n-th most frequent concept is shown in proportion to 1 / (n + offset).
    architectures
        Of the subjects.
    words
        Size of the vocabulary.
    probe, unseen
        Numbers of images: those of which components have examples, and those that no labelling
        method sees.
    """

    name: str
    data: Literal["broad", "narrow"]
    opened_once: bool
    seed: int
    groups: tuple[str, ...] = ()
    style: SceneStyle = SceneStyle()
    offset: float = 5.0
    architectures: tuple[str, ...] = ("small", "vgg")
    words: int = 1350
    probe: int = 4500
    unseen: int = 1500

    @property
    def half(self) -> Half:
        """Half of the concepts that are shown, and of the words that may be right."""
        return "fresh" if self.opened_once else "development"


@dataclass(frozen=True, eq=False)
class Split:
    """Some images of a world.

    Parameters
    ----------
    true
        bool[n q], which words are true of which images.
    """

    scenes: Scenes
    true: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        """uint8[n 96 96 3]."""
        return self.scenes.pixels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.scenes)


@dataclass(frozen=True, eq=False)
class WorldImages:
    """The images of a world.

    Parameters
    ----------
    words
        The vocabulary, q words.
    eligible
        bool[q], whether a word may be the right word of a unit.
    shown
        The p pictures of which scenes consist.
    picture_words
        bool[p q], which words are true of a picture.
    pictures
        uint8[p 96 96 4].
    weight
        float64[p], how likely each of them is: the mean over probe and unseen images.
    """

    spec: LabelWorld
    words: tuple[str, ...]
    eligible: np.ndarray
    shown: tuple[Drawing, ...]
    picture_words: np.ndarray
    pictures: np.ndarray
    weight: np.ndarray
    probe: Split
    unseen: Split

    @cached_property
    def synonyms(self) -> np.ndarray:
        """int[q]: words that are true of the same images have the same number, others have not.

        Words that are true of no image have no synonyms.
        """
        true = np.concatenate([self.probe.true, self.unseen.true])
        _, number = np.unique(np.packbits(true, axis=0), axis=1, return_inverse=True)
        number = number.reshape(-1)
        nothing = np.flatnonzero(~true.any(0))
        number[nothing] = len(number) + np.arange(len(nothing))
        return number

    def right(self, words: Sequence[int]) -> np.ndarray:
        """Return bool[q], the given words and their synonyms."""
        return np.isin(self.synonyms, self.synonyms[list(words)])

    @cached_property
    def may_be_right(self) -> np.ndarray:
        """bool[q], words that are true of images and, with all synonyms, eligible."""
        stranger = np.isin(self.synonyms, self.synonyms[~self.eligible])
        return self.probe.true.any(0) & self.unseen.true.any(0) & ~stranger


def vocabulary(
    spec: LabelWorld,
    concepts: Mapping[str, Drawing],
    tags: Mapping[str, Sequence[str]],
    related: Callable[[str], set[str]],
) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the words of a world in random order, and those that may be right.

    Parameters
    ----------
    concepts
        All concepts that any world shows, with one of their drawings.
    tags
        Keywords of concepts; those of shown concepts are no distractors.
    related
        From a word to synonyms and more general words.
    """
    rng = np.random.default_rng([spec.seed, 1])
    own = {name: d for name, d in concepts.items() if _shown_in(spec, d)}
    true = {word for name, d in own.items() for word in words_of(name, d.kind)}
    about = set(attributes(_no_scenes()))
    known = {w for name in own for w in (*tags.get(name, ()), *related(name))} - true
    parts = [_parts(word) for word in true | about]
    others = [*concepts, *SYNONYMS.values(), *(w for half in GENERAL.values() for w in half)]
    for concept in sl.ConceptSet.load("paper-vocabulary").concepts:
        texture = any(part in concept.name for part in TEXTURES_SHOWN)
        if concept.path[0] in CATEGORIES and not (texture and "texture" in concept.name):
            others.append(concept.name)
    candidates = sorted(
        {
            word
            for word in others
            if word not in true | about | known | UNCERTAIN
            and not any(_parts(word) <= part for part in parts)
        }
    )
    count = max(0, spec.words - len(true) - len(about))
    distractors = [candidates[i] for i in rng.permutation(len(candidates))[:count]]
    words = sorted(true | about | set(distractors))
    words = [words[i] for i in rng.permutation(len(words))]
    general = {word: half for half, some in GENERAL.items() for word in some}
    eligible: set[str] = set()
    for name, drawing in own.items():
        for word in (name, SYNONYMS.get(name, name)):
            if general.get(word, side(name, drawing.group)) == spec.half:
                eligible.add(word)
    eligible |= {word for word in true if general.get(word) == spec.half}
    eligible |= {w for w in about if (w in DEVELOPMENT_ATTRIBUTES) != spec.opened_once}
    return tuple(words), frozenset(eligible)


def make_images(spec: LabelWorld, work: Workspace) -> WorldImages:
    """Draw the images of a world from the source pictures of the work folder."""
    pixels, pictures = load_pictures(work)
    wordnet = WordNet(work.debian / "usr" / "share" / "wordnet")
    return draw_images(spec, pixels, pictures, lambda word: _related(wordnet, word))


def draw_images(
    spec: LabelWorld,
    pixels: np.ndarray,
    pictures: Sequence[Picture],
    related: Callable[[str], set[str]],
) -> WorldImages:
    """Draw the images of a world from pictures uint8[N 96 96 4] and their records."""
    everything = drawings(pictures)
    concepts = {d.concept: d for d in everything}
    tags: dict[str, list[str]] = defaultdict(list)
    for d in everything:
        tags[d.concept] += [pictures[d.row].label, *pictures[d.row].tags]
    words, eligible = vocabulary(spec, concepts, tags, related)
    own = sorted((d for d in everything if _shown_in(spec, d)), key=lambda d: d.row)
    place = {word: column for column, word in enumerate(words)}
    picture_words = np.zeros((len(own), len(words)), bool)
    for row, d in enumerate(own):
        picture_words[row, [place[word] for word in words_of(d.concept, d.kind)]] = True
    loaded = np.stack([pixels[d.row] for d in own])
    rng = np.random.default_rng([spec.seed, 2])
    seen, unseen = _separated(own, rng)
    names = sorted({d.concept for d in own})
    popularity = 1 / (np.arange(len(names)) + spec.offset)
    popularity = dict(zip(rng.permutation(names), popularity / popularity.sum(), strict=True))
    weights = [_weights(own, rows, popularity) for rows in (seen, unseen)]
    splits: list[Split] = []
    for number, (count, weight) in enumerate(zip((spec.probe, spec.unseen), weights, strict=True)):
        main, second = rng.choice(len(own), (2, count), p=weight)
        scenes = draw_scenes(
            loaded, main, unlike(main, second, picture_words), spec.style, 10 * spec.seed + number
        )
        splits.append(Split(scenes, shown(scenes, picture_words, words)))
    eligible_words = np.isin(np.array(words), list(eligible))
    return WorldImages(
        spec, words, eligible_words, tuple(own), picture_words, loaded, np.mean(weights, 0), *splits
    )


def unlike(main: np.ndarray, second: np.ndarray, picture_words: np.ndarray) -> np.ndarray:
    """Return the second pictures, none where the same words are true of both pictures."""
    return np.where((picture_words[main] == picture_words[second]).all(1), -1, second)


def _shown_in(spec: LabelWorld, drawing: Drawing) -> bool:
    in_group = not spec.groups or drawing.group in spec.groups
    return in_group and side(drawing.concept, drawing.group) == spec.half


def _separated(own: Sequence[Drawing], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return bool[p] of pictures for seen and for unseen images.

    Of a concept with several designs, about a third are for the unseen images only, the others for
    the seen ones only.
    """
    designs: dict[str, list[str]] = defaultdict(list)
    for d in own:
        if d.design not in designs[d.concept]:
            designs[d.concept].append(d.design)
    kept: set[str] = set()
    for found in designs.values():
        if len(found) > 1:
            kept |= set(rng.permutation(found)[: max(1, round(len(found) / 3))])
    single = {found[0] for found in designs.values() if len(found) == 1}
    unseen = np.array([d.design in kept | single for d in own])
    return np.array([d.design not in kept for d in own]), unseen


def _weights(
    own: Sequence[Drawing], rows: np.ndarray, popularity: Mapping[str, float]
) -> np.ndarray:
    """Return how likely each picture is: each of a concept's pictures in ``rows`` equally."""
    counts: dict[str, int] = defaultdict(int)
    for d, used in zip(own, rows, strict=True):
        counts[d.concept] += bool(used)
    weight = [
        popularity[d.concept] / counts[d.concept] if used else 0.0
        for d, used in zip(own, rows, strict=True)
    ]
    return np.array(weight) / sum(weight)


def _parts(word: str) -> frozenset[str]:
    """Return the words of a phrase in the singular, roughly."""
    return frozenset(part.removesuffix("s") for part in word.lower().replace("-", " ").split())


def _related(wordnet: WordNet, word: str) -> set[str]:
    """Return synonyms of a noun, and its more general words."""
    senses = wordnet.senses.get(word.lower(), [])[:2]
    found = {w.lower() for sense in senses for w in wordnet.synsets[sense].words}
    return found.union(*(wordnet.hypernyms_of(sense, 8) for sense in senses))


def _no_scenes() -> Scenes:
    none = np.zeros(0, int)
    return Scenes(
        np.zeros((0, 1, 1, 3), np.uint8), none, none, none, none, none,
        np.zeros((0, 2), int), none, none,
    )  # fmt: skip


EMBEDDERS = ("semlens/demo", "semlens/photo")
WORLDS = (
    LabelWorld("dev-broad", "broad", opened_once=False, seed=1, architectures=("small", "vgg")),
    LabelWorld(
        "dev-narrow", "narrow", opened_once=False, seed=2, groups=("animals-nature",), offset=4.0,
        architectures=("vit", "small"),
    ),
    LabelWorld(
        "fresh-broad", "broad", opened_once=True, seed=11, offset=6.0,
        style=SceneStyle(
            scale=(0.42, 0.85), small=(0.25, 0.4), second=0.45,
            backgrounds=(0.35, 0.3, 0.2, 0.15), overlays=(0.04, 0.04, 0.05, 0.05, 0.05), white=0.15,
        ),
        architectures=("vit", "vgg"),
    ),
    LabelWorld(
        "fresh-narrow", "narrow", opened_once=True, seed=12, groups=("food-drink", "travel-places"),
        offset=3.5,
        style=SceneStyle(
            scale=(0.55, 0.95), second=0.35, backgrounds=(0.5, 0.25, 0.15, 0.1),
            overlays=(0.03, 0.05, 0.04, 0.04, 0.06), white=0.3,
        ),
        architectures=("small", "vgg"),
    ),
)  # fmt: skip
