"""Stance probabilities from the answers of an API judge: by log-probabilities, or by votes.

A judgement is a tuple in the order of `JUDGED`, without its last column.
"""

import math

from vd.servers.answers import begins, label_in
from vd.stances import STANCES, P

# Of the probability. With more on other tokens than on the labels, what is left of the labels is
# mostly chance, so answers vote instead.
MAX_UNASSIGNED = 0.5
NO_LABEL = (math.nan, math.nan, math.nan, None)  # p_support, p_neutral, p_oppose, label
JUDGED = [*P, "label", "status", "path", "left", "answer", "answered"]


def by_tokens(answer: dict) -> tuple | None:
    """A judgement from the log-probabilities of the first token; None if they do not decide.

    p(label) = sum of p(token) over the tokens that begin the label, divided by the same sum over
    all labels (Value Drifts, arXiv 2510.26707). `left` is the probability of all other tokens.
    """
    if "rejected" in answer:
        return (*NO_LABEL, "rejected", "logprobs", math.nan, answer["rejected"])
    if answer["refusal"]:
        return (*NO_LABEL, "refused", "logprobs", math.nan, answer["refusal"])
    mass = dict.fromkeys(STANCES, 0.0)
    for token, logprob in answer["tokens"] or ():
        if label := begins(token):
            mass[label] += math.exp(logprob)
    total = sum(mass.values())
    if 1 - total > MAX_UNASSIGNED:
        return None
    shares, label = [mass[stance] / total for stance in STANCES], max(mass, key=mass.get)
    # servers round, so the sum may exceed 1 by a little
    return (*shares, label, "ok", "logprobs", max(1 - total, 0.0), answer["content"])


def by_votes(answers: list[dict]) -> tuple:
    """A judgement from several answers: the share of each label among those that name one.

    `left` is the share of answers without a label.
    """
    given = [a for a in answers if "rejected" not in a and not a["refusal"]]
    named = [name for a in given if (name := label_in(a["content"]))]
    said = " | ".join(a.get("rejected") or a["refusal"] or a["content"] for a in answers)
    unassigned = 1 - len(named) / len(answers)
    if not named:
        return (*NO_LABEL, _status(answers), "votes", unassigned, said)
    # a tie goes to the first of STANCES; drift reads the shares and no label
    shares, label = [named.count(s) / len(named) for s in STANCES], max(STANCES, key=named.count)
    return (*shares, label, "ok", "votes", unassigned, said)


def _status(answers: list[dict]) -> str:
    """Why not one answer names a label."""
    if all(answer.get("rejected") for answer in answers):
        return "rejected"
    return "refused" if all(answer.get("refusal") for answer in answers) else "unclear"
