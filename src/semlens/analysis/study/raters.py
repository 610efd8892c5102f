"""Which raters are kept, and their mean ratings (paper, G.1)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import binomtest, pearsonr

from semlens.analysis.study.answers import Key
from semlens.analysis.study.tasks import MAXIMUM_CORRELATION, POLYSEMANTICITY


def rate_raters(key: Key, answers: pd.DataFrame) -> pd.DataFrame:
    """Apply the paper's filters to each rater.

    Accuracy is that on the questions with a right answer. Of similarity, also raters are removed
    whose confidence does not fall with the similarity that they see; a rater who always gives the
    same rating has no such correlation, and is kept.

    Returns
    -------
    DataFrame
        One row per rater: rater, accuracy, p (binomial test against guessing, one-sided),
        confidence_similarity (the correlation; of similarity only), kept, reason.
    """
    right = key.questions["right"].loc[answers["question"]].to_numpy()
    controls = answers.assign(correct=answers["answer"].to_numpy() == right)[pd.notna(right)]
    protocol = key.protocol
    rows: list[dict[str, object]] = []
    for rater, own in controls.groupby("rater", sort=False):
        correct, count = int(own["correct"].sum()), len(own)
        accuracy, correlation = correct / count, np.nan
        if key.measure == "similarity":
            correlation = _pearson(own["confidence"], own["similarity"])
        reason = ""
        if accuracy < protocol.minimum_accuracy:
            reason = f"accuracy below {protocol.minimum_accuracy:.0%}"
        elif correlation > MAXIMUM_CORRELATION:
            reason = f"confidence rises with similarity (correlation over {MAXIMUM_CORRELATION})"
        test = binomtest(correct, count, protocol.chance, alternative="greater")
        rows.append(
            {
                "rater": rater,
                "accuracy": accuracy,
                "p": float(test.pvalue),
                "confidence_similarity": correlation,
                "kept": not reason,
                "reason": reason,
            }
        )
    frame = pd.DataFrame(rows)
    return frame if key.measure == "similarity" else frame.drop(columns="confidence_similarity")


def _pearson(x: pd.Series, y: pd.Series) -> float:
    if len(x) < 2 or x.nunique() < 2 or y.nunique() < 2:
        return float("nan")
    return float(pearsonr(x, y).statistic)


def mean_ratings(key: Key, answers: pd.DataFrame) -> pd.DataFrame:
    """Return the mean of the raters for each question, by its number.

    Returns
    -------
    DataFrame
        Raters, accuracy, and of similarity ``confidence`` and ``similarity`` (0 to 100), of
        clarity ``rating`` (0 to 100) and ``chose_a`` (share of raters), of polysemanticity
        ``themes`` (0 to 1: one theme 0, none 0.5, more 1). NaN where a question has no such answer.
    """
    kind = key.questions["kind"].loc[answers["question"]].to_numpy()
    right = key.questions["right"].loc[answers["question"]].to_numpy()
    answer = answers["answer"]
    columns = {"accuracy": (answer.to_numpy() == right).astype(float)}
    columns["accuracy"][pd.isna(right)] = np.nan
    if key.measure == "similarity":
        columns |= {name: answers[name].to_numpy(float) for name in ("confidence", "similarity")}
    elif key.measure == "clarity":
        rated = kind == "rating"
        columns["rating"] = pd.to_numeric(answer.where(rated), errors="coerce").to_numpy(float)
        columns["chose_a"] = np.where(rated, np.nan, (answer == "A").astype(float))
    else:
        columns["themes"] = answer.map(POLYSEMANTICITY).to_numpy(float)
    frame = pd.DataFrame({"question": answers["question"].to_numpy(), **columns})
    groups = frame.groupby("question")
    return groups.mean().assign(raters=groups.size()).reindex(key.questions.index)
