"""A rewriting's reward: the wanted values, and the content kept (after VISA, arXiv 2603.04822; the
paper's weights are unknown, and the penalties are ours).

    r = w_v cos(v(y), v*) + w_c c(y_0, y) - penalties,   or   r = -w_v |v(y) - v*| + ...  (`l2`)

v is the detector (vd/readers/values.py), v* the target clip(v(y_0) + shift, -1, 1), y_0 the
original, c the mean of both ways of entailment (vd/readers/consistency.py). Penalties:

    copying     of a reply that is the original but for a few words, where a shift is asked
    length      of |log(length / original's)| beyond a factor of two
    broken      of a reply that repeats itself: few different words, or no text at all
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import NonNegativeFloat

from vd import values as space
from vd.data.texts import SAME, common, is_broken
from vd.readers import consistency, values
from vd.readers.consistency import ConsistencySettings
from vd.readers.values import ValueReaderSettings
from vd.study.types import Settings as Base
from vd.values import NAMES

COLUMNS = ("original", *NAMES)
PARTS = ("value", "consistency", "copying", "length", "broken")
FACTOR = 2.0  # of lengths, which costs nothing


class Settings(Base):
    """Weights of the parts, and what reads values and consistency."""

    form: Literal["cosine", "l2"] = "cosine"
    value: NonNegativeFloat = 1.0
    consistency: NonNegativeFloat = 1.0
    copying: NonNegativeFloat = 0.5
    length: NonNegativeFloat = 0.5
    broken: NonNegativeFloat = 1.0
    detector: ValueReaderSettings = ValueReaderSettings()
    judge: ConsistencySettings = ConsistencySettings()


def reads(settings: Settings) -> list[str]:
    """Data sets that the reward depends on."""
    return [values.CORPORA[settings.detector.reads], *consistency.there()]


def load(settings: Settings) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The function that scores replies; detector and judge are trained on first use."""
    detector, judge = values.load(settings.detector), consistency.load(settings.judge)
    return lambda replies: score(settings, detector, judge, replies)


def score(settings: Settings, detector, judge, replies: pd.DataFrame) -> pd.DataFrame:
    """The weighted parts of rows with response, original and the ten values' shifts."""
    found, shift = replies["response"], replies[list(NAMES)].to_numpy(float)
    target = space.moved(detector.read(replies["original"]), space.check(shift, "shifts"))
    read = detector.read(found)
    near = (
        space.cosine(read, target) if settings.form == "cosine" else -space.distance(read, target)
    )
    kept = judge.score(replies["original"], found)["consistency"]
    pairs = list(zip(replies["original"], found, strict=True))
    copied = np.array([common(*pair) >= SAME for pair in pairs]) & (shift != 0).any(axis=1)
    table = {
        "value": settings.value * near,
        "consistency": settings.consistency * kept.to_numpy(),
        "copying": -settings.copying * copied,
        "length": -settings.length * np.array([beyond(*pair) for pair in pairs]),
        "broken": -settings.broken * np.array([is_broken(text) for text in found]),
    }
    return pd.DataFrame(table, replies.index)


def beyond(original: str, text: str) -> float:
    """How far the logarithm of the ratio of lengths in words lies beyond that of `FACTOR`."""
    ratio = max(len(text.split()), 1) / max(len(original.split()), 1)
    return max(0.0, abs(np.log(ratio)) - np.log(FACTOR))
