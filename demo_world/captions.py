"""Captions of the source pictures, and a split that holds out whole concepts.

A concept is held out together with everything that shares its words, for all vendors. Clip art
whose words contain those of a held-out concept is dropped.
"""

import json
import random
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

from demo_world.caption_words import COLOURS, GENERIC, SUBGROUPS
from demo_world.overlays import overlay_phrases
from demo_world.rasterise import Picture, load_pictures
from demo_world.wordnet import WordNet
from demo_world.workspace import Workspace

TRAIN, HELD_OUT, EVALUATION, DROPPED = "train", "held-out", "evaluation", "dropped"
HELD_OUT_SHARE = 0.15
NEVER_HELD_OUT = frozenset(
    "country-flag subdivision-flag keycap time alphanum geometric math gender".split()
)
WITH_HYPERNYMS = frozenset("animals-nature food-drink objects travel-places activities".split())
PICTURE_TEMPLATES = (
    "a picture of {}",
    "an icon of {}",
    "clip art of {}",
    "an image of a {}",
    "an image of a close up of {}",
)


@dataclass
class CaptionTable:
    """Distinct captions and their indices."""

    texts: dict[str, int] = field(default_factory=dict)

    def index(self, text: str) -> int:
        """Return the index of a caption, which is added if new."""
        text = re.sub(r"\s+", " ", text).strip().lower()
        return self.texts.setdefault(text, len(self.texts))


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall("[a-z]+", text.lower().replace("’s", "").replace("'s", ""))


def key_of(label: str) -> frozenset[str]:
    """Return the words that define a concept."""
    words = words_of(label)
    return frozenset(w for w in words if w not in GENERIC) or frozenset(words)


def concept_groups(labels: dict[str, str]) -> list[list[str]]:
    """Group concepts if the words of one contain those of another."""
    keys = {concept: key_of(label) for concept, label in labels.items()}
    parent = {concept: concept for concept in labels}

    def root(concept: str) -> str:
        while parent[concept] != concept:
            concept = parent[concept]
        return concept

    concepts_with: dict[str, set[str]] = defaultdict(set)
    for concept, key in keys.items():
        for word in key:
            concepts_with[word].add(concept)
    for concept, key in keys.items():
        for other in set.intersection(*(concepts_with[w] for w in key)) if key else ():
            if other != concept:
                parent[root(other)] = root(concept)
    groups: dict[str, list[str]] = defaultdict(list)
    for concept in labels:
        groups[root(concept)].append(concept)
    return list(groups.values())


def hold_out(pictures: list[Picture], seed: int) -> set[str]:
    """Choose the concepts that are held out of all training."""
    emoji = {p.concept: p for p in pictures if p.concept.startswith("emoji:")}
    eligible = [
        group
        for group in concept_groups({c: p.label for c, p in emoji.items()})
        if len(group) <= 6 and not any(emoji[c].subgroup in NEVER_HELD_OUT for c in group)
    ]
    random.Random(seed).shuffle(eligible)
    target_count = HELD_OUT_SHARE * sum(p.subgroup not in NEVER_HELD_OUT for p in emoji.values())
    held_out: set[str] = set()
    for group in eligible:
        if len(held_out) >= target_count:
            break
        held_out.update(group)
    return held_out


def split_pictures(pictures: list[Picture], held_out: set[str]) -> list[str]:
    """Return TRAIN, HELD_OUT, EVALUATION or DROPPED for each picture."""
    keys = {p.concept: key_of(p.label) for p in pictures if p.concept in held_out}
    split: list[str] = []
    for picture in pictures:
        if picture.source == "tuxpaint":
            split.append(EVALUATION)
        elif picture.concept in held_out:
            split.append(HELD_OUT)
        elif picture.concept.startswith("emoji:"):
            split.append(TRAIN)
        else:
            words = set(words_of(f"{picture.label} {' '.join(picture.tags)}"))
            words |= {w[:-1] for w in words if w.endswith("s") and len(w) > 3}
            leaks = any(key <= words for key in keys.values())
            split.append(DROPPED if leaks else TRAIN)
    return split


