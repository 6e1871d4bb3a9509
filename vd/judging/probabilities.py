"""Probabilities of labels from the answers of an API judge: by log-probabilities, or by votes.

A judgement is a tuple in the order of `columns`, without the last one.
"""

import math

from vd.servers.answers import begins, label_in
from vd.stances import STANCES

# Of the probability. With more on other tokens than on the labels, what is left of the labels is
# mostly chance, so answers vote instead.
MAX_UNASSIGNED = 0.5


def columns(labels: tuple[str, ...]) -> list[str]:
    """What is known of a judgement: p_<label> of each label, and what follows."""
    known = ["label", "status", "path", "left", "answer", "answered"]
    return [*(f"p_{name}" for name in labels), *known]


def by_tokens(answer: dict, labels: tuple[str, ...] = STANCES) -> tuple | None:
    """A judgement from the log-probabilities of the first token; None if they do not decide.

    p(label) = sum of p(token) over the tokens that begin the label, divided by the same sum over
    all labels (Value Drifts, arXiv 2510.26707). `left` is the probability of all other tokens.
    """
    if "rejected" in answer:
        return (*_none(labels), "rejected", "logprobs", math.nan, answer["rejected"])
    if answer["refusal"]:
        return (*_none(labels), "refused", "logprobs", math.nan, answer["refusal"])
    mass = dict.fromkeys(labels, 0.0)
    for token, logprob in answer["tokens"] or ():
        if label := begins(token, labels):
            mass[label] += math.exp(logprob)
    total = sum(mass.values())
    if 1 - total > MAX_UNASSIGNED:
        return None
    shares, label = [mass[name] / total for name in labels], max(mass, key=mass.get)
    # servers round, so the sum may exceed 1 by a little
    return (*shares, label, "ok", "logprobs", max(1 - total, 0.0), answer["content"])


def by_votes(answers: list[dict], labels: tuple[str, ...] = STANCES) -> tuple:
    """A judgement from several answers: the share of each label among those that name one.

    `left` is the share of answers without a label.
    """
    given = [a for a in answers if "rejected" not in a and not a["refusal"]]
    named = [name for a in given if (name := label_in(a["content"], labels))]
    said = " | ".join(a.get("rejected") or a["refusal"] or a["content"] for a in answers)
    unassigned = 1 - len(named) / len(answers)
    if not named:
        return (*_none(labels), _status(answers), "votes", unassigned, said)
    # a tie goes to the first of the labels; drift reads the shares and no label
    shares, label = [named.count(s) / len(named) for s in labels], max(labels, key=named.count)
    return (*shares, label, "ok", "votes", unassigned, said)


def _none(labels: tuple[str, ...]) -> tuple:
    """Probabilities and label of a reply that could not be judged."""
    return (*[math.nan] * len(labels), None)


def _status(answers: list[dict]) -> str:
    """Why not one answer names a label."""
    if all(answer.get("rejected") for answer in answers):
        return "rejected"
    return "refused" if all(answer.get("refusal") for answer in answers) else "unclear"
