"""Trajectories of scores and their bootstrap replicates over prompts, replies and seeds.

Scores are the stances' probabilities, or any other numbers that every reply has, such as a net
stance or a logit. A score is a column; there are K of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, stdtrit

from vd.drift.resampling import satterthwaite, seed_deviations, two_stage
from vd.lineages import split_seed
from vd.stances import P
from vd.study.settings import Bootstrap


@dataclass(frozen=True)
class Trajectories:
    """Trajectories of one run (or of its seeds, pooled) on one topic, with their bootstrap
    replicates.
    """

    run: str
    topic: str
    steps: np.ndarray  # (T,) training steps in ascending order
    value: np.ndarray  # (T + 1, K) mean score at each step, then last minus first
    boot: np.ndarray  # (B, T + 1, K) their bootstrap replicates
    n_prompts: int
    n_samples: int
    n_strata: int = 1  # topics that prompts were drawn from separately
    n_seeds: int = 1
    seed_df: np.ndarray | None = None  # (T + 1, K) degrees of freedom where seeds are pooled
    # those of each seed, where seeds are pooled; drawn when asked for, since most do not ask
    seeds: Callable[[], tuple["Trajectories", ...]] = tuple

    @property
    def df(self) -> np.ndarray:
        """Degrees of freedom (T + 1, K) of the variance of the replicates."""
        prompts = max(self.n_prompts - self.n_strata, 1)
        return np.full(self.value.shape, prompts) if self.seed_df is None else self.seed_df

    def widened(self, alpha: float, df: float | None = None) -> np.ndarray:
        """The replicates (B, T + 1, K); with pooled seeds, spread by Student's t over the normal
        quantile of alpha.

        Percentiles further out, as `interval` takes for one seed, would not do: three seeds give
        only ten draws. One `df` for all checkpoints keeps whole paths comparable.
        """
        if self.n_seeds == 1:
            return self.boot
        # both quantiles are negative; their ratio is above 1 and falls to 1 as df grows
        return self.value + (self.boot - self.value) * stdtrit(
            self.df if df is None else df, alpha / 2
        ) / ndtri(alpha / 2)

    def interval(self, replicates: np.ndarray, alpha: float) -> np.ndarray:
        """Percentile interval (2, ...) of replicates (B, ...) that were taken or computed from
        `widened`.

        With one seed the percentiles are those that a normal distribution needs to give Student's t
        quantiles with n_prompts - n_strata degrees of freedom (Hesterberg 2015, 'expanded
        percentile'); at 50 prompts it hardly matters.
        """
        tail = (
            alpha / 2
            if self.n_seeds > 1
            else ndtr(stdtrit(max(self.n_prompts - self.n_strata, 1), alpha / 2))
        )
        return np.quantile(replicates, [tail, 1 - tail], axis=0)


@dataclass(frozen=True)
class _Stratum:
    """Trajectories over prompts and replies alone, and how their S seeds differ."""

    pooled: Trajectories
    deviations: np.ndarray  # (S, T + 1, K) of each seed from the mean over seeds
    noise: np.ndarray  # (T + 1, K) variance that prompts and replies alone give a deviation


def trajectories(
    stances: pd.DataFrame,
    bootstrap: Bootstrap,
    target: str = "question",
    pool: bool = False,
    scores: Sequence[str] = P,
) -> Iterator[Trajectories]:
    """Yield a `Trajectories` per run and topic, then one for `all` prompts; runs with one
    checkpoint have none.

    `scores` are the columns whose means are followed, K of them. With `pool`, runs that differ only
    in what follows `/seed-` are one run, named without it; ValueError if a run has no seed in its
    name.
    """
    table = of_target(stances, target, scores).assign(seed="")
    table = _without_seed(table) if pool else table
    for run, rows in table.groupby("run", sort=True):
        if rows["step"].nunique() > 1:
            yield from _of_run(run, rows, bootstrap, list(scores))


def _without_seed(table: pd.DataFrame) -> pd.DataFrame:
    """Run ids split into the run and its seed."""
    table[["run", "seed"]] = split_seed(table["run"])
    if table["run"].isna().any():
        raise ValueError(
            "column run: seeds can be pooled only if every run id ends in /seed-<number>"
        )
    return table


def _of_run(
    run: str, rows: pd.DataFrame, bootstrap: Bootstrap, columns: list[str]
) -> Iterator[Trajectories]:
    """The trajectories of one run: every topic's, then those over all prompts."""
    seeds, steps = (np.sort(rows[name].unique()) for name in ("seed", "step"))
    topics = [
        _of_topic(run, topic, steps, _array(part, seeds, steps, columns), bootstrap)
        for topic, part in rows.groupby("topic", sort=True)
    ]
    # the same seeds are drawn for all topics and for all runs with as many seeds
    draws = np.random.default_rng(bootstrap.seed).multinomial(
        len(seeds), np.full(len(seeds), 1 / len(seeds)), bootstrap.resamples
    )
    for stratum in (*topics, _overall(topics)):
        yield _over_seeds(stratum, draws)


def _of_topic(
    run: str, topic: str, steps: np.ndarray, scores: np.ndarray, bootstrap: Bootstrap
) -> _Stratum:
    """One topic from its scores (S, prompts, samples, T + 1, K)."""

    def of(mean: np.ndarray) -> Trajectories:
        # one stream of random numbers per topic, whatever other topics and runs there are; so
        # seeds draw the same prompts, which they share
        stream = np.random.default_rng([bootstrap.seed, *str(topic).encode()])
        replicates = two_stage(mean, bootstrap.resamples, stream)
        value, size = mean.mean(axis=(0, 1)), mean.shape[:2]
        return Trajectories(run, topic, steps, value, replicates, *size)

    @cache
    def seeds() -> tuple[Trajectories, ...]:
        return tuple(of(seed) for seed in scores) if len(scores) > 1 else ()

    # over seeds first: what seeds add to the spread is drawn later, in _over_seeds
    pooled = replace(of(scores.mean(axis=0)), seeds=seeds)
    return _Stratum(pooled, *seed_deviations(scores))


def _overall(topics: list[_Stratum]) -> _Stratum:
    """All prompts of a run: the mean of its topics, weighted by their prompts.

    Topics are strata: prompts are resampled within each, and their replicates are independent.
    """
    parts = [topic.pooled for topic in topics]
    weights = np.array([t.n_prompts for t in parts]) / sum(t.n_prompts for t in parts)

    @cache
    def seeds() -> tuple[Trajectories, ...]:
        own = zip(*(t.seeds() for t in parts), strict=True)
        return tuple(_weighted(topics_of_seed, weights) for topics_of_seed in own)

    pooled = replace(_weighted(parts, weights), seeds=seeds)
    deviations = np.tensordot(weights, np.stack([t.deviations for t in topics]), 1)
    # a variance: the weights of independent parts are squared
    noise = np.tensordot(weights**2, np.stack([t.noise for t in topics]), 1)
    return _Stratum(pooled, deviations, noise)


def _weighted(parts: Sequence[Trajectories], weights: np.ndarray) -> Trajectories:
    """The mean of strata."""
    return Trajectories(
        parts[0].run,
        "all",
        parts[0].steps,
        sum(w * t.value for w, t in zip(weights, parts, strict=True)),
        sum(w * t.boot for w, t in zip(weights, parts, strict=True)),
        sum(t.n_prompts for t in parts),
        max(t.n_samples for t in parts),
        len(parts),
    )


def of_target(stances: pd.DataFrame, target: str, scores: Sequence[str] = P) -> pd.DataFrame:
    """Replies of one level that have all these scores.

    ValueError if one has no topic, or that of all together.
    """
    rows = stances[stances["target"] == target] if "target" in stances else stances
    if "topic" in rows and (wrong := rows["topic"].isna() | rows["topic"].eq("all")).any():
        first = rows[wrong].iloc[0]
        said = f"topic '{first['topic']}' of prompt '{first['prompt_id']}'"
        fix = "every reply needs a topic, and none may be 'all'"
        raise ValueError(f"{first['run']}: {said}; {fix}")
    return rows.dropna(subset=list(scores))


def _array(
    rows: pd.DataFrame, seeds: np.ndarray, steps: np.ndarray, columns: list[str]
) -> np.ndarray:
    """Scores of one topic as (seeds, prompts, samples, T + 1, K); the last entry of axis 3 is end
    minus start.

    A missing reply takes the mean of its prompt's other replies at that checkpoint; a prompt
    without any reply at some checkpoint of some seed is left out, because differences between
    checkpoints have to be paired.
    """
    run, topic = rows[["run", "topic"]].iloc[0]
    keys = ["seed", "prompt_id", "sample", "step"]
    if (again := rows.duplicated(keys)).any():
        first = rows.loc[again, ["prompt_id", "step"]].iloc[0]
        said = f"prompt '{first['prompt_id']}' is there twice at step {first['step']}"
        raise ValueError(f"{run}, topic {topic}: {said}; every prompt needs a name of its own")
    wide = rows.set_index(keys)[columns].unstack("step")
    axes = seeds, *(np.sort(rows[name].unique()) for name in ("prompt_id", "sample"))
    wide = wide.reindex(pd.MultiIndex.from_product(axes))
    wide = wide.reindex(columns=pd.MultiIndex.from_product([columns, steps]))
    # columns are (stance, step), and steps belong before stances
    scores = wide.to_numpy(float).reshape(*map(len, axes), len(columns), len(steps))
    scores = scores.swapaxes(3, 4)
    # of a prompt, some reply must be judged at every checkpoint and seed
    scores = scores[:, (~np.isnan(scores)).any(axis=2).all(axis=(0, 2, 3))]
    if not scores.size:
        said = "no prompt has a judged reply at every checkpoint (of every seed)"
        raise ValueError(f"{run}, topic {topic}: {said}; judge it again or ask without this topic")
    scores = np.where(np.isnan(scores), np.nanmean(scores, axis=2, keepdims=True), scores)
    return np.concatenate([scores, scores[:, :, :, -1:] - scores[:, :, :, :1]], axis=3)


def _over_seeds(stratum: _Stratum, draws: np.ndarray) -> Trajectories:
    """Add drawn seeds, (B, S) counts, to replicates over prompts and replies of the mean over
    seeds.

    The latter already carry the noise that makes seeds differ by chance, so seeds get only what
    exceeds it, and the factor S / (S - 1) that the spread of S drawn values lacks.
    """
    t, deviations = stratum.pooled, stratum.deviations
    n_seeds = len(deviations)
    if n_seeds == 1:
        return t
    observed = deviations.var(axis=0, ddof=1)
    # seeds may differ by less than noise explains; then nothing is left for them
    excess = np.clip(observed - stratum.noise, 0, None)
    # draws vary by the variance of the S deviations themselves, hence without ddof
    scale = np.sqrt(
        np.divide(excess, deviations.var(axis=0), out=np.zeros_like(excess), where=observed > 0)
    )
    drawn = np.tensordot(draws / n_seeds, deviations * scale, 1)
    df = satterthwaite(t.boot.var(axis=0), t.df, observed, excess, n_seeds)
    return replace(t, boot=t.boot + drawn, n_seeds=n_seeds, seed_df=df)
