"""What models, probes and judges read: data sets by name, in TRL's conversational format.

A name after `data:` in a study is one of

    an embedded corpus     vd/corpora/<name>.jsonl, described in vd/corpora/README.md
    a file of yours        a path, from the repository's root or absolute, that ends as one of
                           files.ENDINGS, with prompt and completion, or prompt, chosen and rejected
    a public data set      from the mirror folder VD_DATA_DIR if that is set, else from the hub (vd/public.py)

All of them become one kind of table; `registry` lists them with their licences. A subset is always drawn by seed.
"""

import numpy as np
import pandas as pd

from vd import files, paths, public, rows
from vd.public import PUBLIC
from vd.shown import excerpt as excerpt
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
TRAINED_ON = {"sft": ("prompt", "completion"), "preference": ("prompt", "chosen", "rejected")}


def registry() -> pd.DataFrame:
    """Every data set with a name: name, kind, source, revision, licence, and what a mirror calls it."""
    ours = [(name, kind, f"vd/corpora/{name}.jsonl", None, "MIT", None) for name, kind in EMBEDDED.items()]
    theirs = [(n, p.kind, p.hub or "mirror only", p.revision, p.licence, p.mirror[0]) for n, p in PUBLIC.items()]
    return pd.DataFrame([*ours, *theirs], columns=["name", "kind", "source", "revision", "licence", "mirror"])


def corpus(name: str, filters: dict | None = None, examples: int | None = None, seed: int = 0) -> pd.DataFrame:
    """A data set as a table, in the order of its file.

    Its texts stand in `prompt` and in `completion`, or `chosen` and `rejected`; a column `history`
    holds the messages before the prompt. Public sets have no `topic`, and an `id`, their own or the
    row's number; rows that cannot be used are left out (`card` says which), so numbers may be
    missing. A file of yours has a unique `id` in every row, made where it is missing, and none of
    its rows is left out: what cannot be read raises ValueError with file, row and fix. Only large
    public sets heed `examples` and `seed` here: from the hub they are streamed until there are that
    many rows.
    """
    if name in PUBLIC:
        return pd.DataFrame(public.read(name, filters or {}, examples, seed)[0])
    if filters:
        raise ValueError(f"data set '{name}': filters: only public data sets have some; remove the key")
    return pd.DataFrame(_ours(name))


def _ours(name: str, key: str = "id") -> list[dict]:
    """Rows of an embedded corpus as they are, those of another file checked and named."""
    file = _file(name)
    if not file.exists():
        known = f"write one of {', '.join([*EMBEDDED, *PUBLIC])}"
        fix = "make it first, or correct its name in the study" if files.is_file(name) else known
        raise ValueError(f"no data set '{name}' ({file}): {fix}")
    return list(files.lines(file)) if name in EMBEDDED else rows.own(file, name, key)


def _file(name: str):
    """The file of a data set that is not public."""
    return paths.data_file(name) if files.is_file(name) else paths.CORPORA / f"{name}.jsonl"


def card(name: str, filters: dict | None = None, examples: int | None = None) -> dict:
    """What a data set holds: kept, dropped (reason: rows), and for each text column quantiles of its words.

    Of a large public set from the hub only as many rows are looked at as `examples` asks for, see `corpus`.
    """
    if name in PUBLIC:
        found, dropped = public.read(name, filters or {}, examples)
        found = pd.DataFrame(found)
    else:
        found, dropped = corpus(name, filters), {}  # of a file of ours all or nothing is read
    texts = [column for column in (*rows.TEXTS, "proposition") if column in found]
    words = {c: found[c].str.split().str.len().quantile([0.05, 0.5, 0.95]) for c in texts}
    return {
        "name": name,
        "kept": len(found),
        "dropped": dict(dropped),
        "words": {column: quantiles.round().astype(int).tolist() for column, quantiles in words.items()},
    }


