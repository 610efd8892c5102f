"""What components carry of a class's gain, against plain loops; and what its words hide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from test_class_contrast import BACKGROUND, CLASSES, draw

import semlens as sl
from semlens.lenses.concepts import Concept, ConceptSet
from semlens.lenses.swap.carried import carried_gain
from semlens.lenses.swap.pairs import draw_pairs
from semlens.lenses.swap.parts import border_region, paste

pytestmark = pytest.mark.slow
BLUE = CLASSES.index("blue")
PINK = 7


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    """A database of the colours, with a class that relies on pink five times as much."""
    subject, images, embedder = draw(tmp_path_factory.mktemp("hues"), CLASSES, 8)
    subject.module.head.weight.data[BLUE, [PINK, PINK + 8]] *= 5
    return sl.build(
        tmp_path_factory.mktemp("db") / "db", subject, images, embedder, ["hues"],
        examples=6, crop="activation", relevance=True,
    )  # fmt: skip


def test_shares_are_those_of_a_model_without_the_weights(db):
    pairs = draw_pairs(np.repeat(np.arange(7.0), 8), BLUE, 20, 3)
    region = border_region(32, 32, 0.4).expand(20, -1, -1)
    rows = [PINK, PINK + 8, BLUE, BLUE + 8, 0, 3]
    found = carried_gain(db, pairs, paste(region), [db.component(row) for row in rows], 6)
    images = {
        name: torch.stack([db.model.prepare(db.images.read(int(s))) for s in samples])
        for name, samples in (
            ("to", pairs.receivers),
            ("own", pairs.donors),
            ("third", pairs.third),
        )
    }

    def gains(zeroed):
        net = db.model.module
        weight = net.head.weight.detach().clone()
        weight[:, zeroed] = 0
        logits = []
        for source in ("own", "third"):
            pixels = torch.where(region[:, None], images[source], images["to"])
            with torch.no_grad():
                logits.append(net.hues(pixels / 2 + 0.5).mean((2, 3)).double() @ weight.double().T)
        difference = (logits[0] - logits[1])[:, BLUE].numpy()
        return np.array([difference[pairs.donors == one].mean() for one in np.unique(pairs.donors)])

    whole = gains([])
    for i, row in enumerate(rows):
        lost = whole - gains([row])
        assert found.share[i] == pytest.approx(lost.mean() / whole.mean(), abs=1e-5)
        if row in (0, 3):  # they have no weight in this class
            assert found.share[i] == pytest.approx(0, abs=1e-6) and not found.named[i]
        elif lost.std() > 1e-6:
            p = stats.ttest_1samp(lost, 0, alternative="greater").pvalue
            assert found.p_value[i] == pytest.approx(min(1, 6 * p), rel=1e-3, abs=1e-9)
    assert found.named[0]
    assert found.share.sum() == pytest.approx(1, abs=1e-4)  # the head is linear in the channels


def test_a_component_that_is_excited_and_does_nothing_is_not_named(db):
    """Of other classes' stickers it sees as much; the class does not use it."""
    pairs = draw_pairs(np.repeat(np.arange(7.0), 8), BLUE, 30, 0)
    region = border_region(32, 32, 0.4).expand(30, -1, -1)
    components = [db.component(row) for row in range(16)]
    named = carried_gain(db, pairs, paste(region), components, 8).named
    assert set(np.flatnonzero(named)) <= {PINK, PINK + 8, BLUE, BLUE + 8}


def test_a_plausible_word_does_not_hide_what_a_component_does(db):
    """Pink on the valid list: its channels are valid by their looks, and carry the sign."""
    concepts = ConceptSet((Concept("pink", kind="valid"), Concept("stone", kind="spurious")))
    settings = {"background": BACKGROUND, "resamples": 0, "threshold": 0.05}
    before = db.audit("blue", concepts, **settings)
    assert "hues:7" in [str(one) for one in before.of("valid", "both")]
    assert not before.carried and "carries" in before.to_pandas()
    kept = db.swap("blue", part="region")
    assert kept.detected == ["blue"]
    assert kept.carried(BLUE).keys() <= {f"hues:{row}" for row in (PINK, 15, BLUE, BLUE + 8)}
    after = db.audit("blue", concepts, **settings)
    assert after.carried == pytest.approx(kept.carried(BLUE))
    table = after.to_pandas().set_index("component")["carries"]
    assert table["hues:7"] == pytest.approx(after.carried["hues:7"])
    assert (
        " match" in after.sentence and "what they look like is not what they do" in after.sentence
    )
    assert after.sentence.count("The gain is carried by") == 1
