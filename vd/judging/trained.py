"""Judges that are trained here on a data set, kept in the cache: what they share."""

from collections.abc import Callable
from pathlib import Path

from vd import paths
from vd.data import sets
from vd.models import locate
from vd.models.cross_encoder import Training
from vd.store import fingerprint
from vd.store.cache import kept_for
from vd.store.fingerprint import Fingerprint
from vd.study.catalogue import PUBLIC
from vd.study.settings import ModelSettings
from vd.study.types import Count, Seed, Settings


class TrainedSettings(Settings):
    """How a judge is trained."""

    source: str = "embedded:minilm"  # an encoder
    epochs: Count = 5
    learning_rate: float = 5.0e-5
    batch_size: Count = 16
    max_length: Count = 256  # tokens of prompt and reply together
    seed: Seed = 0


def how(settings: TrainedSettings, name: str, key: str, classes: int) -> Training:
    """Settings as the training of a cross-encoder takes them; `key` is where they are written."""
    values = settings.model_dump(include={"epochs", "learning_rate", "batch_size", "max_length"})
    return Training(
        name=name, key=f"{key}.learning_rate", classes=classes, seed=settings.seed, **values
    )


def kept(kind: str, settings: TrainedSettings, data: list[str], train: Callable[..., None]) -> Path:
    """The folder of a judge of this kind, made by `train(settings, folder)` unless the cache holds
    one of the same settings, data sets and code.
    """
    # who asks a server beside it, and where its encoder lies, make no other judge
    learnt = settings.model_copy(update={"source": ""} | ({"api": None} if _asks(settings) else {}))
    asked = Fingerprint(
        **fingerprint.values(judge=learnt),
        data={name: _content(name) for name in data}
        | {"encoder": locate.identity(ModelSettings(source=settings.source))},
        code=fingerprint.code(f"{train.__module__}.{train.__name__}"),
    )
    return kept_for(paths.cache() / kind, asked, lambda part: train(settings, part))


def _asks(settings: TrainedSettings) -> bool:
    return "api" in type(settings).model_fields


def _content(name: str) -> str:
    """What a data set holds, as a word."""
    if name in PUBLIC:
        return sets.origin(name)
    return fingerprint.file_digest(paths.CORPORA / f"{name}.jsonl")
