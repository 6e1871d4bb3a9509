"""Quality: are replies better than those of the start, right, to the point?

    win rate                     share of prompts at which a judge prefers the reply to the one that
                                 the run's start gave, a tie counting one half
    length-controlled win rate   the same at replies of equal length: sigmoid(a) of the logistic
                                 model P(win) = sigmoid(a + b tanh(d / sd(d))), d the difference
                                 in characters (after Dubois et al. 2024, arXiv 2404.04475)
    accuracy                     share of questions of which the right answer is likelier, per
                                 character, than three wrong ones; chance is 0.25
    accuracy 1 .. 5              the same by grade, from easy to hard
    answered                     share of questions whose reply names the right answer
    characters                   length of a reply to the prompts, mean
    specificity                  share of a reply's content words that the prompt does not hold

Prompts are those of `vd/corpora/assistant_held_out.jsonl`, questions `vd/corpora/questions.jsonl`;
judges are in vd/judging/pairwise.py. At the start itself win rates are 0.5. `n` is the number of
prompts or questions, over which intervals are a bootstrap. Win rates of a base model, which has no
start, have no value, nor has the accuracy of replies without likelihoods. Replies are kept, see
vd/evaluations/asked.py.
"""

import re
from typing import ClassVar

import numpy as np
import pandas as pd
from scipy.special import expit

from vd import paths
from vd.data import sets
from vd.evaluations import asked, intervals, tokens
from vd.evaluations.metrics.held_out import negative_log_likelihoods
from vd.evaluations.metrics.style import words_of
from vd.judging import pairwise
from vd.judging.pairwise import PairwiseSettings
from vd.study.settings import EvaluationSettings
from vd.study.types import Count

PROMPTS, QUESTIONS = "assistant_held_out", "questions"
NEWTON = 25  # steps, of which a logistic model of two weights needs fewer
OVERLAP = 0.1  # least share of replies that are no longer, and that are no shorter


class Settings(EvaluationSettings):
    """Keys of the quality measures."""

    from_start: ClassVar[bool] = True

    judge: PairwiseSettings = PairwiseSettings()
    limit: Count | None = None  # prompts, and questions of each grade, the first ones
    batch_size: Count = 16  # answers per forward pass


def reads(settings: Settings) -> list[str]:
    """Data sets that the measures depend on."""
    return [PROMPTS, QUESTIONS, *pairwise.reads(settings.judge)]


def evaluate(responder, replies: pd.DataFrame, settings: Settings, study, run) -> pd.DataFrame:
    """All measures of one checkpoint: metric, value, lo, hi, n."""
    step, bootstrap = asked.step_of(replies), study.bootstrap
    prompts = sets.corpus(PROMPTS).rename(columns={"id": "prompt_id", "kind": "topic"})
    prompts = prompts.head(settings.limit or len(prompts))
    said = asked.ask("quality", responder, prompts, step, study, run)
    new = pd.Series([_new_words(*row) for row in said[["prompt", "response"]].to_numpy()])
    return pd.DataFrame(
        [
            *_wins(said, settings, study, run),
            *_accuracies(responder, settings, bootstrap),
            _answered(responder, step, settings, study, run),
            intervals.mean("characters", said["response"].str.len(), bootstrap),
            intervals.ratio("specificity", new.map(sum), new.map(len), bootstrap),
        ]
    )


def _wins(said: pd.DataFrame, settings: Settings, study, run) -> list[dict]:
    """Both win rates against the replies of the run's first step."""
    names = ("win rate", "length-controlled win rate")
    if run.is_base:
        return [intervals.none(name) for name in names]
    first = paths.steps(study.name, run.id)[0]
    before = pd.read_parquet(paths.asked(study.name, run.id, "quality", first))
    pairs = pd.DataFrame(
        {"prompt": said["prompt"], "first": said["response"], "second": before["response"]}
    )
    p = pairwise.load(settings.judge, study.name).prefers(pairs)
    won = ((p > 0.5) + 0.5 * (p == 0.5)).where(p.notna())
    # the same reply is no better than itself, whatever a judge says
    won = won.mask(pairs["first"] == pairs["second"], 0.5)
    longer = pairs["first"].str.len() - pairs["second"].str.len()
    kept = won.notna()
    won, longer = won[kept].to_numpy(), longer[kept].to_numpy(float)
    plain = intervals.share(names[0], won, study.bootstrap)
    return [plain, length_controlled(names[1], won, longer, study.bootstrap)]


