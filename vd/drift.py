"""How far (drift magnitude) and how fast (drift time) stances move, with bootstrap intervals.

Definitions (Value Drifts, arXiv 2510.26707): the value of a model on a topic is the vector
v_t(T) = mean over the topic's prompts and sampled replies of p(s | prompt, reply), s in support, neutral, oppose;

    drift magnitude  M_s = v_end(T)_s - v_start(T)_s     signed, so the three M_s sum to 0
    drift time       eta_s = (first step within the 95 % interval of the extreme - first step) / (last - first step)

where the extreme is the maximum if M_s >= 0 and the minimum otherwise. How the paper computes its interval is not known
to us; here it is a two-stage bootstrap over prompts, then over the replies within each prompt. Resampled prompts and
replies are the same at every checkpoint of a run (and for runs with the same probes), so differences are paired.

Runs that differ only in the seed can be pooled. The bootstrap then draws seeds as well, once for all topics, because
what a seed does is common to them. All seeds answer the same prompts: seeds and prompts are crossed, replies nested.
Nothing here knows models, methods or judges.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, stdtrit

STANCES = ("support", "neutral", "oppose")
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


@dataclass(frozen=True)
class Trajectories:
    """Stance trajectories of one run (or of its seeds, pooled) on one topic, with their bootstrap replicates."""

    run: str
    topic: str
    steps: np.ndarray  # (T,) training steps in ascending order
    value: np.ndarray  # (T + 1, 3) stance probabilities at each step, then last minus first
    boot: np.ndarray  # (B, T + 1, 3) their bootstrap replicates
    n_prompts: int
    n_samples: int
    n_strata: int = 1  # topics that prompts were drawn from separately
    n_seeds: int = 1
    seed_df: np.ndarray | None = None  # (T + 1, 3) degrees of freedom where seeds are pooled

    @property
    def df(self) -> np.ndarray:
        """Degrees of freedom (T + 1, 3) of the variance of the replicates."""
        prompts = max(self.n_prompts - self.n_strata, 1)
        return np.full(self.value.shape, prompts) if self.seed_df is None else self.seed_df

    def widened(self, alpha: float, df: float | None = None) -> np.ndarray:
        """The replicates (B, T + 1, 3); with pooled seeds, spread by Student's t over the normal quantile of alpha.

        Percentiles further out, as `interval` takes for one seed, would not do: three seeds give only ten draws. One
        `df` for all checkpoints keeps whole paths comparable.
        """
        if self.n_seeds == 1:
            return self.boot
        return self.value + (self.boot - self.value) * stdtrit(self.df if df is None else df, alpha / 2) / ndtri(
            alpha / 2
        )

    def interval(self, replicates: np.ndarray, alpha: float) -> np.ndarray:
        """Percentile interval (2, ...) of replicates (B, ...) that were taken or computed from `widened`.

        With one seed the percentiles are those that a normal distribution needs to give Student's t quantiles with
        n_prompts - n_strata degrees of freedom (Hesterberg 2015, 'expanded percentile'); at 50 prompts it hardly
        matters.
        """
        tail = alpha / 2 if self.n_seeds > 1 else ndtr(stdtrit(max(self.n_prompts - self.n_strata, 1), alpha / 2))
        return np.quantile(replicates, [tail, 1 - tail], axis=0)


def stance_distribution(stances: pd.DataFrame, target: str = "question") -> pd.DataFrame:
    """Value vectors v_t(T): one row per run, step, topic (and `all`) and stance.

    Columns: run, step, topic, stance, probability, n_prompts. A prompt counts once, however many replies it has;
    rows without probabilities (a judge that failed) are left out.
    """
    rows = _of_target(stances, target)
    rows = pd.concat([rows, rows.assign(topic="all")])
    prompts = rows.groupby(["run", "step", "topic", "prompt_id"])[_columns()].mean()
    by_topic = prompts.groupby(["run", "step", "topic"])
    wide = by_topic.mean().set_axis(list(STANCES), axis=1).assign(n_prompts=by_topic.size())
    return wide.reset_index().melt(["run", "step", "topic", "n_prompts"], list(STANCES), "stance", "probability")[
        ["run", "step", "topic", "stance", "probability", "n_prompts"]
    ]


def drift_table(
    stances: pd.DataFrame,
    n_boot: int = 2000,
    seed: int = 0,
    alpha: float = 0.05,
    target: str = "question",
    pool: bool = False,
) -> pd.DataFrame:
    """Drift magnitude and time of every run with at least two checkpoints, per topic (and `all`) and stance.

    `stances` needs the columns run, step, prompt_id, topic, sample, p_support, p_neutral, p_oppose; with a column
    `target`, rows of the other target are left out. Intervals are percentile intervals at level 1 - alpha.
    With `pool`, runs that differ only in the seed are one, named without it. Returns the columns in `COLUMNS`, with
    `pool` also n_seeds; `n_samples` is the largest number of replies per prompt and checkpoint.
    """
    rows = [row for t in trajectories(stances, n_boot, seed, target, pool) for row in _drift_rows(t, alpha)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "n_seeds"])
    return table if pool else table[COLUMNS]


def trajectory_table(
    stances: pd.DataFrame,
    n_boot: int = 2000,
    seed: int = 0,
    alpha: float = 0.05,
    target: str = "question",
    pool: bool = False,
) -> pd.DataFrame:
    """Stance probability at every checkpoint with its interval: run, topic, step, stance, probability, lo, hi."""
    rows = []
    for t in trajectories(stances, n_boot, seed, target, pool):
        lo, hi = t.interval(t.widened(alpha), alpha)
        rows += [
            (t.run, t.topic, step, stance, t.value[i, s], lo[i, s], hi[i, s])
            for i, step in enumerate(t.steps)
            for s, stance in enumerate(STANCES)
        ]
    return pd.DataFrame(rows, columns=["run", "topic", "step", "stance", "probability", "lo", "hi"])


def value_gap(
    chosen: pd.DataFrame, rejected: pd.DataFrame, n_boot: int = 2000, seed: int = 0, alpha: float = 0.05
) -> pd.DataFrame:
    """Value gap v_chosen(T) - v_rejected(T) of preference data, per data set, topic (and `all`) and stance.

    Both tables need dataset, prompt_id, topic, p_support, p_neutral, p_oppose, one row per pair. The gap is the drift
    magnitude of a trajectory that leads from the rejected to the chosen replies, so pairs are what is resampled.
    Returns dataset, topic, stance, gap, lo, hi, n_pairs; for sets without pairs see `with_empty`.
    """
    steps = pd.concat([rejected.assign(step=0), chosen.assign(step=1)])
    steps = steps[["dataset", "step", "prompt_id", "topic", *_columns()]].rename(columns={"dataset": "run"})
    table = drift_table(steps.assign(sample=0), n_boot, seed, alpha)
    names = {"run": "dataset", "magnitude": "gap", "magnitude_lo": "lo", "magnitude_hi": "hi", "n_prompts": "n_pairs"}
    return table.rename(columns=names)[["dataset", "topic", "stance", "gap", "lo", "hi", "n_pairs"]]


def profile(stances: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Stance profile of data sets: the mean stance of their replies with Student's t intervals over replies.

    `stances` needs dataset, side, p_support, p_neutral, p_oppose. Returns dataset, side, stance, probability, lo, hi,
    n_replies; with a single reply the interval is the whole range.
    """
    rows = []
    for (dataset, side), part in stances.groupby(["dataset", "side"]):
        n = len(part)
        reach = -stdtrit(n - 1, alpha / 2) * part[_columns()].sem() if n > 1 else pd.Series(1.0, _columns())
        for stance in STANCES:
            mean, half = part[f"p_{stance}"].mean(), reach[f"p_{stance}"]
            rows.append((dataset, side, stance, mean, max(mean - half, 0.0), min(mean + half, 1.0), n))
    return pd.DataFrame(rows, columns=["dataset", "side", "stance", "probability", "lo", "hi", "n_replies"])


