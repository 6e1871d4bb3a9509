"""How far (drift magnitude) and how fast (drift time) stances move, with bootstrap intervals.

Definitions (Value Drifts, arXiv 2510.26707): the value of a model on a topic is the vector v_t(T) =
mean over the topic's prompts and sampled replies of p(s | prompt, reply), s in support, neutral,
oppose;

    drift magnitude  M_s = v_end(T)_s - v_start(T)_s     signed, so the three M_s sum to 0
    drift time       eta_s = (first step within the 95 % interval of the extreme - first step) /
    (last - first step)

where the extreme is the maximum if M_s >= 0 and the minimum otherwise. How the paper computes its
interval is not known to us; here it is a two-stage bootstrap over prompts, then over the replies
within each prompt. Resampled prompts and replies are the same at every checkpoint of a run (and for
runs with the same probes), so differences are paired.

Runs that differ only in the seed can be pooled. The bootstrap then draws seeds as well, once for
all topics, because what a seed does is common to them. All seeds answer the same prompts: seeds and
prompts are crossed, replies nested. Nothing here knows models, methods or judges.
"""

import numpy as np
import pandas as pd

from vd.drift.bootstrap import Trajectories, of_target, trajectories
from vd.stances import STANCES, P
from vd.study.settings import Bootstrap

COLUMNS = [
    "run",
    "topic",
    "stance",
    "magnitude",
    "magnitude_lo",
    "magnitude_hi",
    "time",
    "time_lo",
    "time_hi",
    "n_prompts",
    "n_samples",
]


def stance_distribution(stances: pd.DataFrame, target: str = "question") -> pd.DataFrame:
    """Value vectors v_t(T): one row per run, step, topic (and `all`) and stance.

    Columns: run, step, topic, stance, probability, n_prompts. A prompt counts once, however many
    replies it has; rows without probabilities (a judge that failed) are left out.
    """
    rows = of_target(stances, target)
    # `all` is the mean over prompts, which is not that over topics where these differ in size
    rows = pd.concat([rows, rows.assign(topic="all")])
    # first within prompts: one with many replies must not outweigh the others
    prompts = rows.groupby(["run", "step", "topic", "prompt_id"])[P].mean()
    by_topic = prompts.groupby(["run", "step", "topic"])
    wide = by_topic.mean().set_axis(list(STANCES), axis=1).assign(n_prompts=by_topic.size())
    return wide.reset_index().melt(
        ["run", "step", "topic", "n_prompts"], list(STANCES), "stance", "probability"
    )[["run", "step", "topic", "stance", "probability", "n_prompts"]]


def drift_table(
    stances: pd.DataFrame, bootstrap: Bootstrap, target: str = "question", pool: bool = False
) -> pd.DataFrame:
    """Drift magnitude and time of every run with at least two checkpoints, per topic (and `all`)
    and stance.

    `stances` needs the columns run, step, prompt_id, topic, sample, p_support, p_neutral, p_oppose;
    with a column `target`, rows of the other target are left out. Intervals are percentile
    intervals at level 1 - bootstrap.alpha. With `pool`, runs that differ only in the seed are one,
    named without it. Returns the columns in `COLUMNS`, with `pool` also n_seeds; `n_samples` is the
    largest number of replies per prompt and checkpoint.
    """
    rows = [
        row
        for t in trajectories(stances, bootstrap, target, pool)
        for row in _drift_rows(t, bootstrap.alpha)
    ]
    # without pooling n_seeds would be 1 in every row
    table = pd.DataFrame(rows, columns=[*COLUMNS, "n_seeds"])
    return table if pool else table[COLUMNS]


def trajectory_table(
    stances: pd.DataFrame, bootstrap: Bootstrap, target: str = "question", pool: bool = False
) -> pd.DataFrame:
    """Stance probability at every checkpoint with its interval.

    Run, topic, step, stance, probability, lo, hi.
    """
    rows, alpha = [], bootstrap.alpha
    for t in trajectories(stances, bootstrap, target, pool):
        lo, hi = t.interval(t.widened(alpha), alpha)
        rows += [
            (t.run, t.topic, step, stance, t.value[i, s], lo[i, s], hi[i, s])
            # t.value has one entry more than there are steps: the last minus the first
            for i, step in enumerate(t.steps)
            for s, stance in enumerate(STANCES)
        ]
    return pd.DataFrame(rows, columns=["run", "topic", "step", "stance", "probability", "lo", "hi"])


def drift_time(t: Trajectories, s: int, alpha: float) -> tuple[float, np.ndarray]:
    """Drift time of the stance with index s, and its replicates (B,).

    Every replicate is measured as the data are, with the direction and the half-width of the data.
    """
    # steps need not be evenly spaced, so time is read off them and not off their number
    fraction = (t.steps - t.steps[0]) / (t.steps[-1] - t.steps[0])
    up = -1 if t.value[-1, s] < 0 else 1  # a falling stance is a rising one upside down
    # without the last entry, which is the magnitude
    path = up * t.value[:-1, s]
    extreme = path.argmax()
    # one df for the whole path: with one for each checkpoint, widening would bend it
    replicates = up * t.widened(alpha, t.df[extreme, s])[:, :-1, s]
    # the half-width below the extreme, as found in the data, also for every replicate
    slack = path[extreme] - t.interval(replicates[:, extreme], alpha)[0]
    return fraction[_arrival(path[None], slack)[0]], fraction[_arrival(replicates, slack)]


def refusal_table(stances: pd.DataFrame) -> pd.DataFrame:
    """Share of replies judged to be refusals (they count as neutral in v), per run and step."""
    rows = of_target(stances, "question")
    return rows.groupby(["run", "step"])["refusal"].mean().rename("refusal_rate").reset_index()


def _drift_rows(t: Trajectories, alpha: float):
    """The rows of the drift table for one run and topic, one per stance."""
    for s, stance in enumerate(STANCES):
        time, times = drift_time(t, s, alpha)
        yield (
            t.run,
            t.topic,
            stance,
            t.value[-1, s],
            *t.interval(t.widened(alpha)[:, -1, s], alpha),
            time,
            *t.interval(times, alpha),
            t.n_prompts,
            t.n_samples,
            t.n_seeds,
        )


def _arrival(paths: np.ndarray, slack: float) -> np.ndarray:
    """Index of the first step within `slack` of the path's maximum, for paths (B, T)."""
    # the bound may lie above the extreme, by rounding or skew; the extreme itself still counts
    return (paths >= paths.max(axis=1, keepdims=True) - max(slack, 0)).argmax(axis=1)
