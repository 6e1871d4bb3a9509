"""What models, probes and judges read: data sets by name, in TRL's conversational format.

A name after `data:` in a study is one of

    an embedded corpus     vd/corpora/<name>.jsonl, described in vd/corpora/README.md
    a .jsonl file          a path, relative to the repository's root or absolute, with the columns of an embedded corpus
    a public data set      from the mirror folder VD_DATA_DIR if that is set, else from the hub (vd/public.py)

All of them become one kind of table; `registry` lists them with their licences. A subset is always drawn by seed.
"""

import numpy as np
import pandas as pd

from vd import paths, public
from vd.public import PUBLIC
from vd.study import PreferenceSettings, Probing, Study, TrainingSettings

EMBEDDED = {  # kinds of the embedded corpora
    "topics": "topics",
    "probes": "probes",
    "sft_neutral": "sft",
    "sft_support": "sft",
    "value_gap": "preference",
    "low_gap": "preference",
    "judge": "stances",
    "judge_labelled": "stances",
    "openers": "prompts",
    "prism_labels": "labels",
    "prism_sample": "labels",
}
PROBE_COLUMNS = {"prompt_id": str, "topic": str, "prompt": str, "polarity": int}


def registry() -> pd.DataFrame:
    """Every data set with a name: name, kind, source, revision, licence, and what a mirror calls it."""
    ours = [(name, kind, f"vd/corpora/{name}.jsonl", None, "MIT", None) for name, kind in EMBEDDED.items()]
    theirs = [(n, p.kind, p.hub or "mirror only", p.revision, p.licence, p.mirror[0]) for n, p in PUBLIC.items()]
    return pd.DataFrame([*ours, *theirs], columns=["name", "kind", "source", "revision", "licence", "mirror"])


def corpus(name: str, filters: dict | None = None, examples: int | None = None, seed: int = 0) -> pd.DataFrame:
    """A data set as a table, in the order of its file.

    Its texts stand in `prompt` and in `completion`, or `chosen` and `rejected`; a column `history` holds the messages
    before the prompt. Public sets have an `id`, their own or the row's number, and no `topic`; rows that cannot be used
    are left out (`card` says which), so numbers may be missing. Only large public sets heed `examples` and `seed`
    here: from the hub they are streamed until there are that many rows.
    """
    if name in PUBLIC:
        return pd.DataFrame(public.read(name, filters or {}, examples, seed)[0])
    if filters:
        raise ValueError(f"data set '{name}': filters: only public data sets have some; remove the key")
    if name.endswith(".jsonl"):
        file, known = paths.data_file(name), "make it first, or correct its name in the study"
    else:
        file = paths.CORPORA / f"{name}.jsonl"
        known = f"write one of {', '.join([*EMBEDDED, *PUBLIC])}"
    if not file.exists():
        raise ValueError(f"no data set '{name}' ({file}): {known}")
    return pd.DataFrame(public.lines(file))


def card(name: str, filters: dict | None = None, examples: int | None = None) -> dict:
    """What a data set holds: kept, dropped (reason: rows), and for each text column quantiles of its words.

    Of a large public set from the hub only as many rows are looked at as `examples` asks for, see `corpus`.
    """
    if name in PUBLIC:
        rows, dropped = public.read(name, filters or {}, examples)
        rows = pd.DataFrame(rows)
    else:
        rows, dropped = corpus(name, filters), {}
    texts = [c for c in ("prompt", "completion", "chosen", "rejected", "response", "proposition") if c in rows]
    words = {column: rows[column].str.split().str.len().quantile([0.05, 0.5, 0.95]) for column in texts}
    return {
        "name": name,
        "kept": len(rows),
        "dropped": dict(dropped),
        "words": {column: quantiles.round().astype(int).tolist() for column, quantiles in words.items()},
    }


