"""Labels and search hits where examples are alike without a concept, and of planted concepts.

The components of untrained networks respond to colours and edges, and so do random projections of
an image's pixels, of its colour, or of its low-level statistics. Planted components have crops of
images whose content is known as their examples: of one thing, of two, or of three.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import conv2d

from benchmarks.cases.calibration.demo import Demo
from benchmarks.cases.calibration.rates import LEVEL, Rate
from benchmarks.harness import table
from benchmarks.worlds.untrained import untrained_databases
from semlens.lenses.labelling.confidence import UNSURE, confidence_of
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.meaningless import meaningless
from semlens.lenses.labelling.mixed import shown_words
from semlens.lenses.labelling.ranking import MIXED_BELOW
from semlens.lenses.labelling.registry import make_labeller
from semlens.lenses.labelling.scored_blocks import MEANINGLESS
from semlens.lenses.labelling.semantic_lens import centred_words
from semlens.lenses.query_embedding import unit
from semlens.lenses.search.query import make_query
from semlens.lenses.search.search import rank

STRUCTURED = "Labels and hits of components without a concept"
"""Rates of labels above noise, of those that are one word, and of these without a mark."""
PLANTED = "Labels of planted concepts"
ABOVE, SINGLE, SURE, HIT = "above noise", "one word", "no mark", "hits"
MIXED, RIGHT = "mixed", "right"
"""Right: the planted word, or at least two of several."""
METHODS = {"vote": "vote", "semantic-lens": "mean"}
"""And what they are called in a table: the second is the cosine of the mean."""
FEW = 100
"""Draws below which a benchmark is only tried out: one network, on a few images."""
EXAMPLES, SIDE = 30, 96
BANDS = ((0.01, 0.04), (0.04, 0.1), (0.1, 0.2), (0.2, 0.5))
"""Spatial frequencies, in cycles per pixel."""
LEAST_CROPS = 25
"""Crops that show a word, for components to be planted with it."""
NEAR = 0.6
"""Cosine of centred words from which one counts as a name of the other."""
MIXTURES = {"one": (30,), "two": (15, 15), "three": (10, 10, 10)}


def untrained(demo: Demo, work: Path, rng: np.random.Generator, draws: int) -> Iterator[Rate]:
    """Yield how often components of untrained networks get labels, and words have hits.

    At most ``draws`` components of each network, and words, are drawn at random.
    """
    for name, database in untrained_databases(work, work / "images", few=draws < FEW):
        for method, short in METHODS.items():
            labels = database.label(method=method)
            some = rng.permutation(len(labels))[:draws]
            above = labels.is_labelled[some]
            single = above & ~(labels.share[some] < MIXED_BELOW)
            sure = single & (labels.confidence[some] >= UNSURE)
            yield from _rates(f"{name}: {short}", above, single, sure)
        words = [demo.vocabulary.names[i] for i in rng.permutation(len(demo.vocabulary.names))]
        hits = [rank(database, make_query(database, word), top=1) for word in words[:draws]]
        found = np.array([one.above_noise > 0 for one in hits])
        yield Rate(STRUCTURED, f"{name}: {HIT}", None, found[:, None])


def structured(demo: Demo, work: Path, rng: np.random.Generator, draws: int) -> Iterator[Rate]:
    """Yield how often the images that are most alike in low-level statistics get a label."""
    reference = demo.database.reference
    paths = demo.database.samples["path"].to_numpy()[reference.samples]
    pixels = np.stack([_pixels(work / "images" / path) for path in paths])
    if reference is None or demo.vocabulary.null is None:
        return
    words, null = unit(demo.vocabulary.vectors), unit(demo.vocabulary.null[None])[0]
    for family, readouts in projections(pixels, rng, draws).items():
        evidence = Evidence.of_reference(
            words, reference.vectors.astype(np.float32), readouts, EXAMPLES, null=null
        )  # fmt: skip
        for method, short in METHODS.items():
            above, single, sure, _ = labelled(demo, evidence, method)
            yield from _rates(f"{family}: {short}", above, single, sure)


def _rates(about: str, above: np.ndarray, single: np.ndarray, sure: np.ndarray) -> Iterator[Rate]:
    yield Rate(STRUCTURED, f"{about} {ABOVE}", None, above[:, None])
    yield Rate(STRUCTURED, f"{about} {SINGLE}", None, single[:, None])
    if about.endswith(METHODS["vote"]):  # the other has no confidence
        yield Rate(STRUCTURED, f"{about} {SURE}", LEVEL, sure[:, None])


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE)), np.float32) / 255


def projections(pixels: np.ndarray, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Return float32[images count], random projections of what does not need a network."""
    grey = pixels.mean(3)
    power = np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))) ** 2
    radius = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    bands = [np.log(power[:, (radius >= a) & (radius < b)].sum(1) + 1e-6) for a, b in BANDS]
    colour, contrast = pixels.mean((1, 2)), pixels.std((1, 2))
    thumbnails = pixels.reshape(len(pixels), 8, SIDE // 8, 8, SIDE // 8, 3).mean((2, 4))
    features = {
        "mean colour": colour,
        "colour, contrast and frequency": np.column_stack([colour, contrast, *bands]),
        "an 8 x 8 thumbnail": thumbnails.reshape(len(pixels), -1),
    }
    found: dict[str, np.ndarray] = {}
    for name, values in features.items():
        values = (values - values.mean(0)) / (1 if "8 x 8" in name else values.std(0))
        found[name] = (values @ rng.standard_normal((values.shape[1], count))).astype(np.float32)
    filters = torch.from_numpy(rng.standard_normal((count, 3, 7, 7), np.float32))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) - 0.5
    blocks = [conv2d(block, filters, stride=4).relu().mean((2, 3)) for block in images.split(32)]
    found["random 7 x 7 filters"] = torch.cat(blocks).numpy()
    return found


