"""What models, probes and judges read: data sets by name, in TRL's conversational format.

A name after `data:` in a study is one of

    an embedded corpus     vd/corpora/<name>.jsonl, described in vd/corpora/README.md
    a file of yours        a path, from the repository's root or absolute, that ends as one of
                           formats.ENDINGS, with prompt and completion, or prompt, chosen, rejected
    a public data set      from the mirror folder VD_DATA_DIR if that is set, else from the hub
    (vd/data/public)

All of them become one kind of table; `registry` lists them with their licences. A subset is always
drawn by seed.
"""

import numpy as np
import pandas as pd

from vd import paths
from vd.data import planted, reading, rows
from vd.store import formats
from vd.study.catalogue import EMBEDDED, PUBLIC
from vd.study.graph import made_by_recipes
from vd.study.settings import PreferenceSettings, TrainingSettings

P_CHOSEN = "p_chosen"  # the column of soft labels
COLUMNS = {  # that every row has, by the kind of data: what a method declares that it reads
    "texts": ("prompt", "completion"),
    "pairs": ("prompt", "chosen", "rejected"),
    "steps": ("prompt", "completions", "labels"),
    "prompts": ("prompt",),
}


def registry() -> pd.DataFrame:
    """Every data set with a name.

    Name, kind, source, revision, licence, and what a mirror calls it.
    """
    ours = [
        (name, kind, f"vd/corpora/{name}.jsonl", None, "MIT", None)
        for name, kind in EMBEDDED.items()
    ]
    theirs = [
        (n, p.kind, p.hub or "mirror only", p.revision, p.licence, p.mirror[0])
        for n, p in PUBLIC.items()
    ]
    return pd.DataFrame(
        [*ours, *theirs], columns=["name", "kind", "source", "revision", "licence", "mirror"]
    )


