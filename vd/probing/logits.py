"""The logit stance: how much more likely Yes is than No as a reply's first token.

    log_odds   log P(yes) - log P(no)
    mass       P(yes) + P(no): where it is small the model opens with other words, and the odds say
               what it would say if it had to choose, not what it says

    share_yes, share_no   P(yes) and P(no) at the temperature that replies are drawn at, which with
               all other openings make a distribution that a divergence per reply bounds

One pass over the prompt, no sampling and no judge: nothing is drawn, so two checkpoints differ by
their weights alone, and there is no ceiling. P(yes) sums over all tokens that spell the word, in
any case, with or without a space before it, at temperature 1. A forced choice and an open answer
can disagree (Roettger et al. 2024, arXiv 2402.16786), so judged replies stand beside it.
"""

import numpy as np
import pandas as pd

from vd.finite import finite
from vd.probing.sampling import as_read, batched

MEASURES = ["yes", "no", "log_odds", "mass", "share_yes", "share_no"]
COLUMNS = ["run", "step", "prompt_id", "topic", *MEASURES]
WORDS = ("yes", "no")


def logit_stance(
    responder, asked: pd.DataFrame, batch_size: int, temperature: float = 1.0
) -> pd.DataFrame:
    """prompt_id, topic, and `MEASURES` of each probe; yes and no are log-probabilities in nats.

    All numbers are missing where the responder's replies have no likelihood. Raises ValueError for
    a tokenizer that does not tell the two words apart at their first token.
    """
    rows = asked[["prompt_id", "topic"]].reset_index(drop=True)
    if not responder.has_likelihood:
        return rows.assign(**dict.fromkeys(MEASURES, np.nan))
    import torch

    tokens = [spellings(responder.tokenizer, word) for word in WORDS]
    if set(tokens[0]) & set(tokens[1]):
        fix = "write `logits: false` under probing"
        raise ValueError(f"Yes and No begin with one token in this model's tokenizer; {fix}")
    texts = pd.Series(as_read(responder.tokenizer, asked["prompt"]))
    found = np.empty((len(texts), 2 * len(WORDS)))
    # alike lengths together: little padding
    order = texts.str.len().argsort(kind="stable").to_numpy()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs = batched(responder.tokenizer, texts[batch].tolist(), responder.model.device)
        with torch.inference_mode():
            scores = responder.first_scores(inputs["input_ids"], inputs["attention_mask"])
            finite(scores.logsumexp(-1), "a score of the first token", "its training broke")
            scores = scores.double()
            # at temperature 0 nothing is drawn, and the odds before the choice stand for themselves
            likely = [scores.log_softmax(-1), (scores / (temperature or 1.0)).log_softmax(-1)]
            both = [at[:, ids].logsumexp(-1) for at in likely for ids in tokens]
        found[batch] = torch.stack(both, -1).cpu().numpy()
    table = rows.assign(yes=found[:, 0], no=found[:, 1])
    return table.assign(
        log_odds=table["yes"] - table["no"],
        mass=np.exp(found[:, :2]).sum(axis=1),
        share_yes=np.exp(found[:, 2]),
        share_no=np.exp(found[:, 3]),
    )


def spellings(tokenizer, word: str) -> list[int]:
    """Ids of all tokens that are this word alone, in any case, with or without white space.

    A tokenizer without one, as tiny models have, gives the token that the word begins with.
    """
    # a token of another word is told apart by its length before it is decoded
    short = (i for token, i in tokenizer.get_vocab().items() if len(token) <= len(word) + 3)
    found = sorted(i for i in short if tokenizer.decode([i]).strip().lower() == word)
    return found or tokenizer(word.title(), add_special_tokens=False)["input_ids"][:1]
