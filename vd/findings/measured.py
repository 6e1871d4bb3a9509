"""Tests of what evaluations measured of runs, a number per seed: at their ends, since their start,
and where two of them have gone equally far.
"""

from functools import partial
from typing import TYPE_CHECKING

import pandas as pd

from vd.findings import student

if TYPE_CHECKING:
    from vd.findings.contrasts import Evidence

MARGIN = 0.10  # smallest difference of interest between shares, win rates among them
UNLIKE = 0.05  # and between diversities
WIN_RATE = "length-controlled win rate"


def end(e: "Evidence", role: str, evaluation: str, metric: str) -> pd.Series:
    """The measure at the last step."""
    return e.traces.measured(role, evaluation, metric).iloc[:, -1]


def change(e: "Evidence", role: str, evaluation: str, metric: str) -> pd.Series:
    """The measure at the last step minus that at the first."""
    found = e.traces.measured(role, evaluation, metric)
    return found.iloc[:, -1] - found.iloc[:, 0]


def tested(e: "Evidence", words: str, ahead, role: str, evaluation: str, metric: str) -> dict:
    """Test that `ahead`, a number per seed, is above 0, with the margin of the metric."""
    return e.over_seeds(words, ahead, *_how(e, role, evaluation, metric))


def above(e: "Evidence", one: str, other: str, evaluation: str, metric: str) -> dict:
    """That `one` ends above `other`."""
    ahead = end(e, one, evaluation, metric) - end(e, other, evaluation, metric)
    return tested(e, f"{metric} of {one} above {other}", ahead, one, evaluation, metric)


def above_at_equal_kl(e: "Evidence", one: str, other: str, evaluation: str, metric: str) -> dict:
    """That `one` is above `other` where both have gone equally far."""
    words, how = f"{metric} of {one} above {other}", _how(e, one, evaluation, metric)
    values = partial(e.traces.measured, evaluation=evaluation, metric=metric)
    return e.at_equal_kl(words, one, other, values, *how)


def since_start(e: "Evidence", role: str, evaluation: str, metric: str, sign: int = 1) -> dict:
    """That a measure has risen since the start or, with sign -1, fallen."""
    words = f"{metric} of {role} {'above' if sign > 0 else 'below'} its start"
    ahead = sign * change(e, role, evaluation, metric)
    return tested(e, words, ahead, role, evaluation, metric)


def better(e: "Evidence", role: str) -> dict:
    """That its replies win against those of its start, at equal length."""
    ahead = end(e, role, "quality", WIN_RATE) - 0.5
    return tested(e, f"{WIN_RATE} of {role} above 0.5", ahead, role, "quality", WIN_RATE)


def no_worse(e: "Evidence", role: str) -> dict:
    """That its replies lose against those of its start by less than the margin."""
    ahead = end(e, role, "quality", WIN_RATE) - (0.5 - MARGIN)
    n = e.traces.units(role, "quality", WIN_RATE)
    words = f"{WIN_RATE} of {role} above {0.5 - MARGIN:g}"
    return e.over_seeds(words, ahead, None, student.SHARE, n)


def _how(e: "Evidence", role: str, evaluation: str, metric: str) -> tuple:
    """Margin, unit and number of prompts of a metric's tests."""
    n = e.traces.units(role, evaluation, metric)
    return (UNLIKE, "distance", n) if metric == "distance" else (MARGIN, student.SHARE, n)
