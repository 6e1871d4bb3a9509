"""How far stances move, with bootstrap intervals; how fast is in vd/drift/times.py.

Definitions (Value Drifts, arXiv 2510.26707): the value of a model on a topic is the vector v_t(T) =
mean over the topic's prompts and sampled replies of p(s | prompt, reply), s in support, neutral,
oppose;

    drift magnitude  M_s = v_end(T)_s - v_start(T)_s     signed, so the three M_s sum to 0

How the paper computes its intervals is not known to us; here it is a two-stage bootstrap over
prompts, then over the replies within each prompt. Resampled prompts and replies are the same at
every checkpoint of a run (and for runs with the same probes), so differences are paired.

A probability near 0 or 1 has little room, so the same push moves it less. Beside M stand

    log_odds   logit v_end - logit v_start, which has no ceiling
    room       M / (1 - v_start) where M is positive, else M / v_start: the share of what was left
               to gain or to lose (the follow-up, arXiv 2610.12410)
    excursion  the largest distance from the start at any checkpoint, signed, and its step: what
               came and went shows here and not in M

Runs that differ only in the seed can be pooled. The bootstrap then draws seeds as well, once for
all topics, because what a seed does is common to them. All seeds answer the same prompts: seeds and
prompts are crossed, replies nested. Nothing here knows models, methods or judges.
"""

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from vd.drift.bootstrap import Trajectories, of_target, trajectories
from vd.drift.times import drift_time, half_time
from vd.lineages import split_seed
from vd.stances import NEUTRAL, STANCES, P
from vd.study.settings import Bootstrap

COLUMNS = [
    "run",
    "topic",
    "stance",
    "magnitude",
    "magnitude_lo",
    "magnitude_hi",
    "log_odds",
    "log_odds_lo",
    "log_odds_hi",
    "room",
    "time",
    "time_lo",
    "time_hi",
    "half_time",
    "half_time_lo",
    "half_time_hi",
    "excursion",
    "excursion_step",
    "n_prompts",
    "n_samples",
]
NO_TIME = [float("nan")] * 6  # where there may be no drift, nothing says how fast it was


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
    """Drift of every run with at least two checkpoints, per topic (and `all`) and stance.

    `stances` needs the columns run, step, prompt_id, topic, sample, p_support, p_neutral, p_oppose;
    with a column `target`, rows of the other target are left out. Intervals are percentile
    intervals at level 1 - bootstrap.alpha. With `pool`, runs that differ only in the seed are one,
    named without it. Returns the columns in `COLUMNS`, with `pool` also n_seeds. `time` is a
    fraction of the training, `half_time` and `excursion_step` are steps; both times are missing
    where the interval of the magnitude holds 0, or fewer than three checkpoints were judged.
    `n_samples` is the largest number of replies per prompt and checkpoint.
    """
    rows = [
        row
        for t in trajectories(stances, bootstrap, target, pool)
        for row in _drift_rows(t, bootstrap.alpha)
    ]
    # without pooling n_seeds would be 1 in every row
    table = pd.DataFrame(rows, columns=[*COLUMNS, "n_seeds"])
    return table if pool else table[COLUMNS]


