"""How far to trust a study's judges: what they say of labelled replies, as run.json records it."""

import pandas as pd

from vd.data import sets
from vd.judging.agreement import agreement, measures
from vd.judging.api import ApiJudge
from vd.judging.offline import OfflineJudge, split
from vd.stances import opener

BY_RULE = {"yes": "support", "no": "oppose", "other": "neutral"}


def judge_labelled(offline: OfflineJudge, api: ApiJudge | None) -> dict[str, pd.DataFrame]:
    """Stances of the corpus `judge_labelled` by judge, `offline` and, if there is one, `API`.

    Raises what `ApiJudge.judge` does.
    """
    labelled = sets.corpus("judge_labelled")
    judged = {"offline": offline.score(labelled)}
    # its answers are kept, so the first run of a study pays for them and no other
    return judged | ({"API": api.judge(labelled)} if api else {})


def quality(offline: OfflineJudge, judged: dict[str, pd.DataFrame]) -> dict[str, dict]:
    """`agreement` by what was judged: held-out questions, then the replies of `judge_labelled`."""
    _, held_out = split(offline.settings)
    labels = sets.corpus("judge_labelled")["label"]
    found = {"held-out questions": agreement(held_out["label"], offline.score(held_out))}
    return found | {
        f"{name}, replies of checkpoints": agreement(labels, scored)
        for name, scored in judged.items()
    }


def by_opener(labelled: pd.DataFrame, judged: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Agreement with labels by how replies open: judge, replies, n, accuracy, macro_f1, kappa.

    Beside the judges stands the rule that Yes is support, No is opposition and all else is neutral.
    A judge that is no better than the rule has read one word; what it can do besides shows in
    replies that open with neither.
    """
    opens = opener(labelled["response"])
    labels = {"Yes or No rule": opens.map(BY_RULE)}
    labels |= {name: scored["label"] for name, scored in judged.items()}
    told = opens.ne("other").to_numpy()
    groups = {"all": told | ~told, "open with Yes or No": told, "open otherwise": ~told}
    rows = [
        {"judge": name, "replies": group} | measures(labelled["label"][which], found[which])
        for name, found in labels.items()
        for group, which in groups.items()
    ]
    return pd.DataFrame(rows).drop(columns="alpha")
