"""The offline judge, which tells support from neutral from oppose without a server.

It is a small cross-encoder that this repository fine-tunes on its own judge corpus, on first use,
and keeps in the cache. A stance is meant at question level: support is what affirming the question
would mean. Neutral is four classes to it, for a model that falls apart is neutral in another way
than one that weighs both sides: hedge (both sides, or no position), refusal, off_topic and
degenerate. How far the judge can be trusted is measured in 04_trust; it knows neither methods nor
checkpoints. The judge behind an API is in vd/judging/api.py.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from vd import paths
from vd.data import sets
from vd.models import cross_encoder, locate
from vd.models.cross_encoder import CrossEncoders
from vd.stances import NEUTRAL, STANCES, P
from vd.store import fingerprint
from vd.store.cache import kept_for
from vd.store.fingerprint import Fingerprint
from vd.store.progress import Progress
from vd.study.settings import JudgeSettings, ModelSettings

CLASSES = ("support", "oppose", *NEUTRAL)
HELD_OUT = 0.2  # share of the judge corpus' questions kept for evaluation


def stances(probabilities: np.ndarray, index: pd.Index, name: str) -> pd.DataFrame:
    """Stance columns from class probabilities (N, 6) in the order of `CLASSES`.

    `neutral_kind` is the likeliest of `NEUTRAL`, and missing where the label is not neutral.
    """
    classes = pd.DataFrame(probabilities, index, CLASSES)
    kinds = classes[[*NEUTRAL]]
    summed = classes[["support", "oppose"]].assign(neutral=kinds.sum(axis=1))[[*STANCES]]
    label = _likeliest(summed)
    return summed.rename(columns=dict(zip(STANCES, P, strict=True))).assign(
        label=label,
        refusal=classes["refusal"] > 0.5,
        neutral_kind=_likeliest(kinds).where(label == "neutral"),
        judge=name,
    )


def _likeliest(table: pd.DataFrame) -> pd.Series:
    return pd.Series(np.array(table.columns)[table.to_numpy().argmax(axis=1)], table.index)


def _class(row) -> str:
    """The class of a row of the judge corpus."""
    if row.refusal:
        return "refusal"
    if row.label != "neutral":
        return row.label
    return row.kind if row.kind in NEUTRAL else "hedge"


def split(settings: JudgeSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The judge corpus as (training rows, held-out rows); no question is in both."""
    rows = sets.corpus("judge")
    # by question: a reply to a known question would be no test
    questions = pd.Series(rows["prompt"].unique())
    # of the first member's seed for all, or one would have learnt what tests another
    held_out = set(questions.sample(frac=HELD_OUT, random_state=settings.seed))
    train = rows[~rows["prompt"].isin(held_out)]
    if settings.examples:
        train = train.sample(settings.examples, random_state=settings.seed)
    return train, rows[rows["prompt"].isin(held_out)]


class OfflineJudge:
    """Cross-encoders over (question, reply) with a softmax over `CLASSES`; of several, which differ
    in the seed of their training, the mean counts.
    """

    def __init__(self, settings: JudgeSettings, folders: list[Path]):
        self.settings = settings
        # without the folders, lest a path of this machine stand in every table
        source = settings.source.partition(":")[2] or Path(settings.source).name
        self.name = f"offline-{source}-{'+'.join(folder.name for folder in folders)}"
        self.encoders = CrossEncoders(folders, settings.max_length, self.name)

    def score(self, responses: pd.DataFrame, progress: Progress | None = None) -> pd.DataFrame:
        """Stances of replies (columns prompt, response), index kept: p_support, p_neutral,
        p_oppose, which sum to 1, label, refusal, neutral_kind, judge.

        Raises NotFiniteError for a judge whose weights are damaged.
        """
        return self.stances(self.classes(responses, progress).mean(axis=0), responses.index)

    def stances(self, probabilities: np.ndarray, index: pd.Index) -> pd.DataFrame:
        """Stance columns from class probabilities (N, 6)."""
        return stances(probabilities, index, self.name)

    def classes(self, responses: pd.DataFrame, progress: Progress | None = None) -> np.ndarray:
        """Class probabilities (members, N, 6) of replies."""
        return self.encoders.probabilities(responses, progress)


def load_judge(settings: JudgeSettings) -> OfflineJudge:
    """The offline judge with these settings, trained on first use (minutes on a laptop) and cached.

    Another corpus, encoder or training is another judge, with another name.
    """
    return OfflineJudge(settings, [_kept(settings, member) for member in range(settings.members)])


def _kept(settings: JudgeSettings, member: int) -> Path:
    """The folder of a member, trained unless the cache holds it."""
    # what API is asked beside it, and where its encoder lies, make no other judge
    learnt = settings.model_copy(update={"api": None, "source": "", "members": 1})
    asked = Fingerprint(
        # the encoder counts as data
        **fingerprint.values(judge=learnt, member=member),
        data={
            "judge": fingerprint.file_digest(paths.CORPORA / "judge.jsonl"),
            "encoder": locate.identity(ModelSettings(source=settings.source)),
        },
        code=fingerprint.code("vd.judging.offline._train"),
    )
    return kept_for(paths.cache() / "judges", asked, lambda part: _train(settings, member, part))


def _train(settings: JudgeSettings, member: int, folder: Path) -> None:
    """Fine-tune the encoder on the training rows, which all members share."""
    rows, _ = split(settings)
    target = [CLASSES.index(_class(row)) for row in rows.itertuples()]
    how = cross_encoder.Training(
        name="offline judge",
        key="judge.learning_rate",
        classes=len(CLASSES),
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        max_length=settings.max_length,
        seed=settings.seed + member,
    )
    steps = cross_encoder.steps_of(how, len(rows))
    progress = Progress("judge", "training the offline judge", steps)
    cross_encoder.train(settings.source, rows, target, how, folder, progress)
    (folder / "settings.json").write_text(json.dumps(settings.model_dump()), encoding="utf-8")
