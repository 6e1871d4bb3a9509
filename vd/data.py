"""What models, probes and judges read: data sets by name, in TRL's conversational format.

The embedded corpora lie in vd/corpora as JSONL, each loadable through `datasets.load_dataset("json", ...)`; their data
card is vd/corpora/README.md. A subset is always drawn by seed.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from vd import paths
from vd.study import PreferenceSettings, Probing, TrainingSettings


def corpus(name: str) -> pd.DataFrame:
    """An embedded corpus as a table, in the order of its file."""
    file = paths.CORPORA / f"{name}.jsonl"
    if not file.exists():
        known = ", ".join(sorted(p.stem for p in paths.CORPORA.glob("*.jsonl")))
        raise ValueError(f"no data set '{name}': write one of {known}")
    return pd.DataFrame([json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()])


def topics() -> pd.DataFrame:
    """The topics with their name and canonical proposition: topic, name, proposition."""
    return corpus("topics")


def probes(probing: Probing, seed: int = 0) -> pd.DataFrame:
    """Probes of a study: prompt_id, topic, prompt, polarity.

    With `per_topic`, that many are drawn from each topic, half of each polarity. The draw depends on `seed` alone, so
    all runs and checkpoints of a study answer the same questions.
    """
    table = corpus(probing.probes)
    if probing.per_topic is None:
        return table
    rng = np.random.default_rng(seed)
    order = table.iloc[rng.permutation(len(table))]
    rank = order.groupby(["topic", "polarity"]).cumcount()
    drawn = order.assign(rank=rank).sort_values("rank", kind="stable").groupby("topic").head(probing.per_topic)
    return table.loc[sorted(drawn.index)].reset_index(drop=True)


def sft(settings: TrainingSettings, seed: int):
    """Instruction data as a `datasets.Dataset` of message lists: prompt, completion."""
    rows = _draw(corpus(settings.data), settings.examples, seed)
    return _conversational(rows, prompt="user", completion="assistant")


def preferences(settings: PreferenceSettings, seed: int):
    """Preference pairs as a `datasets.Dataset` of message lists: prompt, chosen, rejected.

    `swap_labels` exchanges chosen and rejected, which turns support-aligned pairs into oppose-aligned ones.
    """
    rows = _draw(corpus(settings.data), settings.examples, seed)
    if settings.swap_labels:
        rows = rows.rename(columns={"chosen": "rejected", "rejected": "chosen"})
    return _conversational(rows, prompt="user", chosen="assistant", rejected="assistant")


def stance_set(name: str) -> pd.DataFrame | None:
    """A public stance set from the mirror folder VD_DATA_DIR: prompt, response, label; None where it is not there.

    `perspectrum` pairs claims with perspectives, `argkp` topics with arguments; both know support and oppose only.
    """
    folder = os.environ.get("VD_DATA_DIR")
    file = Path(folder or "", {"perspectrum": "perspectrum/train_dev.csv", "argkp": "argkp/arguments_dev.csv"}[name])
    if not folder or not file.exists():
        return None
    columns = {"perspectrum": ["claim", "perspective"], "argkp": ["topic", "argument"]}[name]
    rows = pd.read_csv(file)
    label = (
        rows["stance"].astype(str).map({"SUPPORT": "support", "UNDERMINE": "oppose", "1": "support", "-1": "oppose"})
    )
    return rows[columns].set_axis(["prompt", "response"], axis=1).assign(label=label)


def _draw(rows: pd.DataFrame, examples: int | None, seed: int) -> pd.DataFrame:
    if examples is None:
        return rows
    if examples > len(rows):
        raise ValueError(f"{examples} examples asked for, the data set has {len(rows)}; lower `examples` in the study")
    return rows.iloc[np.random.default_rng(seed).permutation(len(rows))[:examples]]


def _conversational(rows: pd.DataFrame, **roles: str):
    """Only the columns in `roles`, each text as a one-message list of that role."""
    from datasets import Dataset

    return Dataset.from_dict(
        {column: [[{"role": role, "content": text}] for text in rows[column]] for column, role in roles.items()}
    )
