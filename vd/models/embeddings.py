"""Sentence embeddings of texts."""

import numpy as np
import pandas as pd

from vd.finite import finite
from vd.models import locate
from vd.models.threads import one_thread
from vd.study.settings import ModelSettings

MINILM = ModelSettings(source="embedded:minilm", dtype="float32")


def embed(texts: pd.Series, model: ModelSettings = MINILM) -> np.ndarray:
    """Sentence embeddings (N, D) of unit length: the mean over a text's token embeddings; D is 384
    for MiniLM.

    Any sentence encoder that pools by the mean will do, such as sentence-transformers/all-mpnet-
    base-v2.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    source = locate.locate(model.source)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=model.revision)
    encoder = AutoModel.from_pretrained(source, revision=model.revision, dtype=torch.float32)
    order = texts.str.len().to_numpy().argsort(kind="stable")  # so that batches hold little padding
    vectors = np.empty((len(texts), encoder.config.hidden_size), dtype=np.float32)
    # the number of threads changes the last digits, and with them clusters
    with one_thread():
        for start in range(0, len(texts), 64):
            rows = order[start : start + 64]
            # MiniLM was made for 256 tokens: max_seq_length in its sentence_bert_config.json
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
            # (B, T, 1), so that padding counts for nothing in the mean
            mask = batch["attention_mask"][..., None]
            mean = (tokens * mask).sum(dim=1) / mask.sum(dim=1)
            vectors[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    finite(vectors, f"'{model.source}': a sentence embedding", "take another source")
    return vectors
