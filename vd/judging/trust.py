"""How far to trust a study's judges: what they say of labelled replies, as run.json records it."""

import pandas as pd

from vd.data import sets
from vd.judging.agreement import agreement
from vd.judging.api import ApiJudge
from vd.judging.offline import OfflineJudge, split


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
