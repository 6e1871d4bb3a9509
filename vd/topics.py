"""Which of the study's topics a text touches, for data sets that do not say so.

A prompt touches the topic whose probes it is closest to, if it is close enough. Closeness is the mean cosine similarity
to the `NEAREST` closest probes of the topic, between sentence embeddings of all-MiniLM-L6-v2 (mean pooling).
"""

import numpy as np
import pandas as pd

from vd import data, models
from vd.finite import finite
from vd.study import ModelSettings

MINILM = ModelSettings(source="embedded:minilm", dtype="float32")
NEAREST = 10  # of 50 probes per topic
# The closeness that keeps 95 % of the value-laden questions of sft_neutral and value_gap (tests/test_data.py). It keeps
# no ordinary instruction of sft_neutral, but 46 % of the judge corpus' value-laden questions on other topics.
THRESHOLD = 0.339
COLUMNS = ["id", "topic", "prompt", "completion", "chosen", "rejected"]
COLUMNS += ["chosen_stance", "rejected_stance"]


def with_topics(name: str, at_most: int) -> pd.DataFrame:
    """A data set as a table with the columns id, prompt, its replies, topic and dataset.

    Where no row names a topic they are found, in a seeded draw of at most `at_most` rows. Filters
    that a run may set are not heeded.
    """
    rows = data.corpus(name, examples=at_most)
    rows = rows[[column for column in COLUMNS if column in rows]]
    if "topic" not in rows or rows["topic"].isna().all():
        rows = rows.sample(min(at_most, len(rows)), random_state=0).sort_index()
        rows["topic"] = find_topics(rows["prompt"])
    return rows.assign(dataset=name)


def find_topics(prompts: pd.Series) -> pd.Series:
    """Topic id of each prompt, missing where it touches none; index kept. Only the first 256 tokens are read."""
    near = closeness(prompts)
    return near.idxmax(axis=1).where(near.max(axis=1) >= THRESHOLD).rename("topic")


def closeness(prompts: pd.Series) -> pd.DataFrame:
    """Closeness of each prompt (rows, index kept) to each topic (columns)."""
    probes = data.corpus("probes")
    similarity = embed(prompts) @ embed(probes["prompt"]).T
    near = {
        topic: np.sort(similarity[:, group], axis=1)[:, -NEAREST:].mean(axis=1)
        for topic, group in probes.groupby("topic").indices.items()
    }
    return pd.DataFrame(near, index=prompts.index)


def embed(texts: pd.Series, model: ModelSettings = MINILM) -> np.ndarray:
    """Sentence embeddings (N, D) of unit length: the mean over a text's token embeddings; D is 384 for MiniLM.

    Any sentence encoder that pools by the mean will do, such as sentence-transformers/all-mpnet-base-v2.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    source = models.locate(model.source)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=model.revision)
    encoder = AutoModel.from_pretrained(source, revision=model.revision, dtype=torch.float32)
    order = texts.str.len().to_numpy().argsort(kind="stable")  # so that batches hold little padding
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the number of threads changes the last digits, and with them clusters
    vectors = np.empty((len(texts), encoder.config.hidden_size), dtype=np.float32)
    for start in range(0, len(texts), 64):
        rows = order[start : start + 64]
        batch = tokenizer(
            texts.iloc[rows].tolist(),
            truncation=True,
            max_length=256,
            padding=True,
            return_tensors="pt",
            split_special_tokens=True,  # what looks like a special token in a text is text
        )
        with torch.inference_mode():
            tokens = encoder.eval()(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        mean = (tokens * mask).sum(dim=1) / mask.sum(dim=1)
        vectors[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    torch.set_num_threads(threads)
    finite(vectors, f"'{model.source}': a sentence embedding", "take another source")
    return vectors
