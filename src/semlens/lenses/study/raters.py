"""Which raters are kept, and their mean ratings (paper, G.1)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64
from scipy.stats import binomtest

from semlens.lenses.study.answers import Key
from semlens.lenses.study.tasks import MAXIMUM_CORRELATION, POLYSEMANTICITY


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
    controls = answers.assign(correct=_correct(key, answers)).dropna(subset=["correct"])
    protocol = key.protocol
    rows: list[dict[str, object]] = []
    for rater, own in controls.groupby("rater", sort=False):
        correct, count = int(np.sum(own["correct"].to_numpy())), len(own)
        accuracy, correlation = correct / count, np.nan
        if key.measure == "similarity":
            correlation = _pearson(own["confidence"].to_numpy(), own["similarity"].to_numpy())
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


def _pearson(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> float:
    varied = np.ptp(x) > 0 and np.ptp(y) > 0
    return float(np.corrcoef(x, y)[0, 1]) if varied else float("nan")


def _correct(key: Key, answers: pd.DataFrame) -> Float64[np.ndarray, " n"]:
    """Return 1 for a right answer, 0 for a wrong one, and NaN for a question that has none."""
    right = key.questions["right"].loc[answers["question"]].to_numpy()
    return np.where(pd.isna(right), np.nan, right == answers["answer"].to_numpy())


def share_right(questions: pd.DataFrame) -> float:
    """Return the share of questions that the measure answers correctly; NaN if there is none."""
    right, pick = questions["right"].to_numpy(), questions["pick"].to_numpy()
    answered = ~(pd.isna(right) | pd.isna(pick))
    return float(np.mean(right[answered] == pick[answered])) if answered.any() else float("nan")


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
    answer = answers["answer"].tolist()
    columns = {"accuracy": _correct(key, answers)}
    if key.measure == "similarity":
        columns |= {name: answers[name].to_numpy(float) for name in ("confidence", "similarity")}
    elif key.measure == "clarity":
        pairs = zip(kind, answer, strict=True)
        columns["rating"] = np.array([float(a) if k == "rating" else np.nan for k, a in pairs])
        chose_a = np.array([a == "A" for a in answer], float)
        columns["chose_a"] = np.where(kind == "rating", np.nan, chose_a)
    else:
        columns["themes"] = np.array([POLYSEMANTICITY[a] for a in answer])
    frame = pd.DataFrame({"question": answers["question"], "raters": 1, **columns})
    functions = dict.fromkeys(columns, "mean") | {"raters": "sum"}
    return frame.groupby("question").agg(functions).reindex(key.questions.index)
