"""How far a policy has gone from where its run started, in nats: the clock of a comparison.

    kl             E_x E_{y ~ pi(.|x)} sum_i KL(pi(. | x, y_<i) || pi_0(. | x, y_<i)), per reply
    kl per token   the same over the replies' tokens

pi_0 is the run's checkpoint at step 0, its parent's last. x are the probes and y this checkpoint's
own replies to them, both at `probing.temperature`: the sum over the vocabulary at each token has
the mean of log pi(y | x) / pi_0(y | x) and less noise. Equal steps, rates or epochs say little
about how strongly two methods trained; at equal kl their drifts can be compared (Gao et al. 2022,
arXiv 2210.10760). By the data-processing inequality the stances of replies cannot be further apart
than the policies are.

`n` is the number of prompts, over which intervals are a bootstrap; it is 0, with no value, for a
base model, which has no start, and where replies have no likelihood.
"""

from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from vd import paths
from vd.evaluations import intervals, tokens
from vd.finite import finite
from vd.study.settings import EvaluationSettings
from vd.study.types import Count

METRICS = ("kl", "kl per token")


class Settings(EvaluationSettings):
    """Keys of the divergence from the start."""

    from_start: ClassVar[bool] = True

    checkpoints: Literal["ends", "all"] = "all"
    batch_size: Count = 8  # replies per forward pass


def evaluate(responder, replies: pd.DataFrame, settings: Settings, study, run) -> pd.DataFrame:
    """Both measures of one checkpoint: metric, value, lo, hi, n."""
    from vd.probing.responders import load_responder

    if run.is_base or not responder.has_likelihood:
        return pd.DataFrame([intervals.none(metric) for metric in METRICS])
    first = paths.steps(study.name, run.id)[0]
    if (replies["step"] == first).all():
        # from itself nothing is apart, which needs no pass
        zero = {"value": 0.0, "lo": 0.0, "hi": 0.0, "n": replies["prompt_id"].nunique()}
        return pd.DataFrame([{"metric": metric} | zero for metric in METRICS])
    start = load_responder(run.model_settings, paths.checkpoint(study.name, run.id, first))
    texts = _texts(responder.tokenizer, replies)
    # a deterministic policy has no divergence; its probabilities before the choice have
    temperature = study.probing.temperature or 1.0
    nats = divergences(responder, start, texts, temperature, settings.batch_size)
    lengths = np.array([len(reply) for _, reply in texts])
    counted = pd.DataFrame({"nats": nats, "replies": 1, "tokens": lengths})
    counted = counted.groupby(replies["prompt_id"].to_numpy()).sum()
    below = zip(METRICS, ("replies", "tokens"), strict=True)
    rows = [intervals.ratio(m, counted["nats"], counted[by], study.bootstrap) for m, by in below]
    return pd.DataFrame(rows)


def divergences(policy, start, texts: list[tokens.Tokens], temperature: float, batch_size: int):
    """The divergence along each reply, in nats, summed over its tokens: (N,).

    Raises NotFiniteError where one is no number.
    """
    import torch

    found = []
    for ids, there, scored in tokens.batches(policy, texts, batch_size):
        with torch.inference_mode():
            ours, theirs = (
                (one.logits(ids, there)[:, :-1] / temperature).log_softmax(-1)
                for one in (policy, start)
            )
            # 0 log 0 is 0: a token that the policy cannot say costs nothing
            nats = torch.where(ours > -torch.inf, ours.exp() * (ours - theirs), 0.0).sum(-1)
        sums = nats.double().where(scored, 0.0).sum(-1)
        finite(sums, "a divergence from the start", "its training broke: lower its learning_rate")
        found += sums.tolist()
    return np.array(found)


def _texts(tokenizer, replies: pd.DataFrame) -> list[tokens.Tokens]:
    """Tokens of prompts and replies; the end token only where the model wrote it."""
    rows = replies[["prompt", "response"]].rename(columns={"response": "completion"})
    # no limit: what was generated fits
    texts = tokens.encoded(tokenizer, rows, max_length=2**31)
    ended = replies["finish_reason"].eq("stop")
    return [
        (before, reply if end else reply[:-1])
        for (before, reply), end in zip(texts, ended, strict=True)
    ]