def check(study: Study) -> None:
    """Find out whether the data of a study can be had; raises ValueError or ConnectionError if not.

    Public sets are only looked for. All others are read as training and probing will read them.
    """
    runs = [run for run in study.runs().values() if run.settings]
    trained = {(run.settings.data, run.phase, run.settings.examples): run for run in runs}
    for name in sorted({name for name, *_ in trained}.union(study.vprism.source)):
        public.check(name) if name in PUBLIC else corpus(name)
    for (name, phase, _), run in trained.items():
        if name not in PUBLIC:
            _drawn(run.settings, run.seed, *TRAINED_ON[phase])
    if not study.asks_vprism:  # which is built later on
        probes(study.probing)


def origin(name: str) -> str:
    """Where a data set is read: hub and revision, the file in the mirror, or our own file."""
    return public.fingerprint(name) if name in PUBLIC else name


def topics() -> pd.DataFrame:
    """The topics with their name and canonical proposition: topic, name, proposition."""
    return corpus("topics")


def probes(probing: Probing, seed: int = 0) -> pd.DataFrame:
    """Probes of a study: prompt_id, topic, prompt, polarity, and whatever else the probe set says.

    A probe set is any table with these columns: unique ids (made where they are missing), any
    number of topics and of probes per topic; polarity is +1 or -1 (affirming the question supports
    or opposes the topic's proposition) or 0 (it bears on neither side). Anything else raises
    ValueError with the set, the probe and the fix.
    With `per_topic`, that many are drawn from each topic, see `draw_probes`. The draw depends on `seed` alone, so
    all runs and checkpoints of a study answer the same questions.
    """
    found = _ours(probing.probes, key="prompt_id")
    _check_probes(found, probing.probes)
    table = pd.DataFrame(found)
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
    return _conversational(_drawn(settings, seed, *TRAINED_ON["sft"]), "completion")


def preferences(settings: PreferenceSettings, seed: int):
    """Preference pairs as a `datasets.Dataset` of message lists: prompt, chosen, rejected.

    `swap_labels` exchanges chosen and rejected, which turns support-aligned pairs into oppose-aligned ones.
    """
    table = _drawn(settings, seed, *TRAINED_ON["preference"])
    if settings.swap_labels:
        table = table.rename(columns={"chosen": "rejected", "rejected": "chosen"})
    return _conversational(table, "chosen", "rejected")


def _drawn(settings: TrainingSettings, seed: int, *columns: str) -> pd.DataFrame:
    """The rows that a run trains on, which all have a text in these columns."""
    name, examples = settings.data, settings.examples
    table = corpus(name, settings.filters, examples, seed)
    for column in columns:
        if column not in table or table[column].isna().any():
            row = table[column].isna().argmax() + 1 if column in table else 1
            raise ValueError(f"data set '{name}': row {row}: no text '{column}'; {rows.FIX}")
    if examples is None:
        return table
    if examples > len(table):
        said = f"{examples} examples asked for, the data set has {len(table)}"
        raise ValueError(f"data set '{name}': {said}; lower `examples` in the study")
    return table.iloc[np.random.default_rng(seed).permutation(len(table))[:examples]]


def _check_probes(found: list[dict], name: str) -> None:
    """Probes have their columns, and these make sense."""
    for number, row in enumerate(found, start=1):
        place = f"probe set '{name}': {row.get('prompt_id') or f'row {number}'}"
        for column, kind in PROBE_COLUMNS.items():
            given = row.get(column)
            if type(given) is not kind:
                needs = f"every row needs a {kind.__name__}, not {excerpt(repr(given))}"
                fix = "1, -1 or 0" if column == "polarity" else "a text"
                raise ValueError(f"{place}: column {column}: {needs}; write {fix}")
        if row["polarity"] not in (-1, 0, 1):
            given = f"{row['polarity']}; write polarity one of -1, 0 and 1"
            raise ValueError(f"{place}: column polarity: {given}")


def _conversational(table: pd.DataFrame, *replies: str):
    """Message lists: the prompt after its history, and each reply as a list of one message."""
    from datasets import Dataset

    history = table["history"] if "history" in table else [[]] * len(table)
    asked = zip(history, table["prompt"], strict=True)
    prompts = [[*before, {"role": "user", "content": prompt}] for before, prompt in asked]
    texts = {c: [[{"role": "assistant", "content": text}] for text in table[c]] for c in replies}
    return Dataset.from_dict({"prompt": prompts, **texts})