def colour_shares(pixels: np.ndarray) -> list[tuple[str, float]]:
    """Return the three most frequent colour names of the opaque pixels of uint8 [H W 4]."""
    rgb = pixels[pixels[..., 3] > 128][:, :3].astype(np.float32) / 255
    high, low = rgb.max(1), rgb.min(1)
    spread = high - low
    saturation = spread / np.maximum(high, 1e-6)
    red, green, blue = rgb.T
    safe = np.maximum(spread, 1e-6)
    hue = 60 * np.where(
        high == red,
        ((green - blue) / safe) % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    names = np.full(len(rgb), "gray", dtype="<U6")
    grey = (saturation < 0.18) | (spread < 0.1)
    names[grey & (high > 0.85)] = "white"
    names[grey & (high < 0.3)] = "black"
    bounds = [("red", 345, 361), ("red", 0, 14), ("orange", 14, 42), ("yellow", 42, 68),
              ("green", 68, 165), ("blue", 165, 255), ("purple", 255, 295),
              ("pink", 295, 345)]  # fmt: skip
    for name, start, end in bounds:
        names[~grey & (hue >= start) & (hue < end)] = name
    names[~grey & (hue >= 10) & (hue < 45) & (high < 0.72)] = "brown"
    names[~grey & (high < 0.22)] = "black"
    reddish = (hue >= 345) | (hue < 14)
    names[~grey & reddish & (saturation < 0.45) & (high > 0.75)] = "pink"
    return [(n, c / len(rgb)) for n, c in Counter(names.tolist()).most_common(3)]


def label_of(picture: Picture, label_counts: Counter[str]) -> str:
    """Return the label; clip art with a useless title gets one from its file name."""
    label = picture.label.lower().replace("’", "'")
    if picture.subgroup == "country-flag":
        return "flag of " + label.replace("flag: ", "")
    useless = re.search("theme|flat icon|various|collection", label)
    if picture.source == "openclipart" and (label_counts[picture.label] > 12 or useless):
        stem = re.sub(r"(_[^_]*)?_?\d*\.svg$", "", picture.name.rsplit("/", 1)[-1])
        stem = re.sub(r"[_\-.]+", " ", re.sub(r"\d+", "", stem)).strip()
        return stem or picture.subgroup or "clip art"
    return label


def weighted_captions(
    picture: Picture, label: str, pixels: np.ndarray, wordnet: WordNet, rng: random.Random
) -> list[tuple[str, float]]:
    """Return the captions of one picture with their weights."""
    emoji = picture.concept.startswith("emoji:")
    tags = [t.lower() for t in picture.tags if t.lower() != label]
    clip_art = picture.group == "clipart"
    kind = picture.subgroup if clip_art else SUBGROUPS.get(picture.subgroup, picture.subgroup)
    shares = colour_shares(pixels)
    colour = shares[0][0]
    words = words_of(label)
    parents = wordnet.hypernyms(label)
    if not parents and len(words) > 1:
        parents = wordnet.hypernyms(" ".join(words[-2:]))
    if not parents and words:
        parents = wordnet.hypernyms(words[-1])
    if emoji and picture.group not in WITH_HYPERNYMS:
        parents = []
    captions = [(label, 3.0)]
    if tags:
        pairs = [rng.sample(tags, min(2, len(tags))) for _ in range(2)]
        captions += [(f"{label}, {', '.join(pair)}", 1.0) for pair in pairs]
        captions += [(tag, 0.35) for tag in rng.sample(tags, min(3, len(tags)))]
    if kind:
        captions += [(kind, 0.6), (f"{label}, {kind}", 1.0), (f"{colour} {kind}", 0.5)]
    if parents:
        chain = f"{label}, {parents[min(1, len(parents) - 1)]}, {parents[-1]}"
        captions += [(f"{label}, {parents[0]}", 0.5), (parents[0], 0.25), (parents[-1], 0.25)]
        captions.append((chain, 0.5))
    if not any(c in words for c in COLOURS):
        captions.append((f"{colour} {label}", 0.8))
        frequent = [name for name, share in shares if share > 0.2][:2]
        if len(frequent) > 1:
            captions.append((f"{frequent[0]} and {frequent[1]} {label}", 0.4))
    captions.append((rng.choice(PICTURE_TEMPLATES).format(label), 0.6))
    return captions


def write_captions(work: Workspace, seed: int = 0) -> None:
    """Write ``captions.json``: texts, captions and weights per picture, split."""
    pixels, pictures = load_pictures(work)
    wordnet = WordNet(work.debian / "usr" / "share" / "wordnet")
    held_out = hold_out(pictures, seed)
    split = split_pictures(pictures, held_out)
    counts = Counter(p.label for p in pictures if p.source == "openclipart")
    table, rng = CaptionTable(), random.Random(seed)
    records = []
    for picture, image in zip(pictures, pixels, strict=True):
        label = label_of(picture, counts)
        captions = weighted_captions(picture, label, image, wordnet, rng)
        rows = [table.index(text) for text, _ in captions]
        weights = [weight for _, weight in captions]
        records.append({"label": table.index(label), "captions": rows, "weights": weights})
    overlays = {phrase: table.index(phrase) for phrase in overlay_phrases()}
    work.captions.write_text(
        json.dumps(
            {
                "texts": list(table.texts),
                "pictures": records,
                "split": split,
                "overlays": overlays,
                "held": sorted(held_out),
            }
        )
    )
    print(f"{len(table.texts)} captions, {len(held_out)} held-out concepts, {Counter(split)}")
