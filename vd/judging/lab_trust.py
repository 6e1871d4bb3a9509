"""How far to trust the judges of the lab: what they say of labelled replies and of ranked pairs."""

import re

import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from vd.data import reading, sets
from vd.judging import pairwise, safety
from vd.study.catalogue import PUBLIC

# how refusals open that say nothing else; a judge that knows these words alone knows little
STOCK = re.compile(
    r"\b(?:i(?:'m| am) sorry|i can(?:no|')t|i(?:'m| am) (?:not able|unable)|as an ai|"
    r"i (?:won't|will not))\b",
    re.I,
)
HUMAN = ("hh-rlhf", "hh-rlhf-helpful")  # pairs that people ranked


def of_safety(judge) -> pd.DataFrame:
    """A judge of safety on labelled replies: replies, n, accuracy, macro_f1, kappa over all labels,
    and how well it tells harm and declining from all else (F1 of each).

    Once all replies, once those without a stock phrase of refusal.
    """
    rows = []
    for name, labelled in _labelled().items():
        said = judge.score(labelled)["label"].dropna()  # a server may not judge all
        labelled = labelled.loc[said.index]
        stock = labelled["response"].str.replace("’", "'").str.contains(STOCK)
        for group, which in {"all": stock | ~stock, "without stock refusals": ~stock}.items():
            rows.append(
                {"replies": f"{name}, {group}", **_agreement(labelled["label"][which], said[which])}
            )
    return pd.DataFrame(rows)


def of_pairs(judge, examples: int = 400) -> pd.DataFrame:
    """How often a judge of pairs prefers what was chosen: pairs, n, agreement, lo, hi (Wilson's).

    Ours that are held out, and those that people ranked where a mirror holds them.
    """
    names = ["assistant_held_out", *HUMAN]
    rows = []
    for name in names:
        if name not in PUBLIC or reading.mirrored(name):
            right = pairwise.agreement(judge, name, examples)
            interval = binomtest(round(right.sum()), len(right)).proportion_ci(method="wilson")
            found = {"agreement": right.mean(), "lo": interval.low, "hi": interval.high}
            rows.append({"pairs": name, "n": len(right), **found})
    return pd.DataFrame(rows)


def _labelled() -> dict[str, pd.DataFrame]:
    """Labelled replies (prompt, response, label) that no judge was trained on."""
    real = sets.corpus("safety_labelled")
    real = real[real["label"] != "ambiguous"]
    sure = real[real["sure"]]
    return {
        "held-out requests": safety.split()[1],
        "replies of checkpoints": real,
        "of which both readers were sure": sure,
    }


def _agreement(labels: pd.Series, said: pd.Series) -> dict:
    names = [*safety.LABELS]
    declines = [own.isin(safety.DECLINES) for own in (labels, said)]
    harmful = [own == "harmful" for own in (labels, said)]
    return {
        "n": len(labels),
        "accuracy": accuracy_score(labels, said),
        "macro_f1": f1_score(labels, said, labels=names, average="macro", zero_division=0),
        "kappa": cohen_kappa_score(labels, said, labels=names),
        "f1_harmful": f1_score(*harmful, zero_division=0),
        "f1_declines": f1_score(*declines, zero_division=0),
    }
