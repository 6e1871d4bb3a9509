"""Intervals of evaluations: a bootstrap over what was drawn, prompts or rows."""

import numpy as np
from scipy.special import ndtr, stdtrit

from vd.study.settings import Bootstrap

MEASURED = ["metric", "value", "lo", "hi", "n"]  # columns of what an evaluation gives


def counts(n: int, bootstrap: Bootstrap) -> np.ndarray:
    """How often each of n units is drawn in each resample, (B, n); the same for all metrics."""
    rng = np.random.default_rng(bootstrap.seed)
    return rng.multinomial(n, np.full(n, 1 / n), bootstrap.resamples)


def row(metric: str, value: float, replicates: np.ndarray, n: int, alpha: float) -> dict:
    """A metric over n units with the percentile interval of its replicates (B,).

    As in the drift tables percentiles lie as far out as Student's t with n - 1 degrees of freedom
    (Hesterberg 2015, 'expanded percentile'). One unit has a value and no interval.
    """
    if n < 2:
        return {"metric": metric, "value": value, "lo": np.nan, "hi": np.nan, "n": n}
    tail = ndtr(stdtrit(n - 1, alpha / 2))
    lo, hi = np.nanquantile(replicates, [tail, 1 - tail])
    return {"metric": metric, "value": value, "lo": lo, "hi": hi, "n": n}


def none(metric: str) -> dict:
    """A metric that nothing could be measured of."""
    return {"metric": metric, "value": np.nan, "lo": np.nan, "hi": np.nan, "n": 0}


def share(metric: str, hits: np.ndarray, bootstrap: Bootstrap) -> dict:
    """The share of hits among units (n,), each 0, 1 or one half, with its interval.

    Where all units agree no resample differs, and the interval is that of Clopper and Pearson
    (1934): from 0 to 1 - (alpha / 2)^(1/n) for none, the mirror image for all.
    """
    found = mean(metric, hits, bootstrap)
    if len(hits) > 1 and found["value"] in (0.0, 1.0):
        least = (bootstrap.alpha / 2) ** (1 / len(hits))
        found |= {"lo": 0.0, "hi": 1 - least} if found["value"] == 0 else {"lo": least, "hi": 1.0}
    return found


def mean(metric: str, values: np.ndarray, bootstrap: Bootstrap) -> dict:
    """The mean of units (n,) with its interval."""
    return ratio(metric, values, np.ones(len(values)), bootstrap)


def jackknife(
    metric: str, value: float, without: np.ndarray, bootstrap: Bootstrap, most: float = np.inf
) -> dict:
    """A measure from 0 to `most` of what k units hold together, with its interval; `without` (k,)
    are its values where one of them is left out.

    A unit that is drawn twice brings nothing new, so plain resamples are too poor. Resampled are
    therefore the jackknife pseudo-values k v - (k - 1) v_(-i) (Efron & Tibshirani 1993, An
    Introduction to the Bootstrap, chapter 11).
    """
    k = len(without)
    pseudo = k * value - (k - 1) * without
    # a mean of pseudo-values may lie where the measure cannot
    replicates = value + counts(k, bootstrap) @ (pseudo - pseudo.mean()) / k
    return row(metric, value, replicates.clip(0, most), k, bootstrap.alpha)


def ratio(metric: str, above: np.ndarray, below: np.ndarray, bootstrap: Bootstrap) -> dict:
    """sum(above) / sum(below) over units (n,), such as loss over tokens, with its interval."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    if not below.sum() > 0:
        return none(metric)
    # both sums of a resample are of the same units
    drawn = counts(len(below), bootstrap)
    sums = drawn @ below
    # a resample of prompts without a word has no ratio
    replicates = np.divide(drawn @ above, sums, out=np.full(len(sums), np.nan), where=sums > 0)
    return row(metric, above.sum() / below.sum(), replicates, len(below), bootstrap.alpha)
