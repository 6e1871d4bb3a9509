"""A server as translator: what an order wants to happen to each of Schwartz's values.

It is asked once per value, and the shift is the mean of `SHIFTS` under its probabilities.
"""

import numpy as np
import pandas as pd

from vd.judging.api import ApiJudge
from vd.study.servers import TranslatorApi
from vd.values import VALUES

# the first letters differ, see vd/prompts/stance-v1.yaml
SHIFTS = {"gain": 1.0, "more": 0.5, "same": 0.0, "less": -0.5, "drop": -1.0}


class ApiTranslator:
    """A server, with the method of a trained reader of orders (vd/readers/values.py)."""

    def __init__(self, settings: TranslatorApi, study: str):
        self.api = ApiJudge(settings, study, labels=tuple(SHIFTS))
        self.name = self.api.name

    def read(self, texts: pd.Series) -> np.ndarray:
        """Shifts (N, 10) of orders; ValueError names an order that the server does not read."""
        told = [f"{name.replace('_', '-')}: {about}" for name, about in VALUES.items()]
        asked = pd.DataFrame(
            [(value, text) for text in texts for value in told], columns=["prompt", "response"]
        )
        judged = self.api.judge(asked)
        if (lost := judged["status"] != "ok").any():
            first, status = asked[lost].iloc[0], judged.loc[lost, "status"].iloc[0]
            said = f"{first['response']!r} is {status} for {first['prompt'].partition(':')[0]}"
            raise ValueError(
                f"translator: the order {said}; word it otherwise, or ask another model"
            )
        shifts = sum(judged[f"p_{label}"] * shift for label, shift in SHIFTS.items())
        return shifts.to_numpy(float).reshape(len(texts), len(VALUES))
