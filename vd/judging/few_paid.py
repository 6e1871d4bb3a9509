"""Few paid judgements, many free ones: prediction-powered inference (Angelopoulos et al. 2023,
arXiv 2301.09633).

The cheap judge scores every reply, f_i; the paid judge a random part of them, y_i. What the cheap
judge gets wrong is measured where both judged and taken off everywhere:

    value_i = g(f_i) + w_i (y_i - g(f_i))        w_i = replies / judged replies of the stratum if
    drawn, else 0

where g is a linear fit of y to f (the power tuning of PPI++, arXiv 2311.01453, for all three
stances at once). The mean of value_i estimates the mean of y without the cheap judge's bias,
however bad that judge is; it is only the more precise, the closer g(f_i) comes. A single value_i
may lie outside 0..1. As each reply still has one value, drift and its bootstrap over prompts and
replies need not know: their intervals cover both sources of chance. (The package ppi-python takes
the replies as independent; ours share prompts, and checkpoints are compared in pairs.)
"""

import numpy as np
import pandas as pd

from vd.stances import P

STRATUM = ["step", "topic"]
SMALLEST = 2  # replies drawn of a stratum


def draw(responses: pd.DataFrame, share: float, seed: int) -> pd.Series:
    """Which replies the paid judge sees: a mask over the rows, random within each checkpoint and
    topic.

    Every prompt is drawn once before any is drawn twice. The draw depends on prompts and samples
    only, so the same are drawn at every checkpoint and in every run, which makes differences
    between them more precise, and a larger share contains a smaller one.
    """
    rows = responses[["step", "topic", "prompt_id", "sample"]]
    keys = pd.Series(
        [
            f"{seed} {topic} {prompt} {sample}"
            for _, topic, prompt, sample in rows.itertuples(index=False)
        ]
    )
    # a hash instead of a generator: no draw depends on which other rows there are
    chance = pd.util.hash_array(keys.to_numpy(object)) / 2**64
    rows = rows.assign(reply=chance)
    # a prompt's replies in random order: turn 1 of all prompts precedes turn 2 of any
    rows["turn"] = rows.groupby(["step", "prompt_id"])["reply"].rank()
    of_prompt = pd.Series([f"{seed} {prompt}" for prompt in rows["prompt_id"]]).to_numpy(object)
    rows = rows.assign(prompt=pd.util.hash_array(of_prompt)).sort_values(["turn", "prompt"])
    place = rows.groupby(STRATUM).cumcount()
    # two at least: from one reply no spread between replies is known
    wanted = (rows.groupby(STRATUM)["turn"].transform("size") * share).round().clip(lower=SMALLEST)
    return (place < wanted).reindex(responses.index)


def rectify(cheap: pd.DataFrame, paid: pd.DataFrame, responses: pd.DataFrame) -> pd.DataFrame:
    """Stances of all replies from those of both judges: the columns of `cheap` with p_* as in the
    module's equation.

    `cheap` has the index of `responses`, `paid` a part of it; rows that the paid judge could not
    judge (p_* missing) count as not drawn. Labels stay as judged, the paid judge's where there is
    one. Raises ValueError if a stratum has no paid judgement at all.
    """
    # assumes that what it could not judge is like what it could
    judged = paid.dropna(subset=P)
    strata = responses[STRATUM].apply(tuple, axis=1)
    size, drawn = strata.value_counts(), strata[judged.index].value_counts()
    empty = size.index.difference(drawn.index)
    if len(empty):
        step, topic = empty[0]
        raise ValueError(
            f"step {step}, topic {topic}: the paid judge judged none of the drawn replies; raise "
            "judge.api.share, or look at the statuses in judgements.parquet"
        )
    # neutral is what is left, so two of the three stances say all
    f, y = cheap[["p_support", "p_oppose"]].to_numpy(float), judged[P].to_numpy(float)
    places = cheap.index.get_indexer(judged.index)
    slope = _slope(f[places], y, responses.loc[judged.index, ["prompt_id", "sample"]])
    g = (f - f[places].mean(axis=0)) @ slope + y.mean(axis=0)
    # w_i (y_i - g(f_i)) of the module's equation, 0 for all that were not drawn
    g[places] += (y - g[places]) * (size / drawn)[strata[judged.index]].to_numpy()[:, None]
    out = cheap.assign(**dict(zip(P, g.T, strict=True)))
    # a label is for reading; only probabilities enter drift
    out.loc[judged.index, "label"] = judged["label"]
    return out


def _slope(f: np.ndarray, y: np.ndarray, reply: pd.DataFrame) -> np.ndarray:
    """Least-squares slope (2, 3) of y on support and oppose of f, within replies judged at several
    checkpoints.

    What the prompts contribute cancels in drift, so a slope that explains it would add noise. Where
    no reply was judged twice, the plain slope. As the stances of y sum to 1, so do the fitted ones.
    """
    groups = reply.groupby(["prompt_id", "sample"]).ngroup().to_numpy()
    within = [pd.DataFrame(v) - pd.DataFrame(v).groupby(groups).transform("mean") for v in (f, y)]
    if not within[0].to_numpy().any():
        within = [v - v.mean(axis=0) for v in (f, y)]
    # support and oppose may be collinear; then the smallest slope of all that fit as well
    return np.linalg.lstsq(*map(np.asarray, within), rcond=1e-6)[0]


def calls_alone(calls: float, replies: int, r2: float) -> float:
    """Paid judgements that would be as precise without a cheap judge, which explains the share r2
    of their variance.

    1/calls_alone = 1/replies + (1/calls - 1/replies) (1 - r2); both sides times the variance are
    that of the mean.
    """
    return 1 / (1 / replies + (1 / calls - 1 / replies) * (1 - r2))