def answered_table(stances: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """The drift table among replies that are no refusals, which would count as neutral.

    A probe that is refused throughout at some checkpoint is left out, and so is a topic with
    nothing else.
    """
    rows = of_target(stances, "question")
    rows = rows.assign(steps=rows.groupby("run")["step"].transform("nunique"))
    rows = rows[~rows["refusal"].astype(bool)]
    answered = rows.groupby(["run", "topic", "prompt_id"])["step"].transform("nunique")
    return drift_table(rows[answered == rows["steps"]], bootstrap)


def trajectory_table(
    stances: pd.DataFrame, bootstrap: Bootstrap, target: str = "question", pool: bool = False
) -> pd.DataFrame:
    """Stance probability at every checkpoint with its interval, which lies within [0, 1].

    Run, topic, step, stance, probability, lo, hi.
    """
    rows, alpha = [], bootstrap.alpha
    for t in trajectories(stances, bootstrap, target, pool):
        # a symmetric interval of a logit, seen as one of a probability, ends before 0 and 1
        lo, hi = expit(t.interval(_logits(t, alpha), alpha))
        rows += [
            (t.run, t.topic, step, stance, t.value[i, s], lo[i, s], hi[i, s])
            for i, step in enumerate(t.steps)
            for s, stance in enumerate(STANCES)
        ]
    return pd.DataFrame(rows, columns=["run", "topic", "step", "stance", "probability", "lo", "hi"])


def judge_spread(judged: pd.DataFrame) -> pd.DataFrame:
    """How far the drifts of several judges are apart, which intervals do not hold: run, pooled over
    seeds, stance, judge_sd, the standard deviation over judges (ddof 1).

    `judged` has run, step, member and the stances' columns, a row per reply and judge.
    """
    steps = judged.groupby("run")["step"]
    ends = [judged[judged["step"] == steps.transform(which)] for which in ("max", "min")]
    last, first = (rows.groupby(["run", "member"])[P].mean() for rows in ends)
    moved = (last - first).reset_index()
    moved["run"] = split_seed(moved["run"])["name"]
    spread = moved.groupby(["run", "member"])[P].mean().groupby("run").std()
    spread = spread.set_axis([*STANCES], axis=1).rename_axis(columns="stance")
    return spread.stack().rename("judge_sd").reset_index()


def neutral_table(stances: pd.DataFrame) -> pd.DataFrame:
    """Shares of all replies that are neutral by hedging, by refusing, by being off topic, and by
    falling apart: run, step, hedge, refusal, off_topic, degenerate.
    """
    rows = of_target(stances, "question")
    kinds = pd.DataFrame({kind: rows["neutral_kind"].eq(kind) for kind in NEUTRAL})
    return kinds.groupby([rows["run"], rows["step"]]).mean().reset_index()


def _drift_rows(t: Trajectories, alpha: float):
    """The rows of the drift table for one run and topic, one per stance."""
    magnitudes, logits = t.widened(alpha)[:, -1], _logits(t, alpha)
    start, end = (logit(_inside(t, i)) for i in (0, -2))
    for s, stance in enumerate(STANCES):
        magnitude, (lo, hi) = t.value[-1, s], t.interval(magnitudes[:, s], alpha)
        room = 1 - t.value[0, s] if magnitude > 0 else t.value[0, s]
        away = t.value[:-1, s] - t.value[0, s]
        furthest = np.abs(away).argmax()
        times = NO_TIME
        # between two checkpoints a path is a line, and its half way is nothing that was seen
        if len(t.steps) > 2 and (lo > 0 or hi < 0):
            one, half = drift_time(t, s, alpha), half_time(t, s, alpha)
            times = [one.value, one.lo, one.hi, half.value, half.lo, half.hi]
        yield (
            t.run,
            t.topic,
            stance,
            magnitude,
            lo,
            hi,
            end[s] - start[s],
            *t.interval(logits[:, -1, s] - logits[:, 0, s], alpha),
            magnitude / room if room > 0 else float("nan"),
            *times,
            away[furthest],
            t.steps[furthest],
            t.n_prompts,
            t.n_samples,
            t.n_seeds,
        )


def _inside(t: Trajectories, i: int | slice) -> np.ndarray:
    """Probabilities at checkpoints, away from 0 and 1 by half a reply, as logits need."""
    half = 0.5 / (t.n_prompts * t.n_samples * t.n_seeds)
    return np.clip(t.value[i], half, 1 - half)


def _logits(t: Trajectories, alpha: float) -> np.ndarray:
    """Replicates (B, T, K) of the logits of probabilities, by the delta method: those of widened
    probabilities themselves would not exist beyond 0 and 1.
    """
    p = _inside(t, slice(-1))
    return logit(p) + (t.widened(alpha)[:, :-1] - t.value[:-1]) / (p * (1 - p))
