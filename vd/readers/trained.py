"""Judges that are trained here on a data set, kept in the cache: what they share."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd
from pydantic import PositiveFloat

from vd import paths
from vd.data import sets
from vd.models import locate
from vd.models.cross_encoder import CrossEncoders, Training
from vd.store import fingerprint
from vd.store.cache import kept_for
from vd.store.fingerprint import Fingerprint
from vd.study.catalogue import PUBLIC
from vd.study.servers import ApiJudgeSettings
from vd.study.settings import ModelSettings
from vd.study.types import Count, Seed, Settings

HELD_OUT, SEED = 0.2, 0  # share of prompts kept for evaluation, and the seed of their draw


class OtherApi(ApiJudgeSettings):
    """A server that judges in place of a trained judge, all that there is."""

    share: Literal[1.0] = 1.0


class TrainedSettings(Settings):
    """How a judge is trained, unless a server judges."""

    source: str = "embedded:minilm"  # an encoder
    epochs: Count = 5
    learning_rate: PositiveFloat = 5.0e-5
    batch_size: Count = 16
    max_length: Count = 256  # tokens of prompt and reply together
    seed: Seed = 0
    members: Count = 1  # judges that differ in the seed of their training; their mean counts
    api: OtherApi | None = None


class TrainedJudge:
    """A judge of some kind from the folders of its members."""

    kind: ClassVar[str]

    def __init__(self, folders: list[Path], max_length: int):
        self.name = f"{self.kind}-{'+'.join(folder.name for folder in folders)}"
        self.encoders = CrossEncoders(folders, max_length, self.name)


def reads(settings: TrainedSettings, data: list[str]) -> list[str]:
    """What a judge with these settings depends on: the data sets that it would be trained on, or
    the file of prompts by which a server is asked.
    """
    return [str(paths.prompt(settings.api.prompt))] if settings.api else data


def how(settings: TrainedSettings, name: str, key: str, classes: int) -> Training:
    """Settings as the training of a cross-encoder takes them; `key` is where they are written."""
    values = settings.model_dump(include={"epochs", "learning_rate", "batch_size", "max_length"})
    return Training(
        name=name, key=f"{key}.learning_rate", classes=classes, seed=settings.seed, **values
    )


def kept(
    kind: str, settings: TrainedSettings, data: list[str], train: Callable[..., None]
) -> list[Path]:
    """The folders of a judge's members, each made by `train(settings, folder)` unless the cache
    holds one of this kind with the same settings, data sets and code.
    """
    read = {name: content(name) for name in data}
    read["encoder"] = locate.identity(ModelSettings(source=settings.source))
    code, folders = fingerprint.code(f"{train.__module__}.{train.__name__}"), []
    for member in range(settings.members):
        # how many others there are, who asks a server, and where its encoder lies change nothing
        own = settings.model_copy(
            update={"seed": settings.seed + member, "members": 1, "api": None}
        )
        learnt = fingerprint.values(judge=own.model_copy(update={"source": ""}))
        asked = Fingerprint(**learnt, data=read, code=code)
        made = kept_for(paths.cache() / kind, asked, lambda part, own=own: train(own, part))
        folders.append(made)
    return folders


def split(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows as (training rows, held-out rows); no prompt is in both."""
    prompts = pd.Series(rows["prompt"].unique())
    held_out = rows["prompt"].isin(prompts.sample(frac=HELD_OUT, random_state=SEED))
    return rows[~held_out], rows[held_out]


def content(name: str) -> str:
    """What a data set holds, as a word."""
    if name in PUBLIC:
        return sets.origin(name)
    return fingerprint.file_digest(paths.CORPORA / f"{name}.jsonl")