def with_empty(table: pd.DataFrame, wanted: pd.DataFrame) -> pd.DataFrame:
    """A table of stances with what it lacks of `wanted`, such as rows of dataset and side.

    What is added has a row per stance, its numbers missing and its counts (columns n_*) 0, so that
    a data set of which nothing could be judged is named all the same.
    """
    keys = list(wanted)
    there = set(table[keys].itertuples(index=False, name=None))
    rows = [row for row in wanted.itertuples(index=False, name=None) if row not in there]
    if not rows:
        return table
    lacking = pd.DataFrame(rows, columns=keys).merge(pd.DataFrame({"stance": STANCES}), how="cross")
    counts = {column: 0 for column in table if column.startswith("n_")}
    lacking = lacking.assign(**counts).reindex(columns=table.columns)
    return pd.concat([table, lacking], ignore_index=True) if len(table) else lacking


def drift_time(t: Trajectories, s: int, alpha: float) -> tuple[float, np.ndarray]:
    """Drift time of the stance with index s, and its replicates (B,).

    Every replicate is measured as the data are, with the direction and the half-width of the data.
    """
    fraction = (t.steps - t.steps[0]) / (t.steps[-1] - t.steps[0])
    up = -1 if t.value[-1, s] < 0 else 1  # a falling stance is a rising one upside down
    path = up * t.value[:-1, s]
    extreme = path.argmax()
    replicates = up * t.widened(alpha, t.df[extreme, s])[:, :-1, s]
    slack = path[extreme] - t.interval(replicates[:, extreme], alpha)[0]
    return fraction[_arrival(path[None], slack)[0]], fraction[_arrival(replicates, slack)]


