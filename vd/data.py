"""What models, probes and judges read: data sets by name, in TRL's conversational format.

A name after `data:` in a study is one of

    an embedded corpus     vd/corpora/<name>.jsonl, described in vd/corpora/README.md
    a .jsonl file          a path, relative to the repository's root or absolute, with the columns of an embedded corpus
    a public data set      a key of `PUBLIC`: from the mirror folder VD_DATA_DIR if that is set, else from the hub

All of them become one kind of table. A subset is always drawn by seed.
"""

import gzip
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from vd import paths
from vd.study import PreferenceSettings, Probing, TrainingSettings


@dataclass(frozen=True)
class Public:
    """A public data set: its place on the hub and in a mirror folder, and how its rows become ours."""

    hub: str
    mirror: str  # file in the folder VD_DATA_DIR; it may hold a slice
    licence: str
    convert: Callable[[dict], dict | None]  # a row of the hub -> prompt (and history) with its replies; None: left out
    data_dir: str | None = None  # folder in the hub's repository
    split: str = "train"
    revision: str | None = None  # hub commit; None takes the newest


def _alpaca(row: dict) -> dict | None:
    """The optional input follows the instruction; a row without output is left out."""
    prompt = f"{row['instruction']}\n\n{row['input']}" if row["input"] else row["instruction"]
    return {"prompt": prompt, "completion": row["output"]} if row["output"].strip() else None


def _wildchat(row: dict) -> dict | None:
    """The first turn of English, non-toxic conversations with a GPT-3.5 model."""
    wanted = row["language"] == "English" and not row["toxic"] and row["model"].startswith("gpt-3.5")
    if not wanted or len(row["conversation"]) < 2:
        return None
    prompt, reply = (turn["content"] for turn in row["conversation"][:2])
    return {"prompt": prompt, "completion": reply} if prompt.strip() and reply.strip() else None


def _ultrafeedback(row: dict) -> dict | None:
    """Message lists that differ in the last reply only."""
    return _pair(row["chosen"], row["rejected"])


def _hh_rlhf(row: dict) -> dict | None:
    """Transcripts; the prompt is their common beginning up to the last assistant turn."""
    role = {"Human": "user", "Assistant": "assistant"}
    sides = []
    for side in ("chosen", "rejected"):
        _, *turns = re.split(r"\n\n(Human|Assistant):", row[side])
        sides.append(
            [{"role": role[r], "content": text.strip()} for r, text in zip(turns[::2], turns[1::2], strict=True)]
        )
    return _pair(*sides)


