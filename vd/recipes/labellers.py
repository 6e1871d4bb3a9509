"""Who says which of two replies is the better one: labellers of AI feedback, behind one interface.

    label(pairs) -> straight, turned, mass

of pairs (id, prompt, first, second, principle): the probability that `first` is the better one when
it is shown first, and when it is shown second; both orders, because labellers favour a place (Lee
et al. 2023, arXiv 2309.00267). `mass` is the probability that was left to the two answers, the
lower one of both orders. NaN where there was no answer.

    trained    a scorer of vd/judging/pairwise.py, which reads no principle and no order
    a run      a model of the study, or one by its source: the probabilities of A and B, after a
               drawn principle
    a server   any that speaks chat completions, with the prompt feedback-v1
"""

from typing import Protocol

import numpy as np
import pandas as pd

from vd import paths
from vd.finite import finite
from vd.judging import pairwise
from vd.probing import logits
from vd.probing.responders import load_responder
from vd.probing.sampling import as_read, batched
from vd.recipes.writers import RunWriter, kept_answers
from vd.store import fingerprint
from vd.study import constitution
from vd.study.recipes import find_run
from vd.study.settings import RecipeSettings

# what a run said, and why, in the recipe's folder
LABELS, REASONS = "labels.parquet", "reasons.parquet"
COLUMNS = ["key", "p", "mass"]
QUESTION = "{principle}\n\nRequest: {request}\n(A) {a}\n(B) {b}\n\nWhich reply is better, A or B?"
THINK, SO = " Think step by step, in two sentences.", "\n\nSo the better reply is"
LEAST = 0.05  # of probability on A and B together; below, a model has answered something else


class Labeller(Protocol):
    """Anything that labels pairs."""

    name: str

    def label(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """straight, turned and mass of pairs, index kept, as the module says."""


def find_labeller(study, name: str, settings: RecipeSettings) -> Labeller:
    """The labeller that a recipe names; FileNotFoundError if it is a run that is not trained."""
    if settings.labeller == "trained":
        return Trained()
    if isinstance(settings.labeller, str):
        return ByRun(study, name, settings)
    return ByServer(settings, study.name)


class Trained:
    """The trained scorer of the first half of the pairs that judges learn from: one of the second
    half may say what became of its labels.
    """

    def __init__(self):
        self.judge = pairwise.load(pairwise.PairwiseSettings(half="first"))
        self.name = self.judge.name

    def label(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """See `Labeller`; the order changes nothing."""
        p = self.judge.prefers(pairs)
        return pd.DataFrame({"straight": p, "turned": p, "mass": 1.0}, pairs.index)


class ByServer:
    """A server, asked as a judge of pairs with a principle before each."""

    def __init__(self, settings: RecipeSettings, study: str):
        self.judge = pairwise.ApiPairwiseJudge(settings.labeller, study)
        self.name = self.judge.name

    def label(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """See `Labeller`."""
        asked = pairs["principle"] + "\n\n" + pairs["prompt"]
        straight = self.judge.first_wins(asked, pairs["first"], pairs["second"])
        turned = 1 - self.judge.first_wins(asked, pairs["second"], pairs["first"])
        return pd.DataFrame({"straight": straight, "turned": turned, "mass": 1.0}, pairs.index)


class ByRun:
    """The last checkpoint of a run, by the probabilities of its next token.

    What it said is kept, batch by batch: nothing is asked twice.
    """

    def __init__(self, study, name: str, settings: RecipeSettings):
        folder = paths.recipe(study.name, name)
        self.of = RunWriter(find_run(study, settings.labeller), settings, folder / REASONS)
        self.settings, self.file = settings, folder / LABELS
        self.name = f"{self.of.run.id}, step {self.of.step}"

    def label(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """See `Labeller`."""
        straight = self._first(pairs, "first", "second")
        turned = self._first(pairs, "second", "first")
        return pd.DataFrame(
            {
                "straight": straight["p"],
                "turned": 1 - turned["p"],
                "mass": np.minimum(straight["mass"], turned["mass"]),
            },
            pairs.index,
        )

    def _first(self, pairs: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
        """The probability of A among A and B, and that of both, of pairs in one order."""
        shown = constitution.examples("comparison", self.settings.examples)
        given = zip(pairs["principle"], pairs["prompt"], pairs[a], pairs[b], strict=True)
        texts = pd.Series([message(shown, *case) for case in given], pairs.index)
        if self.settings.reasoning:
            asked = {"prompt_id": pairs["id"] + f"/{a}", "prompt": texts + THINK}
            texts = texts + "\n" + self.of.ask(pd.DataFrame(asked))["response"] + SO
        made_from = self.of.fingerprint().key
        keys = texts.map(lambda text: fingerprint.digest(made_from, text))
        asked = pd.DataFrame({"key": keys, "prompt_id": pairs["id"] + f"/{a}", "prompt": texts})
        said, size = ("label", self.name), self.settings.batch_size
        found = kept_answers(asked, self.file, COLUMNS, self._reader, size, said)
        found = found.astype(float).set_index(pairs.index)
        return found.assign(p=found["p"].where(found["mass"] >= LEAST))

    def _reader(self):
        """A function from texts to p and mass."""
        responder = load_responder(self.of.run.model_settings, self.of.checkpoint)

        def read(batch: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame(_read(responder, batch["prompt"].tolist()), columns=["p", "mass"])

        return read


def message(shown: list[dict], principle: str, request: str, a: str, b: str) -> str:
    """What a labeller is asked: worked examples, then this pair."""
    before = [
        QUESTION.format(principle=e["principle"], request=e["request"], a=e["a"], b=e["b"])
        + f" {e['choice']}"
        for e in shown
    ]
    case = QUESTION.format(principle=principle, request=request, a=a, b=b)
    return "\n\n".join([*before, case])


def _read(responder, texts: list[str]) -> np.ndarray:
    """P(A) / (P(A) + P(B)) and P(A) + P(B) of the token after each text, (N, 2)."""
    import torch

    a, b = (logits.spellings(responder.tokenizer, word) for word in ("A", "B"))
    if set(a) & set(b):
        raise ValueError("A and B begin with one token in this model's tokenizer; name another run")
    read = as_read(responder.tokenizer, texts)
    inputs = batched(responder.tokenizer, read, responder.model.device)
    with torch.inference_mode():
        scores = responder.first_scores(inputs["input_ids"], inputs["attention_mask"])
    finite(scores.logsumexp(-1), "a score of the labeller", "its training broke")
    likely = scores.double().softmax(-1)
    found = torch.stack([likely[:, ids].sum(-1) for ids in (a, b)], -1).cpu().numpy()
    mass = found.sum(axis=1)
    return np.stack([found[:, 0] / np.maximum(mass, 1e-12), mass], axis=1)