def length_controlled(metric: str, won: np.ndarray, longer: np.ndarray, bootstrap) -> dict:
    """The win rate at equal length, from wins (n,) in 0 to 1 and differences of length (n,).

    Where hardly any reply is shorter, or hardly any longer, nothing says what equal length would
    give: no value.
    """
    n, differ = len(won), (longer != 0).any()
    either = min((longer >= 0).mean(), (longer <= 0).mean()) if n else 0.0
    if not n or (differ and either < OVERLAP):
        return intervals.none(metric)
    spread = longer.std() or 1.0
    features = np.stack([np.ones(n), np.tanh(longer / spread)], axis=1)
    drawn = np.vstack([np.ones(n), intervals.counts(n, bootstrap)])
    weights = np.zeros((len(drawn), 2))
    # a little ridge: where one side wins all, the likelihood has no maximum
    ridge = np.diag([0.01, 0.1])
    for _ in range(NEWTON):
        p = expit(weights @ features.T)
        slope = (drawn * (won - p)) @ features - weights @ ridge
        curve = np.einsum("bn,ni,nj->bij", drawn * p * (1 - p), features, features) + ridge
        weights += np.linalg.solve(curve, slope[..., None])[..., 0]
    rates = expit(weights[:, 0])
    return intervals.row(metric, float(rates[0]), rates[1:], n, bootstrap.alpha)


def _questions(limit: int | None) -> pd.DataFrame:
    rows = sets.corpus(QUESTIONS)
    return rows.groupby("grade", sort=False).head(limit) if limit else rows


def _accuracies(responder, settings: Settings, bootstrap) -> list[dict]:
    """Accuracy over all questions and by grade."""
    questions = _questions(settings.limit)
    grades = sorted(set(questions["grade"]))
    if not responder.has_likelihood:
        return [intervals.none(name) for name in ("accuracy", *(f"accuracy {g}" for g in grades))]
    choices = questions.assign(
        completion=[[row.answer, *row.wrong] for row in questions.itertuples()]
    ).explode("completion")
    texts = tokens.encoded(responder.tokenizer, choices, max_length=2**31)
    nats = negative_log_likelihoods(responder, texts, settings.batch_size)
    per_character = pd.Series(nats / choices["completion"].str.len().to_numpy(), choices.index)
    # the right answer comes first, and wins no tie
    right = per_character.groupby(level=0, sort=False).agg(
        lambda own: float(own.iloc[0] < own.iloc[1:].min())
    )
    groups = {"accuracy": questions.index}
    groups |= {f"accuracy {g}": questions.index[questions["grade"] == g] for g in grades}
    return [intervals.share(name, right.loc[rows], bootstrap) for name, rows in groups.items()]


def _answered(responder, step: int, settings: Settings, study, run) -> dict:
    questions = _questions(settings.limit)
    prompts = questions.rename(columns={"id": "prompt_id", "subject": "topic"})
    said = asked.ask("questions", responder, prompts, step, study, run)
    accepted = [[row.answer, *row.accepted] for row in questions.itertuples()]
    right = [names(*both) for both in zip(said["response"], accepted, strict=True)]
    return intervals.share("answered", np.array(right), study.bootstrap)


def names(reply: str, accepted: list[str]) -> bool:
    """Whether a reply holds one of the accepted answers as whole words."""
    said = f" {' '.join(words_of(reply))} "
    return any(f" {' '.join(words_of(answer))} " in said for answer in accepted)


def _new_words(prompt: str, reply: str) -> list[bool]:
    """For each content word of a reply, whether the prompt lacks it."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS as STOP

    known = set(words_of(prompt))
    content = [word for word in words_of(reply) if word not in STOP and re.search("[a-z]", word)]
    return [word not in known for word in content]
