"""What a text values, and what an instruction asks to value more or less: readers of Schwartz's ten
values (vd/values.py).

    detector      text -> v in [-1, 1]^10
    translator    instruction ("be more caring, mind tradition less") -> shift dv in [-1, 1]^10

Both are encoders with ten outputs through tanh, trained by mean squared error as Value FULCRA's
(Yao et al. 2023, arXiv 2311.10766), on corpora of ours on first use, and kept in the cache. A fifth
of the groups of texts that belong together (contrast pairs, paraphrases) is held out. The detector
learns from half of the others; a judge that shares neither texts nor encoder with it learns from
the other half (vd/readers/values_judge.py). A detector may learn from people's labels as well,
`also`, where a mirror holds them.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from vd.data import sets
from vd.models import cross_encoder
from vd.readers import trained
from vd.store.progress import Progress
from vd.study.types import Count
from vd.values import NAMES

CORPORA = {"detector": "values", "translator": "value_instructions"}
TEXT = {"detector": "text", "translator": "instruction"}
PUBLIC = ("valueeval", "fulcra")  # texts with people's labels


class ValueReaderSettings(trained.TrainedSettings):
    """How a reader of values is trained."""

    epochs: Count = 10
    reads: Literal["detector", "translator"] = "detector"
    also: list[Literal[PUBLIC]] = []  # texts of others that a detector learns from
    examples: Count = 1000  # of each of these, at most


class ValueReader(trained.TrainedJudge):
    """A trained reader of texts or of instructions."""

    kind = "values"

    def read(self, texts: pd.Series) -> np.ndarray:
        """Points (N, 10) of texts; an empty one has none of the values."""
        found = np.tanh(self.encoders.logits(_rows(texts))).mean(axis=0)
        found[(texts.str.strip() == "").to_numpy()] = 0
        return found


def split(reads: str) -> dict[str, pd.DataFrame]:
    """The corpus of a reader as `learnt`, `other` and `held_out`: text, group and the ten values.

    Groups are whole in one of them; a translator learns from all that is not held out.
    """
    rows = sets.corpus(CORPORA[reads]).rename(columns={TEXT[reads]: "text"})
    group = rows["group"].fillna(rows["id"])
    shuffled = pd.Series(group.unique()).sample(frac=1, random_state=trained.SEED).tolist()
    n = round(trained.HELD_OUT * len(shuffled))
    half = n + (len(shuffled) - n) // (2 if reads == "detector" else 1)
    parts = {"held_out": shuffled[:n], "learnt": shuffled[n:half], "other": shuffled[half:]}
    return {name: rows[group.isin(names)] for name, names in parts.items()}


def public(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A set of people's labels as (texts to learn from, held-out texts): text and the ten values;
    no prompt is in both.
    """
    return trained.split(sets.corpus(name).rename(columns={"response": "text"}))


def load(settings: ValueReaderSettings | None = None) -> ValueReader:
    """A reader, trained on first use, in minutes."""
    settings = settings or ValueReaderSettings()
    data = [CORPORA[settings.reads], *settings.also]
    return ValueReader(trained.kept("values", settings, data, _train), settings.max_length)


def _rows(texts: pd.Series) -> pd.DataFrame:
    """Texts as a cross-encoder reads them, alone."""
    return pd.DataFrame({"prompt": texts, "response": ""})


def _train(settings: ValueReaderSettings, folder: Path) -> None:
    drawn = np.random.default_rng(settings.seed)
    parts = [split(settings.reads)["learnt"]]
    for name in settings.also:
        rows = public(name)[0]
        parts.append(rows.iloc[drawn.permutation(len(rows))[: settings.examples]])
    rows = pd.concat(parts, ignore_index=True)
    how = trained.how(settings, f"value {settings.reads}", settings.reads, len(NAMES))
    steps = cross_encoder.steps_of(how, len(rows))
    progress = Progress("judge", f"training the value {settings.reads}", steps)
    target = rows[list(NAMES)].to_numpy(float)
    texts = _rows(rows["text"])
    cross_encoder.train_on_numbers(settings.source, texts, target, how, folder, progress)
