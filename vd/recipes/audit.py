"""How well a labeller labels, and what decides its choices beside quality: of the pairs that it was
asked about, which are `tried` of vd/recipes/kinds/ai_preferences.py, a row per measure: measure,
value, lo, hi, n.

    answered        share of pairs with an answer in both orders
    contradicted    share of those whose order decided: each order favoured another reply
    first place     how much likelier the reply shown first is chosen, mean of P(first shown) - 1/2
    longer          how much likelier the longer reply is chosen, share minus 1/2, of unequal ones
    length slope    of the logistic model P(first) = sigmoid(a + b d / sd(d)), d the difference in
                    characters: b, with its intercept for what is better at equal length
    agreement       share of pairs where a known label is preferred, if a column `better` has it:
                    first or second
    calibration     mean of max(p, 1 - p), how sure it is, minus its agreement
    own style       how much likelier the first reply is chosen, share minus 1/2, where one run
                    wrote all first replies and another all second ones (`own`)

Intervals are a bootstrap over pairs.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import log_expit

from vd import paths
from vd.evaluations import intervals
from vd.recipes.kinds import ai_preferences
from vd.store.recorded import found
from vd.study.recipes import recipe_of
from vd.study.settings import Bootstrap

RESAMPLES = 200  # of the logistic model, which is fitted anew in each
NAMED = {"metric": "measure"}  # what an evaluation measures of a policy, an audit does of labels
SMALL = 1e-3  # penalty, without which pairs that length alone decides have no finite slope


def of_study(study) -> pd.DataFrame:
    """`audit` of all recipes of preferences of a study that were made: recipe, labeller, pairs, the
    topic or `all`, and the measures; of topics the agreement alone.
    """
    tables = []
    for name, entry in study.recipes.items():
        file = found(paths.recipe(study.name, name) / paths.TRIED, study.name)
        if recipe_of(entry) is not ai_preferences or not file.exists():
            continue
        settings, tried = ai_preferences.Settings(**entry), pd.read_parquet(file)
        who, own = settings.labeller, settings.second is not None
        who = who if isinstance(who, str) else who.model
        about = {"recipe": name, "labeller": who, "pairs": settings.pairs or settings.prompts}
        tables.append(audit(tried, study.bootstrap, own).assign(**about, topic="all"))
        if "better" in tried:
            agrees = [
                _agreement(*_said(rows), study.bootstrap) | {"topic": topic}
                for topic, rows in tried.groupby("topic")
            ]
            tables.append(pd.DataFrame(agrees).rename(columns=NAMED).assign(**about))
    order = ["recipe", "labeller", "pairs", "topic", "measure", "value", "lo", "hi", "n"]
    return pd.concat([pd.DataFrame(columns=order), *tables], ignore_index=True)[order]


def audit(tried: pd.DataFrame, bootstrap: Bootstrap, own: bool = False) -> pd.DataFrame:
    """The measures above of one labeller's pairs; those that nothing could be measured of have a
    NaN and n 0.
    """
    said, p = _said(tried)
    both = tried.loc[tried["answered"], ["straight", "turned"]].notna().all(axis=1)
    place = (said["straight"] - said["turned"]).to_numpy(float) / 2
    apart = (said["first"].str.len() - said["second"].str.len()).to_numpy(float)
    uneven = (apart != 0) & (p != 0.5)
    longer = ((p > 0.5) == (apart > 0))[uneven].astype(float)
    measures = [
        intervals.share("answered", both.to_numpy(float), bootstrap),
        intervals.share("contradicted", said["contradicted"].to_numpy(float), bootstrap),
        intervals.mean("first place", place, bootstrap),
        intervals.mean("longer", longer - 0.5, bootstrap),
        _slope(p, apart, bootstrap),
    ]
    if "better" in said:
        right, sure = _right(said, p)
        measures.append(_agreement(said, p, bootstrap))
        measures.append(intervals.mean("calibration", sure - right, bootstrap))
    if own:
        mine = (p > 0.5) + 0.5 * (p == 0.5)
        measures.append(intervals.mean("own style", mine - 0.5, bootstrap))
    return pd.DataFrame(measures).rename(columns=NAMED)


def _said(tried: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """Pairs with an answer in both orders, and the probability of the first of each."""
    answers = tried.loc[tried["answered"], ["straight", "turned"]].dropna()
    return tried.loc[answers.index], answers.mean(axis=1).to_numpy(float)


def _right(said: pd.DataFrame, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of pairs with a known label: whether it is preferred (1, 0, one half), and how surely."""
    known = said["better"].isin(["first", "second"]).to_numpy()
    right = np.where(said["better"] == "first", p > 0.5, p < 0.5) + 0.5 * (p == 0.5)
    return right[known].astype(float), np.maximum(p, 1 - p)[known]


def _agreement(said: pd.DataFrame, p: np.ndarray, bootstrap: Bootstrap) -> dict:
    return intervals.share("agreement", _right(said, p)[0], bootstrap)


def _slope(p: np.ndarray, apart: np.ndarray, bootstrap: Bootstrap) -> dict:
    if len(p) < 3 or not apart.std() > 0:
        return intervals.none("length slope")
    few = bootstrap.model_copy(update={"resamples": min(bootstrap.resamples, RESAMPLES)})
    scaled, counts = apart / apart.std(), intervals.counts(len(p), few)
    replicates = np.array([_fit(p, scaled, weights) for weights in counts])
    value = _fit(p, scaled, np.ones(len(p)))
    return intervals.row("length slope", value, replicates, len(p), bootstrap.alpha)


def _fit(p: np.ndarray, x: np.ndarray, weights: np.ndarray) -> float:
    """The slope of P(first) over x, by weighted likelihood of soft labels."""

    def loss(ab):
        z = ab[0] + ab[1] * x
        nats = p * log_expit(z) + (1 - p) * log_expit(-z)
        return -(weights * nats).sum() / weights.sum() + SMALL * (ab**2).sum()

    return float(minimize(loss, np.zeros(2)).x[1])
