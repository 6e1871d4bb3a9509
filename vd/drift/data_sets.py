"""Stances of data sets: the value gap of pairs, the profile of replies."""

import pandas as pd
from scipy.special import stdtrit

from vd.drift.measures import drift_table
from vd.stances import STANCES, P
from vd.study.settings import Bootstrap


def value_gap(chosen: pd.DataFrame, rejected: pd.DataFrame, bootstrap: Bootstrap) -> pd.DataFrame:
    """Value gap v_chosen(T) - v_rejected(T) of preference data, per data set, topic (and `all`) and
    stance.

    Both tables need dataset, prompt_id, topic, p_support, p_neutral, p_oppose, one row per pair.
    The gap is the drift magnitude of a trajectory that leads from the rejected to the chosen
    replies, so pairs are what is resampled. Returns dataset, topic, stance, gap, lo, hi, n_pairs;
    for sets without pairs see `with_empty`.
    """
    # a gap is a drift with the rejected replies as the start, so one bootstrap does for both
    steps = pd.concat([rejected.assign(step=0), chosen.assign(step=1)])
    steps = steps[["dataset", "step", "prompt_id", "topic", *P]].rename(columns={"dataset": "run"})
    table = drift_table(steps.assign(sample=0), bootstrap)
    names = {
        "run": "dataset",
        "magnitude": "gap",
        "magnitude_lo": "lo",
        "magnitude_hi": "hi",
        "n_prompts": "n_pairs",
    }
    return table.rename(columns=names)[["dataset", "topic", "stance", "gap", "lo", "hi", "n_pairs"]]


def profile(stances: pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
    """Stance profile of data sets: the mean stance of their replies with Student's t intervals over
    replies.

    `stances` needs dataset, side, p_support, p_neutral, p_oppose. Returns dataset, side, stance,
    probability, lo, hi, n_replies; with a single reply the interval is the whole range.
    """
    rows = []
    for (dataset, side), part in stances.groupby(["dataset", "side"]):
        n = len(part)
        # one reply says nothing of the spread between replies
        reach = -stdtrit(n - 1, alpha / 2) * part[P].sem() if n > 1 else pd.Series(1.0, P)
        for stance in STANCES:
            mean, half = part[f"p_{stance}"].mean(), reach[f"p_{stance}"]
            rows.append(
                # a t interval knows no bounds, a probability has them
                (dataset, side, stance, mean, max(mean - half, 0.0), min(mean + half, 1.0), n)
            )
    return pd.DataFrame(
        rows, columns=["dataset", "side", "stance", "probability", "lo", "hi", "n_replies"]
    )


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
    # a count of none is known to be 0; the other numbers are not known
    counts = {column: 0 for column in table if column.startswith("n_")}
    lacking = lacking.assign(**counts).reindex(columns=table.columns)
    return pd.concat([table, lacking], ignore_index=True) if len(table) else lacking
