"""Which of two replies to a prompt is the better one: judges of pairs.

The offline judge is a scorer s(x, y): a cross-encoder with one output, trained on pairs that people
or we ranked (`TRAINED_ON`, those that are there) by the likelihood of Bradley and Terry (1952), so
that P(a beats b) = sigmoid(s(x, a) - s(x, b)), whichever is named first. A server is asked in both
orders, whose mean counts: servers favour a place (Zheng et al. 2023, arXiv 2306.05685).
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import expit

from vd.data import reading, sets
from vd.judging.api import ApiJudge
from vd.models import cross_encoder
from vd.readers import trained
from vd.store.progress import Progress
from vd.study.catalogue import PUBLIC
from vd.study.types import Count

# none that a policy of ours learns from, or the judge would praise what it was taught
TRAINED_ON = ("assistant_judge", "ultrafeedback")
TURNS = 3  # of a conversation, the last ones: an encoder reads no more
LABELS = ("first", "second", "tie")


class PairwiseApi(trained.OtherApi):
    """A server that judges in place of the offline judge."""

    prompt: str = "pairwise-v1"


class PairwiseSettings(trained.TrainedSettings):
    """Who judges; what is trained unless a server does."""

    epochs: Count = 3
    examples: Count = 600  # pairs of each data set, at most
    # learn from one half of the pairs alone, so that another judge may know the other
    half: Literal["first", "second"] | None = None
    api: PairwiseApi | None = None


class PairwiseJudge(trained.TrainedJudge):
    """The trained judge."""

    kind = "pairwise"

    def prefers(self, pairs: pd.DataFrame) -> pd.Series:
        """The probability that `first` beats `second`, of pairs (prompt, first, second): the mean
        over members.
        """
        first, second = (
            self.encoders.logits(pairs.rename(columns={side: "response"}))[..., 0]
            for side in ("first", "second")
        )
        return pd.Series(expit(first - second).mean(axis=0), pairs.index)


class ApiPairwiseJudge:
    """A server as judge, with the method of `PairwiseJudge`."""

    def __init__(self, settings: PairwiseApi, study: str):
        self.api = ApiJudge(settings, study, labels=LABELS)
        self.name = self.api.name

    def prefers(self, pairs: pd.DataFrame) -> pd.Series:
        """As `PairwiseJudge.prefers`, the mean of both orders, a tie counting one half; NaN where
        either could not be judged.
        """
        straight = self.first_wins(pairs["prompt"], pairs["first"], pairs["second"])
        turned = self.first_wins(pairs["prompt"], pairs["second"], pairs["first"])
        return (straight + 1 - turned) / 2

    def first_wins(self, prompt: pd.Series, one: pd.Series, other: pd.Series) -> pd.Series:
        """The probability that the one shown first is better, a tie counting one half."""
        both = "<first>\n" + one + "\n</first>\n\n<second>\n" + other + "\n</second>"
        judged = self.api.judge(pd.DataFrame({"prompt": prompt, "response": both}))
        return judged["p_first"] + judged["p_tie"] / 2


def load(
    settings: PairwiseSettings | None = None, study: str = "pairwise"
) -> PairwiseJudge | ApiPairwiseJudge:
    """The judge with these settings; an offline one is trained on first use, in minutes."""
    settings = settings or PairwiseSettings()
    if settings.api:
        return ApiPairwiseJudge(settings.api, study)
    return PairwiseJudge(
        trained.kept(PairwiseJudge.kind, settings, there(), _train), settings.max_length
    )


def reads(settings: PairwiseSettings) -> list[str]:
    """Data sets, and files of prompts, that a judge with these settings depends on."""
    return trained.reads(settings, there())


def there() -> list[str]:
    """Those of `TRAINED_ON` that lie on this machine: ours, and what a mirror holds."""
    return [name for name in TRAINED_ON if name not in PUBLIC or reading.mirrored(name)]


def agreement(judge, name: str, examples: int, seed: int = 0) -> np.ndarray:
    """Whether a judge prefers what was chosen, of that many pairs of a data set: 1, 0, or 0.5
    where it has no preference; pairs that it could not judge are left out.
    """
    pairs = _pairs(name, examples, seed).rename(columns={"chosen": "first", "rejected": "second"})
    p = judge.prefers(pairs).dropna().to_numpy()
    return (p > 0.5) + 0.5 * (p == 0.5)


def _pairs(name: str, examples: int, seed: int) -> pd.DataFrame:
    """Pairs of a data set, drawn by seed: prompt (with the turns before it), chosen, rejected."""
    rows = sets.corpus(name, examples=examples, seed=seed)
    drawn = rows.iloc[np.random.default_rng(seed).permutation(len(rows))[:examples]]
    drawn = drawn.assign(prompt=conversations(drawn))
    return drawn[["prompt", "chosen", "rejected"]].reset_index(drop=True)


def conversations(rows: pd.DataFrame) -> pd.Series:
    """Prompts of rows, each after the last turns before it if there is a `history`."""
    if "history" not in rows:
        return rows["prompt"]
    told = [
        "\n\n".join([*(turn["content"] for turn in before), prompt][-TURNS:])
        for before, prompt in zip(rows["history"], rows["prompt"], strict=True)
    ]
    return pd.Series(told, rows.index)


def _learnt(settings: PairwiseSettings, name: str) -> pd.DataFrame:
    """The pairs of a data set that a judge learns from."""
    if settings.half is None:
        return _pairs(name, settings.examples, settings.seed)
    # one order for both halves, whatever their seeds, and each prompt in one of them
    rows = _pairs(name, settings.examples, trained.SEED)
    prompts = rows["prompt"].drop_duplicates()
    first = rows["prompt"].isin(prompts.iloc[: len(prompts) // 2])
    return rows[first if settings.half == "first" else ~first]


def _train(settings: PairwiseSettings, folder: Path) -> None:
    rows = pd.concat([_learnt(settings, name) for name in there()])
    how = trained.how(settings, "judge of pairs", "evaluations.quality.judge", 1)
    steps = cross_encoder.steps_of(how, len(rows))
    progress = Progress("judge", "training the judge of pairs", steps)
    cross_encoder.train_on_pairs(settings.source, rows, how, folder, progress)
