"""Preferences: which of two given replies a checkpoint favours, on pairs that no run trains on.

    accuracy G            share of G's pairs whose chosen reply gained more than the rejected one
                          since the start: h > 0 (Rafailov et al. 2023: accuracy of the implicit
                          reward)
    margin G              mean of h, in nats
    likelihood G          share of G's pairs whose chosen reply is the likelier one, per token
    worst accuracy        the least of the accuracies, which of several alike ones is biased down

    h = log pi(y_w|x) / pi_0(y_w|x) - log pi(y_l|x) / pi_0(y_l|x)

pi_0 is the run's checkpoint at step 0, where nothing has gained: pairs count one half there. G are
the study's `groups`, kinds of people who choose differently: sets of pairs, or the same pairs with
their sides exchanged, or chosen by a bias. A population in which G has the share s_G has the
accuracy sum_G s_G accuracy G. `n` is the number of pairs, over which intervals are a bootstrap; it
is 0, with no value, for a base model, which has no start, and where replies have no likelihood.
"""

import json
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from vd import paths
from vd.data import held_out, planted
from vd.evaluations import asked, intervals, tokens
from vd.evaluations.metrics.held_out import negative_log_likelihoods
from vd.store import files
from vd.study import inputs, types
from vd.study.settings import Bias, EvaluationSettings
from vd.study.types import Count

SIDES = ("chosen", "rejected")
MEASURES, WORST = ("accuracy", "margin", "likelihood"), "worst accuracy"


class Group(types.Settings):
    """A kind of people: what they choose."""

    data: str  # a data set of pairs
    swap_labels: bool = False  # they choose what is rejected there
    prefers: Bias | None = None  # they choose by a bias (vd/data/planted.py); pairs without are out

    @field_validator("data")
    @classmethod
    def _holds_pairs(cls, data: str) -> str:
        for _, wrong in inputs.data("data", data, "pairs"):
            raise ValueError(wrong)
        return data


class Settings(EvaluationSettings):
    """Keys of the preference measures."""

    from_start: ClassVar[bool] = True

    checkpoints: Literal["ends", "all"] = "all"
    groups: dict[str, Group] = Field({"people": Group(data="positions")}, min_length=1)
    rows: Count = 200  # pairs of each group, at most
    max_length: Count = 256  # tokens of prompt and reply together
    batch_size: Count = 8  # replies per forward pass


def reads(settings: Settings) -> list[str]:
    """Data sets that the measures depend on."""
    return sorted({group.data for group in settings.groups.values()})


def evaluate(responder, replies: pd.DataFrame, settings: Settings, study, run) -> pd.DataFrame:
    """All measures of one checkpoint: metric, value, lo, hi, n."""
    if run.is_base or not responder.has_likelihood:
        names = [f"{measure} {group}" for group in settings.groups for measure in MEASURES]
        return pd.DataFrame([intervals.none(name) for name in [*names, WORST]])
    pairs = pairs_of(settings, study)
    now, lengths = log_likelihoods(responder, pairs, settings)
    first = paths.steps(study.name, run.id)[0]
    kept = paths.asked(study.name, run.id, "preference", first)
    if asked.step_of(replies) == first:
        files.write_table(pd.DataFrame(now, columns=SIDES), kept)
    gained = now - pd.read_parquet(kept).to_numpy()
    h = gained[:, 0] - gained[:, 1]
    # where nothing has gained, neither reply is favoured
    favoured, ahead = (_half_at_ties(gap) for gap in (h, (now / lengths) @ [1, -1]))
    values = pd.DataFrame(dict(zip(MEASURES, (favoured, h, ahead), strict=True)), dtype=float)
    found = []
    for group in settings.groups:
        own = values[(pairs["group"] == group).to_numpy()]
        accuracy, margin, likelihood = (f"{measure} {group}" for measure in MEASURES)
        found += [
            intervals.share(accuracy, own["accuracy"], study.bootstrap),
            intervals.mean(margin, own["margin"], study.bootstrap),
            intervals.share(likelihood, own["likelihood"], study.bootstrap),
        ]
    accuracies = values["accuracy"].groupby(pairs["group"], sort=False)
    return pd.DataFrame([*found, _worst([own for _, own in accuracies], study.bootstrap)])


def _half_at_ties(gap: np.ndarray) -> np.ndarray:
    return (gap > 0) + 0.5 * (gap == 0)


def _worst(accuracies: list[pd.Series], bootstrap) -> dict:
    """The least accuracy; in each resample that of another group may be."""
    means = [intervals.counts(len(own), bootstrap) @ own / len(own) for own in accuracies]
    value, n = min(own.mean() for own in accuracies), min(map(len, accuracies))
    return intervals.row(WORST, value, np.min(means, axis=0), n, bootstrap.alpha)


def pairs_of(settings: Settings, study) -> pd.DataFrame:
    """Pairs of each group: group, prompt, history, chosen, rejected."""
    parts = []
    for group, own in settings.groups.items():
        rows = held_out.pairs(study, own.data, settings.rows)
        if "history" not in rows:
            rows = rows.assign(history=[[]] * len(rows))
        rows = _turned(rows) if own.swap_labels else rows
        if own.prefers:
            side = planted.preferred(own.prefers, rows)
            rows = pd.concat([rows[side > 0], _turned(rows)[side < 0]]).sort_index()
        parts.append(rows.assign(group=group))
    return pd.concat(parts, ignore_index=True)


def _turned(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs with their sides exchanged."""
    return pairs.rename(columns=dict(zip(SIDES, reversed(SIDES), strict=True)))


def log_likelihoods(
    responder, pairs: pd.DataFrame, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods of both replies, and their numbers of tokens: two of (N, 2)."""
    table = pd.concat([pairs.assign(completion=pairs[side]) for side in SIDES], ignore_index=True)
    # groups may share replies, each of which is read once
    texts = table[["history", "prompt", "completion"]].to_dict("records")
    key = pd.Series(map(json.dumps, texts))
    once = table[~key.duplicated()]
    texts = tokens.encoded(responder.tokenizer, once, settings.max_length)
    if len(texts) < len(once):
        why = f"max_length {settings.max_length} leaves no room for a reply to some prompts"
        raise ValueError(f"evaluations.preference: {why}; raise it")
    nats = -negative_log_likelihoods(responder, texts, settings.batch_size)
    sizes = [len(reply) for _, reply in texts]
    found = pd.DataFrame({"nats": nats, "tokens": sizes}, index=key[once.index]).loc[key]
    return tuple(found[column].to_numpy().reshape(2, -1).T for column in ("nats", "tokens"))
