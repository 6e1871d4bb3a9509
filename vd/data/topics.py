"""Which of the study's topics a text touches, for data sets that do not say so.

A prompt touches the topic whose probes it is closest to, if it is close enough. Closeness is the
mean cosine similarity to the `NEAREST` closest probes of the topic, between sentence embeddings of
all-MiniLM-L6-v2 (mean pooling).
"""

import numpy as np
import pandas as pd

from vd.data import sets
from vd.models.embeddings import embed

NEAREST = 10  # of 50 probes per topic
# The closeness that keeps 95 % of the value-laden questions of sft_neutral and value_gap
# (tests/test_data.py). It keeps no ordinary instruction of sft_neutral, but 46 % of the judge
# corpus' value-laden questions on other topics.
THRESHOLD = 0.339
COLUMNS = ["id", "topic", "prompt", "completion", "chosen", "rejected"]
COLUMNS += ["chosen_stance", "rejected_stance"]


def with_topics(name: str, at_most: int) -> pd.DataFrame:
    """A data set as a table with the columns id, prompt, its replies, topic and dataset.

    Where no row names a topic they are found, in a seeded draw of at most `at_most` rows. Filters
    that a run may set are not heeded.
    """
    rows = sets.corpus(name, examples=at_most)
    rows = rows[[column for column in COLUMNS if column in rows]]
    if "topic" not in rows or rows["topic"].isna().all():
        # only streamed sets heed at_most above; all others came whole
        rows = rows.sample(min(at_most, len(rows)), random_state=0).sort_index()
        rows["topic"] = find_topics(rows["prompt"])
    return rows.assign(dataset=name)


def find_topics(prompts: pd.Series) -> pd.Series:
    """Topic id of each prompt, missing where it touches none; index kept.

    Only the first 256 tokens are read.
    """
    near = closeness(prompts)
    return near.idxmax(axis=1).where(near.max(axis=1) >= THRESHOLD).rename("topic")


def closeness(prompts: pd.Series) -> pd.DataFrame:
    """Closeness of each prompt (rows, index kept) to each topic (columns)."""
    probes = sets.corpus("probes")
    similarity = embed(prompts) @ embed(probes["prompt"]).T
    # unit vectors: products are cosines; each topic takes the closest of its own probes
    near = {
        topic: np.sort(similarity[:, group], axis=1)[:, -NEAREST:].mean(axis=1)
        for topic, group in probes.groupby("topic").indices.items()
    }
    return pd.DataFrame(near, index=prompts.index)
