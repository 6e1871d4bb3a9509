"""Diversity: how unlike replies to one prompt are, and how alike replies to all prompts begin.

    distinct-1, -2, -3    different n-grams over all n-grams of a prompt's replies, mean over
                          prompts (Li et al. 2016, arXiv 1510.03055)
    self-BLEU             BLEU of each reply against the others to its prompt, from 0 to 1, mean
                          over replies, then prompts (Zhu et al. 2018, arXiv 1802.01886)
    distance              one minus the cosine of two replies' embeddings, mean over pairs, then
                          prompts (Tevet and Berant 2021, arXiv 2004.02990)
    first-word entropy    of the distribution of replies' first words over all prompts, in nats
    opening entropy       the same of their first three words: do all replies begin alike?

`samples` replies are drawn to each of `prompts` probes at the study's temperature and kept, see
vd/evaluations/asked.py. Only a prompt's replies that have words are compared. distinct-n falls as
texts get longer and entropies grow with the number of replies, so checkpoints are compared that
wrote about as much. `n` is the number of prompts, over which intervals are a bootstrap.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from pydantic import Field

from vd.data.probes import draw_probes, load_probes
from vd.evaluations import asked, intervals
from vd.evaluations.metrics.style import grams_of, words_of
from vd.models import embeddings
from vd.study.settings import EvaluationSettings, ModelSettings
from vd.study.types import Count

ORDERS = (1, 2, 3)
OPENING = 3  # words


class Settings(EvaluationSettings):
    """Keys of the diversity measures."""

    per_topic: Count = 2  # probes of each topic
    samples: int = Field(8, ge=2, le=1000)  # replies to each
    encoder: str = "embedded:minilm"  # of the distance


def evaluate(responder, replies: pd.DataFrame, settings: Settings, study, run) -> pd.DataFrame:
    """All measures of one checkpoint: metric, value, lo, hi, n."""
    prompts = draw_probes(load_probes(study.probing), settings.per_topic, seed=0)
    step = asked.step_of(replies)
    said = asked.ask("diversity", responder, prompts, step, study, run, settings.samples)
    return measures(said, settings.encoder, study.bootstrap)


def measures(said: pd.DataFrame, encoder: str, bootstrap) -> pd.DataFrame:
    """All measures of replies (prompt_id, response)."""
    words = said["response"].map(words_of)
    there = words.map(bool)
    said, words = said[there].reset_index(drop=True), words[there].reset_index(drop=True)
    found = []
    by_prompt = said["prompt_id"]
    several = by_prompt.map(by_prompt.value_counts()) > 1
    for n in ORDERS:
        shares = words.groupby(by_prompt).agg(_distinct, n).dropna()
        found.append(intervals.mean(f"distinct-{n}", shares, bootstrap))
    groups = said[several].groupby("prompt_id")
    found.append(intervals.mean("self-BLEU", groups["response"].agg(self_bleu), bootstrap))
    vectors = embeddings.embed(said["response"], ModelSettings(source=encoder))
    distances = [_distance(vectors[rows.index]) for _, rows in groups]
    found.append(intervals.mean("distance", distances, bootstrap))
    for name, n in (("first-word", 1), ("opening", OPENING)):
        openings = words.map(lambda text, n=n: " ".join(text[:n]))
        found.append(_entropy(f"{name} entropy", openings, by_prompt, bootstrap))
    return pd.DataFrame(found)


def self_bleu(replies: pd.Series) -> float:
    """Mean BLEU of each of several replies against the others, from 0 to 1."""
    from sacrebleu.metrics import BLEU

    # of short texts orders without a match would make all of it zero
    bleu, texts = BLEU(effective_order=True), replies.tolist()
    scores = [
        bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score for i, text in enumerate(texts)
    ]
    return float(np.mean(scores)) / 100


def _distinct(texts: pd.Series, n: int) -> float:
    grams = [gram for text in texts for gram in grams_of(text, n)]
    return len(set(grams)) / len(grams) if grams else np.nan


def _distance(vectors: np.ndarray) -> float:
    """Of unit vectors (k, d)."""
    return 1 - float(np.mean([a @ b for a, b in combinations(vectors, 2)]))


def _entropy(metric: str, openings: pd.Series, by_prompt: pd.Series, bootstrap) -> dict:
    """In nats, of the shares of openings among all replies."""
    counts = pd.crosstab(by_prompt, openings).to_numpy(float)
    if not counts.size:
        return intervals.none(metric)

    def entropy(totals):
        shares = totals / totals.sum(-1, keepdims=True)
        return -(shares * np.log(shares, out=np.zeros_like(shares), where=shares > 0)).sum(-1)

    value = float(entropy(counts.sum(0)))
    without = entropy(counts.sum(0) - counts) if len(counts) > 1 else np.array([value])
    return intervals.jackknife(metric, value, without, bootstrap)
