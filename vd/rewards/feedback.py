"""A labeller's verdict as the reward, with no reward model between (d-RLAIF; Lee et al. 2023, arXiv
2309.00267, whose labeller gives marks from 1 to 10; ours compares):

    r = 2 P(y is better than y_0) - 1, in [-1, 1]

y_0 is a reply to the same prompt that the data hold, the rejected one unless said otherwise. Who
judges is in vd/judging/pairwise.py: the scorer that labels in `ai_preferences` too, or a server,
asked in both orders about every reply that the policy writes.
"""

from collections.abc import Callable
from typing import Literal

import pandas as pd

from vd.judging import pairwise
from vd.judging.pairwise import PairwiseSettings
from vd.study.types import Settings as Base

COLUMNS = ("chosen", "rejected")
PARTS = ("better",)


class Settings(Base):
    """Who judges, and what a reply is compared with."""

    against: Literal["chosen", "rejected"] = "rejected"
    labeller: PairwiseSettings = PairwiseSettings(half="first")


def reads(settings: Settings) -> list[str]:
    """Data sets, and files of prompts, that the reward depends on."""
    return pairwise.reads(settings.labeller)


def load(settings: Settings) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The function that scores replies; a judge that is trained is so on first use."""
    judge = pairwise.load(settings.labeller, "feedback")

    def score(replies: pd.DataFrame) -> pd.DataFrame:
        pairs = replies.rename(columns={"response": "first", settings.against: "second"})
        return pd.DataFrame({"better": 2 * judge.prefers(pairs) - 1}, replies.index)

    return score
