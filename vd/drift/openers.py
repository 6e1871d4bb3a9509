"""How much of a drift is one word: replies that open with Yes or No, and what they say besides.

A change of a stance's mean splits into two parts (Kitagawa 1955). With s_o the share of replies
that open with o (yes, no, other) and v_o their mean,

    between = sum over o of (s_o' - s_o) (v_o + v_o') / 2    other openers
    within  = sum over o of (v_o' - v_o) (s_o + s_o') / 2    another stance behind the same opener

where the prime marks the end; the two add up to the drift.
"""

import pandas as pd

from vd.drift.bootstrap import of_target
from vd.stances import OPENERS, STANCES, opener


def of_stances(stances: pd.DataFrame, replies: pd.DataFrame) -> pd.Series:
    """The opener of the reply behind each row of stances, whose index it has."""
    keys = ["run", "step", "prompt_id", "sample"]
    found = opener(replies["response"]).rename("opener")
    said = stances[keys].merge(replies[keys].join(found), on=keys, how="left", validate="m:1")
    return said["opener"].set_axis(stances.index)


def shares(stances: pd.DataFrame, openers: pd.Series) -> pd.DataFrame:
    """Shares of replies by opener: run, step, yes, no, other.

    `openers` has the index of `stances`.
    """
    rows = of_target(stances.assign(opener=openers), "question")
    table = rows.groupby(["run", "step"])["opener"].value_counts(normalize=True).unstack()
    return table.reindex(columns=list(OPENERS)).fillna(0.0).rename_axis(columns=None).reset_index()


def decomposition(stances: pd.DataFrame, openers: pd.Series) -> pd.DataFrame:
    """Drift from a run's first to its last step, split by opener: run, stance, drift, between,
    within; runs with one checkpoint have none.

    Every reply counts once, so where replies are missing the drift may differ a little from that of
    `vd.drift.measures`, in which every prompt counts once. An opener that one end lacks has there
    the mean of the other end, so its drift is all between.
    """
    rows = of_target(stances.assign(opener=openers), "question")
    rows = rows[rows.groupby("run")["step"].transform("nunique") > 1]
    steps = rows.groupby("run")["step"]
    ends = [rows[rows["step"] == steps.transform(which)] for which in ("min", "max")]
    found = []
    for run, last in ends[1].groupby("run"):
        first = ends[0][ends[0]["run"] == run]
        share = [part["opener"].value_counts(normalize=True) for part in (first, last)]
        share = [s.reindex(OPENERS).fillna(0.0) for s in share]
        for stance in STANCES:
            mean = [part.groupby("opener")[f"p_{stance}"].mean() for part in (first, last)]
            mean = [m.reindex(OPENERS) for m in mean]
            mean = [mean[0].fillna(mean[1]).fillna(0.0), mean[1].fillna(mean[0]).fillna(0.0)]
            between = ((share[1] - share[0]) * (mean[0] + mean[1]) / 2).sum()
            within = ((mean[1] - mean[0]) * (share[0] + share[1]) / 2).sum()
            found.append((run, stance, between + within, between, within))
    return pd.DataFrame(found, columns=["run", "stance", "drift", "between", "within"])
