"""Style: how replies are written, whatever stance they take. No model is asked.

    tokens        length of a reply, mean
    ended         share of replies that the model ended itself (finish_reason `stop`)
    empty         share of replies without text
    repeated      share of replies with text that another prompt got word for word as well
    distinct-1    different words over all words of all replies (Li et al. 2016, arXiv 1510.03055);
    distinct-2    the same of pairs of neighbouring words. Both fall as texts get longer, so they
                  compare checkpoints whose `tokens` are alike
    spread        one minus the Jaccard similarity of the word sets of two replies to one prompt,
                  mean over pairs, then prompts; only with several samples. After the diversity
                  measures between samples of Zhu et al. 2018 (Self-BLEU, arXiv 1802.01886), with
                  Jaccard's similarity (Jaccard 1912) in place of BLEU

Words are runs of letters and digits in lower case. `n` is the number of prompts, over which
intervals are a bootstrap.
"""

import re
from collections import Counter
from itertools import combinations
from typing import ClassVar

import numpy as np
import pandas as pd

from vd.evaluations import intervals
from vd.study.settings import Bootstrap, EvaluationSettings


class Settings(EvaluationSettings):
    """Keys of the style measures; there are none of its own."""

    asks_model: ClassVar[bool] = False


def evaluate(responder, replies: pd.DataFrame, settings, study, run) -> pd.DataFrame:
    """All measures of one checkpoint's replies: metric, value, lo, hi, n."""
    by_prompt, bootstrap = replies["prompt_id"], study.bootstrap
    means = {
        "tokens": replies["n_tokens"],
        "ended": replies["finish_reason"] == "stop",
        "empty": replies["response"] == "",
        "repeated": repeated(replies),
    }
    size = replies.groupby(by_prompt).size()
    found = [
        intervals.ratio(metric, values.groupby(by_prompt).sum(), size, bootstrap)
        for metric, values in means.items()
    ]
    words = replies["response"].map(words_of)
    for n in (1, 2):
        # the sum of lists is one list: all n-grams of a prompt
        grams = words.map(lambda text, n=n: grams_of(text, n)).groupby(by_prompt).sum()
        found.append(distinct(f"distinct-{n}", grams, bootstrap))
    if size.max() > 1:
        spreads = words.groupby(by_prompt).agg(spread).dropna()
        found.append(intervals.mean("spread", spreads, bootstrap))
    return pd.DataFrame(found)


def words_of(text: str) -> list[str]:
    """Words of a reply."""
    return re.findall(r"\w+", text.lower())


def grams_of(words: list[str], n: int) -> list[tuple[str, ...]]:
    """Runs of n words."""
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def repeated(replies: pd.DataFrame) -> pd.Series:
    """Whether each reply, unless it is empty, was given to another prompt as well."""
    prompts = replies.groupby("response")["prompt_id"].transform("nunique")
    return (prompts > 1) & (replies["response"] != "")


def distinct(metric: str, grams: pd.Series, bootstrap: Bootstrap) -> dict:
    """Different n-grams over all n-grams; `grams` holds those of each prompt's replies.

    A prompt that is drawn twice brings no new n-gram, so its interval is `intervals.jackknife`.
    """
    totals, k = np.array([len(own) for own in grams], float), len(grams)
    if not totals.sum():
        return intervals.none(metric)
    holders = Counter(gram for own in grams for gram in set(own))
    # what is gone without a prompt: n-grams that no other prompt's replies hold
    only = np.array([sum(holders[gram] == 1 for gram in set(own)) for own in grams])
    value, rest = len(holders) / totals.sum(), totals.sum() - totals
    # a prompt that holds all words leaves nothing to measure, so no change
    without = np.divide(len(holders) - only, rest, out=np.full(k, value), where=rest > 0)
    return intervals.jackknife(metric, value, without, bootstrap, most=1.0)


def spread(texts: pd.Series) -> float:
    """One minus the mean Jaccard similarity of the word sets of one prompt's replies; NaN if it has
    one reply.

    Two replies without a word are alike.
    """
    pairs = list(combinations(map(set, texts), 2))
    alike = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs]
    return 1 - float(np.mean(alike)) if alike else np.nan