def refusal_table(stances: pd.DataFrame) -> pd.DataFrame:
    """Share of replies judged to be refusals (they count as neutral in v), per run and step."""
    rows = _of_target(stances, "question")
    return rows.groupby(["run", "step"])["refusal"].mean().rename("refusal_rate").reset_index()


def to_topic(stances: pd.DataFrame, polarity: pd.Series) -> pd.DataFrame:
    """Question-level stances seen from the topic's canonical proposition.

    `polarity` maps prompt_id to +1 (affirming the question supports the proposition), -1 (support and oppose swap) or 0
    (it bears on neither side: the question is left out). Raises ValueError for any other, or none.
    """
    unknown = stances.loc[~stances["prompt_id"].map(polarity).isin([-1, 0, 1]), "prompt_id"]
    if len(unknown):
        given = polarity.get(unknown.iloc[0], "none")
        said = f"polarity is {given}; write 1, -1 or 0 in the probe set"
        raise ValueError(f"prompt '{unknown.iloc[0]}': {said}")
    stances = stances[stances["prompt_id"].map(polarity).ne(0)]
    flip = stances["prompt_id"].map(polarity).eq(-1)
    topic = stances.assign(target="topic")
    topic.loc[flip, ["p_support", "p_oppose"]] = stances.loc[flip, ["p_oppose", "p_support"]].to_numpy()
    topic.loc[flip, "label"] = stances.loc[flip, "label"].replace({"support": "oppose", "oppose": "support"})
    return topic


