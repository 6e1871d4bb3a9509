"""Held-out loss: how well a checkpoint predicts replies of the SFT sets that no run trains on.

    loss on SET          - sum_i log pi(y_i | x_i) / sum_i |y_i|, nats per token of the reply
    perplexity on SET    exp(loss)

y_i holds the tokens that SFT trains on: the reply in the chat template up to its end token, cut at
the set's max_length. Rows are what `vd.data.held_out` draws, `n` is their number, and intervals are
a bootstrap over them. n is 0, with no value, where runs take all rows of a set (write `examples` to
leave some), or where a checkpoint's replies have no likelihood. Losses compare checkpoints with the
same tokenizer.
"""

import numpy as np
import pandas as pd

from vd.data import held_out
from vd.evaluations import intervals, tokens
from vd.finite import finite
from vd.study.settings import EvaluationSettings
from vd.study.types import Count


class Settings(EvaluationSettings):
    """Keys of the held-out loss."""

    rows: Count = 32  # of each set, at most
    batch_size: Count = 8  # rows per forward pass


def evaluate(responder, replies, settings: Settings, study, run) -> pd.DataFrame:
    """Loss and perplexity on each SFT set: metric, value, lo, hi, n."""
    found = []
    for name, trained in held_out.sft_sets(study).items():
        rows = held_out.held_out(study, name, settings.rows) if responder.has_likelihood else []
        texts = tokens.encoded(responder.tokenizer, rows, trained.max_length) if len(rows) else []
        loss = negative_log_likelihoods(responder, texts, settings.batch_size)
        lengths = np.array([len(reply) for _, reply in texts])
        mean = intervals.ratio(f"loss on {name}", loss, lengths, study.bootstrap)
        # exp is monotone, so the ends of the interval map as the value does
        powers = {key: np.exp(mean[key]) for key in ("value", "lo", "hi")}
        found += [mean, mean | powers | {"metric": f"perplexity on {name}"}]
    # named, since a study may train on no SFT set
    return pd.DataFrame(found, columns=intervals.MEASURED)


def negative_log_likelihoods(responder, texts: list[tokens.Tokens], batch_size: int) -> np.ndarray:
    """-log pi(y | x) of each reply given its prompt, in nats, summed over its tokens: (N,).

    Raises NotFiniteError where one is no number.
    """
    import torch

    found = []
    for ids, there, scored in tokens.batches(responder, texts, batch_size):
        with torch.inference_mode():
            scores = responder.logits(ids, there)[:, :-1].log_softmax(-1)
            # the score at a position is that of the token after it
            likelihood = scores.gather(-1, ids[:, 1:, None])[..., 0]
        # masked, not multiplied: a score of padding may be -inf
        sums = -likelihood.double().where(scored, 0.0).sum(-1)
        finite(sums, "a held-out loss", "its training broke: lower its learning_rate")
        found += sums.tolist()
    return np.array(found)
