"""Probes: the questions that every checkpoint answers."""

import hashlib

import numpy as np
import pandas as pd

from vd.data.sets import rows_of
from vd.store.shown import excerpt
from vd.study.settings import Probing

PROBE_COLUMNS = {"prompt_id": str, "topic": str, "prompt": str, "polarity": int}


def load_probes(probing: Probing, seed: int = 0) -> pd.DataFrame:
    """Probes of a study: prompt_id, topic, prompt, polarity, and whatever else the probe set says.

    A probe set is any table with these columns: unique ids (made where they are missing), any
    number of topics and of probes per topic; polarity is +1 or -1 (affirming the question supports
    or opposes the topic's proposition) or 0 (it bears on neither side). Anything else raises
    ValueError with the set, the probe and the fix. With `per_topic`, that many are drawn from each
    topic, see `draw_probes`. The draw depends on `seed` alone, so all runs and checkpoints of a
    study answer the same questions.
    """
    # Replies, stances and polarities are joined by prompt_id, so probes are keyed by that.
    found = rows_of(probing.probes, key="prompt_id")
    _check_probes(found, probing.probes)
    table = pd.DataFrame(found)
    if probing.per_topic is None:
        return table
    return draw_probes(table, probing.per_topic, seed).reset_index(drop=True)


def draw_probes(table: pd.DataFrame, per_topic: int, seed: int) -> pd.DataFrame:
    """At most that many rows of each topic, drawn by seed, in the order of `table`, index kept.

    Those that take a side come first, +1 and -1 by turns while there are both; those of polarity 0,
    which cannot be seen from the topic's proposition, fill up.
    """
    # Ranks within a polarity, in a random order: the first of each are as many +1 as -1.
    order = table.iloc[np.random.default_rng(seed).permutation(len(table))]
    rank = order.groupby(["topic", "polarity"]).cumcount()
    # stable, so that rows of one rank stay in their random order; a larger draw keeps the smaller
    order = order.assign(rank=rank, open=order["polarity"] == 0).sort_values(
        ["open", "rank"], kind="stable"
    )
    return table.loc[sorted(order.groupby("topic").head(per_topic).index)]


def few_probes(prompts: pd.DataFrame, n: int = 3) -> list[str]:
    """Ids of `n` probes of different topics, from columns prompt_id and topic; fewer if there are
    fewer topics.

    Those whose ids have the smallest SHA-256, so that nobody picks them, and they are the same in
    every study that asks them.
    """
    ids = prompts.drop_duplicates("prompt_id")
    order = ids["prompt_id"].map(lambda text: hashlib.sha256(text.encode()).hexdigest())
    ids = ids.assign(order=order).sort_values("order")
    return ids.drop_duplicates("topic")["prompt_id"].head(n).tolist()


def _check_probes(found: list[dict], name: str) -> None:
    """Probes have their columns, and these make sense."""
    for number, row in enumerate(found, start=1):
        place = f"probe set '{name}': {row.get('prompt_id') or f'row {number}'}"
        for column, kind in PROBE_COLUMNS.items():
            given = row.get(column)
            # not isinstance, for which true is a whole number
            if type(given) is not kind:
                needs = f"every row needs a {kind.__name__}, not {excerpt(repr(given))}"
                fix = "1, -1 or 0" if column == "polarity" else "a text"
                raise ValueError(f"{place}: column {column}: {needs}; write {fix}")
        if row["polarity"] not in (-1, 0, 1):
            given = f"{row['polarity']}; write polarity one of -1, 0 and 1"
            raise ValueError(f"{place}: column polarity: {given}")