def trajectories(stances: pd.DataFrame, n_boot: int, seed: int, target: str = "question", pool: bool = False):
    """Yield a `Trajectories` per run and topic, then one for `all` prompts; runs with one checkpoint have none.

    With `pool`, runs that differ only in what follows `/seed-` are one run, named without it.
    """
    table = _of_target(stances, target).assign(seed="")
    if pool:
        table[["run", "seed"]] = table["run"].str.extract(r"^(.*)/seed-([^/]+)$")
        if table["run"].isna().any():
            raise ValueError("column run: seeds can be pooled only if every run id ends in /seed-<number>")
    for run, rows in table.groupby("run", sort=True):
        steps = np.sort(rows["step"].unique())
        if len(steps) < 2:
            continue
        topics, between, seeds = [], [], np.sort(rows["seed"].unique())
        for topic, part in rows.groupby("topic", sort=True):
            scores = _array(part, seeds, steps)
            mean = scores.mean(axis=0)
            # one stream of random numbers per topic, whatever other topics and runs there are
            stream = np.random.default_rng([seed, *str(topic).encode()])
            replicates = _bootstrap(mean, n_boot, stream)
            topics.append(Trajectories(run, topic, steps, mean.mean(axis=(0, 1)), replicates, *mean.shape[:2]))
            between.append(_seed_deviations(scores))
        weights = np.array([t.n_prompts for t in topics]) / sum(t.n_prompts for t in topics)
        # topics are strata: prompts are resampled within each, and their replicates are independent
        overall = Trajectories(
            run,
            "all",
            steps,
            sum(w * t.value for w, t in zip(weights, topics, strict=True)),
            sum(w * t.boot for w, t in zip(weights, topics, strict=True)),
            sum(t.n_prompts for t in topics),
            max(t.n_samples for t in topics),
            len(topics),
        )
        deviations, noise = (np.stack(parts) for parts in zip(*between, strict=True))
        # the same seeds are drawn for all topics and for all runs with as many seeds
        draws = np.random.default_rng(seed).multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), n_boot)
        for t, *of_topic in zip(topics, deviations, noise, strict=True):
            yield _over_seeds(t, *of_topic, draws)
        yield _over_seeds(overall, np.tensordot(weights, deviations, 1), np.tensordot(weights**2, noise, 1), draws)


def _of_target(stances: pd.DataFrame, target: str) -> pd.DataFrame:
    """Judged replies of one level; ValueError if one has no topic, or that of all together."""
    rows = stances[stances["target"] == target] if "target" in stances else stances
    if "topic" in rows and (wrong := rows["topic"].isna() | rows["topic"].eq("all")).any():
        first = rows[wrong].iloc[0]
        said = f"topic '{first['topic']}' of prompt '{first['prompt_id']}'"
        fix = "every reply needs a topic, and none may be 'all'"
        raise ValueError(f"{first['run']}: {said}; {fix}")
    return rows.dropna(subset=_columns())


def _columns() -> list[str]:
    return [f"p_{s}" for s in STANCES]