def _pair(chosen: list[dict], rejected: list[dict]) -> dict | None:
    """A pair from two conversations, unless they part before the last reply or a turn is missing or empty."""
    roles = ["user", "assistant"] * (len(chosen) // 2)
    whole = roles and all([message["role"] for message in side] == roles for side in (chosen, rejected))
    if not whole or chosen[:-1] != rejected[:-1] or not all(m["content"].strip() for m in [*chosen, rejected[-1]]):
        return None
    *history, prompt, reply = chosen
    return {
        "prompt": prompt["content"],
        "history": history,
        "chosen": reply["content"],
        "rejected": rejected[-1]["content"],
    }


PUBLIC = {
    "alpaca": Public("tatsu-lab/alpaca", "alpaca/train.jsonl", "CC-BY-NC-4.0", _alpaca),
    "wildchat": Public("allenai/WildChat-1M", "wildchat/train.jsonl", "ODC-BY", _wildchat),
    "ultrafeedback": Public("trl-lib/ultrafeedback_binarized", "ultrafeedback/train.jsonl", "MIT", _ultrafeedback),
    "hh-rlhf": Public(
        "Anthropic/hh-rlhf", "hh-rlhf/harmless-base_test.jsonl.gz", "MIT", _hh_rlhf, data_dir="harmless-base"
    ),
}


def corpus(name: str) -> pd.DataFrame:
    """A data set as a table, in the order of its file.

    Its texts stand in `prompt` and in `completion`, or `chosen` and `rejected`; a column `history` holds the messages
    before the prompt. Public sets have an `id`, which ends in the row's number, and no `topic`; rows that cannot be
    used are left out (the set's own function says which), so numbers may be missing.
    """
    if name in PUBLIC:
        return _public(name)
    if name.endswith(".jsonl"):
        file, known = paths.ROOT / name, "make it first, or correct `data` in the study"
    else:
        file = paths.CORPORA / f"{name}.jsonl"
        known = f"write one of {', '.join([*sorted(p.stem for p in paths.CORPORA.glob('*.jsonl')), *PUBLIC])}"
    if not file.exists():
        raise ValueError(f"no data set '{name}' ({file}): {known}")
    return pd.DataFrame(_read(file))


def mirror() -> Path | None:
    """The folder of local copies of public data sets, VD_DATA_DIR; None if it is not set."""
    return Path(os.environ["VD_DATA_DIR"]) if os.environ.get("VD_DATA_DIR") else None


def is_mirrored(name: str) -> bool:
    """Whether the mirror folder holds this public data set."""
    return mirror() is not None and (mirror() / PUBLIC[name].mirror).exists()


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
    rows = _draw(_with_texts(settings.data, "prompt", "completion"), settings.examples, seed)
    return _conversational(rows, "completion")


def preferences(settings: PreferenceSettings, seed: int):
    """Preference pairs as a `datasets.Dataset` of message lists: prompt, chosen, rejected.

    `swap_labels` exchanges chosen and rejected, which turns support-aligned pairs into oppose-aligned ones.
    """
    rows = _draw(_with_texts(settings.data, "prompt", "chosen", "rejected"), settings.examples, seed)
    if settings.swap_labels:
        rows = rows.rename(columns={"chosen": "rejected", "rejected": "chosen"})
    return _conversational(rows, "chosen", "rejected")


def stance_set(name: str) -> pd.DataFrame | None:
    """A public stance set from the mirror folder VD_DATA_DIR: prompt, response, label; None where it is not there.

    `perspectrum` pairs claims with perspectives, `argkp` topics with arguments; both know support and oppose only.
    """
    file = {"perspectrum": "perspectrum/train_dev.csv", "argkp": "argkp/arguments_dev.csv"}[name]
    if mirror() is None or not (mirror() / file).exists():
        return None
    columns = {"perspectrum": ["claim", "perspective"], "argkp": ["topic", "argument"]}[name]
    rows = pd.read_csv(mirror() / file)
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


def _read(file: Path) -> Iterable[dict]:
    """The rows of a .jsonl or .jsonl.gz file."""
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}: row {number}: not JSON ({error}); correct or remove it") from None


def _public(name: str) -> pd.DataFrame:
    public = PUBLIC[name]
    if mirror() is None:
        place, rows = public.hub, _from_hub(name)
    else:
        place = mirror() / public.mirror
        if not place.exists():
            raise ValueError(f"{place}: no such file; add it, or unset VD_DATA_DIR to read {public.hub} from the hub")
        rows = _read(place)
    table = []
    for number, row in enumerate(rows, start=1):
        try:
            ours = public.convert(row)
        except KeyError as key:
            raise ValueError(
                f"{place}: row {number}: no key {key}; '{name}' expects the rows of {public.hub}"
            ) from None
        if ours:
            table.append({"id": f"{name}-{number}", **ours})
    return pd.DataFrame(table)


def _from_hub(name: str) -> Iterable[dict]:
    from datasets import load_dataset

    public = PUBLIC[name]
    try:
        return load_dataset(public.hub, data_dir=public.data_dir, split=public.split, revision=public.revision)
    except OSError as error:
        raise ConnectionError(
            f"data set '{name}': {error}; go online, or put {public.mirror} into a folder and set VD_DATA_DIR to it"
        ) from error


def _with_texts(name: str, *columns: str) -> pd.DataFrame:
    """A data set whose rows all have a text in these columns."""
    rows = corpus(name)
    for column in columns:
        texts = rows.get(column, pd.Series(None, rows.index, dtype=object)).map(lambda text: isinstance(text, str))
        if not texts.all():
            raise ValueError(
                f"data set '{name}': row {texts.argmin() + 1}: no text '{column}'; sft reads prompt and completion, "
                "preference methods read prompt, chosen and rejected"
            )
    return rows


def _conversational(rows: pd.DataFrame, *replies: str):
    """Message lists: the prompt after its history, and each reply as a list of one message."""
    from datasets import Dataset

    history = rows["history"] if "history" in rows else [[]] * len(rows)
    prompts = [
        [*before, {"role": "user", "content": text}] for before, text in zip(history, rows["prompt"], strict=True)
    ]
    texts = {column: [[{"role": "assistant", "content": text}] for text in rows[column]] for column in replies}
    return Dataset.from_dict({"prompt": prompts, **texts})