def corpus(
    name: str, filters: dict | None = None, examples: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """A data set as a table, in the order of its file.

    Its texts stand in `prompt` and in `completion`, or `chosen` and `rejected`, or `completions`
    with `labels` (see `READERS`); a column `history` holds the messages before the prompt. Public
    sets have no `topic`, and an `id`, their own or the row's number; rows that cannot be used are
    left out (`card` says which), so numbers may be missing. A file of yours has a unique `id` in
    every row, made where it is missing, and none of its rows is left out: what cannot be read
    raises ValueError with file, row and fix. Only large public sets heed `examples` and `seed`
    here: from the hub they are streamed until there are that many rows.
    """
    if name in PUBLIC:
        return pd.DataFrame(reading.read_public(name, filters or {}, examples, seed)[0])
    if filters:
        raise ValueError(
            f"data set '{name}': filters: only public data sets have some; remove the key"
        )
    return pd.DataFrame(rows_of(name))


def rows_of(name: str, key: str = "id") -> list[dict]:
    """Rows of an embedded corpus as they are, those of another file checked and named."""
    file = _file(name)
    if not file.exists():
        known = f"write one of {', '.join([*EMBEDDED, *PUBLIC])}"
        fix = "make it first, or correct its name in the study" if formats.is_file(name) else known
        raise ValueError(f"no data set '{name}' ({file}): {fix}")
    # ours are checked by tests/test_data.py, and not at every reading
    return list(formats.lines(file)) if name in EMBEDDED else rows.read_own(file, name, key)


def _file(name: str):
    """The file of a data set that is not public."""
    return paths.data_file(name) if formats.is_file(name) else paths.CORPORA / f"{name}.jsonl"


def card(name: str, filters: dict | None = None, examples: int | None = None) -> dict:
    """What a data set holds: kept, dropped (reason: rows), and for each text column quantiles of
    its words.

    Of a large public set from the hub only as many rows are looked at as `examples` asks for, see
    `corpus`.
    """
    if name in PUBLIC:
        # not by `corpus`, which would not say what was dropped
        found, dropped = reading.read_public(name, filters or {}, examples)
        found = pd.DataFrame(found)
    else:
        found, dropped = corpus(name, filters), {}  # of a file of ours all or nothing is read
    # of topics the proposition is the text
    texts = [column for column in (*rows.TEXTS, "proposition") if column in found]
    words = {c: found[c].str.split().str.len().quantile([0.05, 0.5, 0.95]) for c in texts}
    return {
        "name": name,
        "kept": len(found),
        "dropped": dict(dropped),
        "words": {
            column: quantiles.round().astype(int).tolist() for column, quantiles in words.items()
        },
    }


def origin(name: str) -> str:
    """Where a data set is read: hub and revision, the file in the mirror, or our own file."""
    return reading.fingerprint(name) if name in PUBLIC else name


def trained_on(study) -> dict[str, tuple[str, dict, int | None]]:
    """The data sets that a study's runs train on, by name: kind, filters and examples of a run.

    Those that its recipes make are left out: they come later, and have cards of their own.
    """
    # A run's settings stand for all that share its data: filters of one set are alike in a study.
    made, found = made_by_recipes(study).values(), {}
    for run in study.runs().values():
        if run.training and run.training.data not in made:
            settings = run.training
            found[settings.data] = (run.reads, settings.filters, settings.examples)
            found |= {name: (run.reads, {}, None) for name in settings.data_sets[1:]}
    return found


def topics() -> pd.DataFrame:
    """The topics with their name and canonical proposition: topic, name, proposition."""
    return corpus("topics")


def sft(settings: TrainingSettings, seed: int):
    """Instruction data as a `datasets.Dataset` of message lists: prompt, completion; of pairs the
    chosen replies.
    """
    return _conversational(draw_rows(settings, seed, *COLUMNS["texts"]), "completion")


def preferences(settings: PreferenceSettings, seed: int):
    """Preference pairs as a `datasets.Dataset` of message lists: prompt, chosen, rejected.

    `swap_labels` exchanges chosen and rejected, which turns support-aligned pairs into oppose-
    aligned ones. `aligned_with: proposition` exchanges them where a question denies its topic's
    proposition (polarity -1): then Yes and No are chosen alike, and only a position can be learnt.
    `planted` exchanges them where a bias or a coin decides (vd/data/planted.py). With `soft_labels`
    a column `P_CHOSEN` says how likely chosen is preferred.
    """
    table = draw_rows(settings, seed, *COLUMNS["pairs"])
    # After the draw: both directions then learn from the same pairs.
    swap = np.full(len(table), settings.swap_labels)
    if settings.aligned_with == "proposition":
        swap ^= _polarity(table, settings.data).eq(-1).to_numpy()
    if settings.planted:
        swap ^= planted.exchanged(settings.planted, table, seed)
    exchanged = table.rename(columns={"chosen": "rejected", "rejected": "chosen"})
    sides = ["chosen", "rejected"]
    table = table.assign(**{side: table[side].mask(swap, exchanged[side]) for side in sides})
    pairs = _conversational(table, *sides)
    if getattr(settings, "soft_labels", False):
        pairs = pairs.add_column(P_CHOSEN, _soft_labels(table, settings.data))
    return pairs


def _soft_labels(table: pd.DataFrame, name: str) -> list[float]:
    """How likely chosen is preferred, of each pair; ValueError if one is no probability."""
    p = pd.to_numeric(table.get(P_CHOSEN, pd.Series(index=table.index)), errors="coerce")
    if not (fits := p.between(0, 1)).all():
        row = int((~fits).argmax()) + 1
        fix = f"write a number from 0 to 1 as `{P_CHOSEN}` of every row, or `soft_labels: false`"
        raise ValueError(f"data set '{name}': row {row}: no soft label; {fix}")
    return p.astype(float).tolist()


def _polarity(table: pd.DataFrame, name: str) -> pd.Series:
    """The polarity of pairs' questions, 1 or -1; ValueError if one has another or none."""
    if "polarity" not in table or not (fits := table["polarity"].isin([1, -1])).all():
        row = 1 if "polarity" not in table else (~fits).argmax() + 1
        fix = "write 1 or -1 as `polarity` of every row, or take out `aligned_with`"
        raise ValueError(f"data set '{name}': row {row}: no polarity; {fix}")
    return table["polarity"]


def labelled_steps(settings: TrainingSettings, seed: int):
    """Solutions whose steps are labelled right or wrong, as a `datasets.Dataset`.

    Columns: prompt (a text), completions (a list of texts, the steps) and labels (a bool for each);
    what TRL calls stepwise supervision and its PRMTrainer takes.
    """
    from datasets import Dataset

    table = draw_rows(settings, seed, *COLUMNS["steps"])
    name = settings.data
    if "history" in table and table["history"].map(len).any():
        # A step is scored after its problem and the steps before it; TRL's type has no messages.
        said = "earlier turns in history, which data of steps cannot have; move them into prompt"
        raise ValueError(f"data set '{name}': row {table['history'].map(len).argmax() + 1}: {said}")
    return Dataset.from_dict({column: table[column].tolist() for column in COLUMNS["steps"]})


def prompts(settings: TrainingSettings, seed: int):
    """Prompts alone, for methods that write the replies, as a `datasets.Dataset` of messages."""
    return _conversational(draw_rows(settings, seed, *COLUMNS["prompts"]))


READERS = {"texts": sft, "pairs": preferences, "steps": labelled_steps, "prompts": prompts}


def draw_rows(settings: TrainingSettings, seed: int, *columns: str) -> pd.DataFrame:
    """The rows that a run trains on, those of others among them, which all have these columns."""
    name, examples = settings.data, settings.examples
    table = _with_columns(name, corpus(name, settings.filters, examples, seed), columns)
    drawn = table if examples is None else _drawn(name, table, examples, seed)
    if not settings.others:
        return drawn
    # by seed, in place of rows that are drawn by seed: a larger share replaces the same and more
    other, n = settings.others.data, round(settings.others.share * len(drawn))
    theirs = _drawn(other, _with_columns(other, corpus(other), columns), n, seed)
    places = np.random.default_rng([seed, 1]).permutation(len(drawn))
    mixed = pd.concat([drawn.iloc[sorted(places[n:])], theirs], ignore_index=True)
    # an order of its own, since a run may not read all rows
    return mixed.iloc[np.random.default_rng([seed, 2]).permutation(len(mixed))]


def as_texts(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs as texts, which hold what was chosen; other tables as they are."""
    pairs = "completion" not in table and "chosen" in table
    return table.rename(columns={"chosen": "completion"}) if pairs else table


def _with_columns(name: str, table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """A data set, of which every row has these columns; ValueError names the first that has not."""
    table = as_texts(table) if "completion" in columns else table
    for column in columns:
        if column not in table or table[column].isna().any():
            # argmax is the first row without a value
            row = table[column].isna().argmax() + 1 if column in table else 1
            what = "list" if column in rows.LISTS else "text"
            raise ValueError(f"data set '{name}': row {row}: no {what} '{column}'; {rows.FIX}")
    return table


def _drawn(name: str, table: pd.DataFrame, examples: int, seed: int) -> pd.DataFrame:
    """That many rows of a data set, by seed."""
    # Fewer than asked for would be another study than the one that its file describes.
    if examples > len(table):
        said = f"{examples} examples asked for, the data set has {len(table)}"
        raise ValueError(f"data set '{name}': {said}; lower `examples` in the study")
    # sampled without replacement; by seed alone, so that all methods of a seed draw the same rows
    return table.iloc[np.random.default_rng(seed).permutation(len(table))[:examples]]


def _conversational(table: pd.DataFrame, *replies: str):
    """Message lists: the prompt after its history, and each reply as a list of one message."""
    from datasets import Dataset

    history = table["history"] if "history" in table else [[]] * len(table)
    asked = zip(history, table["prompt"], strict=True)
    prompts = [[*before, {"role": "user", "content": prompt}] for before, prompt in asked]
    texts = {c: [[{"role": "assistant", "content": text}] for text in table[c]] for c in replies}
    return Dataset.from_dict({"prompt": prompts, **texts})
