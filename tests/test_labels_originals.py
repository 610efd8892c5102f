"""The comparison with the originals: it finds differences, and knows which ones do not count."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cases.labels_originals import benchmark as compared
from semlens.lenses.labelling.registry import make_labeller


@pytest.fixture(scope="module")
def evidence():
    return compared.cases(quick=True)["positive"]


def judged(comparison, evidence, theirs):
    values = compared.compare(comparison, evidence, theirs)
    return compared.pooled("method", comparison, {"positive": values})


def test_equal_scores_agree_and_others_do_not(evidence):
    comparison = compared.Comparison(make_labeller("csp"))
    theirs = comparison.labeller.scores(evidence)
    assert judged(comparison, evidence, theirs)["within"]
    changed = theirs.copy()
    changed[3, theirs[3].argmin()] += 1e-3 * np.ptp(theirs[3])
    result = judged(comparison, evidence, changed)
    assert not result["within"]
    assert result["same_best"] == 1
    assert result["share_of_range"] == pytest.approx(1e-3, rel=0.01)
    changed[3, theirs[3].argmin()] = 2
    assert judged(comparison, evidence, changed)["same_best"] == pytest.approx(11 / 12)


def test_a_factor_per_component_counts_unless_it_is_arbitrary(evidence):
    labeller = make_labeller("correlation")
    theirs = labeller.scores(evidence) * np.linspace(0.5, 1, 12)[:, None]
    assert not judged(compared.Comparison(labeller), evidence, theirs)["within"]
    result = judged(compared.Comparison(labeller, scaled=True), evidence, theirs)
    assert result["within"]
    assert result["by_case"]["positive"]["factors"] == pytest.approx([0.5, 1], rel=1e-5)


def test_scores_that_the_original_does_not_give_are_left_out(evidence):
    comparison = compared.Comparison(make_labeller("csp"))
    theirs = comparison.labeller.scores(evidence)
    theirs[:, 5], theirs[0] = np.nan, np.nan
    values = compared.compare(comparison, evidence, theirs)
    assert values is not None
    assert (values["components"], values["scores"]) == (11, 11 * 79)
    assert values["difference"] == 0
    assert compared.compare(comparison, evidence, np.full_like(theirs, np.nan)) is None


def test_a_tie_up_to_rounding_is_the_same_word(evidence):
    comparison = compared.Comparison(make_labeller("csp"))
    theirs = comparison.labeller.scores(evidence)
    second = np.argsort(theirs[2])[-2]
    theirs[2, second] = np.nextafter(theirs[2].max(), np.float32(9))
    ours = comparison.labeller.scores(evidence)
    ours[2, second] = theirs[2].max() - np.float32(2e-7)

    class Same(type(comparison.labeller)):
        def _scores(self, evidence):
            return ours

    assert judged(compared.Comparison(Same()), evidence, theirs)["same_best"] == 1