def labelled(
    demo: Demo, evidence: Evidence, method: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return which components have a label, one of a single word, and one without a question mark.

    And the words [n 1 + 3]: the best one, and those of a mixed label.
    """
    labeller = make_labeller(method)
    noise = labeller.scores(meaningless(evidence, MEANINGLESS, 0))
    scores = labeller.scores(evidence)
    least = np.quantile(noise.max(1), 1 - LEVEL, method="higher")
    above, best = scores.max(1) > least, scores.argmax(1)
    shown, parts = shown_words(evidence, best, demo.vocabulary.names)
    single = above & ~(shown < MIXED_BELOW)
    embedder = demo.database.manifest.embedder.fingerprint
    known = confidence_of(embedder, method, scores, evidence, noise)
    sure = single & (known.values >= UNSURE) if known else np.zeros_like(single)
    return above, single, sure, np.column_stack([best, parts])


def planted(demo: Demo, rng: np.random.Generator, draws: int) -> Iterator[Rate]:
    """Yield how often labels of one planted concept, and of several, are mixed, and are right."""
    for layer in demo.layers:
        evidence, true = known_crops(demo, layer)
        near = centred_words(evidence) @ centred_words(evidence).T > NEAR
        columns = np.flatnonzero(true.sum(0) >= LEAST_CROPS)
        for kind, counts in MIXTURES.items():
            found = [_mixture(rng, true, columns, counts) for _ in range(draws)]
            examples, words = (np.stack(values) for values in zip(*found, strict=True))
            components = Evidence(
                evidence.words, evidence.images, examples,
                np.ones(examples.shape, np.float32), np.full(draws, EXAMPLES),
                null=evidence.null, background=evidence.images_to_compare,
            )  # fmt: skip
            above, single, sure, said = labelled(demo, components, "vote-examples")
            named = said[:, 1:] >= 0
            right = np.stack([near[said[:, 1:], word[:, None]] & named for word in words.T]).any(2)
            one = near[said[:, :1], words].any(1) & single
            happened = {
                SINGLE: single, SURE: sure, MIXED: above & ~single,
                RIGHT: one if len(counts) == 1 else (right.sum(0) > 1) & above & ~single,
            }  # fmt: skip
            for what, values in happened.items():
                yield Rate(PLANTED, f"{kind}, {layer}: {what}", None, values[:, None])


def known_crops(demo: Demo, layer: str) -> tuple[Evidence, np.ndarray]:
    """Return a layer's crops as one component's examples, and bool[crops words], what they show."""
    database = demo.database
    evidence = layer_evidence(database, layer, demo.vocabulary)
    world = json.loads(files("semlens").joinpath("assets/demo/world.json").read_text("utf-8"))
    said = {one["path"]: f"{one['class']} {one['label']}" for one in world["images"]}
    tokens = [
        set(re.findall(r"[a-z]+", said[f"images/{path}"].lower()))
        for path in database.samples["path"]
    ]
    of_sample = np.array([[word in found for word in demo.vocabulary.names] for found in tokens])
    crops = database.example_crops(layer)[1]
    _, first = np.unique(crops, return_index=True)
    return evidence, of_sample[database.example_samples(layer)[first]]


def _mixture(
    rng: np.random.Generator, true: np.ndarray, columns: np.ndarray, counts: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return crops of which so many show each of some words, and none two of them; the words."""
    while True:
        words = rng.choice(columns, len(counts), replace=False)
        alone = true[:, words].sum(1) == 1
        pools = [np.flatnonzero(true[:, word] & alone) for word in words]
        if min(map(len, pools)) >= EXAMPLES // 2:
            picked = [rng.choice(pool, n) for pool, n in zip(pools, counts, strict=True)]
            return np.concatenate(picked), words


def tables(records: Sequence[dict[str, object]]) -> dict[str, str]:
    """Return the tables of the documentation, in percent, by mark."""

    def percent(one: dict[str, object]) -> str:
        values = [100 * float(str(one[f"rate{end}"])) for end in ("", "_low", "_high")]
        share, low, high = (f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in values)
        return f"{share} ({low}-{high})"

    found: dict[str, dict[str, dict[str, str]]] = {STRUCTURED: {}, PLANTED: {}}
    for one in records:
        if one["name"] in found:
            about, _, what = str(one["null"]).rpartition(": ")
            found[str(one["name"])].setdefault(about, {})[what] = percent(one)
    shown: dict[str, str] = {}
    for mark, name in {
        "calibration structured": STRUCTURED,
        "calibration planted": PLANTED,
    }.items():
        columns = list(dict.fromkeys(what for cells in found[name].values() for what in cells))
        rows = [[about, *map(cells.get, columns)] for about, cells in found[name].items()]
        if rows:
            shown[mark] = table(["examples", *columns], rows)
    return shown