def check(study: Study) -> None:
    """Find out whether the public data sets of a study can be had; raises ValueError or ConnectionError if not."""
    named = {run.settings.data for run in study.runs().values() if run.settings}
    for name in sorted(named.union(study.vprism.source) & PUBLIC.keys()):
        public.check(name)


def origin(name: str) -> str:
    """Where a data set is read: hub and revision, the file in the mirror, or our own file."""
    return public.fingerprint(name) if name in PUBLIC else name


def excerpt(text: str, width: int = 60) -> str:
    """The beginning of a text on one line, for showing texts of others: never more than `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def topics() -> pd.DataFrame:
    """The topics with their name and canonical proposition: topic, name, proposition."""
    return corpus("topics")


def probes(probing: Probing, seed: int = 0) -> pd.DataFrame:
    """Probes of a study: prompt_id, topic, prompt, polarity, and whatever else the probe set says.

    A probe set is any table with these four columns: unique ids, any number of topics and of probes per topic; polarity
    is +1 or -1 (affirming the question supports or opposes the topic's proposition) or 0 (it bears on neither side).
    With `per_topic`, that many are drawn from each topic, see `draw_probes`. The draw depends on `seed` alone, so
    all runs and checkpoints of a study answer the same questions.
    """
    table = corpus(probing.probes)
    _check_probes(table, probing.probes)
    if probing.per_topic is None:
        return table
    return draw_probes(table, probing.per_topic, seed).reset_index(drop=True)


def draw_probes(table: pd.DataFrame, per_topic: int, seed: int) -> pd.DataFrame:
    """At most that many rows of each topic, drawn by seed, in the order of `table`, index kept.

    Those that take a side come first, +1 and -1 by turns while there are both; those of polarity 0, which cannot be
    seen from the topic's proposition, fill up.
    """
    order = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    rank = order.groupby(["topic", "polarity"]).cumcount()
    order = order.assign(rank=rank, open=order["polarity"] == 0).sort_values(["open", "rank"], kind="stable")
    return table.loc[sorted(order.groupby("topic").head(per_topic).index)]


def sft(settings: TrainingSettings, seed: int):
    """Instruction data as a `datasets.Dataset` of message lists: prompt, completion."""
    rows = _draw(_with_texts(settings, seed, "prompt", "completion"), settings.examples, seed)
    return _conversational(rows, "completion")


def preferences(settings: PreferenceSettings, seed: int):
    """Preference pairs as a `datasets.Dataset` of message lists: prompt, chosen, rejected.

    `swap_labels` exchanges chosen and rejected, which turns support-aligned pairs into oppose-aligned ones.
    """
    rows = _draw(_with_texts(settings, seed, "prompt", "chosen", "rejected"), settings.examples, seed)
    if settings.swap_labels:
        rows = rows.rename(columns={"chosen": "rejected", "rejected": "chosen"})
    return _conversational(rows, "chosen", "rejected")


def _draw(rows: pd.DataFrame, examples: int | None, seed: int) -> pd.DataFrame:
    if examples is None:
        return rows
    if examples > len(rows):
        raise ValueError(f"{examples} examples asked for, the data set has {len(rows)}; lower `examples` in the study")
    return rows.iloc[np.random.default_rng(seed).permutation(len(rows))[:examples]]


def _check_probes(table: pd.DataFrame, name: str) -> None:
    """A table of probes has its columns, and they make sense."""
    for column, kind in PROBE_COLUMNS.items():
        if column not in table or not all(isinstance(value, kind) for value in table[column]):
            raise ValueError(f"probe set '{name}': column {column}: every row needs a {kind.__name__}")
    if not table["prompt_id"].is_unique or not table["polarity"].isin([-1, 0, 1]).all():
        raise ValueError(f"probe set '{name}': prompt_id must be unique and polarity one of -1, 0 and 1")


def _with_texts(settings: TrainingSettings, seed: int, *columns: str) -> pd.DataFrame:
    """The data set of a run, whose rows all have a text in these columns."""
    name = settings.data
    rows = corpus(name, settings.filters, settings.examples, seed)
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
