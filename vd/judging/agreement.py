"""How far judges agree with labels and with each other, where a judge is biased, and labels by your
own hand.

Intervals are percentile intervals of a bootstrap over questions, because replies to one question
resemble each other.
"""

import numpy as np
import pandas as pd

from vd.stances import STANCES, P

MEASURES = ("accuracy", "macro_f1", "kappa", "alpha")


def measures(labels: pd.Series, judged: pd.Series) -> dict:
    """Agreement of two judges' labels: n, accuracy, macro_f1, kappa, alpha; rows that either left
    out do not count.

    Macro-F1 is the mean over the three stances, kappa Cohen's, alpha Krippendorff's for nominal
    data. All are NaN where nothing is left to compare (n is 0).
    """
    import krippendorff
    from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

    # an API judge leaves out what it could not judge; people, what they did not label
    both = labels.notna().to_numpy() & judged.notna().to_numpy()
    if not both.any():
        return {"n": 0, **dict.fromkeys(MEASURES, np.nan)}
    one, two = (labels[both].map(STANCES.index).to_numpy(int) for labels in (labels, judged))
    values = range(len(STANCES))
    # agreement beyond chance is not defined where there is no choice
    varied = len(set(one) | set(two)) > 1
    alpha = (
        krippendorff.alpha([one, two], value_domain=values, level_of_measurement="nominal")
        if varied
        else np.nan
    )
    return {
        "n": int(both.sum()),
        "accuracy": accuracy_score(one, two),
        # all three are named, so that a stance which nobody gave counts as well
        "macro_f1": f1_score(one, two, average="macro", labels=values, zero_division=0),
        "kappa": cohen_kappa_score(one, two, labels=values) if varied else np.nan,
        "alpha": float(alpha),
    }


def agreement(labels: pd.Series, scored: pd.DataFrame) -> dict:
    """`measures` of a judge's stances (label, p_*) against given labels, and calibration_error.

    The expected calibration error is the mean gap between stated probability and share right over
    ten equal-width bins, weighted by their size.
    """
    # bins without a reply are not there, and weigh nothing
    bins = calibration(labels, scored)
    off = (bins["confidence"] - bins["accuracy"]).abs()
    gap = np.average(off, weights=bins["n"]) if len(bins) else np.nan
    return measures(labels, scored["label"]) | {"calibration_error": float(gap)}


def with_intervals(
    labels: pd.Series,
    judged: pd.Series,
    questions: pd.Series,
    n_boot: int = 200,
    seed: int = 0,
    alpha: float = 0.05,
) -> pd.DataFrame:
    """`measures` with intervals: one row per measure with value, lo, hi, n; NaN where n is 0."""
    rows = pd.DataFrame(
        {"one": labels.to_numpy(), "two": judged.to_numpy(), "question": questions.to_numpy()}
    )
    rows = rows.dropna(subset=["one", "two"])
    # replies to one question resemble each other, so whole questions are drawn
    parts = [part for _, part in rows.groupby("question", sort=True)]
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(n_boot if parts else 0):
        drawn = pd.concat([parts[i] for i in rng.integers(len(parts), size=len(parts))])
        draws.append(measures(drawn["one"], drawn["two"]))
    table = pd.DataFrame({"value": measures(rows["one"], rows["two"])}).drop("n")
    # columns by name: without any draw quantiles are NaN and not an error
    draws = pd.DataFrame(draws, columns=table.index, dtype=float)
    return table.assign(lo=draws.quantile(alpha / 2), hi=draws.quantile(1 - alpha / 2), n=len(rows))


def between(
    judges: dict[str, pd.Series], questions: pd.Series, n_boot: int = 200, seed: int = 0
) -> pd.DataFrame:
    """Every pair of judges (labels by name, None where one gave none).

    N, accuracy, kappa and alpha with intervals.
    """
    names, rows = list(judges), []
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            table = with_intervals(judges[one], judges[two], questions, n_boot, seed)
            row = {
                "one": one,
                "two": two,
                "n": int(table["n"].iloc[0]),
                "accuracy": table.loc["accuracy", "value"],
            }
            for measure in ("kappa", "alpha"):
                row |= {measure: table.loc[measure, "value"]}
                row |= {f"{measure}_{end}": table.loc[measure, end] for end in ("lo", "hi")}
            rows.append(row)
    return pd.DataFrame(rows)


def bias(
    labels: pd.Series,
    scored: pd.DataFrame,
    questions: pd.Series,
    by: dict[str, pd.Series],
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """A judge's bias: mean p_support - p_oppose as judged minus as labelled, per group of each
    grouping.

    Columns: by, group, n, right (share of labels), bias, lo, hi. Above zero the judge finds more
    support than there is. A bias that is the same everywhere cancels in drift, one that differs
    does not.
    """
    # on the same scale as p_support - p_oppose
    given = labels.map({"support": 1.0, "neutral": 0.0, "oppose": -1.0}).to_numpy()
    off = scored["p_support"].to_numpy() - scored["p_oppose"].to_numpy() - given
    rows = pd.DataFrame(
        {"off": off, "right": (scored["label"].to_numpy() == labels.to_numpy()).astype(float)}
    )
    rows["question"] = questions.to_numpy()
    table, rng = [], np.random.default_rng(seed)
    for name, groups in by.items():
        for group, part in (
            rows.assign(group=groups.to_numpy()).dropna(subset=["off"]).groupby("group", sort=True)
        ):
            sums = part.groupby("question")["off"].agg(["sum", "size"]).to_numpy(float)
            # sums and sizes suffice for a mean, so no reply is drawn one by one
            drawn = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), n_boot) @ sums
            lo, hi = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
            table.append((name, group, len(part), part["right"].mean(), part["off"].mean(), lo, hi))
    return pd.DataFrame(table, columns=["by", "group", "n", "right", "bias", "lo", "hi"])


def calibration(labels: pd.Series, scored: pd.DataFrame) -> pd.DataFrame:
    """Stated probability of the judge's label against the share that is right, in ten bins.

    Confidence, accuracy, n.
    """
    # the label has the largest probability, also for a refusal, which counts as neutral
    confidence = scored[P].max(axis=1)
    right = scored["label"].to_numpy() == labels.to_numpy()
    rows = pd.DataFrame({"confidence": confidence.to_numpy(), "accuracy": right}).dropna()
    # a confidence of exactly 1 belongs to the last bin
    bins = rows.groupby((rows["confidence"] * 10).clip(upper=9.999).astype(int))
    return bins.mean().assign(n=bins.size()).reset_index(drop=True)


def confusion(labels: pd.Series, judged: pd.Series) -> pd.DataFrame:
    """Counts of label (rows) against the judge's label (columns); all stances are always there."""
    table = pd.crosstab(labels.to_numpy(), judged.to_numpy())
    return table.reindex(index=STANCES, columns=STANCES, fill_value=0)
