"""Student's t tests of contrasts, and the row that each becomes."""

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

PROBABILITY, ODDS, STEPS, SHARE = "probability", "log-odds", "share of the steps", "share"  # units
CONTRAST = [
    "contrast",
    "unit",
    "estimate",
    "lo",
    "hi",
    "p_holds",
    "p_fails",
    "p_equal",
    "margin",
    "effect",
    "n_seeds",
    "n_prompts",
]


def row(
    contrast: str,
    unit: str,
    estimate: float,
    error: float,
    df: float,
    alpha: float,
    margin: float | None,
    effect: float | None,
    n_seeds: int,
    n_prompts: int,
) -> dict:
    """A tested contrast: that it is above zero, below, and with a margin, within that of zero."""
    error = max(float(error), 1e-12)  # scores that are all alike leave nothing to test
    reach = -stdtrit(df, alpha / 2) * error
    holds, fails = (float(stdtr(df, sign * estimate / error)) for sign in (-1, 1))
    equal = float("nan")
    if margin is not None:
        ends = estimate - margin, -estimate - margin
        equal = max(float(stdtr(df, end / error)) for end in ends)
    numbers = [estimate, estimate - reach, estimate + reach, holds, fails, equal, margin, effect]
    return dict(zip(CONTRAST, (contrast, unit, *numbers, n_seeds, n_prompts), strict=True))


def over_seeds(
    contrast: str,
    unit: str,
    scores: pd.Series,
    alpha: float,
    margin: float | None,
    n_prompts: int,
    resolution: float = 0.0,
) -> dict:
    """A plain t test over seeds of one score each; one seed alone has an estimate and no more.

    Scores that are multiples of a `resolution`, as shares of so many prompts are, have the variance
    of rounding on top (Sheppard's correction, a uniform error): seeds that agree to the last digit
    do so because there are few digits.
    """
    n = len(scores)
    if n < 2:
        estimate = float(scores.iloc[0]) if n else float("nan")
        return untested(contrast, unit, estimate, n, n_prompts)
    error = np.sqrt((scores.var(ddof=1) + resolution**2 / 12) / n)
    return row(
        contrast, unit, float(scores.mean()), error, n - 1, alpha, margin, None, n, n_prompts
    )


def untested(
    contrast: str, unit: str, estimate: float = float("nan"), n_seeds: int = 0, n_prompts: int = 0
) -> dict:
    """In place of a contrast that could not be tested."""
    values = contrast, unit, estimate, *[float("nan")] * 5, None, None, n_seeds, n_prompts
    return dict(zip(CONTRAST, values, strict=True))
