"""Components that few images activate: votes of the strongest images beside the sample."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.worlds.labelled.synthetic import rare_world
from semlens.lenses.labelling.meaningless import meaningless
from semlens.lenses.labelling.vote import Vote


def hits(method, leak: float) -> np.ndarray:
    """Share of right labels of components with 200, 20 and 2 images among 20,000."""
    worlds = [rare_world(seed, leak) for seed in range(3)]
    right = np.array([method.scores(e).argmax(1) == truth for e, truth in worlds])
    return right.reshape(3, 3, -1).mean((0, 2))


@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_strongest_images_find_words_that_the_sample_misses(leak):
    sample, both = hits(Vote(top=0), leak), hits(Vote(), leak)
    assert sample[0] > 0.9 and both[0] > 0.9
    # of 20 images, 2 are expected in the sample; of 2 images, .2
    assert sample[2] < 0.4
    assert both[1] > sample[1] + 0.05
    if leak == 0:
        assert both[1] > 0.9
        assert both[2] > sample[2] + 0.2


@pytest.mark.slow
def test_no_more_than_five_in_a_hundred_rare_components_without_a_meaning_have_a_label():
    above = []
    for seed in range(4):
        evidence, _ = rare_world(seed, 0.2, each=20, meaningless=True)
        threshold = np.quantile(Vote().scores(meaningless(evidence, 1024)).max(1), 0.95)
        above.extend(Vote().scores(evidence).max(1) > threshold)
    # 12 of 240 expected; the standard deviation, with that of the thresholds, is about 4
    assert 1 <= sum(above) <= 26
