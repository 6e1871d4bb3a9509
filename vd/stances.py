"""The three stances, their columns in tables, the two levels at which they are meant, and the word
that tells most of them at a glance.

A stance is judged at question level: support is what affirming the question would mean. Seen from
the topic's canonical proposition it may be the other way round, see `to_topic`.
"""

import pandas as pd

STANCES = ("support", "neutral", "oppose")
P = [f"p_{stance}" for stance in STANCES]  # columns of their probabilities, which sum to 1
# the ways to take no side: both sides or no position, declining, beside the point, falling apart
NEUTRAL = ("hedge", "refusal", "off_topic", "degenerate")
FLIPPED = {"support": "oppose", "oppose": "support"}
OPENERS = ("yes", "no", "other")  # what a reply opens with


def to_topic(stances: pd.DataFrame, polarity: pd.Series) -> pd.DataFrame:
    """Question-level stances seen from the topic's canonical proposition.

    `polarity` maps prompt_id to +1 (affirming the question supports the proposition), -1 (support
    and oppose swap) or 0 (it bears on neither side: the question is left out). Raises ValueError
    for any other, or none.
    """
    unknown = stances.loc[~stances["prompt_id"].map(polarity).isin([-1, 0, 1]), "prompt_id"]
    if len(unknown):
        given = polarity.get(unknown.iloc[0], "none")
        said = f"polarity is {given}; write 1, -1 or 0 in the probe set"
        raise ValueError(f"prompt '{unknown.iloc[0]}': {said}")
    stances = stances[stances["prompt_id"].map(polarity).ne(0)]
    flip = stances["prompt_id"].map(polarity).eq(-1)
    topic = stances.assign(target="topic")
    # Without labels: pandas aligns columns on assignment, which would undo the swap.
    swapped = stances.loc[flip, ["p_oppose", "p_support"]].to_numpy()
    topic.loc[flip, ["p_support", "p_oppose"]] = swapped
    topic.loc[flip, "label"] = stances.loc[flip, "label"].replace(FLIPPED)
    return topic


def opener(replies: pd.Series) -> pd.Series:
    """The opener of each reply, by its first word."""
    first = replies.str.extract(r"^\W*(\w+)", expand=False).str.lower()
    return first.where(first.isin(["yes", "no"]), "other")