def _array(rows: pd.DataFrame, seeds: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Scores of one topic as (seeds, prompts, samples, T + 1, 3); the last entry of axis 3 is end minus start.

    A missing reply takes the mean of its prompt's other replies at that checkpoint; a prompt without any reply at some
    checkpoint of some seed is left out, because differences between checkpoints have to be paired.
    """
    run, topic = rows[["run", "topic"]].iloc[0]
    keys = ["seed", "prompt_id", "sample", "step"]
    if (again := rows.duplicated(keys)).any():
        first = rows.loc[again, ["prompt_id", "step"]].iloc[0]
        said = f"prompt '{first['prompt_id']}' is there twice at step {first['step']}"
        raise ValueError(f"{run}, topic {topic}: {said}; every prompt needs a name of its own")
    wide = rows.set_index(keys)[_columns()].unstack("step")
    axes = seeds, *(np.sort(rows[name].unique()) for name in ("prompt_id", "sample"))
    wide = wide.reindex(pd.MultiIndex.from_product(axes))
    wide = wide.reindex(columns=pd.MultiIndex.from_product([_columns(), steps]))
    scores = wide.to_numpy(float).reshape(*map(len, axes), 3, len(steps)).swapaxes(3, 4)
    scores = scores[:, (~np.isnan(scores)).any(axis=2).all(axis=(0, 2, 3))]
    if not scores.size:
        said = "no prompt has a judged reply at every checkpoint (of every seed)"
        raise ValueError(f"{run}, topic {topic}: {said}; judge it again or ask without this topic")
    scores = np.where(np.isnan(scores), np.nanmean(scores, axis=2, keepdims=True), scores)
    return np.concatenate([scores, scores[:, :, :, -1:] - scores[:, :, :, :1]], axis=3)


def _bootstrap(scores: np.ndarray, n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """Two-stage bootstrap replicates (B, ...) of the mean over prompts and samples of scores (P, S, ...).

    Prompts are drawn with replacement, then as many replies as before within each drawn prompt. The means of the drawn
    prompts already carry the spread of their replies, so the plain two-stage bootstrap counts that spread twice; the
    first stage is therefore scaled to make the total variance the unbiased one (Davison & Hinkley 1997, section 3.8).
    """
    n_prompts, n_samples = scores.shape[:2]
    flat = scores.reshape(n_prompts, n_samples, -1)
    means = flat.mean(axis=1)
    value = means.mean(axis=0)
    prompts = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=n_boot)
    replies = rng.multinomial(prompts * n_samples, np.full(n_samples, 1 / n_samples))
    first = prompts @ means / n_prompts - value
    second = replies.reshape(n_boot, -1) @ flat.reshape(-1, flat.shape[2]) / (n_prompts * n_samples) - value - first
    if n_prompts > 1:
        wanted = means.var(axis=0, ddof=1)  # n_prompts times the variance of the estimate
        scale = np.divide(
            wanted - flat.var(axis=1).mean(axis=0) / n_samples,
            means.var(axis=0),
            out=np.ones_like(wanted),
            where=wanted > 0,
        )
        first = first * np.sqrt(np.clip(scale, 0, None))
    return (value + first + second).reshape(n_boot, *scores.shape[2:])


def _seed_deviations(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far seeds lie from their mean, (S, ...), and the variance (...) that prompts and replies alone give them.

    Scores are (seeds, prompts, samples, ...). What all seeds share at a prompt cancels; that variance is estimated from
    the residuals of the table of seeds by prompts.
    """
    cells = scores.mean(axis=2)
    deviations = cells.mean(axis=1) - cells.mean(axis=(0, 1))
    residuals = cells - cells.mean(axis=0) - deviations[:, None]
    n_seeds, n_prompts = cells.shape[:2]
    return deviations, (residuals**2).sum(axis=(0, 1)) / max((n_seeds - 1) * (n_prompts - 1), 1) / n_prompts


def _over_seeds(t: Trajectories, deviations: np.ndarray, noise: np.ndarray, draws: np.ndarray) -> Trajectories:
    """Add drawn seeds, (B, S) counts, to replicates over prompts and replies of the mean over seeds.

    The latter already carry the noise that makes seeds differ by chance, so seeds get only what exceeds it, and the
    factor S / (S - 1) that the spread of S drawn values lacks. Degrees of freedom are Satterthwaite's; the seeds' own
    part enters them with its noise, because it is as uncertain as that makes it.
    """
    n_seeds = len(deviations)
    if n_seeds == 1:
        return t
    observed = deviations.var(axis=0, ddof=1)
    excess = np.clip(observed - noise, 0, None)
    scale = np.sqrt(np.divide(excess, deviations.var(axis=0), out=np.zeros_like(excess), where=observed > 0))
    drawn = np.tensordot(draws / n_seeds, deviations * scale, 1)
    prompts = t.boot.var(axis=0)
    uncertain = prompts**2 / t.df + (observed / n_seeds) ** 2 / (n_seeds - 1)
    df = np.divide((prompts + excess / n_seeds) ** 2, uncertain, out=t.df.astype(float), where=uncertain > 0)
    return replace(t, boot=t.boot + drawn, n_seeds=n_seeds, seed_df=np.maximum(df, np.minimum(n_seeds - 1, t.df)))


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
    return (paths >= paths.max(axis=1, keepdims=True) - max(slack, 0)).argmax(axis=1)
