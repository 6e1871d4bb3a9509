"""Agreeing with the question, or taking a side on the topic: the two parts of a drift.

Half of the probes of a topic affirm its proposition (polarity +1), the others its opposite (-1).
Let net+ and net- be the mean net stance (support - oppose, towards the question) over the probes of
each kind. Then

    acquiescence = (net+ + net-) / 2    says yes to both, which is no position
    lean         = (net+ - net-) / 2    supports the proposition however it is put

which are the two components of a balanced scale (Cloud & Vaughan 1970). A model that only learns to
say yes moves the first and not the second; a value on the topic has moved where the second does.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from vd import paths
from vd.drift.bootstrap import Trajectories, of_target, trajectories
from vd.lineages import split_seed
from vd.study.settings import Bootstrap

MEASURES = ("acquiescence", "lean")


def tables(
    stances: pd.DataFrame, polarity: pd.Series, bootstrap: Bootstrap, pool: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both measures at every checkpoint, and how far they moved, of each topic and of `all`.

    `stances` as for `vd.drift.measures.drift_table`, or any table with a column `net` in place of
    the stances, such as a logit of yes against no; `polarity` maps prompt_id to +1 or -1, and 0
    leaves a probe out. Topics without probes of both kinds are left out, since they tell the two
    apart in no way. Prompts are resampled within topic and polarity.

    The first table has run, topic, step, measure, value, lo, hi; the second run, topic, measure,
    drift, lo, hi, n_prompts, n_seeds.
    """
    steps, moved, alpha = [], [], bootstrap.alpha
    for topic, t in _of_topics(stances, polarity, bootstrap, pool):
        lo, hi = t.interval(t.widened(alpha), alpha)
        for k, measure in enumerate(MEASURES):
            steps += [
                (t.run, topic, step, measure, t.value[i, k], lo[i, k], hi[i, k])
                for i, step in enumerate(t.steps)
            ]
            # the last entry is the last step minus the first
            ends = t.value[-1, k], lo[-1, k], hi[-1, k]
            moved.append((t.run, topic, measure, *ends, t.n_prompts, t.n_seeds))
    columns = ["run", "topic", "measure", "drift", "lo", "hi", "n_prompts", "n_seeds"]
    return (
        pd.DataFrame(steps, columns=["run", "topic", "step", "measure", "value", "lo", "hi"]),
        pd.DataFrame(moved, columns=columns),
    )


def logit_stance(study: str, runs: Iterable[str]) -> pd.DataFrame:
    """Log-odds of Yes against No of all runs, as stances that `tables` takes."""
    table = pd.concat([pd.read_parquet(paths.logits(study, run)) for run in runs])
    return table.rename(columns={"log_odds": "net"}).assign(sample=0).dropna(subset="net")


def side_by_side(judged: pd.DataFrame, logits: pd.DataFrame, odds: pd.DataFrame) -> pd.DataFrame:
    """Both measures of all topics where replies were judged and log-odds read, and how likely
    either word is there.

    `judged` and `logits` are the first tables of `tables`, with seeds pooled; `odds` that of
    `logit_stance`. A row per run, step and measure: judged, logit and mass, the mean probability
    that a reply opens with Yes or No. Where that is small, the odds say what a model would answer
    if it had to choose, and need not agree with what it writes.
    """
    keys = ["run", "step", "measure"]
    parts = [
        table.loc[table["topic"] == "all", [*keys, "value"]].rename(columns={"value": name})
        for name, table in (("judged", judged), ("logit", logits))
    ]
    mass = odds.assign(run=split_seed(odds["run"])["name"])
    mass = mass.groupby(["run", "step"])["mass"].mean()
    return parts[0].merge(parts[1], on=keys).join(mass, on=["run", "step"])


def _of_topics(
    stances: pd.DataFrame, polarity: pd.Series, bootstrap: Bootstrap, pool: bool
) -> Iterator[tuple[str, Trajectories]]:
    """Trajectories of both measures of every run, of each topic and of all together."""
    rows = stances
    if "net" not in rows:
        rows = of_target(stances, "question")
        rows = rows.assign(net=rows["p_support"] - rows["p_oppose"])
    rows = rows.assign(sign=rows["prompt_id"].map(polarity))
    rows = rows[rows["sign"].isin([-1, 1])]
    both = rows.groupby("topic")["sign"].nunique() == 2
    for topic in both.index[both]:
        yield from _scored(rows[rows["topic"] == topic], topic, bootstrap, pool)
    if both.any():
        yield from _scored(rows[rows["topic"].isin(both.index[both])], "all", bootstrap, pool)


def _scored(
    rows: pd.DataFrame, topic: str, bootstrap: Bootstrap, pool: bool
) -> Iterator[tuple[str, Trajectories]]:
    # Scores of single replies whose mean over prompts is the measure, so that what bootstraps
    # stances bootstraps these: each kind of probe counts half, however many there are of it.
    prompts = rows.groupby("sign")["prompt_id"].nunique()
    weight = rows["sign"].map(prompts.sum() / (2 * prompts))
    scored = rows.assign(
        acquiescence=weight * rows["net"],
        lean=weight * rows["sign"] * rows["net"],
        # strata; none of them may be called `all`
        topic=rows["topic"].astype(str) + np.where(rows["sign"] > 0, " +", " -"),
        target="question",
    )
    for t in trajectories(scored, bootstrap, pool=pool, scores=MEASURES):
        if t.topic == "all":
            yield topic, t
