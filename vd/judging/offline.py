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
from vd.finite import finite
from vd.models import locate
from vd.models.threads import one_thread
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
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.settings, self.folders = settings, folders
        # without the folders, lest a path of this machine stand in every table
        source = settings.source.partition(":")[2] or Path(settings.source).name
        self.name = f"offline-{source}-{'+'.join(folder.name for folder in folders)}"
        self.tokenizer = AutoTokenizer.from_pretrained(folders[0])
        self.models = [
            AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
            for folder in folders
        ]

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
        """Class probabilities (members, N, 6) of replies.

        Identical pairs are scored once, in order of length, so batches hold little padding.
        """
        import torch

        asked = ["prompt", "response"]
        pairs = responses[asked].drop_duplicates()
        pairs = pairs.assign(length=pairs["prompt"].str.len() + pairs["response"].str.len())
        pairs = pairs.sort_values(["length", *asked])
        found = np.empty((len(self.models), len(pairs), len(CLASSES)))
        for start in range(0, len(pairs), 64):
            rows = pairs.iloc[start : start + 64]
            texts = _encode(self.tokenizer, rows, self.settings.max_length)
            for member, model in enumerate(self.models):
                with torch.inference_mode():
                    logits = model(**texts).logits
                # NaN would pass for a stance further on: argmax of NaN is the first label
                fix = f"remove {self.folders[member]} to train it again"
                finite(logits, f"{self.name}: a score", fix)
                found[member, start : start + 64] = logits.double().softmax(-1).numpy()
            if progress:
                progress(start + len(rows))
        # back to all rows, in their order
        place = pd.Series(np.arange(len(pairs)), pd.MultiIndex.from_frame(pairs[asked]))
        return found[:, place.loc[pd.MultiIndex.from_frame(responses[asked])].to_numpy()]


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


def _encode(tokenizer, rows: pd.DataFrame, max_length: int):
    return tokenizer(
        rows["prompt"].tolist(),
        rows["response"].tolist(),
        truncation=True,
        max_length=max_length,
        padding=True,
        return_tensors="pt",
        split_special_tokens=True,  # what looks like a special token in a text is text
    )


def _train(settings: JudgeSettings, member: int, folder: Path) -> None:
    """Fine-tune the encoder on the training rows, which all members share.

    AdamW, linear decay after 10 % warm-up, cross-entropy.
    """
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        get_linear_schedule_with_warmup,
    )

    rows, _ = split(settings)
    target = torch.tensor([CLASSES.index(_class(row)) for row in rows.itertuples()])
    source = locate.locate(settings.source)
    # for the classifier, which starts fresh, and for the order of rows
    torch.manual_seed(settings.seed + member)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(CLASSES), dtype=torch.float32
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    steps = settings.epochs * -(-len(rows) // settings.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    progress, done = Progress("judge", "training the offline judge", steps), 0
    model.train()
    # the number of threads changes the last digits, and the judge should not
    with one_thread():
        for _ in range(settings.epochs):
            for batch in torch.randperm(len(rows)).split(settings.batch_size):
                texts = _encode(tokenizer, rows.iloc[batch.numpy()], settings.max_length)
                # half the time of float32; scoring is in float32
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits = model(**texts).logits
                loss = torch.nn.functional.cross_entropy(logits.float(), target[batch])
                what = f"offline judge: the loss of step {done + 1}"
                finite(loss.item(), what, "lower judge.learning_rate")
                loss.backward()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                done += 1
                progress(done)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "settings.json").write_text(json.dumps(settings.model_dump()), encoding="utf-8")
