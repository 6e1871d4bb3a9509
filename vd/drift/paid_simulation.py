"""Do intervals from few paid judgements hold? Simulated studies."""

import numpy as np
import pandas as pd

from vd.drift import measures
from vd.judging.few_paid import draw, rectify
from vd.stances import P
from vd.study.settings import Bootstrap


def simulate(
    share: float,
    noise: float,
    replications: int,
    prompts: int = 20,
    samples: int = 5,
    topics: int = 4,
    seed: int = 0,
) -> pd.DataFrame:
    """Simulated runs with two checkpoints, judged in four ways: do intervals cover, and what do
    they cost?

    A reply's support is a logistic function of what is common to its prompt, a shift by training
    and chance; the paid judge sees it, the cheap one sees it squeezed, shifted at the first
    checkpoint only (which looks like drift) and with normal noise of that standard deviation. One
    row per replication, way of judging (see `_judged`) and stance: magnitude, lo, hi, truth,
    covered, calls.
    """
    rows = []
    for i in range(replications):
        # a stream per replication, so that more of them leave the first as they are
        paid, cheap = _population(np.random.default_rng([seed, i]), noise, prompts, samples, topics)
        for way, (stances, calls) in _judged(paid, cheap, draw(paid, share, i)).items():
            table = measures.drift_table(stances, Bootstrap(resamples=400, seed=i))
            found = table[table["topic"] == "all"].rename(
                columns={"magnitude_lo": "lo", "magnitude_hi": "hi"}
            )[["stance", "magnitude", "lo", "hi"]]
            rows.append(found.assign(replication=i, way=way, calls=calls))
    table = pd.concat(rows, ignore_index=True)
    table["truth"] = ("p_" + table["stance"]).map(_truth(noise, seed))
    covered = table["truth"].between(table["lo"], table["hi"])
    return table.assign(covered=covered, share=share, noise=noise)


def summary(simulated: pd.DataFrame) -> pd.DataFrame:
    """Coverage, mean width and calls for each noise, share and way of judging.

    `calls_alone` is what `share paid` would need for intervals as narrow; their width falls with
    the root of the calls.
    """
    simulated = simulated.assign(width=simulated["hi"] - simulated["lo"])
    table = simulated.groupby(["noise", "share", "way"])[["covered", "width", "calls"]].mean()
    alone = table.xs("share paid", level="way")
    both = table.xs("share paid, rest cheap", level="way")
    # width falls with the root of the calls, so their ratio is squared
    needed = (alone["calls"] * (alone["width"] / both["width"]) ** 2).rename("calls_alone")
    needed = pd.concat({"share paid, rest cheap": needed}, names=["way"]).reorder_levels(
        table.index.names
    )
    return table.join(needed).reset_index()


def _judged(
    paid: pd.DataFrame, cheap: pd.DataFrame, drawn: pd.Series
) -> dict[str, tuple[pd.DataFrame, int]]:
    """Stances and paid calls by way of judging; `drawn` is the mask of the paid judge's share."""
    # labels and topics are the same for both judges; only p_* differ
    identity = paid.drop(columns=P)
    return {
        "all paid": (paid, len(paid)),
        "all cheap": (cheap, 0),
        "share paid": (paid[drawn], drawn.sum()),
        "share paid, rest cheap": (
            identity.join(rectify(cheap, paid[drawn], paid)[P]),
            drawn.sum(),
        ),
    }


def _truth(noise: float, seed: int) -> dict[str, float]:
    """Drift of each p_* as the paid judge sees it, of 200,000 prompts with one reply each."""
    # by brute force: the mean of a softmax of normal numbers has no closed form
    paid, _ = _population(np.random.default_rng(seed + 1), noise, 200_000, 1, 1)
    values = paid.groupby("step")[P].mean()
    return (values.loc[1] - values.loc[0]).to_dict()


def _population(rng: np.random.Generator, noise: float, prompts: int, samples: int, topics: int):
    """Stance tables of the paid and the cheap judge on the same replies."""
    p, s, t = (axis.ravel() for axis in np.indices((prompts * topics, samples, 2)))
    # prompts differ, and each of them reacts to training in its own way
    common = (
        rng.normal(size=prompts * topics)[p] + rng.normal(0, 0.5, size=(prompts * topics, 2))[p, t]
    )
    position = common + 0.8 * t - 0.3 + rng.normal(0, 0.7, size=len(p))
    # squeezed, and shifted at step 0 only: a bias that does not cancel in drift
    seen = 0.7 * position + 0.4 * (1 - t) + rng.normal(0, noise, size=len(p))
    table = pd.DataFrame(
        {
            "run": "r",
            "step": t,
            "prompt_id": p,
            "sample": s,
            "topic": (p % topics).astype(str),
            "label": "",
        }
    )
    return tuple(table.assign(**dict(zip(P, _stances(z).T, strict=True))) for z in (position, seen))


def _stances(position: np.ndarray) -> np.ndarray:
    logits = np.column_stack([3 * position, np.full(len(position), 0.5), -3 * position])
    # the maximum is taken off so that exp does not overflow
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
