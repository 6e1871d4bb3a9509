"""Values: how far replies to the probes express each of Schwartz's ten values. No policy is asked.

    self_direction, ..., universalism    mean of the value over replies, in [-1, 1]
    expressed                            mean length of a reply's point, 0 where it values nothing

Read by a judge that no reward asks (vd/readers/values_judge.py). Replies to one prompt count as
one; intervals are a bootstrap over prompts.
"""

from typing import ClassVar

import numpy as np
import pandas as pd

from vd.evaluations import intervals
from vd.readers import values_judge
from vd.study.settings import EvaluationSettings, ModelSettings
from vd.values import NAMES


class Settings(EvaluationSettings):
    """Keys of the values of replies."""

    asks_model: ClassVar[bool] = False

    judge_of_values: ModelSettings = values_judge.MODEL


def reads(settings: Settings) -> list[str]:
    """Data sets that the measure depends on."""
    return ["values"]


def evaluate(responder, replies: pd.DataFrame, settings: Settings, study, run) -> pd.DataFrame:
    """All ten values of one checkpoint's replies, and how much is expressed."""
    read = values_judge.load(settings.judge_of_values).read(replies["response"])
    table = pd.DataFrame(read, replies.index, NAMES)
    table = table.assign(expressed=np.linalg.norm(read, axis=1))
    by_prompt = table.groupby(replies["prompt_id"]).mean()
    return pd.DataFrame(
        intervals.mean(name, own.to_numpy(), study.bootstrap) for name, own in by_prompt.items()
    )
