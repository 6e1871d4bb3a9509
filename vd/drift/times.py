"""How fast a score moves: the paper's drift time, and the time to half of the drift.

    drift time   eta = (first step whose value cannot be told from the extreme - first step)
                 / (last - first step)
    half time    t50 = the step at which the path first crosses the middle between its start and
                 its end, interpolated between checkpoints

The extreme is the maximum of a path that ends above its start, else the minimum. A step cannot be
told from it if the interval of their difference holds 0 (the first one always can: where it could
not, there may be no drift, which has no time); both answer the same prompts, so this is
the interval of a paired difference, and what prompts have in common does not widen it. Where more
replies make intervals narrower, eta grows, and where training goes on after the values have settled
it falls: it compares runs of one study and not studies. t50 does not depend on the number of
replies.

With several seeds each has its own time, and theirs are averaged: seeds that end at different
levels would otherwise blur the level that each of them has to reach.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from vd.drift.bootstrap import Trajectories
from vd.drift.resampling import satterthwaite


@dataclass(frozen=True)
class Time:
    """A time with its interval, and what a t test needs."""

    value: float
    lo: float
    hi: float
    error: float  # standard error
    df: float


def drift_time(t: Trajectories, k: int, alpha: float) -> Time:
    """Drift time eta of the score with index k, a fraction of the training."""
    fraction = (t.steps - t.steps[0]) / (t.steps[-1] - t.steps[0])

    def arrival(seed: Trajectories, up: int) -> tuple[float, np.ndarray]:
        path, boot = up * seed.value[:-1, k], up * seed.boot[:, :-1, k]
        gap, extreme = path.max() - path, path.argmax()
        # half-widths as found in the data, also for every replicate: a replicate of replicates
        # would be needed for its own
        slack = gap - seed.interval(boot[:, [extreme]] - boot, alpha)[0]
        gaps = boot.max(axis=1, keepdims=True) - boot
        # rounding may leave the extreme itself a slack below 0; it still counts
        near, nears = gap <= np.maximum(slack, 0), gaps <= np.maximum(slack, 0)
        # there is a drift, so it has not arrived where it starts
        near[0], nears[:, 0] = False, False
        # a replicate may never come near again; it gets there at its end
        never = ~nears.any(axis=1)
        nears[never, -1] = True
        return fraction[near.argmax() if near.any() else -1], fraction[nears.argmax(axis=1)]

    return _over_seeds(t, k, alpha, arrival, (0, 1))


def half_time(t: Trajectories, k: int, alpha: float) -> Time:
    """Half time t50 of the score with index k, in steps.

    A seed that ends on the other side than all of them together never gets there, and counts with
    its last step.
    """
    steps = t.steps.astype(float)

    def crossing(seed: Trajectories, up: int) -> tuple[float, np.ndarray]:
        found = crossings(up * np.concatenate([seed.value[None], seed.boot])[:, :-1, k], steps)
        return found[0], found[1:]

    return _over_seeds(t, k, alpha, crossing, (steps[0], steps[-1]))


def crossings(paths: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Steps (n,), interpolated, at which rising paths (n, steps) first cross their middle; the last
    step for one that does not end above its start.
    """
    paths = paths - paths[:, :1]
    half = paths[:, -1] / 2
    # the first step at or above the middle; the start is below it if there is a drift
    after = (paths >= half[:, None]).argmax(axis=1)
    before = np.maximum(after - 1, 0)
    rows = np.arange(len(paths))
    rise = paths[rows, after] - paths[rows, before]
    share = np.divide(half - paths[rows, before], rise, out=np.zeros_like(half), where=rise > 0)
    found = steps[before] + share * (steps[after] - steps[before])
    return np.where(half > 0, found, steps[-1])


def _over_seeds(
    t: Trajectories, k: int, alpha: float, measure: Callable, bounds: tuple[float, float]
) -> Time:
    """A measure of each seed's path, averaged; its interval stays within `bounds`."""
    up = -1 if t.value[-1, k] < 0 else 1  # a falling path is a rising one upside down
    found = [measure(seed, up) for seed in t.seeds() or (t,)]
    values, boots = np.array([value for value, _ in found]), np.stack([boot for _, boot in found])
    value, boot, n = values.mean(), boots.mean(axis=0), len(values)
    if n == 1:
        # percentiles: times of one seed are steps of a coarse grid, and far from normal
        lo, hi = t.interval(boot, alpha)
        return Time(float(value), float(lo), float(hi), float(boot.std()), float(t.df[-1, k]))
    # seeds differ by their own replies too, which the replicates have already: only the rest counts
    own = (boots - boot).var(axis=1).sum() / (n - 1)
    observed, prompts = values.var(ddof=1), boot.var()
    excess = max(observed - own, 0.0)
    error = np.sqrt(prompts + excess / n)
    df = satterthwaite(prompts, max(t.n_prompts - t.n_strata, 1), observed, excess, n)
    reach = -stdtrit(df, alpha / 2) * error
    lo, hi = np.clip([value - reach, value + reach], *bounds)
    return Time(float(value), float(lo), float(hi), float(error), float(df))
