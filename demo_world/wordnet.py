"""A small reader of WordNet 3.0 nouns (Debian's ``wordnet-base``)."""

import re
from dataclasses import dataclass
from pathlib import Path

TOO_GENERAL = frozenset(
    "entity|physical entity|object|whole|abstraction|matter|thing|causal agent|unit|artifact|"
    "living thing|psychological feature|attribute|measure|group|relation|organism|"
    "instrumentality|substance|part|natural object|solid|location|region|artefact|being|device|"
    "communication|shape|line|act|event|state".split("|")
)
HYPERNYM = ("@", "@i")


@dataclass(frozen=True)
class Synset:
    """One sense: its words, the offsets of its hypernyms, and its gloss."""

    words: tuple[str, ...]
    hypernyms: tuple[str, ...]
    gloss: str


def _records(path: Path) -> list[str]:
    lines = path.read_text(encoding="latin1").splitlines()
    return [line for line in lines if not line.startswith("  ")]


class WordNet:
    """Nouns with their senses, and the lemmas of other parts of speech."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.synsets: dict[str, Synset] = {}
        for line in _records(folder / "data.noun"):
            left, gloss = line.split("|", 1)
            fields = left.split()
            count = int(fields[3], 16)
            words = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(count))
            start = 4 + 2 * count
            pointers = (start + 1 + 4 * i for i in range(int(fields[start])))
            hypernyms = tuple(fields[p + 1] for p in pointers if fields[p] in HYPERNYM)
            self.synsets[fields[0]] = Synset(words, hypernyms, gloss.strip())
        self.senses: dict[str, list[str]] = {}
        for line in _records(folder / "index.noun"):
            fields = line.split()
            self.senses[fields[0].replace("_", " ")] = fields[6 + int(fields[3]) :]

    def hypernyms(self, noun: str, depth: int = 6) -> list[str]:
        """Return hypernyms of the first sense from near to far, without the most general ones."""
        senses = self.senses.get(noun.lower())
        return self.hypernyms_of(senses[0], depth) if senses else []

    def hypernyms_of(self, offset: str, depth: int) -> list[str]:
        """Return hypernyms of a synset from near to far, without the most general ones."""
        chain: list[str] = []
        for _ in range(depth):
            parents = self.synsets[offset].hypernyms
            if not parents:
                break
            offset = parents[0]
            name = self.synsets[offset].words[0].lower()
            if name in TOO_GENERAL:
                break
            chain.append(name)
        return chain

    def lemmas(self, part_of_speech: str) -> list[str]:
        """Return the plain-word lemmas of ``noun``, ``adj``, ``verb`` or ``adv``."""
        lines = _records(self.folder / f"index.{part_of_speech}")
        lemmas = (line.split()[0].replace("_", " ") for line in lines)
        return [lemma for lemma in lemmas if re.fullmatch("[a-z ]+", lemma)]

    def short_glosses(self) -> list[str]:
        """Return the first clauses of the glosses that are three to ten words long."""
        clauses = (re.split('[;"]', s.gloss)[0].strip() for s in self.synsets.values())
        return [c for c in clauses if 2 <= c.count(" ") <= 9]
