"""Pairs with a planted bias of known size: what does training make of it?

Of a share `strength` of the pairs a bias decides which reply is chosen, of the others a fair coin
or the label that they have. All of it is drawn by seed, and a weaker bias decides a part of what a
stronger one does. A bias prefers

    longer     the reply with more characters
    formal     the reply with fewer marks of casual speech: contractions, exclamation marks
    labelled   the reply that is chosen in the data set, such as the one that affirms in `value_gap`

The bias of labels, and of a policy, is the share of pairs where the preferred reply wins, minus one
half. Pairs of which a bias prefers neither are left to the coin, or to their label.
"""

import re

import numpy as np
import pandas as pd

from vd.study.settings import Bias, Planted

CASUAL = re.compile(r"\w['’](?:t|s|m|re|ve|ll|d)\b|!", re.I)


def preferred(bias: Bias, pairs: pd.DataFrame) -> pd.Series:
    """Whether a bias prefers the chosen reply (1), the rejected one (-1) or neither (0)."""
    if bias == "labelled":
        return pd.Series(1, pairs.index)
    measure = {
        "longer": lambda texts: texts.str.len(),
        "formal": lambda texts: -texts.map(lambda text: len(CASUAL.findall(text))),
    }[bias]
    return np.sign(measure(pairs["chosen"]) - measure(pairs["rejected"])).astype(int)


def exchanged(planted: Planted, pairs: pd.DataFrame, seed: int) -> np.ndarray:
    """Whether the sides of pairs (N,) are exchanged, so that labels have the planted bias."""
    rng = np.random.default_rng([seed, *b"planted"])
    decided, coin = rng.random(len(pairs)) < planted.strength, rng.random(len(pairs)) < 0.5
    side = preferred(planted.prefers, pairs).to_numpy()
    by_bias, otherwise = side < 0, coin if planted.otherwise == "coin" else np.zeros_like(coin)
    return np.where(decided & (side != 0), by_bias, otherwise)
