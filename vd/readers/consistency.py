"""Whether a rewriting keeps what was said: entailment between the two, both ways.

    forward     P(original entails rewrite): nothing is invented
    backward    P(rewrite entails original): nothing is dropped
    consistency their mean, as VISA reports it (arXiv 2603.04822)

The judge is a cross-encoder of (premise, hypothesis) with the classes of SNLI (Bowman et al. 2015),
trained on `vd/corpora/entailment.jsonl`, and on SNLI's part that a mirror holds, on first use, and
kept in the cache.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from vd.data import reading, sets
from vd.models import cross_encoder
from vd.readers import trained
from vd.store.progress import Progress
from vd.study.catalogue import PUBLIC
from vd.study.types import Count

LABELS = ("entailment", "neutral", "contradiction")
TRAINED_ON = ("entailment", "snli")


class ConsistencySettings(trained.TrainedSettings):
    """How the judge is trained."""

    epochs: Count = 3
    examples: Count = 6000  # rows of each data set, at most


class ConsistencyJudge(trained.TrainedJudge):
    """The trained judge."""

    kind = "consistency"

    def entails(self, premises: pd.Series, hypotheses: pd.Series) -> np.ndarray:
        """P(premise entails hypothesis), (N,); 0 where either is empty."""
        rows = pd.DataFrame({"prompt": premises.to_numpy(), "response": hypotheses.to_numpy()})
        found = self.encoders.probabilities(rows).mean(axis=0)[:, LABELS.index("entailment")]
        found[[not (one.strip() and two.strip()) for one, two in rows.to_numpy()]] = 0
        return found

    def score(self, originals: pd.Series, rewrites: pd.Series) -> pd.DataFrame:
        """forward, backward and consistency of rewritings, index kept."""
        both = {
            "forward": self.entails(originals, rewrites),
            "backward": self.entails(rewrites, originals),
        }
        table = pd.DataFrame(both, originals.index)
        return table.assign(consistency=table.mean(axis=1))


def load(settings: ConsistencySettings | None = None) -> ConsistencyJudge:
    """The judge, trained on first use, in minutes."""
    settings = settings or ConsistencySettings()
    folders = trained.kept(ConsistencyJudge.kind, settings, there(), _train)
    return ConsistencyJudge(folders, settings.max_length)


def there() -> list[str]:
    """Those of `TRAINED_ON` that lie on this machine: ours, and what a mirror holds."""
    return [name for name in TRAINED_ON if name not in PUBLIC or reading.mirrored(name)]


def split(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A data set as (training rows, held-out rows) with prompt (the premise), response (the
    hypothesis) and label; no premise is in both.
    """
    rows = sets.corpus(name)
    if name not in PUBLIC:
        rows = rows.rename(columns={"premise": "prompt", "hypothesis": "response"})
    return trained.split(rows)


def _train(settings: ConsistencySettings, folder: Path) -> None:
    drawn = np.random.default_rng(settings.seed)
    parts = []
    for name in there():
        rows = split(name)[0]
        parts.append(rows.iloc[drawn.permutation(len(rows))[: settings.examples]])
    rows = pd.concat(parts, ignore_index=True)
    how = trained.how(settings, "judge of consistency", "consistency", len(LABELS))
    steps = cross_encoder.steps_of(how, len(rows))
    progress = Progress("judge", "training the judge of consistency", steps)
    target = [LABELS.index(label) for label in rows["label"]]
    cross_encoder.train(settings.source, rows, target, how, folder, progress)
